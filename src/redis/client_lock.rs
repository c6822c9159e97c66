//! Who else is connected to the same records.
//!
//! Redis goes on reading what a program has sent before it died, or over a connection that it has
//! given up: until it has, what it has of the records is of the past. And a second program with the
//! same records would undo what the first one does. Each connection is named after its records, so
//! that both can be seen.

use std::{
    fmt::Write,
    hash::{BuildHasher, RandomState},
    thread,
    time::{Duration, Instant},
};

use ::redis::Value;

use super::{connection::RedisConnection, exchange_error::ExchangeError};
use crate::error::ErrorKind;

/// How long until Redis is asked again.
const PAUSE: Duration = Duration::from_millis(5);
/// A connection that has been silent for so long is one whose peer has gone without a word; one that
/// is used is never silent for a second.
const SILENT: Duration = Duration::from_secs(30);

/// Which object a connection belongs to.
#[derive(Clone, Copy)]
pub(super) struct ClientLock {
    id: u64,
    connections: u64,
}

impl ClientLock {
    pub(super) fn new() -> Self {
        Self {
            id: RandomState::new().hash_one(std::process::id()),
            connections: 0,
        }
    }

    /// Names the connection, and waits until those before it are gone. Tells whether it could look
    /// for them.
    pub(super) fn take_over(
        &mut self,
        connection: &mut RedisConnection,
        database: i64,
        hash: &str,
        deadline: Instant,
    ) -> Result<bool, ExchangeError> {
        self.connections = self.connections.wrapping_add(1);
        let store = format!("{database}/{}", encoded(hash));
        let mine = format!("paho-mqtt-redis:{store}:{:016x}:", self.id);
        let name = format!("{mine}{}", self.connections);
        let of_store = format!("paho-mqtt-redis:{store}:");
        match connection.ask(&["CLIENT", "SETNAME", &name]) {
            Ok(Value::Okay) => {}
            Ok(_) => {
                return Err(ExchangeError::protocol(
                    "CLIENT SETNAME was not answered with OK",
                ));
            }
            Err(ExchangeError::ErrorReply(..)) => return Ok(false),
            Err(failure) => return Err(failure),
        }
        let mut looks = 0_u32;
        loop {
            let list = match connection.ask(&["CLIENT", "LIST"]) {
                Ok(Value::BulkString(list)) => String::from_utf8_lossy(&list).into_owned(),
                Ok(Value::VerbatimString { text, .. }) => text,
                Ok(_) => return Err(ExchangeError::protocol("CLIENT LIST answered with no text")),
                Err(ExchangeError::ErrorReply(..)) => return Ok(false),
                Err(failure) => return Err(failure),
            };
            let peers: Vec<ClientListEntry<'_>> =
                list.lines().filter_map(ClientListEntry::read).collect();
            let own = peers.iter().find(|peer| peer.name == name);
            let own = own.map_or(u64::MAX, |peer| peer.id);
            // What Redis has not read yet ends the silence of a connection when it looks at it.
            let is_gone = |peer: &ClientListEntry<'_>| looks > 0 && peer.idle >= SILENT;
            // Our own that comes later is this one; another's may have been named before it.
            let is_before =
                |peer: &ClientListEntry<'_>| peer.id < own || !peer.name.starts_with(&mine);
            let before = peers
                .iter()
                .find(|peer| peer.name.starts_with(&of_store) && is_before(peer) && !is_gone(peer));
            let Some(before) = before else {
                return Ok(true);
            };
            if Instant::now() >= deadline {
                return Err(if before.name.starts_with(&mine) {
                    ExchangeError::Unusable(
                        ErrorKind::Timeout,
                        "Redis has not read yet what was sent over the connection before".into(),
                    )
                } else {
                    ExchangeError::Unusable(ErrorKind::InUse, before.described().into())
                });
            }
            looks = looks.saturating_add(1);
            thread::sleep(PAUSE.saturating_mul(looks.min(10)));
        }
    }
}

/// A line of `CLIENT LIST`.
struct ClientListEntry<'a> {
    id: u64,
    name: &'a str,
    address: &'a str,
    age: &'a str,
    idle: Duration,
}

impl<'a> ClientListEntry<'a> {
    fn read(line: &'a str) -> Option<Self> {
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

    fn described(&self) -> String {
        format!(
            "connection {} of Redis, from {}, open for {} s",
            self.id, self.address, self.age
        )
    }
}

/// As Redis takes it in a name: visible ASCII without spaces.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' && byte != b'=' {
            encoded.push(char::from(byte));
        } else {
            // Writing into memory does not fail.
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
        assert_eq!(encoded("mqtt:a b:1883"), "mqtt:a%20b:1883");
        assert_eq!(encoded("50%=ü"), "50%25%3D%C3%BC");
    }

    #[test]
    fn client_line_of_other_version_is_read_or_skipped() {
        let line = "id=7 addr=127.0.0.1:9 laddr=x fd=8 name=paho age=3 idle=31 flags=N";
        let peer = ClientListEntry::read(line).expect("a client");
        assert_eq!((peer.id, peer.name, peer.age), (7, "paho", "3"));
        assert_eq!(peer.idle, Duration::from_secs(31));
        assert!(ClientListEntry::read("id=7 addr=127.0.0.1:9").is_none());
    }
}
