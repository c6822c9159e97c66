//! What each of Paho's calls means for the records that are there.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use super::{
    changes::{change, read, remove},
    command::Command,
    packet::Publish,
};
use crate::{
    Change, Error, ErrorKind, Store,
    record::{Key, Kind},
};

/// The records of an open client, and what Paho's calls in their order mean for them.
#[derive(Default)]
pub(super) struct Records {
    /// Every record that may be in the store: one whose change failed counts as there.
    live: HashSet<Key>,
    /// Those that were found at open and that Paho has not read yet.
    unread: HashSet<Key>,
    /// Those of the session that were found at open, until Paho tries to connect.
    session: HashSet<Key>,
    /// Values that were read at open, until Paho needs them no more.
    values: HashMap<Key, Vec<u8>>,
    /// The command that was read last, which Paho does to send it.
    just_read: Option<Read>,
    /// A publish command that Paho removed, and the packet id of the PUBLISH that it writes next.
    held: Option<(Key, u32)>,
    version: Version,
}

struct Read {
    key: Key,
    packet_id: Option<u32>,
}

/// What the calls say of the version that the client was created for.
#[derive(Default)]
struct Version {
    /// A packet that was read last. After a sent one Paho asks about its PUBREL or PUBLISH next.
    pending: Option<Key>,
    mismatch: Option<Mismatch>,
    /// It is told of once.
    told: bool,
}

/// The client is of two versions of MQTT, or of another one than its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// It was created for another version than wrote the records.
    Created { v5_records: bool },
    /// It connects with another version than wrote the commands that wait.
    Connected { v5_records: bool },
}

impl Version {
    fn note(&mut self, mismatch: Mismatch) {
        if !self.told {
            self.told = true;
            self.mismatch = Some(mismatch);
        }
    }
}

