//! [`Backlog`]: the waiting records of a persistence, counted from its calls alone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasherDefault, Hash, Hasher},
    time::Duration,
};

use crate::{
    metrics::{ClientSeriesGuard, Clock, KindLabel, KindSeries},
    paho::{Command, Key, KeyHasher, RecordKind},
};

/// The identity of a record. A key that Paho writes needs no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RecordId {
    Key(Key),
    Other(Box<str>),
}

impl Hash for RecordId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Key(key) => key.hash(state),
            Self::Other(name) => name.hash(state),
        }
    }
}

impl RecordId {
    fn of(key: &str) -> Self {
        Key::parse(key).map_or_else(|| Self::Other(key.into()), Self::Key)
    }

    fn kind(&self) -> KindLabel {
        match self {
            Self::Key(key) => match key.kind {
                RecordKind::Command => KindLabel::Command,
                RecordKind::SentPublish => KindLabel::SentPublish,
                RecordKind::SentPubrel => KindLabel::SentPubrel,
                RecordKind::ReceivedPublish => KindLabel::ReceivedPublish,
                RecordKind::Undelivered => KindLabel::Undelivered,
            },
            Self::Other(_) => KindLabel::Other,
        }
    }
}

/// Returns the kind of record that a key stands for.
pub(super) fn kind_of(key: &str) -> KindLabel {
    RecordId::of(key).kind()
}

/// A waiting record.
struct BacklogEntry {
    size: i64,
    /// The number of its arrival in the [`ArrivalQueue`] of its kind.
    arrival: usize,
}

/// The arrival times of the records of one kind, oldest first.
///
/// Gives the oldest record in constant time per call, without a sorted structure. Records leave in any
/// order: the place of a departed one becomes `None` and is dropped once it reaches the front.
#[derive(Default)]
struct ArrivalQueue {
    /// `None` for a departed record. The front, if any, is the oldest live record.
    arrivals: VecDeque<Option<Duration>>,
    /// The number of the arrival at the front.
    first: usize,
    live: usize,
}

impl ArrivalQueue {
    /// Appends an arrival and returns its number.
    fn arrive(&mut self, now: Duration) -> usize {
        let arrival = self.first.wrapping_add(self.arrivals.len());
        self.arrivals.push_back(Some(now));
        self.live = self.live.saturating_add(1);
        arrival
    }

    /// Removes the arrival with this number.
    fn leave(&mut self, arrival: usize) {
        // Numbers may wrap; the distance to the front does not.
        let index = arrival.wrapping_sub(self.first);
        if let Some(since) = self.arrivals.get_mut(index) {
            *since = None;
        }
        self.live = self.live.saturating_sub(1);
        while let Some(None) = self.arrivals.front() {
            self.arrivals.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Returns the arrival time of the oldest live record.
    fn oldest(&self) -> Option<Duration> {
        self.arrivals.front().copied().flatten()
    }

    /// Returns true if vacant places outnumber `all` the records that a compaction visits.
    ///
    /// One old record at the front would otherwise keep the places of all departed ones behind it. With
    /// this bound a compaction costs constant time per record, amortized.
    fn needs_compaction(&self, all: usize) -> bool {
        const SLACK: usize = 64;
        let vacant = self.arrivals.len().saturating_sub(self.live);
        vacant > all.saturating_add(SLACK)
    }

    /// Drops the places of departed records and renumbers `live`, the arrivals of all live records.
    fn compact<'a>(&mut self, live: impl Iterator<Item = &'a mut usize>) {
        let mut live: Vec<&mut usize> = live.collect();
        live.sort_unstable_by_key(|arrival| arrival.wrapping_sub(self.first));
        self.arrivals.retain(Option::is_some);
        for (index, arrival) in live.into_iter().enumerate() {
            *arrival = self.first.wrapping_add(index);
        }
    }
}

/// The waiting records of one persistence, and the gauges that show them.
///
/// Counts from the calls alone, so that it works with any persistence.
pub(super) struct Backlog {
    series: ClientSeriesGuard,
    clock: Clock,
    records: HashMap<RecordId, BacklogEntry, BuildHasherDefault<KeyHasher>>,
    queues: [ArrivalQueue; KindLabel::ALL.len()],
    /// Records that `get` did not find and that the store has not reported lost yet. `None` if nothing
    /// reports losses.
    lost_by_get: Option<HashSet<RecordId>>,
    /// The key of the last `get`; Paho may remove that record under the key of the other MQTT version.
    last_read: Option<Key>,
    /// Paho reads command 0 before it removes it: a PUBLISH, or one that was found at open.
    is_zero_read: bool,
    /// The share of this persistence in `restored_records`, by kind.
    restored: [i64; KindLabel::ALL.len()],
}

impl Backlog {
    pub(super) fn new(series: ClientSeriesGuard, clock: Clock, is_observed: bool) -> Self {
        Self {
            series,
            clock,
            records: HashMap::default(),
            queues: Default::default(),
            lost_by_get: is_observed.then(HashSet::new),
            last_read: None,
            is_zero_read: true,
            restored: [0; KindLabel::ALL.len()],
        }
    }

