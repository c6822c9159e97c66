//! Sets records aside that Paho drops or cannot read, and bounds what is set aside.

use std::collections::HashSet;

use super::{
    access::StoreAccess,
    index::hash_of,
    pending::{PendingWrites, SetAsideChange},
    write::{RewriteBatch, WriteAck, write},
    write_behind::WriteBehindCache,
};
use crate::{
    clock::Clock,
    error::{Error, ErrorKind},
    paho::Key,
    store::{Change, FOREIGN, Place, SetAsideLoss, SetAsideName, Store},
};

/// Returns the name of a record, without the time.
pub(super) fn name_for<'a>(
    reason: &'a str,
    key: Key,
    key_name: &'a str,
    value: &[u8],
) -> SetAsideName<'a> {
    SetAsideName {
        millis: 0,
        reason,
        length: value.len(),
        key: key_name,
        hash: hash_of(key, value),
    }
}

/// Returns the names in a place that are to be added or removed.
fn unconfirmed_names<'a>(
    place: Place,
    pending: &'a PendingWrites,
    removals: &'a [(Place, String)],
) -> HashSet<&'a str> {
    let attached = pending.all_attached().map(SetAsideChange::place_and_name);
    let removals = removals.iter().map(|(place, name)| (*place, name.as_str()));
    let all = attached.chain(removals);
    all.filter(|(other, _)| *other == place)
        .map(|(_, name)| name)
        .collect()
}

impl WriteBehindCache {
    /// Notes the time, for what is set aside next.
    pub(crate) fn note_time(&mut self, clock: &Clock) {
        self.set_asides.note_time(clock.time(), clock.since_boot());
    }

