//! The records that there are, and the values of those that fit.

use std::collections::HashMap;

use crate::record::{Key, Kind};

/// Every record that Paho has not removed.
pub(super) struct Index {
    records: HashMap<Key, Record>,
    /// The bytes of the values that are kept here, and how many those may be.
    kept: usize,
    limit: usize,
    /// Paho has tried to connect, and what it does to the session since then is what the program
    /// wants.
    session_is_over: bool,
}

/// What is known of one.
struct Record {
    value: Option<Box<[u8]>>,
    length: usize,
    /// It was found at open, and Paho has not read it yet.
    unread: bool,
    /// It belongs to the session that was found at open.
    session: bool,
}

/// How many commands, and how many bytes of them, are read along with the one that Paho asks for.
const AHEAD: u32 = 256;
const AHEAD_BYTES: usize = 256 * 1024;

impl Index {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            records: HashMap::new(),
            kept: 0,
            limit,
            session_is_over: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.records.contains_key(&key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.records.keys().copied()
    }

    /// One that was found at open, with its value if there was room for it.
    pub(super) fn found(&mut self, key: Key, length: usize, value: Option<Vec<u8>>) {
        self.insert(
            key,
            Record {
                value: value.map(Vec::into_boxed_slice),
                length,
                unread: true,
                session: !key.is_queued(),
            },
        );
    }

    pub(super) fn put(&mut self, key: Key, value: Vec<u8>) {
        let session = self.is_of_session(key);
        self.insert(
            key,
            Record {
                length: value.len(),
                value: Some(value.into_boxed_slice()),
                unread: false,
                session,
            },
        );
    }

    fn insert(&mut self, key: Key, record: Record) {
        let kept = record.value.as_ref().map_or(0, |value| value.len());
        let before = self.records.insert(key, record);
        self.uncount(before.and_then(|before| before.value));
        self.kept = self.kept.saturating_add(kept);
    }

    pub(super) fn remove(&mut self, key: Key) {
        let removed = self.records.remove(&key);
        self.uncount(removed.and_then(|removed| removed.value));
    }

    /// The value, where it is kept here.
    pub(super) fn value(&self, key: Key) -> Option<&[u8]> {
        self.records.get(&key)?.value.as_deref()
    }

    pub(super) fn length(&self, key: Key) -> Option<usize> {
        Some(self.records.get(&key)?.length)
    }

    /// Keeps a value that was read from the store.
    pub(super) fn keep(&mut self, key: Key, value: Vec<u8>) {
        if let Some(record) = self.records.get_mut(&key) {
            let length = value.len();
            let before = record.value.replace(value.into_boxed_slice());
            record.length = length;
            self.uncount(before);
            self.kept = self.kept.saturating_add(length);
        }
    }

    /// There is no room for what the store has too.
    pub(super) fn is_full(&self) -> bool {
        self.kept > self.limit
    }

    /// Keeps the value no longer, since the store has it.
    pub(super) fn forget_value(&mut self, key: Key) {
        let value = self
            .records
            .get_mut(&key)
            .and_then(|record| record.value.take());
        self.uncount(value);
    }

    /// What to read when this value is asked for: with a command those that Paho reads next.
    pub(super) fn ahead(&self, key: Key) -> Vec<Key> {
        let mut keys = vec![key];
        if key.kind != Kind::Command {
            return keys;
        }
        let mut bytes = self.length(key).unwrap_or_default();
        for distance in 1..AHEAD {
            let number = key.number.saturating_add(distance);
            let next = Key { number, ..key };
            let Some(Record {
                value: None,
                length,
                ..
            }) = self.records.get(&next)
            else {
                continue;
            };
            bytes = bytes.saturating_add(*length);
            if bytes > AHEAD_BYTES {
                break;
            }
            keys.push(next);
        }
        keys
    }

    pub(super) fn is_unread(&self, key: Key) -> bool {
        self.records.get(&key).is_some_and(|record| record.unread)
    }

    /// Whether Paho has read it.
    pub(super) fn set_unread(&mut self, key: Key, unread: bool) {
        if let Some(record) = self.records.get_mut(&key) {
            record.unread = unread;
        }
    }

    pub(super) fn is_of_session(&self, key: Key) -> bool {
        !self.session_is_over && self.records.get(&key).is_some_and(|record| record.session)
    }

    pub(super) fn has_session(&self) -> bool {
        !self.session_is_over && self.records.values().any(|record| record.session)
    }

    pub(super) fn end_session(&mut self) {
        self.session_is_over = true;
    }

    fn uncount(&mut self, value: Option<Box<[u8]>>) {
        let length = value.map_or(0, |value| value.len());
        self.kept = self.kept.saturating_sub(length);
    }
}
