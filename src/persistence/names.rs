//! Paho's names of queue records that are stored under another number.

use std::collections::{BTreeMap, HashSet};

use crate::{
    cache::WriteBehindCache,
    paho::{Key, KeyMap, RecordKind, sort_by_sequence},
};

/// Maps Paho's keys to stored keys, if Paho would reuse the numbers of records that are stored.
///
/// - After an incomplete restore Paho counts on from the last command that it has read, and its next
///   commands would overwrite the unread ones.
/// - If the store was unavailable at open, it may have commands of an earlier run under the numbers of this
///   one.
/// - At open, if a sequence has wrapped from 999,999 to 0: Paho takes the highest number for the last one.
///
/// From then on, every new record of that kind is stored under a number behind the last one, so that the
/// next start finds all in order. Packet ids are part of a packet and cannot be mapped; see
/// `CallSemantics::relocate_unread`.
#[derive(Default)]
pub(super) struct RecordNames {
    /// Stored keys by Paho's keys, where they differ.
    stored: KeyMap<Key>,
    /// Paho's keys by stored keys, where they differ.
    names: KeyMap<Key>,
    /// The last number that was assigned, for each kind of record that does not use Paho's numbers.
    last_numbers: BTreeMap<RecordKind, u32>,
}

impl RecordNames {
    /// Names the queue records that were found at open.
    ///
    /// If their sequence wrapped, or begins with command 0, which Paho removes whenever it connects, their
    /// names count from 1. The store keeps its numbers, so no open depends on its room.
    pub(super) fn of_loaded(cache: &WriteBehindCache) -> Self {
        let mut names = Self::default();
        for kind in [RecordKind::Command, RecordKind::Undelivered] {
            let (records, is_wrapped) = in_sequence(kind, cache);
            if is_wrapped || records.iter().any(|key| key.is_command_zero()) {
                let last = records.last().map(|key| (kind, key.number));
                names.last_numbers.extend(last);
                for (stored, number) in records.into_iter().zip(1..) {
                    names.add(Key { number, ..stored }, stored);
                }
            }
        }
        names
    }

    /// Returns the key under which a record of Paho is stored; `None` if there can be no such record,
    /// since the record that is stored under this key has another name.
    pub(super) fn stored_key(&self, name: Key) -> Option<Key> {
        match self.stored.get(&name) {
            Some(stored) => Some(*stored),
            None if self.names.contains_key(&name) => None,
            None => Some(name),
        }
    }

    /// Returns Paho's key of a stored record.
    pub(super) fn name(&self, stored: Key) -> Key {
        self.names.get(&stored).copied().unwrap_or(stored)
    }

    /// Returns true if new records of this kind get numbers of their own.
    pub(super) fn is_renumbered(&self, kind: RecordKind) -> bool {
        self.last_numbers.contains_key(&kind)
    }

    /// Forgets the name of a record that is removed.
    pub(super) fn forget(&mut self, stored: Key) {
        if let Some(name) = self.names.remove(&stored) {
            self.stored.remove(&name);
        }
    }

    /// Gives an unread record the name that it would have in the other MQTT version, which this client
    /// does not use, and begins to assign numbers for its kind. Returns that name.
    pub(super) fn set_aside(&mut self, stored: Key, cache: &WriteBehindCache) -> Key {
        self.forget(stored);
        let name = stored.other_version();
        let is_free = !self.stored.contains_key(&name) && !cache.index.contains(name);
        if is_free {
            self.add(name, stored);
        }
        self.renumber(stored.kind, cache);
        name
    }

    /// Begins to assign numbers for a kind of record.
    pub(super) fn renumber(&mut self, kind: RecordKind, cache: &WriteBehindCache) {
        self.last_numbers.entry(kind).or_insert_with(|| {
            let (records, _) = in_sequence(kind, cache);
            records.last().map(|key| key.number).unwrap_or_default()
        });
    }

