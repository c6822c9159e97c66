//! The cache's part of recovery, in small steps, since calls continue between them.

use std::{collections::HashSet, sync::Arc};

use super::{
    access::StoreAccess,
    batched_read::read_or_split,
    index::hash_of,
    pending::{BatchLimits, Totals},
    relocate::Relocation,
    write::{RewriteBatch, WriteAck},
    write_behind::WriteBehindCache,
};
use crate::{
    clock::Clock,
    error::{Error, ErrorKind},
    paho::Key,
    store::{Place, Store},
};

/// Number of stale records that are removed in one step.
const MAX_STALE_REMOVES: usize = 1024;

impl WriteBehindCache {
    /// Makes the writes of a failed attempt at recovery unsent again.
    pub(crate) fn retry_writes(&mut self) {
        self.pending.mark_unsent();
        // The replies to a prefetch are lost with its connection.
        self.prefetching.clear();
    }

    /// Makes the writes that the store has refused unsent again.
    pub(crate) fn reopen_refused(&mut self) {
        self.pending.retry_refused();
    }

    /// Puts a message off that the store refuses, although it takes others.
    ///
    /// If a value is set aside with it, that is given up first: the rest may be accepted without it.
    pub(crate) fn refuse(&mut self, keys: &[Key], error: Arc<Error>) {
        if self.give_up_set_asides(keys) {
            return;
        }
        self.pending.refuse(keys);
        self.refusal = Some(Arc::clone(&error));
        let totals = self.pending.refused_totals();
        self.events.refused(error, totals);
    }

    /// Forgets that records were lost, since an outage is over.
    pub(crate) fn end_resync(&mut self) {
        self.has_lost = false;
    }

    /// Compares the keys in a store that may have lost records with the cache.
    ///
    /// Records that it lost are noted as pending writes, or dropped as lost if there is no copy of
    /// them. Unknown ones stay and count as foreign. Returns those in the way of a new record, which
    /// are to be compared.
    pub(crate) fn restore_missing(&mut self, stored: &[Key], foreign_entries: usize) -> Vec<Key> {
        let is_known = |key| {
            self.index.contains(key) || self.pending.contains(key) || self.stale.contains(&key)
        };
        let is_other = |key| self.foreign.contains(&key) || !is_known(key);
        let is_in_the_way =
            |key: &Key| self.pending.is_new(*key) || is_other(*key) && self.is_message_here(*key);
        let (in_the_way, others): (Vec<Key>, Vec<Key>) =
            stored.iter().copied().partition(is_in_the_way);
        let unknown: Vec<Key> = others.into_iter().filter(|key| !is_known(*key)).collect();
        let stored: HashSet<Key> = stored.iter().copied().collect();
        let before = self.foreign_entries.saturating_add(self.foreign.len());
        self.count_foreign(&stored, foreign_entries);
        self.foreign.extend(unknown);
        let all = self.foreign_entries.saturating_add(self.foreign.len());
        self.events
            .foreign_records(all.saturating_sub(before), false);
        self.note_missing(&stored);
        in_the_way
    }

    /// Compares records in a store that may have other data with the cache.
    ///
    /// Returns the records that this process has never known, for the quarantine. Those that it knew
    /// and that changed since are noted as pending writes; if others were lost, they go to the
    /// quarantine too, since one may be the older state of a lost message. Call
    /// [`begin_comparison`](Self::begin_comparison) before the first and
    /// [`finish_comparison`](Self::finish_comparison) after the last.
    pub(crate) fn compare(&mut self, records: Vec<(Key, Vec<u8>)>) -> Vec<(Key, Vec<u8>)> {
        let mut unknown = Vec::new();
        for (key, value) in records {
            // What the keys of a relocation should have is decided when it is made.
            let is_undecided = self.relocations.involves(key);
            if is_undecided || self.index.has_content(key, &value) {
                self.foreign.remove(&key);
                self.pending.note_stored(key);
                continue;
            }
            let is_old = || self.removed.contains(hash_of(key, &value));
            if !self.has_lost && is_old() {
                self.replace_stored(key);
            } else if !self.replace_if_quarantined(key, &value) {
                unknown.push((key, value));
            }
        }
        unknown
    }

    /// Notes that the store has something else under a key than it should.
    fn replace_stored(&mut self, key: Key) {
        self.foreign.remove(&key);
        if self.pending.contains(key) {
            self.pending.note_stored(key);
            return;
        }
        if let Some(length) = self.index.value(key).map(<[u8]>::len) {
            self.pending.record(key, Some(length), None, true);
            return;
        }
        // Its value was only in the store, which has another one.
        if self.index.contains(key) {
            self.has_lost = true;
            self.drop_lost(key);
        }
        self.stale.insert(key);
    }

