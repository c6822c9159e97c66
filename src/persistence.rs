//! [`Persistence`]: the only place that knows what Paho asks of its records.

mod command;
mod polarity;

use std::{
    cmp::Reverse,
    collections::HashSet,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use tracing::{debug, error, info, warn};

use crate::{
    Change, Error, ErrorKind, MemoryStore, Store,
    error::Chain,
    record::{Key, Kind},
};
use command::Command;

/// The persistence of a Paho client over a [`Store`].
///
/// Paho calls it; a program creates it, may [`connect`](Self::connect) it to learn of a problem
/// early, and hands it to `CreateOptionsBuilder::user_persistence`. `S` is
/// `RedisStore` or [`MemoryStore`], or one of the program's own.
///
/// Its records live under the name `client_id:server_uri`, as in paho-mqtt-redis 0.3.2, with one
/// entry a record. (With that form the client `a` of the server `b:c` and the client `a:b` of the
/// server `c` have one name: do not put a colon into a client id.) Entries that Paho would not
/// write are left alone and never handed to Paho.
///
/// Calls may overlap: everything is behind a lock of its own.
pub struct Persistence<S: Store> {
    state: Mutex<State<S>>,
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
    open: Option<Open>,
}

/// What is known of the records between `open` and `close`.
struct Open {
    /// Every record that may be in the store: one whose change failed counts as there.
    live: HashSet<Key>,
    /// The command that was read last, which Paho does to send it.
    just_read: Option<Read>,
    /// A publish command that Paho removed, and the packet id of the PUBLISH that it writes next.
    held: Option<(Key, u32)>,
}

/// What opening finds.
struct Found {
    records: usize,
    /// Entries that Paho did not write.
    foreign: usize,
    full: Option<Error>,
}

struct Read {
    key: Key,
    command: Command,
}

impl<S: Store> Persistence<S> {
    /// A persistence over that store, which is not connected yet.
    #[must_use]
    pub fn with_store(store: S) -> Self {
        Self {
            state: Mutex::new(State { store, open: None }),
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
        warn_if_full(connected.as_ref());
        Ok(())
    }

    /// Whether there is a record with that key.
    ///
    /// This is the honest answer; what [`ClientPersistence::contains_key`] returns is the one
    /// that paho-mqtt hears right.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        let state = self.lock();
        match (&state.open, Key::parse(key)) {
            (Some(open), Some(key)) => open.live.contains(&key),
            _ => false,
        }
    }

    /// Works on the open records. No log and nothing else that is foreign runs in there.
    fn with_open<T>(
        &self,
        attempt: &str,
        work: impl FnOnce(&mut S, &mut Open) -> Result<T, Error>,
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
        work: impl FnOnce(&mut S, &mut Open, Key) -> Result<T, Error>,
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
        let fields = self.store.keys()?;
        let live: HashSet<Key> = fields
            .iter()
            .filter_map(|field| Key::parse(str::from_utf8(field).ok()?))
            .collect();
        let found = Found {
            records: live.len(),
            foreign: fields.len().saturating_sub(live.len()),
            full,
        };
        self.open = Some(Open {
            live,
            just_read: None,
            held: None,
        });
        Ok(found)
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        let sent = open.send_held(&mut self.store);
        self.store.close();
        sent
    }
}

impl Open {
    fn put(&mut self, store: &mut impl Store, key: Key, value: &[&[u8]]) -> Result<(), Error> {
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

    fn get(&mut self, store: &mut impl Store, key: Key) -> Result<Vec<u8>, Error> {
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

    fn remove(&mut self, store: &mut impl Store, key: Key) -> Result<(), Error> {
        let just_read = self
            .just_read
            .take_if(|read| key.removed_after(Some(read.key)) == read.key);
        let key = just_read.as_ref().map_or(key, |read| read.key);
        if !self.live.contains(&key) {
            return Ok(());
        }
        match (just_read.map(|read| read.command), self.held) {
            (
                Some(Command::Publish {
                    packet_id: Some(packet_id),
                }),
                _,
            ) => {
                // Paho sends one command after the other: what is still held gets no PUBLISH.
                self.send_held(store)?;
                self.live.remove(&key);
                self.held = Some((key, packet_id));
                return Ok(());
            }
            // The PUBLISH could not be written, and was acknowledged: the command goes with it.
            (None, Some((_, packet_id))) if key.is_sent() && key.number == packet_id => {
                self.send_held(store)?;
            }
            // At every connect Paho removes this key in vain, unless a message has just that.
            (None, _) if key.is_command_zero() && is_publish(store, key)? => return Ok(()),
            _ => {}
        }
        change(
            store,
            &[Change::Remove {
                key: &key.to_string(),
            }],
        )?;
        self.live.remove(&key);
        Ok(())
    }

    fn send_held(&mut self, store: &mut impl Store) -> Result<(), Error> {
        if let Some((key, _)) = self.held {
            change(
                store,
                &[Change::Remove {
                    key: &key.to_string(),
                }],
            )?;
            self.held = None;
        }
        Ok(())
    }

    /// The keys, so that Paho inserts each of them at the start of its sorted lists.
    fn keys(&mut self) -> Vec<String> {
        // What is removed after a list was read to be dropped, or restored, and not to be sent.
        self.just_read = None;
        let mut keys: Vec<&Key> = self.live.iter().collect();
        keys.sort_unstable_by_key(|key| (key.kind, Reverse(key.number), key.v5));
        keys.into_iter().map(Key::to_string).collect()
    }

    fn clear(&mut self, store: &mut impl Store) -> Result<(), Error> {
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

impl<S: Store> ClientPersistence for Persistence<S> {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        let opened = self.lock().open(client_id, server_uri);
        match opened {
            Ok(Found {
                records,
                foreign,
                full,
            }) => {
                warn_if_full(full.as_ref());
                info!(
                    "db.system.name" = S::NAME,
                    client_id, server_uri, records, "the persistence is open"
                );
                if foreign > 0 {
                    warn!(
                        "db.system.name" = S::NAME,
                        client_id,
                        server_uri,
                        entries = foreign,
                        "there are entries that Paho did not write; they are left as they are"
                    );
                }
                Ok(())
            }
            // Paho drops the error, so the log is where it can be found.
            Err(error) => {
                error!(
                    "db.system.name" = S::NAME,
                    client_id,
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
        let closed = self.lock().close();
        logged("close", "", closed)
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
        let put = self.with_record("write", key, |store, open, key| {
            open.put(store, key, &buffers)
        });
        logged("put", key, put)
    }

    fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
        let value = self.with_record("read", key, |store, open, key| open.get(store, key));
        logged("get", key, value)
    }

    fn remove(&mut self, key: &str) -> mqtt::Result<()> {
        let removed = self.with_record("remove", key, |store, open, key| open.remove(store, key));
        logged("remove", key, removed)
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        let keys = self.with_open("list the records", |_, open| Ok(open.keys()));
        logged("keys", "", keys)
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        let cleared = self.with_open("clear the records", |store, open| open.clear(store));
        logged("clear", "", cleared)
    }

    fn contains_key(&mut self, key: &str) -> bool {
        polarity::answer(self.contains(key))
    }
}

/// Without `close` a held change would be lost: the message would be sent once more.
impl<S: Store> Drop for Persistence<S> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let closed = state.close();
        drop(logged("close", "", closed));
    }
}

impl<S: Store> fmt::Debug for Persistence<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Persistence")
            .field("store", &S::NAME)
            .finish_non_exhaustive()
    }
}

/// Changes the store and waits until it has happened.
fn change(store: &mut impl Store, changes: &[Change<'_>]) -> Result<(), Error> {
    reconnecting(store, |store| {
        store.send(changes)?;
        store.confirm()
    })
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

fn warn_if_full(full: Option<&Error>) {
    if let Some(error) = full {
        warn!(
            "error.type" = error.kind().as_str(),
            "what waits can be sent, but nothing new can be accepted: {}",
            Chain(error)
        );
    }
}

fn is_publish(store: &mut impl Store, key: Key) -> Result<bool, Error> {
    let value = reconnecting(store, |store| store.read(&key.to_string()))?;
    Ok(value.is_some_and(|value| matches!(Command::read(&value), Command::Publish { .. })))
}

/// Turns an error into Paho's, and tells the log of it, since most of them Paho does not pass on.
fn logged<T>(operation: &str, key: &str, result: Result<T, Error>) -> mqtt::Result<T> {
    result.map_err(|error| {
        let kind = error.kind();
        if kind == ErrorKind::NotFound {
            debug!("db.operation.name" = operation, key, "{error}");
        } else {
            warn!(
                "db.operation.name" = operation,
                key,
                "error.type" = kind.as_str(),
                "{}",
                Chain(&error)
            );
        }
        error.into()
    })
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
