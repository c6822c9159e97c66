//! What each of Paho's calls means for the records that are there.

use std::{cmp::Reverse, collections::HashSet};

use super::command::Command;
use crate::{
    Change, Error, ErrorKind, Store,
    record::{Key, Kind},
};

/// The records of an open client, and what Paho's calls in their order mean for them.
pub(super) struct Records {
    /// Every record that may be in the store: one whose change failed counts as there.
    live: HashSet<Key>,
    /// The command that was read last, which Paho does to send it.
    just_read: Option<Read>,
    /// A publish command that Paho removed, and the packet id of the PUBLISH that it writes next.
    held: Option<(Key, u32)>,
}

struct Read {
    key: Key,
    command: Command,
}

impl Records {
    /// Those among the entries of a store that Paho wrote.
    pub(super) fn listed(entries: &[Vec<u8>]) -> Self {
        let key = |entry: &Vec<u8>| Key::parse(str::from_utf8(entry).ok()?);
        Self {
            live: entries.iter().filter_map(key).collect(),
            just_read: None,
            held: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.live.contains(&key)
    }

    pub(super) fn put(
        &mut self,
        store: &mut impl Store,
        key: Key,
        value: &[&[u8]],
    ) -> Result<(), Error> {
        // The message may still be waiting under this key; what is written now must not be removed.
        self.held.take_if(|(held, _)| *held == key);
        let name = key.to_string();
        let put = Change::Put { key: &name, value };
        match self.held {
            // The command and the PUBLISH are one message: a crash must find one of them.
            Some((command, id)) if key.kind == Kind::SentPublish && key.number == id => {
                self.live.insert(key);
                let command = command.to_string();
                change(store, &[Change::Remove { key: &command }, put])?;
                self.held = None;
                Ok(())
            }
            _ if key.kind == Kind::SentPublish && self.live.contains(&key) => {
                resend(store, key, value)
            }
            _ => {
                self.live.insert(key);
                change(store, &[put])
            }
        }
    }

    pub(super) fn get(&mut self, store: &mut impl Store, key: Key) -> Result<Vec<u8>, Error> {
        if !self.live.contains(&key) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("read record {key}"),
            ));
        }
        let Some(value) = reconnecting(store, |store| store.read(&key.to_string()))? else {
            self.live.remove(&key);
            return Err(Error::new(ErrorKind::Lost, format!("read record {key}")));
        };
        if key.kind == Kind::Command {
            let command = Command::read(&value);
            self.just_read = Some(Read { key, command });
        }
        Ok(value)
    }

    pub(super) fn remove(&mut self, store: &mut impl Store, key: Key) -> Result<(), Error> {
        let sending = self
            .just_read
            .take_if(|read| key.removed_after(Some(read.key)) == read.key);
        let key = sending.as_ref().map_or(key, |read| read.key);
        if !self.live.contains(&key) {
            return Ok(());
        }
        if let Some(packet_id) = sending.as_ref().and_then(|read| read.command.packet_id()) {
            // Paho sends one command after the other: what is still held gets no PUBLISH.
            self.send_held(store)?;
            self.live.remove(&key);
            self.held = Some((key, packet_id));
            return Ok(());
        }
        // At every connect Paho removes this key in vain, unless a message has just that.
        if sending.is_none() && key.is_command_zero() && is_publish(store, key)? {
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
        remove(store, key)?;
        self.live.remove(&key);
        Ok(())
    }

    /// Paho is done with the records; what is held gets no PUBLISH.
    pub(super) fn close(mut self, store: &mut impl Store) -> Result<(), Error> {
        self.send_held(store)
    }

    fn send_held(&mut self, store: &mut impl Store) -> Result<(), Error> {
        if let Some((key, _)) = self.held {
            remove(store, key)?;
            self.held = None;
        }
        Ok(())
    }

    /// The keys, so that Paho inserts each of them at the start of its sorted lists.
    pub(super) fn keys(&mut self) -> Vec<String> {
        // What is removed after a list was read to be dropped, or restored, and not to be sent.
        self.just_read = None;
        let mut keys: Vec<&Key> = self.live.iter().collect();
        keys.sort_unstable_by_key(|key| (key.kind, Reverse(key.number), key.v5));
        keys.into_iter().map(Key::to_string).collect()
    }

    pub(super) fn clear(&mut self, store: &mut impl Store) -> Result<(), Error> {
        let held = self.held.map(|(key, _)| key);
        let names: Vec<String> = self.live.iter().chain(&held).map(Key::to_string).collect();
        if !names.is_empty() {
            let removes: Vec<_> = names.iter().map(|key| Change::Remove { key }).collect();
            change(store, &removes)?;
        }
        self.live.clear();
        self.held = None;
        self.just_read = None;
        Ok(())
    }
}

/// Changes the store and waits until it has happened.
fn change(store: &mut impl Store, changes: &[Change<'_>]) -> Result<(), Error> {
    reconnecting(store, |store| {
        store.send(changes)?;
        store.confirm()
    })
}

fn remove(store: &mut impl Store, key: Key) -> Result<(), Error> {
    change(
        store,
        &[Change::Remove {
            key: &key.to_string(),
        }],
    )
}

/// Tries once more what failed since the connection broke, which a restart of the store does
/// unnoticed. Doing any of it twice comes to the same as doing it once. After a time-out it would
/// not: the store may still do what it was first told, behind what comes later.
fn reconnecting<S: Store, T>(
    store: &mut S,
    mut work: impl FnMut(&mut S) -> Result<T, Error>,
) -> Result<T, Error> {
    match work(store) {
        Err(error) if error.kind() == ErrorKind::Connection => work(store),
        result => result,
    }
}

/// A PUBLISH that is sent again is the one that is stored, but for its mark as a duplicate. Where it
/// is not, Paho's copy is damaged and the stored one must stay.
fn resend(store: &mut impl Store, key: Key, value: &[&[u8]]) -> Result<(), Error> {
    const DUP: u8 = 0b1000;
    let name = key.to_string();
    let Some(stored) = reconnecting(store, |store| store.read(&name))? else {
        return change(store, &[Change::Put { key: &name, value }]);
    };
    let bytes = value.iter().copied().flatten();
    let differing = || bytes.clone().zip(&stored).map(|(new, old)| new ^ old);
    let same = bytes.clone().count() == stored.len()
        && differing().take(1).all(|bits| bits & !DUP == 0)
        && differing().skip(1).all(|bits| bits == 0);
    if same {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Damaged,
        format!("write record {key} again"),
    ))
}

fn is_publish(store: &mut impl Store, key: Key) -> Result<bool, Error> {
    let value = reconnecting(store, |store| store.read(&key.to_string()))?;
    Ok(value.is_some_and(|value| matches!(Command::read(&value), Command::Publish { .. })))
}
