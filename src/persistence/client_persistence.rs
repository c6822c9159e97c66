//! [`Persistence`]: implements Paho's eight calls, and opens and closes the records.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use tracing::error;

#[cfg(feature = "metrics")]
use super::config::StoreAddress;
use super::{
    call_log,
    call_log::CallLog,
    call_semantics::{CallSemantics, VersionMismatch},
    config::PersistenceConfig,
    dead_letters,
    dead_letters::DeadLetters,
    guarded_store::GuardedStore,
    health::Health,
    lifecycle::{Lifecycle, Opened},
    moved_backlog::find_backlogs,
    notifier::{Notifier, catch_panic},
    observer::{RecordObserver, StoreObserver},
    opening::{OpenReport, connect, convert, may_open_without, open_records},
    outbox::Outbox,
    shared::PersistenceShared,
    worker::start_jobs,
};
use crate::{
    cache::{LoadChanges, SendCounts, SetAsides, StoreAccess, WriteBehindCache},
    clock::Clock,
    error::{Error, ErrorChain, ErrorKind},
    paho::{Key, record_set_name, strip_scheme, to_abi},
    store::{MemoryStore, Store, StoreEvent},
};

/// The persistence of a Paho client over a [`Store`].
///
/// A program creates it, may [`connect`](Self::connect) it to learn of a problem early, and passes
/// it to `CreateOptionsBuilder::user_persistence`. From then on Paho calls it. `S` is `RedisStore`,
/// [`MemoryStore`] or a store of the program's own.
///
/// Its records are stored under the name `client_id:server_uri`, with one entry per record, as in
/// paho-mqtt-redis 0.3.2. The server URI is without its scheme, as in
/// `device-1:broker.example:1883`. Do not use a colon in a client id: the client `a` of the server
/// `b:c` and the client `a:b` of the server `c` would share one name. Entries that Paho did not
/// write are ignored and never reach Paho.
///
/// Calls may overlap; one mutex serializes them.
///
/// While the store is unavailable, no `put` or `remove` fails for that. Writes are kept in memory,
/// and a background thread reconnects and writes them when the store is back. One call waits for up
/// to the call timeout per outage, the others do not wait. The call timeout is the
/// `operation_timeout` of `RedisPersistenceBuilder`, and 250 ms with any other store. A `get` fails
/// if only the store has the value. A record that the store refuses, although it takes others, is kept
/// in memory and tried again. [`health`](Self::health), a [`StoreObserver`] and the log report the state
/// of the store; observers and log run on threads that do nothing else.
///
/// Dropping it closes it, unless Paho has closed it before: pending writes are sent, and the
/// connection ends. If the store is unavailable, that takes up to twice the call timeout. The
/// records stay in the store.
pub struct Persistence<S: Store> {
    log: CallLog,
    shared: Arc<PersistenceShared<GuardedStore<S>>>,
    observers: Vec<Arc<dyn StoreObserver>>,
    record_observer: Option<Arc<dyn RecordObserver>>,
    /// The client uses MQTT 5, if the program has named its version.
    mqtt_5: Option<bool>,
    wrapper: Option<Wrapper>,
}

pub(crate) type BoxedPersistence = Box<dyn ClientPersistence + Send>;

/// Puts another persistence between Paho and this one.
pub(crate) type Wrapper = Box<dyn FnOnce(BoxedPersistence) -> BoxedPersistence + Send + Sync>;

/// A persistence in the memory of this process, for tests and first programs.
///
/// It gives the same answers as `RedisPersistence`. Clones share their records, which survive the
/// client but not the process.
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
    /// Creates a persistence over an empty store.
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

/// Returns a persistence that shares the records and is not open.
impl Clone for MemoryPersistence {
    fn clone(&self) -> Self {
        let mut state = self.shared.lock();
        // `connect`, `open` or the worker has the store for a moment.
        let mut store = loop {
            match state.lifecycle.store() {
                Some(store) => break store.0.clone(),
                None => state = self.shared.wait(state),
            }
        };
        store.close();
        Self::with_store(store)
    }
}

impl<S: Store> Persistence<S> {
    /// Creates a persistence over a store, without connecting it.
    #[must_use]
    pub fn with_store(store: S) -> Self {
        Self::with_config(store, PersistenceConfig::default())
    }

