//! One connection to Redis, on which every exchange has one absolute deadline.
//!
//! The `redis` crate's own connection limits each system call, so that a server which sends a byte
//! now and then is waited for forever. Here the socket has the deadline of the whole exchange, and the
//! crate decodes the replies that have arrived.

use std::{
    collections::VecDeque,
    io::Write,
    mem,
    time::{Duration, Instant},
};

use ::redis::Value;

use super::{
    address::RedisAddress,
    command_buffer::CommandBuffer,
    connect::{RedisStream, connect_socket},
    exchange_error::ExchangeError,
    login::Login,
    resp::RespReader,
};
use crate::{error::Error, net::deadline_after};

/// A connection, which authenticates and selects the database with its first exchange.
///
/// Redis does not reply to what is [sent](Self::send) outside exchanges. If a client dies while replies
/// are on their way to it, Redis finds it gone when it writes the next one, and drops the commands that it
/// has not read yet. Without replies it reads all of them.
pub(super) struct RedisConnection {
    stream: RedisStream,
    reader: RespReader,
    /// The memory of the last commands, for the next ones.
    memory: Vec<u8>,
    /// `None` from the first exchange on.
    login: Option<Login>,
    /// The user has the right to turn replies off.
    may_send: bool,
    /// Replies are off since the last send. The next exchange turns them on, and the next send off again,
    /// so that exchanges alone need neither.
    replies_off: bool,
    /// The number of replies to the last commands that have not been read.
    replies_due: usize,
    /// The number of values per read command, and the number of read commands in flight.
    read_window: (usize, usize),
    prefetched: Option<Prefetched>,
}

/// Reads that were sent ahead of the call that wants them.
struct Prefetched {
    /// The encoded commands; a call that encodes the same ones takes the replies.
    commands: Vec<u8>,
    /// The number of values that each command reads.
    counts: VecDeque<usize>,
}

impl RedisConnection {
    /// Connects before the deadline, which also holds for the exchange that follows.
    ///
    /// That one begins with the [login](Login), so it returns the error of a refused password.
    pub(super) fn open(address: &RedisAddress, deadline: Instant) -> Result<Self, Error> {
        let login = Login::new(address)?;
        Self::connect(address, Some(login), deadline)
            .map_err(|failure| failure.into_error(|| format!("connect to Redis at {address}")))
    }

    /// Connects, and sends nothing.
    pub(super) fn connect(
        address: &RedisAddress,
        login: Option<Login>,
        deadline: Instant,
    ) -> Result<Self, ExchangeError> {
        let socket = connect_socket(&address.endpoint, deadline)?;
        Ok(Self {
            stream: RedisStream::new(socket, address)?,
            reader: RespReader::new(),
            memory: Vec::new(),
            login,
            may_send: false,
            replies_off: false,
            replies_due: 0,
            read_window: (INITIAL_WINDOW, 1),
            prefetched: None,
        })
    }

    /// Sends commands and reads their replies; `read` need not read all of them.
    ///
    /// Every reply is read before this returns, or the connection is no longer usable: the error is not
    /// a reply, or [replies are due](Self::has_replies_due).
    pub(super) fn exchange<'v, T>(
        &mut self,
        encode: impl FnOnce(&mut CommandBuffer<'v>),
        read: impl FnOnce(&mut Self) -> Result<T, ExchangeError>,
    ) -> Result<T, ExchangeError> {
        self.discard_prefetched()?;
        let mut commands = self.begin_replies();
        encode(&mut commands);
        self.replies_due = commands.count();
        if self.replies_off {
            self.replies_due = self.replies_due.saturating_sub(1);
        }
        self.write(commands)?;
        self.begin_reading()?;
        let result = read(self);
        if let Err(ExchangeError::Unusable(..) | ExchangeError::Disconnected(..)) = result {
            return result;
        }
        while self.replies_due > 0 {
            match self.read_reply() {
                Ok(_) | Err(ExchangeError::ErrorReply(..)) => {}
                // An error reply says more: a server that refuses a connection closes it.
                Err(unusable) => return result.and(Err(unusable)),
            }
        }
        self.check_no_more_replies()?;
        result
    }

    /// Sends commands to which Redis does not reply; only if it [may](Self::may_send).
    pub(super) fn send<'v>(
        &mut self,
        encode: impl FnOnce(&mut CommandBuffer<'v>),
    ) -> Result<(), ExchangeError> {
        self.discard_prefetched()?;
        let mut commands = self.empty_commands();
        if !self.replies_off {
            commands.push_words(&["CLIENT", "REPLY", "OFF"]);
            self.replies_off = true;
        }
        encode(&mut commands);
        self.write(commands)
    }

    /// Sends commands that the operating system may gather until others are sent.
    ///
    /// No reply may be unread then: the system would drop the gathered bytes if this process died.
    pub(super) fn send_coalesced<'v>(
        &mut self,
        encode: impl FnOnce(&mut CommandBuffer<'v>),
    ) -> Result<(), ExchangeError> {
        self.stream.socket().set_coalescing(true);
        let sent = self.send(encode);
        self.stream.socket().set_coalescing(false);
        sent
    }

