//! What each of Paho's calls means for the records that are there.

use std::cmp::Reverse;

use crate::{
    cache::{Ack, WriteBehindCache},
    error::{Error, ErrorKind},
    paho::{Command, Key, Publish, RecordKind, qos_of_publish, set_record_number},
    store::Store,
};

/// The records of an open client, and what Paho's calls in their order mean for them.
pub(super) struct CallSemantics<S> {
    pub(super) cache: WriteBehindCache<S>,
    /// The command that was read last, which Paho does to send it.
    just_read: Option<LastRead>,
    /// A publish command that Paho removed, and the packet id of the PUBLISH that it writes next.
    held: Option<(Key, u32)>,
    /// Paho has listed the records and read none since: what it removes now it discards.
    listed: bool,
    version: VersionTracker,
}

struct LastRead {
    key: Key,
    packet_id: Option<u32>,
}

/// What the calls say of the version that the client was created for.
#[derive(Default)]
struct VersionTracker {
    /// A packet that was read last. After a sent one Paho asks about its PUBREL or PUBLISH next.
    pending: Option<Key>,
    mismatch: Option<VersionMismatch>,
    /// It is told of once.
    told: bool,
}

/// The client is of two versions of MQTT, or of another one than its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VersionMismatch {
    /// It was created for another version than wrote the records.
    Created { v5_records: bool },
    /// It connects with another version than wrote the commands that wait.
    Connected { v5_records: bool },
}

impl VersionTracker {
    fn note(&mut self, mismatch: VersionMismatch) {
        if !self.told {
            self.told = true;
            self.mismatch = Some(mismatch);
        }
    }
}

impl<S: Store> CallSemantics<S> {
    pub(super) fn new(cache: WriteBehindCache<S>) -> Self {
        Self {
            cache,
            just_read: None,
            held: None,
            listed: false,
            version: VersionTracker::default(),
        }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.cache.index.contains(key) && !self.is_held(key)
    }

    /// It is there for a crash to find, and not for Paho.
    fn is_held(&self, key: Key) -> bool {
        self.held.is_some_and(|(held, _)| held == key)
    }

    /// Whether Paho is to hear that there is such a record.
    ///
    /// It asks with the stem of the version that it was created for. A PUBLISH and its PUBREL belong
    /// together, whichever version wrote them: told otherwise, it would send the PUBLISH again, or
    /// delete the PUBREL.
    pub(super) fn contains_for_paho(&mut self, key: Key) -> bool {
        if let Some(read) = self.version.pending.take()
            && read.is_outbound()
            && read.v5 != key.v5
        {
            self.version.note(VersionMismatch::Created {
                v5_records: read.v5,
            });
        }
        self.listed = false;
        let in_other = key.is_outbound() && self.contains(key.other_version());
        in_other || self.contains(key)
    }

    /// That the client was created for another version than its records, once.
    pub(super) fn mismatch(&mut self) -> Option<VersionMismatch> {
        self.version.mismatch.take()
    }

    pub(super) fn put(&mut self, key: Key, value: &[&[u8]]) -> Result<(), Error> {
        self.listed = false;
        // The message may still be waiting under this key; what is written now must not be removed.
        self.held.take_if(|(held, _)| *held == key);
        if self.cache.index.is_unread(key) {
            self.make_room(key);
        }
        let command = self
            .held
            .take_if(|(_, id)| key.kind == RecordKind::SentPublish && key.number == *id)
            .map(|(command, _)| command);
        let value = value.concat();
        let may_be_resent = key.kind == RecordKind::SentPublish && command.is_none();
        if may_be_resent && self.is_stored(key, &value)? {
            return Ok(());
        }
        let replaced = self.replaced_by(key);
        // The command and the PUBLISH are one message: a crash must find one of them. At QoS 1 it may
        // be either, since that message may be sent twice; by the next tick it is acknowledged, most
        // often, and its PUBLISH need never be written. At QoS 2 it must be the PUBLISH, which need not
        // be waited for: it is safe from a crash of this process, and Paho has it too.
        let when = match (key.kind, qos_of_publish(&value)) {
            (RecordKind::SentPublish, Some(1)) if command.is_some() => Ack::Deferred,
            (RecordKind::SentPublish, _) => Ack::Sent,
            _ => Ack::Confirmed,
        };
        self.cache.put(key, value, &replaced, command, when);
        Ok(())
    }

