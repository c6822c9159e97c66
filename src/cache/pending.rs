//! Writes that the store has not confirmed, in the order of the calls.

use std::collections::{BTreeMap, HashSet};

use crate::{
    paho::{Key, KeyMap},
    store::{Change, Place},
};

/// The latest unconfirmed write per record.
///
/// A write is *unsent*, then *sent*, and removed once the store has confirmed it. One that the store
/// refuses, although it takes others, is *refused* until it is tried again. `piggybacked` and
/// `unconfirmed` hold a key with its sequence number; if a later call has replaced the write, the
/// numbers differ and the list entry is stale. So no list needs to be searched when a record changes.
#[derive(Default)]
pub(crate) struct PendingWrites {
    writes: KeyMap<PendingWrite>,
    /// Sequence number of the latest write.
    last_sequence: u64,
    /// Writes that have not been sent, by sequence number.
    unsent: BTreeMap<u64, Key>,
    /// Unsent removes that go along with the next `Ack::Confirmed` write or fence.
    piggybacked: Vec<(Key, u64)>,
    /// Writes that were sent and that no fence has confirmed.
    unconfirmed: Vec<(Key, u64)>,
    /// Writes that the store refused, by sequence number.
    refused: BTreeMap<u64, Key>,
    put_totals: Totals,
    /// Puts in `unsent`.
    unsent_puts: Totals,
    /// Changes that are made in one step with the write of a key.
    attached: KeyMap<Vec<Attachment>>,
    /// Values in `attached`.
    attached_totals: Totals,
}

/// A change of what is set aside, made in one step with the write of a record.
///
/// It stays with the key until it is confirmed, also if Paho puts another record there meanwhile.
struct Attachment {
    change: SetAsideChange,
    /// The sequence number of the write with which it was sent.
    sent_with: Option<u64>,
    /// It was sent, and may have arrived.
    may_be_in_store: bool,
}

/// A change of what is set aside, which owns its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetAsideChange {
    Add {
        place: Place,
        name: String,
        value: Box<[u8]>,
    },
    Remove {
        place: Place,
        name: String,
    },
}

impl SetAsideChange {
    /// Returns the length of the value that exists only here until it is written.
    fn length(&self) -> Option<usize> {
        match self {
            Self::Add { value, .. } => Some(value.len()),
            Self::Remove { .. } => None,
        }
    }

    fn adds(&self, place: Place, name: &str) -> bool {
        matches!(self, Self::Add { place: other, name: known, .. } if *other == place && known == name)
    }

    pub(super) fn place_and_name(&self) -> (Place, &str) {
        match self {
            Self::Add { place, name, .. } | Self::Remove { place, name } => (*place, name),
        }
    }

    pub(super) fn as_change(&self) -> Change<'_> {
        match self {
            Self::Add { place, name, value } => Change::SetAside {
                place: *place,
                name,
                value,
            },
            Self::Remove { place, name } => Change::RemoveSetAside {
                place: *place,
                name,
            },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteState {
    Unsent,
    Sent,
    Refused,
}

#[derive(Clone, Copy)]
struct PendingWrite {
    /// Position in the order of the calls.
    sequence: u64,
    state: WriteState,
    /// The store may have a value under the key, so a remove must be sent.
    may_be_in_store: bool,
    /// Length of the value that was put, in bytes; `None` for a remove.
    put_length: Option<usize>,
    /// The next key of the same message; its own key if there is no other.
    ///
    /// The keys of a message form a ring, so that each leads to all: a put of one and the removes of
    /// others happen together.
    next_partner: Key,
}

/// The size of a batch of unsent writes.
#[derive(Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Bytes of values, keys and protocol.
    pub(crate) bytes: usize,
    /// Messages that put records; with 0 only removes are taken.
    pub(crate) puts: usize,
    /// The smallest messages come first, and not the oldest: they have the best chance to be taken.
    pub(crate) smallest_first: bool,
}

impl BatchLimits {
    pub(crate) const NONE: Self = Self {
        bytes: usize::MAX,
        puts: usize::MAX,
        smallest_first: false,
    };
}

/// A number of records and the bytes of their values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

impl Totals {
    fn add(&mut self, length: usize) {
        self.records = self.records.saturating_add(1);
        self.bytes = self.bytes.saturating_add(length);
    }

