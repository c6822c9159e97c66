//! [`Persistence`]: the only place that knows what Paho asks of its records.

use std::{fmt, sync::Arc};

use paho_mqtt::{self as mqtt, ClientPersistence};
use tracing::error;

use super::{
    call_log,
    call_log::CallLog,
    call_semantics::{CallSemantics, VersionMismatch},
    config::PersistenceConfig,
    health::Health,
    lifecycle::{Lifecycle, OpenReport, PersistenceShared},
    notifier::{Notifier, catch_panic},
    observer::StoreObserver,
    worker::spawn_worker,
};
use crate::{
    error::{Error, ErrorChain, ErrorKind},
    net::deadline_after,
    paho::{Key, record_set_name, strip_scheme, to_abi},
    store::{MemoryStore, Store, StoreEvent},
};

/// The persistence of a Paho client over a [`Store`].
///
/// Paho calls it; a program creates it, may [`connect`](Self::connect) it to learn of a problem
/// early, and hands it to `CreateOptionsBuilder::user_persistence`. `S` is
/// `RedisStore` or [`MemoryStore`], or one of the program's own.
///
/// Its records live under the name `client_id:server_uri`, as in paho-mqtt-redis 0.3.2, with one
/// entry a record; the server URI is without its scheme, as in `device-1:broker.example:1883`. (With
/// that form the client `a` of the server `b:c` and the client `a:b` of the server `c` have one
/// name: do not put a colon into a client id.) Entries that Paho would not write are left alone and
/// never handed to Paho.
///
/// Calls may overlap: everything is behind a lock of its own.
///
/// While the store cannot be used, no call waits for it and none fails: what Paho puts is held in
/// memory, and a thread of the persistence connects again and writes what the store lacks. How it is
/// can be asked of [`health`](Self::health), and is told to a [`StoreObserver`] and the log.
///
/// Dropping it closes it, where Paho has not: what is held is sent, and the connection ends. Where the
/// store is away that takes up to twice as long as any other call may. The records stay.
pub struct Persistence<S: Store> {
    log: CallLog,
    shared: Arc<PersistenceShared<S>>,
    observers: Vec<Arc<dyn StoreObserver>>,
}

/// The records of Paho clients in the memory of this process: what one starts with.
///
/// It gives the same answers as `RedisPersistence`. Clones share their
/// records, which outlive the client but not the process.
///
/// ```
/// use paho_mqtt_redis::{MemoryPersistence, paho_mqtt as mqtt};
///
/// let persistence = MemoryPersistence::new();
/// let options = mqtt::CreateOptionsBuilder::new()
///     .server_uri("mqtt://127.0.0.1:1883")
///     .client_id("device-1")
///     .mqtt_version(mqtt::MQTT_VERSION_5)
///     .user_persistence(persistence.clone())
///     .finalize();
/// let client = mqtt::AsyncClient::new(options)?;
/// # Ok::<(), mqtt::Error>(())
/// ```
pub type MemoryPersistence = Persistence<MemoryStore>;

impl MemoryPersistence {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Default for MemoryPersistence {
    fn default() -> Self {
        Self::with_store(MemoryStore::default())
    }
}

/// The clone has the same records and is not open.
impl Clone for MemoryPersistence {
    fn clone(&self) -> Self {
        let state = self.shared.lock();
        let open = state.open.as_ref().and_then(|open| open.cache.store());
        let mut store = state.store.as_ref().or(open).cloned().unwrap_or_default();
        store.close();
        Self::with_store(store)
    }
}

impl<S: Store> Persistence<S> {
    /// A persistence over that store, which is not connected yet.
    #[must_use]
    pub fn with_store(store: S) -> Self {
        Self::with_config(store, PersistenceConfig::default())
    }

    pub(crate) fn with_config(store: S, mut config: PersistenceConfig) -> Self {
        // An observer may hold the health, and so what is shared: that must not hold the observer.
        let observers = config.observer.take().into_iter().collect();
        Self {
            log: CallLog::new(S::NAME),
            observers,
            shared: Arc::new(PersistenceShared::new(store, config)),
        }
    }

