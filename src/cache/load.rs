//! What opening does with what it finds: reads it, and sets aside what Paho could not read.

use std::collections::HashSet;

use super::{
    batched_read::{READ_BATCH, list_keys, read_each, read_or_split},
    index::RecordIndex,
    renumber::renumber_wrapped_commands,
};
use crate::{
    error::{Error, ErrorKind},
    paho::{Key, Publish, RecordKind, is_valid_record},
    store::{Change, Store},
};

/// What was found.
pub(crate) struct LoadedRecords {
    pub(crate) index: RecordIndex,
    /// Entries that Paho did not write.
    pub(crate) foreign: usize,
    /// Records that Paho could not read.
    pub(crate) unreadable: Vec<Key>,
    /// Those of them that are where Paho left them, since the store refused to move them.
    pub(crate) left: HashSet<Key>,
}

/// Reads what is in the store, and keeps as many bytes of values.
pub(crate) fn load_records(store: &mut impl Store, limit: usize) -> Result<LoadedRecords, Error> {
    match read_and_mend(store, limit, true) {
        // What waits can be sent all the same, which makes room.
        Err(error) if error.kind() == ErrorKind::OutOfMemory => read_and_mend(store, limit, false),
        done => done,
    }
}

fn read_and_mend(
    store: &mut impl Store,
    limit: usize,
    has_room: bool,
) -> Result<LoadedRecords, Error> {
    let (mut keys, foreign) = list_keys(store)?;
    // Of the commands, those are kept that Paho reads first.
    keys.sort_unstable();

    let mut found = LoadedRecords {
        index: RecordIndex::with_capacity(keys.len(), limit),
        foreign,
        unreadable: Vec::new(),
        left: HashSet::new(),
    };
    for some in keys.chunks(READ_BATCH) {
        let before = found.unreadable.len();
        read_each(store, some, |key, value| match value {
            Some(value) if is_valid_record(key, &value) => found.index.found(key, value),
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
        renumber_wrapped_commands(store, &mut found.index)?;
    }
    Ok(found)
}

/// Whether the store could do it. In two steps, since one that fails must not undo what the other is
/// for: a crash between them leaves the record in both places.
fn set_aside(store: &mut impl Store, key: Key) -> Result<bool, Error> {
    use ErrorKind::{Misconf, OutOfMemory, Permission, ReadOnly, Server, WrongType};
    let key = &key.to_name();
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
fn drop_doubles(store: &mut impl Store, index: &mut RecordIndex) -> Result<(), Error> {
    let is_older = |key: &Key| key.kind == RecordKind::SentPublish && !key.v5;
    let older = index.keys().filter(is_older);
    let both: Vec<Key> = older
        .filter(|key| index.contains(key.other_version()))
        .collect();
    for older in both {
        let values = read_or_split(store, &[older.other_version(), older])?;
        if let [Some(value), Some(older_value)] = &values[..]
            && Publish::parse(value, true) == Publish::parse(older_value, false)
        {
            let key = &older.to_name();
            store.confirm(&[], &[&[Change::Remove { key }]])?;
            index.remove(older);
        }
    }
    Ok(())
}