    pub(crate) fn with_config(store: S, config: PersistenceConfig) -> Self {
        Self {
            log: CallLog::new(S::NAME),
            // Not in the shared state: an observer may own a `Health`, which owns that, and neither
            // would ever be dropped.
            observers: Vec::new(),
            record_observer: None,
            mqtt_5: None,
            wrapper: None,
            shared: Arc::new(PersistenceShared::new(GuardedStore(store), config)),
        }
    }

    /// Adds an observer, which receives the events of the store from the next opening on.
    ///
    /// Each observer receives every event, in the order in which they were added.
    #[must_use]
    pub fn observer(mut self, observer: impl StoreObserver + 'static) -> Self {
        self.add_observer(Arc::new(observer));
        self
    }

    pub(crate) fn add_observer(&mut self, observer: Arc<dyn StoreObserver>) {
        self.observers.push(observer);
    }

    /// Sets the limits of what waits.
    pub(crate) fn set_waiting_limits(&mut self, messages: usize, bytes: Option<usize>) {
        self.shared.config.waiting_limits.set(messages, bytes);
    }

    /// Returns true if opening succeeds without the store after an error of this kind.
    pub(crate) fn may_open_without_store(&self, kind: ErrorKind) -> bool {
        self.shared.config.open_without_store && may_open_without(kind)
    }

    /// Returns the address of the store, if it is known.
    #[cfg(feature = "metrics")]
    pub(crate) fn store_address(&self) -> Option<StoreAddress> {
        self.shared.config.store_address.clone()
    }

    /// Sets the observer of the records, from the next opening on.
    #[cfg(feature = "metrics")]
    pub(crate) fn set_record_observer(&mut self, observer: Arc<dyn RecordObserver>) {
        self.record_observer = Some(observer);
    }

    /// Puts another persistence between Paho and this one once a session has built both, for this project's own tests.
    #[doc(hidden)]
    #[must_use]
    pub fn wrapped_in_session(
        mut self,
        wrap: impl FnOnce(Box<dyn ClientPersistence + Send>) -> Box<dyn ClientPersistence + Send>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.wrapper = Some(Box::new(wrap));
        self
    }

    pub(crate) fn take_wrapper(&mut self) -> Option<Wrapper> {
        self.wrapper.take()
    }

    /// Names the MQTT version of the client, for which the records of the other version are converted.
    ///
    /// Set it to the version that the client connects with, which has to be that of its create options too.
    /// Paho cannot restore records of MQTT 5 in a client of 3.1.1, and damages those of 3.1.1 in a client of
    /// MQTT 5. With the version named, [`connect`](Self::connect) and `open` convert them, each in one step,
    /// so that a crash loses nothing. A message of MQTT 5 that becomes one of 3.1.1 loses its properties,
    /// its expiry among them. What cannot be converted is quarantined: an UNSUBSCRIBE that waits, and a
    /// record of a message while another message has its packet id in the other version.
    ///
    /// Without it, the records stay as they are, and a mismatch is logged as a warning.
    ///
    /// ```
    /// use paho_mqtt_redis::{MemoryPersistence, paho_mqtt as mqtt};
    ///
    /// let persistence = MemoryPersistence::new().mqtt_version(mqtt::MQTT_VERSION_3_1_1);
    /// ```
    #[must_use]
    pub fn mqtt_version(mut self, version: impl Into<mqtt::MqttVersion>) -> Self {
        self.set_mqtt_version(version.into());
        self
    }

    /// Does the same as [`mqtt_version`](Self::mqtt_version).
    pub(crate) fn set_mqtt_version(&mut self, version: mqtt::MqttVersion) {
        self.mqtt_5 = Some(version == mqtt::MqttVersion::V5);
    }

