//! Records in a Redis hash.

mod bulk;
mod check;
mod commands;
mod connection;
mod fault;
mod options;
mod owner;
mod reply;
mod rights;
mod target;
#[cfg(feature = "tls")]
mod tls;

use std::{fmt, time::Duration};

use ::redis::Value;

use crate::{
    Change, Connected, Durability, Error, ErrorKind, Group, Persistence, Sent, Store,
    net::deadline_after,
};
use check::About;
pub use check::EvictionCheck;
use commands::Commands;
use connection::Connection;
pub use options::RedisPersistenceBuilder;
use options::Settings;
use owner::Owner;
use reply::Failure;
use target::Target;

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
    pub fn builder() -> RedisPersistenceBuilder {
        RedisPersistenceBuilder::default()
    }
}

impl Default for RedisPersistence {
    fn default() -> Self {
        Self::builder().unchecked(Target::default())
    }
}

/// The store of [`RedisPersistence`]: one hash, one field a record, the plain bytes.
pub struct RedisStore {
    settings: Settings,
    owner: Owner,
    /// The key of the hash, once connected to.
    hash: Option<String>,
    connection: Option<Connection>,
}

impl RedisStore {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            owner: Owner::new(),
            hash: None,
            connection: None,
        }
    }

    /// Works on the hash within a limit, over a new connection where the one before broke.
    fn on_hash<T>(
        &mut self,
        verb: &str,
        limit: Duration,
        work: impl FnOnce(&mut Connection, &str) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let Some(hash) = self.hash.clone() else {
            return Err(Error::new(ErrorKind::NotOpen, verb));
        };
        if self.connection.is_none() {
            self.reach(&hash)?;
        }
        let Some(connection) = &mut self.connection else {
            return Err(Error::new(ErrorKind::Connection, verb));
        };
        connection.set_deadline(deadline_after(limit));
        work(connection, &hash).map_err(|failure| {
            // Out of step or half written: nothing can be sent behind it.
            if !matches!(failure, Failure::Answer(..)) {
                self.connection = None;
            }
            on_hash(failure, verb, &hash, &self.settings)
        })
    }

    /// Connects and checks that the hash can be read and written, when everything that was sent
    /// there before has arrived.
    fn reach(&mut self, hash: &str) -> Result<Connected, Error> {
        self.connection = None;
        let settings = &self.settings;
        let until = deadline_after(settings.connect_timeout);
        let failed = |failure| on_hash(failure, "use", hash, settings);
        let mut connection = Connection::open(&settings.target, until)?;
        let database = settings.target.database;
        // What is left must do for the rest.
        let half = deadline_after(settings.connect_timeout.mul_f64(0.5));
        let alone = self.owner.take_over(&mut connection, database, hash, half);
        let alone = alone.map_err(failed)?;
        let full = check::is_usable(&mut connection, hash).map_err(failed)?;
        let about = About::ask(&mut connection).map_err(failed)?;
        match connection.quiet() {
            Ok(()) | Err(Failure::Answer(..)) => {}
            Err(failure) => return Err(failed(failure)),
        }

        let mut remarks = Vec::new();
        let mut lacks = |is_there: bool, attempt: &str, reason: &'static str| {
            if !is_there {
                remarks.push(Error::new(ErrorKind::Permission, attempt).with_reason(reason));
            }
        };
        lacks(
            alone,
            "see whether another program uses the same records",
            "the user lacks +client|setname or +client|list; the README has the ACL line",
        );
        lacks(
            connection.is_quiet(),
            "send anything without waiting for it",
            "the user lacks +client|reply, so each change is waited for; the README has the ACL line",
        );
        lacks(
            about.is_some(),
            "learn whether Redis has started anew, or evicts",
            "the user lacks +info, so everything is written again after each outage; the README has \
             the ACL line",
        );
        let about = about.unwrap_or_default();
        match (settings.eviction_check, about.eviction()) {
            (EvictionCheck::Refuse, Some(evicts)) => return Err(evicts),
            (EvictionCheck::Warn, evicts) => remarks.extend(evicts),
            (EvictionCheck::Ignore, _) | (_, None) => {}
        }
        self.connection = Some(connection);
        Ok(Connected {
            write_error: full.map(failed),
            durability_note: about.life.as_ref().map(|_| about.keeps()),
            instance_id: about.life,
            warnings: remarks,
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
        Some(reason) => error.with_reason(reason),
        None => error,
    }
}

impl Store for RedisStore {
    const NAME: &'static str = "redis";

    fn connect(&mut self, name: &str) -> Result<Connected, Error> {
        let hash = format!("{}{name}", self.settings.key_prefix);
        let connected = self.reach(&hash)?;
        self.hash = Some(hash);
        Ok(connected)
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let limit = self.settings.open_timeout;
        self.on_hash("list", limit, |connection, hash| {
            connection.strings(&["HKEYS", hash])
        })
    }

    fn check(&mut self) -> Result<usize, Error> {
        let limit = self.settings.operation_timeout;
        self.on_hash("use", limit, |connection, hash| {
            connection.exchange(
                |commands| {
                    // Redis refuses to queue what it would refuse to do. Should it refuse `MULTI` alone,
                    // this is a field that Paho does not look at.
                    commands.say(&["MULTI"]);
                    commands.say(&["HSET", hash, "check", ""]);
                    commands.say(&["DISCARD"]);
                    commands.say(&["HLEN", hash]);
                },
                |answers| {
                    for _ in 0..3 {
                        answers.read()?;
                    }
                    number(&answers.read()?)
                },
            )
        })
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        let limit = self.settings.operation_timeout;
        self.on_hash("read from", limit, |connection, hash| {
            connection.values(hash, keys, None, &mut |value| values.push(value))
        })?;
        Ok(values)
    }