    /// Sets the value of a record aside that Paho drops, in one step with the remove that follows.
    ///
    /// If the value is only in the store and cannot be read now, the record is only counted.
    pub(crate) fn discard<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
        reason: &str,
    ) {
        const PLACE: Place = Place::Discarded;
        if !self.set_asides.is_on(PLACE) {
            return;
        }
        self.note_time(access.clock);
        let Ok(Some(value)) = self.load_value(access, key) else {
            let unreadable = SetAsideLoss::Unreadable;
            self.events.set_aside_lost(PLACE, unreadable, 1);
            return;
        };
        let value: Box<[u8]> = value.into();
        if self.set_asides.is_too_large(PLACE, value.len()) {
            self.events.set_aside_lost(PLACE, SetAsideLoss::Bytes, 1);
            return;
        }
        // Two messages can be equal in everything, so each gets a name of its own.
        let key_name = key.to_name();
        let name = name_for(reason, key, &key_name, &value);
        let name = self.set_asides.new_name(PLACE, name);
        self.set_asides.add(PLACE, &name);
        self.events.set_aside(PLACE);
        let change = SetAsideChange::Add {
            place: PLACE,
            name,
            value,
        };
        self.pending.attach(key, change);
        self.enforce_set_aside_limits();
    }

    /// Returns true if a value is set aside with the next write of the key.
    pub(crate) fn sets_aside(&self, key: Key) -> bool {
        self.pending.has_attached(key)
    }

    /// Returns true if the quarantine has a copy of this record, as far as the names there show.
    pub(super) fn is_quarantined(&self, key: Key, value: &[u8]) -> bool {
        let key_name = key.to_name();
        let name = name_for(FOREIGN, key, &key_name, value);
        let known = self.set_asides.known_name(Place::Quarantine, &name);
        known.is_some()
    }

    /// Returns the name that a record of another origin gets in the quarantine, or has there already.
    pub(super) fn quarantine_name(&self, key: Key, value: &[u8]) -> String {
        let key_name = key.to_name();
        let name = name_for(FOREIGN, key, &key_name, value);
        self.set_asides.name_of_record(Place::Quarantine, name)
    }

    /// Notes the records that the store has taken into the quarantine.
    pub(super) fn note_quarantined(&mut self, batch: &RewriteBatch) {
        for (place, name) in batch.set_asides() {
            self.set_asides.add(place, name);
            self.events.set_aside(place);
        }
        self.enforce_set_aside_limits();
    }

    /// Removes a record from its place, in one step with the put of this key that follows.
    pub(crate) fn remove_set_aside_with(&mut self, key: Key, place: Place, name: String) {
        self.set_asides.forget(place, &name);
        let change = SetAsideChange::Remove { place, name };
        self.pending.attach(key, change);
    }

    /// Removes a record from its place, as soon as the store can be written.
    ///
    /// # Errors
    ///
    /// Any reason why it cannot be removed now. After a refusal it stays.
    pub(crate) fn remove_set_aside<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        place: Place,
        name: &str,
    ) -> Result<(), Error> {
        self.set_asides.forget(place, name);
        // Before all that wait for the tick, so that the reply is about this one.
        self.queue_removal(place, name.to_owned());
        self.set_asides.removals.rotate_right(1);
        self.write_removals(access)?;
        if access.is_up() {
            Ok(())
        } else {
            Err(access.unavailable("remove what is set aside"))
        }
    }

    fn queue_removal(&mut self, place: Place, name: String) {
        // It may not be written yet. If it was sent, it has to be removed too.
        let key = SetAsideName::parse(&name).and_then(|name| Key::parse(name.key));
        let is_only_here = key.is_some_and(|key| self.pending.detach(key, place, &name));
        if !is_only_here {
            self.set_asides.removals.push((place, name));
        }
    }

    /// Removes records from their places, up to a number that fits into one exchange.
    ///
    /// # Errors
    ///
    /// The reply of a store that refuses these changes and takes others. The records stay, and the next
    /// list of what is set aside shows them again.
    pub(crate) fn write_removals<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
    ) -> Result<(), Error> {
        use ErrorKind::{Permission, Server, WrongType};
        const MAX_REMOVALS: usize = 256;
        let removals = &mut self.set_asides.removals;
        let number = removals.len().min(MAX_REMOVALS);
        let (Some(store), Some(next)) = (access.writer(), removals.get(..number)) else {
            return Ok(());
        };
        let changes = next.iter().map(|(place, name)| Change::RemoveSetAside {
            place: *place,
            name,
        });
        let changes: Vec<Change<'_>> = changes.collect();
        if changes.is_empty() {
            return Ok(());
        }
        let written = write(store, &[&changes], WriteAck::Confirmed { sent: &[] });
        match written {
            Err(error) if !matches!(error.kind(), Permission | Server | WrongType) => {
                self.note_failure(access, error);
                Ok(())
            }
            written => {
                removals.drain(..number);
                written
            }
        }
    }

    /// Removes the oldest records that exceed a limit.
    pub(crate) fn enforce_set_aside_limits(&mut self) {
        while let Some((place, name, loss)) = self.set_asides.take_excess() {
            self.events.set_aside_lost(place, loss, 1);
            self.queue_removal(place, name);
        }
    }

    /// Gives up the values that are to be set aside with these keys; returns false if there are none.
    pub(super) fn give_up_set_asides(&mut self, keys: &[Key]) -> bool {
        let given_up = self.pending.give_up(keys);
        for (place, name) in &given_up {
            self.set_asides.forget(*place, name);
            self.events.set_aside_lost(*place, SetAsideLoss::Refused, 1);
        }
        !given_up.is_empty()
    }

    /// Gives up what keeps a full store from removing records; returns false if nothing does.
    pub(crate) fn give_up_for_room(&mut self) -> bool {
        let keys = self.pending.blocked_removes();
        self.give_up_set_asides(&keys)
    }

    /// Takes over what the store has in a place.
    pub(crate) fn refresh_set_asides(&mut self, place: Place, stored: &[Vec<u8>]) {
        let removals = std::mem::take(&mut self.set_asides.removals);
        let pending = unconfirmed_names(place, &self.pending, &removals);
        let gone = self.set_asides.refresh(place, stored, &pending);
        self.set_asides.removals = removals;
        self.events.set_aside_lost(place, SetAsideLoss::Lost, gone);
        self.enforce_set_aside_limits();
    }

    /// Returns the names of what the store has in a place, after what waits has been written.
    ///
    /// # Errors
    ///
    /// Any reason why the store cannot be read now.
    pub(crate) fn list_set_asides<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        place: Place,
    ) -> Result<Vec<Vec<u8>>, Error> {
        self.note_time(access.clock);
        self.flush(access);
        let attempt = "list what is set aside";
        let names = self.ask(access, attempt, |store| store.set_aside_names(place))?;
        self.refresh_set_asides(place, &names);
        // One that is to be removed may have been published again.
        let pending = unconfirmed_names(place, &self.pending, &self.set_asides.removals);
        let is_pending =
            |name: &Vec<u8>| str::from_utf8(name).is_ok_and(|name| pending.contains(name));
        Ok(names.into_iter().filter(|name| !is_pending(name)).collect())
    }

    /// Reads values of a place.
    ///
    /// # Errors
    ///
    /// Any reason why the store cannot be read now.
    pub(crate) fn read_set_asides<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        place: Place,
        names: &[&str],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.ask(access, "read what is set aside", |store| {
            store.read_set_aside(place, names)
        })
    }

    fn ask<S: Store, T>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        attempt: &str,
        question: impl FnOnce(&mut S) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(store) = access.reader() else {
            return Err(access.unavailable(attempt));
        };
        question(store).map_err(|error| {
            let kind = error.kind();
            // A missing right to this place says nothing about the records.
            if kind.is_refusal() {
                return error;
            }
            self.note_failure(access, error);
            access.unavailable(attempt)
        })
    }
}