    /// Connects to the records of a client and checks that they can be used.
    ///
    /// Optional and recommended. If a client cannot be created, paho-mqtt reports only "Persistence
    /// error", and a wait for the store during the creation blocks every client of the process.
    /// Pass the `server_uri` that the client is created with. If the store is still starting, this
    /// waits for up to the `open_timeout` of `RedisPersistenceBuilder`, or 2 s with any other store.
    /// Records of this client id under another server URI are logged as a warning:
    /// [`adopt`](Self::adopt) moves them. Records of another [`mqtt_version`](Self::mqtt_version) than the
    /// client's are converted.
    ///
    /// # Errors
    ///
    /// The error that would keep the client from being created, with its reason and what to do.
    pub fn connect(&mut self, client_id: &str, server_uri: &str) -> Result<(), Error> {
        let name = record_set_name(client_id, strip_scheme(server_uri))?;
        let attempt = || format!("connect to the records of {name}");
        let mut store = self.begin_opening(attempt)?;
        let config = &self.shared.config;
        let connected = connect(&mut store, &name, config);
        let mut converted = Ok(());
        if let Ok(connected) = &connected {
            call_log::warn_of_write_error(S::NAME, client_id, connected.write_error.as_ref());
            if let Some(to_v5) = self.mqtt_5 {
                converted = convert(&mut store, config, to_v5)
                    .map(|records| call_log::converted(S::NAME, client_id, records, to_v5));
            }
            if config.moved_backlog_check {
                let found = find_backlogs(&mut store, client_id);
                call_log::warn_of_moved_backlogs(S::NAME, client_id, found);
            }
        }
        self.end_opening(Lifecycle::Closed(store));
        connected.and(converted)
    }

