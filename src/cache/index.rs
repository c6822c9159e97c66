//! The records that there are, and the values of those that fit.

use std::hash::BuildHasherDefault;

use crate::paho::{Key, KeyMap, RecordKind};

/// Every record that Paho has not removed.
pub(crate) struct RecordIndex {
    records: KeyMap<IndexEntry>,
    /// The bytes of the values that are kept here, and how many those may be.
    kept: usize,
    limit: usize,
    /// Paho has tried to connect, and what it does to the session since then is what the program
    /// wants.
    session_is_over: bool,
}

/// What is known of one.
struct IndexEntry {
    value: CachedValue,
    length: usize,
    /// It was found at open, and Paho has not read it yet.
    unread: bool,
    /// It belongs to the session that was found at open.
    session: bool,
}

enum CachedValue {
    Here(Box<[u8]>),
    /// It is in the store only, with this hash.
    There(u64),
}

/// How many commands, and how many bytes of them, are read along with the one that Paho asks for.
const AHEAD: u32 = 512;
const AHEAD_BYTES: usize = 512 * 1024;

impl RecordIndex {
    /// With room for so many records, and so many bytes of values that are kept.
    pub(crate) fn with_capacity(records: usize, limit: usize) -> Self {
        Self {
            records: KeyMap::with_capacity_and_hasher(records, BuildHasherDefault::default()),
            kept: 0,
            limit,
            session_is_over: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.records.contains_key(&key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.records.keys().copied()
    }

    /// One that was found at open, with its value where there is room for it.
    pub(crate) fn found(&mut self, key: Key, value: Vec<u8>) {
        let length = value.len();
        let fits = self.kept.saturating_add(length) <= self.limit;
        let value = if fits {
            CachedValue::Here(value.into_boxed_slice())
        } else {
            CachedValue::There(hash(&value))
        };
        self.insert(
            key,
            IndexEntry {
                value,
                length,
                unread: true,
                session: !key.is_queue_record(),
            },
        );
    }

    /// Gives a record, of which nothing else changes, another key.
    pub(crate) fn rename(&mut self, old: Key, new: Key) {
        if let Some(record) = self.records.remove(&old) {
            self.records.insert(new, record);
        }
    }

    pub(crate) fn put(&mut self, key: Key, value: Vec<u8>) {
        let session = self.is_of_session(key);
        self.insert(
            key,
            IndexEntry {
                length: value.len(),
                value: CachedValue::Here(value.into_boxed_slice()),
                unread: false,
                session,
            },
        );
    }

    fn insert(&mut self, key: Key, record: IndexEntry) {
        self.kept = self.kept.saturating_add(record.value.kept());
        let before = self.records.insert(key, record);
        self.uncount(before.map(|before| before.value));
    }

    pub(crate) fn remove(&mut self, key: Key) {
        let removed = self.records.remove(&key);
        self.uncount(removed.map(|removed| removed.value));
    }

    /// The value, where it is kept here.
    pub(crate) fn value(&self, key: Key) -> Option<&[u8]> {
        match &self.records.get(&key)?.value {
            CachedValue::Here(value) => Some(value),
            CachedValue::There(_) => None,
        }
    }

    fn length(&self, key: Key) -> Option<usize> {
        Some(self.records.get(&key)?.length)
    }

    /// Whether a value that is in the store only is this one.
    pub(crate) fn is_value(&self, key: Key, value: &[u8]) -> bool {
        self.records.get(&key).is_some_and(
            |record| matches!(record.value, CachedValue::There(known) if known == hash(value)),
        )
    }

    /// A value that is in the store only is this one from now on.
    pub(crate) fn altered(&mut self, key: Key, value: &[u8]) {
        if let Some(record) = self.records.get_mut(&key)
            && let CachedValue::There(known) = &mut record.value
        {
            *known = hash(value);
        }
    }

    /// Keeps a value that was read from the store, where there is none here that is newer.
    pub(crate) fn keep(&mut self, key: Key, value: Vec<u8>) {
        if let Some(record) = self.records.get_mut(&key)
            && let CachedValue::There(_) = record.value
        {
            record.length = value.len();
            self.kept = self.kept.saturating_add(record.length);
            record.value = CachedValue::Here(value.into_boxed_slice());
        }
    }

    /// There is no room for what the store has too.
    pub(crate) fn is_full(&self) -> bool {
        self.kept > self.limit
    }

    /// Gives away the value, which the store has, and keeps it no longer.
    pub(crate) fn take_value(&mut self, key: Key) -> Option<Vec<u8>> {
        let record = self.records.get_mut(&key)?;
        let CachedValue::Here(value) = &record.value else {
            return None;
        };
        let there = CachedValue::There(hash(value));
        match std::mem::replace(&mut record.value, there) {
            CachedValue::Here(value) => {
                self.kept = self.kept.saturating_sub(value.len());
                Some(value.into_vec())
            }
            CachedValue::There(_) => None,
        }
    }

    /// What to read when this value is asked for: with a command those that Paho reads next.
    pub(crate) fn ahead(&self, key: Key) -> Vec<Key> {
        let mut bytes = self.length(key).unwrap_or_default();
        let others = self.after(key).map_while(|(key, length)| {
            bytes = bytes.saturating_add(length);
            (bytes <= AHEAD_BYTES).then_some(key)
        });
        [key].into_iter().chain(others).collect()
    }

    /// What Paho reads next of what is not kept here, unless that is large.
    pub(crate) fn next_to_read(&self, key: Key) -> Option<Key> {
        let (next, length) = self.after(key).next()?;
        (length <= AHEAD_BYTES).then_some(next)
    }

    /// The commands behind this one whose values are in the store only, and their lengths.
    fn after(&self, key: Key) -> impl Iterator<Item = (Key, usize)> {
        let is_command = key.kind == RecordKind::Command;
        let distances = (1..AHEAD).filter(move |_| is_command);
        distances.filter_map(move |distance| {
            let number = key.number.saturating_add(distance);
            let next = Key { number, ..key };
            let record = self.records.get(&next)?;
            matches!(record.value, CachedValue::There(_)).then_some((next, record.length))
        })
    }

    pub(crate) fn is_unread(&self, key: Key) -> bool {
        self.records.get(&key).is_some_and(|record| record.unread)
    }

    /// Whether Paho has read it.
    pub(crate) fn set_unread(&mut self, key: Key, unread: bool) {
        if let Some(record) = self.records.get_mut(&key) {
            record.unread = unread;
        }
    }

    pub(crate) fn is_of_session(&self, key: Key) -> bool {
        !self.session_is_over && self.records.get(&key).is_some_and(|record| record.session)
    }

    pub(crate) fn has_session(&self) -> bool {
        !self.session_is_over && self.records.values().any(|record| record.session)
    }

    pub(crate) fn end_session(&mut self) {
        self.session_is_over = true;
    }

    fn uncount(&mut self, value: Option<CachedValue>) {
        let length = value.map_or(0, |value| value.kept());
        self.kept = self.kept.saturating_sub(length);
    }
}

impl CachedValue {
    fn kept(&self) -> usize {
        match self {
            Self::Here(value) => value.len(),
            Self::There(_) => 0,
        }
    }
}

/// The same for the same value, and most likely another one for another: it stands against what Redis
/// may have kept of the past, and not against somebody who looks for such a value.
fn hash(value: &[u8]) -> u64 {
    // 2^64 divided by the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = |hash: u64, word: u64| (hash ^ word).wrapping_mul(SPREAD).rotate_left(29);
    let (words, rest) = value.as_chunks::<8>();
    let rest = rest
        .iter()
        .fold(1, |rest, byte| rest << 8 | u64::from(*byte));
    // In four lanes, none of which waits for another.
    let (fours, others) = words.as_chunks::<4>();
    let mut lanes = [SPREAD, !SPREAD, SPREAD << 1, !SPREAD << 1];
    for four in fours {
        for (lane, word) in lanes.iter_mut().zip(four) {
            *lane = mixed(*lane, u64::from_le_bytes(*word));
        }
    }
    let others = others.iter().map(|word| u64::from_le_bytes(*word));
    lanes
        .into_iter()
        .chain(others)
        .chain([rest])
        .fold(SPREAD, mixed)
}
