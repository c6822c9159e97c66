//! The checks that a new connection passes before the store uses it: the type of the key, the commands
//! that the ACL must permit, and room for a write.

use ::redis::Value;

use super::{
    connection::RedisConnection,
    exchange_error::ExchangeError,
    write_commands::{PROBE_FIELD, encode_write_probe},
};
use crate::error::{Error, ErrorKind};

/// Checks the type of the key, the user's rights and the room for a write, and writes nothing.
///
/// It queues one of each command in a transaction that is discarded: Redis refuses a command that
/// the user may not run, or that cannot succeed now, when it is queued. A full Redis still serves
/// reads and removes, so its error is returned as a value.
pub(super) fn check_usable(
    connection: &mut RedisConnection,
    hash: &str,
) -> Result<Option<ExchangeError>, ExchangeError> {
    match connection.query(&["TYPE", hash])? {
        Value::SimpleString(name) if name == "none" || name == "hash" => {}
        Value::SimpleString(name) => {
            return Err(ExchangeError::Unusable(
                ErrorKind::WrongType,
                format!("the key holds a {name}").into(),
            ));
        }
        _ => {
            return Err(ExchangeError::protocol("TYPE returned an unexpected reply"));
        }
    }
    connection.query(&["MULTI"])?;
    let probe = connection.exchange(
        |commands| encode_write_probe(commands, hash),
        RedisConnection::read_reply,
    );
    let full = match probe {
        Ok(_) => None,
        Err(full @ ExchangeError::ErrorReply(ErrorKind::OutOfMemory, _)) => Some(full),
        Err(failure) => return Err(failure),
    };
    // A full Redis refuses to queue any command, although it executes these outside a transaction.
    if full.is_none() {
        for words in [
            &["HDEL", hash, PROBE_FIELD][..],
            &["HMGET", hash, PROBE_FIELD],
            &["HSTRLEN", hash, PROBE_FIELD],
            &["HKEYS", hash],
            &["HLEN", hash],
        ] {
            connection.query(words)?;
        }
    }
    connection.query(&["DISCARD"])?;
    // `EXEC` cannot be queued, so an empty transaction checks the right to it.
    connection.query(&["MULTI"])?;
    connection.query(&["EXEC"])?;
    Ok(full)
}

/// The properties of a Redis server, from `INFO`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServerInfo {
    /// The `run_id`, which changes with each start of Redis.
    run_id: Option<String>,
    /// The `master_replid`, which changes with each promotion.
    replication_id: Option<String>,
    /// Its policy and a limit on memory let it delete the hash.
    may_evict: bool,
    has_aof: bool,
}

impl ServerInfo {
    /// Queries Redis; returns `None` if the user may not run `INFO`.
    pub(super) fn fetch(connection: &mut RedisConnection) -> Result<Option<Self>, ExchangeError> {
        let mut info = Self::default();
        for section in ["server", "replication", "memory", "persistence"] {
            match connection.query(&["INFO", section]) {
                Ok(Value::BulkString(lines)) => info.parse(&String::from_utf8_lossy(&lines)),
                Ok(Value::VerbatimString { text, .. }) => info.parse(&text),
                Ok(_) => return Err(ExchangeError::protocol("INFO returned an unexpected reply")),
                Err(ExchangeError::ErrorReply(..)) => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
        Ok(Some(info))
    }

    fn parse(&mut self, lines: &str) {
        let mut policy_evicts = false;
        let mut is_limited = false;
        for (name, value) in lines.lines().filter_map(|line| line.split_once(':')) {
            match name {
                "run_id" => self.run_id = Some(value.to_owned()),
                "master_replid" => self.replication_id = Some(value.to_owned()),
                "maxmemory" => is_limited = value != "0",
                "maxmemory_policy" => policy_evicts = value.starts_with("allkeys-"),
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

    /// Describes for the log which crashes the records survive.
    pub(super) fn durability_note(&self) -> &'static str {
        if self.has_aof {
            "Redis persists records in its AOF"
        } else {
            "Redis has no AOF: records survive this program but not Redis"
        }
    }
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
