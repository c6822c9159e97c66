//! The meaning of Paho's calls for its records.

use std::slice;

use super::names::RecordNames;
use crate::{
    cache::{Ack, StoreAccess, WriteBehindCache},
    error::{Error, ErrorKind},
    paho::{
        CallHistory, Command, Departure, Key, Publish, RecordKind, qos_of_publish, set_expiry_time,
        set_record_number, set_remaining_interval,
    },
    store::{Place, Store, StoreEvent},
};

/// The records of an open client, changed as the sequence of Paho's calls implies.
///
/// Paho's calls are puts and removes of single keys. Only their order shows which of them belong to
/// one message, and so which writes have to reach the store together.
pub(super) struct CallSemantics {
    pub(super) cache: WriteBehindCache,
    names: RecordNames,
    history: CallHistory,
    /// The packet id of the command that was read last.
    last_packet_id: Option<u32>,
    /// What was set aside and is published again with the next command.
    pub(super) published_again: Option<(Place, String)>,
    /// The stored key of a publish command that Paho removed, and the packet id of the PUBLISH that it puts next.
    withheld: Option<(Key, u32)>,
    /// Number of messages of an earlier run that were written as sent at once.
    early_sends: u32,
    versions: VersionTracker,
}

/// Detects, from the calls, a client of another MQTT version than its records.
#[derive(Default)]
struct VersionTracker {
    /// The packet of the last `get`. After a sent one Paho asks for its PUBREL or PUBLISH next.
    last_packet: Option<Key>,
    mismatch: Option<VersionMismatch>,
    /// A mismatch was found; further ones are ignored, so that it is logged once.
    is_reported: bool,
}

/// A client that uses two MQTT versions, or another one than its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VersionMismatch {
    /// The client was created for another version than that of the records.
    Created { v5_records: bool },
    /// The client connects with another version than that of the waiting commands.
    Connected { v5_records: bool },
}

impl VersionTracker {
    fn note(&mut self, mismatch: VersionMismatch) {
        if !self.is_reported {
            self.is_reported = true;
            self.mismatch = Some(mismatch);
        }
    }
}

impl CallSemantics {
    pub(super) fn new(cache: WriteBehindCache) -> Self {
        Self {
            names: RecordNames::of_loaded(&cache),
            cache,
            history: CallHistory::default(),
            last_packet_id: None,
            published_again: None,
            withheld: None,
            early_sends: 0,
            versions: VersionTracker::default(),
        }
    }

    /// Returns `true` if Paho has put this record and not removed it.
    pub(super) fn contains(&self, key: Key) -> bool {
        self.stored_key(key).is_some()
    }

    /// Returns the key under which a record is stored that Paho has put and not removed.
    pub(super) fn stored_key(&self, key: Key) -> Option<Key> {
        let stored = self.names.stored_key(key)?;
        let is_live = self.cache.index.contains(stored)
            && !self.cache.index.is_earlier(stored)
            && !self.is_withheld(stored);
        is_live.then_some(stored)
    }

    /// Takes the events since the last call, with Paho's keys in them.
    pub(super) fn take_events(&mut self) -> Vec<StoreEvent> {
        let mut events = self.cache.events.take();
        for event in &mut events {
            if let StoreEvent::RecordLost { key } = event
                && let Some(stored) = Key::parse(key)
            {
                *key = self.names.name(stored).to_string();
                self.names.forget(stored);
            }
        }
        events
    }

    /// Stores the queue records of this run behind those that the store has from an earlier one, which it
    /// could not list at open.
    pub(super) fn make_room_for(&mut self, stored: &[Key]) {
        for kind in [RecordKind::Command, RecordKind::Undelivered] {
            for (old, new) in self.names.move_behind(kind, stored, &mut self.cache) {
                if let Some((withheld, _)) = &mut self.withheld
                    && *withheld == old
                {
                    *withheld = new;
                    self.names.forget(new);
                }
            }
        }
    }

    /// Returns `true` for a command that Paho has removed, but that a restart has to find.
    fn is_withheld(&self, key: Key) -> bool {
        self.withheld.is_some_and(|(withheld, _)| withheld == key)
    }

