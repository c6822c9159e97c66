//! What is asked of a Redis before it is trusted with records.

use ::redis::Value;

use super::{connection::RedisConnection, exchange_error::ExchangeError};
use crate::error::{Error, ErrorKind};

/// Asks for the type of the key, and has Redis queue one of each command that will be needed: it
/// refuses what the user may not do, or what it cannot do now, without anything being done. A Redis
/// that is full goes on to answer and remove, and so is only told of.
pub(super) fn check_usable(
    connection: &mut RedisConnection,
    hash: &str,
) -> Result<Option<ExchangeError>, ExchangeError> {
    match connection.ask(&["TYPE", hash])? {
        Value::SimpleString(name) if name == "none" || name == "hash" => {}
        Value::SimpleString(name) => {
            return Err(ExchangeError::Unusable(
                ErrorKind::WrongType,
                format!("the key holds a {name}").into(),
            ));
        }
        _ => {
            return Err(ExchangeError::protocol(
                "TYPE answered with something else than a name",
            ));
        }
    }
    connection.ask(&["MULTI"])?;
    let full = match connection.ask(&["HSET", hash, "c-0", ""]) {
        Ok(_) => None,
        Err(full @ ExchangeError::ErrorReply(ErrorKind::OutOfMemory, _)) => Some(full),
        Err(failure) => return Err(failure),
    };
    // What is full refuses whatever is to be queued, and yet does it on its own.
    if full.is_none() {
        for words in [
            &["HDEL", hash, "c-0"][..],
            &["HMGET", hash, "c-0"],
            &["HSTRLEN", hash, "c-0"],
            &["HKEYS", hash],
            &["HLEN", hash],
        ] {
            connection.ask(words)?;
        }
    }
    connection.ask(&["DISCARD"])?;
    // `EXEC` cannot be queued.
    connection.ask(&["MULTI"])?;
    connection.ask(&["EXEC"])?;
    Ok(full)
}

/// What Redis says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServerInfo {
    /// Its run id: another one after each start.
    pub(super) life: Option<String>,
    evicts: bool,
    aof: bool,
}

impl ServerInfo {
    /// Asks; nothing where the user may not.
    pub(super) fn ask(connection: &mut RedisConnection) -> Result<Option<Self>, ExchangeError> {
        let mut about = Self::default();
        for section in ["server", "memory", "persistence"] {
            match connection.ask(&["INFO", section]) {
                Ok(Value::BulkString(lines)) => about.read(&String::from_utf8_lossy(&lines)),
                Ok(Value::VerbatimString { text, .. }) => about.read(&text),
                Ok(_) => return Err(ExchangeError::protocol("INFO answered with something else")),
                Err(ExchangeError::ErrorReply(..)) => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
        Ok(Some(about))
    }

    fn read(&mut self, lines: &str) {
        let mut policy_evicts = false;
        let mut is_limited = false;
        for (name, value) in lines.lines().filter_map(|line| line.split_once(':')) {
            match name {
                "run_id" => self.life = Some(value.to_owned()),
                "maxmemory" => is_limited = value != "0",
                "maxmemory_policy" => policy_evicts = value.starts_with("allkeys-"),
                "aof_enabled" => self.aof = value == "1",
                _ => {}
            }
        }
        self.evicts |= policy_evicts && is_limited;
    }

    /// Why it is not to be trusted, if it is not.
    pub(super) fn eviction(&self) -> Option<Error> {
        self.evicts
            .then(|| Error::new(ErrorKind::Eviction, "rely on this Redis"))
    }

    /// What a message that Redis has outlives, in a few words for the log.
    pub(super) fn keeps(&self) -> &'static str {
        if self.aof {
            "Redis keeps what waits in its AOF"
        } else {
            "Redis has no AOF: what waits outlives this program, and not Redis"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bounded_memory_is_evicted() {
        for (lines, evicts) in [
            ("maxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n", true),
            ("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", false),
            ("maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n", false),
            ("maxmemory:1000\r\nmaxmemory_policy:volatile-lru\r\n", false),
        ] {
            let mut about = ServerInfo::default();
            about.read(lines);
            assert_eq!(about.eviction().is_some(), evicts, "{lines}");
        }
    }
}
