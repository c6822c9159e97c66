//! Moves a record to the quarantine at open.

use super::{
    load_changes::LoadChanges,
    set_aside::name_for,
    set_asides::SetAsides,
    write::{WriteAck, write},
};
use crate::{
    error::{Error, ErrorKind},
    paho::Key,
    store::{Change, Place, Store},
};

/// Moves a record to the quarantine; returns false if the store refuses that.
///
/// The copy is confirmed before the remove is sent: a store may apply the remove of a group
/// although it refused the copy in it, and then the record would be gone. A crash between the two
/// leaves the record in both places.
pub(super) fn quarantine(
    store: &mut impl Store,
    (record, reason): (Key, &str),
    (set_asides, changes): (&mut SetAsides, &mut LoadChanges),
) -> Result<bool, Error> {
    use ErrorKind::{Misconf, OutOfMemory, Permission, ReadOnly, Server, WrongType};
    let key = &record.to_name();
    let [Some(value)] = &store.read(&[key])?[..] else {
        return Ok(true);
    };
    let ack = WriteAck::Confirmed { sent: &[] };
    let place = Place::Quarantine;
    let name = name_for(reason, record, key, value);
    let name = changes.set_aside(set_asides, place, name);
    let is_refusal = |error: &Error| {
        matches!(
            error.kind(),
            Misconf | OutOfMemory | Permission | ReadOnly | Server | WrongType
        )
    };
    let copy = Change::SetAside {
        place,
        name: &name,
        value,
    };
    match write(store, &[&[copy]], ack) {
        Ok(()) => drop(set_asides.add(place, &name)),
        Err(error) if is_refusal(&error) => {
            changes.set_aside.remove(&(place, name));
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    match write(store, &[&[Change::Remove { key }]], ack) {
        Ok(()) => Ok(true),
        Err(error) if is_refusal(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