    pub(super) fn series(&self) -> &ClientSeriesGuard {
        &self.series
    }

    fn kind(&self, kind: KindLabel) -> &KindSeries {
        self.series.series().kind(kind)
    }

    /// Returns the number of queued arrivals, including those of departed records.
    #[cfg(test)]
    pub(super) fn queued_arrivals(&self) -> usize {
        self.queues.iter().map(|queue| queue.arrivals.len()).sum()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.records.contains_key(&RecordId::of(key))
    }

    /// Updates the backlog after a `put`.
    pub(super) fn put(&mut self, key: &str, size: usize) {
        // Mirrors the persistence of this crate. Another one may keep both.
        if self.lost_by_get.is_some()
            && let Some(key) = Key::parse(key)
        {
            for id in key.replaced_keys().map(RecordId::Key) {
                if self.remove_entry(&id) {
                    self.kind(id.kind()).removed.inc();
                }
            }
        }
        if let Some(kind) = self.upsert(key, size, Clock::since_boot) {
            self.kind(kind).added.inc();
        }
    }

    /// Notes the value of command 0.
    pub(super) fn note_zero(&mut self, value: &[u8], v5: bool) {
        self.is_zero_read = matches!(Command::parse(value, v5), Some(Command::Publish(_)));
    }

    /// Sets the size of a record. Adds the record if it is new, and then returns its kind.
    ///
    /// Only a new record costs a reading of the clock.
    fn upsert(
        &mut self,
        key: &str,
        size: usize,
        now: impl FnOnce(&Clock) -> Duration,
    ) -> Option<KindLabel> {
        let id = RecordId::of(key);
        let kind = id.kind();
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let gauges = self.series.series().kind(kind);
        if let Some(record) = self.records.get_mut(&id) {
            gauges.bytes.add(size.saturating_sub(record.size));
            record.size = size;
            return None;
        }
        gauges.records.inc();
        gauges.bytes.add(size);
        let now = now(&self.clock);
        let queue = self.queue(kind);
        let arrival = queue.arrive(now);
        // Otherwise an older record is at the front, and the published time stays.
        if queue.live == 1 {
            self.series.set_oldest(kind, Some(now));
        }
        self.records.insert(id, BacklogEntry { size, arrival });
        Some(kind)
    }

    /// Updates the backlog after a `get`, which gives the size of a listed record.
    pub(super) fn get(&mut self, key: &str, size: usize) {
        self.upsert(key, size, Clock::since_boot);
        self.last_read = Key::parse(key);
    }

