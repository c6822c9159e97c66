//! The index of live records, with the values that fit into memory.

use std::{
    collections::hash_map::Entry,
    hash::{BuildHasherDefault, Hash, Hasher},
    time::Duration,
};

use super::waiting::WaitingMessages;
use crate::paho::{Content, Key, KeyHasher, KeyMap, RecordKind, command_packet_id};

/// Every record that Paho has not removed.
///
/// Keys are always in memory, so that `keys` and `contains` need no store. Values may be evicted
/// once the store has them; a hash stays, so that a later read can be verified.
pub(crate) struct RecordIndex {
    records: KeyMap<IndexEntry>,
    /// Sum of the cached values' lengths, in bytes.
    cached_bytes: usize,
    /// Bytes above which confirmed values are evicted.
    cache_limit: usize,
    pub(super) waiting: WaitingMessages,
    /// Number of records of an earlier run that were found after open; they do not count as waiting, since
    /// Paho does not know them.
    earlier: usize,
}

/// The state of one record.
struct IndexEntry {
    value: CachedValue,
    /// Length of the value in bytes, cached or not.
    length: usize,
    familiarity: Familiarity,
    content: Content,
    /// The second since boot in which it arrived.
    since: u32,
    /// The packet id with which Paho will send a command that was found at open; otherwise 0.
    packet_id: u16,
}

/// The extent to which Paho knows a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Familiarity {
    /// Paho has put or read it.
    Known,
    /// Found at open, and not read by Paho yet.
    Unread,
    /// Of an earlier run, and found after open: it waits for the next start.
    Earlier,
}

/// The value of a record, or what is needed to recognize it.
enum CachedValue {
    Cached(Box<[u8]>),
    /// Only the store has the value; this is its [`content_hash`].
    StoreOnly(u64),
}

/// The order in which Paho reads records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOrder {
    /// As it sends commands.
    Ascending,
    /// As it restores what `keys` has listed.
    Descending,
}

/// Limits of one prefetch: sequence numbers looked at, the requested one included, and bytes of values.
///
/// The Redis connection has limits of its own on one exchange.
const PREFETCH_RECORDS: u32 = 512;
const PREFETCH_BYTES: usize = 512 * 1024;

impl RecordIndex {
    /// Creates an empty index with room for `records` and a limit in bytes for cached values.
    pub(crate) fn with_capacity(records: usize, cache_limit: usize) -> Self {
        Self {
            records: KeyMap::with_capacity_and_hasher(records, BuildHasherDefault::default()),
            cached_bytes: 0,
            cache_limit,
            waiting: WaitingMessages::default(),
            earlier: 0,
        }
    }

