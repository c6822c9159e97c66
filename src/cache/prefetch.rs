//! Values that are in the store only, and those that Paho asks for next.

use std::sync::Arc;

use super::write_behind::{Outage, WriteBehindCache};
use crate::{
    error::{Error, ErrorKind},
    paho::{Key, is_valid_record, with_key_names},
    store::Store,
};

impl<S: Store> WriteBehindCache<S> {
    /// The value of a record, with those that are likely to be asked for next, where it is not kept
    /// here.
    pub(crate) fn load_value(&mut self, key: Key) -> Result<Option<&[u8]>, Error> {
        if self.index.value(key).is_none() && self.index.contains(key) {
            self.read_ahead(key)?;
        }
        Ok(self.index.value(key))
    }

    fn read_ahead(&mut self, key: Key) -> Result<(), Error> {
        let is_readable = self.outage.as_ref().is_none_or(Outage::is_readable);
        let Some(store) = self.store.as_mut().filter(|_| is_readable) else {
            return Err(self.away(key));
        };
        // It is still where it was.
        if self.moves.lead_to(key) {
            return Err(self.away(key));
        }
        let keys = match std::mem::take(&mut self.soon) {
            soon if soon.first() == Some(&key) => soon,
            _ => self.index.ahead(key),
        };
        let values = match with_key_names(&keys, |names| store.read(names)) {
            Ok(values) => values,
            Err(error) => {
                self.fail_reading(error);
                return Err(self.away(key));
            }
        };
        let is_in_a_row = std::mem::replace(&mut self.is_reading, true);
        let next = keys.last().filter(|_| is_in_a_row);
        if let Some(next) = next.and_then(|last| self.index.next_to_read(*last)) {
            self.soon = self.index.ahead(next);
            if let Err(error) = with_key_names(&self.soon, |names| store.prefetch(names)) {
                self.fail_reading(error);
            }
        }
        for (key, value) in keys.into_iter().zip(values) {
            // What somebody else has put there could end the program.
            let is_usable =
                |value: &Vec<u8>| is_valid_record(key, value) && !self.moves.lead_to(key);
            if let Some(value) = value.filter(is_usable) {
                self.index.keep(key, value);
            }
        }
        Ok(())
    }

    fn fail_reading(&mut self, error: Error) {
        match &mut self.outage {
            // It cannot be read either.
            Some(outage) => outage.error = Arc::new(error),
            None => self.fail(error),
        }
    }

    /// The same for Paho, which reads a record once: the value is kept no longer where there is no room
    /// for it.
    pub(crate) fn take_for_paho(&mut self, key: Key) -> Result<Option<Vec<u8>>, Error> {
        self.load_value(key)?;
        if self.is_to_be_forgotten(key) {
            return Ok(self.index.take_value(key));
        }
        Ok(self.index.value(key).map(<[u8]>::to_vec))
    }

    /// Why a record cannot be read now.
    fn away(&self, key: Key) -> Error {
        let attempt = format!("read record {key}");
        match &self.outage {
            Some(outage) => Error::new(outage.error.kind(), attempt)
                .with_reason("its value is only in the store, which cannot be used at the moment")
                .with_source(Arc::clone(&outage.error)),
            None => Error::new(ErrorKind::Connection, attempt),
        }
    }
}
