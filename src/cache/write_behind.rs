//! The write-behind cache: live records and pending writes.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    access::{Outage, StoreAccess},
    batched_read::read_or_split,
    event_queue::EventQueue,
    index::{RecordIndex, record_hash},
    pending::{BatchLimits, PendingWrites, Totals},
    relocations::Relocations,
    removed::RemovedRecords,
    send_counts::{DEFAULT_MAX_SENDS, SendCounts},
    set_asides::SetAsides,
    write::{WriteAck, write_records},
};
use crate::{
    clock::Clock,
    error::{Error, ErrorKind},
    paho::{Key, set_command_packet_id},
    store::{HealthSnapshot, Place, Store},
};

/// Limits of what is sent without an answer: after this many sends or bytes, a fence asks the store
/// what became of them.
const MAX_SENDS_BETWEEN_FENCES: usize = 256;
const MAX_BYTES_BETWEEN_FENCES: usize = 256 * 1024;
/// Limits of deferred writes: at this many, or this many bytes, they are flushed before the tick.
const MAX_DEFERRED: usize = 1024;
const MAX_DEFERRED_BYTES: usize = 256 * 1024;

/// The records of an open client, written through to a store that may be unavailable.
///
/// A write never fails: it becomes pending, is sent if the store is up, and stops being pending once
/// the store has confirmed it. An exchange that fails makes every sent write unsent again; the caller
/// finds the failure in its [`StoreAccess`]. During an outage writes stay pending and no exchange is
/// tried, but for reads that the store still answers.
pub(crate) struct WriteBehindCache {
    pub(crate) index: RecordIndex,
    confirmation: Confirmation,
    pub(super) pending: PendingWrites,
    /// Scratch memory of `send_groups`, kept so that a call allocates none.
    group_buffer: Vec<Key>,
    sends_since_fence: usize,
    bytes_since_fence: usize,
    /// The record that was put last; its value stays cached, since Paho reads it back at once.
    pub(super) last_put: Option<Key>,
    /// Keys that the store was asked to prefetch, empty if none.
    pub(super) prefetching: Vec<Key>,
    /// Keys whose values the last read has cached ahead of Paho.
    pub(super) prefetched: Vec<Key>,
    /// The record that Paho read last; `None` since it listed the keys.
    pub(super) last_read: Option<Key>,
    /// Values were read and nothing was written since, as while Paho restores its queues.
    pub(super) is_sequential_read: bool,
    /// Number of entries in the store that Paho did not write, without those in `foreign`.
    pub(super) foreign_entries: usize,
    /// Keys of records in the store that Paho cannot read, or that this process has never known.
    ///
    /// They stay, and no message with one of these keys is written before they are in the quarantine.
    pub(super) foreign: BTreeSet<Key>,
    /// Relocations that must happen in the store before their keys are written.
    pub(super) relocations: Relocations,
    /// The records that this process removed or replaced lately.
    pub(super) removed: RemovedRecords,
    /// Keys under which the store has older or quarantined records, to be removed once all that
    /// replaces them is written.
    pub(super) stale: BTreeSet<Key>,
    /// Records were lost in this outage, so an older state of one of them must not be removed.
    pub(super) has_lost: bool,
    /// Sequence number of the last write that may replace a stale record.
    pub(super) replaces_stale: u64,
    /// The reply to the last write that the store refused although it takes others.
    pub(super) refusal: Option<Arc<Error>>,
    /// `None` if the store was unavailable at open, and has not confirmed anything since.
    last_confirmed: Option<SystemTime>,
    /// Packet ids that messages in flight of an earlier run have, while they are loaded after open.
    pub(super) earlier_ids: HashSet<u32>,
    /// Number of attempts at what the store has refused, so that each is tried in turn.
    retries: usize,
    pub(crate) set_asides: SetAsides,
    pub(crate) sends: SendCounts,
    pub(crate) events: EventQueue,
}

