//! Decides how one record is relocated in the store.

use super::write::RewriteBatch;
use crate::paho::{Key, set_record_number};

/// The decision about a record that is to move from one key to another.
pub(crate) enum Relocation {
    /// Write this batch, which moves the record in one step; then it has this value.
    Move { batch: RewriteBatch, value: Vec<u8> },
    /// An earlier attempt has moved it, although its reply never arrived.
    Moved { value: Vec<u8> },
    /// The record is under neither key.
    Lost,
}

impl Relocation {
    /// Decides from the values under both keys.
    ///
    /// `is_expected` recognizes the value of the record with its old number.
    pub(super) fn plan(
        (old, new): (Key, Key),
        old_value: Option<Vec<u8>>,
        new_value: Option<Vec<u8>>,
        is_expected: impl Fn(&[u8]) -> bool,
    ) -> Self {
        if let Some(mut value) = old_value
            && is_expected(&value)
        {
            set_record_number(new, &mut value);
            let mut batch = RewriteBatch::default();
            batch.add([(new, Some(&value[..])), (old, None)].into_iter());
            return Self::Move { batch, value };
        }
        // The hash is that of the value with the old number, so the number is put back for the
        // comparison.
        if let Some(mut value) = new_value {
            set_record_number(old, &mut value);
            if is_expected(&value) {
                set_record_number(new, &mut value);
                return Self::Moved { value };
            }
        }
        Self::Lost
    }
}
