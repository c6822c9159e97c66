//! What waits in a persistence, counted from the calls alone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasherDefault, Hash, Hasher},
    time::Duration,
};

use crate::{
    metrics::{KindSeries, LiveSeries, RecordKind},
    record::{Key, KeyHasher, Kind},
};

/// A record by its key, which needs no allocation where Paho wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Id {
    Key(Key),
    Other(Box<str>),
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Key(key) => key.hash(state),
            Self::Other(name) => name.hash(state),
        }
    }
}

impl Id {
    fn of(key: &str) -> Self {
        Key::parse(key).map_or_else(|| Self::Other(key.into()), Self::Key)
    }

    fn kind(&self) -> RecordKind {
        match self {
            Self::Key(key) => match key.kind {
                Kind::Command => RecordKind::Command,
                Kind::SentPublish => RecordKind::SentPublish,
                Kind::SentPubrel => RecordKind::SentPubrel,
                Kind::ReceivedPublish => RecordKind::ReceivedPublish,
                Kind::Undelivered => RecordKind::Undelivered,
            },
            Self::Other(_) => RecordKind::Other,
        }
    }
}

/// The kind of record that a key stands for.
pub(super) fn kind_of(key: &str) -> RecordKind {
    Id::of(key).kind()
}

struct Record {
    size: i64,
    /// Which of the arrivals this record is.
    arrival: u64,
}

/// The records of one kind, the oldest first. Those that went meanwhile are passed over later.
#[derive(Default)]
struct Queue {
    arrivals: VecDeque<(Id, u64, Duration)>,
    live: usize,
}

/// What is live, and the gauges that tell of it.
pub(super) struct Backlog {
    series: LiveSeries,
    records: HashMap<Id, Record, BuildHasherDefault<KeyHasher>>,
    queues: [Queue; RecordKind::ALL.len()],
    arrivals: u64,
    /// The record that was read last.
    just_read: Option<Key>,
    restored: [i64; RecordKind::ALL.len()],
}

impl Backlog {
    pub(super) fn new(series: LiveSeries) -> Self {
        Self {
            series,
            records: HashMap::default(),
            queues: Default::default(),
            arrivals: 0,
            just_read: None,
            restored: [0; RecordKind::ALL.len()],
        }
    }

    pub(super) fn series(&self) -> &LiveSeries {
        &self.series
    }

    fn of_kind(&self, kind: RecordKind) -> &KindSeries {
        self.series.series().of_kind(kind)
    }

    /// How many records are remembered, those that went included.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.queues.iter().map(|queue| queue.arrivals.len()).sum()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.records.contains_key(&Id::of(key))
    }

    /// The record was written.
    pub(super) fn put(&mut self, key: &str, size: usize, now: Duration) {
        if let Some(kind) = self.note(key, size, now) {
            self.of_kind(kind).added.inc();
        }
    }

    /// The record has that size, and is there from now on; its kind, unless it already was.
    fn note(&mut self, key: &str, size: usize, now: Duration) -> Option<RecordKind> {
        let id = Id::of(key);
        let kind = id.kind();
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let gauges = self.series.series().of_kind(kind);
        if let Some(record) = self.records.get_mut(&id) {
            gauges.bytes.add(size.saturating_sub(record.size));
            record.size = size;
            return None;
        }
        gauges.records.inc();
        gauges.bytes.add(size);
        self.arrivals = self.arrivals.wrapping_add(1);
        let arrival = self.arrivals;
        self.records.insert(id.clone(), Record { size, arrival });
        let queue = self.queue(kind);
        queue.live = queue.live.saturating_add(1);
        queue.arrivals.push_back((id, arrival, now));
        self.note_oldest(kind);
        Some(kind)
    }

    /// The record has that size; Paho may be about to send it.
    pub(super) fn get(&mut self, key: &str, size: usize, now: Duration) {
        self.note(key, size, now);
        self.just_read = Key::parse(key);
    }

    /// Whether the record was there.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let id = match Id::of(key) {
            Id::Key(key) => {
                let is_live = |key| self.records.contains_key(&Id::Key(key));
                Id::Key(key.meant(self.just_read, is_live))
            }
            other @ Id::Other(_) => other,
        };
        let was_there = self.take(&id);
        if was_there {
            self.of_kind(id.kind()).removed.inc();
        }
        was_there
    }

    /// All records were removed.
    pub(super) fn clear(&mut self) {
        for kind in RecordKind::ALL {
            let live = u64::try_from(self.queue(kind).live).unwrap_or(u64::MAX);
            self.of_kind(kind).removed.inc_by(live);
        }
        self.forget_all();
    }

    fn forget_all(&mut self) {
        self.list(&[], Duration::ZERO);
    }

    fn take(&mut self, id: &Id) -> bool {
        let Some(record) = self.records.remove(id) else {
            return false;
        };
        let kind = id.kind();
        let gauges = self.of_kind(kind);
        gauges.records.dec();
        gauges.bytes.sub(record.size);
        let queue = self.queue(kind);
        queue.live = queue.live.saturating_sub(1);
        self.note_oldest(kind);
        true
    }

    /// These are the records that are there; the sizes of those not known before come later.
    pub(super) fn list(&mut self, keys: &[String], now: Duration) {
        let listed: HashSet<Id> = keys.iter().map(|key| Id::of(key)).collect();
        let gone: Vec<Id> = self
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
        for kind in RecordKind::ALL {
            let live = i64::try_from(self.queue(kind).live).unwrap_or(i64::MAX);
            self.set_restored(kind, live);
        }
    }

    /// Several persistences with one label add up.
    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    fn set_restored(&mut self, kind: RecordKind, records: i64) {
        let before = std::mem::replace(&mut self.restored[kind as usize], records);
        self.of_kind(kind)
            .restored
            .add(records.saturating_sub(before));
    }

    /// Drops what went from the front, and everything that went where it is most of the queue.
    fn note_oldest(&mut self, kind: RecordKind) {
        const SLACK: usize = 64;
        let Self {
            queues, records, ..
        } = self;
        #[expect(
            clippy::indexing_slicing,
            reason = "there is an element for each variant"
        )]
        let queue = &mut queues[kind as usize];
        let is_live = |(id, arrival, _): &(Id, u64, Duration)| {
            records
                .get(id)
                .is_some_and(|record| record.arrival == *arrival)
        };
        while queue.arrivals.front().is_some_and(|front| !is_live(front)) {
            queue.arrivals.pop_front();
        }
        if queue.arrivals.len() > queue.live.saturating_mul(2).saturating_add(SLACK) {
            queue.arrivals.retain(is_live);
        }
        let oldest = queue.arrivals.front().map(|(_, _, since)| *since);
        self.series.set_oldest(kind, oldest);
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    fn queue(&mut self, kind: RecordKind) -> &mut Queue {
        &mut self.queues[kind as usize]
    }
}

/// Another persistence may have the same label and go on.
impl Drop for Backlog {
    fn drop(&mut self) {
        self.forget_all();
        for kind in RecordKind::ALL {
            self.set_restored(kind, 0);
        }
    }
}