    /// Answers `contains_key` so that Paho restores its messages correctly.
    ///
    /// Paho asks with the stem of the version that the client was created for. A PUBLISH and its
    /// PUBREL belong together, whichever version wrote them. If the answer were `false` for one of
    /// the other version, Paho would send the PUBLISH again, or delete the PUBREL.
    pub(super) fn contains_for_paho(&mut self, key: Key) -> bool {
        if let Some(read) = self.versions.last_packet.take()
            && read.is_outbound()
            && read.v5 != key.v5
        {
            self.versions.note(VersionMismatch::Created {
                v5_records: read.v5,
            });
        }
        self.history.look_up();
        let in_other = key.is_outbound() && self.contains(key.other_version());
        in_other || self.contains(key)
    }

    /// Takes a mismatch that has not been logged yet.
    pub(super) fn take_mismatch(&mut self) -> Option<VersionMismatch> {
        self.versions.mismatch.take()
    }

    pub(super) fn put<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
        value: &[&[u8]],
    ) -> Result<(), Error> {
        let is_first_of_connection = self.history.is_connecting();
        self.history.put(key);
        let key = self.prepare_put(access, key);
        if let Some((place, name)) = self.published_again.take() {
            // A crash finds the message either set aside or waiting.
            self.cache.remove_set_aside_with(key, place, name);
        }
        // Paho reuses the key of a withheld command; the new record must not be removed with it.
        self.withheld.take_if(|(withheld, _)| *withheld == key);
        let command = self
            .withheld
            .take_if(|(_, id)| key.kind == RecordKind::SentPublish && key.number == *id)
            .map(|(command, _)| command);
        let mut value = value.concat();
        set_expiry_time(key, &mut value, || access.clock.time());
        // A PUBLISH without a command is one that Paho sends again. Its buffer may be freed memory.
        let may_be_resent = key.kind == RecordKind::SentPublish && command.is_none();
        if may_be_resent {
            match self.is_stored_copy(access, key, &value) {
                Ok(false) => {}
                Ok(true) => {
                    // Paho sends everything in flight again, at once.
                    if is_first_of_connection {
                        self.cache.count_sends(access);
                    }
                    return Ok(());
                }
                Err(error) => {
                    self.history.damaged(key);
                    return Err(error);
                }
            }
        }
        // Those of an earlier run too: Paho does not know them, and uses their packet id again.
        let replaced = key.replaced_keys();
        let replaced = replaced.filter(|key| self.cache.index.contains(*key));
        let replaced: Vec<Key> = replaced.collect();
        // At a reconnect Paho puts each PUBREL again.
        if key.kind == RecordKind::SentPubrel
            && replaced.is_empty()
            && self.cache.has_confirmed(key, &value)
        {
            return Ok(());
        }
        // The command and the PUBLISH are one message: after a crash one of them must exist.
        // - QoS 1: either, since the message may be sent twice. Usually the PUBACK comes before the
        //   next tick, and the PUBLISH need not be written at all.
        // - QoS 2: the PUBLISH. The call need not wait: once sent, the write survives a crash of
        //   this process, and Paho has a copy too.
        // If the store has refused the command, none of them exists there, and the call waits.
        let is_only_here = command.is_some_and(|command| self.cache.is_unsent(command));
        let ack = match (key.kind, qos_of_publish(&value)) {
            (RecordKind::SentPublish, _) if is_only_here => Ack::Confirmed,
            (RecordKind::SentPublish, Some(1)) if self.is_early(command) => Ack::Sent,
            (RecordKind::SentPublish, Some(1)) if command.is_some() => Ack::Deferred,
            (RecordKind::SentPublish, _) => Ack::Sent,
            _ => Ack::Confirmed,
        };
        self.cache.put(access, key, value, &replaced, command, ack);
        Ok(())
    }

    /// Returns true for the first messages of an earlier run that this one sends.
    ///
    /// If one of them ends the program at once, the next start has to find that it was sent.
    fn is_early(&mut self, command: Option<Key>) -> bool {
        const EARLY_SENDS: u32 = 16;
        let is_early = self.early_sends < EARLY_SENDS
            && command.is_some_and(|command| self.cache.index.is_restored_message(command));
        self.early_sends = self.early_sends.saturating_add(u32::from(is_early));
        is_early
    }

    /// Makes room for a record at a key that an unread one may have; returns the key to store it under.
    fn prepare_put<S: Store>(&mut self, access: &mut StoreAccess<'_, S>, key: Key) -> Key {
        let other = key.other_version();
        if key.is_queue_record() {
            if let Some(stored) = self.stored_key(key) {
                if !self.cache.index.is_unread(stored) {
                    // Paho writes a record again that it has under this key.
                    return stored;
                }
                let bytes = self.cache.index.length(stored).unwrap_or_default();
                let name = self.names.set_aside(stored, &self.cache);
                self.cache.events.relocated(key, name, bytes);
            } else if self.cache.is_foreign(key) {
                self.names.renumber(key.kind, &self.cache);
            }
            return self.names.assign(key, &self.cache);
        }
        if self.cache.index.is_unread(key) {
            self.relocate_unread(access, key);
        }
        // It would be taken for the same message in the other version.
        if key.kind == RecordKind::SentPublish && self.cache.index.is_unread(other) {
            self.relocate_unread(access, other);
        }
        key
    }

    /// Returns `true` if a PUBLISH that Paho sends again is stored under `key` already, but for the
    /// DUP flag. A copy of the other version is equal too, but has to be written under `key`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Damaged`] if another PUBLISH is stored under this number, in either version:
    /// Paho's copy is damaged, and the stored one must stay.
    fn is_stored_copy<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
        value: &[u8],
    ) -> Result<bool, Error> {
        let damaged = || Error::new(ErrorKind::Damaged, format!("rewrite record {key}"));
        if self.contains(key) {
            let is_same = self.cache.index.has_content(key, value);
            return if is_same { Ok(true) } else { Err(damaged()) };
        }
        let stored_key = key.other_version();
        if !self.contains(stored_key) {
            return Ok(false);
        }
        // If it cannot be read now, it is the same message: Paho reuses no id that is in flight.
        let Ok(Some(stored)) = self.cache.load_value(access, stored_key) else {
            return Ok(false);
        };
        let stored = Publish::parse(stored, stored_key.v5);
        let is_same = stored.is_some() && stored == Publish::parse(value, key.v5);
        if is_same { Ok(false) } else { Err(damaged()) }
    }

    pub(super) fn get<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
    ) -> Result<Vec<u8>, Error> {
        self.history.look_up();
        let Some(stored) = self.stored_key(key) else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("read record {key}"),
            ));
        };
        let value = match self.cache.take_for_paho(access, stored) {
            Ok(Some(mut value)) => {
                set_remaining_interval(key, &mut value, || access.clock.time());
                value
            }
            Ok(None) => {
                self.cache.drop_lost(stored);
                return Err(Error::new(ErrorKind::Lost, format!("read record {key}")));
            }
            Err(error) => {
                // Paho continues as if the record did not exist, and may put another one under its
                // key. As an unread record it is set aside then, and restored at the next start.
                self.cache.index.set_unread(stored, true);
                return Err(error);
            }
        };
        self.cache.index.set_unread(stored, false);
        if key.kind == RecordKind::Command {
            self.last_packet_id = Command::parse(&value, key.v5).and_then(Command::packet_id);
        }
        self.history.get(key);
        self.versions.last_packet = (!key.is_queue_record()).then_some(key);
        Ok(value)
    }

    pub(super) fn remove<S: Store>(&mut self, access: &mut StoreAccess<'_, S>, key: Key) {
        let removed = key;
        let last_read = self.history.last_read();
        let key = removed.resolve_removed_key(last_read, |key| self.contains(key));
        if key != removed && key.kind == RecordKind::Command {
            self.versions
                .note(VersionMismatch::Connected { v5_records: key.v5 });
        }
        // Paho removes `c-0` when it starts to connect, since a connect command has no number.
        let is_connect = key.is_command_zero() && last_read != Some(key);
        if is_connect {
            self.history.connect();
        }
        let Some(stored) = self.stored_key(key) else {
            return;
        };
        if self.protects_session(key) || self.protects_unread(stored) {
            return;
        }
        // At a connect Paho removes `c-0` although a PUBLISH may be stored under that number.
        if is_connect && self.cache.index.content(stored).is_message() {
            return;
        }
        let departure = self.note_removal(access, key, stored);
        if let (Departure::Sending, Some(packet_id)) = (departure, self.last_packet_id) {
            // Paho sends one command at a time: an earlier withheld one gets no PUBLISH any more.
            self.release_withheld(access);
            self.withheld = Some((stored, packet_id));
            self.names.forget(stored);
            return;
        }
        // The put of the PUBLISH failed, and yet Paho has sent it and got its acknowledgment.
        if key.is_outbound()
            && self
                .withheld
                .is_some_and(|(_, packet_id)| packet_id == key.number)
        {
            self.release_withheld(access);
        }
        if key.is_outbound() {
            self.remove_with_publish(access, key);
        } else {
            self.names.forget(stored);
            // What is set aside waits for the next tick, so that a full buffer costs no exchange per
            // message. A crash before that restores the message.
            let ack = if self.cache.sets_aside(stored) {
                Ack::Deferred
            } else {
                Ack::Sent
            };
            self.cache.remove(access, &[stored], ack);
        }
    }

    /// Notes that Paho removes a record, and returns the way in which it leaves.
    ///
    /// A message that was dropped is set aside.
    fn note_removal<S: Store>(
        &mut self,
        access: &mut StoreAccess<'_, S>,
        key: Key,
        stored: Key,
    ) -> Departure {
        let content = self.cache.index.content(stored);
        let pubrel = key.with_kind(RecordKind::SentPubrel);
        let has_pubrel = key.kind == RecordKind::SentPublish && self.has_packet(pubrel);
        let departure = self.history.remove(key, content, has_pubrel);
        if let Departure::Dropped(reason) = departure {
            self.cache.events.dropped(key.kind, reason);
            let is_inbound = matches!(
                key.kind,
                RecordKind::ReceivedPublish | RecordKind::Undelivered
            );
            if content.is_message() || is_inbound {
                self.cache.discard(access, stored, reason.as_str());
            }
        }
        departure
    }

    /// Returns `true` if there is such a packet, in either version.
    fn has_packet(&self, key: Key) -> bool {
        self.contains(key) || self.contains(key.other_version())
    }

    /// Removes a PUBLISH, or a PUBREL together with its PUBLISH.
    ///
    /// Paho removes both one after the other and, if their versions differ, the PUBREL first. After
    /// a crash between the two the PUBLISH would be sent again.
    fn remove_with_publish<S: Store>(&mut self, access: &mut StoreAccess<'_, S>, key: Key) {
        let publish = key.with_kind(RecordKind::SentPublish);
        let publishes = [publish, publish.other_version()].into_iter();
        let mut keys: Vec<Key> = publishes
            .filter(|publish| key.kind == RecordKind::SentPubrel && self.contains(*publish))
            .collect();
        for &publish in &keys {
            self.note_removal(access, publish, publish);
        }
        let removed = if keys.is_empty() {
            slice::from_ref(&key)
        } else {
            keys.push(key);
            &keys
        };
        // A crash before the next tick repeats a QoS 1 message, or a PUBREL, which the broker
        // answers. MQTT allows both.
        self.cache.remove(access, removed, Ack::Deferred);
    }

    /// Returns `true` for records of the session that was found at open, until Paho connects.
    fn protects_session(&self, key: Key) -> bool {
        let publish = key.with_kind(RecordKind::SentPublish);
        self.history.keeps(key, || self.has_packet(publish))
    }

    /// Returns `true` for an unread record of a kind whose numbers Paho reuses, unless Paho discards
    /// what it has listed: it means its own record.
    fn protects_unread(&self, stored: Key) -> bool {
        self.names.is_renumbered(stored.kind)
            && !self.history.is_listing()
            && self.cache.index.is_unread(stored)
    }

    /// Flushes everything before `close`; a withheld command gets no PUBLISH any more.
    pub(super) fn finish<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) {
        // A 3.1.1 client stops restoring at a record of MQTT 5: no later call shows the mismatch.
        if self.versions.last_packet.is_some_and(|read| read.v5)
            && !self.history.has_connected()
            && self.cache.index.keys().any(|key| !key.is_queue_record())
        {
            self.versions
                .note(VersionMismatch::Created { v5_records: true });
        }
        self.release_withheld(access);
        self.cache.flush(access);
        drop(self.cache.write_removals(access));
    }

    fn release_withheld<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) {
        if let Some((key, _)) = self.withheld.take() {
            self.cache.remove(access, &[key], Ack::Sent);
        }
    }

    /// Lists the keys in descending order.
    ///
    /// Paho then inserts each record at the head of a sorted list, in constant time.
    pub(super) fn keys(&mut self) -> Vec<String> {
        self.history.list();
        self.versions.last_packet = None;
        let keys = self.cache.index.keys();
        let keys = keys.filter(|key| !self.is_withheld(*key) && !self.cache.index.is_earlier(*key));
        let mut keys: Vec<Key> = keys.map(|key| self.names.name(key)).collect();
        self.cache.note_listing();
        keys.sort_unstable_by_key(|key| key.descending());
        let names = keys.into_iter().map(|key| {
            let name: &str = &key.to_name();
            // The Rust layer of Paho appends a NUL byte.
            let mut text = String::with_capacity(name.len().saturating_add(1));
            text.push_str(name);
            text
        });
        names.collect()
    }

    pub(super) fn clear<S: Store>(&mut self, access: &mut StoreAccess<'_, S>) {
        const REMOVES_PER_STEP: usize = 256;
        self.release_withheld(access);
        let keys: Vec<Key> = self.cache.index.keys().collect();
        for chunk in keys.chunks(REMOVES_PER_STEP) {
            self.cache.remove(access, chunk, Ack::Sent);
        }
        self.cache.flush(access);
        self.names = RecordNames::default();
        self.history = CallHistory::default();
        self.versions = VersionTracker::default();
    }

    /// Relocates a packet that Paho has not read, and is about to overwrite, to a free packet id.
    ///
    /// After an incomplete restore Paho does not know the packet and reuses its id.
    fn relocate_unread<S: Store>(&mut self, access: &mut StoreAccess<'_, S>, key: Key) {
        let Some(number) = self.free_packet_id(key.kind) else {
            return;
        };
        let pubrels = [key, key.other_version()].map(|key| key.with_kind(RecordKind::SentPubrel));
        // The PUBREL of an earlier run stays, and the put replaces it: with another id it would release
        // nothing, since this run uses the id in the same session of the broker.
        let unread_pubrels = pubrels.into_iter().filter(|pubrel| {
            key.kind == RecordKind::SentPublish
                && self.cache.index.is_unread(*pubrel)
                && !self.cache.index.is_earlier(*pubrel)
        });
        for old in [key].into_iter().chain(unread_pubrels).collect::<Vec<_>>() {
            let new = Key { number, ..old };
            let bytes = self.cache.index.length(old).unwrap_or_default();
            let is_earlier = self.cache.index.is_earlier(old);
            if !is_earlier {
                self.cache.events.relocated(old, new, bytes);
            }
            match self
                .cache
                .load_value(access, old)
                .map(|value| value.map(<[u8]>::to_vec))
            {
                Ok(Some(mut value)) => {
                    set_record_number(new, &mut value);
                    self.cache
                        .put(access, new, value, &[], Some(old), Ack::Confirmed);
                    self.cache.index.set_unread(new, true);
                    if is_earlier {
                        self.cache.index.set_earlier(new);
                    }
                }
                Ok(None) => {
                    // The old key is that of the record that is put.
                    self.cache.index.rekey(old, new);
                    self.cache.drop_lost(new);
                }
                // The put that needs this number must not fail, so recovery relocates the record.
                Err(_) => self.cache.relocate_later(old, new),
            }
        }
    }

    /// A packet id that no record of this kind uses in either version.
    fn free_packet_id(&self, kind: RecordKind) -> Option<u32> {
        let is_free = |number: &u32| {
            let is_used = |kind| {
                [false, true].iter().any(|v5| {
                    let (number, v5) = (*number, *v5);
                    self.cache.is_number_used(Key { kind, v5, number })
                })
            };
            !(is_used(kind) || kind == RecordKind::SentPublish && is_used(RecordKind::SentPubrel))
        };
        // Paho assigns them upwards, so the highest stays free longest.
        kind.number_range().rev().find(is_free)
    }
}
