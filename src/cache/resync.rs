//! The cache's part of recovery, in small steps, since calls continue between them.

use std::{collections::HashSet, sync::Arc};

use super::write_behind::WriteBehindCache;
use crate::{
    error::{Error, ErrorKind},
    paho::{Key, KeyName},
    store::{Change, Group, Store},
};

/// A key with the value to put, or `None` to remove the record.
type OwnedChange = (KeyName, Option<Box<[u8]>>);

/// Pending writes for one exchange.
///
/// It owns copies of the values, so that recovery can write it while calls change the cache.
pub(crate) struct RewriteBatch {
    groups: Vec<Vec<OwnedChange>>,
    pub(crate) bytes: usize,
    /// No other write is unsent.
    pub(crate) is_last: bool,
}

/// The store during an outage, lent to recovery.
pub(crate) struct LentStore<S> {
    pub(crate) store: S,
    /// Name under which the store has the records.
    pub(crate) name: String,
    /// Reason of the outage.
    pub(crate) kind: ErrorKind,
    /// Instance id of the store process when it was last in sync.
    pub(crate) instance_id: Option<String>,
}

impl<S: Store> WriteBehindCache<S> {
    /// Lends the store to recovery if there is an outage; calls go on in memory.
    pub(crate) fn lend_store(&mut self) -> Option<LentStore<S>> {
        let kind = self.outage.as_ref()?.error.kind();
        let store = self.store.take()?;
        self.rewritten = 0;
        Some(LentStore {
            store,
            name: self.store_name.clone(),
            kind,
            instance_id: self.instance_id.clone(),
        })
    }

    /// Lends the store again, after the backoff that follows a failed attempt.
    pub(crate) fn lend_store_again(&mut self) -> Option<S> {
        self.store.take()
    }

    /// Notes that an attempt at recovery failed; the batch in flight becomes unsent again.
    pub(crate) fn still_down(&mut self, error: Error) {
        self.pending.mark_unsent();
        let Some(outage) = &mut self.outage else {
            return;
        };
        let is_new_reason = error.kind() != outage.error.kind();
        outage.error = Arc::new(error);
        self.last_error = Some(Arc::clone(&outage.error));
        self.events.still_down(&outage.error, is_new_reason);
    }

    /// Takes the store back during backoff, so that calls can read if it is readable.
    pub(crate) fn return_store(&mut self, store: S) {
        self.store = Some(store);
    }

    /// Takes the store back and ends the outage: every write is confirmed.
    pub(crate) fn end_outage(&mut self, store: S, instance_id: Option<String>) {
        self.store = Some(store);
        self.instance_id = instance_id;
        self.last_foreign_records = 0;
        self.confirm_batch();
        if let Some(outage) = self.outage.take() {
            self.events.up(outage.since.elapsed(), self.rewritten);
        }
    }

    /// Compares the keys in the store with the cache, and records the differences as pending
    /// writes.
    ///
    /// If the contents may be older than the cache, every cached record is written again and
    /// unknown records are removed. Otherwise only missing records are written, and unknown ones
    /// count as foreign. Records that exist in neither place are dropped as lost. Returns the
    /// records of which only the store has a value that may be older: pass each to
    /// [`verify_value`](Self::verify_value).
    pub(crate) fn resync(
        &mut self,
        stored: &[Key],
        foreign_entries: usize,
        may_be_older: bool,
    ) -> Vec<Key> {
        let stored_keys: HashSet<Key> = stored.iter().copied().collect();
        let unmovable = self.unmovable.iter();
        let unmovable = unmovable.filter(|key| stored_keys.contains(key)).count();
        self.foreign_entries = foreign_entries.saturating_add(unmovable);
        let is_known = |key: &Key| self.index.contains(*key) || self.pending.contains(*key);
        let unknown: Vec<Key> = stored
            .iter()
            .copied()
            .filter(|key| !is_known(key) && !self.unmovable.contains(key))
            .collect();
        // Attempts of one outage repeat the resync; the same finding is not reported again.
        if unknown.len() != self.last_foreign_records {
            self.last_foreign_records = unknown.len();
            self.events.foreign_records(unknown.len(), may_be_older);
        }
        if may_be_older {
            for key in unknown {
                self.pending.record(key, None, None, true);
            }
        } else {
            self.foreign_entries = self.foreign_entries.saturating_add(unknown.len());
        }
        let mut lost = 0_usize;
        let mut unverified = Vec::new();
        let all: Vec<Key> = self.index.keys().collect();
        for key in all {
            let is_stored = stored_keys.contains(&key);
            // The store has it under the source key until the relocation is made.
            let is_unrelocated = self.relocations.is_target(key);
            if self.pending.contains(key) || is_unrelocated || (is_stored && !may_be_older) {
                continue;
            }
            if let Some(length) = self.index.value(key).map(<[u8]>::len) {
                self.pending.record(key, Some(length), None, is_stored);
            } else if is_stored {
                unverified.push(key);
            } else {
                lost = lost.saturating_add(1);
                self.index.remove(key);
            }
        }
        self.events.lost(lost);
        unverified
    }

