//! The checks that a new connection passes before the store uses it: the type of the key, the commands
//! that the ACL must permit, room for a write, and what Redis reports about itself.

#[cfg(feature = "cli")]
use std::collections::BTreeMap;

use ::redis::Value;

use super::{
    command_buffer::CommandBuffer,
    connection::RedisConnection,
    exchange_error::ExchangeError,
    write_commands::{PROBE_FIELD, encode_write_probe},
};
use crate::error::{Error, ErrorKind};

/// The findings of the checks.
pub(super) struct Preflight {
    /// Why Redis takes no new records at present. A full one still serves reads and removes.
    pub(super) full: Option<ExchangeError>,
    /// `None` if the user may not run `INFO`.
    pub(super) info: Option<ServerInfo>,
    /// The user may run `CLIENT REPLY`.
    pub(super) may_turn_replies_off: bool,
}

/// The sections of `INFO` that [`ServerInfo`] parses. Before Redis 7, `INFO` takes one at a time.
const SECTIONS: [&str; 4] = ["server", "replication", "memory", "persistence"];

/// Commands that are queued behind the write in a transaction that is discarded, with their field.
///
/// Redis refuses a command that the user may not run, or that cannot succeed now, when it is queued.
const QUEUED: [(&str, Option<&str>); 5] = [
    ("HDEL", Some(PROBE_FIELD)),
    ("HMGET", Some(PROBE_FIELD)),
    ("HSTRLEN", Some(PROBE_FIELD)),
    ("HKEYS", None),
    ("HLEN", None),
];

/// Encodes the checks of the type of the key, the user's rights and the room for a write, which write
/// nothing.
///
/// They go along with other commands, so that connecting over a slow network stays within its timeout. No
/// command may have an effect if the one before it was refused.
pub(super) fn encode_checks(commands: &mut CommandBuffer, hash: &str) {
    commands.push_words(&["TYPE", hash]);
    commands.push_words(&["MULTI"]);
    encode_write_probe(commands, hash);
    for (name, field) in QUEUED {
        commands.push_list(&[name, hash], field.into_iter());
    }
    commands.push_words(&["DISCARD"]);
    // `EXEC` cannot be queued, so an empty transaction checks the right to it.
    commands.push_words(&["MULTI"]);
    commands.push_words(&["EXEC"]);
    for section in SECTIONS {
        commands.push_words(&["INFO", section]);
    }
    // `OFF` gets no reply, so the right to it shows with `ON`.
    commands.push_words(&["CLIENT", "REPLY", "ON"]);
}

/// Reads the replies to the checks.
pub(super) fn read_checks(replies: &mut RedisConnection) -> Result<Preflight, ExchangeError> {
    check_type(&replies.read_reply()?)?;
    replies.read_reply()?;
    let mut full = None;
    // A full Redis refuses to queue any command, although it executes all but the write outside a
    // transaction. One that lacks replicas refuses writes.
    for _ in 0..=QUEUED.len() {
        match replies.read_reply() {
            Ok(_) => {}
            Err(
                error @ ExchangeError::ErrorReply(
                    ErrorKind::OutOfMemory | ErrorKind::NotReplicated,
                    _,
                ),
            ) => {
                full.get_or_insert(error);
            }
            Err(failure) => return Err(failure),
        }
    }
    for _ in ["DISCARD", "MULTI", "EXEC"] {
        replies.read_reply()?;
    }
    let mut info = Some(ServerInfo::default());
    for _ in SECTIONS {
        match replies.read_reply() {
            Ok(reply) => {
                if let Some(info) = &mut info {
                    info.add(&reply)?;
                }
            }
            Err(ExchangeError::ErrorReply(..)) => info = None,
            Err(failure) => return Err(failure),
        }
    }
    let may_turn_replies_off = match replies.read_reply() {
        Ok(_) => true,
        Err(ExchangeError::ErrorReply(..)) => false,
        Err(failure) => return Err(failure),
    };
    Ok(Preflight {
        full,
        info,
        may_turn_replies_off,
    })
}

