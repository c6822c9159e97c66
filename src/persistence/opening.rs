//! What opening does with what it finds: reads it, and sets aside what Paho could not read.

use std::collections::HashSet;

use super::{index::Index, numbers::renumber, packet::Publish, value};
use crate::{
    Change, Error, ErrorKind, Store,
    record::{Key, Kind, with_names},
};

/// How many values are asked for at a time, and how many where so many take too long.
const BATCH: usize = 8 * 1024;
const SMALL_BATCH: usize = 64;

/// What was found.
pub(super) struct Found {
    pub(super) index: Index,
    /// Entries that Paho did not write.
    pub(super) foreign: usize,
    /// Records that Paho could not read.
    pub(super) unreadable: Vec<Key>,
    /// Those of them that are where Paho left them, since the store refused to move them.
    pub(super) left: HashSet<Key>,
}

/// Reads what is in the store, and keeps as many bytes of values.
pub(super) fn open(store: &mut impl Store, limit: usize) -> Result<Found, Error> {
    match read_and_mend(store, limit, true) {
        // What waits can be sent all the same, which makes room.
        Err(error) if error.kind() == ErrorKind::OutOfMemory => read_and_mend(store, limit, false),
        done => done,
    }
}

/// The keys of the records, and how many entries are none.
pub(super) fn list(store: &mut impl Store) -> Result<(Vec<Key>, usize), Error> {
    let entries = store.keys()?;
    let parsed = |entry: &Vec<u8>| Key::parse(str::from_utf8(entry).ok()?);
    let keys: Vec<Key> = entries.iter().filter_map(parsed).collect();
    let foreign = entries.len().saturating_sub(keys.len());
    Ok((keys, foreign))
}

fn read_and_mend(store: &mut impl Store, limit: usize, has_room: bool) -> Result<Found, Error> {
    let (mut keys, foreign) = list(store)?;
    // Of the commands, those are kept that Paho reads first.
    keys.sort_unstable();

    let mut found = Found {
        index: Index::with_capacity(keys.len(), limit),
        foreign,
        unreadable: Vec::new(),
        left: HashSet::new(),
    };
    for some in keys.chunks(BATCH) {
        let before = found.unreadable.len();
        read_each(store, some, |key, value| match value {
            Some(value) if value::is_readable(key, &value) => found.index.found(key, value),
            Some(_) => found.unreadable.push(key),
            // One that has gone since it was listed.
            None => {}
        })?;
        for &key in found.unreadable.get(before..).unwrap_or_default() {
            if !set_aside(store, key)? {
                found.left.insert(key);
            }
        }
    }
    drop_doubles(store, &mut found.index)?;
    if has_room {
        renumber(store, &mut found.index)?;
    }
    Ok(found)
}

/// Hands over the values one after the other, in smaller batches where so many take too long.
fn read_each(
    store: &mut impl Store,
    keys: &[Key],
    mut each: impl FnMut(Key, Option<Vec<u8>>),
) -> Result<(), Error> {
    let mut rest = keys.iter();
    let read = with_names(keys, |names| {
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
        for (key, value) in some.iter().zip(read_patiently(store, some)?) {
            each(*key, value);
        }
    }
    Ok(())
}

/// Asks for fewer values at a time where so many take too long.
pub(super) fn read_patiently(
    store: &mut impl Store,
    keys: &[Key],
) -> Result<Vec<Option<Vec<u8>>>, Error> {
    match with_names(keys, |names| store.read(names)) {
        Err(error) if error.kind() == ErrorKind::Timeout && keys.len() > 1 => {
            let (first, second) = keys.split_at(keys.len() / 2);
            let mut values = read_patiently(store, first)?;
            values.extend(read_patiently(store, second)?);
            Ok(values)
        }
        done => done,
    }
}

/// Whether the store could do it. In two steps, since one that fails must not undo what the other is
/// for: a crash between them leaves the record in both places.
fn set_aside(store: &mut impl Store, key: Key) -> Result<bool, Error> {
    use ErrorKind::{Misconf, OutOfMemory, Permission, ReadOnly, Server, WrongType};
    let key = &key.name();
    let [Some(value)] = &store.read(&[key])?[..] else {
        return Ok(true);
    };
    let copied = store.confirm(&[], &[&[Change::Quarantine { key, value }]]);
    match copied.and_then(|()| store.confirm(&[], &[&[Change::Remove { key }]])) {
        Err(error)
            if matches!(
                error.kind(),
                Misconf | OutOfMemory | Permission | ReadOnly | Server | WrongType
            ) =>
        {
            Ok(false)
        }
        done => done.map(|()| true),
    }
}

/// A PUBLISH that is there in both versions, as paho-mqtt-redis 0.3.2 leaves it where a client was
/// created for another version than before, would be sent as two.
fn drop_doubles(store: &mut impl Store, index: &mut Index) -> Result<(), Error> {
    let is_older = |key: &Key| key.kind == Kind::SentPublish && !key.v5;
    let older = index.keys().filter(is_older);
    let both: Vec<Key> = older
        .filter(|key| index.contains(key.other_version()))
        .collect();
    for older in both {
        let values = read_patiently(store, &[older.other_version(), older])?;
        if let [Some(value), Some(older_value)] = &values[..]
            && Publish::read(value, true) == Publish::read(older_value, false)
        {
            let key = &older.name();
            store.confirm(&[], &[&[Change::Remove { key }]])?;
            index.remove(older);
        }
    }
    Ok(())
}
