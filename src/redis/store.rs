//! [`RedisStore`]: records in a Redis hash.

use std::{fmt, sync::Arc, time::Duration};

use ::redis::Value;

use super::{
    acl,
    client_lock::{ClientLock, LockRights},
    cluster::{self, MAX_HOPS, NodeChoice},
    config::RedisConfig,
    connect::transfer_time,
    connection::RedisConnection,
    disk_sync,
    eviction_check::EvictionCheck,
    exchange_error::ExchangeError,
    other_records,
    preflight::{Preflight, ServerInfo},
    replicas, sentinel,
    write_commands::{
        SENDS_FIELD, VOID_WRITE_COMMANDS, encode_adoption, encode_groups, encode_void_write,
        encode_write_probe, place_hash, sends_hash,
    },
};
use crate::{
    error::{Error, ErrorKind},
    net::{deadline_after, remaining},
    store::{Adopted, Change, Connected, Durability, Group, OtherRecords, Place, Sent, Store},
};

/// The store of a [`RedisPersistence`](crate::RedisPersistence).
///
/// The records of a client are the fields of one hash, with Paho's key as the field and its plain
/// bytes as the value, as in paho-mqtt-redis 0.3.2.
pub struct RedisStore {
    pub(super) config: RedisConfig,
    lock: ClientLock,
    nodes: NodeChoice,
    /// The key of the hash, from a successful `connect` until `close`.
    hash: Option<Arc<str>>,
    /// `None` after a failure that leaves a connection unusable; the next call reconnects.
    connection: Option<RedisConnection>,
    /// The connection excludes other programs; without the right to that, nothing does.
    is_exclusive: bool,
    /// Too few replicas had a write; the next check shows if enough of them answer again.
    lacks_replicas: bool,
}

impl RedisStore {
    pub(super) fn new(config: RedisConfig) -> Self {
        Self {
            config,
            lock: ClientLock::new(),
            nodes: NodeChoice::default(),
            hash: None,
            connection: None,
            is_exclusive: false,
            lacks_replicas: false,
        }
    }

    /// Returns true if the URL is that of a cluster.
    #[cfg(feature = "cli")]
    pub(crate) fn is_in_cluster(&self) -> bool {
        self.config.address.is_in_cluster()
    }

    /// Returns true if no other program uses the records.
    #[cfg(feature = "cli")]
    pub(crate) fn is_exclusive(&self) -> bool {
        self.connection.is_some() && self.is_exclusive
    }

    /// Runs `work` on the hash within a time limit, reconnecting first if the connection broke.
    ///
    /// `verb` completes the sentence "cannot … the Redis hash".
    pub(super) fn with_connection<T>(
        &mut self,
        verb: &str,
        limit: Duration,
        work: impl FnOnce(&mut RedisConnection, &str) -> Result<T, ExchangeError>,
    ) -> Result<T, Error> {
        let Some(hash) = self.hash.clone() else {
            return Err(Error::new(
                ErrorKind::NotOpen,
                format!("{verb} the Redis hash"),
            ));
        };
        if self.connection.is_none() {
            self.open_connection(&hash)?;
        }
        let Some(connection) = &mut self.connection else {
            return Err(Error::new(
                ErrorKind::Connection,
                format!("{verb} the Redis hash"),
            ));
        };
        connection.set_deadline(deadline_after(limit));
        let result = work(connection, &hash);
        let has_replies_due = connection.has_replies_due();
        result.map_err(|failure| {
            // A command may be half written or a reply unread, so nothing can follow on it.
            if has_replies_due || !matches!(failure, ExchangeError::ErrorReply(..)) {
                self.connection = None;
            }
            hash_error(failure, verb, &hash, &self.config)
        })
    }

