//! [`RedisStore`]: records in a Redis hash.

use std::{fmt, time::Duration};

use ::redis::Value;

use super::{
    acl, client_lock::ClientLock, command_buffer::CommandBuffer, config::RedisConfig,
    connection::RedisConnection, eviction_check::EvictionCheck, exchange_error::ExchangeError,
    preflight, preflight::ServerInfo, write_commands::encode_groups,
};
use crate::{
    error::{Error, ErrorKind},
    net::deadline_after,
    store::{Change, Connected, Durability, Group, Sent, Store},
};

/// The store of [`RedisPersistence`](crate::RedisPersistence): one hash, one field a record, the plain bytes.
pub struct RedisStore {
    config: RedisConfig,
    lock: ClientLock,
    /// The key of the hash, once connected to.
    hash: Option<String>,
    connection: Option<RedisConnection>,
}

impl RedisStore {
    pub(super) fn new(config: RedisConfig) -> Self {
        Self {
            config,
            lock: ClientLock::new(),
            hash: None,
            connection: None,
        }
    }

    /// Works on the hash within a limit, over a new connection where the one before broke.
    fn with_connection<T>(
        &mut self,
        verb: &str,
        limit: Duration,
        work: impl FnOnce(&mut RedisConnection, &str) -> Result<T, ExchangeError>,
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
            if !matches!(failure, ExchangeError::ErrorReply(..)) {
                self.connection = None;
            }
            hash_error(failure, verb, &hash, &self.config)
        })
    }

    /// Connects and checks that the hash can be read and written, when everything that was sent
    /// there before has arrived.
    fn reach(&mut self, hash: &str) -> Result<Connected, Error> {
        self.connection = None;
        let config = &self.config;
        let until = deadline_after(config.connect_timeout);
        let failed = |failure| hash_error(failure, "use", hash, config);
        let mut connection = RedisConnection::open(&config.address, until)?;
        let database = config.address.database;
        // What is left must do for the rest.
        let half = deadline_after(config.connect_timeout.mul_f64(0.5));
        let alone = self.lock.take_over(&mut connection, database, hash, half);
        let alone = alone.map_err(failed)?;
        let full = preflight::check_usable(&mut connection, hash).map_err(failed)?;
        let about = ServerInfo::ask(&mut connection).map_err(failed)?;
        match connection.quiet() {
            Ok(()) | Err(ExchangeError::ErrorReply(..)) => {}
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
            connection.replies_off(),
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
        match (config.eviction_check, about.eviction()) {
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
fn hash_error(failure: ExchangeError, verb: &str, hash: &str, config: &RedisConfig) -> Error {
    let reason = match &failure {
        ExchangeError::ErrorReply(ErrorKind::Permission, words) => {
            acl::missing_key(words, &config.key_prefix, hash)
        }
        _ => None,
    };
    let error =
        failure.into_error(|| format!("{verb} the Redis hash {hash:?} at {}", config.address));
    match reason {
        Some(reason) => error.with_reason(reason),
        None => error,
    }
}

impl Store for RedisStore {
    const NAME: &'static str = "redis";

    fn connect(&mut self, name: &str) -> Result<Connected, Error> {
        let hash = format!("{}{name}", self.config.key_prefix);
        let connected = self.reach(&hash)?;
        self.hash = Some(hash);
        Ok(connected)
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let limit = self.config.open_timeout;
        self.with_connection("list", limit, |connection, hash| {
            connection.strings(&["HKEYS", hash])
        })
    }

    fn check(&mut self) -> Result<usize, Error> {
        let limit = self.config.operation_timeout;
        self.with_connection("use", limit, |connection, hash| {
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
                    integer_reply(&answers.read()?)
                },
            )
        })
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        let limit = self.config.operation_timeout;
        self.with_connection("read from", limit, |connection, hash| {
            connection.values(hash, keys, None, &mut |value| values.push(value))
        })?;
        Ok(values)
    }

    fn read_each(
        &mut self,
        keys: &[&str],
        each: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        let limit = self.config.operation_timeout;
        self.with_connection("read from", limit, |connection, hash| {
            connection.values(hash, keys, Some(limit), each)
        })
    }

    fn prefetch(&mut self, keys: &[&str]) -> Result<(), Error> {
        let limit = self.config.operation_timeout;
        self.with_connection("read from", limit, |connection, hash| {
            connection.ask_ahead(hash, keys)
        })
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        let limit = self.config.operation_timeout;
        let durability = self.config.durability;
        let mut replies_off = true;
        self.with_connection("write to", limit, |connection, hash| {
            replies_off = connection.replies_off();
            let pack = |commands: &mut CommandBuffer| encode_groups(commands, hash, groups);
            match durability {
                _ if !replies_off => Ok(()),
                Durability::Pipelined => connection.send_lazily(pack),
                // With the power gone, what Redis has not is sent twice.
                Durability::Confirmed => connection.send(pack),
            }
        })?;
        if replies_off {
            Ok(())
        } else {
            self.confirm(&[], groups)
        }
    }

    fn confirm(&mut self, sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        self.confirm_within(self.config.operation_timeout, sent, groups)
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
        let limit = self.config.operation_timeout.saturating_add(more);
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
        self.with_connection("write to", limit, |connection, hash| {
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
                    encode_groups(commands, hash, groups);
                },
                |answers| {
                    let mut confirmed = Ok(());
                    for length in sent.iter().filter_map(|sent| sent.length) {
                        if integer_reply(&answers.read()?)? != length {
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
                    confirmed.map_err(ExchangeError::unconfirmed)
                },
            )
        })
    }
}

fn integer_reply(value: &Value) -> Result<usize, ExchangeError> {
    match value {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    }
    .ok_or(ExchangeError::protocol(
        "something else than a number was answered",
    ))
}

/// Whether a command, or everything in a transaction, was done.
fn happened(answer: Value) -> Result<(), ExchangeError> {
    match answer {
        Value::Array(results) => results.into_iter().try_for_each(happened),
        Value::ServerError(error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Shows the address without user and password.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("target", &format_args!("{}", self.config.address))
            .field("hash", &self.hash)
            .field("connected", &self.connection.is_some())
            .finish_non_exhaustive()
    }
}