    /// Moves the clock by which the ages of messages are known.
    pub(crate) fn set_now(&mut self, since_boot: Duration) {
        let second = u32::try_from(since_boot.as_secs()).unwrap_or(u32::MAX);
        self.waiting.set_now(second);
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_bytes
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

    /// Inserts a record that was found at open, and caches its value if the limit allows it.
    pub(crate) fn insert_loaded(&mut self, key: Key, value: Vec<u8>) {
        self.insert_found(key, value, Familiarity::Unread);
    }

    /// Inserts a record of an earlier run that was found after open. Only the store has the value if
    /// `is_moving`, since it is about to move to this key.
    pub(crate) fn insert_earlier(&mut self, key: Key, value: Vec<u8>, is_moving: bool) {
        self.insert_found(key, value, Familiarity::Earlier);
        if is_moving {
            self.evict_value(key);
        }
    }

    fn insert_found(&mut self, key: Key, value: Vec<u8>, familiarity: Familiarity) {
        let length = value.len();
        let fits = self.cached_bytes.saturating_add(length) <= self.cache_limit;
        let is_command = key.kind == RecordKind::Command;
        let packet_id = is_command.then(|| command_packet_id(&value, key.v5));
        let packet_id = packet_id.flatten().unwrap_or_default();
        let content = Content::of(key, &value);
        let value = if fits {
            CachedValue::Cached(value.into_boxed_slice())
        } else {
            CachedValue::StoreOnly(content_hash(key, &value))
        };
        self.insert(
            key,
            IndexEntry {
                value,
                length,
                familiarity,
                content,
                since: 0,
                packet_id,
            },
            None,
        );
    }

    /// Moves an entry to another key and keeps everything else of it.
    pub(crate) fn rekey(&mut self, old: Key, new: Key) {
        if let Some(record) = self.records.remove(&old) {
            self.records.insert(new, record);
        }
    }

    /// Inserts or replaces a record, and caches its value even above the limit.
    ///
    /// Until the store confirms the write, this is the only copy.
    pub(crate) fn put(&mut self, key: Key, value: Vec<u8>) {
        self.put_since(key, value, None);
    }

    /// Puts a record whose message has been waiting under another key since this second.
    pub(super) fn put_since(&mut self, key: Key, value: Vec<u8>, since: Option<u32>) {
        self.insert(
            key,
            IndexEntry {
                length: value.len(),
                content: Content::of(key, &value),
                since: 0,
                value: CachedValue::Cached(value.into_boxed_slice()),
                familiarity: Familiarity::Known,
                packet_id: 0,
            },
            since,
        );
    }

    /// Replaces the value of a record that was found at open, in memory.
    pub(crate) fn replace_loaded(&mut self, key: Key, value: Vec<u8>) {
        let is_unread = self.is_unread(key);
        self.put(key, value);
        self.set_unread(key, is_unread);
    }

    /// Returns the commands that must not keep their packet id, each with a free one.
    ///
    /// An id belongs to the message in flight that has it, or to the first command with it.
    pub(crate) fn shared_packet_ids(&self) -> Vec<(Key, u16)> {
        // One flag per id: most of them may be used, and a set of them is slower.
        let mut used = vec![false; usize::from(u16::MAX) + 1];
        let mut is_used_again = |id: u32| {
            let flag = usize::try_from(id).ok().and_then(|id| used.get_mut(id));
            flag.is_some_and(|flag| std::mem::replace(flag, true))
        };
        for key in self.records.keys().filter(|key| key.is_outbound()) {
            is_used_again(key.number);
        }
        let commands = self
            .records
            .iter()
            .filter(|(_, entry)| entry.packet_id != 0);
        let mut commands: Vec<(Key, u16)> = commands
            .map(|(key, entry)| (*key, entry.packet_id))
            .collect();
        commands.sort_unstable_by_key(|(key, _)| *key);
        commands.retain(|(_, id)| is_used_again(u32::from(*id)));
        // Paho assigns ids upwards, so the highest stay free longest.
        let free = (1..=u16::MAX).rev();
        let free = free.filter(|id| used.get(usize::from(*id)) == Some(&false));
        let renumbered = commands.into_iter().zip(free);
        renumbered.map(|((key, _), id)| (key, id)).collect()
    }

    /// Inserts a record that arrived in this second, or else when the record that it replaces arrived.
    fn insert(&mut self, key: Key, mut record: IndexEntry, since: Option<u32>) {
        self.cached_bytes = self.cached_bytes.saturating_add(record.value.cached_len());
        let (waiting, earlier) = (&mut self.waiting, &mut self.earlier);
        match self.records.entry(key) {
            Entry::Vacant(entry) => {
                record.count(key, since, waiting, earlier);
                entry.insert(record);
            }
            Entry::Occupied(mut entry) => {
                let replaced = entry.get();
                let since = since.or(Some(replaced.since));
                replaced.uncount(key, waiting, earlier);
                record.count(key, since, waiting, earlier);
                let replaced = entry.insert(record);
                self.release(&replaced.value);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: Key) {
        if let Some(removed) = self.records.remove(&key) {
            removed.uncount(key, &mut self.waiting, &mut self.earlier);
            self.release(&removed.value);
        }
    }

    /// Returns the second since boot in which the record arrived.
    pub(super) fn since(&self, key: Key) -> Option<u32> {
        Some(self.records.get(&key)?.since)
    }

    /// Returns the value if it is cached.
    pub(crate) fn value(&self, key: Key) -> Option<&[u8]> {
        match &self.records.get(&key)?.value {
            CachedValue::Cached(value) => Some(value),
            CachedValue::StoreOnly(_) => None,
        }
    }

    pub(crate) fn length(&self, key: Key) -> Option<usize> {
        Some(self.records.get(&key)?.length)
    }

    /// Returns the hash of a record's value.
    pub(crate) fn content_hash(&self, key: Key) -> Option<u64> {
        match &self.records.get(&key)?.value {
            CachedValue::Cached(value) => Some(content_hash(key, value)),
            CachedValue::StoreOnly(hash) => Some(*hash),
        }
    }

    /// Returns true if the record has this value, but for the DUP flag of a PUBLISH.
    ///
    /// Of a value that only the store has, the hash is compared.
    pub(crate) fn has_content(&self, key: Key, value: &[u8]) -> bool {
        self.content_hash(key) == Some(content_hash(key, value))
    }

    /// Replaces the hash of a value that only the store has, after it was changed there.
    pub(crate) fn update_hash(&mut self, key: Key, value: &[u8]) {
        if let Some(record) = self.records.get_mut(&key)
            && let CachedValue::StoreOnly(hash) = &mut record.value
        {
            *hash = content_hash(key, value);
        }
    }

    /// Caches a value that was read from the store, unless a value is cached already.
    ///
    /// A cached value may be newer than what was read.
    pub(crate) fn cache_value(&mut self, key: Key, value: Vec<u8>) {
        if let Some(record) = self.records.get_mut(&key)
            && let CachedValue::StoreOnly(_) = record.value
        {
            record.length = value.len();
            self.cached_bytes = self.cached_bytes.saturating_add(record.length);
            record.value = CachedValue::Cached(value.into_boxed_slice());
        }
    }

    /// Returns true if the cached values exceed the limit, so confirmed ones should be evicted.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.cached_bytes > self.cache_limit
    }

    /// Evicts the cached value of a record and returns it; the store must have confirmed it.
    pub(crate) fn evict_value(&mut self, key: Key) -> Option<Vec<u8>> {
        let record = self.records.get_mut(&key)?;
        let CachedValue::Cached(value) = &record.value else {
            return None;
        };
        let store_only = CachedValue::StoreOnly(content_hash(key, value));
        match std::mem::replace(&mut record.value, store_only) {
            CachedValue::Cached(value) => {
                self.cached_bytes = self.cached_bytes.saturating_sub(value.len());
                Some(value.into_vec())
            }
            CachedValue::StoreOnly(_) => None,
        }
    }

    /// Keys to read together with `key`: it, and the uncached records behind it.
    pub(crate) fn prefetch_keys(&self, key: Key, order: ReadOrder) -> Vec<Key> {
        let mut bytes = self.length(key).unwrap_or_default();
        let others = self.uncached_behind(key, order).map_while(|(key, length)| {
            bytes = bytes.saturating_add(length);
            (bytes <= PREFETCH_BYTES).then_some(key)
        });
        [key].into_iter().chain(others).collect()
    }

    /// Returns the uncached record behind `key` with which the next prefetch starts.
    ///
    /// A value of more than [`PREFETCH_BYTES`] is read only when Paho asks for it.
    pub(crate) fn next_prefetch(&self, key: Key, order: ReadOrder) -> Option<Key> {
        let (next, length) = self.uncached_behind(key, order).next()?;
        (length <= PREFETCH_BYTES).then_some(next)
    }

    /// Records behind `key` whose values only the store has, with the lengths of the values.
    ///
    /// Looks at fewer than [`PREFETCH_RECORDS`] numbers, so that a large gap costs no long search.
    fn uncached_behind(&self, key: Key, order: ReadOrder) -> impl Iterator<Item = (Key, usize)> {
        (1..PREFETCH_RECORDS).filter_map(move |distance| {
            let number = match order {
                ReadOrder::Ascending => key.number.saturating_add(distance),
                ReadOrder::Descending => key.number.checked_sub(distance)?,
            };
            let next = Key { number, ..key };
            let record = self.records.get(&next)?;
            matches!(record.value, CachedValue::StoreOnly(_)).then_some((next, record.length))
        })
    }

    pub(crate) fn is_unread(&self, key: Key) -> bool {
        self.records
            .get(&key)
            .is_some_and(|record| record.familiarity != Familiarity::Known)
    }

    /// Returns true for a record of an earlier run that was found after open.
    pub(crate) fn is_earlier(&self, key: Key) -> bool {
        // Asked by each call, and mostly there is none.
        self.earlier > 0
            && self
                .records
                .get(&key)
                .is_some_and(|record| record.familiarity == Familiarity::Earlier)
    }

    /// Number of records of an earlier run that were found after open.
    pub(crate) fn earlier(&self) -> usize {
        self.earlier
    }

    /// Notes that Paho does not know a record that was put for it, since it is of an earlier run.
    pub(crate) fn set_earlier(&mut self, key: Key) {
        if let Some(record) = self.records.get_mut(&key) {
            record.uncount(key, &mut self.waiting, &mut self.earlier);
            record.familiarity = Familiarity::Earlier;
            record.count(key, None, &mut self.waiting, &mut self.earlier);
        }
    }

    pub(crate) fn set_unread(&mut self, key: Key, is_unread: bool) {
        if let Some(record) = self.records.get_mut(&key)
            && record.familiarity != Familiarity::Earlier
        {
            record.familiarity = if is_unread {
                Familiarity::Unread
            } else {
                Familiarity::Known
            };
        }
    }

    /// Returns true for a waiting message at QoS 1 or 2 that was found at open.
    pub(crate) fn is_restored_message(&self, key: Key) -> bool {
        let record = self.records.get(&key);
        record.is_some_and(|record| record.packet_id != 0)
    }

    /// Returns what a record contains; nothing that is a message if there is no such record.
    pub(crate) fn content(&self, key: Key) -> Content {
        let record = self.records.get(&key);
        record.map_or(Content::Other, |record| record.content)
    }

    /// Subtracts a value that is cached no longer.
    fn release(&mut self, value: &CachedValue) {
        self.cached_bytes = self.cached_bytes.saturating_sub(value.cached_len());
    }
}

impl IndexEntry {
    /// Counts the record as waiting, or as one of an earlier run, of which Paho knows nothing.
    fn count(
        &mut self,
        key: Key,
        since: Option<u32>,
        waiting: &mut WaitingMessages,
        earlier: &mut usize,
    ) {
        if self.familiarity == Familiarity::Earlier {
            *earlier = earlier.saturating_add(1);
        } else {
            self.since = waiting.add((key, self.content), self.length, since);
        }
    }

    fn uncount(&self, key: Key, waiting: &mut WaitingMessages, earlier: &mut usize) {
        if self.familiarity == Familiarity::Earlier {
            *earlier = earlier.saturating_sub(1);
        } else {
            waiting.remove((key, self.content), self.length, self.since);
        }
    }
}

impl CachedValue {
    fn cached_len(&self) -> usize {
        match self {
            Self::Cached(value) => value.len(),
            Self::StoreOnly(_) => 0,
        }
    }
}

/// Returns a number for a record that two different records hardly share.
pub(crate) fn record_hash(key: Key, content_hash: u64) -> u64 {
    let mut hasher = KeyHasher::default();
    key.hash(&mut hasher);
    hasher.finish() ^ content_hash
}

/// Returns [`record_hash`] of a record with this value.
pub(crate) fn hash_of(key: Key, value: &[u8]) -> u64 {
    record_hash(key, content_hash(key, value))
}

/// Hashes a value, to recognize it when it is read from the store again.
///
/// It detects older contents of the store. It is not cryptographic: somebody who can write to the
/// store could construct a collision, but could as well damage the records directly.
fn content_hash(key: Key, value: &[u8]) -> u64 {
    /// Paho sets it, in the first byte of a PUBLISH, when it sends one again.
    const DUP: u8 = 0b1000;
    // 2^64 divided by the golden ratio.
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(MULTIPLIER).rotate_left(29);
    let (first, value) = match value.split_first() {
        Some((first, rest)) if key.kind == RecordKind::SentPublish => {
            (MULTIPLIER ^ u64::from(first & !DUP), rest)
        }
        _ => (MULTIPLIER, value),
    };
    let (words, rest) = value.as_chunks::<8>();
    // The fold starts with 1, so that leading zeros of the rest change the hash.
    let rest = rest
        .iter()
        .fold(1, |rest, byte| rest << 8 | u64::from(*byte));
    // Four independent lanes, so that the CPU can multiply in parallel.
    let (fours, others) = words.as_chunks::<4>();
    let mut lanes = [MULTIPLIER, !MULTIPLIER, MULTIPLIER << 1, !MULTIPLIER << 1];
    for four in fours {
        for (lane, word) in lanes.iter_mut().zip(four) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let others = others.iter().map(|word| u64::from_le_bytes(*word));
    lanes
        .into_iter()
        .chain(others)
        .chain([rest])
        .fold(first, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    #[test]
    fn hash_of_record_is_stable() {
        // The names of quarantined records contain it.
        let value: Vec<u8> = (1..=77).collect();
        let hashes = [0, 1, 8, 9, 32, 40, 77].map(|length| hash_of(key("c-1"), &value[..length]));
        assert_eq!(
            hashes,
            [
                3_554_196_270_131_021_975,
                6_351_071_413_991_658_407,
                1_972_924_490_012_157_930,
                8_172_966_573_693_180_432,
                18_224_652_040_764_135_578,
                6_570_811_532_600_600_451,
                15_960_884_337_802_548_443,
            ]
        );
        assert_eq!(hash_of(key("s-1"), &value), 12_931_433_886_070_768_197);
    }

    #[test]
    fn dup_flag_alone_leaves_hash_of_publish() {
        let hash = |name, first| hash_of(key(name), &[first, 1, 2, 3]);
        assert_eq!(hash("s-1", 0x3a), hash("s-1", 0x32));
        assert_ne!(hash("s-1", 0x3a), hash("s-1", 0x34));
        assert_ne!(hash("c-1", 0x3a), hash("c-1", 0x32));
        assert_ne!(hash("s-1", 0x32), hash("s-2", 0x32));
        // Leading zeros of the last bytes count.
        assert_ne!(hash_of(key("c-1"), &[0]), hash_of(key("c-1"), &[0, 0]));
    }

    #[test]
    fn cached_bytes_follow_every_change() {
        let mut index = RecordIndex::with_capacity(0, 10);
        index.insert_loaded(key("s-1"), vec![0; 10]);
        assert_eq!((index.cached_bytes(), index.is_over_limit()), (10, false));
        // Beyond the limit only a hash is kept.
        index.insert_loaded(key("s-2"), vec![2]);
        assert_eq!((index.cached_bytes(), index.len()), (10, 2));
        assert_eq!(index.value(key("s-2")), None);
        assert_eq!(index.length(key("s-2")), Some(1));
        assert!(index.has_content(key("s-2"), &[2]) && !index.has_content(key("s-2"), &[3]));
        index.put(key("s-1"), vec![1; 4]);
        assert_eq!(index.cached_bytes(), 4);
        index.cache_value(key("s-2"), vec![2; 7]);
        assert_eq!((index.cached_bytes(), index.is_over_limit()), (11, true));
        // A cached value may be newer than what was read.
        index.cache_value(key("s-2"), vec![3]);
        assert_eq!(index.value(key("s-2")), Some(&[2; 7][..]));
        assert_eq!(index.length(key("s-2")), Some(7));
        assert_eq!(index.evict_value(key("s-2")), Some(vec![2; 7]));
        assert_eq!(index.evict_value(key("s-2")), None);
        assert_eq!(index.cached_bytes(), 4);
        index.update_hash(key("s-2"), &[4]);
        assert!(index.has_content(key("s-2"), &[4]));
        index.update_hash(key("s-1"), &[4]);
        assert!(index.has_content(key("s-1"), &[1; 4]));
        index.remove(key("s-1"));
        assert_eq!((index.cached_bytes(), index.len()), (0, 1));
    }

    #[test]
    fn loaded_record_stays_unread_when_replaced() {
        let mut index = RecordIndex::with_capacity(0, 100);
        index.insert_loaded(key("c-1"), vec![1]);
        assert!(index.is_unread(key("c-1")) && !index.is_unread(key("c-2")));
        index.replace_loaded(key("c-1"), vec![2]);
        assert!(index.is_unread(key("c-1")));
        index.rekey(key("c-1"), key("c-9"));
        assert!(index.is_unread(key("c-9")) && !index.contains(key("c-1")));
        index.set_unread(key("c-9"), false);
        index.replace_loaded(key("c-9"), vec![3]);
        assert!(!index.is_unread(key("c-9")));
        index.insert_loaded(key("c-2"), vec![1]);
        index.put(key("c-2"), vec![2]);
        assert!(!index.is_unread(key("c-2")));
    }

    /// An index of uncached commands with these numbers and lengths.
    fn uncached(records: &[(u32, usize)]) -> RecordIndex {
        let mut index = RecordIndex::with_capacity(0, 0);
        for (number, length) in records {
            index.insert_loaded(key(&format!("c-{number}")), vec![0; *length]);
        }
        index
    }

    fn numbers(keys: &[Key]) -> Vec<u32> {
        keys.iter().map(|key| key.number).collect()
    }

    #[test]
    fn prefetch_covers_numbers_in_reading_order() {
        let mut index = uncached(&[(0, 1), (1, 1), (2, 1), (4, 1), (515, 1), (516, 1)]);
        index.insert_loaded(key("c5-3"), vec![1]);
        let ascending = |number: u32, index: &RecordIndex| {
            let key = key(&format!("c-{number}"));
            numbers(&index.prefetch_keys(key, ReadOrder::Ascending))
        };
        // Up to 511 numbers behind the first.
        assert_eq!(ascending(4, &index), [4, 515]);
        assert_eq!(ascending(1, &index), [1, 2, 4]);
        let descending = index.prefetch_keys(key("c-4"), ReadOrder::Descending);
        assert_eq!(numbers(&descending), [4, 2, 1, 0]);
        // Cached values need no read.
        index.cache_value(key("c-2"), vec![1]);
        assert_eq!(ascending(1, &index), [1, 4]);
        let next = |number: u32, order| index.next_prefetch(key(&format!("c-{number}")), order);
        assert_eq!(next(1, ReadOrder::Ascending), Some(key("c-4")));
        assert_eq!(next(4, ReadOrder::Descending), Some(key("c-1")));
        assert_eq!(next(0, ReadOrder::Descending), None);
    }

    #[test]
    fn prefetch_is_bounded_in_bytes() {
        let index = uncached(&[
            (1, 1),
            (2, PREFETCH_BYTES - 1),
            (3, 1),
            (4, PREFETCH_BYTES + 1),
        ]);
        let prefetched = index.prefetch_keys(key("c-1"), ReadOrder::Ascending);
        assert_eq!(numbers(&prefetched), [1, 2]);
        let next = |name| index.next_prefetch(key(name), ReadOrder::Ascending);
        assert_eq!(next("c-1"), Some(key("c-2")));
        assert_eq!(next("c-3"), None);
    }
}