    /// Connects, waits for earlier connections to the hash, and checks that it can be read and
    /// written.
    ///
    /// The order matters: what an earlier connection sent must have arrived before the first read,
    /// and the preflight needs its replies. Without an earlier connection
    /// all of it takes one round trip more than connecting does.
    fn open_connection(&mut self, hash: &str) -> Result<Connected, Error> {
        self.connection = None;
        let config = &self.config;
        let deadline = deadline_after(config.connect_timeout);
        let to_error = |failure| hash_error(failure, "use", hash, config);
        let mut address = self.nodes.first(&config.address);
        let mut hops = 0;
        let (mut connection, (lock_rights, preflight)) = loop {
            let mut connection = sentinel::open(&address, deadline)?;
            // Half of the time is reserved for the reply to the last poll.
            let half = deadline_after(remaining(deadline).mul_f64(0.5));
            let acquired = self
                .lock
                .acquire(&mut connection, address.database, hash, half);
            let acquired = match address.sentinels {
                Some(_) => sentinel::refuse_replica(acquired),
                None => acquired,
            };
            match acquired {
                Err(ExchangeError::Moved(words)) if address.is_in_cluster() && hops < MAX_HOPS => {
                    hops = hops.saturating_add(1);
                    address = cluster::named_node(&words, &address).map_err(to_error)?;
                }
                acquired => break (connection, acquired.map_err(to_error)?),
            }
        };
        let Preflight {
            full,
            info,
            may_turn_replies_off,
        } = preflight;
        if config.durability == Durability::Synced {
            disk_sync::check(&mut connection).map_err(to_error)?;
        }
        if config.replicas > 0 {
            replicas::check_right(&mut connection).map_err(to_error)?;
        }
        if may_turn_replies_off {
            connection.allow_send();
        }

        let mut warnings = missing_rights(lock_rights, connection.may_send(), info.as_ref());
        let eviction_error = info.as_ref().and_then(ServerInfo::eviction_error);
        match (config.eviction_check, eviction_error) {
            (EvictionCheck::Refuse, Some(error)) => return Err(error),
            (EvictionCheck::Warn, error) => warnings.extend(error),
            (EvictionCheck::Ignore, _) | (_, None) => {}
        }
        self.connection = Some(connection);
        if address.is_in_cluster() {
            self.nodes.last = Some(address.endpoint);
        }
        self.is_exclusive = lock_rights != LockRights::NoList;
        Ok(Connected {
            write_error: full.map(to_error),
            durability_note: info.as_ref().map(ServerInfo::durability_note),
            instance_id: info.as_ref().and_then(ServerInfo::instance_id),
            server: info.and_then(|info| info.server),
            warnings,
        })
    }
}

/// Returns a warning per right without which the store works with less.
pub(super) fn missing_rights(
    lock_rights: LockRights,
    may_turn_replies_off: bool,
    info: Option<&ServerInfo>,
) -> Vec<Error> {
    let mut warnings = Vec::new();
    let mut warn_missing = |has_right: bool, attempt: &str, reason: &'static str| {
        if !has_right {
            warnings.push(Error::new(ErrorKind::Permission, attempt).with_reason(reason));
        }
    };
    warn_missing(
        lock_rights != LockRights::NoList,
        "check for another program with the same records",
        "the user lacks +client|setname or +client|list; docs/redis.md has the ACL line",
    );
    warn_missing(
        lock_rights != LockRights::NoKill,
        "end connections that others left behind",
        "the user lacks +client|kill, so a program that was stopped for 30 s may write over the \
         records of its successor; docs/redis.md has the ACL line",
    );
    warn_missing(
        may_turn_replies_off,
        "send writes without waiting for replies",
        "the user lacks +client|reply, so every write waits for its reply; docs/redis.md has the \
         ACL line",
    );
    warn_missing(
        info.is_some(),
        "detect a restart or eviction of Redis",
        "the user lacks +info, so every stored value is read and compared after each outage; \
         docs/redis.md has the ACL line",
    );
    warnings
}

