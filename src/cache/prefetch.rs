//! Reads of values that only the store has, with prefetching.

use std::sync::Arc;

use super::write_behind::{Outage, WriteBehindCache};
use crate::{
    error::{Error, ErrorKind},
    paho::{Key, is_valid_record, with_key_names},
    store::Store,
};

impl<S: Store> WriteBehindCache<S> {
    /// Returns the value of a record; reads it from the store if it is not cached.
    ///
    /// Returns `None` if there is no such record, or the store lost it. An error means that the
    /// value cannot be read now.
    pub(crate) fn load_value(&mut self, key: Key) -> Result<Option<&[u8]>, Error> {
        if self.index.value(key).is_none() && self.index.contains(key) {
            self.read_with_prefetch(key)?;
        }
        Ok(self.index.value(key))
    }

    /// Reads a value and the commands behind it, and asks the store for the next batch.
    ///
    /// While Paho restores its queues it reads one command after the other: an exchange for each
    /// would cost most of the time.
    fn read_with_prefetch(&mut self, key: Key) -> Result<(), Error> {
        let is_readable = self.outage.as_ref().is_none_or(Outage::is_readable);
        let Some(store) = self.store.as_mut().filter(|_| is_readable) else {
            return Err(self.unavailable_error(key));
        };
        // Until the relocation is made, the value is still under another key in the store.
        if self.relocations.is_target(key) {
            return Err(self.unavailable_error(key));
        }
        // The store has this batch in flight and returns it only for exactly the same keys.
        let keys = match std::mem::take(&mut self.prefetching) {
            prefetching if prefetching.first() == Some(&key) => prefetching,
            _ => self.index.prefetch_keys(key),
        };
        let values = match with_key_names(&keys, |names| store.read(names)) {
            Ok(values) => values,
            Err(error) => {
                self.begin_read_outage(error);
                return Err(self.unavailable_error(key));
            }
        };
        // A single read is no pattern: the second one in a row without a write starts prefetching.
        let was_sequential = std::mem::replace(&mut self.is_sequential_read, true);
        let last = keys.last().filter(|_| was_sequential);
        if let Some(next) = last.and_then(|last| self.index.next_prefetch(*last)) {
            self.prefetching = self.index.prefetch_keys(next);
            if let Err(error) = with_key_names(&self.prefetching, |names| store.prefetch(names)) {
                self.begin_read_outage(error);
            }
        }
        for (key, value) in keys.into_iter().zip(values) {
            // Another program may have damaged the value since open, and Paho would crash on it.
            let is_usable =
                |value: &Vec<u8>| is_valid_record(key, value) && !self.relocations.is_target(key);
            if let Some(value) = value.filter(is_usable) {
                self.index.cache_value(key, value);
            }
        }
        Ok(())
    }

    /// Begins an outage, or replaces the reason of one in which reads worked so far.
    fn begin_read_outage(&mut self, error: Error) {
        match &mut self.outage {
            Some(outage) => outage.error = Arc::new(error),
            None => self.begin_outage(error),
        }
    }

    /// Returns the value of a record for Paho, and evicts it if the cache exceeds its limit.
    ///
    /// Paho reads a record once, so the cache is better used for others.
    pub(crate) fn take_for_paho(&mut self, key: Key) -> Result<Option<Vec<u8>>, Error> {
        self.load_value(key)?;
        if self.may_evict(key) {
            return Ok(self.index.evict_value(key));
        }
        Ok(self.index.value(key).map(<[u8]>::to_vec))
    }

    /// Creates the error for a value that cannot be read during this outage.
    fn unavailable_error(&self, key: Key) -> Error {
        let attempt = format!("read record {key}");
        match &self.outage {
            Some(outage) => Error::new(outage.error.kind(), attempt)
                .with_reason("its value is only in the store, which is unavailable")
                .with_source(Arc::clone(&outage.error)),
            None => Error::new(ErrorKind::Connection, attempt),
        }
    }
}
