//! What recovery asks of the ledger, piece by piece, since calls go on meanwhile.

use std::{collections::HashSet, sync::Arc};

use super::{Ledger, Unconfirmed};
use crate::{
    Change, Error, ErrorKind, Store,
    persistence::index::Index,
    record::{Key, Name},
};

/// The key of a record, and the value that it is to have, if any.
type Again = (Name, Option<Box<[u8]>>);

/// Changes to be made once more.
pub(in crate::persistence) struct Batch {
    groups: Vec<Vec<Again>>,
    stamps: Vec<(Key, u64)>,
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
        // They are noted as unconfirmed.
        self.held.clear();
        self.rewritten = 0;
        Some(Away {
            store,
            name: self.name.clone(),
            kind,
            life: self.life.clone(),
        })
    }

    /// The store has not come back.
    pub(in crate::persistence) fn failed_again(&mut self, error: Error) {
        let Some(outage) = &mut self.outage else {
            return;
        };
        let is_new = error.kind() != outage.error.kind();
        outage.error = Arc::new(error);
        self.last_error = Some(Arc::clone(&outage.error));
        self.events.failed_again(&outage.error, is_new);
    }

    /// The store is not being recovered any more, and cannot be used.
    pub(in crate::persistence) fn give_back(&mut self, store: S) {
        self.store = Some(store);
    }

    /// The store, which is in that life now, has everything.
    pub(in crate::persistence) fn recovered(&mut self, store: S, life: Option<String>) {
        self.store = Some(store);
        self.life = life;
        self.count_rewritten(self.unconfirmed.len());
        if let Some(outage) = self.outage.take() {
            self.events.up(outage.since.elapsed(), self.rewritten);
        }
        self.confirmed();
    }

    fn count_rewritten(&mut self, changes: usize) {
        let changes = u64::try_from(changes).unwrap_or(u64::MAX);
        self.rewritten = self.rewritten.saturating_add(changes);
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
        self.foreign = foreign;
        let there: HashSet<Key> = stored.iter().copied().collect();
        let is_known = |key: &Key| self.index.contains(*key) || self.unconfirmed.contains_key(key);
        let unknown: Vec<Key> = stored
            .iter()
            .copied()
            .filter(|key| !is_known(key))
            .collect();
        self.events.unknown(unknown.len(), is_older);
        if is_older {
            for key in unknown {
                self.note(key, None);
            }
        }
        let mut lost = 0_usize;
        let mut to_compare = Vec::new();
        let all: Vec<Key> = self.index.keys().collect();
        for key in all {
            let is_there = there.contains(&key);
            if self.unconfirmed.contains_key(&key) || (is_there && !is_older) {
                continue;
            }
            if self.index.value(key).is_some() {
                self.note(key, None);
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

    /// The store has a value of that length under that key: another one is of another record, and
    /// the one that was there is lost.
    pub(in crate::persistence) fn compare_value(&mut self, key: Key, length: Option<usize>) {
        let known = self.index.length(key);
        if known.is_some() && known != length && !self.unconfirmed.contains_key(&key) {
            self.index.remove(key);
            self.note(key, None);
            self.events.lost(1);
        }
    }

    /// Some of what is unconfirmed, in steps that keep a message from being lost or doubled: what
    /// belongs to one message is in one of them.
    pub(in crate::persistence) fn batch(&self, bytes: usize) -> Batch {
        let mut batch = Batch::default();
        let mut removes = Batch::default();
        let mut taken = HashSet::new();
        for &first in self.unconfirmed.keys() {
            let group: Vec<(Key, Unconfirmed)> = self
                .of_one_message(first)
                .into_iter()
                .filter_map(|key| Some((key, *self.unconfirmed.get(&key)?)))
                .filter(|(key, _)| taken.insert(*key))
                // A record whose value is not here cannot be written, and must not be removed.
                .filter(|(key, _)| !self.index.contains(*key) || self.index.value(*key).is_some())
                .collect();
            if group.is_empty() {
                continue;
            }
            let is_put = group.iter().any(|(key, _)| self.index.contains(*key));
            let target = if is_put { &mut batch } else { &mut removes };
            if target.bytes < bytes {
                target.add(&self.index, &group);
            } else {
                target.is_last = false;
            }
        }
        // A store that is full does these, and may have room for the others then.
        if removes.groups.is_empty() {
            return batch;
        }
        removes.is_last &= batch.groups.is_empty();
        removes
    }

    /// The keys under which one message may be, all of which change in one step.
    fn of_one_message(&self, key: Key) -> Vec<Key> {
        let mut keys = key.siblings();
        let mut place = 0_usize;
        while let Some(key) = keys.get(place) {
            let with = self.unconfirmed.get(key).and_then(|change| change.with);
            for key in with.iter().flat_map(|key| key.siblings()) {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            place = place.saturating_add(1);
        }
        keys
    }

    /// The store has these, unless they have changed meanwhile.
    pub(in crate::persistence) fn settle(&mut self, batch: &Batch) {
        self.count_rewritten(batch.stamps.len());
        for (key, stamp) in &batch.stamps {
            if self
                .unconfirmed
                .get(key)
                .is_some_and(|change| change.stamp == *stamp)
            {
                self.unconfirmed.remove(key);
                if self.index.is_full() {
                    self.index.forget_value(*key);
                }
            }
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            stamps: Vec::new(),
            bytes: 0,
            is_last: true,
        }
    }
}

impl Batch {
    fn add(&mut self, index: &Index, changes: &[(Key, Unconfirmed)]) {
        /// What a change takes beside its value, roughly.
        const OVERHEAD: usize = 64;
        let mut group = Vec::with_capacity(changes.len());
        for (key, change) in changes {
            let value = index.value(*key).map(Box::<[u8]>::from);
            let length = value.as_ref().map_or(0, |value| value.len());
            self.bytes = self.bytes.saturating_add(length).saturating_add(OVERHEAD);
            self.stamps.push((*key, change.stamp));
            group.push((key.name(), value));
        }
        self.groups.push(group);
    }

    /// Makes the changes and waits for them.
    pub(in crate::persistence) fn make(&self, store: &mut impl Store) -> Result<(), Error> {
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
        store.confirm(&[], &groups)
    }
}
