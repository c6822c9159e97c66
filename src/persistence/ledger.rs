//! What there is, what the store has of it, and whether the store can be used.

mod moves;
mod reading;
mod recovering;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    changes::{Amount, Changes},
    events::Events,
    index::Index,
    settings::Durability,
};
use crate::{
    Change, Error, ErrorKind, Sent, Store,
    record::{Key, Name},
};
use moves::Moves;
pub(super) use recovering::{Away, write};

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
/// that has confirmed it. What went wrong is an outage, which [`recovery`](super::recovery) ends.
pub(super) struct Ledger<S> {
    pub(super) index: Index,
    durability: Durability,
    changes: Changes,
    /// Its memory is used again and again.
    group: Vec<Key>,
    /// How much was sent since the store was last asked.
    unasked: usize,
    unasked_bytes: usize,
    /// The record that was put last: Paho is about to read it.
    newest: Option<Key>,
    /// The records that the store was asked for ahead.
    soon: Vec<Key>,
    /// Nothing was written since values were read last: Paho reads everything to restore it.
    is_reading: bool,
    /// Entries that Paho did not write.
    foreign: usize,
    /// Records that Paho could not read and the store refused to move: they count as foreign.
    left: HashSet<Key>,
    /// Records that are to be moved from the other key before that is written over.
    moves: Moves,
    last_confirmed: SystemTime,
    /// It is not here while it is being recovered.
    store: Option<S>,
    /// What it was opened for.
    name: String,
    /// The life of the store in which it was last used.
    life: Option<String>,
    outage: Option<Outage>,
    /// How many changes were made again in this outage.
    rewritten: u64,
    /// How many unknown records were told of last.
    unknown: usize,
    /// Why the store could not be used, the last time.
    pub(super) last_error: Option<Arc<Error>>,
    pub(super) events: Events,
}

/// Since when the store cannot be used, and why.
#[derive(Clone)]
pub(super) struct Outage {
    pub(super) since: Instant,
    pub(super) since_time: SystemTime,
    pub(super) error: Arc<Error>,
    /// A call has waited already, for the store or for its return.
    pub(super) waited_for: bool,
}

/// When the store is to have a change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Before the call is answered.
    Now,
    /// It is on its way there when the call is answered.
    Sent,
    /// With the next tick, or before that, where it is a remove, with another change; if it is still to be
    /// made by then. A crash before that has a message sent again that may be.
    Soon,
}

impl<S: Store> Ledger<S> {
    pub(super) fn new(
        store: S,
        name: String,
        life: Option<String>,
        index: Index,
        (foreign, left): (usize, HashSet<Key>),
        durability: Durability,
    ) -> Self {
        Self {
            index,
            durability,
            changes: Changes::default(),
            group: Vec::new(),
            unasked: 0,
            unasked_bytes: 0,
            newest: None,
            soon: Vec::new(),
            is_reading: false,
            foreign: foreign.saturating_add(left.len()),
            left,
            moves: Moves::default(),
            last_confirmed: SystemTime::now(),
            store: Some(store),
            name,
            life,
            outage: None,
            rewritten: 0,
            unknown: 0,
            last_error: None,
            events: Events::default(),
        }
    }

