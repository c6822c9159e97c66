//! The write-behind cache: live records, pending writes, and the state of the store behind them.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    event_queue::EventQueue,
    index::RecordIndex,
    pending::{PendingWrites, Totals},
    relocations::Relocations,
};
use crate::{
    error::{Error, ErrorKind},
    paho::{Key, KeyName},
    store::{Change, Durability, HealthSnapshot, Sent, Store},
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
/// A write never fails: it becomes pending, is sent if the store is available, and stops being
/// pending once the store has confirmed it. A store error becomes an [`Outage`], which recovery
/// ends. During an outage writes stay pending and no exchange is tried, but for reads that the
/// store still answers.
pub(crate) struct WriteBehindCache<S> {
    pub(crate) index: RecordIndex,
    durability: Durability,
    pub(super) pending: PendingWrites,
    /// Scratch memory of `send_groups`, kept so that a call allocates none.
    group_buffer: Vec<Key>,
    sends_since_fence: usize,
    bytes_since_fence: usize,
    /// The record that was put last; its value stays cached, since Paho reads it back at once.
    pub(super) last_put: Option<Key>,
    /// Keys that the store was asked to prefetch, empty if none.
    pub(super) prefetching: Vec<Key>,
    /// Values were read and nothing was written since, as while Paho restores its queues.
    pub(super) is_sequential_read: bool,
    /// Number of entries in the store that Paho did not write, unmovable records included.
    pub(super) foreign_entries: usize,
    /// Unreadable records that the store refused to quarantine.
    pub(super) unmovable: HashSet<Key>,
    /// Relocations that must happen in the store before their keys are written.
    pub(super) relocations: Relocations,
    last_confirmed: SystemTime,
    /// `None` while recovery has it.
    pub(super) store: Option<S>,
    /// Name under which the store has the records.
    pub(super) store_name: String,
    /// Instance id of the store process when it was last in sync with this cache.
    pub(super) instance_id: Option<String>,
    pub(super) outage: Option<Outage>,
    /// Number of pending writes that recovery has written in this outage.
    pub(super) rewritten: u64,
    /// Number of foreign records in the last event, so that each resync does not repeat it.
    pub(super) last_foreign_records: usize,
    /// Cause of the last outage; it stays after the outage, for `Health`.
    pub(crate) last_error: Option<Arc<Error>>,
    pub(crate) events: EventQueue,
}

/// The time since which the store is unavailable, and the reason.
#[derive(Clone)]
pub(crate) struct Outage {
    pub(crate) since: Instant,
    pub(crate) since_time: SystemTime,
    pub(crate) error: Arc<Error>,
    /// A call has already waited for the store in this outage; no other one does.
    pub(crate) was_waited_for: bool,
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

impl<S: Store> WriteBehindCache<S> {
    pub(crate) fn new(
        store: S,
        store_name: String,
        instance_id: Option<String>,
        index: RecordIndex,
        (foreign_entries, unmovable): (usize, HashSet<Key>),
        durability: Durability,
    ) -> Self {
        Self {
            index,
            durability,
            pending: PendingWrites::default(),
            group_buffer: Vec::new(),
            sends_since_fence: 0,
            bytes_since_fence: 0,
            last_put: None,
            prefetching: Vec::new(),
            is_sequential_read: false,
            foreign_entries: foreign_entries.saturating_add(unmovable.len()),
            unmovable,
            relocations: Relocations::default(),
            last_confirmed: SystemTime::now(),
            store: Some(store),
            store_name,
            instance_id,
            outage: None,
            rewritten: 0,
            last_foreign_records: 0,
            last_error: None,
            events: EventQueue::default(),
        }
    }

    /// Writes a record and, in the same step, removes those that it replaces.
    ///
    /// `partner` is the same message under another key, which is removed too. The two must change
    /// together: a crash must find the message under exactly one of them.
    pub(crate) fn put(
        &mut self,
        key: Key,
        value: Vec<u8>,
        replaced: &[Key],
        partner: Option<Key>,
        ack: Ack,
    ) {
        // A replaced PUBLISH that was never sent still has its command to remove.
        let inherited = replaced.iter().find_map(|key| self.pending.partner(*key));
        for &old in replaced {
            self.record_removed(old, None);
        }
        if let Some(partner) = partner {
            self.record_removed(partner, Some(key));
        } else if let Some(inherited) = inherited {
            self.pending.set_partner(inherited, key);
        }
        let length = value.len();
        let is_known = self.index.contains(key);
        self.index.put(key, value);
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
            Ack::Confirmed => self.send_groups(&[key], length, true),
            Ack::Sent => self.send_groups(&[key], length, false),
            Ack::Deferred => self.flush_if_deferred_full(),
        }
    }

    /// Removes records in one step.
    pub(crate) fn remove(&mut self, keys: &[Key], ack: Ack) {
        for &key in keys {
            self.record_removed(key, None);
        }
        match ack {
            Ack::Confirmed | Ack::Sent => self.send_groups(keys, 0, ack == Ack::Confirmed),
            Ack::Deferred => {
                for &key in keys {
                    self.pending.piggyback(key);
                }
                self.flush_if_deferred_full();
            }
        }
    }

    fn record_removed(&mut self, key: Key, partner: Option<Key>) {
        let is_known = self.index.contains(key);
        self.index.remove(key);
        self.pending.record(key, None, partner, is_known);
    }

    fn flush_if_deferred_full(&mut self) {
        let deferred = self.pending.unsent_totals();
        let is_full = deferred.records >= MAX_DEFERRED || deferred.bytes >= MAX_DEFERRED_BYTES;
        // In an outage everything is unsent, and a flush would do nothing.
        if self.outage.is_none() && is_full {
            self.flush();
        }
    }

    /// Sends the pending writes of these keys and of the rest of their messages, one step per
    /// message.
    ///
    /// Does nothing in an outage. A write that wants confirmation, or gets a fence, takes the
    /// piggybacked removes along and puts them first: a new message may reuse the packet id of a
    /// finished one, and Paho could not tell them apart if a crash made it restore both.
    fn send_groups(&mut self, keys: &[Key], bytes: usize, wants_confirm: bool) {
        if self.outage.is_some() {
            return;
        }
        let waits = self.needs_fence(wants_confirm, bytes);
        let (mut unconfirmed, mut piggybacked) = (Vec::new(), Vec::new());
        if waits {
            unconfirmed.extend(self.pending.unconfirmed());
        }
        if wants_confirm || waits {
            piggybacked = self.pending.take_piggybacked();
        }
        let mut group = std::mem::take(&mut self.group_buffer);
        for &key in keys {
            if !group.contains(&key) {
                self.pending.message_group(key, &mut group);
            }
        }
        piggybacked.retain(|key| !group.contains(key));
        self.flush_groups(&unconfirmed, &[&piggybacked, &group], waits);
        group.clear();
        self.group_buffer = group;
    }

    /// Sends groups of writes and, if it waits, confirms them and the `unconfirmed` ones before
    /// them.
    fn flush_groups(
        &mut self,
        unconfirmed: &[(Key, Option<usize>)],
        groups: &[&[Key]],
        waits: bool,
    ) {
        let Self {
            store: Some(store),
            outage: None,
            index,
            pending,
            ..
        } = self
        else {
            return;
        };
        self.is_sequential_read = false;
        // Before sending: if that fails, `begin_outage` makes them unsent again.
        for keys in groups {
            pending.mark_sent(keys);
        }
        let mut keys = groups.iter().copied().flatten();
        // Most calls write a single record, which needs no lists on the heap.
        let result = if let (Some(key), None) = (keys.next(), keys.next()) {
            let name = key.to_name();
            transmit(
                store,
                unconfirmed,
                &[&[change_for(index, *key, &name)]],
                waits,
            )
        } else {
            let keys = groups.iter().copied().flatten();
            let names: Vec<(Key, KeyName)> = keys.map(|key| (*key, key.to_name())).collect();
            let changes = names
                .iter()
                .map(|(key, name)| change_for(index, *key, name));
            let changes: Vec<Change<'_>> = changes.collect();
            let mut rest = &changes[..];
            let groups: Vec<&[Change<'_>]> = groups
                .iter()
                .filter_map(|keys| {
                    let (group, others) = rest.split_at_checked(keys.len())?;
                    rest = others;
                    Some(group)
                })
                .collect();
            transmit(store, unconfirmed, &groups, waits)
        };
        match result {
            Ok(()) if waits => self.mark_confirmed(),
            Ok(()) => {}
            Err(error) => self.begin_outage(error),
        }
    }

    /// Sends every pending write and waits until the store has confirmed all.
    ///
    /// Does nothing if nothing is pending, or in an outage.
    pub(crate) fn flush(&mut self) {
        if self.pending.is_empty() || self.outage.is_some() {
            return;
        }
        let unconfirmed: Vec<_> = self.pending.unconfirmed().collect();
        let groups = self.next_groups(usize::MAX, false);
        let groups: Vec<&[Key]> = groups.iter().map(Vec::as_slice).collect();
        self.flush_groups(&unconfirmed, &groups, true);
    }

    /// Checks that an idle store takes writes and still has all records; if not, an outage begins.
    pub(crate) fn check(&mut self) {
        let Self {
            store: Some(store),
            outage: None,
            ..
        } = self
        else {
            return;
        };
        let expected = self.index.len().saturating_add(self.foreign_entries);
        match store.check() {
            // The store may or may not have applied pending writes, so a count proves nothing.
            Ok(_) if !self.pending.is_empty() => {}
            Ok(count) if count < expected => {
                let attempt = format!("find all {expected} records, only {count} are left");
                self.begin_outage(Error::new(ErrorKind::Lost, attempt));
            }
            Ok(count) => {
                let added = count.saturating_sub(expected);
                self.foreign_entries = self.foreign_entries.saturating_add(added);
                self.events.foreign_records(added, false);
                self.last_confirmed = SystemTime::now();
            }
            Err(error) => self.begin_outage(error),
        }
    }

    /// Returns true if the cache exceeds its limit and the store has confirmed the record's value.
    pub(super) fn may_evict(&self, key: Key) -> bool {
        self.index.is_over_limit() && !self.pending.contains(key)
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
    pub(super) fn next_groups(&self, bytes: usize, only_removes: bool) -> Vec<Vec<Key>> {
        let is_blocked = |key| self.relocations.involves(key);
        self.pending.next_groups(bytes, only_removes, is_blocked)
    }

    /// Returns true if a live record, a pending write or a relocation uses the key.
    pub(crate) fn is_number_used(&self, key: Key) -> bool {
        self.index.contains(key) || self.pending.contains(key) || self.relocations.involves(key)
    }

    /// Drops a record that the store lost and of which there is no copy.
    pub(crate) fn drop_lost(&mut self, key: Key) {
        self.index.remove(key);
        self.events.lost(1);
    }

    /// Drops the cache and returns the store, unless recovery has it; the records stay in the
    /// store.
    pub(crate) fn into_store(self) -> Option<S> {
        self.store
    }

    pub(crate) fn store(&self) -> Option<&S> {
        self.store.as_ref()
    }

    /// Returns true if a write has not been sent, or not been confirmed.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns true if recovery has the store, and reads will work as soon as it returns it.
    pub(crate) fn is_lent_but_readable(&self) -> bool {
        self.store.is_none() && self.outage.as_ref().is_some_and(Outage::is_readable)
    }

    pub(crate) fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    pub(crate) fn outage_mut(&mut self) -> Option<&mut Outage> {
        self.outage.as_mut()
    }

    pub(crate) fn last_confirmed(&self) -> SystemTime {
        self.last_confirmed
    }

    /// Number and bytes of the puts that the store has not confirmed.
    pub(crate) fn pending_totals(&self) -> Totals {
        self.pending.put_totals()
    }

    /// Takes a snapshot for `Health` and `StoreEvent::Status`.
    ///
    /// Pending puts count as held during an outage, and as unconfirmed otherwise.
    pub(crate) fn health_snapshot(&self) -> HealthSnapshot {
        let pending = self.pending_totals();
        let outage = self.outage();
        let (held, unconfirmed) = match outage {
            Some(_) => (pending, Totals::default()),
            None => (Totals::default(), pending),
        };
        HealthSnapshot {
            up: outage.is_none(),
            down_since: outage.map(|outage| outage.since_time),
            held_records: held.records,
            held_bytes: held.bytes,
            unconfirmed_records: unconfirmed.records,
            unconfirmed_bytes: unconfirmed.bytes,
            lost_records: self.events.lost_records(),
            last_confirmed: Some(self.last_confirmed()),
        }
    }

    /// Counts a send of that many bytes, and returns true if the call must wait for a fence.
    fn needs_fence(&mut self, wants_confirm: bool, bytes: usize) -> bool {
        self.sends_since_fence = self.sends_since_fence.saturating_add(1);
        self.bytes_since_fence = self.bytes_since_fence.saturating_add(bytes);
        let is_due = self.sends_since_fence >= MAX_SENDS_BETWEEN_FENCES
            || self.bytes_since_fence >= MAX_BYTES_BETWEEN_FENCES;
        is_due || wants_confirm && self.durability == Durability::Confirmed
    }

    /// Marks every sent write as confirmed, and evicts values above the cache limit.
    pub(super) fn mark_confirmed(&mut self) {
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
        self.last_confirmed = SystemTime::now();
    }

    /// Begins an outage; every sent write becomes unsent again.
    pub(super) fn begin_outage(&mut self, error: Error) {
        let error = Arc::new(error);
        self.pending.mark_unsent();
        self.events.down(&error);
        self.last_error = Some(Arc::clone(&error));
        self.outage = Some(Outage {
            since: Instant::now(),
            since_time: SystemTime::now(),
            // The call that timed out has already waited as long as one may per outage.
            was_waited_for: error.kind() == ErrorKind::Timeout,
            error,
        });
    }
}

/// Creates the change that brings the store to the record's current value, or removes the record.
fn change_for<'a>(index: &'a RecordIndex, key: Key, name: &'a KeyName) -> Change<'a> {
    // The value of a pending put is always cached.
    match index.value(key) {
        Some(value) => Change::Put { key: name, value },
        None => Change::Remove { key: name },
    }
}

/// Hands groups of changes to the store, and waits for the confirmation if asked to.
fn transmit(
    store: &mut impl Store,
    unconfirmed: &[(Key, Option<usize>)],
    groups: &[&[Change<'_>]],
    waits: bool,
) -> Result<(), Error> {
    if !waits {
        return store.send(groups);
    }
    let unconfirmed: Vec<(KeyName, Option<usize>)> = unconfirmed
        .iter()
        .map(|(key, length)| (key.to_name(), *length))
        .collect();
    let sent = unconfirmed.iter().map(|(key, length)| Sent {
        key,
        length: *length,
    });
    store.confirm(&sent.collect::<Vec<_>>(), groups)
}

impl Outage {
    /// Returns true if the store refuses writes but can still be read.
    pub(super) fn is_readable(&self) -> bool {
        matches!(
            self.error.kind(),
            ErrorKind::OutOfMemory | ErrorKind::Misconf
        )
    }
}
