//! [`Backlog`]: the waiting records of a persistence, counted from its calls alone.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::{BuildHasherDefault, Hash, Hasher},
    time::Duration,
};

use crate::{
    metrics::{ClientSeries, ClientShare, Clock, KindLabel, MessageChanges},
    paho::{CallHistory, Content, Departure, DropReason, Key, KeyHasher, RecordKind},
};

/// The identity of a record. A key that Paho writes needs no allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RecordId {
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
    pub(super) fn of(key: &str) -> Self {
        Key::parse(key).map_or_else(|| Self::Other(key.into()), Self::Key)
    }

    /// Returns the probable content of a record that nobody has read yet.
    fn unread_content(&self) -> Content {
        match self {
            Self::Key(key) if matches!(key.kind, RecordKind::Command | RecordKind::SentPublish) => {
                Content::Message { qos: 1 }
            }
            _ => Content::Other,
        }
    }

    /// Returns the content of a record that Paho puts in several buffers.
    pub(super) fn content_of_buffers(&self, buffers: &[&[u8]]) -> Content {
        match self {
            Self::Key(key) => Content::of_buffers(*key, buffers),
            Self::Other(_) => Content::Other,
        }
    }

    pub(super) fn kind(&self) -> KindLabel {
        match self {
            Self::Key(key) => key.kind.into(),
            Self::Other(_) => KindLabel::Other,
        }
    }
}

/// A waiting record.
struct BacklogEntry {
    size: i64,
    content: Content,
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
    share: ClientShare,
    clock: Clock,
    records: HashMap<RecordId, BacklogEntry, BuildHasherDefault<KeyHasher>>,
    queues: [ArrivalQueue; KindLabel::ALL.len()],
    /// The persistence is one of this crate: it reports losses, and keeps its session until Paho connects.
    is_observed: bool,
    history: CallHistory,
    /// Paho has removed the command of a message, whose PUBLISH it puts next.
    is_sending: bool,
    /// The share of this persistence in `restored_records`, by kind.
    restored: [i64; KindLabel::ALL.len()],
    /// The changes of this call in the message series, if there are any.
    changes: Option<MessageChanges>,
}

impl Backlog {
    pub(super) fn new(share: ClientShare, clock: Clock, is_observed: bool) -> Self {
        Self {
            share,
            clock,
            records: HashMap::default(),
            queues: Default::default(),
            is_observed,
            history: CallHistory::default(),
            is_sending: false,
            restored: [0; KindLabel::ALL.len()],
            changes: None,
        }
    }

    /// Passes the changes of a call to the series in one step, so that each scrape accounts for every message.
    pub(super) fn publish(&mut self) {
        if let Some(changes) = &self.changes {
            self.share.add_messages(changes);
            self.changes = None;
        }
    }

    fn changes(&mut self) -> &mut MessageChanges {
        self.changes.get_or_insert_default()
    }

    /// Sets the server that the store is connected to.
    pub(super) fn set_server(&mut self, server: &str) {
        self.share.set_server(server);
    }

    pub(super) fn series(&self) -> &ClientSeries {
        &self.share
    }

    fn count_removed(&self, kind: KindLabel, records: u64) {
        self.share
            .calls
            .removed_records_total
            .of(kind)
            .inc_by(records);
    }

    /// Adds to the number of waiting messages.
    fn add_waiting(&mut self, messages: i64) {
        let waiting = &mut self.changes().waiting;
        *waiting = waiting.saturating_add(messages);
    }