    /// Takes the stale records, once all that replaces them is written.
    ///
    /// The older state of a message may be its only copy until then.
    pub(crate) fn next_stale_batch(&mut self) -> RewriteBatch {
        let mut batch = RewriteBatch::default();
        if !self.stale.is_empty() && self.pending.is_sent_up_to(self.replaces_stale) {
            let keys = self.stale.iter().take(MAX_STALE_REMOVES);
            batch.add(keys.map(|key| (*key, None)));
        }
        batch
    }

    /// Forgets stale records that are removed.
    pub(crate) fn finish_stale(&mut self, removed: &RewriteBatch) {
        for key in removed.keys() {
            self.stale.remove(&key);
        }
    }

    /// Removes the stale records that had to stay while the store refused what replaces them; returns false
    /// if there are none.
    pub(crate) fn remove_stale<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) -> bool {
        let batch = self.next_stale_batch();
        let store = access.writer().filter(|_| !batch.is_empty());
        let ack = WriteAck::Confirmed { sent: &[] };
        match store.map(|store| batch.write(store, ack)) {
            Some(Ok(())) => self.finish_stale(&batch),
            Some(Err(error)) => self.note_failure(access, error),
            None => return false,
        }
        true
    }

    /// Notes that unknown records are in the quarantine, so that their keys can be written.
    pub(crate) fn finish_quarantine(&mut self, unknown: &[(Key, Vec<u8>)], batch: &RewriteBatch) {
        self.events.foreign_records(unknown.len(), true);
        self.note_quarantined(batch);
        for (key, _) in unknown {
            self.replace_quarantined(*key);
        }
    }

    /// Returns false if the quarantine has no copy of this record, whose key can otherwise be written.
    ///
    /// The reply to the copy was lost, or the connection before the record was removed. Or the record has
    /// come again.
    pub(super) fn replace_if_quarantined(&mut self, key: Key, value: &[u8]) -> bool {
        if !self.is_quarantined(key, value) {
            return false;
        }
        // Otherwise it was counted when the write of its key became pending.
        if !self.pending.contains(key) || self.pending.is_new(key) {
            self.events.foreign_records(1, true);
            self.events.set_aside(Place::Quarantine);
        }
        self.replace_quarantined(key);
        true
    }

    fn replace_quarantined(&mut self, key: Key) {
        self.replace_stored(key);
        // The copy is safe, so nothing has to be written before this one goes.
        if self.stale.remove(&key) {
            self.pending.record(key, None, None, true);
        }
    }

    /// Creates the batch that copies unknown records to the quarantine.
    pub(crate) fn quarantine_batch(&self, unknown: &[(Key, Vec<u8>)]) -> RewriteBatch {
        RewriteBatch::to_quarantine(unknown.iter().map(|(key, value)| {
            let name = self.quarantine_name(*key, value);
            (name, value.clone())
        }))
    }

    /// Leaves unknown records in place that the store refuses to quarantine.
    ///
    /// What this client has under their keys is written once they are moved.
    pub(crate) fn leave_unknown(&mut self, unknown: &[(Key, Vec<u8>)], error: Arc<Error>) {
        let mut added = 0_usize;
        for (key, _) in unknown {
            added = added.saturating_add(usize::from(self.foreign.insert(*key)));
            self.stale.remove(key);
            if self.pending.contains(*key) {
                self.pending.note_absent(*key);
            } else if let Some(length) = self.index.value(*key).map(<[u8]>::len) {
                self.pending.record(*key, Some(length), None, false);
            } else if self.index.contains(*key) {
                // Its value was only in the store, which has another one.
                self.has_lost = true;
                self.drop_lost(*key);
            }
        }
        self.events.foreign_records(added, false);
        self.refuse_obstructed(Some(error));
    }

    /// Sets the messages aside that have a foreign record in their way, which could not be moved because
    /// of this error.
    pub(super) fn refuse_obstructed(&mut self, error: Option<Arc<Error>>) {
        if self.foreign.is_empty() {
            return;
        }
        let is_obstructed = |key| self.is_obstructed(key);
        let messages = self.pending.unsent_messages_with(is_obstructed);
        let Some(key) = messages.iter().flatten().find(|key| is_obstructed(**key)) else {
            return;
        };
        let error = error.unwrap_or_else(|| {
            let error = Error::new(ErrorKind::InUse, format!("write record {key}"));
            Arc::new(error.with_reason(
                "the store has a record of another program under its key, or with its packet id",
            ))
        });
        for message in &messages {
            self.pending.refuse(message);
        }
        self.refusal = Some(Arc::clone(&error));
        let totals = self.pending.refused_totals();
        self.events.refused(error, totals);
    }

    /// Returns true if a foreign record must go before this key can be written: it has this key or, for a
    /// put, its packet id.
    ///
    /// A foreign PUBREL beside a PUBLISH would make the next start send the PUBREL alone.
    pub(super) fn is_obstructed(&self, key: Key) -> bool {
        let has_its_id = || key.message_keys().any(|key| self.foreign.contains(&key));
        self.foreign.contains(&key) || self.index.contains(key) && has_its_id()
    }

    /// Returns true if this client has a record, or a pending write, of a message with this key.
    fn is_message_here(&self, key: Key) -> bool {
        let mut keys = key.message_keys();
        keys.any(|key| self.index.contains(key) || self.pending.contains(key))
    }

    /// Returns the records that are in the way of a message.
    pub(super) fn obstructions(&self) -> Vec<Key> {
        let keys = self.foreign.iter().copied();
        keys.filter(|key| self.is_message_here(*key)).collect()
    }

    /// Copies a record to the quarantine that is in the way of a message; returns true if it is safe.
    pub(super) fn quarantine_obstruction<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
    ) -> bool {
        let Some(store) = access.writer() else {
            return false;
        };
        let records = match read_or_split(store, &[key]) {
            Ok(values) => values.into_iter().flatten().map(|value| (key, value)),
            Err(error) => {
                self.note_failure(access, error);
                return false;
            }
        };
        let records: Vec<(Key, Vec<u8>)> = records.collect();
        let batch = self.quarantine_batch(&records);
        let ack = WriteAck::Confirmed { sent: &[] };
        let copied = if batch.is_empty() {
            Ok(())
        } else {
            batch.write(store, ack)
        };
        match copied {
            Ok(()) => {
                self.foreign.remove(&key);
                self.finish_quarantine(&records, &batch);
                true
            }
            Err(error) if error.kind().is_refusal() => {
                self.refusal = Some(Arc::new(error));
                false
            }
            Err(error) => {
                self.note_failure(access, error);
                false
            }
        }
    }

    /// Notes what is missing in a store whose records are to be compared.
    pub(crate) fn begin_comparison(&mut self, stored: &[Key], foreign_entries: usize) {
        let stored: HashSet<Key> = stored.iter().copied().collect();
        self.count_foreign(&stored, foreign_entries);
        self.note_missing(&stored);
    }

    /// Notes that all records are compared.
    pub(crate) fn finish_comparison(&mut self) {
        self.replaces_stale = self.pending.last_sequence();
    }

    fn count_foreign(&mut self, stored: &HashSet<Key>, foreign_entries: usize) {
        self.stale.retain(|key| stored.contains(key));
        self.foreign.retain(|key| stored.contains(key));
        self.foreign_entries = foreign_entries;
    }

    /// Notes writes for the records that the store lacks, and drops those of which there is no copy.
    fn note_missing(&mut self, stored: &HashSet<Key>) {
        let all: Vec<Key> = self.index.keys().collect();
        let mut lost = Vec::new();
        for key in all {
            // The store has it under the source key until the relocation is made.
            let is_unrelocated = self.relocations.is_target(key);
            if stored.contains(&key) || self.pending.contains(key) || is_unrelocated {
                continue;
            }
            if let Some(length) = self.index.value(key).map(<[u8]>::len) {
                self.pending.record(key, Some(length), None, false);
            } else {
                lost.push(key);
            }
        }
        self.has_lost |= !lost.is_empty();
        self.drop_all_lost(&lost);
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
        let is_expected = |value: &[u8]| self.index.has_content(target, value);
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
    pub(crate) fn next_batch(&mut self, limits: BatchLimits) -> RewriteBatch {
        self.refuse_obstructed(None);
        let groups = self.next_groups(limits);
        self.take_batch(groups)
    }

    fn take_batch(&mut self, groups: Vec<Vec<Key>>) -> RewriteBatch {
        let mut batch = RewriteBatch::default();
        for group in groups {
            batch.add_message(&group, (&self.index, &self.pending));
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
