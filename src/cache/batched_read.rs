//! Reads many values from the store, in smaller batches if they take too long.

use crate::{
    error::{Error, ErrorKind},
    paho::{Key, with_key_names},
    store::Store,
};

/// How many values are asked for at a time, and how many where so many take too long.
pub(crate) const READ_BATCH: usize = 8 * 1024;
const SMALL_BATCH: usize = 64;

/// The keys of the records, and how many entries are none.
pub(crate) fn list_keys(store: &mut impl Store) -> Result<(Vec<Key>, usize), Error> {
    let entries = store.keys()?;
    let parsed = |entry: &Vec<u8>| Key::parse(str::from_utf8(entry).ok()?);
    let keys: Vec<Key> = entries.iter().filter_map(parsed).collect();
    let foreign = entries.len().saturating_sub(keys.len());
    Ok((keys, foreign))
}

/// Hands over the values one after the other, in smaller batches where so many take too long.
pub(crate) fn read_each(
    store: &mut impl Store,
    keys: &[Key],
    mut each: impl FnMut(Key, Option<Vec<u8>>),
) -> Result<(), Error> {
    let mut rest = keys.iter();
    let read = with_key_names(keys, |names| {
        store.read_each(names, &mut |value| {
            if let Some(key) = rest.next() {
                each(*key, value);
            }
        })
    });
    match read {
        Err(error) if error.kind() == ErrorKind::Timeout => {}
        done => return done,
    }
    for some in rest.as_slice().chunks(SMALL_BATCH) {
        for (key, value) in some.iter().zip(read_or_split(store, some)?) {
            each(*key, value);
        }
    }
    Ok(())
}

/// Asks for fewer values at a time where so many take too long.
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
