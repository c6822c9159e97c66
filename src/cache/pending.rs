//! The changes that the store has not confirmed, in the order of the calls.

use std::collections::{BTreeMap, HashSet};

use crate::paho::{Key, KeyMap};

/// What may be other in the store than here: one change a record, the last one.
#[derive(Default)]
pub(crate) struct PendingWrites {
    by_key: KeyMap<PendingWrite>,
    /// Counts the changes.
    stamp: u64,
    /// Of these, those that have not been sent.
    unsent: BTreeMap<u64, Key>,
    /// The removes among them that go with the next change that is sent now or waited for.
    riding: Vec<(Key, u64)>,
    /// Those that were sent, and not asked for.
    sent: Vec<(Key, u64)>,
    puts: Totals,
    unsent_bytes: usize,
}

#[derive(Clone, Copy)]
struct PendingWrite {
    stamp: u64,
    is_sent: bool,
    /// The store may have something under the key, which a remove is to remove.
    is_stored: bool,
    /// How long the value is that was put; nothing where the record was removed.
    length: Option<usize>,
    /// The other key of the same message: one comes when the other goes.
    with: Option<Key>,
}

/// How much is where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

impl PendingWrites {
    /// Notes that a record has a value of that length now, or is gone. The store `may_have` one
    /// under that key, as far as is not noted here.
    pub(crate) fn note(
        &mut self,
        key: Key,
        length: Option<usize>,
        with: Option<Key>,
        may_have: bool,
    ) {
        let before = self.forget(key);
        let is_stored = before.map_or(may_have, |before| before.is_stored || before.is_sent);
        let unsent = before.filter(|before| !before.is_sent);
        let partner = unsent.and_then(|before| before.with);
        if length.is_none() {
            // What it took the place of is still to go.
            if let Some(partner) = partner {
                self.ride(partner);
            }
            if !is_stored {
                // It came and went.
                return;
            }
        }
        self.stamp = self.stamp.wrapping_add(1);
        let change = PendingWrite {
            stamp: self.stamp,
            is_sent: false,
            is_stored,
            length,
            with: with.or(partner),
        };
        self.by_key.insert(key, change);
        self.unsent.insert(self.stamp, key);
        self.count_in(change);
    }

    /// A change of which nothing more is to be known.
    fn forget(&mut self, key: Key) -> Option<PendingWrite> {
        let change = self.by_key.remove(&key)?;
        if !change.is_sent {
            self.unsent.remove(&change.stamp);
        }
        self.count_out(change);
        Some(change)
    }

    fn count_in(&mut self, change: PendingWrite) {
        if let Some(length) = change.length {
            self.puts.records = self.puts.records.saturating_add(1);
            self.puts.bytes = self.puts.bytes.saturating_add(length);
            if !change.is_sent {
                self.unsent_bytes = self.unsent_bytes.saturating_add(length);
            }
        }
    }

    fn count_out(&mut self, change: PendingWrite) {
        if let Some(length) = change.length {
            self.puts.records = self.puts.records.saturating_sub(1);
            self.puts.bytes = self.puts.bytes.saturating_sub(length);
            if !change.is_sent {
                self.unsent_bytes = self.unsent_bytes.saturating_sub(length);
            }
        }
    }

    /// The other key of the message that is to be put under this one and has not been sent.
    pub(crate) fn partner(&self, key: Key) -> Option<Key> {
        self.unsent_change(key)?.with
    }

    /// Has a change go with another one that belongs to the same message.
    pub(crate) fn link(&mut self, key: Key, with: Key) {
        if let Some(change) = self.by_key.get_mut(&key) {
            change.with = Some(with);
        }
    }

    /// A remove goes with the next change that is sent now or waited for.
    pub(crate) fn ride(&mut self, key: Key) {
        if let Some(change) = self.unsent_change(key)
            && change.length.is_none()
        {
            self.riding.push((key, change.stamp));
        }
    }

    /// The removes that go with a change that is sent now or waited for.
    pub(crate) fn take_riding(&mut self) -> Vec<Key> {
        let riding = std::mem::take(&mut self.riding);
        let is_current = |(key, stamp): &(Key, u64)| {
            self.unsent_change(*key)
                .is_some_and(|change| change.stamp == *stamp)
        };
        riding
            .iter()
            .filter(|riding| is_current(riding))
            .map(|(key, _)| *key)
            .collect()
    }

