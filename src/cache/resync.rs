//! What recovery asks of the ledger, piece by piece, since calls go on meanwhile.

use std::{collections::HashSet, sync::Arc};

use super::write_behind::WriteBehindCache;
use crate::{
    error::{Error, ErrorKind},
    paho::{Key, KeyName},
    store::{Change, Group, Store},
};

/// The key of a record, and the value that it is to have, if any.
type OwnedChange = (KeyName, Option<Box<[u8]>>);

/// Changes to be made once more.
pub(crate) struct RewriteBatch {
    groups: Vec<Vec<OwnedChange>>,
    pub(crate) bytes: usize,
    /// Nothing else is unconfirmed.
    pub(crate) is_last: bool,
}

/// A store that is to be recovered.
pub(crate) struct LentStore<S> {
    pub(crate) store: S,
    /// What it was opened for.
    pub(crate) name: String,
    /// Why it cannot be used.
    pub(crate) kind: ErrorKind,
    /// The life in which it was last used.
    pub(crate) life: Option<String>,
}

impl<S: Store> WriteBehindCache<S> {
    /// The store of an outage, for as long as it is being recovered.
    pub(crate) fn lend_store(&mut self) -> Option<LentStore<S>> {
        let kind = self.outage.as_ref()?.error.kind();
        let store = self.store.take()?;
        self.rewritten = 0;
        Some(LentStore {
            store,
            name: self.name.clone(),
            kind,
            life: self.life.clone(),
        })
    }

    /// The same after a pause.
    pub(crate) fn lend_store_again(&mut self) -> Option<S> {
        self.store.take()
    }

    /// The store has not come back.
    pub(crate) fn still_down(&mut self, error: Error) {
        self.changes.unsend();
        let Some(outage) = &mut self.outage else {
            return;
        };
        let is_new = error.kind() != outage.error.kind();
        outage.error = Arc::new(error);
        self.last_error = Some(Arc::clone(&outage.error));
        self.events.still_down(&outage.error, is_new);
    }

    /// The store is not being recovered at this moment.
    pub(crate) fn return_store(&mut self, store: S) {
        self.store = Some(store);
    }

    /// The store, which is in that life now, has everything.
    pub(crate) fn end_outage(&mut self, store: S, life: Option<String>) {
        self.store = Some(store);
        self.life = life;
        self.unknown = 0;
        self.confirm_batch();
        if let Some(outage) = self.outage.take() {
            self.events.up(outage.since.elapsed(), self.rewritten);
        }
    }

    /// Holds what the store has against what there is, and notes what it lacks.
    ///
    /// Where it `is_older`, everything that is known here is written again, what nobody knows here
    /// goes, and the records whose values are only there are to be compared. Otherwise another
    /// program wrote what is not known here.
    pub(crate) fn resync(&mut self, stored: &[Key], foreign: usize, is_older: bool) -> Vec<Key> {
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
    pub(crate) fn verify_value(&mut self, key: Key, value: Option<&[u8]>) {
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
    pub(crate) fn relocation_steps(&self) -> Vec<(Key, Key)> {
        self.moves.all()
    }

    /// Whether that is the value of the record which is to be moved there.
    pub(crate) fn is_relocated_value(&self, new: Key, value: &[u8]) -> bool {
        self.index.is_value(self.moves.destination(new), value)
    }

    /// It has been moved, and has that value now; or it is lost.
    pub(crate) fn finish_relocation(&mut self, step: (Key, Key), value: Option<&[u8]>) {
        self.moves.done(step);
        let (_, new) = step;
        let destination = self.moves.destination(new);
        // What Paho has put there is another one, and the next move will not find it either.
        let is_there = self.index.contains(new) && self.index.value(new).is_none();
        match value {
            Some(value) => self.index.altered(destination, value),
            None if destination == new && is_there => self.drop_lost(new),
            None => {}
        }
    }

    /// The first of what is unconfirmed, in steps that keep a message from being lost or doubled: what
    /// belongs to one message is in one of them. At most about so many bytes, and where it is asked
    /// for only those that make room.
    pub(crate) fn next_batch(&mut self, bytes: usize, only_removes: bool) -> RewriteBatch {
        let groups = self.groups(bytes, only_removes);
        let mut batch = RewriteBatch {
            groups: Vec::new(),
            bytes: 0,
            is_last: false,
        };
        for group in groups {
            batch.add(
                group
                    .iter()
                    .map(|key| (key.to_name(), self.index.value(*key))),
            );
            self.changes.mark_sent(&group);
        }
        batch.is_last = !self.changes.has_unsent();
        batch
    }

    /// The store has what was in the last batch, unless it has changed meanwhile.
    pub(crate) fn confirm_batch(&mut self) {
        let sent = u64::try_from(self.changes.sent().count()).unwrap_or(u64::MAX);
        self.rewritten = self.rewritten.saturating_add(sent);
        self.confirmed();
    }
}

/// Makes changes and waits for them, longer where no `calls_wait` too.
pub(crate) fn write_confirmed(
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

impl RewriteBatch {
    fn add<'a>(&mut self, changes: impl Iterator<Item = (KeyName, Option<&'a [u8]>)>) {
        let changes = changes.map(|(name, value)| (name, value.map(Box::<[u8]>::from)));
        let group: Vec<OwnedChange> = changes.collect();
        let lengths = group.iter().flat_map(|(_, value)| value);
        self.bytes = lengths.fold(self.bytes, |sum, value| sum.saturating_add(value.len()));
        self.groups.push(group);
    }

    /// Makes the changes and waits for them, longer where no `calls_wait` too.
    pub(crate) fn write(&self, store: &mut impl Store, calls_wait: bool) -> Result<(), Error> {
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
        write_confirmed(store, &groups, calls_wait)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}
