//! Relocates one record in the store.

use super::{batched_read::read_or_split, resync::write_confirmed};
use crate::{
    error::Error,
    paho::{Key, set_record_number},
    store::{Change, Store},
};

/// Moves a record in one step, and gives the value that it has then; nothing where it is in neither place.
pub(crate) fn relocate_record(
    store: &mut impl Store,
    (old, new): (Key, Key),
    is_it: impl Fn(&[u8]) -> Result<bool, Error>,
    calls_wait: bool,
) -> Result<Option<Vec<u8>>, Error> {
    let mut values = read_or_split(store, &[old, new])?.into_iter();
    let (before, after) = (values.next().flatten(), values.next().flatten());
    if let Some(mut value) = before
        && is_it(&value)?
    {
        set_record_number(new, &mut value);
        let (old, key) = (&old.to_name(), &new.to_name());
        let put = Change::Put { key, value: &value };
        let step = [put, Change::Remove { key: old }];
        write_confirmed(store, &[&step], calls_wait)?;
        return Ok(Some(value));
    }
    // It has been moved already where the answer to that was lost.
    if let Some(mut value) = after {
        set_record_number(old, &mut value);
        if is_it(&value)? {
            set_record_number(new, &mut value);
            return Ok(Some(value));
        }
    }
    Ok(None)
}