    fn subtract(&mut self, length: usize) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(length);
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_sub(other.records),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl PendingWrites {
    /// Records a put of that length, or a remove, and replaces an earlier write of the same key.
    ///
    /// `may_be_stored` is whether the store may have a value under the key; it counts only if no
    /// write of the key is pending, which knows better. A record that is put and removed before it
    /// was sent leaves no write at all. The write goes together with those of `partner` and of the
    /// message that the key belonged to before.
    pub(crate) fn record(
        &mut self,
        key: Key,
        put_length: Option<usize>,
        partner: Option<Key>,
        may_be_stored: bool,
    ) {
        let partners: Vec<Key> = self.partners(key).collect();
        let replaced = self.take(key);
        let may_be_in_store = replaced.map_or(may_be_stored, |replaced| {
            replaced.may_be_in_store || replaced.state == WriteState::Sent
        });
        for partner in &partners {
            // The rest of a refused message may be accepted without this write.
            self.reopen(*partner);
            // The remove of a partner may have no put to go with any more, and is still due.
            if put_length.is_none() {
                self.piggyback(*partner);
            }
        }
        // What is attached needs a write to go with.
        if put_length.is_none() && !may_be_in_store && !self.attached.contains_key(&key) {
            return;
        }
        self.last_sequence = self.last_sequence.wrapping_add(1);
        let write = PendingWrite {
            sequence: self.last_sequence,
            state: WriteState::Unsent,
            may_be_in_store,
            put_length,
            next_partner: key,
        };
        self.writes.insert(key, write);
        if let Some(length) = put_length {
            self.put_totals.add(length);
        }
        self.enter_list(key, write);
        for partner in partners.first().copied().into_iter().chain(partner) {
            self.join(key, partner);
        }
    }

    /// Attaches a change to the next write of a key, which the caller records next.
    pub(crate) fn attach(&mut self, key: Key, change: SetAsideChange) {
        if let Some(length) = change.length() {
            self.attached_totals.add(length);
        }
        self.attached.entry(key).or_default().push(Attachment {
            change,
            sent_with: None,
            may_be_in_store: false,
        });
    }

    /// Returns the changes that are made in one step with the write of a key.
    pub(crate) fn attached(&self, key: Key) -> impl Iterator<Item = &SetAsideChange> {
        let attached = self.attached.get(&key).into_iter().flatten();
        attached.map(|attachment| &attachment.change)
    }

    /// Drops a value that was to be set aside; returns false if the store may have it.
    pub(crate) fn detach(&mut self, key: Key, place: Place, name: &str) -> bool {
        // Mostly under the key of the record, which is in the name.
        let has_it = |key: &Key| self.attached(*key).any(|change| change.adds(place, name));
        let moved = || self.attached.keys().find(|key| has_it(key)).copied();
        let Some(key) = Some(key).filter(has_it).or_else(moved) else {
            return false;
        };
        let mut is_only_here = false;
        self.retain_attached(key, |attachment| {
            let is_it = attachment.change.adds(place, name);
            is_only_here |= is_it && !attachment.may_be_in_store;
            !is_it
        });
        is_only_here
    }

    /// Returns every change of what is set aside that is not confirmed.
    pub(crate) fn all_attached(&self) -> impl Iterator<Item = &SetAsideChange> {
        let attached = self.attached.values().flatten();
        attached.map(|attachment| &attachment.change)
    }

    /// Returns true if a value is set aside in one step with the write of the key or of its message.
    pub(crate) fn sets_aside(&self, key: Key) -> bool {
        if self.attached.is_empty() {
            return false;
        }
        let mut group = Vec::new();
        self.message_group(key, &mut group);
        group.iter().any(|key| self.has_value_attached(*key))
    }

    pub(crate) fn has_attached(&self, key: Key) -> bool {
        self.attached.contains_key(&key)
    }

    fn has_value_attached(&self, key: Key) -> bool {
        self.attached(key).any(|change| change.length().is_some())
    }

    /// Drops the values that are to be set aside with these keys, so that only the rest is written.
    ///
    /// Returns their places and names.
    pub(crate) fn give_up(&mut self, keys: &[Key]) -> Vec<(Place, String)> {
        let mut given_up = Vec::new();
        for key in keys {
            self.retain_attached(*key, |attachment| match &attachment.change {
                SetAsideChange::Add { place, name, .. } => {
                    given_up.push((*place, name.clone()));
                    false
                }
                SetAsideChange::Remove { .. } => true,
            });
        }
        given_up
    }

    /// Returns the keys with values to be set aside whose messages also remove something from the store.
    pub(crate) fn blocked_removes(&self) -> Vec<Key> {
        let frees = |key: &Key| {
            let write = self.writes.get(key);
            write.is_some_and(|write| write.put_length.is_none() && write.may_be_in_store)
        };
        let puts = |key: &Key| self.put_length(*key).is_some();
        let keys = self.attached.keys().filter(|key| {
            let mut group = Vec::new();
            self.message_group(**key, &mut group);
            self.has_value_attached(**key) && group.iter().any(frees) && !group.iter().any(puts)
        });
        keys.copied().collect()
    }

    fn retain_attached(&mut self, key: Key, mut is_kept: impl FnMut(&Attachment) -> bool) {
        let Some(attached) = self.attached.get_mut(&key) else {
            return;
        };
        let totals = &mut self.attached_totals;
        attached.retain(|attachment| {
            let is_kept = is_kept(attachment);
            if let (false, Some(length)) = (is_kept, attachment.change.length()) {
                totals.subtract(length);
            }
            is_kept
        });
        if !attached.is_empty() {
            return;
        }
        self.attached.remove(&key);
        // A remove of what the store never had, which was needed for the attached changes only.
        let is_void = |write: &PendingWrite| {
            write.put_length.is_none() && !write.may_be_in_store && write.state != WriteState::Sent
        };
        if self.writes.get(&key).is_some_and(is_void) {
            self.take(key);
        }
    }

    /// Joins the messages of two keys, if writes of both are pending.
    fn join(&mut self, key: Key, partner: Key) {
        if self.partners(key).any(|other| other == partner) {
            return;
        }
        // To exchange the ends of two rings makes them one.
        let end = |key| Some(self.writes.get(&key)?.next_partner);
        if let (Some(next), Some(next_of_partner)) = (end(key), end(partner)) {
            self.set_next_partner(key, next_of_partner);
            self.set_next_partner(partner, next);
        }
    }

    fn set_next_partner(&mut self, key: Key, next: Key) {
        if let Some(write) = self.writes.get_mut(&key) {
            write.next_partner = next;
        }
    }

    /// Takes out the write of a key; its entries in `unconfirmed` and `piggybacked` become stale.
    fn take(&mut self, key: Key) -> Option<PendingWrite> {
        let last_partner = self.partners(key).last();
        let write = self.writes.remove(&key)?;
        if let Some(last) = last_partner {
            self.set_next_partner(last, write.next_partner);
        }
        if let Some(length) = write.put_length {
            self.put_totals.subtract(length);
        }
        self.leave_list(write);
        Some(write)
    }

    /// Adds a write to the list of its state.
    fn enter_list(&mut self, key: Key, write: PendingWrite) {
        match write.state {
            WriteState::Unsent => {
                self.unsent.insert(write.sequence, key);
                if let Some(length) = write.put_length {
                    self.unsent_puts.add(length);
                }
            }
            WriteState::Sent => self.unconfirmed.push((key, write.sequence)),
            WriteState::Refused => drop(self.refused.insert(write.sequence, key)),
        }
    }

    fn leave_list(&mut self, write: PendingWrite) {
        match write.state {
            WriteState::Unsent => {
                self.unsent.remove(&write.sequence);
                if let Some(length) = write.put_length {
                    self.unsent_puts.subtract(length);
                }
            }
            // Its entry is stale from now on.
            WriteState::Sent => {}
            WriteState::Refused => drop(self.refused.remove(&write.sequence)),
        }
    }

    /// Moves a write to another state, and to the list of that state.
    fn set_state(&mut self, key: Key, state: WriteState) {
        let Some(write) = self
            .writes
            .get_mut(&key)
            .filter(|write| write.state != state)
        else {
            return;
        };
        let before = *write;
        write.state = state;
        let after = *write;
        self.leave_list(before);
        self.enter_list(key, after);
    }

    /// Makes a refused write unsent, so that it is tried again.
    fn reopen(&mut self, key: Key) {
        let write = self.writes.get(&key);
        if write.is_some_and(|write| write.state == WriteState::Refused) {
            self.set_state(key, WriteState::Unsent);
        }
    }

    /// Notes that the store has a value under the key of a pending write, which a remove must reach.
    pub(crate) fn note_stored(&mut self, key: Key) {
        if let Some(write) = self.writes.get_mut(&key) {
            write.may_be_in_store = true;
        }
    }

    /// Notes that the store has nothing of this client under the key, so a remove of it is not due
    /// unless something is attached.
    pub(crate) fn note_absent(&mut self, key: Key) {
        let Some(write) = self.writes.get_mut(&key) else {
            return;
        };
        write.may_be_in_store = false;
        if write.put_length.is_none() && !self.attached.contains_key(&key) {
            self.take(key);
        }
    }

    /// Returns true for a put that the store cannot have, since it was never sent.
    pub(crate) fn is_new(&self, key: Key) -> bool {
        let write = self.writes.get(&key);
        write.is_some_and(|write| !write.may_be_in_store)
    }

    /// Gives the write of a record another key, in its place in the order, with what is attached.
    pub(crate) fn rekey(&mut self, old: Key, new: Key) {
        if let Some(attached) = self.attached.remove(&old) {
            self.attached.insert(new, attached);
        }
        let last_partner = self.partners(old).last();
        let Some(mut write) = self.writes.remove(&old) else {
            return;
        };
        match last_partner {
            Some(last) => self.set_next_partner(last, new),
            None => write.next_partner = new,
        }
        self.writes.insert(new, write);
        let by_sequence = [&mut self.unsent, &mut self.refused];
        for key in by_sequence
            .into_iter()
            .filter_map(|list| list.get_mut(&write.sequence))
        {
            *key = new;
        }
        for (key, _) in self.unconfirmed.iter_mut().chain(&mut self.piggybacked) {
            if *key == old {
                *key = new;
            }
        }
    }

    /// Returns the other keys of the message, sent or not.
    pub(crate) fn partners(&self, key: Key) -> impl Iterator<Item = Key> {
        let next_partner = move |from: Key| {
            let next = self.writes.get(&from)?.next_partner;
            (next != key).then_some(next)
        };
        std::iter::successors(next_partner(key), move |from| next_partner(*from))
    }

    /// Piggybacks an unsent remove on the next `Ack::Confirmed` write or fence.
    pub(crate) fn piggyback(&mut self, key: Key) {
        if let Some(write) = self.unsent_write(key)
            && write.put_length.is_none()
        {
            self.piggybacked.push((key, write.sequence));
        }
    }

    /// Takes the piggybacked removes that are still due, and need not go with a put of their message.
    pub(crate) fn take_piggybacked(&mut self) -> Vec<Key> {
        let mut piggybacked = std::mem::take(&mut self.piggybacked);
        let is_current = |(key, sequence): &(Key, u64)| {
            self.unsent_write(*key)
                .is_some_and(|write| write.sequence == *sequence)
        };
        let is_put = |key: Key| {
            let write = self.unsent_write(key);
            write.is_some_and(|write| write.put_length.is_some())
        };
        let due = piggybacked
            .iter()
            .filter(|entry| is_current(entry))
            .map(|(key, _)| *key)
            .filter(|key| !self.partners(*key).any(is_put))
            // A full store refuses what adds something, and must not refuse these removes with it.
            .filter(|key| !self.sets_aside(*key))
            .collect();
        // Keeps the buffer, unless an outage has made it long.
        piggybacked.clear();
        piggybacked.shrink_to(16);
        self.piggybacked = piggybacked;
        due
    }

    fn unsent_write(&self, key: Key) -> Option<&PendingWrite> {
        let write = self.writes.get(&key);
        write.filter(|write| write.state != WriteState::Sent)
    }

    /// Returns the puts that have not been sent, oldest first.
    pub(crate) fn unsent_puts(&self) -> Vec<Key> {
        let keys = self.unsent.values().copied();
        keys.filter(|key| self.put_length(*key).is_some()).collect()
    }

    /// Appends the keys of this message whose writes have not been sent.
    ///
    /// They are written in one step, so that a crash neither loses nor doubles the message. Keys
    /// that `group` already has belong to other messages.
    pub(crate) fn message_group(&self, key: Key, group: &mut Vec<Key>) {
        let first = group.len();
        let add = |key: Key, group: &mut Vec<Key>| {
            let is_new = !group.iter().skip(first).any(|other| *other == key);
            if is_new && self.unsent_write(key).is_some() {
                group.push(key);
            }
        };
        let add_siblings = |key: Key, group: &mut Vec<Key>| {
            for sibling in key.message_keys() {
                add(sibling, group);
            }
        };
        add_siblings(key, group);
        // A partner has siblings and they have partners, so the group grows while it is walked.
        let mut position = first;
        while let Some(key) = group.get(position).copied() {
            for partner in self.partners(key) {
                add_siblings(partner, group);
            }
            position = position.saturating_add(1);
        }
    }

    /// Groups unsent writes by message, oldest first, up to the limits but at least one group.
    ///
    /// All groups that only remove become one and go first: they make room, and removing a record
    /// early is safe, since Paho is done with it. Groups with a key for which `is_blocked` returns
    /// true stay pending.
    pub(crate) fn next_groups(
        &self,
        limits: BatchLimits,
        is_blocked: impl Fn(Key) -> bool,
    ) -> Vec<Vec<Key>> {
        /// Bytes of key and protocol per write, roughly.
        const OVERHEAD: usize = 64;
        let mut removes = Vec::new();
        let mut groups = Vec::new();
        let mut grouped = HashSet::new();
        let mut size = 0_usize;
        let mut by_size: Vec<&Key> = Vec::new();
        if limits.smallest_first {
            by_size.extend(self.unsent.values());
            by_size.sort_by_key(|key| {
                let partners = self.partners(**key).map(|key| self.put_length(key));
                self.put_length(**key).max(partners.max().flatten())
            });
        }
        let by_age = self.unsent.values().filter(|_| !limits.smallest_first);
        for key in by_size.into_iter().chain(by_age) {
            let has_all_puts = limits.puts > 0 && groups.len() >= limits.puts;
            if size >= limits.bytes || has_all_puts {
                break;
            }
            if grouped.contains(key) {
                continue;
            }
            let mut group = Vec::new();
            self.message_group(*key, &mut group);
            let attached = group.iter().flat_map(|key| self.attached(*key));
            let lengths = group.iter().map(|key| self.put_length(*key));
            let lengths: Vec<Option<usize>> = lengths
                .chain(attached.map(SetAsideChange::length))
                .collect();
            let has_put = lengths.iter().any(Option::is_some);
            if has_put && limits.puts == 0 || group.iter().any(|key| is_blocked(*key)) {
                continue;
            }
            size = lengths.iter().fold(size, |size, length| {
                size.saturating_add(length.unwrap_or_default())
                    .saturating_add(OVERHEAD)
            });
            grouped.extend(group.iter().copied());
            if has_put {
                groups.push(group);
            } else {
                removes.append(&mut group);
            }
        }
        if !removes.is_empty() {
            groups.insert(0, removes);
        }
        groups
    }

    fn put_length(&self, key: Key) -> Option<usize> {
        self.writes.get(&key)?.put_length
    }

    /// Marks writes as sent.
    pub(crate) fn mark_sent(&mut self, keys: &[Key]) {
        for key in keys {
            self.set_state(*key, WriteState::Sent);
            let sequence = self.writes.get(key).map(|write| write.sequence);
            for attachment in self.attached.get_mut(key).into_iter().flatten() {
                attachment.sent_with = sequence;
                attachment.may_be_in_store = true;
            }
        }
    }

    /// Marks the writes of a message as refused, until [`retry_refused`](Self::retry_refused).
    pub(crate) fn refuse(&mut self, keys: &[Key]) {
        for key in keys {
            if self.unsent_write(*key).is_some() {
                self.set_state(*key, WriteState::Refused);
            }
        }
    }

    pub(crate) fn is_refused(&self, key: Key) -> bool {
        let write = self.writes.get(&key);
        write.is_some_and(|write| write.state == WriteState::Refused)
    }

    /// Makes every refused write unsent again.
    pub(crate) fn retry_refused(&mut self) {
        for key in std::mem::take(&mut self.refused).into_values() {
            self.set_state(key, WriteState::Unsent);
        }
    }

    /// Returns the refused message with the smallest value, which has the best chance to be taken.
    ///
    /// Messages with a key for which `is_blocked` returns true are left out.
    pub(crate) fn smallest_refused(&self, is_blocked: impl Fn(Key) -> bool) -> Option<Vec<Key>> {
        let messages = self.messages(self.refused.values());
        let messages = messages.filter(|group| !group.iter().any(|key| is_blocked(*key)));
        let bytes = |group: &Vec<Key>| {
            let lengths = group.iter().filter_map(|key| self.put_length(*key));
            lengths.fold(0, usize::saturating_add)
        };
        messages.min_by_key(bytes)
    }

    /// Returns the messages with unsent writes that have a key for which `is_wanted` returns true.
    pub(crate) fn unsent_messages_with(&self, is_wanted: impl Fn(Key) -> bool) -> Vec<Vec<Key>> {
        let messages = self.messages(self.unsent.values());
        let messages = messages.filter(|group| group.iter().any(|key| is_wanted(*key)));
        messages.collect()
    }

    fn messages<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> impl Iterator<Item = Vec<Key>> {
        keys.map(|key| {
            let mut group = Vec::new();
            self.message_group(*key, &mut group);
            group
        })
    }

    /// Number and bytes of the puts that the store refused.
    pub(crate) fn refused_totals(&self) -> Totals {
        let mut totals = Totals::default();
        let lengths = self.refused.values().map(|key| self.put_length(*key));
        lengths.flatten().for_each(|length| totals.add(length));
        totals
    }

    pub(crate) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Writes that were sent and not confirmed, with the length that each value must have.
    ///
    /// Writes that a later call has replaced are left out: the store need not have them.
    pub(crate) fn unconfirmed(&self) -> impl Iterator<Item = (Key, Option<usize>)> {
        self.unconfirmed.iter().filter_map(|(key, sequence)| {
            let write = self.writes.get(key)?;
            (write.sequence == *sequence).then_some((*key, write.put_length))
        })
    }

    /// Drops the writes that were sent, since the store has them, and passes on their keys.
    ///
    /// A record that changed again in the meantime stays pending.
    pub(crate) fn confirm(&mut self, mut on_confirmed: impl FnMut(Key)) {
        let mut unconfirmed = std::mem::take(&mut self.unconfirmed);
        for (key, sequence) in unconfirmed.drain(..) {
            if !self.attached.is_empty() {
                self.retain_attached(key, |attachment| attachment.sent_with != Some(sequence));
            }
            let write = self.writes.get(&key);
            if write.is_some_and(|write| write.sequence == sequence) {
                self.take(key);
                on_confirmed(key);
            }
        }
        // Reuses the allocation.
        self.unconfirmed = unconfirmed;
    }

    /// Marks every sent write as unsent, in its old position: it may not have arrived.
    pub(crate) fn mark_unsent(&mut self) {
        for (key, sequence) in std::mem::take(&mut self.unconfirmed) {
            if let Some(write) = self.writes.get_mut(&key)
                && write.sequence == sequence
            {
                // It may also have arrived: removing the record now needs a write.
                write.may_be_in_store = true;
                self.set_state(key, WriteState::Unsent);
            }
        }
        for attachment in self.attached.values_mut().flatten() {
            attachment.sent_with = None;
        }
        // Recovery writes everything that is unsent, removes included.
        self.piggybacked.clear();
    }

    pub(crate) fn is_unsent(&self, key: Key) -> bool {
        self.unsent_write(key).is_some()
    }

    /// The sequence number of the latest write.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Returns true if no write up to this sequence number is unsent or refused.
    pub(crate) fn is_sent_up_to(&self, sequence: u64) -> bool {
        let lists = [&self.unsent, &self.refused];
        let oldest = lists.iter().filter_map(|list| list.keys().next()).min();
        oldest.is_none_or(|oldest| *oldest > sequence)
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.writes.contains_key(&key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Key> {
        self.writes.keys().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Returns true if nothing but refused writes is pending.
    pub(crate) fn is_settled(&self) -> bool {
        self.writes.len() == self.refused.len()
    }

    /// Number of unsent writes, removes included, and bytes of the values that they put.
    pub(crate) fn unsent_totals(&self) -> Totals {
        Totals {
            records: self.unsent.len(),
            bytes: self
                .unsent_puts
                .bytes
                .saturating_add(self.attached_totals.bytes),
        }
    }

    /// Number and bytes of the puts that are not confirmed, sent or not, and of what is set aside.
    pub(crate) fn put_totals(&self) -> Totals {
        let attached = self.attached_totals;
        Totals {
            records: self.put_totals.records.saturating_add(attached.records),
            bytes: self.put_totals.bytes.saturating_add(attached.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("valid key")
    }

    fn names(groups: &[Vec<Key>]) -> Vec<Vec<String>> {
        let names = |group: &Vec<Key>| group.iter().map(Key::to_string).collect();
        groups.iter().map(names).collect()
    }

    #[test]
    fn put_and_remove_cancel_out() {
        let mut pending = PendingWrites::default();
        pending.record(key("c-1"), Some(5), None, false);
        pending.record(key("c-1"), None, None, false);
        assert!(pending.is_empty());
        assert_eq!(pending.put_totals(), Totals::default());
        // Once sent, the store may have the record, so the remove stays pending.
        pending.record(key("c-1"), Some(5), None, false);
        pending.mark_sent(&[key("c-1")]);
        pending.record(key("c-1"), None, None, false);
        assert_eq!(
            names(&pending.next_groups(BatchLimits::NONE, |_| false)),
            [["c-1"]]
        );
    }

    #[test]
    fn moved_message_is_written_in_one_group() {
        let mut pending = PendingWrites::default();
        pending.record(key("c-1"), None, None, true);
        pending.record(key("s-7"), Some(5), Some(key("c-1")), false);
        pending.record(key("q-1"), Some(5), None, false);
        assert_eq!(
            names(&pending.next_groups(BatchLimits::NONE, |_| false)),
            [vec!["s-7", "c-1"], vec!["q-1"]].map(|names| {
                let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
                if names.len() > 1 {
                    names.reverse();
                }
                names
            })
        );
        // Acknowledged before it was written: only the remove of the command is left.
        pending.record(key("s-7"), None, None, false);
        assert_eq!(pending.take_piggybacked(), [key("c-1")]);
    }

    #[test]
    fn replacing_key_takes_over_partner() {
        let mut pending = PendingWrites::default();
        pending.record(key("c-1"), None, None, true);
        pending.record(key("s-7"), Some(5), Some(key("c-1")), false);
        let partner = pending.partners(key("s-7")).next();
        pending.record(key("s-7"), None, None, false);
        pending.record(key("s5-7"), Some(5), partner, false);
        assert_eq!(partners(&pending, "c-1"), ["s5-7"]);
        // The remove goes with its new put, and not before it.
        assert!(pending.take_piggybacked().is_empty());
        let mut group = Vec::new();
        pending.message_group(key("c-1"), &mut group);
        group.sort_unstable();
        assert_eq!(group, [key("c-1"), key("s5-7")]);
    }

    fn partners(pending: &PendingWrites, name: &str) -> Vec<String> {
        let partners = pending.partners(key(name));
        partners.map(|key| key.to_string()).collect()
    }

    #[test]
    fn message_of_three_keys_stays_together() {
        let mut pending = PendingWrites::default();
        // An unread PUBLISH is relocated, and another message takes its packet id.
        pending.record(key("s-7"), None, None, true);
        pending.record(key("s-9"), Some(5), Some(key("s-7")), false);
        pending.record(key("c-1"), None, None, true);
        pending.record(key("s-7"), Some(5), Some(key("c-1")), true);
        for name in ["s-7", "s-9", "c-1"] {
            let mut group = Vec::new();
            pending.message_group(key(name), &mut group);
            group.sort_unstable();
            assert_eq!(group, ["c-1", "s-7", "s-9"].map(key), "{name}");
        }
        // Sent, and put again: if the first write failed, the second one must not come before it.
        pending.mark_sent(&["s-7", "s-9", "c-1"].map(key));
        pending.record(key("s-7"), Some(6), None, false);
        pending.mark_unsent();
        let mut group = Vec::new();
        pending.message_group(key("s-7"), &mut group);
        assert_eq!(group.len(), 3);
        // What leaves the message leaves the others together.
        pending.mark_sent(&[key("c-1")]);
        pending.confirm(drop);
        assert_eq!(partners(&pending, "s-7"), ["s-9"]);
        assert_eq!(partners(&pending, "s-9"), ["s-7"]);
        // Neither a partner of its own nor one without a write changes anything.
        pending.record(key("s-9"), Some(5), Some(key("s-7")), false);
        pending.record(key("s-9"), Some(5), Some(key("s-1")), false);
        assert_eq!(partners(&pending, "s-7"), ["s-9"]);
        assert!(partners(&pending, "s-1").is_empty());
    }

    #[test]
    fn writes_keep_call_order_after_failure() {
        let mut pending = PendingWrites::default();
        for number in [3, 1, 2] {
            pending.record(key(&format!("q-{number}")), Some(100), None, false);
        }
        assert_eq!(
            names(&pending.next_groups(
                BatchLimits {
                    bytes: 1,
                    ..BatchLimits::NONE
                },
                |_| false
            )),
            [["q-3"]]
        );
        pending.mark_sent(&[key("q-3")]);
        pending.mark_unsent();
        let all = names(&pending.next_groups(BatchLimits::NONE, |_| false));
        assert_eq!(all, [["q-3"], ["q-1"], ["q-2"]]);
        assert_eq!(
            pending.unsent_totals(),
            Totals {
                records: 3,
                bytes: 300
            }
        );
    }

    #[test]
    fn write_during_confirmation_stays_pending() {
        let mut pending = PendingWrites::default();
        pending.record(key("q-1"), Some(1), None, false);
        pending.record(key("q-2"), Some(1), None, false);
        pending.mark_sent(&[key("q-1"), key("q-2")]);
        pending.record(key("q-1"), Some(2), None, false);
        let mut confirmed = Vec::new();
        pending.confirm(|key| confirmed.push(key));
        assert_eq!(confirmed, [key("q-2")]);
        assert_eq!(
            pending.put_totals(),
            Totals {
                records: 1,
                bytes: 2
            }
        );
    }

    #[test]
    fn removes_go_first_and_alone_in_full_store() {
        let mut pending = PendingWrites::default();
        pending.record(key("q-1"), Some(1), None, false);
        pending.record(key("c-1"), None, None, true);
        pending.record(key("c-2"), None, None, true);
        assert_eq!(
            names(&pending.next_groups(
                BatchLimits {
                    puts: 0,
                    ..BatchLimits::NONE
                },
                |_| false
            )),
            [["c-1", "c-2"]]
        );
        let all = names(&pending.next_groups(BatchLimits::NONE, |_| false));
        assert_eq!(all, [vec!["c-1", "c-2"], vec!["q-1"]]);
    }

    fn all(pending: &PendingWrites) -> Vec<Vec<String>> {
        names(&pending.next_groups(BatchLimits::NONE, |_| false))
    }

    fn totals(records: usize, bytes: usize) -> Totals {
        Totals { records, bytes }
    }

    #[test]
    fn totals_follow_every_state() {
        let mut pending = PendingWrites::default();
        pending.record(key("q-1"), Some(10), None, false);
        pending.record(key("q-2"), Some(5), None, false);
        pending.record(key("q-3"), None, None, true);
        assert_eq!(pending.put_totals(), totals(2, 15));
        assert_eq!(pending.unsent_totals(), totals(3, 15));
        pending.mark_sent(&[key("q-1")]);
        assert_eq!(pending.put_totals(), totals(2, 15));
        assert_eq!(pending.unsent_totals(), totals(2, 5));
        pending.refuse(&[key("q-1"), key("q-2")]);
        // What was sent may have been accepted.
        assert_eq!(pending.refused_totals(), totals(1, 5));
        assert_eq!(pending.unsent_totals(), totals(1, 0));
        assert!(pending.has_refused() && !pending.is_settled());
        pending.record(key("q-2"), Some(7), None, false);
        assert_eq!(pending.refused_totals(), totals(0, 0));
        assert_eq!(pending.put_totals(), totals(2, 17));
        let mut confirmed = Vec::new();
        pending.confirm(|key| confirmed.push(key.to_string()));
        assert_eq!(confirmed, ["q-1"]);
        assert_eq!(pending.put_totals(), totals(1, 7));
        pending.refuse(&[key("q-2")]);
        assert!(!pending.is_settled());
        pending.mark_sent(&[key("q-3")]);
        pending.confirm(drop);
        assert!(pending.is_settled() && !pending.is_empty());
        pending.retry_refused();
        assert!(!pending.is_settled() && !pending.has_refused());
        assert_eq!(totals(3, 9).without(totals(1, 4)), totals(2, 5));
        assert_eq!(totals(1, 4).without(totals(3, 9)), totals(0, 0));
    }

    #[test]
    fn unconfirmed_writes_are_the_current_ones() {
        let mut pending = PendingWrites::default();
        pending.record(key("q-1"), Some(1), None, false);
        pending.record(key("q-2"), None, None, true);
        pending.record(key("q-3"), Some(3), None, false);
        pending.mark_sent(&[key("q-1"), key("q-2"), key("q-3")]);
        pending.record(key("q-3"), Some(4), None, false);
        let unconfirmed: Vec<_> = pending.unconfirmed().collect();
        assert_eq!(unconfirmed, [(key("q-1"), Some(1)), (key("q-2"), None)]);
        assert!(pending.contains(key("q-3")) && !pending.contains(key("q-4")));
    }

    #[test]
    fn write_that_may_have_arrived_needs_remove() {
        let mut pending = PendingWrites::default();
        pending.record(key("q-1"), Some(1), None, false);
        pending.mark_sent(&[key("q-1")]);
        pending.mark_unsent();
        pending.record(key("q-1"), None, None, false);
        assert_eq!(all(&pending), [["q-1"]]);
        // A write that has replaced the sent one stays as it is.
        let mut pending = PendingWrites::default();
        pending.record(key("q-1"), Some(1), None, false);
        pending.mark_sent(&[key("q-1")]);
        pending.record(key("q-1"), Some(2), None, false);
        pending.mark_sent(&[key("q-1")]);
        pending.record(key("q-1"), Some(3), None, false);
        pending.mark_unsent();
        assert_eq!(pending.unsent_totals(), totals(1, 3));
    }

    #[test]
    fn only_due_removes_are_piggybacked() {
        let mut pending = PendingWrites::default();
        for name in ["q-1", "q-2", "q-3"] {
            pending.record(key(name), None, None, true);
            pending.piggyback(key(name));
        }
        pending.record(key("q-4"), Some(1), None, true);
        pending.piggyback(key("q-4"));
        pending.piggyback(key("q-5"));
        // Put again, and removed again without going along.
        pending.record(key("q-2"), Some(1), None, false);
        pending.record(key("q-2"), None, None, false);
        pending.mark_sent(&[key("q-3")]);
        assert_eq!(pending.take_piggybacked(), [key("q-1")]);
        assert!(pending.take_piggybacked().is_empty());
        pending.piggyback(key("q-1"));
        pending.mark_unsent();
        assert!(pending.take_piggybacked().is_empty());
    }

    #[test]
    fn batch_ends_at_either_limit() {
        let mut pending = PendingWrites::default();
        for number in 1..=4 {
            pending.record(key(&format!("q-{number}")), Some(36), None, false);
        }
        let count = |bytes, puts| {
            pending
                .next_groups(
                    BatchLimits {
                        bytes,
                        puts,
                        smallest_first: false,
                    },
                    |_| false,
                )
                .len()
        };
        // 36 bytes and 64 of overhead each.
        assert_eq!((count(200, 9), count(201, 9), count(300, 9)), (2, 3, 3));
        assert_eq!((count(1000, 1), count(1000, 3), count(1000, 0)), (1, 3, 0));
        assert_eq!(count(0, 9), 0);
        let unblocked = pending.next_groups(BatchLimits::NONE, |blocked| blocked == key("q-2"));
        assert_eq!(names(&unblocked), [["q-1"], ["q-3"], ["q-4"]]);
        assert_eq!(pending.unsent_puts().len(), 4);
    }

    #[test]
    fn partner_of_refused_write_is_tried_again() {
        let mut pending = PendingWrites::default();
        pending.record(key("c-1"), None, None, true);
        pending.record(key("s-7"), Some(5), Some(key("c-1")), false);
        pending.refuse(&[key("s-7"), key("c-1")]);
        assert_eq!(pending.refused_totals(), totals(1, 5));
        assert!(all(&pending).is_empty());
        assert_eq!(partners(&pending, "c-1"), ["s-7"]);
        // Without its PUBLISH, the remove of the command is taken.
        pending.record(key("s-7"), None, None, false);
        assert!(!pending.has_refused());
        assert_eq!(all(&pending), [["c-1"]]);
    }

    #[test]
    fn smallest_refused_message_comes_first() {
        let mut pending = PendingWrites::default();
        assert_eq!(pending.smallest_refused(|_| false), None);
        for (name, length) in [("q-1", 30), ("q-2", 10), ("q-3", 20)] {
            pending.record(key(name), Some(length), None, false);
            pending.refuse(&[key(name)]);
        }
        assert_eq!(pending.smallest_refused(|_| false), Some(vec![key("q-2")]));
        pending.record(key("c-1"), None, None, true);
        pending.record(key("s-7"), Some(5), Some(key("c-1")), false);
        pending.refuse(&[key("c-1"), key("s-7")]);
        let mut smallest = pending.smallest_refused(|_| false).expect("some");
        smallest.sort_unstable();
        assert_eq!(smallest, [key("c-1"), key("s-7")]);
    }

    #[test]
    fn message_group_is_found_from_each_record() {
        let mut pending = PendingWrites::default();
        pending.record(key("c-1"), None, None, true);
        pending.record(key("s-7"), Some(5), Some(key("c-1")), false);
        pending.record(key("sc5-7"), None, None, true);
        pending.record(key("q-1"), Some(5), None, false);
        for name in ["s-7", "sc5-7", "c-1"] {
            let mut group = vec![key("q-1")];
            pending.message_group(key(name), &mut group);
            assert_eq!(group.remove(0), key("q-1"));
            group.sort_unstable();
            assert_eq!(group, [key("c-1"), key("s-7"), key("sc5-7")], "{name}");
        }
        pending.mark_sent(&[key("c-1")]);
        let mut group = Vec::new();
        pending.message_group(key("s-7"), &mut group);
        assert_eq!(group, [key("s-7"), key("sc5-7")]);
    }

    fn addition(name: &str) -> SetAsideChange {
        SetAsideChange::Add {
            place: Place::Discarded,
            name: name.to_owned(),
            value: Box::from(&b"value"[..]),
        }
    }

    #[test]
    fn removal_from_place_is_no_value_to_set_aside() {
        let mut pending = PendingWrites::default();
        let removal = SetAsideChange::Remove {
            place: Place::Discarded,
            name: "removed".to_owned(),
        };
        pending.attach(key("c-1"), removal.clone());
        pending.record(key("c-1"), None, None, true);
        assert_eq!(pending.put_totals(), totals(0, 0));
        assert!(!pending.sets_aside(key("c-1")));
        assert!(pending.blocked_removes().is_empty());
        pending.attach(key("c-1"), addition("added"));
        assert_eq!(pending.put_totals(), totals(1, 5));
        assert!(pending.sets_aside(key("c-1")));
        assert_eq!(pending.blocked_removes(), [key("c-1")]);
        // The value leaves, and what is to be removed stays.
        let given_up = pending.give_up(&[key("c-1")]);
        assert_eq!(given_up, [(Place::Discarded, "added".to_owned())]);
        assert_eq!(pending.put_totals(), totals(0, 0));
        assert!(pending.attached(key("c-1")).eq([&removal]));
    }

    #[test]
    fn detached_value_that_was_sent_may_be_in_store() {
        let detach = |pending: &mut PendingWrites, name: &str| {
            pending.detach(key("c-1"), Place::Discarded, name)
        };
        for is_sent in [false, true] {
            let mut pending = PendingWrites::default();
            pending.attach(key("c-1"), addition("one"));
            pending.attach(key("c-1"), addition("two"));
            pending.record(key("c-1"), None, None, true);
            if is_sent {
                pending.mark_sent(&[key("c-1")]);
                pending.mark_unsent();
            }
            assert!(!detach(&mut pending, "three"));
            assert_eq!(detach(&mut pending, "one"), !is_sent);
            assert!(pending.attached(key("c-1")).eq([&addition("two")]));
            assert_eq!(pending.put_totals(), totals(1, 5));
        }
    }
}