    /// Allows sends from now on. Without the right to turn replies off, Redis would reply with an error.
    pub(super) fn allow_send(&mut self) {
        self.may_send = true;
    }

    pub(super) fn may_send(&self) -> bool {
        self.may_send
    }

    /// Reads the next reply, and returns an error reply as an error.
    pub(super) fn read_reply(&mut self) -> Result<Value, ExchangeError> {
        let reply = self.reader.reply(&mut self.stream);
        if let Ok(_) | Err(ExchangeError::ErrorReply(..)) = reply {
            self.replies_due = self.replies_due.saturating_sub(1);
        }
        reply
    }

    /// Reads the values of these fields in order.
    ///
    /// Several commands are in flight, so that Redis works on one while the reply to another is read.
    /// With a `limit` each reply has a deadline of its own.
    pub(super) fn values(
        &mut self,
        hash: &str,
        keys: &[&str],
        limit: Option<Duration>,
        on_value: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), ExchangeError> {
        let (mut commands, mut rest, mut counts) = self.encode_reads(hash, keys);
        let is_same = |prefetched: &mut Prefetched| prefetched.commands == commands.bytes();
        if self.prefetched.take_if(is_same).is_none() {
            // Replies may be on after that, so the commands are encoded again.
            self.discard_prefetched()?;
            (commands, rest, counts) = self.encode_reads(hash, keys);
            self.write(commands)?;
        }
        self.begin_reading()?;
        // A connection that only writes needs no large buffer, and a process may have a thousand.
        self.reader.set_large(keys.len() > INITIAL_WINDOW);
        let mut result = Ok(());
        while let Some(count) = counts.pop_front() {
            if let Some(limit) = limit {
                self.set_deadline(deadline_after(limit));
            }
            let mut bytes = 0_usize;
            let read = self.read_values(count, &mut |value| {
                bytes = bytes.saturating_add(value.as_ref().map_or(0, Vec::len));
                if result.is_ok() {
                    on_value(value);
                }
            });
            match read {
                Ok(()) => self.read_window = (next_window(count, bytes), MAX_IN_FLIGHT),
                Err(ExchangeError::ErrorReply(kind, words)) => {
                    // The first error is kept; the replies to the commands in flight are still read.
                    result = result.and(Err(ExchangeError::ErrorReply(kind, words)));
                    rest = &[];
                }
                Err(failure) => return Err(failure),
            }
            if !rest.is_empty() {
                let mut commands = self.empty_commands();
                rest = self.encode_more_reads(&mut commands, hash, (rest, &mut counts));
                self.write(commands)?;
            }
        }
        self.check_no_more_replies()?;
        self.reader.set_large(false);
        result
    }

    /// Sends the first commands of a call to [`values`](Self::values) that is likely to follow.
    ///
    /// If another exchange follows, it discards the replies.
    pub(super) fn prefetch(&mut self, hash: &str, keys: &[&str]) -> Result<(), ExchangeError> {
        self.discard_prefetched()?;
        let (commands, _, counts) = self.encode_reads(hash, keys);
        let bytes = commands.bytes().to_vec();
        self.write(commands)?;
        self.prefetched = Some(Prefetched {
            commands: bytes,
            counts,
        });
        Ok(())
    }

    /// Reads and drops the replies to prefetched commands, if there are any.
    fn discard_prefetched(&mut self) -> Result<(), ExchangeError> {
        let Some(Prefetched { counts, .. }) = self.prefetched.take() else {
            return Ok(());
        };
        self.begin_reading()?;
        for count in counts {
            match self.read_values(count, &mut drop) {
                Ok(()) | Err(ExchangeError::ErrorReply(..)) => {}
                Err(failure) => return Err(failure),
            }
        }
        self.check_no_more_replies()
    }

