//! Loads the records at open, and quarantines those that Paho could not read.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};

use super::{
    batched_read::{READ_BATCH, list_keys, read_each_or_split, read_or_split},
    convert::convert_records,
    drop_loaded::{drop_loaded, is_refused},
    index::RecordIndex,
    load_changes::LoadChanges,
    over_budget::drop_over_budget,
    quarantine::quarantine,
    send_counts::SendCounts,
    set_asides::SetAsides,
    write::{WriteAck, write},
};
use crate::{
    error::Error,
    paho::{
        DropReason, Key, KeyMap, Publish, RecordKind, StoredMessage, is_expired, is_valid_record,
    },
    store::{Change, OTHER_VERSION, POISON, Store, UNREADABLE},
};

/// The contents of the store at open.
pub(crate) struct LoadedRecords {
    pub(crate) index: RecordIndex,
    /// Number of entries that Paho did not write.
    pub(crate) foreign_entries: usize,
    /// The unreadable records that stay in place, since the store refused to move them.
    pub(crate) unmovable: HashSet<Key>,
    pub(crate) sends: SendCounts,
}

/// The decisions of the program for a load.
#[derive(Clone, Copy)]
pub(crate) struct LoadOptions {
    /// Records of the other MQTT version are converted: to MQTT 5 if true.
    pub(crate) to_v5: Option<bool>,
    /// Bytes of values that are kept in memory.
    pub(crate) cache_limit: usize,
    /// Waiting messages beyond this many bytes are dropped.
    pub(crate) drops_above: Option<usize>,
    /// A message that was sent on more connections is suspected of being poison.
    pub(crate) max_sends: u32,
    /// The first one that is suspected is quarantined.
    pub(crate) quarantines_poison: bool,
    pub(crate) now: SystemTime,
    pub(crate) since_boot: Duration,
}

/// Loads every record, repairs what Paho would misread, and drops what the program no longer wants sent.
pub(crate) fn load_records(
    store: &mut impl Store,
    (set_asides, changes): (&mut SetAsides, &mut LoadChanges),
    options: LoadOptions,
) -> Result<LoadedRecords, Error> {
    let (mut keys, foreign_entries) = list_keys(store)?;
    let mut inconvertible = Vec::new();
    if let Some(to_v5) = options.to_v5 {
        let conversion = convert_records(store, keys, to_v5, options.now)?;
        keys = conversion.keys;
        inconvertible = conversion.left;
    }
    // Values are cached in this order, and Paho reads the lowest command numbers first.
    keys.sort_unstable();

    let mut loaded = LoadedRecords {
        index: RecordIndex::with_capacity(keys.len(), options.cache_limit),
        foreign_entries,
        unmovable: HashSet::new(),
        sends: SendCounts::new(options.max_sends),
    };
    loaded.index.set_now(options.since_boot);
    changes.unreadable.extend(&inconvertible);
    for key in inconvertible {
        if !quarantine(store, (key, OTHER_VERSION), (set_asides, changes))? {
            loaded.unmovable.insert(key);
        }
    }
    let mut expired = Vec::new();
    // The index does not tell QoS 1 from 2.
    let mut qos_of = KeyMap::default();
    for batch in keys.chunks(READ_BATCH) {
        let mut unreadable = Vec::new();
        read_each_or_split(store, batch, |key, value| match value {
            Some(value) if is_valid_record(key, &value) => {
                if is_expired(key, &value, || options.now) {
                    expired.push(key);
                }
                if options.drops_above.is_some()
                    && let Some(message) = StoredMessage::parse(key, &value)
                {
                    qos_of.insert(key, message.qos);
                }
                loaded.index.insert_loaded(key, value);
            }
            Some(_) => unreadable.push(key),
            // Removed since it was listed.
            None => {}
        })?;
        changes.unreadable.extend(&unreadable);
        for key in unreadable {
            if !quarantine(store, (key, UNREADABLE), (set_asides, changes))? {
                loaded.unmovable.insert(key);
            }
        }
    }
    let LoadedRecords { index, .. } = &mut loaded;
    drop_loaded(store, (index, changes), &expired, DropReason::Expired)?;
    drop_cross_version_duplicates(store, index)?;
    if let Some(budget) = options.drops_above {
        drop_over_budget(store, (index, changes, set_asides), (&qos_of, budget))?;
    }
    if options.max_sends < u32::MAX {
        load_sends(store, &mut loaded, (set_asides, changes), options)?;
    }
    Ok(loaded)
}

/// Loads how often messages in flight were sent, and quarantines the first that may be poison if the program
/// wants that.
fn load_sends(
    store: &mut impl Store,
    loaded: &mut LoadedRecords,
    (set_asides, changes): (&mut SetAsides, &mut LoadChanges),
    options: LoadOptions,
) -> Result<(), Error> {
    let stored = match store.read_send_counts() {
        Ok(stored) => stored.unwrap_or_default(),
        // The records can be used all the same, and are counted from now on.
        Err(error) if is_refused(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    loaded.sends = SendCounts::load(options.max_sends, &stored, &loaded.index);
    let suspect = loaded.sends.first_suspect();
    // An attempt before may have moved one.
    let is_first = |key: &Key| changes.poison.is_none_or(|poison| poison == *key);
    let suspect = suspect.filter(|key| options.quarantines_poison && is_first(key));
    let Some(key) = suspect else {
        return Ok(());
    };
    changes.poison = Some(key);
    if !quarantine(store, (key, POISON), (set_asides, changes))? {
        changes.poison = None;
        return Ok(());
    }
    loaded.index.remove(key);
    loaded.sends.forget(key);
    Ok(())
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