    /// Returns `true` if there is a record with this key.
    ///
    /// This is the plain answer, for programs and tests. [`ClientPersistence::contains_key`]
    /// returns the value that paho-mqtt passes on correctly, which with version 0.14 is the
    /// opposite. `false` while the persistence is not open, and for a key that Paho would not
    /// write. Answered from memory, without asking the store.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        let state = self.shared.lock();
        match (state.lifecycle.opened(), Key::parse(key)) {
            (Some(opened), Some(key)) => opened.records.contains(key),
            _ => false,
        }
    }

    /// Returns a handle that reports the state of the store.
    ///
    /// It works after a client has taken the persistence, too.
    #[must_use]
    pub fn health(&self) -> Health {
        let shared: Arc<PersistenceShared<GuardedStore<S>>> = Arc::clone(&self.shared);
        Health::new(shared)
    }

    /// Returns a handle to the records that are set aside: what Paho dropped, and the quarantine.
    ///
    /// It works after a client has taken the persistence, too.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        let shared: Arc<PersistenceShared<GuardedStore<S>>> = Arc::clone(&self.shared);
        DeadLetters::new(shared)
    }

    /// Runs `work` on the open records with the parsed key.
    fn with_parsed_key<T>(
        &self,
        verb: &str,
        key: &str,
        work: impl FnOnce(
            &mut CallSemantics,
            &mut StoreAccess<'_, GuardedStore<S>>,
            Key,
        ) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let attempt = || format!("{verb} record {key:?}");
        let Some(parsed) = Key::parse(key) else {
            let kind = match self.shared.lock().lifecycle.opened() {
                Some(_) => ErrorKind::InvalidKey,
                None => ErrorKind::NotOpen,
            };
            return Err(Error::new(kind, attempt()));
        };
        self.shared
            .with_open(attempt, |records, access| work(records, access, parsed))
    }

    pub(super) fn shared(&self) -> &Arc<PersistenceShared<GuardedStore<S>>> {
        &self.shared
    }

    /// Takes the store in order to open it, once a worker that still has it has brought it back.
    pub(super) fn begin_opening(
        &self,
        attempt: impl FnOnce() -> String,
    ) -> Result<GuardedStore<S>, Error> {
        let shared = &self.shared;
        let until = shared.clock().deadline_after(shared.config.open_timeout);
        let is_closing =
            |lifecycle: &Lifecycle<GuardedStore<S>>| matches!(lifecycle, Lifecycle::Closing);
        let (mut state, is_closed) = shared.wait_while(shared.lock(), until, is_closing);
        match state.lifecycle.begin_opening() {
            Some(store) => Ok(store),
            None if !is_closed => Err(Error::new(ErrorKind::Timeout, attempt())
                .with_reason("the last exchange before the persistence was closed has not ended")),
            None => Err(Error::new(ErrorKind::InvalidOption, attempt()).with_reason(
                "the persistence is already open; call connect before creating a client",
            )),
        }
    }

    pub(super) fn end_opening(&self, lifecycle: Lifecycle<GuardedStore<S>>) {
        let mut state = self.shared.lock();
        state.lifecycle = lifecycle;
        // That of the last opening may not be over.
        state.wake_worker_now();
        drop(state);
        self.shared.notify();
    }

    /// Opens the records; returns `None` if the store is unavailable and may be for now.
    fn try_open(&mut self, client_id: &str, server_uri: &str) -> Result<Option<OpenReport>, Error> {
        let name = record_set_name(client_id, server_uri)?;
        drop(self.close_records());
        let mut store = self.begin_opening(|| "open the records".to_owned())?;
        let shared = &self.shared;
        let config = &shared.config;
        let mut changes = LoadChanges::default();
        let opened = match open_records(&mut store, &name, (config, self.mqtt_5), &mut changes) {
            Err(error) if !(config.open_without_store && may_open_without(error.kind())) => {
                store.close();
                self.end_opening(Lifecycle::Closed(store));
                return Err(error);
            }
            opened => opened,
        };
        let notifier = Arc::new(Notifier {
            store_name: S::NAME,
            client_id: client_id.to_owned(),
            observers: self.observers.clone(),
            record_observer: self.record_observer.clone(),
            outbox: Outbox::default(),
            drops: Mutex::default(),
            set_aside_losses: Mutex::default(),
        });
        let quarantined;
        let mut server = None;
        let (cache, instance_id, result) = match opened {
            Ok((cache, instance_id, mut report)) => {
                quarantined = report.quarantined();
                server = report.server.take();
                (cache, instance_id, Ok(report))
            }
            Err(error) => {
                // What is set aside in the store is listed once it is there.
                let set_asides = SetAsides::new(&config.set_asides);
                let mut cache = WriteBehindCache::without_store(
                    config.cache_limit,
                    config.confirmation(),
                    set_asides,
                );
                cache.sends = SendCounts::new(config.max_sends);
                cache.index.set_now(config.clock.since_boot());
                quarantined = changes.quarantined();
                cache.events = changes.into_events();
                (cache, None, Err(Arc::new(error)))
            }
        };
        let opened = Opened::new(
            CallSemantics::new(cache),
            name,
            instance_id,
            shared.clock().since_boot(),
            Arc::clone(&notifier),
        );
        let connected = server.map(|server| StoreEvent::Connected { server });
        let events = [StoreEvent::Opened { quarantined }];
        notifier.outbox.post(events.into_iter().chain(connected));
        self.end_opening(match &result {
            Ok(_) => Lifecycle::Up { store, opened },
            Err(error) => {
                let error = Arc::clone(error);
                Lifecycle::opened_without_store(store, opened, error, shared.clock())
            }
        });
        if let Clock::System = shared.clock()
            && let Err(error) = start_jobs(shared, &notifier)
        {
            drop(self.close_records());
            return Err(Error::new(ErrorKind::Other, "start a worker thread")
                .with_reason("the system has no thread or memory left for this process")
                .with_source(error));
        }
        Ok(result.ok())
    }

    /// Flushes and closes the records, and takes a version mismatch that has not been logged.
    ///
    /// Waits for an unavailable store for up to the call timeout, once per outage, and as long
    /// again for the worker to bring the store back.
    ///
    /// # Errors
    ///
    /// The error of the outage, if the store is unavailable, or its reply, if it refuses some records.
    fn close_records(&mut self) -> (Result<(), Error>, Option<VersionMismatch>) {
        let shared = &self.shared;
        let clock = shared.clock();
        let mut state = shared.lock();
        let finished = state.lifecycle.call(clock, CallSemantics::finish);
        if finished.is_none() {
            return (Ok(()), None);
        }
        state.wake_worker();
        let until = clock.deadline_after(shared.config.call_timeout);
        (state, _) = shared.wait_while(state, until, |lifecycle| {
            let outage = lifecycle.outage();
            outage.is_some_and(|outage| !outage.was_waited_for)
        });
        let Some(mut closed) = state.lifecycle.close() else {
            return (Ok(()), None);
        };
        state.wake_worker_now();
        shared.notify();
        // The worker brings the store back after its step. If that takes longer, the next opening
        // waits for it.
        let until = clock.deadline_after(shared.config.call_timeout);
        let is_closing =
            |lifecycle: &Lifecycle<GuardedStore<S>>| matches!(lifecycle, Lifecycle::Closing);
        drop(shared.wait_while(state, until, is_closing));
        let mismatch = closed.records.take_mismatch();
        (closed.result(), mismatch)
    }
}