/// Returns what `INFO` has in these sections; `None` if the user may not run it.
#[cfg(feature = "cli")]
pub(super) fn read_info(
    connection: &mut RedisConnection,
) -> Result<Option<BTreeMap<String, String>>, ExchangeError> {
    let encode = |commands: &mut CommandBuffer| {
        for section in SECTIONS {
            commands.push_words(&["INFO", section]);
        }
    };
    connection.exchange(encode, |replies| {
        let mut facts = BTreeMap::new();
        for _ in SECTIONS {
            match replies.read_reply() {
                Ok(Value::BulkString(lines)) => {
                    let lines = String::from_utf8_lossy(&lines).into_owned();
                    let pairs = lines.lines().filter_map(|line| line.split_once(':'));
                    facts.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
                }
                Ok(_) => return Err(ExchangeError::protocol("INFO returned an unexpected reply")),
                Err(ExchangeError::ErrorReply(..)) => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
        Ok(Some(facts))
    })
}

fn check_type(reply: &Value) -> Result<(), ExchangeError> {
    match reply {
        Value::SimpleString(name) if name == "none" || name == "hash" => Ok(()),
        Value::SimpleString(name) => Err(ExchangeError::Unusable(
            ErrorKind::WrongType,
            format!("the key holds a {name}").into(),
        )),
        _ => Err(ExchangeError::protocol("TYPE returned an unexpected reply")),
    }
}

/// The properties of a Redis server, from `INFO`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServerInfo {
    /// Name and version, such as `Valkey 9.1.2`.
    pub(super) server: Option<String>,
    /// The `run_id`, which changes with each start of Redis.
    run_id: Option<String>,
    /// The `master_replid`, which changes with each promotion.
    replication_id: Option<String>,
    /// Its policy and a limit on memory let it delete the hash.
    may_evict: bool,
    has_aof: bool,
    /// It replicates another server, so another one is the master.
    is_replica: bool,
}

impl ServerInfo {
    /// Adds what the reply to one `INFO` has.
    fn add(&mut self, reply: &Value) -> Result<(), ExchangeError> {
        match reply {
            Value::BulkString(lines) => {
                self.parse(&String::from_utf8_lossy(lines));
                Ok(())
            }
            _ => Err(ExchangeError::protocol("INFO returned an unexpected reply")),
        }
    }

    fn parse(&mut self, lines: &str) {
        let field = |wanted: &str| {
            let mut fields = lines.lines().filter_map(|line| line.split_once(':'));
            fields.find_map(|(name, value)| (name == wanted).then_some(value))
        };
        self.server = self.server.take().or_else(|| server_version(field));
        let mut policy_evicts = false;
        let mut is_limited = false;
        for (name, value) in lines.lines().filter_map(|line| line.split_once(':')) {
            match name {
                "run_id" => self.run_id = Some(value.to_owned()),
                "master_replid" => self.replication_id = Some(value.to_owned()),
                "maxmemory" => is_limited = value != "0",
                "maxmemory_policy" => policy_evicts = value.starts_with("allkeys-"),
                "role" => self.is_replica = value == "slave",
                "aof_enabled" => self.has_aof = value == "1",
                _ => {}
            }
        }
        self.may_evict |= policy_evicts && is_limited;
    }

    /// Returns the identity of the data.
    ///
    /// A Redis that became a replica has the data of its master, which may be older, and keeps its
    /// `run_id` when it is promoted again. Only both together show that nothing was replaced.
    pub(super) fn instance_id(&self) -> Option<String> {
        let (run_id, replication_id) = (self.run_id.as_ref()?, self.replication_id.as_ref()?);
        Some(format!("{run_id}/{replication_id}"))
    }

    /// Returns an error if this Redis may evict records.
    pub(super) fn eviction_error(&self) -> Option<Error> {
        self.may_evict
            .then(|| Error::new(ErrorKind::Eviction, "rely on this Redis"))
    }

    /// Returns true for a server that replicates another one.
    pub(super) fn is_replica(&self) -> bool {
        self.is_replica
    }

    /// Describes for the log which crashes the records survive.
    pub(super) fn durability_note(&self) -> &'static str {
        if self.has_aof {
            "Redis persists records in its AOF"
        } else {
            "Redis has no AOF: records survive this program but not Redis"
        }
    }
}

/// Returns name and version of the server, such as `Valkey 9.1.2`, from the fields of `INFO`.
///
/// A fork gives the version of the Redis that it replaces as `redis_version`, for old clients, and its own beside it. Names with
/// other characters than letters, and versions with others than digits and dots, are ignored: they become the value of a label.
pub(crate) fn server_version<'a>(field: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let is_name = |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase());
    let is_version = |version: &&str| {
        !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    let version = |name: &str| field(&format!("{name}_version")).filter(is_version);
    let own = field("server_name").filter(is_name);
    let own = own.and_then(|name| Some((name, version(name)?)));
    let (name, version) = own.or_else(|| Some(("redis", version("redis")?)))?;
    let (initial, rest) = name.split_at_checked(1)?;
    Some(format!("{}{rest} {version}", initial.to_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_needs_run_and_replication() {
        for (lines, id) in [
            (
                "run_id:a1\r\nmaster_replid:b2\r\nmaster_replid2:c3\r\n",
                Some("a1/b2"),
            ),
            (
                "master_replid:b2\r\nmaster_replid2:c3\r\nrun_id:a1\r\n",
                Some("a1/b2"),
            ),
            ("run_id:a1\r\nmaster_replid2:c3\r\n", None),
            ("master_replid:b2\r\n", None),
            ("", None),
        ] {
            let mut info = ServerInfo::default();
            info.parse(lines);
            assert_eq!(info.instance_id().as_deref(), id, "{lines}");
        }
    }

    #[test]
    fn fork_is_known_by_its_own_name_and_version() {
        for (lines, server) in [
            (
                "redis_version:7.0.15\r\nredis_mode:standalone\r\n",
                Some("Redis 7.0.15"),
            ),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n",
                Some("Valkey 9.1.2"),
            ),
            // No version of its own.
            (
                "redis_version:7.2.4\r\nserver_name:other\r\n",
                Some("Redis 7.2.4"),
            ),
            // Characters that could spoil a log or a label.
            ("redis_version:7.0\u{1b}[31m\r\n", None),
            (
                "redis_version:7.2.4\r\nserver_name:Val \"key\r\nVal \"key_version:1.0\r\n",
                Some("Redis 7.2.4"),
            ),
            (
                "redis_version:7.2.4\r\nserver_name:\r\n_version:1.0\r\n",
                Some("Redis 7.2.4"),
            ),
            ("run_id:a1\r\n", None),
        ] {
            let mut info = ServerInfo::default();
            info.parse(lines);
            info.parse("role:master\r\n");
            assert_eq!(info.server.as_deref(), server, "{lines}");
        }
    }

    #[test]
    fn only_bounded_memory_is_evicted() {
        for (lines, may_evict) in [
            ("maxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n", true),
            ("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", false),
            ("maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n", false),
            ("maxmemory:1000\r\nmaxmemory_policy:volatile-lru\r\n", false),
        ] {
            let mut info = ServerInfo::default();
            info.parse(lines);
            assert_eq!(info.eviction_error().is_some(), may_evict, "{lines}");
        }
    }
}
