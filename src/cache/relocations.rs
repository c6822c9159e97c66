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

    /// Returns the target of the relocation from this key.
    pub(crate) fn target(&self, old: Key) -> Option<Key> {
        self.by_source.get(&old).copied()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn step(old: &str, new: &str) -> (Key, Key) {
        let key = |name| Key::parse(name).expect("a key");
        (key(old), key(new))
    }

    #[test]
    fn chain_of_relocations_is_made_in_order() {
        let [first, second] = [step("s-1", "s-9"), step("s-9", "s-8")];
        let mut relocations = Relocations::default();
        assert_eq!(relocations.first(), None);
        for (old, new) in [first, second] {
            relocations.add(old, new);
        }
        assert_eq!(relocations.first(), Some(first));
        let (one, nine) = first;
        let (_, eight) = second;
        assert_eq!(relocations.target(one), Some(nine));
        assert_eq!(relocations.target(eight), None);
        assert_eq!(relocations.final_target(one), eight);
        assert_eq!(relocations.final_target(nine), eight);
        assert_eq!(relocations.final_target(eight), eight);
        assert!(relocations.involves(one) && !relocations.is_target(one));
        assert!(relocations.involves(eight) && relocations.is_target(eight));
        relocations.finish(first);
        assert_eq!(relocations.first(), Some(second));
        assert!(!relocations.involves(one));
        assert!(relocations.involves(nine) && !relocations.is_target(nine));
        relocations.finish(second);
        assert_eq!(relocations.first(), None);
        assert!(!relocations.involves(nine) && !relocations.involves(eight));
    }

    #[test]
    fn relocation_out_of_order_is_dropped_alone() {
        let [first, second] = [step("s-1", "s-9"), step("s-2", "s-8")];
        let mut relocations = Relocations::default();
        for (old, new) in [first, second] {
            relocations.add(old, new);
        }
        relocations.finish(second);
        assert_eq!(relocations.first(), Some(first));
        relocations.finish(first);
        assert_eq!(relocations.first(), None);
    }
}