/// The sends that wait until the store has confirmed them.
#[derive(Clone, Copy)]
pub(crate) enum Confirmation {
    /// Only a send with which a fence is due.
    WhenDue,
    /// Those with [`Ack::Confirmed`] as well.
    OnRequest,
    /// Each of them.
    ///
    /// After a power cut or a failover, the store lacks what it has not confirmed: that a message at QoS 2
    /// was sent, or that one that arrived has ended. The broker would get the former as a new message, and
    /// the record of the latter would swallow the next message with its packet id.
    Always,
}

/// The acknowledgment of a write. In an outage no write waits; it stays pending.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// The call returns once the store has confirmed the write; with `Durability::Pipelined`, once
    /// the operating system has it.
    Confirmed,
    /// The call returns once the write is on its way to the store.
    Sent,
    /// The write waits for the next tick. A remove may piggyback on a confirmed write or a fence
    /// before that. A later call can make the write obsolete before it is sent.
    ///
    /// A crash before the tick makes Paho repeat a packet, so only writes for which MQTT allows
    /// that are deferred.
    Deferred,
}

impl WriteBehindCache {
    pub(crate) fn new(
        index: RecordIndex,
        (foreign_entries, unmovable): (usize, HashSet<Key>),
        confirmation: Confirmation,
        set_asides: SetAsides,
        last_confirmed: Option<SystemTime>,
    ) -> Self {
        Self {
            index,
            confirmation,
            pending: PendingWrites::default(),
            group_buffer: Vec::new(),
            sends_since_fence: 0,
            bytes_since_fence: 0,
            last_put: None,
            prefetching: Vec::new(),
            prefetched: Vec::new(),
            last_read: None,
            is_sequential_read: false,
            foreign_entries,
            foreign: unmovable.into_iter().collect(),
            relocations: Relocations::default(),
            removed: RemovedRecords::default(),
            stale: BTreeSet::new(),
            has_lost: false,
            replaces_stale: 0,
            refusal: None,
            last_confirmed,
            earlier_ids: HashSet::new(),
            retries: 0,
            set_asides,
            sends: SendCounts::new(DEFAULT_MAX_SENDS),
            events: EventQueue::default(),
        }
    }

    /// Creates the cache of a persistence whose store was unavailable at open.
    pub(crate) fn without_store(
        cache_limit: usize,
        confirmation: Confirmation,
        set_asides: SetAsides,
    ) -> Self {
        let index = RecordIndex::with_capacity(0, cache_limit);
        Self::new(index, (0, HashSet::new()), confirmation, set_asides, None)
    }