/// Converts an error of an exchange about the hash, with the reason for a missing right to its key.
pub(super) fn hash_error(
    failure: ExchangeError,
    verb: &str,
    hash: &str,
    config: &RedisConfig,
) -> Error {
    let reason = match &failure {
        ExchangeError::ErrorReply(ErrorKind::Permission, words) => {
            acl::missing_key_reason(words, &config.key_prefix, hash)
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
        let hash = self.config.hash(name)?;
        let connected = self.open_connection(&hash)?;
        self.hash = Some(hash.into());
        Ok(connected)
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        let limit = self.config.open_timeout;
        self.with_connection("list", limit, |connection, hash| {
            connection.keys(&["HKEYS", hash])
        })
    }

    fn check(&mut self) -> Result<usize, Error> {
        let limit = self.config.operation_timeout;
        let is_synced = self.config.durability == Durability::Synced;
        let replicas = self.config.replicas;
        let lacks_replicas = self.lacks_replicas;
        let count = self.with_connection("use", limit, |connection, hash| {
            connection.exchange(
                |commands| {
                    // Redis refuses to queue a write that it would refuse to execute.
                    commands.push_words(&["MULTI"]);
                    encode_write_probe(commands, hash);
                    commands.push_words(&["DISCARD"]);
                    if lacks_replicas {
                        encode_void_write(commands, hash);
                    }
                    commands.push_words(&["HLEN", hash]);
                    if is_synced {
                        // Somebody may have changed a setting.
                        disk_sync::encode_check(commands);
                    }
                    if lacks_replicas {
                        replicas::encode_wait(commands, replicas, limit);
                    }
                },
                |replies| {
                    for _ in 0..3 {
                        replies.read_reply()?;
                    }
                    if lacks_replicas {
                        for _ in 0..VOID_WRITE_COMMANDS {
                            check_reply(replies.read_reply()?)?;
                        }
                    }
                    let count = integer_reply(&replies.read_reply()?)?;
                    if is_synced {
                        disk_sync::read_check(replies.read_reply())?;
                    }
                    if lacks_replicas {
                        replicas::check_wait(replies.read_reply(), replicas, limit)?;
                    }
                    Ok(count)
                },
            )
        })?;
        self.lacks_replicas = false;
        Ok(count)
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
        on_value: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        let limit = self.config.operation_timeout;
        self.with_connection("read from", limit, |connection, hash| {
            connection.values(hash, keys, Some(limit), on_value)
        })
    }

    fn prefetch(&mut self, keys: &[&str]) -> Result<(), Error> {
        let limit = self.config.operation_timeout;
        self.with_connection("read from", limit, |connection, hash| {
            connection.prefetch(hash, keys)
        })
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        let limit = self.config.operation_timeout;
        let durability = self.config.durability;
        let mut may_send = true;
        self.with_connection("write to", limit, |connection, hash| {
            may_send = connection.may_send();
            match durability {
                // Redis would reply, so the write is confirmed below instead.
                _ if !may_send => Ok(()),
                Durability::Pipelined => {
                    connection.send_coalesced(|commands| encode_groups(commands, hash, groups))
                }
                // Not gathered: a write that Redis lacks after a power cut is a message that is sent
                // twice.
                Durability::Confirmed | Durability::Synced => {
                    connection.send(|commands| encode_groups(commands, hash, groups))
                }
            }
        })?;
        if may_send {
            Ok(())
        } else {
            self.confirm(&[], groups)
        }
    }

    fn confirm(&mut self, sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        self.confirm_within(self.config.operation_timeout, sent, groups)
    }

    /// Confirms the groups within a time that grows with their bytes.
    fn rewrite(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        let lengths = groups.iter().copied().flatten().map(|change| match change {
            Change::Put { value, .. } | Change::SetAside { value, .. } => value.len(),
            Change::Remove { .. } | Change::RemoveSetAside { .. } => 0,
        });
        let extra = transfer_time(lengths.fold(0, usize::saturating_add));
        let limit = self.config.operation_timeout.saturating_add(extra);
        self.confirm_within(limit, &[], groups)
    }

    fn find_others(&mut self, prefix: &str) -> Result<Vec<OtherRecords>, Error> {
        // A scan finds what is in one node only.
        if self.config.address.is_in_cluster() {
            return Ok(Vec::new());
        }
        let limit = self.config.operation_timeout;
        let key_prefix = self.config.key_prefix.clone();
        self.with_connection("look for other hashes than", limit, |connection, hash| {
            other_records::find(connection, &key_prefix, prefix, hash)
        })
    }

    fn another(&self) -> Option<Self> {
        Some(Self::new(self.config.clone()))
    }

    fn adopt(&mut self, from: &str, groups: &[&[Adopted<'_>]]) -> Result<(), Error> {
        let source = self.config.hash(from)?;
        let lengths = groups.iter().copied().flatten();
        let lengths = lengths.map(|adopted| adopted.value.len());
        let extra = transfer_time(lengths.fold(0, usize::saturating_add));
        let limit = self.config.operation_timeout.saturating_add(extra);
        self.with_connection("move records to", limit, |connection, hash| {
            connection.exchange(
                |commands| encode_adoption(commands, &source, hash, groups),
                |replies| {
                    while replies.has_replies_due() {
                        check_reply(replies.read_reply()?)?;
                    }
                    Ok(())
                },
            )
        })
    }

    fn set_aside_names(&mut self, place: Place) -> Result<Vec<Vec<u8>>, Error> {
        // Opening lists them, too.
        let limit = self.config.operation_timeout.min(self.config.open_timeout);
        self.with_connection(
            "list what is set aside beside",
            limit,
            |connection, hash| connection.keys(&["HKEYS", &place_hash(hash, place)]),
        )
    }

    fn read_set_aside(
        &mut self,
        place: Place,
        names: &[&str],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut values = Vec::with_capacity(names.len());
        let limit = self.config.operation_timeout;
        self.with_connection(
            "read what is set aside beside",
            limit,
            |connection, hash| {
                let hash = place_hash(hash, place);
                connection.values(&hash, names, None, &mut |value| values.push(value))
            },
        )?;
        Ok(values)
    }

    fn read_send_counts(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut counts = None;
        let limit = self.config.operation_timeout;
        self.with_connection("read the counts beside", limit, |connection, hash| {
            let hash = sends_hash(hash);
            connection.values(&hash, &[SENDS_FIELD], None, &mut |value| counts = value)
        })?;
        Ok(counts)
    }

    fn save_send_counts(&mut self, counts: Option<&[u8]>) -> Result<(), Error> {
        let limit = self.config.operation_timeout;
        self.with_connection("write the counts beside", limit, |connection, hash| {
            let hash = sends_hash(hash);
            connection.exchange(
                |commands| match counts {
                    Some(counts) => {
                        commands.push_record(&["HSET", &hash], SENDS_FIELD, counts);
                    }
                    None => commands.push_words(&["HDEL", &hash, SENDS_FIELD]),
                },
                |replies| check_reply(replies.read_reply()?),
            )
        })
    }

    fn close(&mut self) {
        self.connection = None;
        self.lock.release();
        self.hash = None;
    }
}

impl RedisStore {
    /// Checks that the unanswered writes in `sent` had their effect, executes `groups`, and waits for the
    /// replicas.
    ///
    /// Redis did not reply to those writes, so their effect is read back: the length of each value
    /// that was put, and the absence of each record that was removed.
    fn confirm_within(
        &mut self,
        limit: Duration,
        sent: &[Sent<'_>],
        groups: &[Group<'_>],
    ) -> Result<(), Error> {
        let replicas = self.config.replicas;
        let written = self.with_connection("write to", limit, |connection, hash| {
            let removed_keys = sent.iter().filter(|sent| sent.length.is_none());
            let removed_keys = removed_keys.map(|sent| sent.key);
            let has_removed = removed_keys.clone().next().is_some();
            connection.exchange(
                |commands| {
                    for Sent { key, length } in sent {
                        if length.is_some() {
                            commands.push_words(&["HSTRLEN", hash, key]);
                        }
                    }
                    if has_removed {
                        commands.push_list(&["HMGET", hash], removed_keys);
                    }
                    encode_groups(commands, hash, groups);
                    if replicas > 0 {
                        replicas::encode_wait(commands, replicas, limit);
                    }
                },
                |replies| {
                    let mut confirmed = Ok(());
                    for length in sent.iter().filter_map(|sent| sent.length) {
                        if integer_reply(&replies.read_reply()?)? != length {
                            confirmed = Err("an unconfirmed record is missing");
                        }
                    }
                    if has_removed {
                        match replies.read_reply()? {
                            Value::Array(values)
                                if values.iter().all(|value| *value == Value::Nil) => {}
                            _ => confirmed = Err("a removed record still exists"),
                        }
                    }
                    // An error reply here has the reason why the unanswered writes failed too, so it
                    // takes precedence.
                    while replies.replies_due() > usize::from(replicas > 0) {
                        check_reply(replies.read_reply()?)?;
                    }
                    confirmed.map_err(ExchangeError::unconfirmed)?;
                    if replicas > 0 {
                        replicas::check_wait(replies.read_reply(), replicas, limit)?;
                    }
                    Ok(())
                },
            )
        });
        if let Err(error) = &written
            && replicas > 0
        {
            self.lacks_replicas |= error.kind() == ErrorKind::NotReplicated;
        }
        written
    }
}

pub(super) fn integer_reply(reply: &Value) -> Result<usize, ExchangeError> {
    match reply {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    }
    .ok_or(ExchangeError::protocol("expected an integer"))
}

/// Returns an error if a command, or one inside a transaction, was not executed.
pub(super) fn check_reply(reply: Value) -> Result<(), ExchangeError> {
    match reply {
        Value::Array(results) => results.into_iter().try_for_each(check_reply),
        Value::ServerError(error) => Err(error.into()),
        // `EXEC` without an effect, for one.
        Value::Nil => Err(ExchangeError::protocol("a write returned nil")),
        _ => Ok(()),
    }
}

/// Shows the address without user and password.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("address", &format_args!("{}", self.config.address))
            .field("hash", &self.hash)
            .field("connected", &self.connection.is_some())
            .field("exclusive", &self.is_exclusive)
            .finish_non_exhaustive()
    }
}
