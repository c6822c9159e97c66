//! Changes and questions to the store, tried once more where the connection broke.

use crate::{Change, Error, ErrorKind, Store, record::Key};

/// Changes the store and waits until it has happened.
pub(super) fn change(store: &mut impl Store, changes: &[Change<'_>]) -> Result<(), Error> {
    reconnecting(store, |store| {
        store.send(changes)?;
        store.confirm()
    })
}

/// Removes all of these in one step.
pub(super) fn remove(store: &mut impl Store, keys: &[Key]) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = keys.iter().map(Key::to_string).collect();
    let removes: Vec<_> = names.iter().map(|key| Change::Remove { key }).collect();
    change(store, &removes)
}

/// The value of one record.
pub(super) fn read(store: &mut impl Store, key: Key) -> Result<Option<Vec<u8>>, Error> {
    let mut values = read_all(store, &[key])?;
    Ok(values.pop().flatten())
}

/// The values of these records, in their order.
pub(super) fn read_all(
    store: &mut impl Store,
    keys: &[Key],
) -> Result<Vec<Option<Vec<u8>>>, Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = keys.iter().map(Key::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    reconnecting(store, |store| store.read(&names))
}

/// Tries once more what failed since the connection broke, which a restart of the store does
/// unnoticed. Doing any of it twice comes to the same as doing it once. After a time-out it would
/// not: the store may still do what it was first told, behind what comes later.
pub(super) fn reconnecting<S: Store, T>(
    store: &mut S,
    mut work: impl FnMut(&mut S) -> Result<T, Error>,
) -> Result<T, Error> {
    match work(store) {
        Err(error) if error.kind() == ErrorKind::Connection => work(store),
        result => result,
    }
}