    /// Has one more observer told of what happens to the store, from the next opening on.
    #[cfg(feature = "metrics")]
    pub(crate) fn add_observer(&mut self, observer: Arc<dyn StoreObserver>) {
        self.observers.push(observer);
    }

    /// Connects to the records of that client and checks that they can be used. A store that is
    /// still starting is waited for.
    ///
    /// Optional and recommended: when a client cannot be created, paho-mqtt says no more than
    /// "Persistence error", and a store that is waited for in there stops every client of the
    /// process. `server_uri` is the one that the client is created with.
    ///
    /// # Errors
    ///
    /// Whatever would keep the client from being created, with a reason to act on.
    pub fn connect(&mut self, client_id: &str, server_uri: &str) -> Result<(), Error> {
        let name = record_set_name(client_id, strip_scheme(server_uri))?;
        let until = deadline_after(self.shared.config.open_timeout);
        let connected = self.shared.lock().connect(&name, until)?;
        call_log::warn_of_write_error(S::NAME, client_id, connected.write_error.as_ref());
        Ok(())
    }

    /// Whether there is a record with that key.
    ///
    /// This is the honest answer, for programs and tests; what
    /// [`ClientPersistence::contains_key`] returns is the one that paho-mqtt hears right, with
    /// version 0.14 the opposite. It is `false` while the persistence is not open and for a key that
    /// Paho would not write, and it is known from the calls since `open`, without asking the store.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        let state = self.shared.lock();
        match (&state.open, Key::parse(key)) {
            (Some(open), Some(key)) => open.contains(key),
            _ => false,
        }
    }

    /// What answers how the store is, also when a client has the persistence.
    #[must_use]
    pub fn health(&self) -> Health {
        let shared: Arc<PersistenceShared<S>> = Arc::clone(&self.shared);
        Health::new(shared)
    }

    /// Works on the open records for the record under that key.
    fn with_record<T>(
        &self,
        verb: &str,
        key: &str,
        work: impl FnOnce(&mut CallSemantics<S>, Key) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let attempt = || format!("{verb} record {key:?}");
        let Some(parsed) = Key::parse(key) else {
            let kind = match self.shared.lock().open {
                Some(_) => ErrorKind::InvalidKey,
                None => ErrorKind::NotOpen,
            };
            return Err(Error::new(kind, attempt()));
        };
        self.shared.with_records(attempt, |open| work(open, parsed))
    }

    fn try_open(&mut self, client_id: &str, server_uri: &str) -> Result<OpenReport, Error> {
        let name = record_set_name(client_id, server_uri)?;
        drop(self.end());
        let shared = &self.shared;
        let until = deadline_after(shared.config.open_timeout);
        let found = shared.lock().open(&name, &shared.config, until)?;
        let notifier = Notifier {
            store: S::NAME,
            client_id: client_id.to_owned(),
            observers: self.observers.clone(),
        };
        if let Some(open) = &mut shared.lock().open {
            let quarantined = found.unreadable.0.len();
            open.cache.events.push(StoreEvent::Opened { quarantined });
        }
        if let Err(error) = spawn_worker(shared, notifier) {
            drop(self.end());
            let attempt = "start the thread of the persistence";
            return Err(Error::new(ErrorKind::Other, attempt)
                .with_reason("the system allows this process no more threads, or has no memory")
                .with_source(error));
        }
        Ok(found)
    }

