//! Writes that the store has not confirmed, in the order of the calls.

use std::collections::{BTreeMap, HashSet};

use crate::paho::{Key, KeyMap};

/// The latest unconfirmed write per record.
///
/// A write is *unsent*, then *sent*, and removed once the store has confirmed it. Lists other than
/// `writes` hold a key with its sequence number; if a later call has replaced the write, the
/// numbers differ and the list entry is stale. So no list needs to be searched when a record
/// changes.
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
    put_totals: Totals,
    /// Bytes of the values in `unsent`.
    unsent_bytes: usize,
}

#[derive(Clone, Copy)]
struct PendingWrite {
    /// Position in the order of the calls.
    sequence: u64,
    is_sent: bool,
    /// The store may have a value under the key, so a remove must be sent.
    may_be_in_store: bool,
    /// Length of the value that was put, in bytes; `None` for a remove.
    put_length: Option<usize>,
    /// The other key of the same message: a put of one and a remove of the other happen together.
    partner: Option<Key>,
}

/// A number of records and the bytes of their values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

impl PendingWrites {
    /// Records a put of that length, or a remove, and replaces an earlier write of the same key.
    ///
    /// `may_be_stored` is whether the store may have a value under the key; it counts only if no
    /// write of the key is pending, which knows better. A record that is put and removed before it
    /// was sent leaves no write at all.
    pub(crate) fn record(
        &mut self,
        key: Key,
        put_length: Option<usize>,
        partner: Option<Key>,
        may_be_stored: bool,
    ) {
        let replaced = self.take(key);
        let may_be_in_store = replaced.map_or(may_be_stored, |replaced| {
            replaced.may_be_in_store || replaced.is_sent
        });
        let unsent = replaced.filter(|replaced| !replaced.is_sent);
        let inherited = unsent.and_then(|unsent| unsent.partner);
        if put_length.is_none() {
            // The remove of the partner has no put to go with any more, and is still due.
            if let Some(partner) = inherited {
                self.piggyback(partner);
            }
            if !may_be_in_store {
                return;
            }
        }
        self.last_sequence = self.last_sequence.wrapping_add(1);
        let write = PendingWrite {
            sequence: self.last_sequence,
            is_sent: false,
            may_be_in_store,
            put_length,
            partner: partner.or(inherited),
        };
        self.writes.insert(key, write);
        self.unsent.insert(self.last_sequence, key);
        self.add_totals(write);
    }

    /// Takes out the write of a key; its entries in `unconfirmed` and `piggybacked` become stale.
    fn take(&mut self, key: Key) -> Option<PendingWrite> {
        let write = self.writes.remove(&key)?;
        if !write.is_sent {
            self.unsent.remove(&write.sequence);
        }
        self.subtract_totals(write);
        Some(write)
    }

    fn add_totals(&mut self, write: PendingWrite) {
        if let Some(length) = write.put_length {
            self.put_totals.records = self.put_totals.records.saturating_add(1);
            self.put_totals.bytes = self.put_totals.bytes.saturating_add(length);
            if !write.is_sent {
                self.unsent_bytes = self.unsent_bytes.saturating_add(length);
            }
        }
    }

    fn subtract_totals(&mut self, write: PendingWrite) {
        if let Some(length) = write.put_length {
            self.put_totals.records = self.put_totals.records.saturating_sub(1);
            self.put_totals.bytes = self.put_totals.bytes.saturating_sub(length);
            if !write.is_sent {
                self.unsent_bytes = self.unsent_bytes.saturating_sub(length);
            }
        }
    }

    /// Returns the other key of the message, if the write of this one has not been sent.
    pub(crate) fn partner(&self, key: Key) -> Option<Key> {
        self.unsent_write(key)?.partner
    }

    /// Makes a write go together with that of another key of the same message.
    pub(crate) fn set_partner(&mut self, key: Key, partner: Key) {
        if let Some(write) = self.writes.get_mut(&key) {
            write.partner = Some(partner);
        }
    }

    /// Piggybacks an unsent remove on the next `Ack::Confirmed` write or fence.
    pub(crate) fn piggyback(&mut self, key: Key) {
        if let Some(write) = self.unsent_write(key)
            && write.put_length.is_none()
        {
            self.piggybacked.push((key, write.sequence));
        }
    }

    /// Takes the piggybacked removes that are still due.
    pub(crate) fn take_piggybacked(&mut self) -> Vec<Key> {
        let piggybacked = std::mem::take(&mut self.piggybacked);
        let is_current = |(key, sequence): &(Key, u64)| {
            self.unsent_write(*key)
                .is_some_and(|write| write.sequence == *sequence)
        };
        piggybacked
            .iter()
            .filter(|entry| is_current(entry))
            .map(|(key, _)| *key)
            .collect()
    }

