//! What there is, what the store has of it, and whether the store can be used.

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

/// After so many changes that nobody waits for, or so many bytes, the store is asked what became of
/// them.
const UNASKED: usize = 256;
const UNASKED_BYTES: usize = 256 * 1024;
/// No more changes than these, and bytes of them, are held.
const HELD: usize = 1024;
const HELD_BYTES: usize = 256 * 1024;

/// The records of an open client, written through to a store that may be away.
///
/// A change never fails: it is noted here, sent where the store can be used, and noted no longer once
/// that has confirmed it. What went wrong is an outage, which recovery ends.
pub(crate) struct WriteBehindCache<S> {
    pub(crate) index: RecordIndex,
    durability: Durability,
    pub(super) changes: PendingWrites,
    /// Its memory is used again and again.
    group: Vec<Key>,
    /// How much was sent since the store was last asked.
    unasked: usize,
    unasked_bytes: usize,
    /// The record that was put last: Paho is about to read it.
    pub(super) newest: Option<Key>,
    /// The records that the store was asked for ahead.
    pub(super) soon: Vec<Key>,
    /// Nothing was written since values were read last: Paho reads everything to restore it.
    pub(super) is_reading: bool,
    /// Entries that Paho did not write.
    pub(super) foreign: usize,
    /// Records that Paho could not read and the store refused to move: they count as foreign.
    pub(super) left: HashSet<Key>,
    /// Records that are to be moved from the other key before that is written over.
    pub(super) moves: Relocations,
    last_confirmed: SystemTime,
    /// It is not here while it is being recovered.
    pub(super) store: Option<S>,
    /// What it was opened for.
    pub(super) name: String,
    /// The life of the store in which it was last used.
    pub(super) life: Option<String>,
    pub(super) outage: Option<Outage>,
    /// How many changes were made again in this outage.
    pub(super) rewritten: u64,
    /// How many unknown records were told of last.
    pub(super) unknown: usize,
    /// Why the store could not be used, the last time.
    pub(crate) last_error: Option<Arc<Error>>,
    pub(crate) events: EventQueue,
}

/// Since when the store cannot be used, and why.
#[derive(Clone)]
pub(crate) struct Outage {
    pub(crate) since: Instant,
    pub(crate) since_time: SystemTime,
    pub(crate) error: Arc<Error>,
    /// A call has waited already, for the store or for its return.
    pub(crate) was_waited_for: bool,
}

/// When the store is to have a change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Before the call is answered.
    Confirmed,
    /// It is on its way there when the call is answered.
    Sent,
    /// With the next tick, or before that, where it is a remove, with another change; if it is still to be
    /// made by then. A crash before that has a message sent again that may be.
    Deferred,
}

impl<S: Store> WriteBehindCache<S> {
    pub(crate) fn new(
        store: S,
        name: String,
        life: Option<String>,
        index: RecordIndex,
        (foreign, left): (usize, HashSet<Key>),
        durability: Durability,
    ) -> Self {
        Self {
            index,
            durability,
            changes: PendingWrites::default(),
            group: Vec::new(),
            unasked: 0,
            unasked_bytes: 0,
            newest: None,
            soon: Vec::new(),
            is_reading: false,
            foreign: foreign.saturating_add(left.len()),
            left,
            moves: Relocations::default(),
            last_confirmed: SystemTime::now(),
            store: Some(store),
            name,
            life,
            outage: None,
            rewritten: 0,
            unknown: 0,
            last_error: None,
            events: EventQueue::default(),
        }
    }

    /// Writes a record and, in the same step, removes others, of which `instead_of` is the same
    /// message under another key.
    pub(crate) fn put(
        &mut self,
        key: Key,
        value: Vec<u8>,
        removed: &[Key],
        instead_of: Option<Key>,
        when: Ack,
    ) {
        let replaced = removed.iter().find_map(|key| self.changes.partner(*key));
        let partner = instead_of.or(replaced);
        for &removed in removed {
            self.note_removed(removed, None);
        }
        if let Some(other) = instead_of {
            self.note_removed(other, Some(key));
        } else if let Some(other) = replaced {
            self.changes.link(other, key);
        }
        let length = value.len();
        let is_known = self.index.contains(key);
        self.index.put(key, value);
        self.changes.note(key, Some(length), partner, is_known);
        if let Some(before) = self.newest.replace(key)
            && before != key
            && self.is_to_be_forgotten(before)
        {
            self.index.take_value(before);
        }
        match when {
            Ack::Confirmed => self.send(&[key], length, true),
            Ack::Sent => self.send(&[key], length, false),
            Ack::Deferred => self.limit_held(),
        }
    }