    /// Sends what is held, and waits as long as a call may where the store is away. Tells how many
    /// records it could not send, and whether the client was created for another version than its
    /// records.
    fn end(&mut self) -> (Result<(), Error>, Option<VersionMismatch>) {
        let shared = &self.shared;
        let mut state = shared.lock();
        let Some(open) = &mut state.open else {
            return (Ok(()), None);
        };
        open.end();
        shared.wake(&mut state);
        let until = deadline_after(shared.config.call_timeout);
        let is_worth_waiting = |state: &Lifecycle<S>| {
            let outage = state.open.as_ref().and_then(|open| open.cache.outage());
            outage.is_some_and(|outage| !outage.was_waited_for)
        };
        let mut is_over = false;
        while is_worth_waiting(&state) && !is_over {
            (state, is_over) = shared.wait(state, until);
        }
        state.closing = true;
        shared.changed.notify_all();
        // What recovers it gives it back as it is, or closes it when it comes to that.
        let is_lent = |state: &Lifecycle<S>| {
            let open = state.open.as_ref();
            open.is_some_and(|open| open.cache.store().is_none())
        };
        let until = deadline_after(shared.config.call_timeout);
        is_over = false;
        while is_lent(&state) && !is_over {
            (state, is_over) = shared.wait(state, until);
        }
        let Some(mut open) = state.open.take() else {
            return (Ok(()), None);
        };
        let mismatch = open.mismatch();
        let unsaved = open.cache.pending_totals();
        let outage = open.cache.outage().map(|outage| Arc::clone(&outage.error));
        let closed = match outage {
            Some(cause) => Err(Error::new(
                cause.kind(),
                format!(
                    "write the last changes, {} records among them",
                    unsaved.records
                ),
            )
            .with_reason("the store could not be used, and they are lost with this program")
            .with_source(cause)),
            None => Ok(()),
        };
        if let Some(mut store) = open.cache.into_store() {
            store.close();
            state.store = Some(store);
        }
        (closed, mismatch)
    }
}

impl<S: Store> ClientPersistence for Persistence<S> {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        client_id.clone_into(&mut self.log.client_id);
        match self.try_open(client_id, server_uri) {
            Ok(found) => {
                self.log.opened(server_uri, &found);
                Ok(())
            }
            // Paho drops the error, so the log is where it can be found.
            Err(error) => {
                error!(
                    "db.system.name" = S::NAME,
                    "messaging.client.id" = client_id,
                    server_uri,
                    "error.type" = error.kind().as_str(),
                    "the persistence does not open, so the client is not created: {}",
                    ErrorChain(&error)
                );
                Err(error.into())
            }
        }
    }

    fn close(&mut self) -> mqtt::Result<()> {
        let (closed, mismatch) = self.end();
        self.log.version_mismatch(mismatch);
        self.log.log_error("close", "", closed)
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
        let put = self.with_record("write", key, |open, key| open.put(key, &buffers));
        let is_damaged = matches!(&put, Err(error) if error.kind() == ErrorKind::Damaged);
        let put = self.log.log_error("put", key, put);
        if is_damaged {
            for observer in &self.observers {
                // Paho could not be unwound through.
                catch_panic(|| observer.on_damaged(&self.log.client_id, key));
            }
        }
        put
    }

    fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
        let parsed = self.with_record("read", key, |_, key| Ok(key));
        let value = parsed.and_then(|key| self.shared.get(key));
        self.log.log_error("get", key, value)
    }

    fn remove(&mut self, key: &str) -> mqtt::Result<()> {
        let mut mismatch = None;
        let removed = self.with_record("remove", key, |open, key| {
            open.remove(key);
            mismatch = open.mismatch();
            Ok(())
        });
        self.log.version_mismatch(mismatch);
        self.log.log_error("remove", key, removed)
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        let attempt = || "list the records".to_owned();
        let keys = self.shared.with_records(attempt, |open| Ok(open.keys()));
        self.log.log_error("keys", "", keys)
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        let attempt = || "clear the records".to_owned();
        let cleared = self.shared.with_records(attempt, |open| {
            open.clear();
            Ok(())
        });
        self.log.log_error("clear", "", cleared)
    }

    fn contains_key(&mut self, key: &str) -> bool {
        let mut mismatch = None;
        let stands = self.with_record("look for", key, |open, key| {
            let stands = open.contains_for_paho(key);
            mismatch = open.mismatch();
            Ok(stands)
        });
        self.log.version_mismatch(mismatch);
        to_abi(stands.unwrap_or(false))
    }
}

/// Without `close` what is held would be lost: a message would be sent once more.
impl<S: Store> Drop for Persistence<S> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl<S: Store> fmt::Debug for Persistence<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Persistence")
            .field("store", &S::NAME)
            .finish_non_exhaustive()
    }
}
