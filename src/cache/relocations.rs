//! The queue of relocations that the store has not made yet.

use std::collections::{HashSet, VecDeque};

use crate::paho::{Key, KeyMap};

/// Relocations in the order in which they must be made.
///
/// Each leads from one key to another that was free. The target of one may be the source of a later
/// one, if Paho reused that number too; so the order matters.
#[derive(Default)]
pub(crate) struct Relocations {
    order: VecDeque<(Key, Key)>,
    by_source: KeyMap<Key>,
    targets: HashSet<Key>,
}

impl Relocations {
    pub(crate) fn add(&mut self, old: Key, new: Key) {
        self.order.push_back((old, new));
        self.by_source.insert(old, new);
        self.targets.insert(new);
    }

    /// Drops a relocation that was made, or whose record is lost.
    pub(crate) fn finish(&mut self, (old, new): (Key, Key)) {
        // They are made in order, so it is the first one, and a search of the queue is rare.
        match self.order.front() {
            Some(first) if *first == (old, new) => drop(self.order.pop_front()),
            _ => self.order.retain(|step| *step != (old, new)),
        }
        self.by_source.remove(&old);
        self.targets.remove(&new);
    }

    /// Returns the relocation to make next.
    pub(crate) fn first(&self) -> Option<(Key, Key)> {
        self.order.front().copied()
    }

    /// Returns true if the key is the source or the target of a relocation.
    pub(crate) fn involves(&self, key: Key) -> bool {
        self.by_source.contains_key(&key) || self.targets.contains(&key)
    }

    /// Returns true if the key is the target of a relocation.
    pub(crate) fn is_target(&self, key: Key) -> bool {
        self.targets.contains(&key)
    }

    /// Follows later relocations from the target of one to the record's final key.
    pub(crate) fn final_target(&self, new: Key) -> Key {
        let mut key = new;
        // Bounded by the number of relocations, so that a cycle could not hang a call.
        for _ in &self.order {
            match self.by_source.get(&key) {
                Some(further) => key = *further,
                None => break,
            }
        }
        key
    }
}