    /// Encodes the first read commands for these keys.
    ///
    /// Returns them, the remaining keys, and the number of values that each command reads.
    fn encode_reads<'a>(
        &mut self,
        hash: &str,
        keys: &'a [&'a str],
    ) -> (CommandBuffer<'static>, &'a [&'a str], VecDeque<usize>) {
        let mut commands = self.begin_replies();
        let mut counts = VecDeque::new();
        let rest = self.encode_more_reads(&mut commands, hash, (keys, &mut counts));
        (commands, rest, counts)
    }

    /// Appends read commands until the window is full, and returns the remaining keys.
    fn encode_more_reads<'a>(
        &self,
        commands: &mut CommandBuffer<'_>,
        hash: &str,
        (mut rest, counts): (&'a [&'a str], &mut VecDeque<usize>),
    ) -> &'a [&'a str] {
        let (size, depth) = self.read_window;
        while counts.len() < depth && !rest.is_empty() {
            let (batch, others) = rest.split_at(size.min(rest.len()));
            commands.push_list(&["HMGET", hash], batch.iter().copied());
            counts.push_back(batch.len());
            rest = others;
        }
        rest
    }

    /// Reads the reply to one command that reads `count` values.
    fn read_values(
        &mut self,
        count: usize,
        on_value: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), ExchangeError> {
        if self.reader.array_length(&mut self.stream)? != count {
            return Err(ExchangeError::protocol(
                "HMGET returned a wrong number of values",
            ));
        }
        for _ in 0..count {
            on_value(self.reader.value(&mut self.stream)?);
        }
        Ok(())
    }

    /// Sends one command and reads its reply, the keys of records.
    pub(super) fn keys(&mut self, words: &[&str]) -> Result<Vec<Vec<u8>>, ExchangeError> {
        self.discard_prefetched()?;
        let mut commands = self.begin_replies();
        commands.push_words(words);
        self.write(commands)?;
        self.begin_reading()?;
        let keys = match self.reader.array_length(&mut self.stream) {
            Ok(count) if count > MAX_KEYS => {
                return Err(ExchangeError::protocol("more keys than records can have"));
            }
            Ok(count) => {
                // The server chooses the count, so nothing is allocated for it in advance.
                let mut keys = Vec::new();
                let mut most = MAX_KEY_BYTES;
                for _ in 0..count {
                    let key = self.reader.string(&mut self.stream, most)?;
                    most = most.saturating_sub(key.len());
                    keys.push(key);
                }
                Ok(keys)
            }
            Err(ExchangeError::ErrorReply(kind, words)) => {
                Err(ExchangeError::ErrorReply(kind, words))
            }
            Err(failure) => return Err(failure),
        };
        self.check_no_more_replies()?;
        keys
    }

    /// Returns commands that log in if that is due, and have Redis reply to the commands that are appended.
    fn begin_replies<'v>(&mut self) -> CommandBuffer<'v> {
        let mut commands = self.empty_commands();
        if let Some(login) = &self.login {
            login.encode(&mut commands);
        }
        if self.replies_off {
            commands.push_words(&["CLIENT", "REPLY", "ON"]);
        }
        commands
    }

    fn empty_commands<'v>(&mut self) -> CommandBuffer<'v> {
        CommandBuffer::reusing(mem::take(&mut self.memory))
    }

    /// Reads the replies to [`begin_replies`](Self::begin_replies).
    fn begin_reading(&mut self) -> Result<(), ExchangeError> {
        if let Some(login) = self.login.take() {
            login.read_replies(|| self.read_reply())?;
        }
        if self.replies_off {
            // Without the right, which it has had before, Redis has replied to what was sent too.
            let turned_on = self.reader.simple_ok(&mut self.stream);
            turned_on.map_err(ExchangeError::into_unusable)?;
            self.replies_off = false;
        }
        Ok(())
    }

    fn check_no_more_replies(&self) -> Result<(), ExchangeError> {
        if self.reader.is_empty() {
            Ok(())
        } else {
            Err(ExchangeError::protocol("unexpected data after the reply"))
        }
    }

    /// Returns whether replies in this exchange have not been read.
    pub(super) fn has_replies_due(&self) -> bool {
        self.replies_due > 0
    }

    /// Returns the number of replies of an exchange that have not been read.
    pub(super) fn replies_due(&self) -> usize {
        self.replies_due
    }

    fn write(&mut self, commands: CommandBuffer<'_>) -> Result<(), ExchangeError> {
        commands.write_to(&mut self.stream)?;
        self.memory = commands.into_memory();
        Ok(self.stream.flush()?)
    }

    /// Sets the deadline for everything that follows.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.stream.socket().set_deadline(deadline);
    }
}

/// The number of values that the first read command asks for, before their size is known.
const INITIAL_WINDOW: usize = 64;
/// The most values that a read command asks for.
const MAX_WINDOW: usize = 256;
/// The bytes of values that a read command should return, estimated from the reply before.
const WINDOW_BYTES: usize = 128 * 1024;
/// The number of read commands in flight, once the size of the values is known.
const MAX_IN_FLIGHT: usize = 4;

/// The most keys of a hash. Two versions of MQTT with two kinds of records that have a million numbers
/// each, and three that have 65,535, give 4.4 million; the rest is for foreign entries.
const MAX_KEYS: usize = 5_000_000;
/// The most bytes of all keys of a hash, of which Paho's have at most ten each.
const MAX_KEY_BYTES: usize = 64 * 1024 * 1024;

/// Returns the number of values to read next, if `count` values had this many bytes.
fn next_window(count: usize, bytes: usize) -> usize {
    let mean = bytes.checked_div(count).unwrap_or_default().max(1);
    let fitting = WINDOW_BYTES.checked_div(mean).unwrap_or_default();
    fitting.clamp(1, MAX_WINDOW)
}