    /// Writes a record and, in the same step, removes others, of which `instead_of` is the same
    /// message under another key.
    pub(super) fn put(
        &mut self,
        key: Key,
        value: Vec<u8>,
        removed: &[Key],
        instead_of: Option<Key>,
        when: When,
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
            When::Now => self.send(&[key], length, true),
            When::Sent => self.send(&[key], length, false),
            When::Soon => self.limit_held(),
        }
    }

    /// Removes records in one step.
    pub(super) fn remove(&mut self, keys: &[Key], when: When) {
        for &key in keys {
            self.note_removed(key, None);
        }
        match when {
            When::Now | When::Sent => self.send(keys, 0, when == When::Now),
            When::Soon => {
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
            let name = key.name();
            transmit(store, asked, &[&[change(index, *key, &name)]], waits)
        } else {
            let keys = groups.iter().copied().flatten();
            let names: Vec<(Key, Name)> = keys.map(|key| (*key, key.name())).collect();
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
    pub(super) fn flush(&mut self) {
        if self.changes.is_empty() || self.outage.is_some() {
            return;
        }
        let asked: Vec<_> = self.changes.sent().collect();
        let groups = self.groups(usize::MAX, false);
        let groups: Vec<&[Key]> = groups.iter().map(Vec::as_slice).collect();
        self.write(&asked, &groups, true);
    }

    /// Asks a store of which nothing has been heard whether it takes changes, and still has everything.
    pub(super) fn check(&mut self) {
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
    fn is_to_be_forgotten(&self, key: Key) -> bool {
        self.index.is_full() && !self.changes.contains(key)
    }

    /// Moves a record that is about to be written over, if its value cannot be read now: before that, or
    /// whatever else becomes of the two keys, is written.
    pub(super) fn move_later(&mut self, old: Key, new: Key) {
        self.index.rename(old, new);
        self.moves.add(old, new);
        // The store has it there until then.
        self.changes.note(old, None, None, true);
    }

    /// What is unconfirmed, as [`Changes::groups`], but for what waits for a move.
    fn groups(&self, bytes: usize, only_removes: bool) -> Vec<Vec<Key>> {
        let is_kept_back = |key| self.moves.concern(key);
        self.changes.groups(bytes, only_removes, is_kept_back)
    }

    /// Whether the store has something else under that key, or is to have it.
    pub(super) fn is_taken(&self, key: Key) -> bool {
        self.index.contains(key) || self.changes.contains(key) || self.moves.concern(key)
    }

    /// A record is gone that nobody removed.
    pub(super) fn lost(&mut self, key: Key) {
        self.index.remove(key);
        self.events.lost(1);
    }

    /// Ends what is known of records, and leaves those in the store alone.
    pub(super) fn into_store(self) -> Option<S> {
        self.store
    }

    pub(super) fn store(&self) -> Option<&S> {
        self.store.as_ref()
    }

    /// Whether something has not been sent or not been asked for.
    pub(super) fn is_busy(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Whether the store is being recovered at this moment, and could be read otherwise.
    pub(super) fn is_soon_readable(&self) -> bool {
        self.store.is_none() && self.outage.as_ref().is_some_and(Outage::can_be_read)
    }

    pub(super) fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    pub(super) fn outage_mut(&mut self) -> Option<&mut Outage> {
        self.outage.as_mut()
    }

    pub(super) fn last_confirmed(&self) -> SystemTime {
        self.last_confirmed
    }

    /// What the store has not confirmed.
    pub(super) fn unconfirmed(&self) -> Amount {
        self.changes.puts()
    }

    /// Whether the store is to be waited for with a change of so many bytes.
    fn is_to_be_waited_for(&mut self, now: bool, bytes: usize) -> bool {
        self.unasked = self.unasked.saturating_add(1);
        self.unasked_bytes = self.unasked_bytes.saturating_add(bytes);
        let is_due = self.unasked >= UNASKED || self.unasked_bytes >= UNASKED_BYTES;
        is_due || now && self.durability == Durability::Confirmed
    }

    /// The store has what was sent.
    fn confirmed(&mut self) {
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

    fn fail(&mut self, error: Error) {
        let error = Arc::new(error);
        self.changes.unsend();
        self.events.down(&error);
        self.last_error = Some(Arc::clone(&error));
        self.outage = Some(Outage {
            since: Instant::now(),
            since_time: SystemTime::now(),
            // That took as long as a call may wait.
            waited_for: error.kind() == ErrorKind::Timeout,
            error,
        });
    }
}

/// What the store is to be told of a record.
fn change<'a>(index: &'a Index, key: Key, name: &'a Name) -> Change<'a> {
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
    let asked: Vec<(Name, Option<usize>)> = asked
        .iter()
        .map(|(key, length)| (key.name(), *length))
        .collect();
    let sent = asked.iter().map(|(key, length)| Sent {
        key,
        length: *length,
    });
    store.confirm(&sent.collect::<Vec<_>>(), groups)
}

impl Outage {
    /// Whether the store only takes nothing, and answers what it has.
    fn can_be_read(&self) -> bool {
        matches!(
            self.error.kind(),
            ErrorKind::OutOfMemory | ErrorKind::Misconf
        )
    }
}