    fn count_delivered(&mut self, qos: u8) {
        if let Some(delivered) = self.changes().delivered.get_mut(usize::from(qos)) {
            *delivered = delivered.saturating_add(1);
        }
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
    pub(super) fn put(&mut self, id: RecordId, size: usize, content: Content) {
        if let RecordId::Key(key) = id {
            self.history.put(key);
            let is_publish = key.kind == RecordKind::SentPublish;
            let is_sent_again = is_publish && !self.is_sending && self.records.contains_key(&id);
            let mut is_known = is_sent_again || is_publish && self.is_sending;
            // Mirrors the persistence of this crate, which leaves everything as it is if Paho sends a stored
            // PUBLISH again. Another one may keep both.
            if self.is_observed && !is_sent_again {
                for id in key.replaced_keys().map(RecordId::Key) {
                    if let Some(replaced) = self.remove_entry(&id) {
                        is_known |= replaced.is_message();
                        self.count_removed(id.kind(), 1);
                    }
                }
            }
            // A command, or a PUBLISH that Paho sends again after its record was lost.
            if content.is_message() && !is_known {
                let accepted = &mut self.changes().accepted;
                *accepted = accepted.saturating_add(1);
            }
        }
        let kind = id.kind();
        if self.upsert(id, size, content, Clock::since_boot) {
            self.share.calls.added_records_total.of(kind).inc();
        }
    }

    /// Updates the backlog after a `put` that was refused since the value is damaged.
    pub(super) fn put_damaged(&mut self, key: &str) {
        if let Some(key) = Key::parse(key) {
            self.history.damaged(key);
        }
    }

    /// Sets the size and the content of a record. Returns true if it is new, and then adds it.
    ///
    /// Only a new record costs a reading of the clock.
    fn upsert(
        &mut self,
        id: RecordId,
        size: usize,
        content: Content,
        now: impl FnOnce(&Clock) -> Duration,
    ) -> bool {
        let kind = id.kind();
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let series = &self.share.calls;
        if let Some(record) = self.records.get_mut(&id) {
            series
                .record_bytes
                .of(kind)
                .add(size.saturating_sub(record.size));
            record.size = size;
            let before = std::mem::replace(&mut record.content, content);
            match (before.is_message(), content.is_message()) {
                (false, true) => self.add_waiting(1),
                (true, false) => self.add_waiting(-1),
                _ => {}
            }
            return false;
        }
        series.records.of(kind).inc();
        series.record_bytes.of(kind).add(size);
        // The message of a PUBLISH has waited as a command before.
        let is_sent = kind == KindLabel::SentPublish && std::mem::take(&mut self.is_sending);
        if content.is_message() && !is_sent {
            self.add_waiting(1);
        }
        let now = now(&self.clock);
        let queue = self.queue(kind);
        let arrival = queue.arrive(now);
        // Otherwise an older record is at the front, and the published time stays.
        if queue.live == 1 {
            self.share.set_oldest(kind, Some(now));
        }
        let record = BacklogEntry {
            size,
            content,
            arrival,
        };
        self.records.insert(id, record);
        true
    }

    /// Updates the backlog after a `get`, which gives the size and the content of a listed record.
    pub(super) fn get(&mut self, id: RecordId, value: &[u8]) {
        let mut content = Content::Other;
        if let RecordId::Key(key) = id {
            content = Content::of(key, value);
            self.history.get(key);
        }
        self.upsert(id, value.len(), content, Clock::since_boot);
    }

    /// Notes a list of the keys.
    pub(super) fn list(&mut self) {
        self.history.list();
        self.end_sending();
    }

    /// Notes a question for a record, or a `get` that failed.
    pub(super) fn look_up(&mut self) {
        self.history.look_up();
    }

    /// Updates the backlog after a `remove` and returns true if the record existed.
    pub(super) fn remove(&mut self, id: RecordId) -> bool {
        let key = match id {
            RecordId::Key(key) => key,
            other @ RecordId::Other(_) => {
                let existed = self.remove_entry(&other).is_some();
                if existed {
                    self.count_removed(KindLabel::Other, 1);
                }
                return existed;
            }
        };
        // Mirrors the persistence, which resolves the key in the same way.
        let is_live = |key| self.records.contains_key(&RecordId::Key(key));
        let key = key.resolve_removed_key(self.history.last_read(), is_live);
        let id = RecordId::Key(key);
        let content = self.records.get(&id).map(|record| record.content);
        let is_connect = key.is_command_zero() && self.history.last_read() != Some(key);
        if is_connect {
            self.history.connect();
        }
        let Some(content) = content else {
            return false;
        };
        // Paho removes this key at each connect, and means no message that it has not read.
        if is_connect && content.is_message() {
            return false;
        }
        let has = |kind| {
            let key = key.with_kind(kind);
            is_live(key) || is_live(key.other_version())
        };
        if self.is_observed && self.history.keeps(key, || has(RecordKind::SentPublish)) {
            return true;
        }
        let has_pubrel = key.kind == RecordKind::SentPublish && has(RecordKind::SentPubrel);
        let departure = self.history.remove(key, content, has_pubrel);
        if departure == Departure::Sending {
            self.end_sending();
            self.is_sending = true;
            // It goes on waiting, as a PUBLISH.
            self.add_waiting(1);
        }
        self.remove_entry(&id);
        self.count_removed(key.kind.into(), 1);
        self.count_departure(key.kind, departure);
        true
    }

    /// Notes a `remove` that failed; a custom persistence may not know `c-0`, which Paho removes at a connect.
    pub(super) fn remove_failed(&mut self, key: &str) {
        if Key::parse(key).is_some_and(Key::is_command_zero) {
            self.history.connect();
        }
    }

    fn count_departure(&mut self, kind: RecordKind, departure: Departure) {
        match departure {
            Departure::HandedOver => self.count_delivered(0),
            Departure::Acknowledged { qos } => self.count_delivered(qos),
            Departure::Dropped(reason) => self.changes().drop_records(kind, reason, 1),
            Departure::Sending | Departure::Ended => {}
        }
    }

    /// Counts messages that the persistence dropped before Paho listed them.
    pub(super) fn dropped_at_open(&mut self, reason: DropReason, records: usize) {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        self.changes()
            .drop_records(RecordKind::Command, reason, records);
    }

    /// Ends the wait of a message whose PUBLISH was never put: Paho has sent it without a record.
    fn end_sending(&mut self) {
        if std::mem::take(&mut self.is_sending) {
            self.add_waiting(-1);
            self.count_delivered(1);
        }
    }

    /// Removes a record that the store has lost, without counting it as removed.
    pub(super) fn lose(&mut self, key: &str) {
        let content = self.remove_entry(&RecordId::of(key));
        if content.is_some_and(Content::is_message) {
            let lost = &mut self.changes().lost;
            *lost = lost.saturating_add(1);
        }
    }

    /// Gives a record another key of the same kind.
    pub(super) fn relocate(&mut self, old_key: &str, key: &str) {
        if let Some(record) = self.records.remove(&RecordId::of(old_key)) {
            self.records.insert(RecordId::of(key), record);
        }
    }

    /// Updates the backlog after a `clear`.
    pub(super) fn clear(&mut self) {
        for kind in KindLabel::ALL {
            let live = u64::try_from(self.queue(kind).live).unwrap_or(u64::MAX);
            self.count_removed(kind, live);
        }
        self.remove_all();
    }

    /// Removes every record without counting it as removed.
    fn remove_all(&mut self) {
        self.reconcile(&[]);
    }

    /// Removes a record from the gauges, and returns its content.
    fn remove_entry(&mut self, id: &RecordId) -> Option<Content> {
        let record = self.records.remove(id)?;
        if record.content.is_message() {
            self.add_waiting(-1);
        }
        let kind = id.kind();
        let series = &self.share.calls;
        series.records.of(kind).dec();
        series.record_bytes.of(kind).sub(record.size);
        // Compaction visits the records of every kind, not only of this one.
        let all = self.records.len();
        let queue = self.queue(kind);
        queue.leave(record.arrival);
        let oldest = queue.oldest();
        if queue.needs_compaction(all) {
            self.compact(kind);
        }
        self.share.set_oldest(kind, oldest);
        Some(record.content)
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
                let id = RecordId::of(key);
                let content = id.unread_content();
                self.upsert(id, 0, content, |_| now);
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
        let change = &mut self.changes().restored[kind as usize];
        *change = change.saturating_add(records.saturating_sub(before));
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
        self.end_sending();
        self.remove_all();
        for kind in KindLabel::ALL {
            self.set_restored(kind, 0);
        }
        self.publish();
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