    /// Writes a record and, in the same step, removes those that it replaces.
    ///
    /// `partner` is the same message under another key, which is removed too. The two must change
    /// together: a crash must find the message under exactly one of them.
    pub(crate) fn put<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
        value: Vec<u8>,
        replaced: &[Key],
        partner: Option<Key>,
        ack: Ack,
    ) {
        // A replaced PUBLISH that was never sent still has its command to remove.
        let inherited = replaced
            .iter()
            .find_map(|key| self.pending.partners(*key).next());
        let since = partner.and_then(|partner| self.index.since(partner));
        for &old in replaced.iter().chain(&partner) {
            self.record_removed(old);
        }
        let length = value.len();
        // The store still has a stale record, which the put replaces.
        let is_known = self.stale.remove(&key) || self.may_be_stored(key);
        self.note_removed(key);
        self.index.put_since(key, value, since);
        self.pending
            .record(key, Some(length), partner.or(inherited), is_known);
        // Confirming the previous put did not evict it; nobody is about to read it now.
        if let Some(previous) = self.last_put.replace(key)
            && previous != key
            && self.may_evict(previous)
        {
            self.index.evict_value(previous);
        }
        match ack {
            Ack::Confirmed => self.send_groups(access, &[key], length, true),
            // During an outage this would search all that is pending, for nothing.
            Ack::Sent if !access.is_up() => {}
            Ack::Sent => {
                // With the deferred ones before it: Paho sends what is in flight before what
                // waits, so a crash would change their order.
                let keys = self.pending.unsent_puts();
                self.send_groups(access, &keys, length, false);
            }
            Ack::Deferred => self.flush_if_deferred_full(access),
        }
    }

    /// Removes records in one step.
    pub(crate) fn remove<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        keys: &[Key],
        ack: Ack,
    ) {
        for &key in keys {
            self.record_removed(key);
        }
        match ack {
            Ack::Confirmed | Ack::Sent => {
                self.send_groups(access, keys, 0, ack == Ack::Confirmed);
            }
            Ack::Deferred => {
                for &key in keys {
                    if !self.pending.sets_aside(key) {
                        self.pending.piggyback(key);
                    }
                }
                self.flush_if_deferred_full(access);
            }
        }
    }

    fn record_removed(&mut self, key: Key) {
        let is_known = self.may_be_stored(key);
        self.note_removed(key);
        self.index.remove(key);
        self.pending.record(key, None, None, is_known);
    }

    /// Returns true if what the store has under the key may be the record of this client.
    fn may_be_stored(&self, key: Key) -> bool {
        self.index.contains(key) && !self.foreign.contains(&key)
    }

    /// Remembers the present value of a record, which is about to be removed or replaced.
    fn note_removed(&mut self, key: Key) {
        if let Some(hash) = self.index.content_hash(key) {
            self.removed.add(record_hash(key, hash));
        }
        self.sends.forget(key);
    }

    fn flush_if_deferred_full<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) {
        let deferred = self.pending.unsent_totals();
        let is_full = deferred.records >= MAX_DEFERRED || deferred.bytes >= MAX_DEFERRED_BYTES;
        // In an outage everything is unsent, and a flush would do nothing.
        if access.is_up() && is_full {
            self.flush(access);
        }
    }

    /// Sends the pending writes of these keys and of the rest of their messages, one step per
    /// message.
    ///
    /// Does nothing in an outage. A write that wants confirmation, or gets a fence, takes the
    /// piggybacked removes along and puts them first: a new message may reuse the packet id of a
    /// finished one, and Paho could not tell them apart if a crash made it restore both.
    fn send_groups<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        keys: &[Key],
        bytes: usize,
        wants_confirm: bool,
    ) {
        if !access.is_up() {
            return;
        }
        let mut waits = self.needs_fence(wants_confirm, bytes);
        self.refuse_obstructed(None);
        let mut group = std::mem::take(&mut self.group_buffer);
        for &key in keys {
            if !group.contains(&key) && !self.pending.is_refused(key) {
                self.pending.message_group(key, &mut group);
            }
        }
        // A store may remove a record although it refused to set it aside, and only its reply shows that.
        waits |= group.iter().any(|key| self.pending.has_attached(*key));
        let mut piggybacked = Vec::new();
        if wants_confirm || waits {
            piggybacked = self.pending.take_piggybacked();
        }
        piggybacked.retain(|key| !group.contains(key));
        self.flush_groups(access, &[&piggybacked, &group], waits);
        group.clear();
        self.group_buffer = group;
    }

    /// Sends groups of writes and, if it waits, confirms them and the unconfirmed ones before them.
    fn flush_groups<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        groups: &[&[Key]],
        waits: bool,
    ) {
        let Some(store) = access.writer() else {
            return;
        };
        self.is_sequential_read = false;
        let sent = if waits {
            self.pending.unconfirmed().collect()
        } else {
            Vec::new()
        };
        let ack = if waits {
            WriteAck::Confirmed { sent: &sent }
        } else {
            WriteAck::Sent
        };
        let records = (&self.index, &self.pending);
        let written = write_records(store, records, groups, ack);
        // Also after a failure, which may have come after the write.
        for keys in groups {
            self.pending.mark_sent(keys);
        }
        match written {
            Ok(()) if waits => self.mark_confirmed(access.clock),
            Ok(()) => {}
            Err(error) => self.note_failure(access, error),
        }
    }

    /// Makes every sent write unsent again: it may not have arrived.
    pub(super) fn note_failure<S: Store>(&mut self, access: &mut StoreAccess<'_, S>, error: Error) {
        self.pending.mark_unsent();
        access.fail(error);
    }

    /// Sends every pending write that is not refused, and waits until the store has confirmed all.
    ///
    /// Does nothing if there is none, or in an outage.
    pub(crate) fn flush<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) {
        if !access.is_up() {
            return;
        }
        if !self.pending.is_settled() {
            self.refuse_obstructed(None);
            let groups = self.next_groups(BatchLimits::NONE);
            let groups: Vec<&[Key]> = groups.iter().map(Vec::as_slice).collect();
            self.flush_groups(access, &groups, true);
        }
        self.save_sends(access);
    }

    /// Counts a connection on which Paho sends again what is in flight.
    ///
    /// The numbers are stored before Paho writes to the broker, so that they outlive a program that does
    /// not survive that.
    pub(crate) fn count_sends<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) {
        if self.sends.is_off() {
            return;
        }
        for (key, connections) in self.sends.count(&self.index) {
            self.events.poison_suspect(key, connections);
        }
        self.save_sends(access);
    }

    /// Stores how often messages in flight were sent, if that has changed.
    fn save_sends<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) {
        if !self.sends.is_dirty() {
            return;
        }
        let Some(store) = access.writer() else {
            return;
        };
        let text = self.sends.to_text();
        match store.save_send_counts(text.as_deref().map(str::as_bytes)) {
            Ok(()) => self.sends.settle(),
            // A full store says so with the next record. The numbers go on in memory.
            Err(error) if error.kind().is_refusal() => self.sends.settle(),
            Err(error) => self.note_failure(access, error),
        }
    }

    /// Makes one attempt at what the store has refused, and returns true if it was taken.
    ///
    /// It moves one record to the quarantine that is in the way of a message, or writes the smallest
    /// message that has none in its way. The store may refuse each of them for ever, so they take turns.
    pub(crate) fn retry_refused<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) -> bool {
        let obstructions = self.obstructions();
        let is_obstructed = |key| self.is_obstructed(key);
        let message = self.pending.smallest_refused(is_obstructed);
        let attempts = obstructions.len().saturating_add(message.iter().len());
        let attempt = self.retries.checked_rem(attempts).unwrap_or_default();
        self.retries = self.retries.wrapping_add(1);
        match (obstructions.get(attempt), message) {
            (Some(key), _) => self.quarantine_obstruction(access, *key),
            (None, Some(message)) => self.write_refused(access, &message),
            (None, None) => false,
        }
    }

    fn write_refused<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        message: &[Key],
    ) -> bool {
        let Some(store) = access.writer() else {
            return false;
        };
        let sent: Vec<_> = self.pending.unconfirmed().collect();
        let ack = WriteAck::Confirmed { sent: &sent };
        match write_records(store, (&self.index, &self.pending), &[message], ack) {
            Ok(()) => {
                self.pending.mark_sent(message);
                self.mark_confirmed(access.clock);
                true
            }
            Err(error) if error.kind().is_refusal() => {
                self.refusal = Some(Arc::new(error));
                false
            }
            Err(error) => {
                self.note_failure(access, error);
                false
            }
        }
    }

    /// Checks that an idle store takes writes and still has all records.
    pub(crate) fn check<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) {
        self.note_time(access.clock);
        self.enforce_set_aside_limits();
        let Some(store) = access.writer() else {
            return;
        };
        let others = self.foreign_entries.saturating_add(self.foreign.len());
        let others = others.saturating_add(self.stale.len());
        let expected = self.index.len().saturating_add(others);
        let refused = self.pending.refused_totals().records;
        match store.check() {
            // The store may or may not have applied unconfirmed writes, so a count proves nothing.
            Ok(_) if self.has_unsettled() => {}
            // Refused puts may be missing.
            Ok(count) if count < expected.saturating_sub(refused) => {
                let attempt = format!("find all {expected} records, only {count} are left");
                self.note_failure(access, Error::new(ErrorKind::Lost, attempt));
            }
            Ok(_) if refused > 0 => {}
            Ok(count) => {
                let added = count.saturating_sub(expected);
                self.foreign_entries = self.foreign_entries.saturating_add(added);
                self.events.foreign_records(added, false);
                self.last_confirmed = Some(access.clock.time());
            }
            Err(error) => self.note_failure(access, error),
        }
    }

    /// Returns true if the cache exceeds its limit and the store has confirmed the record's value.
    pub(super) fn may_evict(&self, key: Key) -> bool {
        self.index.is_over_limit() && !self.pending.contains(key)
    }

    /// Gives commands that share a packet id with another message ids of their own.
    ///
    /// Paho gives the id of a command away if it could not read it. After a restart it would send two
    /// messages with one id, and lose one of them. The changed commands are written with the first
    /// flush; until then a crash only repeats this.
    pub(crate) fn replace_shared_packet_ids(
        &mut self,
        store: &mut impl Store,
    ) -> Result<(), Error> {
        for (key, packet_id) in self.index.shared_packet_ids() {
            let value = match self.index.value(key) {
                Some(value) => Some(value.to_vec()),
                None => read_or_split(store, &[key])?.into_iter().next().flatten(),
            };
            let Some(mut value) = value else { continue };
            set_command_packet_id(&mut value, packet_id);
            self.pending.record(key, Some(value.len()), None, true);
            self.index.replace_loaded(key, value);
        }
        Ok(())
    }

    /// Queues the relocation of a record whose value cannot be read now.
    ///
    /// The number is about to be reused. Recovery makes the relocation before it writes either key.
    pub(crate) fn relocate_later(&mut self, old: Key, new: Key) {
        self.index.rekey(old, new);
        self.relocations.add(old, new);
        // The store still has `old`: a put and a remove of it must not cancel out, or resync would
        // find a foreign record.
        self.pending.record(old, None, None, true);
    }

    /// Returns groups as [`PendingWrites::next_groups`], without those that wait for a relocation.
    pub(super) fn next_groups(&self, limits: BatchLimits) -> Vec<Vec<Key>> {
        let is_blocked = |key| self.relocations.involves(key);
        self.pending.next_groups(limits, is_blocked)
    }

    /// Returns true if the store has this value of a record, as far as is known.
    pub(crate) fn has_confirmed(&self, key: Key, value: &[u8]) -> bool {
        !self.pending.contains(key) && self.index.has_content(key, value)
    }

    /// Returns true if a write of the key is pending that was not sent, or was refused.
    pub(crate) fn is_unsent(&self, key: Key) -> bool {
        self.pending.is_unsent(key)
    }

    /// Returns true for a record that is not Paho's to overwrite, and that stays in place.
    pub(crate) fn is_foreign(&self, key: Key) -> bool {
        self.foreign.contains(&key)
    }

    /// Returns true if a record, a pending write or a relocation uses the key.
    pub(crate) fn is_number_used(&self, key: Key) -> bool {
        self.index.contains(key)
            || self.pending.contains(key)
            || self.relocations.involves(key)
            || self.foreign.contains(&key)
            || self.stale.contains(&key)
    }

    /// Drops a record that the store lost and of which there is no copy.
    pub(crate) fn drop_lost(&mut self, key: Key) {
        self.drop_all_lost(&[key]);
    }

    /// Drops records that the store lost and of which there are no copies.
    ///
    /// Paho has no name for those of an earlier run, and may have another record under their key.
    pub(super) fn drop_all_lost(&mut self, keys: &[Key]) {
        let named = keys.iter().filter(|key| !self.index.is_earlier(**key));
        self.events.lost(keys.len(), named.copied());
        for key in keys {
            self.index.remove(*key);
            self.sends.forget(*key);
        }
    }

    /// Returns true if a write has not been sent, or not been confirmed.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns true if a write is pending that the store has not refused.
    pub(crate) fn has_unsettled(&self) -> bool {
        !self.pending.is_settled() || self.sends.is_dirty()
    }

    /// Returns true if records are to be removed from their places.
    pub(crate) fn has_removals(&self) -> bool {
        !self.set_asides.removals.is_empty()
    }

    pub(crate) fn has_refused(&self) -> bool {
        self.pending.has_refused()
    }

    /// Why the store refused the writes that it has refused, although it takes others.
    pub(crate) fn refusal(&self) -> Option<&Arc<Error>> {
        self.refusal.as_ref().filter(|_| self.has_refused())
    }

    /// Number and bytes of the puts that the store has not confirmed.
    pub(crate) fn pending_totals(&self) -> Totals {
        self.pending.put_totals()
    }

    /// Takes a snapshot for `Health` and `StoreEvent::Status`.
    ///
    /// Pending puts count as held during an outage or if the store refused them, and as unconfirmed
    /// otherwise.
    pub(crate) fn health_snapshot(&self, outage: Option<&Outage>) -> HealthSnapshot {
        let pending = self.pending_totals();
        let held = match outage {
            Some(_) => pending,
            None => self.pending.refused_totals(),
        };
        let unconfirmed = pending.without(held);
        let waiting = self.index.waiting.totals();
        let oldest_age = self.index.waiting.oldest_age();
        let [quarantined, discarded] = Place::BOTH.map(|place| self.set_asides.totals(place));
        HealthSnapshot {
            up: outage.is_none(),
            down_since: outage.map(|outage| outage.since_time),
            held_records: held.records,
            held_bytes: held.bytes,
            unconfirmed_records: unconfirmed.records,
            unconfirmed_bytes: unconfirmed.bytes,
            waiting_messages: waiting.messages,
            queued_messages: waiting.queued,
            waiting_bytes: waiting.bytes,
            limit_messages: None,
            limit_bytes: None,
            oldest_waiting: oldest_age.map(|age| Duration::from_secs(age.into())),
            lost_records: self.events.lost_records(),
            earlier_records: self.index.earlier(),
            poison_suspects: self.sends.suspects(&self.index),
            last_confirmed: self.last_confirmed,
            discarded_records: discarded.records,
            discarded_bytes: discarded.bytes,
            quarantined_records: quarantined.records,
            quarantined_bytes: quarantined.bytes,
        }
    }

    /// Counts a send of that many bytes, and returns true if the call must wait for a fence.
    fn needs_fence(&mut self, wants_confirm: bool, bytes: usize) -> bool {
        self.sends_since_fence = self.sends_since_fence.saturating_add(1);
        self.bytes_since_fence = self.bytes_since_fence.saturating_add(bytes);
        let is_due = self.sends_since_fence >= MAX_SENDS_BETWEEN_FENCES
            || self.bytes_since_fence >= MAX_BYTES_BETWEEN_FENCES;
        is_due
            || match self.confirmation {
                Confirmation::WhenDue => false,
                Confirmation::OnRequest => wants_confirm,
                Confirmation::Always => true,
            }
    }

    /// Marks every sent write as confirmed, and evicts values above the cache limit.
    pub(super) fn mark_confirmed(&mut self, clock: &Clock) {
        let Self {
            index,
            pending,
            last_put,
            ..
        } = self;
        pending.confirm(|key| {
            if index.is_over_limit() && *last_put != Some(key) {
                index.evict_value(key);
            }
        });
        self.sends_since_fence = 0;
        self.bytes_since_fence = 0;
        self.last_confirmed = Some(clock.time());
    }
}