    fn read_each(
        &mut self,
        keys: &[&str],
        each: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        let limit = self.settings.operation_timeout;
        self.on_hash("read from", limit, |connection, hash| {
            connection.values(hash, keys, Some(limit), each)
        })
    }

    fn prefetch(&mut self, keys: &[&str]) -> Result<(), Error> {
        let limit = self.settings.operation_timeout;
        self.on_hash("read from", limit, |connection, hash| {
            connection.ask_ahead(hash, keys)
        })
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        let limit = self.settings.operation_timeout;
        let durability = self.settings.durability;
        let mut is_quiet = true;
        self.on_hash("write to", limit, |connection, hash| {
            is_quiet = connection.is_quiet();
            let pack = |commands: &mut Commands| change(commands, hash, groups);
            match durability {
                _ if !is_quiet => Ok(()),
                Durability::Pipelined => connection.send_lazily(pack),
                // With the power gone, what Redis has not is sent twice.
                Durability::Confirmed => connection.send(pack),
            }
        })?;
        if is_quiet {
            Ok(())
        } else {
            self.confirm(&[], groups)
        }
    }

    fn confirm(&mut self, sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        self.confirm_within(self.settings.operation_timeout, sent, groups)
    }

    /// However slow the way is, a large value must get through some time.
    fn rewrite(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        const EACH_BYTE: Duration = Duration::from_micros(1);
        let lengths = groups.iter().copied().flatten().map(|change| match change {
            Change::Put { value, .. } | Change::Quarantine { value, .. } => value.len(),
            Change::Remove { .. } => 0,
        });
        let bytes = u32::try_from(lengths.fold(0, usize::saturating_add)).unwrap_or(u32::MAX);
        let more = EACH_BYTE.saturating_mul(bytes);
        let limit = self.settings.operation_timeout.saturating_add(more);
        self.confirm_within(limit, &[], groups)
    }

    fn close(&mut self) {
        self.connection = None;
        self.hash = None;
    }
}

impl RedisStore {
    fn confirm_within(
        &mut self,
        limit: Duration,
        sent: &[Sent<'_>],
        groups: &[Group<'_>],
    ) -> Result<(), Error> {
        self.on_hash("write to", limit, |connection, hash| {
            let gone = sent.iter().filter(|sent| sent.length.is_none());
            let gone = gone.map(|sent| sent.key);
            let count_gone = gone.clone().count();
            connection.exchange(
                |commands| {
                    for Sent { key, length } in sent {
                        if length.is_some() {
                            commands.say(&["HSTRLEN", hash, key]);
                        }
                    }
                    if count_gone > 0 {
                        commands.list(&["HMGET", hash], gone);
                    }
                    change(commands, hash, groups);
                },
                |answers| {
                    let mut confirmed = Ok(());
                    for length in sent.iter().filter_map(|sent| sent.length) {
                        if number(&answers.read()?)? != length {
                            confirmed = Err("a record is not there");
                        }
                    }
                    if count_gone > 0 {
                        match answers.read()? {
                            Value::Array(values)
                                if values.iter().all(|value| *value == Value::Nil) => {}
                            _ => confirmed = Err("a record is still there"),
                        }
                    }
                    // Why Redis refuses these is why it did not do the others.
                    while answers.has_more() {
                        happened(answers.read()?)?;
                    }
                    confirmed.map_err(Failure::unconfirmed)
                },
            )
        })
    }
}

fn number(value: &Value) -> Result<usize, Failure> {
    match value {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    }
    .ok_or(Failure::protocol(
        "something else than a number was answered",
    ))
}

/// Whether a command, or everything in a transaction, was done.
fn happened(answer: Value) -> Result<(), Failure> {
    match answer {
        Value::Array(results) => results.into_iter().try_for_each(happened),
        Value::ServerError(error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// The commands for groups of changes.
fn change(commands: &mut Commands, hash: &str, groups: &[Group<'_>]) {
    for group in groups {
        let removes = |change: &Change<'_>| matches!(change, Change::Remove { .. });
        match group {
            [] => {}
            // A Redis that is full refuses whatever is in a transaction, and yet removes.
            _ if group.iter().all(removes) => remove(commands, hash, group),
            [change] => change_one(commands, hash, change),
            _ => {
                commands.say(&["MULTI"]);
                for change in *group {
                    change_one(commands, hash, change);
                }
                commands.say(&["EXEC"]);
            }
        }
    }
}

fn remove(commands: &mut Commands, hash: &str, group: &[Change<'_>]) {
    let keys = group.iter().filter_map(|change| match *change {
        Change::Remove { key } => Some(key),
        Change::Put { .. } | Change::Quarantine { .. } => None,
    });
    commands.list(&["HDEL", hash], keys);
}

fn change_one(commands: &mut Commands, hash: &str, change: &Change<'_>) {
    let hash = hash.as_bytes();
    match *change {
        Change::Put { key, value } => commands.add(&[b"HSET", hash, key.as_bytes(), value]),
        Change::Remove { key } => commands.add(&[b"HDEL", hash, key.as_bytes()]),
        Change::Quarantine { key, value } => {
            let quarantine = [hash, b":quarantine"].concat();
            commands.add(&[b"HSET", &quarantine, key.as_bytes(), value]);
        }
    }
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