    fn unsent_write(&self, key: Key) -> Option<&PendingWrite> {
        self.writes.get(&key).filter(|write| !write.is_sent)
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
            if let Some(partner) = self.partner(key) {
                add_siblings(partner, group);
            }
            position = position.saturating_add(1);
        }
    }

    /// Groups unsent writes by message, oldest first, up to `bytes` but at least one group.
    ///
    /// All groups that only remove become one and go first: they make room, and removing a record
    /// early is safe, since Paho is done with it. With `only_removes`, groups that put are left
    /// out. Groups with a key for which `is_blocked` returns true stay pending.
    pub(crate) fn next_groups(
        &self,
        bytes: usize,
        only_removes: bool,
        is_blocked: impl Fn(Key) -> bool,
    ) -> Vec<Vec<Key>> {
        /// Bytes of key and protocol per write, roughly.
        const OVERHEAD: usize = 64;
        let mut removes = Vec::new();
        let mut groups = Vec::new();
        let mut grouped = HashSet::new();
        let mut size = 0_usize;
        for key in self.unsent.values() {
            if size >= bytes {
                break;
            }
            if grouped.contains(key) {
                continue;
            }
            let mut group = Vec::new();
            self.message_group(*key, &mut group);
            let lengths = group.iter().map(|key| self.put_length(*key));
            let has_put = lengths.clone().any(|length| length.is_some());
            if has_put && only_removes || group.iter().any(|key| is_blocked(*key)) {
                continue;
            }
            size = lengths.fold(size, |size, length| {
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

    /// Marks writes as sent; called before they go out, so that a failure can undo it.
    pub(crate) fn mark_sent(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(write) = self.writes.get_mut(key)
                && !write.is_sent
            {
                write.is_sent = true;
                self.unsent.remove(&write.sequence);
                self.unconfirmed.push((*key, write.sequence));
                let length = write.put_length.unwrap_or_default();
                self.unsent_bytes = self.unsent_bytes.saturating_sub(length);
            }
        }
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
                write.is_sent = false;
                // It may also have arrived: removing the record now needs a write.
                write.may_be_in_store = true;
                self.unsent.insert(sequence, key);
                let length = write.put_length.unwrap_or_default();
                self.unsent_bytes = self.unsent_bytes.saturating_add(length);
            }
        }
        // Recovery writes everything that is unsent, removes included.
        self.piggybacked.clear();
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.writes.contains_key(&key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Number of unsent writes, removes included, and bytes of the values that they put.
    pub(crate) fn unsent_totals(&self) -> Totals {
        Totals {
            records: self.unsent.len(),
            bytes: self.unsent_bytes,
        }
    }

    /// Number and bytes of the puts that are not confirmed, sent or not.
    pub(crate) fn put_totals(&self) -> Totals {
        self.put_totals
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
            names(&pending.next_groups(1000, false, |_| false)),
            [["c-1"]]
        );
    }

    #[test]
    fn moved_message_is_written_in_one_group() {
        let mut pending = PendingWrites::default();
        pending.record(key("c-1"), None, Some(key("s-7")), true);
        pending.record(key("s-7"), Some(5), Some(key("c-1")), false);
        pending.record(key("q-1"), Some(5), None, false);
        assert_eq!(
            names(&pending.next_groups(1000, false, |_| false)),
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
        pending.record(key("c-1"), None, Some(key("s-7")), true);
        pending.record(key("s-7"), Some(5), Some(key("c-1")), false);
        let partner = pending.partner(key("s-7"));
        pending.record(key("s-7"), None, None, false);
        pending.record(key("s5-7"), Some(5), partner, false);
        pending.set_partner(key("c-1"), key("s5-7"));
        let mut group = Vec::new();
        pending.message_group(key("c-1"), &mut group);
        group.sort_unstable();
        assert_eq!(group, [key("c-1"), key("s5-7")]);
    }

    #[test]
    fn writes_keep_call_order_after_failure() {
        let mut pending = PendingWrites::default();
        for number in [3, 1, 2] {
            pending.record(key(&format!("q-{number}")), Some(100), None, false);
        }
        assert_eq!(names(&pending.next_groups(1, false, |_| false)), [["q-3"]]);
        pending.mark_sent(&[key("q-3")]);
        pending.mark_unsent();
        let all = names(&pending.next_groups(usize::MAX, false, |_| false));
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
            names(&pending.next_groups(1000, true, |_| false)),
            [["c-1", "c-2"]]
        );
        let all = names(&pending.next_groups(1000, false, |_| false));
        assert_eq!(all, [vec!["c-1", "c-2"], vec!["q-1"]]);
    }
}
