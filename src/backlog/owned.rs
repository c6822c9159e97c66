//! The records of one client, while this program owns them.

use std::{collections::VecDeque, ops::ControlFlow};

use super::{
    order::{Message, messages_in_order},
    record::Record,
};
use crate::{
    cache::list_keys,
    error::{Error, ErrorKind},
    paho::{Key, KeyName, with_key_names},
    persistence::{PersistenceConfig, connect},
    redis::RedisStore,
    store::{Change, Group, Store},
};

/// The records of one client, which no other program uses until this value is dropped.
///
/// A connection that is silent for 30 s counts as gone, so something has to be read or written more often
/// than that: [`keep_alive`](Self::keep_alive) does nothing else. After an error another program may have
/// used the records, so the work ends.
#[derive(Debug)]
pub struct OwnedBacklog {
    store: RedisStore,
    name: String,
}

/// Number of messages, or of values that are set aside, per exchange. They are in memory together, and share
/// the time limit of the exchange.
pub(super) const PER_EXCHANGE: usize = 64;

impl OwnedBacklog {
    /// Takes the records over; waits for up to the open timeout for a program that is ending.
    ///
    /// # Errors
    ///
    /// Any reason why they cannot be used, or written.
    pub(super) fn open(
        store: RedisStore,
        name: &str,
        config: &PersistenceConfig,
    ) -> Result<Self, Error> {
        Self::open_with(store, name, config, true)
    }

    /// Takes the records over, also in a Redis that is full: removing makes room.
    pub(super) fn open_to_remove(
        store: RedisStore,
        name: &str,
        config: &PersistenceConfig,
    ) -> Result<Self, Error> {
        Self::open_with(store, name, config, false)
    }

    fn open_with(
        mut store: RedisStore,
        name: &str,
        config: &PersistenceConfig,
        writes: bool,
    ) -> Result<Self, Error> {
        let connected = connect(&mut store, name, config)?;
        let backlog = Self {
            store,
            name: name.to_owned(),
        };
        // Without the lock, a program could use them at the same time.
        if !backlog.store.is_exclusive() {
            let error = Error::new(ErrorKind::Permission, format!("own the records of {name}"));
            return Err(error.with_reason(
                "the user lacks +client|setname or +client|list, without which a connected program is not \
                 seen; docs/redis.md has the ACL line",
            ));
        }
        match connected.write_error {
            Some(error) if writes => Err(error),
            _ => Ok(backlog),
        }
    }

    /// The name of the records: client id and server URI.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The store, for the other modules of the backlog.
    pub(crate) fn store(&mut self) -> &mut RedisStore {
        &mut self.store
    }

    /// Applies groups of changes, each as a whole, and waits until they are applied.
    ///
    /// # Errors
    ///
    /// Any reason why one of them may not have been applied.
    pub fn apply(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.live_store()?.rewrite(groups)
    }

    /// The store, while its connection is the one by which the records were taken over.
    pub(super) fn live_store(&mut self) -> Result<&mut RedisStore, Error> {
        if self.store.is_exclusive() {
            return Ok(self.store());
        }
        let attempt = format!("go on with the records of {}", self.name);
        Err(Error::new(ErrorKind::Connection, attempt).with_reason(
            "the connection to Redis broke, so another program may have used them meanwhile",
        ))
    }

    /// Passes the values of these records to `on_value`, in the same order.
    pub(super) fn read_values(
        &mut self,
        keys: &[Key],
        mut on_value: impl FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        let store = self.live_store()?;
        with_key_names(keys, |names| store.read_each(names, &mut on_value))
    }

    /// Lists the messages in the order in which they will go out, without foreign entries.
    ///
    /// # Errors
    ///
    /// Any reason why they cannot be listed.
    pub fn messages(&mut self) -> Result<Vec<Message>, Error> {
        let (keys, _) = list_keys(self.live_store()?)?;
        Ok(messages_in_order(keys))
    }

    /// Reads these messages in order and passes each to `on_message`, until that breaks. At most 64
    /// messages are in memory.
    ///
    /// # Errors
    ///
    /// Any reason why a value cannot be read.
    pub fn read_messages<'a>(
        &mut self,
        messages: impl IntoIterator<Item = &'a Message>,
        mut on_message: impl FnMut(Vec<Record>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let chunk: Vec<&Message> = messages.by_ref().take(PER_EXCHANGE).collect();
            for records in self.read_chunk(&chunk)? {
                if on_message(records).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads these messages, each with those of its records that exist.
    pub(super) fn read_chunk(
        &mut self,
        messages: &[&Message],
    ) -> Result<VecDeque<Vec<Record>>, Error> {
        let keys: Vec<Key> = messages.iter().copied().flatten().copied().collect();
        let mut values = Vec::with_capacity(keys.len());
        self.read_values(&keys, |value| values.push(value))?;
        let mut values = values.into_iter();
        let messages = messages.iter();
        let read = messages.map(|message| Record::of_message(message, values.by_ref()));
        Ok(read.filter(|records| !records.is_empty()).collect())
    }

    /// Removes messages for good, each as a whole; passes the number of each step to `on_removed`.
    ///
    /// # Errors
    ///
    /// Any reason why some may not have been removed.
    pub fn remove(
        &mut self,
        messages: &[Message],
        mut on_removed: impl FnMut(usize),
    ) -> Result<(), Error> {
        for step in messages.chunks(PER_EXCHANGE) {
            let names = step.iter().map(|message| {
                let names = message.iter().map(|key| key.to_name());
                names.collect::<Vec<KeyName>>()
            });
            let names: Vec<Vec<KeyName>> = names.collect();
            let groups = names.iter().map(|names| {
                let removes = names.iter().map(|key| Change::Remove { key });
                removes.collect::<Vec<Change<'_>>>()
            });
            let groups: Vec<Vec<Change<'_>>> = groups.collect();
            let groups: Vec<Group<'_>> = groups.iter().map(Vec::as_slice).collect();
            self.apply(&groups)?;
            on_removed(step.len());
        }
        Ok(())
    }

    /// Forgets all imports and moves from files, or to them, that have not come to their end.
    ///
    /// # Errors
    ///
    /// Any reason why their notes cannot be listed or removed.
    pub fn forget_arrivals(&mut self) -> Result<(), Error> {
        let sources = self.live_store()?.arrival_sources()?;
        let sources = sources.iter().filter_map(|name| str::from_utf8(name).ok());
        let sources: Vec<&str> = sources.collect();
        self.live_store()?.forget_arrivals(&sources)
    }

    /// Makes an exchange, so that the connection does not count as gone.
    ///
    /// # Errors
    ///
    /// Any reason why the records cannot be used any more.
    pub fn keep_alive(&mut self) -> Result<(), Error> {
        // A field that Paho does not write: a full Redis answers reads, too.
        self.live_store()?.read(&["-"]).map(drop)
    }
}

impl Drop for OwnedBacklog {
    fn drop(&mut self) {
        self.store.close();
    }
}
