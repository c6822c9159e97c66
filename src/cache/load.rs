//! Loads the records at open, and quarantines those that Paho could not read.

use std::{collections::HashSet, time::SystemTime};

use super::{
    batched_read::{READ_BATCH, list_keys, read_each_or_split, read_or_split},
    index::RecordIndex,
    set_aside::name_for,
    set_asides::SetAsides,
    write::{WriteAck, write},
};
use crate::{
    error::{Error, ErrorKind},
    paho::{Key, KeyName, Publish, RecordKind, is_expired, is_valid_record},
    store::{Change, Place, Store},
};

/// The contents of the store at open.
pub(crate) struct LoadedRecords {
    pub(crate) index: RecordIndex,
    /// Number of entries that Paho did not write.
    pub(crate) foreign_entries: usize,
    /// Records that Paho could not read, whether or not the quarantine took them.
    pub(crate) unreadable: Vec<Key>,
    /// The unreadable records that stay in place, since the store refused to move them.
    pub(crate) unmovable: HashSet<Key>,
    /// Number of records that were added to the quarantine.
    pub(crate) quarantined: usize,
    /// Number of waiting messages that had expired, and were removed.
    pub(crate) expired: usize,
}

/// Loads every record, with up to `cache_limit` bytes of values, and repairs what Paho would
/// misread.
pub(crate) fn load_records(
    store: &mut impl Store,
    cache_limit: usize,
    set_asides: &mut SetAsides,
    now: SystemTime,
) -> Result<LoadedRecords, Error> {
    let (mut keys, foreign_entries) = list_keys(store)?;
    // Values are cached in this order, and Paho reads the lowest command numbers first.
    keys.sort_unstable();

    let mut loaded = LoadedRecords {
        index: RecordIndex::with_capacity(keys.len(), cache_limit),
        foreign_entries,
        unreadable: Vec::new(),
        unmovable: HashSet::new(),
        quarantined: 0,
        expired: 0,
    };
    let mut expired = Vec::new();
    for batch in keys.chunks(READ_BATCH) {
        let known_unreadable = loaded.unreadable.len();
        read_each_or_split(store, batch, |key, value| match value {
            Some(value) if is_valid_record(key, &value) => {
                if is_expired(key, &value, || now) {
                    expired.push(key);
                }
                loaded.index.insert_loaded(key, value);
            }
            Some(_) => loaded.unreadable.push(key),
            // Removed since it was listed.
            None => {}
        })?;
        let unreadable = loaded.unreadable.get(known_unreadable..);
        for &key in unreadable.unwrap_or_default() {
            match quarantine(store, key, set_asides)? {
                Moved::Added => loaded.quarantined = loaded.quarantined.saturating_add(1),
                Moved::Again => {}
                Moved::Refused => drop(loaded.unmovable.insert(key)),
            }
        }
    }
    loaded.expired = drop_expired(store, &mut loaded.index, &expired)?;
    drop_cross_version_duplicates(store, &mut loaded.index)?;
    Ok(loaded)
}

/// Removes messages that have expired, and returns their number.
///
/// If the store refuses, they are restored: a message that comes late does less harm than none at all.
fn drop_expired(
    store: &mut impl Store,
    index: &mut RecordIndex,
    expired: &[Key],
) -> Result<usize, Error> {
    let mut dropped = 0_usize;
    for keys in expired.chunks(READ_BATCH) {
        let names: Vec<KeyName> = keys.iter().map(|key| key.to_name()).collect();
        let removes = names.iter().map(|key| Change::Remove { key });
        let removes: Vec<Change<'_>> = removes.collect();
        let ack = WriteAck::Confirmed { sent: &[] };
        match write(store, &[&removes], ack) {
            Ok(()) => {}
            Err(error) if error.kind().is_refusal() || error.kind() == ErrorKind::ReadOnly => break,
            Err(error) => return Err(error),
        }
        for key in keys {
            index.remove(*key);
        }
        dropped = dropped.saturating_add(keys.len());
    }
    Ok(dropped)
}

/// The result of an attempt to move a record to the quarantine.
enum Moved {
    Added,
    /// It is there already, since a crash ended the last attempt.
    Again,
    Refused,
}

/// Moves a record to the quarantine.
///
/// The copy is confirmed before the remove is sent: a store may apply the remove of a group
/// although it refused the copy in it, and then the record would be gone. A crash between the two
/// leaves the record in both places.
fn quarantine(
    store: &mut impl Store,
    record: Key,
    set_asides: &mut SetAsides,
) -> Result<Moved, Error> {
    use ErrorKind::{Misconf, OutOfMemory, Permission, ReadOnly, Server, WrongType};
    let key = &record.to_name();
    let [Some(value)] = &store.read(&[key])?[..] else {
        return Ok(Moved::Again);
    };
    let ack = WriteAck::Confirmed { sent: &[] };
    let place = Place::Quarantine;
    let name = name_for("unreadable", record, key, value);
    let name = &set_asides.name_of_record(place, name);
    let copied = write(store, &[&[Change::SetAside { place, name, value }]], ack);
    match copied.and_then(|()| write(store, &[&[Change::Remove { key }]], ack)) {
        Err(error)
            if matches!(
                error.kind(),
                Misconf | OutOfMemory | Permission | ReadOnly | Server | WrongType
            ) =>
        {
            Ok(Moved::Refused)
        }
        Err(error) => Err(error),
        Ok(()) if set_asides.add(place, name) => Ok(Moved::Added),
        Ok(()) => Ok(Moved::Again),
    }
}

/// Removes a 3.1.1 PUBLISH whose MQTT 5 twin has the same content.
///
/// paho-mqtt-redis 0.3.2 leaves both if a client was created for another version than before, and
/// Paho would send the message twice.
fn drop_cross_version_duplicates(
    store: &mut impl Store,
    index: &mut RecordIndex,
) -> Result<(), Error> {
    let is_v3_publish = |key: &Key| key.kind == RecordKind::SentPublish && !key.v5;
    let v3_publishes = index.keys().filter(is_v3_publish);
    let duplicates: Vec<Key> = v3_publishes
        .filter(|key| index.contains(key.other_version()))
        .collect();
    for v3_key in duplicates {
        let values = read_or_split(store, &[v3_key.other_version(), v3_key])?;
        if let [Some(v5_value), Some(v3_value)] = &values[..]
            && Publish::parse(v5_value, true) == Publish::parse(v3_value, false)
        {
            let key = &v3_key.to_name();
            let ack = WriteAck::Confirmed { sent: &[] };
            write(store, &[&[Change::Remove { key }]], ack)?;
            index.remove(v3_key);
        }
    }
    Ok(())
}
