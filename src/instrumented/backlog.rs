//! What waits in a persistence, counted from the calls alone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasherDefault, Hash, Hasher},
    time::Duration,
};

use crate::{
    metrics::{ClientSeriesGuard, KindLabel, KindSeries},
    paho::{Key, KeyHasher, RecordKind},
};

/// A record by its key, which needs no allocation where Paho wrote it.
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

/// The kind of record that a key stands for.
pub(super) fn kind_of(key: &str) -> KindLabel {
    RecordId::of(key).kind()
}

struct BacklogEntry {
    size: i64,
    /// Which of the arrivals of its kind this record is.
    arrival: usize,
}

/// When the records of one kind arrived, the oldest first, which is there. Those that went meanwhile are
/// passed over later.
#[derive(Default)]
struct ArrivalQueue {
    arrivals: VecDeque<Option<Duration>>,
    /// Which of the arrivals is the first of these.
    first: usize,
    live: usize,
}

impl ArrivalQueue {
    /// Tells which arrival that is.
    fn arrive(&mut self, now: Duration) -> usize {
        let arrival = self.first.wrapping_add(self.arrivals.len());
        self.arrivals.push_back(Some(now));
        self.live = self.live.saturating_add(1);
        arrival
    }

    fn leave(&mut self, arrival: usize) {
        let place = arrival.wrapping_sub(self.first);
        if let Some(since) = self.arrivals.get_mut(place) {
            *since = None;
        }
        self.live = self.live.saturating_sub(1);
        while let Some(None) = self.arrivals.front() {
            self.arrivals.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    fn oldest(&self) -> Option<Duration> {
        self.arrivals.front().copied().flatten()
    }

    /// Whether so much of it went that it is worth looking at all records, which are so many.
    fn is_hollow(&self, all: usize) -> bool {
        const SLACK: usize = 64;
        let gone = self.arrivals.len().saturating_sub(self.live);
        gone > all.saturating_add(SLACK)
    }

    /// Forgets what went; the arrivals of what is there, which are given, are others afterwards.
    fn close_up<'a>(&mut self, there: impl Iterator<Item = &'a mut usize>) {
        let mut there: Vec<&mut usize> = there.collect();
        there.sort_unstable_by_key(|arrival| arrival.wrapping_sub(self.first));
        self.arrivals.retain(Option::is_some);
        for (place, arrival) in there.into_iter().enumerate() {
            *arrival = self.first.wrapping_add(place);
        }
    }
}

/// What is live, and the gauges that tell of it.
pub(super) struct Backlog {
    series: ClientSeriesGuard,
    records: HashMap<RecordId, BacklogEntry, BuildHasherDefault<KeyHasher>>,
    queues: [ArrivalQueue; KindLabel::ALL.len()],
    /// The record that was read last.
    just_read: Option<Key>,
    restored: [i64; KindLabel::ALL.len()],
}

impl Backlog {
    pub(super) fn new(series: ClientSeriesGuard) -> Self {
        Self {
            series,
            records: HashMap::default(),
            queues: Default::default(),
            just_read: None,
            restored: [0; KindLabel::ALL.len()],
        }
    }

    pub(super) fn series(&self) -> &ClientSeriesGuard {
        &self.series
    }

    fn kind(&self, kind: KindLabel) -> &KindSeries {
        self.series.series().kind(kind)
    }

    /// How many records are remembered, those that went included.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.queues.iter().map(|queue| queue.arrivals.len()).sum()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.records.contains_key(&RecordId::of(key))
    }

    /// The record was written.
    pub(super) fn put(&mut self, key: &str, size: usize, now: Duration) {
        if let Some(kind) = self.note(key, size, now) {
            self.kind(kind).added.inc();
        }
    }

    /// The record has that size, and is there from now on; its kind, unless it already was.
    fn note(&mut self, key: &str, size: usize, now: Duration) -> Option<KindLabel> {
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
        let queue = self.queue(kind);
        let arrival = queue.arrive(now);
        if queue.live == 1 {
            self.series.set_oldest(kind, Some(now));
        }
        self.records.insert(id, BacklogEntry { size, arrival });
        Some(kind)
    }

