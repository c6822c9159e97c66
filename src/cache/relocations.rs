//! Records that wait to be moved out of the way of what is to be written over them.

use std::collections::{HashSet, VecDeque};

use crate::paho::{Key, KeyMap};

/// Each from one key to another that was free, which may be where a later one starts.
#[derive(Default)]
pub(crate) struct Relocations {
    order: VecDeque<(Key, Key)>,
    to: KeyMap<Key>,
    targets: HashSet<Key>,
}

impl Relocations {
    pub(crate) fn add(&mut self, old: Key, new: Key) {
        self.order.push_back((old, new));
        self.to.insert(old, new);
        self.targets.insert(new);
    }

    /// It has been made, or there is nothing to move.
    pub(crate) fn done(&mut self, (old, new): (Key, Key)) {
        // They are made in their order.
        match self.order.front() {
            Some(first) if *first == (old, new) => drop(self.order.pop_front()),
            _ => self.order.retain(|one| *one != (old, new)),
        }
        self.to.remove(&old);
        self.targets.remove(&new);
    }

    /// In the order in which they are to be made.
    pub(crate) fn all(&self) -> Vec<(Key, Key)> {
        self.order.iter().copied().collect()
    }

    /// Whether a record is to be moved from there, or to there.
    pub(crate) fn concern(&self, key: Key) -> bool {
        self.to.contains_key(&key) || self.targets.contains(&key)
    }

    /// Whether a record is to be moved to there.
    pub(crate) fn lead_to(&self, key: Key) -> bool {
        self.targets.contains(&key)
    }

    /// Where a record is in the end that is to be moved to there, and perhaps further.
    pub(crate) fn destination(&self, new: Key) -> Key {
        let mut key = new;
        // As often as there are moves at most.
        for _ in &self.order {
            match self.to.get(&key) {
                Some(further) => key = *further,
                None => break,
            }
        }
        key
    }
}
