//! The lock on the records of a client: at most one connection uses them at a time.
//!
//! Redis may not yet have read all that a dead program sent, or that was sent over an abandoned
//! connection, and until then its records are out of date. A second program with the same records
//! would undo the writes of the first. Each connection is named after its records with
//! `CLIENT SETNAME`, so that `CLIENT LIST` shows both.

use std::{
    fmt::Write,
    hash::{BuildHasher, RandomState},
    thread,
    time::{Duration, Instant},
};

use ::redis::Value;

use super::{connection::RedisConnection, exchange_error::ExchangeError};
use crate::error::ErrorKind;

/// The shortest wait between two polls; it grows to ten times that.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The idle time after which the peer of a connection counts as gone.
///
/// A connection in use is never idle for longer than a second. Without this rule a peer whose machine
/// lost power would keep the lock until TCP gives up.
const GONE_AFTER_IDLE: Duration = Duration::from_secs(30);

/// The identity of a store object, which its connections have in their names.
#[derive(Clone, Copy)]
pub(super) struct ClientLock {
    /// A random number, different for two objects and for two runs of a program.
    id: u64,
    /// The number of connections that have been named so far.
    connections: u64,
}

impl ClientLock {
    pub(super) fn new() -> Self {
        Self {
            id: RandomState::new().hash_one(std::process::id()),
            connections: 0,
        }
    }

    /// Names the connection, and waits until every earlier connection to the records is gone.
    ///
    /// Returns `false` if the user may not run the commands, in which case nothing is waited for.
    /// After the deadline the error is `Timeout` for an earlier connection of this object, and
    /// `InUse` for one of another.
    pub(super) fn acquire(
        &mut self,
        connection: &mut RedisConnection,
        database: i64,
        hash: &str,
        deadline: Instant,
    ) -> Result<bool, ExchangeError> {
        self.connections = self.connections.wrapping_add(1);
        let store = format!("{database}/{}", percent_encode(hash));
        let own_prefix = format!("paho-mqtt-redis:{store}:{:016x}:", self.id);
        let name = format!("{own_prefix}{}", self.connections);
        let store_prefix = format!("paho-mqtt-redis:{store}:");
        match connection.query(&["CLIENT", "SETNAME", &name]) {
            Ok(Value::Okay) => {}
            Ok(_) => {
                return Err(ExchangeError::protocol("CLIENT SETNAME did not return OK"));
            }
            Err(ExchangeError::ErrorReply(..)) => return Ok(false),
            Err(failure) => return Err(failure),
        }
        let mut polls = 0_u32;
        loop {
            let list = match connection.query(&["CLIENT", "LIST"]) {
                Ok(Value::BulkString(list)) => String::from_utf8_lossy(&list).into_owned(),
                Ok(Value::VerbatimString { text, .. }) => text,
                Ok(_) => {
                    return Err(ExchangeError::protocol(
                        "CLIENT LIST returned an unexpected reply",
                    ));
                }
                Err(ExchangeError::ErrorReply(..)) => return Ok(false),
                Err(failure) => return Err(failure),
            };
            let peers: Vec<ClientListEntry<'_>> =
                list.lines().filter_map(ClientListEntry::parse).collect();
            let own = peers.iter().find(|peer| peer.name == name);
            let own = own.map_or(u64::MAX, |peer| peer.id);
            // Not at the first poll: if bytes of a connection are still unread, Redis resets its
            // idle time when it reads them, and the next poll sees that.
            let is_gone = |peer: &ClientListEntry<'_>| polls > 0 && peer.idle >= GONE_AFTER_IDLE;
            // A later connection of this object does not count. A later one of another object does:
            // it may have been named first.
            let is_predecessor =
                |peer: &ClientListEntry<'_>| peer.id < own || !peer.name.starts_with(&own_prefix);
            let predecessor = peers.iter().find(|peer| {
                peer.name.starts_with(&store_prefix) && is_predecessor(peer) && !is_gone(peer)
            });
            let Some(predecessor) = predecessor else {
                return Ok(true);
            };
            if Instant::now() >= deadline {
                return Err(if predecessor.name.starts_with(&own_prefix) {
                    ExchangeError::Unusable(
                        ErrorKind::Timeout,
                        "Redis has not yet processed the previous connection of this program"
                            .into(),
                    )
                } else {
                    ExchangeError::Unusable(ErrorKind::InUse, predecessor.describe().into())
                });
            }
            polls = polls.saturating_add(1);
            thread::sleep(POLL_INTERVAL.saturating_mul(polls.min(10)));
        }
    }
}

/// A line of `CLIENT LIST`, whose fields differ between versions of Redis.
struct ClientListEntry<'a> {
    id: u64,
    name: &'a str,
    address: &'a str,
    /// The seconds since it was opened, for the error text.
    age: &'a str,
    idle: Duration,
}

impl<'a> ClientListEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let value = |name: &str| {
            let pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
            pairs
                .filter(|(found, _)| *found == name)
                .map(|(_, value)| value)
                .next()
        };
        Some(Self {
            id: value("id")?.parse().ok()?,
            name: value("name")?,
            address: value("addr").unwrap_or_default(),
            age: value("age").unwrap_or_default(),
            idle: Duration::from_secs(value("idle")?.parse().ok()?),
        })
    }

    fn describe(&self) -> String {
        format!(
            "connection {} from {}, open for {} s",
            self.id, self.address, self.age
        )
    }
}

/// Encodes a text as Redis accepts it in the name of a client: visible ASCII without spaces.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' && byte != b'=' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_name_has_no_spaces_and_stays_unique() {
        assert_eq!(percent_encode("mqtt:a b:1883"), "mqtt:a%20b:1883");
        assert_eq!(percent_encode("50%=ü"), "50%25%3D%C3%BC");
    }

    #[test]
    fn client_line_of_other_version_is_read_or_skipped() {
        let line = "id=7 addr=127.0.0.1:9 laddr=x fd=8 name=paho age=3 idle=31 flags=N";
        let peer = ClientListEntry::parse(line).expect("a client");
        assert_eq!((peer.id, peer.name, peer.age), (7, "paho", "3"));
        assert_eq!(peer.idle, Duration::from_secs(31));
        assert!(ClientListEntry::parse("id=7 addr=127.0.0.1:9").is_none());
    }
}