    /// Removes records in one step.
    pub(crate) fn remove(&mut self, keys: &[Key], when: Ack) {
        for &key in keys {
            self.note_removed(key, None);
        }
        match when {
            Ack::Confirmed | Ack::Sent => self.send(keys, 0, when == Ack::Confirmed),
            Ack::Deferred => {
                for &key in keys {
                    self.changes.ride(key);
                }
                self.limit_held();
            }
        }
    }

    fn note_removed(&mut self, key: Key, with: Option<Key>) {
        let is_known = self.index.contains(key);
        self.index.remove(key);
        self.changes.note(key, None, with, is_known);
    }

    fn limit_held(&mut self) {
        let held = self.changes.unsent();
        if self.outage.is_none() && (held.records >= HELD || held.bytes >= HELD_BYTES) {
            self.flush();
        }
    }

    /// Sends the changes of these keys, and of what belongs to the same messages, in one step, where
    /// the store can be used. What is sent now, or waited for, takes the removes along that ride: a new
    /// message may have the packet id of one that is gone, and Paho, which restored both, could not tell
    /// them apart.
    fn send(&mut self, keys: &[Key], bytes: usize, now: bool) {
        if self.outage.is_some() {
            return;
        }
        let waits = self.is_to_be_waited_for(now, bytes);
        let (mut asked, mut riding) = (Vec::new(), Vec::new());
        if waits {
            asked.extend(self.changes.sent());
        }
        if now || waits {
            riding = self.changes.take_riding();
        }
        let mut group = std::mem::take(&mut self.group);
        for &key in keys {
            if !group.contains(&key) {
                self.changes.group(key, &mut group);
            }
        }
        riding.retain(|key| !group.contains(key));
        self.write(&asked, &[&riding, &group], waits);
        group.clear();
        self.group = group;
    }

    /// Sends groups of changes, and asks for those that were sent before, where it waits.
    fn write(&mut self, asked: &[(Key, Option<usize>)], groups: &[&[Key]], waits: bool) {
        let Self {
            store: Some(store),
            outage: None,
            index,
            changes,
            ..
        } = self
        else {
            return;
        };
        self.is_reading = false;
        for keys in groups {
            changes.mark_sent(keys);
        }
        let mut keys = groups.iter().copied().flatten();
        let changed = if let (Some(key), None) = (keys.next(), keys.next()) {
            let name = key.to_name();
            transmit(store, asked, &[&[change(index, *key, &name)]], waits)
        } else {
            let keys = groups.iter().copied().flatten();
            let names: Vec<(Key, KeyName)> = keys.map(|key| (*key, key.to_name())).collect();
            let changes = names.iter().map(|(key, name)| change(index, *key, name));
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
            transmit(store, asked, &groups, waits)
        };
        match changed {
            Ok(()) if waits => self.confirmed(),
            Ok(()) => {}
            Err(error) => self.fail(error),
        }
    }

    /// Sends what is held and waits until the store has everything. Does nothing where it cannot be
    /// used, or has everything.
    pub(crate) fn flush(&mut self) {
        if self.changes.is_empty() || self.outage.is_some() {
            return;
        }
        let asked: Vec<_> = self.changes.sent().collect();
        let groups = self.groups(usize::MAX, false);
        let groups: Vec<&[Key]> = groups.iter().map(Vec::as_slice).collect();
        self.write(&asked, &groups, true);
    }

    /// Asks a store of which nothing has been heard whether it takes changes, and still has everything.
    pub(crate) fn check(&mut self) {
        let Self {
            store: Some(store),
            outage: None,
            ..
        } = self
        else {
            return;
        };
        let expected = self.index.len().saturating_add(self.foreign);
        match store.check() {
            // What is not confirmed may be there or not.
            Ok(_) if !self.changes.is_empty() => {}
            Ok(count) if count < expected => {
                let attempt = format!("find {expected} records, of which {count} are there");
                self.fail(Error::new(ErrorKind::Lost, attempt));
            }
            Ok(count) => {
                let unknown = count.saturating_sub(expected);
                self.foreign = self.foreign.saturating_add(unknown);
                self.events.unknown(unknown, false);
                self.last_confirmed = SystemTime::now();
            }
            Err(error) => self.fail(error),
        }
    }

