//! Batched reads from the store, with smaller batches after a timeout.

use crate::{
    error::{Error, ErrorKind},
    paho::{Key, with_key_names},
    store::Store,
};

/// Number of values per read, and after a timeout.
pub(crate) const READ_BATCH: usize = 8 * 1024;
const RETRY_READ_BATCH: usize = 64;

/// Lists the keys of the records, and counts the foreign entries.
pub(crate) fn list_keys(store: &mut impl Store) -> Result<(Vec<Key>, usize), Error> {
    let entries = store.keys()?;
    let parsed = |entry: &Vec<u8>| Key::parse(str::from_utf8(entry).ok()?);
    let keys: Vec<Key> = entries.iter().filter_map(parsed).collect();
    let foreign_entries = entries.len().saturating_sub(keys.len());
    Ok((keys, foreign_entries))
}

/// Reads values in the order of `keys` and passes each to `on_value`, in smaller batches after a
/// timeout.
pub(crate) fn read_each_or_split(
    store: &mut impl Store,
    keys: &[Key],
    mut on_value: impl FnMut(Key, Option<Vec<u8>>),
) -> Result<(), Error> {
    // Advances with each value, so that after a timeout only the missing ones are read again.
    let mut rest = keys.iter();
    let read = with_key_names(keys, |names| {
        store.read_each(names, &mut |value| {
            if let Some(key) = rest.next() {
                on_value(*key, value);
            }
        })
    });
    match read {
        Err(error) if error.kind() == ErrorKind::Timeout => {}
        done => return done,
    }
    for batch in rest.as_slice().chunks(RETRY_READ_BATCH) {
        for (key, value) in batch.iter().zip(read_or_split(store, batch)?) {
            on_value(*key, value);
        }
    }
    Ok(())
}

/// Reads values in the order of `keys`, and halves the batch after each timeout.
///
/// The time limit is per exchange, so a smaller batch may succeed over a slow connection. A timeout
/// of a single value is returned.
pub(crate) fn read_or_split(
    store: &mut impl Store,
    keys: &[Key],
) -> Result<Vec<Option<Vec<u8>>>, Error> {
    match with_key_names(keys, |names| store.read(names)) {
        Err(error) if error.kind() == ErrorKind::Timeout && keys.len() > 1 => {
            let (first, second) = keys.split_at(keys.len() / 2);
            let mut values = read_or_split(store, first)?;
            values.extend(read_or_split(store, second)?);
            Ok(values)
        }
        done => done,
    }
}