    /// The records that another one stands for from now on: those of the same message in the other
    /// version, and what a message has left behind that had the same packet id before.
    fn replaced_by(&self, key: Key) -> Vec<Key> {
        let other = key.other_version();
        let candidates = match key.kind {
            RecordKind::SentPublish => vec![
                other,
                key.with_kind(RecordKind::SentPubrel),
                other.with_kind(RecordKind::SentPubrel),
            ],
            RecordKind::SentPubrel | RecordKind::ReceivedPublish => vec![other],
            RecordKind::Command | RecordKind::Undelivered => Vec::new(),
        };
        let live = candidates.into_iter().filter(|key| self.contains(*key));
        live.collect()
    }

    /// Whether a PUBLISH that is sent again is stored already, but for its mark as a duplicate.
    ///
    /// Where another one is stored under its number, in either version, Paho's copy is damaged and
    /// the stored one must stay.
    fn is_stored(&mut self, key: Key, value: &[u8]) -> Result<bool, Error> {
        let other = key.other_version();
        let Some(stored_key) = [key, other].into_iter().find(|key| self.contains(*key)) else {
            return Ok(false);
        };
        let stored = match self.cache.load_value(stored_key) {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(false),
            // What is there now is the same message, since Paho uses no id twice.
            Err(_) => return Ok(stored_key == key),
        };
        let same = if stored_key == key {
            is_same_packet(stored, value)
        } else {
            let stored = Publish::parse(stored, stored_key.v5);
            stored.is_some() && stored == Publish::parse(value, key.v5)
        };
        if same {
            return Ok(stored_key == key);
        }
        Err(Error::new(
            ErrorKind::Damaged,
            format!("write record {key} again"),
        ))
    }

