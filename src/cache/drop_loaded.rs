//! Drops messages at open, before Paho knows them.

use super::{
    batched_read::READ_BATCH,
    index::RecordIndex,
    load_changes::LoadChanges,
    write::{WriteAck, write},
};
use crate::{
    error::{Error, ErrorKind},
    paho::{DropReason, Key, KeyName},
    store::{Change, Store},
};

/// Removes waiting messages, and returns the number of those that are gone, the first ones.
///
/// If the store refuses, they are restored: a message that comes late does less harm than none at all.
pub(super) fn drop_loaded(
    store: &mut impl Store,
    (index, changes): (&mut RecordIndex, &mut LoadChanges),
    messages: &[Key],
    reason: DropReason,
) -> Result<usize, Error> {
    let mut dropped = 0_usize;
    for keys in messages.chunks(READ_BATCH) {
        let names: Vec<KeyName> = keys.iter().map(|key| key.to_name()).collect();
        let removes = names.iter().map(|key| Change::Remove { key });
        let removes: Vec<Change<'_>> = removes.collect();
        let ack = WriteAck::Confirmed { sent: &[] };
        // Also if the reply is lost: the next attempt finds those again that are not gone.
        changes
            .dropped
            .extend(keys.iter().map(|key| (*key, reason)));
        match write(store, &[&removes], ack) {
            Ok(()) => {}
            Err(error) if is_refused(&error) => {
                changes.dropped.retain(|key, _| !keys.contains(key));
                break;
            }
            Err(error) => return Err(error),
        }
        for key in keys {
            index.remove(*key);
        }
        dropped = dropped.saturating_add(keys.len());
    }
    Ok(dropped)
}

/// Returns true if the store refuses a write, and can be read all the same.
pub(super) fn is_refused(error: &Error) -> bool {
    error.kind().is_refusal() || error.kind() == ErrorKind::ReadOnly
}
