//! [`Persistence`]: the only place that knows what Paho asks of its records.

mod changes;
mod command;
mod complaints;
mod log;
mod numbers;
mod opening;
mod packet;
mod polarity;
mod properties;
mod reader;
mod records;
mod undelivered;
mod value;

#[cfg(all(test, feature = "metrics"))]
pub(crate) use value::sample;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use tracing::{error, info, warn};

use crate::{Error, ErrorKind, MemoryStore, Store, error::Chain, record::Key};
use complaints::Complaints;
use log::warn_if_full;
use records::{Mismatch, Records};

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
/// Dropping it closes it, where Paho has not: what was held back to be sent with the next change is
/// sent, which takes as long as any other call where the store is away, and the connection ends. The
/// records stay.
pub struct Persistence<S: Store> {
    /// As it was opened for, so that the log can name it.
    client_id: String,
    state: Mutex<State<S>>,
    complaints: Mutex<Complaints>,
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
        let mut store = self.lock().store.clone();
        store.close();
        Self::with_store(store)
    }
}

struct State<S> {
    store: S,
    /// Between `open` and `close`.
    open: Option<Records>,
}

/// What opening finds.
struct Found {
    records: usize,
    /// Entries that Paho did not write.
    foreign: usize,
    /// Records that Paho could not read, and whether some had to be left where they are.
    unreadable: (Vec<Key>, bool),
    full: Option<Error>,
}

impl<S: Store> Persistence<S> {
    /// A persistence over that store, which is not connected yet.
    #[must_use]
    pub fn with_store(store: S) -> Self {
        Self {
            client_id: String::new(),
            state: Mutex::new(State { store, open: None }),
            complaints: Mutex::default(),
        }
    }

    /// Connects to the records of that client and checks that they can be used.
    ///
    /// Optional and recommended: when a client cannot be created, paho-mqtt says no more than
    /// "Persistence error", and a store that is waited for in there stops every client of the
    /// process. `server_uri` is the one that the client is created with.
    ///
    /// # Errors
    ///
    /// Whatever would keep the client from being created, with a reason to act on.
    pub fn connect(&mut self, client_id: &str, server_uri: &str) -> Result<(), Error> {
        let name = store_name(client_id, without_scheme(server_uri))?;
        let connected = self.lock().connect(&name)?;
        warn_if_full::<S>(client_id, connected.as_ref());
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
        let state = self.lock();
        match (&state.open, Key::parse(key)) {
            (Some(open), Some(key)) => open.contains(key),
            _ => false,
        }
    }

    /// Works on the open records. No log and nothing else that is foreign runs in there.
    fn with_open<T>(
        &self,
        attempt: &str,
        work: impl FnOnce(&mut S, &mut Records) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let State { store, open } = &mut *self.lock();
        match open {
            Some(open) => work(store, open),
            None => Err(Error::new(ErrorKind::NotOpen, attempt)),
        }
    }

    /// The same for the record under that key.
    fn with_record<T>(
        &self,
        verb: &str,
        key: &str,
        work: impl FnOnce(&mut S, &mut Records, Key) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let attempt = || format!("{verb} record {key:?}");
        let State { store, open } = &mut *self.lock();
        match (open, Key::parse(key)) {
            (Some(open), Some(key)) => work(store, open, key),
            (None, _) => Err(Error::new(ErrorKind::NotOpen, attempt())),
            (_, None) => Err(Error::new(ErrorKind::InvalidKey, attempt())),
        }
    }

