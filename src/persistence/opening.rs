//! What opening does with what it finds: reads it, and sets aside what Paho could not read.

use std::collections::HashSet;

use super::{
    changes::{change, read_all, remove},
    numbers::renumber,
    packet::Publish,
    records::Records,
    value,
};
use crate::{
    Change, Error, ErrorKind, Store,
    record::{Key, Kind},
};

/// How many values are asked for at a time.
const BATCH: usize = 64;
/// How many bytes of values are kept until Paho asks for them; the others are read again.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

/// A record, with its value where that is kept.
pub(super) type Record = (Key, Option<Vec<u8>>);

/// What was found.
pub(super) struct Found {
    pub(super) records: Records,
    /// Entries that Paho did not write.
    pub(super) foreign: usize,
    /// Records that Paho could not read.
    pub(super) unreadable: Vec<Key>,
    /// Whether some of those are where Paho left them, since the store refused to move them.
    pub(super) left: bool,
}

/// Reads what is in the store.
pub(super) fn open(store: &mut impl Store) -> Result<Found, Error> {
    match read_and_mend(store, true) {
        // What waits can be sent all the same, which makes room.
        Err(error) if error.kind() == ErrorKind::OutOfMemory => read_and_mend(store, false),
        done => done,
    }
}

fn read_and_mend(store: &mut impl Store, has_room: bool) -> Result<Found, Error> {
    let entries = store.keys()?;
    let parsed = |entry: &Vec<u8>| Key::parse(str::from_utf8(entry).ok()?);
    let keys: Vec<Key> = entries.iter().filter_map(parsed).collect();
    let foreign = entries.len().saturating_sub(keys.len());
    drop(entries);

    let mut found = Found {
        records: Records::default(),
        foreign,
        unreadable: Vec::new(),
        left: false,
    };
    let mut kept = 0_usize;
    let mut records: Vec<Record> = Vec::with_capacity(keys.len());
    for batch in keys.chunks(BATCH) {
        for (key, value) in batch.iter().zip(read_patiently(store, batch)?) {
            // One that has gone since it was listed.
            let Some(value) = value else { continue };
            if !value::is_readable(*key, &value) {
                found.left |= !set_aside(store, *key, &value)?;
                found.unreadable.push(*key);
                continue;
            }
            let size = value.len();
            let fits = kept.saturating_add(size) <= KEPT_BYTES;
            kept = kept.saturating_add(if fits { size } else { 0 });
            records.push((*key, fits.then_some(value)));
        }
    }
    drop_doubles(store, &mut records)?;
    if has_room {
        renumber(store, &mut records)?;
    }
    for (key, value) in records {
        found.records.found(key, value);
    }
    Ok(found)
}

/// Asks for fewer values at a time where so many take too long.
fn read_patiently(store: &mut impl Store, keys: &[Key]) -> Result<Vec<Option<Vec<u8>>>, Error> {
    match read_all(store, keys) {
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
fn set_aside(store: &mut impl Store, key: Key, value: &[u8]) -> Result<bool, Error> {
    use ErrorKind::{Misconf, OutOfMemory, Permission, ReadOnly, Server, WrongType};
    let name = key.to_string();
    let copied = change(store, &[Change::SetAside { key: &name, value }]);
    match copied.and_then(|()| remove(store, &[key])) {
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
fn drop_doubles(store: &mut impl Store, records: &mut Vec<Record>) -> Result<(), Error> {
    let keys = records.iter().map(|(key, _)| *key);
    let older: HashSet<Key> = keys
        .filter(|key| key.kind == Kind::SentPublish && !key.v5)
        .collect();
    let keys = records.iter().map(|(key, _)| key.other_version());
    let both: Vec<Key> = keys.filter(|key| older.contains(key)).collect();
    for older in both {
        let values = read_patiently(store, &[older.other_version(), older])?;
        if let [Some(value), Some(older_value)] = &values[..]
            && Publish::read(value, true) == Publish::read(older_value, false)
        {
            remove(store, &[older])?;
            records.retain(|(key, _)| *key != older);
        }
    }
    Ok(())
}