    pub(super) fn get(&mut self, key: Key) -> Result<Vec<u8>, Error> {
        self.listed = false;
        if !self.contains(key) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("read record {key}"),
            ));
        }
        let value = match self.cache.take_for_paho(key) {
            Ok(Some(value)) => value,
            Ok(None) => {
                self.cache.drop_lost(key);
                return Err(Error::new(ErrorKind::Lost, format!("read record {key}")));
            }
            Err(error) => {
                // Paho goes on as if it were not there; it waits for the next start.
                self.cache.index.set_unread(key, true);
                return Err(error);
            }
        };
        self.cache.index.set_unread(key, false);
        if key.kind == RecordKind::Command {
            let packet_id = Command::parse(&value, key.v5).and_then(Command::packet_id);
            self.just_read = Some(LastRead { key, packet_id });
        }
        self.version.pending = (!key.is_queue_record()).then_some(key);
        Ok(value)
    }

    pub(super) fn remove(&mut self, key: Key) {
        let asked = key;
        let just_read = self.just_read.as_ref().map(|read| read.key);
        let key = asked.resolve_removed_key(just_read, |key| self.contains(key));
        let sending = self.just_read.take_if(|read| read.key == key);
        if key != asked && key.kind == RecordKind::Command {
            self.version
                .note(VersionMismatch::Connected { v5_records: key.v5 });
        }
        if sending.is_none() && key.is_command_zero() {
            self.cache.index.end_session();
        }
        if !self.contains(key) || self.is_kept(key) {
            return;
        }
        if let Some(packet_id) = sending.as_ref().and_then(|read| read.packet_id) {
            // Paho sends one command after the other: what is still held gets no PUBLISH.
            self.send_held();
            self.held = Some((key, packet_id));
            return;
        }
        // At every connect Paho removes this key in vain, unless a message has just that.
        if sending.is_none() && key.is_command_zero() && self.may_be_publish(key) {
            return;
        }
        // The PUBLISH could not be written, and was yet sent and acknowledged.
        if key.is_outbound()
            && self
                .held
                .is_some_and(|(_, packet_id)| packet_id == key.number)
        {
            self.send_held();
        }
        if self.listed && !key.is_queue_record() {
            self.cache.events.discarded(key.kind);
        }
        if key.is_outbound() {
            self.remove_with_publish(key);
        } else {
            self.cache.remove(&[key], Ack::Sent);
        }
    }

    /// With a PUBREL goes its PUBLISH: Paho removes both, but one after the other, and where they are
    /// of different versions the PUBREL first. A crash in between would have the PUBLISH sent again.
    fn remove_with_publish(&mut self, key: Key) {
        let publish = key.with_kind(RecordKind::SentPublish);
        let publishes = [publish, publish.other_version()].into_iter();
        let mut keys: Vec<Key> = publishes
            .filter(|publish| key.kind == RecordKind::SentPubrel && self.contains(*publish))
            .collect();
        keys.push(key);
        // Late, it has an acknowledged message sent again that QoS 1 allows to be sent again, or a
        // PUBREL that the broker answers.
        self.cache.remove(&keys, Ack::Deferred);
    }

    /// A client that has never tried to connect has no reason to delete what is in flight: it was not
    /// created, since a record could not be read, or is dropped. Only a PUBREL without its PUBLISH
    /// is of no use.
    fn is_kept(&self, key: Key) -> bool {
        let publish = key.with_kind(RecordKind::SentPublish);
        let orphan = key.kind == RecordKind::SentPubrel
            && !self.contains(publish)
            && !self.contains(publish.other_version());
        self.cache.index.is_of_session(key) && !orphan
    }

    /// Paho is done with the records; what is held gets no PUBLISH.
    pub(super) fn end(&mut self) {
        // Paho does not go on after a record of MQTT 5 that a client of 3.1.1 cannot have.
        if self.version.pending.is_some_and(|read| read.v5) && self.cache.index.has_session() {
            self.version
                .note(VersionMismatch::Created { v5_records: true });
        }
        self.send_held();
        self.cache.flush();
    }

    fn send_held(&mut self) {
        if let Some((key, _)) = self.held.take() {
            self.cache.remove(&[key], Ack::Sent);
        }
    }

    /// The keys, so that Paho inserts each of them at the start of its sorted lists.
    pub(super) fn keys(&mut self) -> Vec<String> {
        // What is removed after a list was read to be dropped, or restored, and not to be sent.
        self.just_read = None;
        self.version.pending = None;
        self.listed = true;
        let there = self.cache.index.keys().filter(|key| !self.is_held(*key));
        let mut keys: Vec<Key> = there.collect();
        keys.sort_unstable_by_key(|key| (key.kind, Reverse(key.number), key.v5));
        keys.into_iter().map(|key| key.to_string()).collect()
    }

    pub(super) fn clear(&mut self) {
        self.send_held();
        let keys: Vec<Key> = self.cache.index.keys().collect();
        for some in keys.chunks(256) {
            self.cache.remove(some, Ack::Sent);
        }
        self.cache.flush();
        self.just_read = None;
        self.version = VersionTracker::default();
    }

    /// Moves a record that Paho has not read, and is about to write over, to a number that is free.
    fn make_room(&mut self, key: Key) {
        let Some(number) = self.free_number(key.kind) else {
            return;
        };
        let pubrels = [key, key.other_version()].map(|key| key.with_kind(RecordKind::SentPubrel));
        let together = pubrels.into_iter().filter(|pubrel| {
            key.kind == RecordKind::SentPublish && self.cache.index.is_unread(*pubrel)
        });
        for old in [key].into_iter().chain(together).collect::<Vec<_>>() {
            let new = Key { number, ..old };
            match self
                .cache
                .load_value(old)
                .map(|value| value.map(<[u8]>::to_vec))
            {
                Ok(Some(mut value)) => {
                    set_record_number(new, &mut value);
                    self.cache.put(new, value, &[], Some(old), Ack::Confirmed);
                    self.cache.index.set_unread(new, true);
                }
                Ok(None) => self.cache.drop_lost(old),
                // What is put must not fail.
                Err(_) => self.cache.relocate_later(old, new),
            }
        }
    }

    /// A number that no record of that kind has, in either version; behind the others for what has
    /// an order.
    fn free_number(&self, kind: RecordKind) -> Option<u32> {
        let is_free = |number: &u32| {
            let taken = |kind| {
                [false, true].iter().any(|v5| {
                    let (number, v5) = (*number, *v5);
                    self.cache.is_number_used(Key { kind, v5, number })
                })
            };
            !(taken(kind) || kind == RecordKind::SentPublish && taken(RecordKind::SentPubrel))
        };
        let numbers = kind.number_range();
        if !matches!(kind, RecordKind::Command | RecordKind::Undelivered) {
            return numbers.rev().find(is_free);
        }
        let last = self.cache.index.keys().filter(|key| key.kind == kind);
        let last = last.map(|key| key.number).max().unwrap_or_default();
        let behind = last.saturating_add(1)..numbers.end;
        behind.chain(numbers).find(is_free)
    }

    /// Where it cannot be told, it had better stay.
    fn may_be_publish(&mut self, key: Key) -> bool {
        match self.cache.load_value(key) {
            Ok(Some(value)) => {
                matches!(Command::parse(value, key.v5), Some(Command::Publish(_)))
            }
            Ok(None) => false,
            Err(_) => true,
        }
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