    /// A panic elsewhere must not become one here, under a C callback.
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Store> State<S> {
    fn connect(&mut self, name: &str) -> Result<Option<Error>, Error> {
        if self.open.is_some() {
            let attempt = format!("connect to the records of {name}");
            return Err(Error::new(ErrorKind::InvalidOption, attempt).because(
                "the persistence is open already; connect it before a client is created",
            ));
        }
        self.store.connect(name)
    }

    fn open(&mut self, client_id: &str, server_uri: &str) -> Result<Found, Error> {
        self.open = None;
        let name = store_name(client_id, server_uri)?;
        let full = self.store.connect(&name)?;
        let opened = opening::open(&mut self.store)?;
        let found = Found {
            records: opened.records.len(),
            foreign: opened.foreign,
            unreadable: (opened.unreadable, opened.left),
            full,
        };
        self.open = Some(opened.records);
        Ok(found)
    }

    /// What was sent last, and whether the client was created for another version than its records.
    fn close(&mut self) -> (Result<(), Error>, Option<Mismatch>) {
        let Some(mut open) = self.open.take() else {
            return (Ok(()), None);
        };
        let sent = open.close(&mut self.store);
        self.store.close();
        (sent, open.mismatch())
    }
}

impl<S: Store> ClientPersistence for Persistence<S> {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        client_id.clone_into(&mut self.client_id);
        let opened = self.lock().open(client_id, server_uri);
        match opened {
            Ok(Found {
                records,
                foreign,
                unreadable,
                full,
            }) => {
                warn_if_full::<S>(client_id, full.as_ref());
                info!(
                    "db.system.name" = S::NAME,
                    "messaging.client.id" = client_id,
                    server_uri,
                    records,
                    "the persistence is open"
                );
                if foreign > 0 {
                    warn!(
                        "db.system.name" = S::NAME,
                        "messaging.client.id" = client_id,
                        server_uri,
                        entries = foreign,
                        "there are entries that Paho did not write; they are left as they are"
                    );
                }
                self.warn_of_unreadable(server_uri, &unreadable);
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
                    Chain(&error)
                );
                Err(error.into())
            }
        }
    }

    fn close(&mut self) -> mqtt::Result<()> {
        let (closed, mismatch) = self.lock().close();
        self.warn_of_mismatch(mismatch);
        self.logged("close", "", closed)
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
        let put = self.with_record("write", key, |store, open, key| {
            open.put(store, key, &buffers)
        });
        self.answered("put", key, put)
    }

    fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
        let value = self.with_record("read", key, |store, open, key| open.get(store, key));
        self.answered("get", key, value)
    }

    fn remove(&mut self, key: &str) -> mqtt::Result<()> {
        let mut mismatch = None;
        let removed = self.with_record("remove", key, |store, open, key| {
            let removed = open.remove(store, key);
            mismatch = open.mismatch();
            removed
        });
        self.warn_of_mismatch(mismatch);
        self.logged("remove", key, removed)
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        let keys = self.with_open("list the records", |_, open| Ok(open.keys()));
        self.logged("keys", "", keys)
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        let cleared = self.with_open("clear the records", |store, open| open.clear(store));
        self.logged("clear", "", cleared)
    }

    fn contains_key(&mut self, key: &str) -> bool {
        let mut mismatch = None;
        let stands = self.with_record("look for", key, |_, open, key| {
            let stands = open.stands(key);
            mismatch = open.mismatch();
            Ok(stands)
        });
        self.warn_of_mismatch(mismatch);
        polarity::answer(stands.unwrap_or(false))
    }
}

/// Without `close` a held change would be lost: the message would be sent once more.
impl<S: Store> Drop for Persistence<S> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (closed, mismatch) = state.close();
        self.warn_of_mismatch(mismatch);
        drop(self.logged("close", "", closed));
    }
}

impl<S: Store> fmt::Debug for Persistence<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Persistence")
            .field("store", &S::NAME)
            .finish_non_exhaustive()
    }
}

/// The name that paho-mqtt-redis 0.3.2 gives the hash.
fn store_name(client_id: &str, server_uri: &str) -> Result<String, Error> {
    if client_id.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidClientId,
            "find the records of the client",
        ));
    }
    Ok(format!("{client_id}:{server_uri}"))
}

/// The URI as Paho C passes it to `open`: it cuts off exactly these.
fn without_scheme(server_uri: &str) -> &str {
    const SCHEMES: [&str; 8] = [
        "tcp://", "mqtt://", "unix://", "ws://", "ssl://", "tls://", "mqtts://", "wss://",
    ];
    let bare = SCHEMES
        .iter()
        .find_map(|scheme| server_uri.strip_prefix(scheme));
    bare.unwrap_or(server_uri)
}