    /// Updates the backlog after a `remove` and returns true if the record existed.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let id = match RecordId::of(key) {
            RecordId::Key(key) => {
                // Mirrors the persistence, which resolves the key in the same way.
                let is_live = |key| self.records.contains_key(&RecordId::Key(key));
                let key = key.resolve_removed_key(self.last_read, is_live);
                // Paho removes this key at each connect, and means no PUBLISH that it has not read.
                let is_unread = self.is_zero_read && self.last_read != Some(key);
                if key.is_command_zero() && is_unread {
                    return false;
                }
                RecordId::Key(key)
            }
            other @ RecordId::Other(_) => other,
        };
        let existed = self.remove_entry(&id);
        if existed {
            self.kind(id.kind()).removed.inc();
        }
        existed
    }

    /// Removes a record that `get` did not find, without counting it as removed.
    pub(super) fn lose_on_get(&mut self, key: &str) {
        let id = RecordId::of(key);
        if self.remove_entry(&id)
            && let Some(lost) = &mut self.lost_by_get
        {
            lost.insert(id);
        }
    }

    /// Removes a record that the store reports lost, without counting it as removed.
    ///
    /// Reports come late. After a `get` that failed Paho may have reused the key, so the report of a
    /// loss that `get` has found is ignored. A PUBLISH that Paho sends again and so puts again between
    /// its loss and the report is missing until the next list of keys.
    pub(super) fn lose_on_event(&mut self, key: &str) {
        let id = RecordId::of(key);
        let lost_by_get = self.lost_by_get.as_mut();
        if !lost_by_get.is_some_and(|lost| lost.remove(&id)) {
            self.remove_entry(&id);
        }
    }

    /// Adds a record that has this key now, without counting it as added.
    ///
    /// The put that took its old key went on with the old entry and so with its arrival. The age of
    /// the oldest record is therefore right, although the record under its new key counts as new.
    pub(super) fn relocate(&mut self, key: &str, size: usize) {
        self.upsert(key, size, Clock::since_boot);
    }

    /// Updates the backlog after a `clear`.
    pub(super) fn clear(&mut self) {
        for kind in KindLabel::ALL {
            let live = u64::try_from(self.queue(kind).live).unwrap_or(u64::MAX);
            self.kind(kind).removed.inc_by(live);
        }
        self.remove_all();
    }

    /// Removes every record without counting it as removed.
    fn remove_all(&mut self) {
        self.reconcile(&[]);
    }

    fn remove_entry(&mut self, id: &RecordId) -> bool {
        let Some(record) = self.records.remove(id) else {
            return false;
        };
        let kind = id.kind();
        let gauges = self.kind(kind);
        gauges.records.dec();
        gauges.bytes.sub(record.size);
        // Compaction visits the records of every kind, not only of this one.
        let all = self.records.len();
        let queue = self.queue(kind);
        queue.leave(record.arrival);
        let oldest = queue.oldest();
        if queue.needs_compaction(all) {
            self.compact(kind);
        }
        self.series.set_oldest(kind, oldest);
        true
    }

    /// Reconciles the records with the listed keys. New ones have size 0 until they are read.
    ///
    /// Such records count neither as added nor as removed, since no call of this run did it.
    pub(super) fn reconcile(&mut self, keys: &[String]) {
        let now = self.clock.since_boot();
        let listed: HashSet<RecordId> = keys.iter().map(|key| RecordId::of(key)).collect();
        let missing: Vec<RecordId> = self
            .records
            .keys()
            .filter(|id| !listed.contains(id))
            .cloned()
            .collect();
        for id in &missing {
            self.remove_entry(id);
        }
        for key in keys {
            if !self.contains(key) {
                self.upsert(key, 0, |_| now);
            }
        }
    }

    /// Publishes the current records as the restored ones.
    pub(super) fn note_restored(&mut self) {
        for kind in KindLabel::ALL {
            let live = i64::try_from(self.queue(kind).live).unwrap_or(i64::MAX);
            self.set_restored(kind, live);
        }
    }

    /// Adds the difference to the last value, so that persistences with one label add up.
    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    fn set_restored(&mut self, kind: KindLabel, records: i64) {
        let before = std::mem::replace(&mut self.restored[kind as usize], records);
        self.kind(kind).restored.add(records.saturating_sub(before));
    }

    fn compact(&mut self, kind: KindLabel) {
        let Self {
            queues, records, ..
        } = self;
        let of_kind = records.iter_mut().filter(|(id, _)| id.kind() == kind);
        queue_of(queues, kind).compact(of_kind.map(|(_, record)| &mut record.arrival));
    }

    fn queue(&mut self, kind: KindLabel) -> &mut ArrivalQueue {
        queue_of(&mut self.queues, kind)
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "there is an element for each variant"
)]
fn queue_of(
    queues: &mut [ArrivalQueue; KindLabel::ALL.len()],
    kind: KindLabel,
) -> &mut ArrivalQueue {
    &mut queues[kind as usize]
}

/// Takes the share of this persistence out of the gauges, which others with the same label go on using.
impl Drop for Backlog {
    fn drop(&mut self) {
        self.remove_all();
        for kind in KindLabel::ALL {
            self.set_restored(kind, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn oldest_arrival_survives_random_churn() {
        let mut queue = ArrivalQueue::default();
        let mut live: BTreeMap<u64, usize> = BTreeMap::new();
        let mut since: BTreeMap<u64, Duration> = BTreeMap::new();
        let mut compactions = 0;
        let mut random = 1_u64;
        for second in 0..50_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // The window of numbers moves, so that some old records stay.
            let number = (random >> 33) % 400 + second / 10_000;
            if let Some(arrival) = live.remove(&number) {
                queue.leave(arrival);
                since.remove(&number);
            } else {
                let now = Duration::from_secs(second);
                live.insert(number, queue.arrive(now));
                since.insert(number, now);
            }
            if queue.needs_compaction(live.len()) {
                queue.compact(live.values_mut());
                compactions += 1;
                assert_eq!(queue.arrivals.len(), live.len());
            }
            assert_eq!(queue.oldest(), since.values().min().copied(), "{second}");
            assert_eq!(queue.live, live.len());
        }
        assert!(compactions > 0);
    }
}