    fn unsent_change(&self, key: Key) -> Option<&PendingWrite> {
        self.by_key.get(&key).filter(|change| !change.is_sent)
    }

    /// Adds the keys of the message of this one of which a change has not been sent: they change in
    /// one step.
    pub(crate) fn group(&self, key: Key, group: &mut Vec<Key>) {
        let first = group.len();
        let add = |key: Key, group: &mut Vec<Key>| {
            let is_new = !group.iter().skip(first).any(|other| *other == key);
            if is_new && self.unsent_change(key).is_some() {
                group.push(key);
            }
        };
        let add_siblings = |key: Key, group: &mut Vec<Key>| {
            for sibling in key.message_keys() {
                add(sibling, group);
            }
        };
        add_siblings(key, group);
        let mut place = first;
        while let Some(key) = group.get(place).copied() {
            if let Some(with) = self.partner(key) {
                add_siblings(with, group);
            }
            place = place.saturating_add(1);
        }
    }

    /// Groups from the start of what has not been sent, up to so many bytes but one at least; the
    /// first is of all those that only remove. Where it is asked for, they are the only ones. Those with
    /// a key that is kept back stay.
    pub(crate) fn groups(
        &self,
        bytes: usize,
        only_removes: bool,
        is_kept_back: impl Fn(Key) -> bool,
    ) -> Vec<Vec<Key>> {
        /// What a change takes beside its value, roughly.
        const OVERHEAD: usize = 64;
        let mut removes = Vec::new();
        let mut groups = Vec::new();
        let mut taken = HashSet::new();
        let mut size = 0_usize;
        for key in self.unsent.values() {
            if size >= bytes {
                break;
            }
            if taken.contains(key) {
                continue;
            }
            let mut group = Vec::new();
            self.group(*key, &mut group);
            let lengths = group.iter().map(|key| self.length(*key));
            let is_put = lengths.clone().any(|length| length.is_some());
            if is_put && only_removes || group.iter().any(|key| is_kept_back(*key)) {
                continue;
            }
            size = lengths.fold(size, |size, length| {
                size.saturating_add(length.unwrap_or_default())
                    .saturating_add(OVERHEAD)
            });
            taken.extend(group.iter().copied());
            if is_put {
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

    fn length(&self, key: Key) -> Option<usize> {
        self.by_key.get(&key)?.length
    }

    /// These are being sent.
    pub(crate) fn mark_sent(&mut self, keys: &[Key]) {
        for key in keys {
            if let Some(change) = self.by_key.get_mut(key)
                && !change.is_sent
            {
                change.is_sent = true;
                self.unsent.remove(&change.stamp);
                self.sent.push((*key, change.stamp));
                let length = change.length.unwrap_or_default();
                self.unsent_bytes = self.unsent_bytes.saturating_sub(length);
            }
        }
    }

    /// What was sent and not asked for, with the lengths that it is to have.
    pub(crate) fn sent(&self) -> impl Iterator<Item = (Key, Option<usize>)> {
        self.sent.iter().filter_map(|(key, stamp)| {
            let change = self.by_key.get(key)?;
            (change.stamp == *stamp).then_some((*key, change.length))
        })
    }

    /// The store has what was sent.
    pub(crate) fn confirm(&mut self, mut confirmed: impl FnMut(Key)) {
        let mut sent = std::mem::take(&mut self.sent);
        for (key, stamp) in sent.drain(..) {
            let change = self.by_key.get(&key);
            if change.is_some_and(|change| change.stamp == stamp) {
                self.forget(key);
                confirmed(key);
            }
        }
        // Its memory is used again.
        self.sent = sent;
    }

    /// What was sent may not have arrived, and is to be sent once more in its place.
    pub(crate) fn unsend(&mut self) {
        for (key, stamp) in std::mem::take(&mut self.sent) {
            if let Some(change) = self.by_key.get_mut(&key)
                && change.stamp == stamp
            {
                change.is_sent = false;
                change.is_stored = true;
                self.unsent.insert(stamp, key);
                let length = change.length.unwrap_or_default();
                self.unsent_bytes = self.unsent_bytes.saturating_add(length);
            }
        }
        self.riding.clear();
    }

    pub(crate) fn contains(&self, key: Key) -> bool {
        self.by_key.contains_key(&key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// How many changes have not been sent, and how long the values are that they put.
    pub(crate) fn unsent(&self) -> Totals {
        Totals {
            records: self.unsent.len(),
            bytes: self.unsent_bytes,
        }
    }

    /// The records that were put.
    pub(crate) fn puts(&self) -> Totals {
        self.puts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key of Paho")
    }

    fn names(groups: &[Vec<Key>]) -> Vec<Vec<String>> {
        let names = |group: &Vec<Key>| group.iter().map(Key::to_string).collect();
        groups.iter().map(names).collect()
    }

    #[test]
    fn put_and_remove_cancel_out() {
        let mut changes = PendingWrites::default();
        changes.note(key("c-1"), Some(5), None, false);
        changes.note(key("c-1"), None, None, false);
        assert!(changes.is_empty());
        assert_eq!(changes.puts(), Totals::default());
        // Where the store may have it, it is to go.
        changes.note(key("c-1"), Some(5), None, false);
        changes.mark_sent(&[key("c-1")]);
        changes.note(key("c-1"), None, None, false);
        assert_eq!(names(&changes.groups(1000, false, |_| false)), [["c-1"]]);
    }

    #[test]
    fn moved_message_is_written_in_one_group() {
        let mut changes = PendingWrites::default();
        changes.note(key("c-1"), None, Some(key("s-7")), true);
        changes.note(key("s-7"), Some(5), Some(key("c-1")), false);
        changes.note(key("q-1"), Some(5), None, false);
        assert_eq!(
            names(&changes.groups(1000, false, |_| false)),
            [vec!["s-7", "c-1"], vec!["q-1"]].map(|names| {
                let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
                if names.len() > 1 {
                    names.reverse();
                }
                names
            })
        );
        // Acknowledged before it was written: only the command is there, and goes.
        changes.note(key("s-7"), None, None, false);
        assert_eq!(changes.take_riding(), [key("c-1")]);
    }

    #[test]
    fn replacing_key_takes_over_partner() {
        let mut changes = PendingWrites::default();
        changes.note(key("c-1"), None, Some(key("s-7")), true);
        changes.note(key("s-7"), Some(5), Some(key("c-1")), false);
        let partner = changes.partner(key("s-7"));
        changes.note(key("s-7"), None, None, false);
        changes.note(key("s5-7"), Some(5), partner, false);
        changes.link(key("c-1"), key("s5-7"));
        let mut group = Vec::new();
        changes.group(key("c-1"), &mut group);
        group.sort_unstable();
        assert_eq!(group, [key("c-1"), key("s5-7")]);
    }

    #[test]
    fn changes_keep_call_order_after_failure() {
        let mut changes = PendingWrites::default();
        for number in [3, 1, 2] {
            changes.note(key(&format!("q-{number}")), Some(100), None, false);
        }
        assert_eq!(names(&changes.groups(1, false, |_| false)), [["q-3"]]);
        changes.mark_sent(&[key("q-3")]);
        changes.unsend();
        let all = names(&changes.groups(usize::MAX, false, |_| false));
        assert_eq!(all, [["q-3"], ["q-1"], ["q-2"]]);
        assert_eq!(
            changes.unsent(),
            Totals {
                records: 3,
                bytes: 300
            }
        );
    }

    #[test]
    fn change_during_confirmation_stays_pending() {
        let mut changes = PendingWrites::default();
        changes.note(key("q-1"), Some(1), None, false);
        changes.note(key("q-2"), Some(1), None, false);
        changes.mark_sent(&[key("q-1"), key("q-2")]);
        changes.note(key("q-1"), Some(2), None, false);
        let mut confirmed = Vec::new();
        changes.confirm(|key| confirmed.push(key));
        assert_eq!(confirmed, [key("q-2")]);
        assert_eq!(
            changes.puts(),
            Totals {
                records: 1,
                bytes: 2
            }
        );
    }

    #[test]
    fn removes_go_first_and_alone_in_full_store() {
        let mut changes = PendingWrites::default();
        changes.note(key("q-1"), Some(1), None, false);
        changes.note(key("c-1"), None, None, true);
        changes.note(key("c-2"), None, None, true);
        assert_eq!(
            names(&changes.groups(1000, true, |_| false)),
            [["c-1", "c-2"]]
        );
        let all = names(&changes.groups(1000, false, |_| false));
        assert_eq!(all, [vec!["c-1", "c-2"], vec!["q-1"]]);
    }
}