    /// Stores the records of this run behind those of an earlier one, which were found after open; returns
    /// the keys that change. `stored` are the keys of the earlier run.
    pub(super) fn move_behind(
        &mut self,
        kind: RecordKind,
        stored: &[Key],
        cache: &mut WriteBehindCache,
    ) -> Vec<(Key, Key)> {
        let mut earlier: Vec<Key> = stored
            .iter()
            .copied()
            .filter(|key| key.kind == kind)
            .collect();
        sort_by_sequence(&mut earlier);
        let Some(last) = earlier.last() else {
            return Vec::new();
        };
        let mut of_this_run = cache.unsent_keys(kind);
        sort_by_sequence(&mut of_this_run);
        self.last_numbers.insert(kind, last.number);
        let numbers: HashSet<u32> = earlier.iter().map(|key| key.number).collect();
        let mut both = [earlier.as_slice(), &of_this_run].concat();
        sort_by_sequence(&mut both);
        let is_shared = |key: &Key| numbers.contains(&key.number);
        if both.starts_with(&earlier) && !of_this_run.iter().any(is_shared) {
            // An attempt before this one has moved them.
            self.last_numbers
                .extend(both.last().map(|key| (kind, key.number)));
            return Vec::new();
        }
        let mut moved = Vec::new();
        for old in of_this_run {
            let name = self.name(old);
            self.forget(old);
            let new = self.assign_free(name, cache, |number| numbers.contains(&number));
            cache.rekey_unsent(old, new);
            if !cache.index.contains(new) {
                self.forget(new);
            }
            moved.push((old, new));
        }
        moved
    }

    /// Assigns a number behind the last one to a new record of Paho.
    pub(super) fn assign(&mut self, name: Key, cache: &WriteBehindCache) -> Key {
        self.assign_free(name, cache, |_| false)
    }

    fn assign_free(
        &mut self,
        name: Key,
        cache: &WriteBehindCache,
        is_taken: impl Fn(u32) -> bool,
    ) -> Key {
        let numbers = name.kind.number_range();
        let Some(last) = self.last_numbers.get(&name.kind).copied() else {
            return name;
        };
        let is_free = |number: &u32| {
            let key = Key {
                number: *number,
                ..name
            };
            let is_used = cache.is_number_used(key) || cache.is_number_used(key.other_version());
            !is_used && !is_taken(*number)
        };
        let behind = last.saturating_add(1)..numbers.end;
        // Paho removes number 0 at each connect.
        let Some(number) = behind.chain(1..last).find(is_free) else {
            return name;
        };
        self.last_numbers.insert(name.kind, number);
        let stored = Key { number, ..name };
        if stored != name {
            self.add(name, stored);
        }
        stored
    }

    fn add(&mut self, name: Key, stored: Key) {
        self.stored.insert(name, stored);
        self.names.insert(stored, name);
    }
}

/// Returns the records of a kind in the order in which Paho numbered them, and true if it wrapped.
fn in_sequence(kind: RecordKind, cache: &WriteBehindCache) -> (Vec<Key>, bool) {
    let mut records: Vec<Key> = cache.index.keys().filter(|key| key.kind == kind).collect();
    let is_wrapped = sort_by_sequence(&mut records);
    (records, is_wrapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    #[test]
    fn forgotten_name_leaves_nothing() {
        let mut names = RecordNames::default();
        names.add(key("c-1"), key("c-9"));
        assert_eq!(names.stored_key(key("c-1")), Some(key("c-9")));
        assert_eq!(names.name(key("c-9")), key("c-1"));
        // The record that is stored there has another name.
        assert_eq!(names.stored_key(key("c-9")), None);
        names.forget(key("c-9"));
        names.forget(key("c-9"));
        assert_eq!(names.stored_key(key("c-1")), Some(key("c-1")));
        assert_eq!(names.stored_key(key("c-9")), Some(key("c-9")));
        assert!(names.stored.is_empty() && names.names.is_empty());
    }
}