    /// Compares a value that only the store has with its hash; drops the record if they differ.
    ///
    /// Another value belongs to an older record that had the same key; it must not reach Paho as
    /// this one.
    pub(crate) fn verify_value(&mut self, key: Key, value: Option<&[u8]>) {
        // Calls may have removed or replaced the record since the resync.
        let needs_check = self.index.contains(key)
            && self.index.value(key).is_none()
            && !self.pending.contains(key);
        if needs_check && !value.is_some_and(|value| self.index.matches_hash(key, value)) {
            self.index.remove(key);
            self.pending.record(key, None, None, true);
            self.events.lost(1);
        }
    }

    /// Returns the relocations to make before anything is written, as (old, new) in their order.
    pub(crate) fn relocation_steps(&self) -> Vec<(Key, Key)> {
        self.relocations.steps()
    }

    /// Returns true if the value is that of the record which is to be relocated to `new`.
    pub(crate) fn is_relocated_value(&self, new: Key, value: &[u8]) -> bool {
        // The index has the record under its final key from the moment it is queued.
        self.index
            .matches_hash(self.relocations.final_target(new), value)
    }

    /// Finishes a relocation: the record has this value now, or is lost if there is none.
    pub(crate) fn finish_relocation(&mut self, step: (Key, Key), value: Option<&[u8]>) {
        self.relocations.finish(step);
        let (_, new) = step;
        let final_target = self.relocations.final_target(new);
        // A cached value under `new` is another record, which Paho has put in the meantime.
        let is_store_only = self.index.contains(new) && self.index.value(new).is_none();
        match value {
            // The value contains its number, so the hash has changed.
            Some(value) => self.index.update_hash(final_target, value),
            // With a later relocation of the same record, that one reports the loss.
            None if final_target == new && is_store_only => self.drop_lost(new),
            None => {}
        }
    }

    /// Takes the oldest unsent writes, whole messages only, and marks them as sent.
    ///
    /// The batch has about `bytes` bytes, and at least one message if any is unsent. With
    /// `only_removes` it has only what frees memory in the store.
    pub(crate) fn next_batch(&mut self, bytes: usize, only_removes: bool) -> RewriteBatch {
        let groups = self.next_groups(bytes, only_removes);
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
            self.pending.mark_sent(&group);
        }
        batch.is_last = !self.pending.has_unsent();
        batch
    }

    /// Confirms the last batch; records that changed since it was taken stay pending.
    pub(crate) fn confirm_batch(&mut self) {
        let sent = u64::try_from(self.pending.unconfirmed().count()).unwrap_or(u64::MAX);
        self.rewritten = self.rewritten.saturating_add(sent);
        self.mark_confirmed();
    }
}

/// Writes groups and waits for the confirmation.
///
/// If calls wait meanwhile, it must be done within their time limit; if none does, a large batch
/// may take longer.
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

    /// Writes the batch as [`write_confirmed`] does.
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
