//! Records in a Redis hash.

mod connection;
mod fault;
mod options;
mod reply;
mod rights;
mod target;
#[cfg(feature = "tls")]
mod tls;

use std::{
    fmt, mem,
    time::{Duration, Instant},
};

use ::redis::Value;

use crate::{Change, Error, ErrorKind, Persistence, Store, timed::deadline};
use connection::Connection;
pub use options::RedisOptions;
use options::Settings;
use reply::Failure;

/// The records of a Paho client in a Redis hash on the device.
///
/// ```no_run
/// use paho_mqtt_redis::{RedisPersistence, paho_mqtt as mqtt};
///
/// let options = mqtt::CreateOptionsBuilder::new()
///     .server_uri("mqtt://broker.example:1883")
///     .client_id("device-1")
///     .mqtt_version(mqtt::MQTT_VERSION_5)
///     .user_persistence(RedisPersistence::new())
///     .finalize();
/// let client = mqtt::AsyncClient::new(options)?;
/// # Ok::<(), mqtt::Error>(())
/// ```
pub type RedisPersistence = Persistence<RedisStore>;

impl RedisPersistence {
    /// A persistence on `redis://127.0.0.1:6379/0`. The network is not used yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The options, to be set and then built.
    #[must_use]
    pub fn builder() -> RedisOptions {
        RedisOptions::default()
    }
}

impl Default for RedisPersistence {
    fn default() -> Self {
        Self::with_store(RedisStore::new(Settings::default()))
    }
}

/// The store of [`RedisPersistence`]: one hash, one field a record, the plain bytes.
pub struct RedisStore {
    settings: Settings,
    /// The key of the hash, once connected to.
    hash: Option<String>,
    connection: Option<Connection>,
    /// How many answers to what was sent have not been read.
    unanswered: usize,
    /// The connection broke before they were.
    answers_lost: bool,
}

impl RedisStore {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            hash: None,
            connection: None,
            unanswered: 0,
            answers_lost: false,
        }
    }

    /// One exchange on the hash, which connects first where the connection broke before. Without
    /// a limit of its own it has what is left of the one before, to which it belongs.
    fn exchange<T>(
        &mut self,
        verb: &str,
        limit: Option<Duration>,
        work: impl FnOnce(&mut Connection, &str) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let Self {
            settings,
            hash,
            connection,
            ..
        } = self;
        let Some(hash) = hash else {
            return Err(Error::new(ErrorKind::NotOpen, verb));
        };
        let connection_in_use = if let Some(connection) = connection {
            connection
        } else {
            let deadline = deadline(settings.connect_timeout);
            connection.insert(connect(settings, hash, deadline)?.0)
        };
        if let Some(limit) = limit {
            connection_in_use.set_deadline(deadline(limit));
        }
        work(connection_in_use, hash).map_err(|failure| {
            // Out of step or half written: nothing can be sent behind it.
            if !matches!(failure, Failure::Answer(..)) {
                *connection = None;
                self.answers_lost |= mem::take(&mut self.unanswered) > 0;
            }
            on_hash(failure, verb, hash, settings)
        })
    }
}

/// The error of an attempt on the hash.
fn on_hash(failure: Failure, verb: &str, hash: &str, settings: &Settings) -> Error {
    let reason = match &failure {
        Failure::Answer(ErrorKind::Permission, words) => {
            rights::missing_key(words, &settings.key_prefix, hash)
        }
        _ => None,
    };
    let error = failure.named(|| format!("{verb} the Redis hash {hash:?} at {}", settings.target));
    match reason {
        Some(reason) => error.because(reason),
        None => error,
    }
}

/// Connects and checks, within the deadline, that the hash can be read and written, and tells where
/// it is full.
fn connect(
    settings: &Settings,
    hash: &str,
    deadline: Instant,
) -> Result<(Connection, Option<Error>), Error> {
    let failed = |failure| on_hash(failure, "use", hash, settings);
    let mut connection = Connection::open(&settings.target, deadline)?;
    let full = check(&mut connection, hash).map_err(failed)?;
    Ok((connection, full.map(failed)))
}

/// Asks for the type of the key, and has Redis queue one of each command that will be needed: it
/// refuses what the user may not do, or what it cannot do now, without anything being done. A Redis
/// that is full goes on to answer and remove.
fn check(connection: &mut Connection, hash: &str) -> Result<Option<Failure>, Failure> {
    match connection.ask(::redis::cmd("TYPE").arg(hash))? {
        Value::SimpleString(name) if name == "none" || name == "hash" => {}
        Value::SimpleString(name) => {
            return Err(Failure::Unusable(
                ErrorKind::WrongType,
                format!("the key holds a {name}").into(),
            ));
        }
        _ => {
            return Err(Failure::protocol(
                "TYPE answered with something else than a name",
            ));
        }
    }
    connection.ask(&::redis::cmd("MULTI"))?;
    let full = match connection.ask(::redis::cmd("HSET").arg(hash).arg("c-0").arg("")) {
        Ok(_) => None,
        Err(full @ Failure::Answer(ErrorKind::OutOfMemory, _)) => Some(full),
        Err(failure) => return Err(failure),
    };
    // What is full refuses whatever is to be queued, and yet does it on its own.
    if full.is_none() {
        connection.ask(::redis::cmd("HDEL").arg(hash).arg("c-0"))?;
        connection.ask(::redis::cmd("HMGET").arg(hash).arg("c-0"))?;
        connection.ask(::redis::cmd("HKEYS").arg(hash))?;
    }
    connection.ask(&::redis::cmd("DISCARD"))?;
    // `EXEC` cannot be queued.
    connection.ask(&::redis::cmd("MULTI"))?;
    connection.ask(&::redis::cmd("EXEC"))?;
    Ok(full)
}