impl Records {
    /// A record that was found at open, with its value if there was room for it.
    pub(super) fn found(&mut self, key: Key, value: Option<Vec<u8>>) {
        self.live.insert(key);
        self.unread.insert(key);
        if !key.is_queued() {
            self.session.insert(key);
        }
        if let Some(value) = value {
            self.values.insert(key, value);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.live.contains(&key)
    }

    /// Whether Paho is to hear that there is such a record.
    ///
    /// It asks with the stem of the version that it was created for. A PUBLISH and its PUBREL belong
    /// together, whichever version wrote them: told otherwise, it would send the PUBLISH again, or
    /// delete the PUBREL.
    pub(super) fn stands(&mut self, key: Key) -> bool {
        if let Some(read) = self.version.pending.take()
            && read.is_sent()
            && read.v5 != key.v5
        {
            self.version.note(Mismatch::Created {
                v5_records: read.v5,
            });
        }
        let in_other = key.is_sent() && self.live.contains(&key.other_version());
        in_other || self.live.contains(&key)
    }

    /// That the client was created for another version than its records, once.
    pub(super) fn mismatch(&mut self) -> Option<Mismatch> {
        self.version.mismatch.take()
    }

    pub(super) fn put(
        &mut self,
        store: &mut impl Store,
        key: Key,
        value: &[&[u8]],
    ) -> Result<(), Error> {
        // The message may still be waiting under this key; what is written now must not be removed.
        self.held.take_if(|(held, _)| *held == key);
        if self.unread.contains(&key) {
            self.make_room(store, key)?;
        }
        let command = self
            .held
            .filter(|(_, id)| key.kind == Kind::SentPublish && key.number == *id)
            .map(|(command, _)| command);
        let may_be_resent = key.kind == Kind::SentPublish && command.is_none();
        if may_be_resent && self.is_stored(store, key, value)? {
            return Ok(());
        }
        let replaced = self.replaced_by(key);
        let mut removed = replaced.clone();
        // The command and the PUBLISH are one message: a crash must find one of them.
        removed.extend(command);
        self.live.insert(key);
        let names: Vec<String> = removed.iter().map(Key::to_string).collect();
        let name = key.to_string();
        let changes: Vec<Change<'_>> = names
            .iter()
            .map(|key| Change::Remove { key })
            .chain([Change::Put { key: &name, value }])
            .collect();
        change(store, &changes)?;
        for key in replaced {
            self.forget(key);
        }
        self.values.remove(&key);
        if command.is_some() {
            self.held = None;
        }
        Ok(())
    }

    /// The records that another one stands for from now on: those of the same message in the other
    /// version, and what a message has left behind that had the same packet id before.
    fn replaced_by(&self, key: Key) -> Vec<Key> {
        let other = key.other_version();
        let candidates = match key.kind {
            Kind::SentPublish => vec![
                other,
                key.with_kind(Kind::SentPubrel),
                other.with_kind(Kind::SentPubrel),
            ],
            Kind::SentPubrel | Kind::ReceivedPublish => vec![other],
            Kind::Command | Kind::Undelivered => Vec::new(),
        };
        let live = candidates.into_iter().filter(|key| self.live.contains(key));
        live.collect()
    }

    /// Whether a PUBLISH that is sent again is stored already, but for its mark as a duplicate.
    ///
    /// Where another one is stored under its number, in either version, Paho's copy is damaged and
    /// the stored one must stay.
    fn is_stored(
        &mut self,
        store: &mut impl Store,
        key: Key,
        value: &[&[u8]],
    ) -> Result<bool, Error> {
        let other = key.other_version();
        let Some(stored_key) = [key, other].into_iter().find(|key| self.live.contains(key)) else {
            return Ok(false);
        };
        let Some(stored) = self.value(store, stored_key)? else {
            return Ok(false);
        };
        let value = value.concat();
        let same = if stored_key == key {
            is_same_packet(&stored, &value)
        } else {
            let stored = Publish::read(&stored, stored_key.v5);
            stored.is_some() && stored == Publish::read(&value, key.v5)
        };
        if same {
            return Ok(stored_key == key);
        }
        Err(Error::new(
            ErrorKind::Damaged,
            format!("write record {key} again"),
        ))
    }

    pub(super) fn get(&mut self, store: &mut impl Store, key: Key) -> Result<Vec<u8>, Error> {
        if !self.live.contains(&key) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("read record {key}"),
            ));
        }
        let Some(value) = self.value(store, key)? else {
            self.forget(key);
            return Err(Error::new(ErrorKind::Lost, format!("read record {key}")));
        };
        self.unread.remove(&key);
        if key.kind == Kind::Command {
            let command = Command::read(&value, key.v5);
            let packet_id = command.and_then(Command::packet_id);
            self.just_read = Some(Read { key, packet_id });
        } else {
            // Paho has it from now on.
            self.values.remove(&key);
        }
        self.version.pending = (!key.is_queued()).then_some(key);
        Ok(value)
    }

    /// What was read at open is not asked for again.
    fn value(&mut self, store: &mut impl Store, key: Key) -> Result<Option<Vec<u8>>, Error> {
        match self.values.get(&key) {
            Some(value) => Ok(Some(value.clone())),
            None => read(store, key),
        }
    }

    pub(super) fn remove(&mut self, store: &mut impl Store, key: Key) -> Result<(), Error> {
        let asked = key;
        let just_read = self.just_read.as_ref().map(|read| read.key);
        let key = asked.meant(just_read, |key| self.live.contains(&key));
        let sending = self.just_read.take_if(|read| read.key == key);
        if key != asked && key.kind == Kind::Command {
            self.version
                .note(Mismatch::Connected { v5_records: key.v5 });
        }
        if sending.is_none() && key.is_command_zero() {
            // Paho connects, and what it does to the session from now on is what the program wants.
            self.session.clear();
        }
        if !self.live.contains(&key) || self.is_kept(key) {
            return Ok(());
        }
        if let Some(packet_id) = sending.as_ref().and_then(|read| read.packet_id) {
            // Paho sends one command after the other: what is still held gets no PUBLISH.
            self.send_held(store)?;
            self.forget(key);
            self.held = Some((key, packet_id));
            return Ok(());
        }
        // At every connect Paho removes this key in vain, unless a message has just that.
        if sending.is_none() && key.is_command_zero() && self.is_publish(store, key)? {
            return Ok(());
        }
        // The PUBLISH could not be written, and was yet sent and acknowledged.
        if key.is_sent()
            && self
                .held
                .is_some_and(|(_, packet_id)| packet_id == key.number)
        {
            self.send_held(store)?;
        }
        self.remove_with_publish(store, key)
    }

    /// With a PUBREL goes its PUBLISH: Paho removes both, but one after the other, and where they are
    /// of different versions the PUBREL first. A crash in between would have the PUBLISH sent again.
    fn remove_with_publish(&mut self, store: &mut impl Store, key: Key) -> Result<(), Error> {
        let publish = key.with_kind(Kind::SentPublish);
        let publishes = [publish, publish.other_version()].into_iter();
        let mut keys: Vec<Key> = publishes
            .filter(|publish| key.kind == Kind::SentPubrel && self.live.contains(publish))
            .collect();
        keys.push(key);
        remove(store, &keys)?;
        for key in keys {
            self.forget(key);
        }
        Ok(())
    }

    /// A client that has never tried to connect has no reason to delete what is in flight: it was not
    /// created, since a record could not be read, or is dropped. Only a PUBREL without its PUBLISH
    /// is of no use.
    fn is_kept(&self, key: Key) -> bool {
        let publish = key.with_kind(Kind::SentPublish);
        let orphan = key.kind == Kind::SentPubrel
            && !self.live.contains(&publish)
            && !self.live.contains(&publish.other_version());
        self.session.contains(&key) && !orphan
    }

    /// Paho is done with the records; what is held gets no PUBLISH.
    pub(super) fn close(&mut self, store: &mut impl Store) -> Result<(), Error> {
        // Paho does not go on after a record of MQTT 5 that a client of 3.1.1 cannot have.
        if self.version.pending.is_some_and(|read| read.v5) && !self.session.is_empty() {
            self.version.note(Mismatch::Created { v5_records: true });
        }
        self.send_held(store)
    }

    fn send_held(&mut self, store: &mut impl Store) -> Result<(), Error> {
        if let Some((key, _)) = self.held {
            remove(store, &[key])?;
            self.held = None;
        }
        Ok(())
    }

    /// The keys, so that Paho inserts each of them at the start of its sorted lists.
    pub(super) fn keys(&mut self) -> Vec<String> {
        // What is removed after a list was read to be dropped, or restored, and not to be sent.
        self.just_read = None;
        self.version.pending = None;
        let mut keys: Vec<&Key> = self.live.iter().collect();
        keys.sort_unstable_by_key(|key| (key.kind, Reverse(key.number), key.v5));
        keys.into_iter().map(Key::to_string).collect()
    }

    pub(super) fn clear(&mut self, store: &mut impl Store) -> Result<(), Error> {
        let held = self.held.map(|(key, _)| key);
        let keys: Vec<Key> = self.live.iter().chain(&held).copied().collect();
        remove(store, &keys)?;
        *self = Self::default();
        Ok(())
    }

    /// Moves a record that Paho has not read, and is about to write over, to a number that is free.
    fn make_room(&mut self, store: &mut impl Store, key: Key) -> Result<(), Error> {
        let Some(number) = self.free_number(key.kind) else {
            return Ok(());
        };
        let pubrels = [key, key.other_version()].map(|key| key.with_kind(Kind::SentPubrel));
        let together = pubrels
            .into_iter()
            .filter(|pubrel| key.kind == Kind::SentPublish && self.unread.contains(pubrel));
        for old in [key].into_iter().chain(together).collect::<Vec<_>>() {
            let Some(value) = self.value(store, old)? else {
                continue;
            };
            let new = Key { number, ..old };
            self.live.insert(new);
            change(
                store,
                &[
                    Change::Put {
                        key: &new.to_string(),
                        value: &[&value],
                    },
                    Change::Remove {
                        key: &old.to_string(),
                    },
                ],
            )?;
            self.forget(old);
            self.found(new, Some(value));
        }
        Ok(())
    }

    /// A number that no record of that kind has, in either version; behind the others for what has
    /// an order.
    fn free_number(&self, kind: Kind) -> Option<u32> {
        let is_free = |number: &u32| {
            let taken = |kind| {
                [false, true].iter().any(|v5| {
                    let (number, v5) = (*number, *v5);
                    self.live.contains(&Key { kind, v5, number })
                })
            };
            !(taken(kind) || kind == Kind::SentPublish && taken(Kind::SentPubrel))
        };
        let numbers = kind.numbers();
        if !matches!(kind, Kind::Command | Kind::Undelivered) {
            return numbers.rev().find(is_free);
        }
        let last = self.live.iter().filter(|key| key.kind == kind);
        let last = last.map(|key| key.number).max().unwrap_or_default();
        let behind = last.saturating_add(1)..numbers.end;
        behind.chain(numbers).find(is_free)
    }

    fn is_publish(&mut self, store: &mut impl Store, key: Key) -> Result<bool, Error> {
        let value = self.value(store, key)?;
        let command = value.and_then(|value| Command::read(&value, key.v5));
        Ok(matches!(command, Some(Command::Publish(_))))
    }

    fn forget(&mut self, key: Key) {
        self.live.remove(&key);
        self.unread.remove(&key);
        self.session.remove(&key);
        self.values.remove(&key);
    }
}

fn is_same_packet(stored: &[u8], new: &[u8]) -> bool {
    const DUP: u8 = 0b1000;
    match (stored.split_first(), new.split_first()) {
        (Some((stored, stored_rest)), Some((new, new_rest))) => {
            (stored ^ new) & !DUP == 0 && stored_rest == new_rest
        }
        (None, None) => true,
        _ => false,
    }
}
