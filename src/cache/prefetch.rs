//! Reads of values that only the store has, with prefetching.

use super::{access::StoreAccess, index::ReadOrder, write_behind::WriteBehindCache};
use crate::{
    error::Error,
    paho::{Key, RecordKind, with_key_names},
    store::Store,
};

impl WriteBehindCache {
    /// Returns the value of a record; reads it from the store if it is not cached.
    ///
    /// Returns `None` if there is no such record, or the store lost it or has another value. An error
    /// means that the value cannot be read now.
    pub(crate) fn load_value<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
    ) -> Result<Option<&[u8]>, Error> {
        if self.index.value(key).is_none() && self.index.contains(key) {
            self.read_with_prefetch(access, key)?;
        }
        Ok(self.index.value(key))
    }

    /// Reads a value and the commands behind it, and asks the store for the next batch.
    ///
    /// While Paho restores its queues it reads one command after the other: an exchange for each
    /// would cost most of the time.
    fn read_with_prefetch<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
    ) -> Result<(), Error> {
        // Until the relocation is made, the value is still under another key in the store.
        if self.relocations.is_target(key) {
            return Err(access.unavailable_error(key));
        }
        let order = self.read_order(key);
        let Some(store) = access.reader() else {
            return Err(access.unavailable_error(key));
        };
        // The store has this batch in flight and returns it only for exactly the same keys.
        let (keys, is_prefetched) = match std::mem::take(&mut self.prefetching) {
            prefetching if prefetching.first() == Some(&key) => (prefetching, true),
            _ => (self.index.prefetch_keys(key, order), false),
        };
        let values = match with_key_names(&keys, |names| store.read(names)) {
            Ok(values) => values,
            Err(error) => {
                self.note_failure(access, error);
                return Err(access.unavailable_error(key));
            }
        };
        // A single read is no pattern: the second one in a row without a write starts prefetching.
        let was_sequential = std::mem::replace(&mut self.is_sequential_read, true);
        let last = keys.last().filter(|_| was_sequential);
        if let Some(next) = last.and_then(|last| self.index.next_prefetch(*last, order)) {
            self.prefetching = self.index.prefetch_keys(next, order);
            if let Err(error) = with_key_names(&self.prefetching, |names| store.prefetch(names)) {
                self.note_failure(access, error);
            }
        }
        // What Paho has not taken of the last batch makes room for this one.
        for key in std::mem::take(&mut self.prefetched) {
            if self.may_evict(key) {
                self.index.evict_value(key);
            }
        }
        let mut is_altered = false;
        for (read, value) in keys.into_iter().zip(values) {
            let Some(value) = value else { continue };
            // Another program may have altered the value since open, and Paho might crash on it.
            if self.index.has_content(read, &value) {
                self.index.cache_value(read, value);
                self.prefetched.push(read);
            } else {
                is_altered |= read == key;
            }
        }
        if is_prefetched && self.index.value(key).is_none() {
            // It may have been written since it was prefetched.
            return self.read_with_prefetch(access, key);
        }
        if is_altered && self.foreign.insert(key) {
            self.events.foreign_records(1, false);
        }
        Ok(())
    }

    /// Notes that Paho has listed the keys, which it reads in this order next.
    pub(crate) fn note_listing(&mut self) {
        self.last_read = None;
    }

    /// Predicts in which direction Paho reads on from a record.
    fn read_order(&self, key: Key) -> ReadOrder {
        match self.last_read {
            Some(last) if last.kind == key.kind && last.number < key.number => ReadOrder::Ascending,
            // After a list Paho reads it from its start, and the list is in descending order.
            Some(last) if last.kind == key.kind => ReadOrder::Descending,
            Some(_) if key.kind == RecordKind::Command => ReadOrder::Ascending,
            Some(_) | None => ReadOrder::Descending,
        }
    }

    /// Returns the value of a record for Paho, and evicts it if the cache exceeds its limit.
    ///
    /// Paho reads a record once, so the cache is better used for others.
    pub(crate) fn take_for_paho<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
    ) -> Result<Option<Vec<u8>>, Error> {
        let loaded = self.load_value(access, key).map(drop);
        self.last_read = Some(key);
        loaded?;
        if self.may_evict(key) {
            return Ok(self.index.evict_value(key));
        }
        Ok(self.index.value(key).map(<[u8]>::to_vec))
    }
}
