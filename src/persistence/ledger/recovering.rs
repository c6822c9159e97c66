//! What recovery asks of the ledger, piece by piece, since calls go on meanwhile.

use std::{collections::HashSet, sync::Arc};

use super::Ledger;
use crate::{
    Change, Error, ErrorKind, Group, Store,
    record::{Key, Name},
};

/// The key of a record, and the value that it is to have, if any.
type Again = (Name, Option<Box<[u8]>>);

/// Changes to be made once more.
pub(in crate::persistence) struct Batch {
    groups: Vec<Vec<Again>>,
    pub(in crate::persistence) bytes: usize,
    /// Nothing else is unconfirmed.
    pub(in crate::persistence) is_last: bool,
}

/// A store that is to be recovered.
pub(in crate::persistence) struct Away<S> {
    pub(in crate::persistence) store: S,
    /// What it was opened for.
    pub(in crate::persistence) name: String,
    /// Why it cannot be used.
    pub(in crate::persistence) kind: ErrorKind,
    /// The life in which it was last used.
    pub(in crate::persistence) life: Option<String>,
}

impl<S: Store> Ledger<S> {
    /// The store of an outage, for as long as it is being recovered.
    pub(in crate::persistence) fn take_store(&mut self) -> Option<Away<S>> {
        let kind = self.outage.as_ref()?.error.kind();
        let store = self.store.take()?;
        self.rewritten = 0;
        Some(Away {
            store,
            name: self.name.clone(),
            kind,
            life: self.life.clone(),
        })
    }

    /// The same after a pause.
    pub(in crate::persistence) fn take_store_again(&mut self) -> Option<S> {
        self.store.take()
    }

    /// The store has not come back.
    pub(in crate::persistence) fn failed_again(&mut self, error: Error) {
        self.changes.unsend();
        let Some(outage) = &mut self.outage else {
            return;
        };
        let is_new = error.kind() != outage.error.kind();
        outage.error = Arc::new(error);
        self.last_error = Some(Arc::clone(&outage.error));
        self.events.failed_again(&outage.error, is_new);
    }

    /// The store is not being recovered at this moment.
    pub(in crate::persistence) fn give_back(&mut self, store: S) {
        self.store = Some(store);
    }

    /// The store, which is in that life now, has everything.
    pub(in crate::persistence) fn recovered(&mut self, store: S, life: Option<String>) {
        self.store = Some(store);
        self.life = life;
        self.unknown = 0;
        self.settle();
        if let Some(outage) = self.outage.take() {
            self.events.up(outage.since.elapsed(), self.rewritten);
        }
    }

    /// Holds what the store has against what there is, and notes what it lacks.
    ///
    /// Where it `is_older`, everything that is known here is written again, what nobody knows here
    /// goes, and the records whose values are only there are to be compared. Otherwise another
    /// program wrote what is not known here.
    pub(in crate::persistence) fn compare(
        &mut self,
        stored: &[Key],
        foreign: usize,
        is_older: bool,
    ) -> Vec<Key> {
        let there: HashSet<Key> = stored.iter().copied().collect();
        let left = self.left.iter().filter(|key| there.contains(key)).count();
        self.foreign = foreign.saturating_add(left);
        let is_known = |key: &Key| self.index.contains(*key) || self.changes.contains(*key);
        let unknown: Vec<Key> = stored
            .iter()
            .copied()
            .filter(|key| !is_known(key) && !self.left.contains(key))
            .collect();
        if unknown.len() != self.unknown {
            self.unknown = unknown.len();
            self.events.unknown(unknown.len(), is_older);
        }
        if is_older {
            for key in unknown {
                self.changes.note(key, None, None, true);
            }
        } else {
            self.foreign = self.foreign.saturating_add(unknown.len());
        }
        let mut lost = 0_usize;
        let mut to_compare = Vec::new();
        let all: Vec<Key> = self.index.keys().collect();
        for key in all {
            let is_there = there.contains(&key);
            let is_to_be_moved = self.moves.lead_to(key);
            if self.changes.contains(key) || is_to_be_moved || (is_there && !is_older) {
                continue;
            }
            if let Some(length) = self.index.value(key).map(<[u8]>::len) {
                self.changes.note(key, Some(length), None, is_there);
            } else if is_there {
                to_compare.push(key);
            } else {
                lost = lost.saturating_add(1);
                self.index.remove(key);
            }
        }
        self.events.lost(lost);
        to_compare
    }