    /// The record has that size; Paho may be about to send it.
    pub(super) fn get(&mut self, key: &str, size: usize, now: Duration) {
        self.note(key, size, now);
        self.just_read = Key::parse(key);
    }

    /// Whether the record was there.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let id = match RecordId::of(key) {
            RecordId::Key(key) => {
                let is_live = |key| self.records.contains_key(&RecordId::Key(key));
                RecordId::Key(key.resolve_removed_key(self.just_read, is_live))
            }
            other @ RecordId::Other(_) => other,
        };
        let was_there = self.take(&id);
        if was_there {
            self.kind(id.kind()).removed.inc();
        }
        was_there
    }

    /// All records were removed.
    pub(super) fn clear(&mut self) {
        for kind in KindLabel::ALL {
            let live = u64::try_from(self.queue(kind).live).unwrap_or(u64::MAX);
            self.kind(kind).removed.inc_by(live);
        }
        self.forget_all();
    }

    fn forget_all(&mut self) {
        self.list(&[], Duration::ZERO);
    }

    fn take(&mut self, id: &RecordId) -> bool {
        let Some(record) = self.records.remove(id) else {
            return false;
        };
        let kind = id.kind();
        let gauges = self.kind(kind);
        gauges.records.dec();
        gauges.bytes.sub(record.size);
        let all = self.records.len();
        let queue = self.queue(kind);
        queue.leave(record.arrival);
        let oldest = queue.oldest();
        if queue.is_hollow(all) {
            self.close_up(kind);
        }
        self.series.set_oldest(kind, oldest);
        true
    }

    /// These are the records that are there; the sizes of those not known before come later.
    pub(super) fn list(&mut self, keys: &[String], now: Duration) {
        let listed: HashSet<RecordId> = keys.iter().map(|key| RecordId::of(key)).collect();
        let gone: Vec<RecordId> = self
            .records
            .keys()
            .filter(|id| !listed.contains(id))
            .cloned()
            .collect();
        for id in &gone {
            self.take(id);
        }
        for key in keys {
            if !self.contains(key) {
                self.note(key, 0, now);
            }
        }
    }

    /// What is there now is what was restored.
    pub(super) fn note_restored(&mut self) {
        for kind in KindLabel::ALL {
            let live = i64::try_from(self.queue(kind).live).unwrap_or(i64::MAX);
            self.set_restored(kind, live);
        }
    }

    /// Several persistences with one label add up.
    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    fn set_restored(&mut self, kind: KindLabel, records: i64) {
        let before = std::mem::replace(&mut self.restored[kind as usize], records);
        self.kind(kind).restored.add(records.saturating_sub(before));
    }

    fn close_up(&mut self, kind: KindLabel) {
        let Self {
            queues, records, ..
        } = self;
        let of_kind = records.iter_mut().filter(|(id, _)| id.kind() == kind);
        queue_of(queues, kind).close_up(of_kind.map(|(_, record)| &mut record.arrival));
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

/// Another persistence may have the same label and go on.
impl Drop for Backlog {
    fn drop(&mut self) {
        self.forget_all();
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
    fn oldest_record_stays_known_amid_changes() {
        let mut queue = ArrivalQueue::default();
        let mut there: BTreeMap<u64, usize> = BTreeMap::new();
        let mut since: BTreeMap<u64, Duration> = BTreeMap::new();
        let mut closed_up = 0;
        let mut random = 1_u64;
        for second in 0..50_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // The oldest stays for a while, and goes then.
            let number = (random >> 33) % 400 + second / 10_000;
            if let Some(arrival) = there.remove(&number) {
                queue.leave(arrival);
                since.remove(&number);
            } else {
                let now = Duration::from_secs(second);
                there.insert(number, queue.arrive(now));
                since.insert(number, now);
            }
            if queue.is_hollow(there.len()) {
                queue.close_up(there.values_mut());
                closed_up += 1;
                assert_eq!(queue.arrivals.len(), there.len());
            }
            assert_eq!(queue.oldest(), since.values().min().copied(), "{second}");
            assert_eq!(queue.live, there.len());
        }
        assert!(closed_up > 0);
    }
}
