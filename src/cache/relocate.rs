//! Relocates one record in the store.

use super::{batched_read::read_or_split, resync::write_confirmed};
use crate::{
    error::Error,
    paho::{Key, set_record_number},
    store::{Change, Store},
};

/// Moves a record from one key to another in one step, and returns the value with its new number.
///
/// Returns `None` if the record is under neither key: it is lost. `is_expected` recognizes its
/// value with the old number. `calls_wait` is passed to [`write_confirmed`].
pub(crate) fn relocate_record(
    store: &mut impl Store,
    (old, new): (Key, Key),
    is_expected: impl Fn(&[u8]) -> Result<bool, Error>,
    calls_wait: bool,
) -> Result<Option<Vec<u8>>, Error> {
    let mut values = read_or_split(store, &[old, new])?.into_iter();
    let (old_value, new_value) = (values.next().flatten(), values.next().flatten());
    if let Some(mut value) = old_value
        && is_expected(&value)?
    {
        set_record_number(new, &mut value);
        let (old, key) = (&old.to_name(), &new.to_name());
        let put = Change::Put { key, value: &value };
        let step = [put, Change::Remove { key: old }];
        write_confirmed(store, &[&step], calls_wait)?;
        return Ok(Some(value));
    }
    // An earlier attempt may have moved it, although its reply never arrived. The hash is that of
    // the value with the old number, so the number is put back for the comparison.
    if let Some(mut value) = new_value {
        set_record_number(old, &mut value);
        if is_expected(&value)? {
            set_record_number(new, &mut value);
            return Ok(Some(value));
        }
    }
    Ok(None)
}