impl<S: Store> ClientPersistence for Persistence<S> {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        client_id.clone_into(&mut self.log.client_id);
        match self.try_open(client_id, server_uri) {
            Ok(report) => {
                self.log.opened(server_uri, report.as_ref());
                Ok(())
            }
            // Paho drops the error, so the log is the only place that has it.
            Err(error) => {
                error!(
                    "db.system.name" = S::NAME,
                    "messaging.client.id" = client_id,
                    server_uri,
                    "error.type" = error.kind().as_str(),
                    "cannot open the persistence, so the client is not created: {}",
                    ErrorChain(&error)
                );
                Err(error.into())
            }
        }
    }

    fn close(&mut self) -> mqtt::Result<()> {
        let (closed, mismatch) = self.close_records();
        self.log.version_mismatch(mismatch);
        self.log.log_error("close", "", closed)
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
        let published_again = dead_letters::take_published_again(&self.shared);
        let put = self.with_parsed_key("write", key, |records, access, key| {
            records.published_again = published_again;
            records.put(access, key, &buffers)
        });
        let is_damaged = matches!(&put, Err(error) if error.kind() == ErrorKind::Damaged);
        let put = self.log.log_error("put", key, put);
        if is_damaged {
            for observer in &self.observers {
                // A panic would unwind into Paho's C code.
                catch_panic(|| observer.on_damaged(&self.log.client_id, key));
            }
        }
        put
    }

    fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
        let parsed = self.with_parsed_key("read", key, |_, _, key| Ok(key));
        let value = parsed.and_then(|key| self.shared.get(key));
        self.log.log_error("get", key, value)
    }

    fn remove(&mut self, key: &str) -> mqtt::Result<()> {
        let mut mismatch = None;
        let removed = self.with_parsed_key("remove", key, |records, access, key| {
            records.remove(access, key);
            mismatch = records.take_mismatch();
            Ok(())
        });
        self.log.version_mismatch(mismatch);
        self.log.log_error("remove", key, removed)
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        let attempt = || "list the records".to_owned();
        let keys = self
            .shared
            .with_open(attempt, |records, _| Ok(records.keys()));
        self.log.log_error("keys", "", keys)
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        let attempt = || "clear the records".to_owned();
        let cleared = self.shared.with_open(attempt, |records, access| {
            records.clear(access);
            Ok(())
        });
        self.log.log_error("clear", "", cleared)
    }

    fn contains_key(&mut self, key: &str) -> bool {
        let mut mismatch = None;
        let present = self.with_parsed_key("look up", key, |records, _, key| {
            let present = records.contains_for_paho(key);
            mismatch = records.take_mismatch();
            Ok(present)
        });
        self.log.version_mismatch(mismatch);
        to_abi(present.unwrap_or(false))
    }
}

/// Closes the persistence. Otherwise deferred removes would be lost, and the next start would send
/// their messages again.
impl<S: Store> Drop for Persistence<S> {
    fn drop(&mut self) {
        drop(self.close());
    }
}

/// Shows the client, the address of the store without user and password, and the state.
impl<S: Store> fmt::Debug for Persistence<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.shared.config;
        let state = self.shared.try_lock().map(|state| {
            let health = state.lifecycle.health_snapshot(config.waiting_limits.get());
            health.state().as_str()
        });
        let address = config.store_address.as_ref();
        f.debug_struct("Persistence")
            .field("store", &S::NAME)
            .field("address", &address.map_or("-", |address| &*address.url))
            .field("client_id", &self.log.client_id)
            .field("state", &state.unwrap_or("busy"))
            .finish_non_exhaustive()
    }
}
