//! A connection without a socket and without a clock, for the fuzzer.

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

/// How the bytes come and go.
#[derive(Clone, Copy)]
pub struct PeerBehavior {
    /// So many at a time, and nothing in between.
    pub read_size: usize,
    pub write_size: usize,
    /// Whether the peer says that it has sent everything.
    pub closes: bool,
    pub requires_token: bool,
    pub max_head_bytes: usize,
}

/// The token that is asked for.
pub const TOKEN: &str = "t0ken";

/// Everything that is sent to a peer which sends this.
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
        answer: Vec::new(),
        is_turn: false,
        is_finished: false,
    };
    let mut connection = HttpConnection::new(peer, &config);
    let mut is_over = false;
    loop {
        let next = if is_over {
            connection.expire(&config)
        } else {
            connection.advance(&config)
        };
        match next {
            Action::Close => break,
            Action::Wait => {
                // All has been read, and the time passes.
                is_over = !connection.wants_write() && connection.stream().sent.is_empty();
            }
            Action::Collect(ask) => {
                let families = registry().gather();
                let response = ResponseCache::of(&families, UNIX_EPOCH)
                    .to(ask)
                    .head_only(ask.head_only);
                connection.answer(response, &config);
            }
        }
    }
    connection.stream().answer.clone()
}

fn registry() -> Registry {
    let registry = Registry::new();
    if let Ok(counter) = IntCounter::new("readings_total", "Readings.") {
        drop(registry.register(Box::new(counter)));
    }
    registry
}

struct ScriptedPeer<'a> {
    sent: &'a [u8],
    behavior: PeerBehavior,
    answer: Vec<u8>,
    /// Each second call would have to wait.
    is_turn: bool,
    is_finished: bool,
}

impl ScriptedPeer<'_> {
    fn wait(&mut self) -> io::Result<()> {
        self.is_turn = !self.is_turn;
        if self.is_turn {
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
        let most = self
            .behavior
            .read_size
            .max(1)
            .min(buffer.len())
            .min(self.sent.len());
        let (now, later) = self.sent.split_at(most);
        if let Some(buffer) = buffer.get_mut(..most) {
            buffer.copy_from_slice(now);
        }
        self.sent = later;
        Ok(most)
    }
}

impl Write for ScriptedPeer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait()?;
        assert!(!self.is_finished, "written behind the end");
        let most = self.behavior.write_size.max(1).min(bytes.len());
        self.answer
            .extend_from_slice(bytes.get(..most).unwrap_or_default());
        Ok(most)
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
