//! The cache's part of recovery, in small steps, since calls continue between them.

use std::collections::HashSet;

use super::{
    pending::Totals, relocate::Relocation, write::RewriteBatch, write_behind::WriteBehindCache,
};
use crate::{clock::Clock, paho::Key};

impl WriteBehindCache {
    /// Makes the writes of a failed attempt at recovery unsent again.
    pub(crate) fn retry_writes(&mut self) {
        self.pending.mark_unsent();
    }

    /// Forgets what earlier events said about foreign records, since an outage is over.
    pub(crate) fn end_resync(&mut self) {
        self.last_foreign_records = 0;
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

    /// Returns the relocation to make next, before anything else is written.
    pub(crate) fn next_relocation(&self) -> Option<(Key, Key)> {
        self.relocations.first()
    }

    /// Decides about a relocation from what the store has under both keys.
    pub(crate) fn plan_relocation(
        &self,
        (old, new): (Key, Key),
        old_value: Option<Vec<u8>>,
        new_value: Option<Vec<u8>>,
    ) -> Relocation {
        // The index has the record under its final key from the moment it is queued.
        let target = self.relocations.final_target(new);
        let is_expected = |value: &[u8]| self.index.matches_hash(target, value);
        Relocation::plan((old, new), old_value, new_value, is_expected)
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
        let mut batch = RewriteBatch::default();
        for group in self.next_groups(bytes, only_removes) {
            batch.add(group.iter().map(|key| (*key, self.index.value(*key))));
            self.pending.mark_sent(&group);
        }
        batch
    }

    /// Confirms the last batch and returns the number of its writes that are still current; records
    /// that changed since it was taken stay pending.
    pub(crate) fn confirm_batch(&mut self, clock: &Clock) -> u64 {
        let confirmed = u64::try_from(self.pending.unconfirmed().count()).unwrap_or(u64::MAX);
        self.mark_confirmed(clock);
        confirmed
    }

    /// Returns the number of unsent writes, and the bytes of the values that they put.
    pub(crate) fn unsent_totals(&self) -> Totals {
        self.pending.unsent_totals()
    }
}