    /// There is no room for the value, and the store has it.
    pub(super) fn is_to_be_forgotten(&self, key: Key) -> bool {
        self.index.is_full() && !self.changes.contains(key)
    }

    /// Moves a record that is about to be written over, if its value cannot be read now: before that, or
    /// whatever else becomes of the two keys, is written.
    pub(crate) fn relocate_later(&mut self, old: Key, new: Key) {
        self.index.rename(old, new);
        self.moves.add(old, new);
        // The store has it there until then.
        self.changes.note(old, None, None, true);
    }

    /// What is unconfirmed, as [`PendingWrites::groups`], but for what waits for a move.
    pub(super) fn groups(&self, bytes: usize, only_removes: bool) -> Vec<Vec<Key>> {
        let is_kept_back = |key| self.moves.concern(key);
        self.changes.groups(bytes, only_removes, is_kept_back)
    }

    /// Whether the store has something else under that key, or is to have it.
    pub(crate) fn is_number_used(&self, key: Key) -> bool {
        self.index.contains(key) || self.changes.contains(key) || self.moves.concern(key)
    }

    /// A record is gone that nobody removed.
    pub(crate) fn drop_lost(&mut self, key: Key) {
        self.index.remove(key);
        self.events.lost(1);
    }

    /// Ends what is known of records, and leaves those in the store alone.
    pub(crate) fn into_store(self) -> Option<S> {
        self.store
    }

    pub(crate) fn store(&self) -> Option<&S> {
        self.store.as_ref()
    }

    /// Whether something has not been sent or not been asked for.
    pub(crate) fn has_pending(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Whether the store is being recovered at this moment, and could be read otherwise.
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

    /// What the store has not confirmed.
    pub(crate) fn pending_totals(&self) -> Totals {
        self.changes.puts()
    }

    /// A snapshot for `Health` and `StoreEvent::Status`.
    pub(crate) fn health_snapshot(&self) -> HealthSnapshot {
        let unconfirmed = self.pending_totals();
        let outage = self.outage();
        let (held, unconfirmed) = match outage {
            Some(_) => (unconfirmed, Totals::default()),
            None => (Totals::default(), unconfirmed),
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

    /// Whether the store is to be waited for with a change of so many bytes.
    fn is_to_be_waited_for(&mut self, now: bool, bytes: usize) -> bool {
        self.unasked = self.unasked.saturating_add(1);
        self.unasked_bytes = self.unasked_bytes.saturating_add(bytes);
        let is_due = self.unasked >= UNASKED || self.unasked_bytes >= UNASKED_BYTES;
        is_due || now && self.durability == Durability::Confirmed
    }

    /// The store has what was sent.
    pub(super) fn confirmed(&mut self) {
        let Self {
            index,
            changes,
            newest,
            ..
        } = self;
        changes.confirm(|key| {
            if index.is_full() && *newest != Some(key) {
                index.take_value(key);
            }
        });
        self.unasked = 0;
        self.unasked_bytes = 0;
        self.last_confirmed = SystemTime::now();
    }

    pub(super) fn fail(&mut self, error: Error) {
        let error = Arc::new(error);
        self.changes.unsend();
        self.events.down(&error);
        self.last_error = Some(Arc::clone(&error));
        self.outage = Some(Outage {
            since: Instant::now(),
            since_time: SystemTime::now(),
            // That took as long as a call may wait.
            was_waited_for: error.kind() == ErrorKind::Timeout,
            error,
        });
    }
}

/// What the store is to be told of a record.
fn change<'a>(index: &'a RecordIndex, key: Key, name: &'a KeyName) -> Change<'a> {
    match index.value(key) {
        Some(value) => Change::Put { key: name, value },
        None => Change::Remove { key: name },
    }
}

fn transmit(
    store: &mut impl Store,
    asked: &[(Key, Option<usize>)],
    groups: &[&[Change<'_>]],
    waits: bool,
) -> Result<(), Error> {
    if !waits {
        return store.send(groups);
    }
    let asked: Vec<(KeyName, Option<usize>)> = asked
        .iter()
        .map(|(key, length)| (key.to_name(), *length))
        .collect();
    let sent = asked.iter().map(|(key, length)| Sent {
        key,
        length: *length,
    });
    store.confirm(&sent.collect::<Vec<_>>(), groups)
}

impl Outage {
    /// Whether the store only takes nothing, and answers what it has.
    pub(super) fn is_readable(&self) -> bool {
        matches!(
            self.error.kind(),
            ErrorKind::OutOfMemory | ErrorKind::Misconf
        )
    }
}