impl Store for RedisStore {
    const NAME: &'static str = "redis";

    fn connect(&mut self, name: &str) -> Result<Option<Error>, Error> {
        self.close();
        let settings = &self.settings;
        let hash = format!("{}{name}", settings.key_prefix);
        let opened = deadline(settings.open_timeout);
        let connected = deadline(settings.connect_timeout).min(opened);
        let (mut connection, full) = connect(settings, &hash, connected)?;
        // What is left is for listing.
        connection.set_deadline(opened);
        self.connection = Some(connection);
        self.hash = Some(hash);
        Ok(full)
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        // Connecting and listing have one limit, of which this has what connecting left.
        self.exchange("list", None, |connection, hash| {
            let Value::Array(fields) = connection.ask(::redis::cmd("HKEYS").arg(hash))? else {
                return Err(Failure::protocol(
                    "HKEYS answered with something else than a list",
                ));
            };
            fields
                .into_iter()
                .map(|field| match field {
                    Value::BulkString(field) => Ok(field),
                    _ => Err(Failure::protocol(
                        "HKEYS listed something else than a string",
                    )),
                })
                .collect()
        })
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let limit = self.settings.operation_timeout;
        self.exchange("read from", Some(limit), |connection, hash| {
            let answer = connection.ask(::redis::cmd("HMGET").arg(hash).arg(keys))?;
            let Value::Array(values) = answer else {
                return Err(Failure::protocol(
                    "HMGET answered with something else than a list",
                ));
            };
            if values.len() != keys.len() {
                return Err(Failure::protocol(
                    "HMGET answered with another number of values",
                ));
            }
            values
                .into_iter()
                .map(|value| match value {
                    Value::BulkString(value) => Ok(Some(value)),
                    Value::Nil => Ok(None),
                    _ => Err(Failure::protocol(
                        "HMGET answered with something else than strings",
                    )),
                })
                .collect()
        })
    }

    fn send(&mut self, changes: &[Change<'_>]) -> Result<(), Error> {
        let limit = (self.unanswered == 0).then_some(self.settings.operation_timeout);
        let sent = self.exchange("write to", limit, |connection, hash| {
            let (commands, answers) = pack(hash, changes);
            connection.write(&commands)?;
            Ok(answers)
        })?;
        self.unanswered = self.unanswered.saturating_add(sent);
        Ok(())
    }

    fn confirm(&mut self) -> Result<(), Error> {
        if mem::take(&mut self.answers_lost) {
            let attempt = format!("learn what became of changes at {}", self.settings.target);
            return Err(Error::new(ErrorKind::Connection, attempt));
        }
        let unanswered = mem::take(&mut self.unanswered);
        self.exchange("write to", None, |connection, _| {
            let mut refused = None;
            for _ in 0..unanswered {
                match connection.read() {
                    Ok(Value::Array(results)) => {
                        let error = results.into_iter().find_map(|result| match result {
                            Value::ServerError(error) => Some(Failure::from(error)),
                            _ => None,
                        });
                        refused = refused.or(error);
                    }
                    Ok(_) => {}
                    Err(answer @ Failure::Answer(..)) => refused = refused.or(Some(answer)),
                    Err(unusable) => return Err(unusable),
                }
            }
            refused.map_or(Ok(()), Err)
        })
    }

    fn close(&mut self) {
        self.connection = None;
        self.hash = None;
        self.unanswered = 0;
        self.answers_lost = false;
    }
}

/// The commands for a group of changes, and how many answers there will be.
fn pack(hash: &str, changes: &[Change<'_>]) -> (Vec<u8>, usize) {
    let mut packed = Vec::new();
    let mut answers = 0_usize;
    let mut add = |command: &::redis::Cmd| {
        command.write_packed_command(&mut packed);
        answers = answers.saturating_add(1);
    };
    let removed: Vec<&str> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Remove { key } => Some(*key),
            _ => None,
        })
        .collect();
    // A Redis that is full refuses whatever is in a transaction, and yet removes.
    if !removed.is_empty() && removed.len() == changes.len() {
        add(::redis::cmd("HDEL").arg(hash).arg(&removed));
        return (packed, answers);
    }
    let transaction = changes.len() > 1;
    if transaction {
        add(&::redis::cmd("MULTI"));
    }
    for change in changes {
        match *change {
            Change::Put { key, value } => {
                add(::redis::cmd("HSET").arg(hash).arg(key).arg(value.concat()));
            }
            Change::Remove { key } => add(::redis::cmd("HDEL").arg(hash).arg(key)),
            Change::SetAside { key, value } => {
                let quarantine = format!("{hash}:quarantine");
                add(::redis::cmd("HSET").arg(quarantine).arg(key).arg(value));
            }
        }
    }
    if transaction {
        add(&::redis::cmd("EXEC"));
    }
    (packed, answers)
}

/// Shows the address without user and password.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("target", &format_args!("{}", self.settings.target))
            .field("hash", &self.hash)
            .field("connected", &self.connection.is_some())
            .finish_non_exhaustive()
    }
}