    /// The store has that value under that key: another one is of another record, and the one that
    /// was there is lost.
    pub(in crate::persistence) fn compare_value(&mut self, key: Key, value: Option<&[u8]>) {
        let is_compared = self.index.contains(key)
            && self.index.value(key).is_none()
            && !self.changes.contains(key);
        if is_compared && !value.is_some_and(|value| self.index.is_value(key, value)) {
            self.index.remove(key);
            self.changes.note(key, None, None, true);
            self.events.lost(1);
        }
    }

    /// Records to be moved before anything is written again, each from the first key to the second.
    pub(in crate::persistence) fn moves(&self) -> Vec<(Key, Key)> {
        self.moves.all()
    }

    /// Whether that is the value of the record which is to be moved there.
    pub(in crate::persistence) fn is_moving(&self, new: Key, value: &[u8]) -> bool {
        self.index.is_value(self.moves.destination(new), value)
    }

    /// It has been moved, and has that value now; or it is lost.
    pub(in crate::persistence) fn moved(&mut self, step: (Key, Key), value: Option<&[u8]>) {
        self.moves.done(step);
        let (_, new) = step;
        let destination = self.moves.destination(new);
        // What Paho has put there is another one, and the next move will not find it either.
        let is_there = self.index.contains(new) && self.index.value(new).is_none();
        match value {
            Some(value) => self.index.altered(destination, value),
            None if destination == new && is_there => self.lost(new),
            None => {}
        }
    }

    /// The first of what is unconfirmed, in steps that keep a message from being lost or doubled: what
    /// belongs to one message is in one of them. At most about so many bytes, and where it is asked
    /// for only those that make room.
    pub(in crate::persistence) fn batch(&mut self, bytes: usize, only_removes: bool) -> Batch {
        let groups = self.groups(bytes, only_removes);
        let mut batch = Batch {
            groups: Vec::new(),
            bytes: 0,
            is_last: false,
        };
        for group in groups {
            batch.add(group.iter().map(|key| (key.name(), self.index.value(*key))));
            self.changes.mark_sent(&group);
        }
        batch.is_last = !self.changes.has_unsent();
        batch
    }

    /// The store has what was in the last batch, unless it has changed meanwhile.
    pub(in crate::persistence) fn settle(&mut self) {
        let sent = u64::try_from(self.changes.sent().count()).unwrap_or(u64::MAX);
        self.rewritten = self.rewritten.saturating_add(sent);
        self.confirmed();
    }
}

/// Makes changes and waits for them, longer where no `calls_wait` too.
pub(in crate::persistence) fn write(
    store: &mut impl Store,
    groups: &[Group<'_>],
    calls_wait: bool,
) -> Result<(), Error> {
    if calls_wait {
        store.confirm(&[], groups)
    } else {
        store.rewrite(groups)
    }
}

impl Batch {
    fn add<'a>(&mut self, changes: impl Iterator<Item = (Name, Option<&'a [u8]>)>) {
        let changes = changes.map(|(name, value)| (name, value.map(Box::<[u8]>::from)));
        let group: Vec<Again> = changes.collect();
        let lengths = group.iter().flat_map(|(_, value)| value);
        self.bytes = lengths.fold(self.bytes, |sum, value| sum.saturating_add(value.len()));
        self.groups.push(group);
    }

    /// Makes the changes and waits for them, longer where no `calls_wait` too.
    pub(in crate::persistence) fn make(
        &self,
        store: &mut impl Store,
        calls_wait: bool,
    ) -> Result<(), Error> {
        let groups: Vec<Vec<Change<'_>>> = self
            .groups
            .iter()
            .map(|group| {
                let changes = group.iter().map(|(key, value)| match value {
                    Some(value) => Change::Put { key, value },
                    None => Change::Remove { key },
                });
                changes.collect()
            })
            .collect();
        let groups: Vec<&[Change<'_>]> = groups.iter().map(Vec::as_slice).collect();
        write(store, &groups, calls_wait)
    }

    pub(in crate::persistence) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}
