//! Runs a connection without a socket and without a clock, for the fuzzer.

#![allow(missing_docs, missing_debug_implementations)]

use std::{
    io::{self, Read, Write},
    time::UNIX_EPOCH,
};

use prometheus::{IntCounter, Registry};

use super::{
    auth::SecretSource,
    collector::ResponseCache,
    config::{Config, Limits},
    connection::{Action, HttpConnection},
    credentials::{CredentialSources, Credentials},
    stream::NonblockingStream,
};

/// The behavior of a scripted peer.
#[derive(Clone, Copy)]
pub struct PeerBehavior {
    /// Bytes per read; every second call would block.
    pub read_size: usize,
    /// Bytes per write; every second call would block.
    pub write_size: usize,
    /// Set if the peer ends its side after its last byte.
    pub closes: bool,
    pub requires_token: bool,
    pub max_head_bytes: usize,
}

/// The token of a server with `requires_token`.
pub const TOKEN: &str = "t0ken";

/// Returns all bytes that a peer receives for what it sent.
pub fn exchange(sent: &[u8], behavior: PeerBehavior) -> Vec<u8> {
    let token = behavior
        .requires_token
        .then(|| SecretSource::Token(TOKEN.to_owned()));
    let mut sources = CredentialSources::default();
    sources.secrets.extend(token);
    let Ok(credentials) = Credentials::read(sources) else {
        return Vec::new();
    };
    let limits = Limits {
        max_head_bytes: behavior.max_head_bytes.max(1),
        ..Limits::default()
    };
    let config = Config {
        limits,
        credentials,
    };
    let peer = ScriptedPeer {
        sent,
        behavior,
        received: Vec::new(),
        may_proceed: false,
        is_finished: false,
    };
    let mut connection = HttpConnection::new(peer, &config);
    let mut has_expired = false;
    loop {
        let action = if has_expired {
            connection.expire(&config)
        } else {
            connection.advance(&config)
        };
        match action {
            Action::Close => break,
            Action::Wait => {
                // With all bytes read and nothing to write, only the deadline is left.
                has_expired = !connection.wants_write() && connection.stream().sent.is_empty();
            }
            Action::Collect(request) => {
                let families = registry().gather();
                let response = ResponseCache::new(&families, UNIX_EPOCH)
                    .response(request)
                    .head_only(request.head_only);
                connection.respond(response, &config);
            }
        }
    }
    connection.stream().received.clone()
}

fn registry() -> Registry {
    let registry = Registry::new();
    if let Ok(counter) = IntCounter::new("readings_total", "Readings.") {
        drop(registry.register(Box::new(counter)));
    }
    registry
}

/// A stream that plays the peer's side from memory.
struct ScriptedPeer<'a> {
    sent: &'a [u8],
    behavior: PeerBehavior,
    received: Vec<u8>,
    /// Flips with each call, so that every second one would block.
    may_proceed: bool,
    is_finished: bool,
}

impl ScriptedPeer<'_> {
    fn wait(&mut self) -> io::Result<()> {
        self.may_proceed = !self.may_proceed;
        if self.may_proceed {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}

impl Read for ScriptedPeer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        if self.sent.is_empty() && !self.behavior.closes {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = self
            .behavior
            .read_size
            .max(1)
            .min(buffer.len())
            .min(self.sent.len());
        let (chunk, rest) = self.sent.split_at(length);
        if let Some(buffer) = buffer.get_mut(..length) {
            buffer.copy_from_slice(chunk);
        }
        self.sent = rest;
        Ok(length)
    }
}

impl Write for ScriptedPeer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait()?;
        assert!(!self.is_finished, "written after the end");
        let length = self.behavior.write_size.max(1).min(bytes.len());
        self.received
            .extend_from_slice(bytes.get(..length).unwrap_or_default());
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NonblockingStream for ScriptedPeer<'_> {
    fn finish(&mut self) -> io::Result<()> {
        self.is_finished = true;
        Ok(())
    }
}
