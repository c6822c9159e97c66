//! One connection to Redis, on which every exchange has one absolute deadline.
//!
//! The `redis` crate's own connection limits each system call, so that a server which sends a byte
//! now and then is waited for without end; here its parser reads from a socket that knows when the
//! whole must be over.

use std::{
    collections::VecDeque,
    io::Write,
    time::{Duration, Instant},
};

use ::redis::{Parser, Value};

use super::{
    address::RedisAddress,
    command_buffer::CommandBuffer,
    connect::{RedisStream, connect_socket},
    exchange_error::ExchangeError,
    resp::RespReader,
};
use crate::{error::Error, net::deadline_after};

/// A connection, authenticated and with the database selected.
///
/// Once it is [`quiet`](Self::quiet), Redis answers only within an exchange. A client that dies with
/// answers on their way to it loses what it had sent behind them: Redis finds it gone when it
/// answers, and reads no further.
pub(super) struct RedisConnection {
    wire: RedisStream,
    parser: Parser,
    commands: CommandBuffer,
    /// Redis answers only when it is asked to.
    replies_off: bool,
    /// How many answers to the last commands have not been read.
    unread: usize,
    /// How many values the next command asks for, and how many such commands are on their way.
    read_window: (usize, usize),
    ahead: Option<Prefetched>,
}

/// What was asked for and not read yet.
struct Prefetched {
    commands: Vec<u8>,
    /// How many values each command asks for.
    asked: VecDeque<usize>,
}

impl RedisConnection {
    /// Connects to the target, within the deadline.
    pub(super) fn open(target: &RedisAddress, deadline: Instant) -> Result<Self, Error> {
        Self::introduced(target, deadline)
            .map_err(|failure| failure.into_error(|| format!("connect to Redis at {target}")))
    }

    /// With `AUTH` and `SELECT`, where the URL asks for them.
    fn introduced(target: &RedisAddress, deadline: Instant) -> Result<Self, ExchangeError> {
        let mut connection = Self {
            wire: RedisStream::new(connect_socket(&target.endpoint, deadline)?, target)?,
            parser: Parser::new(),
            commands: CommandBuffer::default(),
            replies_off: false,
            unread: 0,
            read_window: (FIRST_VALUES, 1),
            ahead: None,
        };
        if let Some(password) = &target.password {
            let user = target.user.as_deref();
            let auth = ["AUTH"].into_iter().chain(user).chain([password.as_str()]);
            connection.ask(&auth.collect::<Vec<_>>())?;
        }
        if target.database != 0 {
            connection.ask(&["SELECT", &target.database.to_string()])?;
        }
        Ok(connection)
    }

    /// One command and its answer.
    pub(super) fn ask(&mut self, words: &[&str]) -> Result<Value, ExchangeError> {
        self.exchange(|commands| commands.say(words), Self::read)
    }

    /// Sends commands and reads their answers, which `read` may do in part.
    pub(super) fn exchange<T>(
        &mut self,
        pack: impl FnOnce(&mut CommandBuffer),
        read: impl FnOnce(&mut Self) -> Result<T, ExchangeError>,
    ) -> Result<T, ExchangeError> {
        self.pass_over()?;
        self.commands.clear();
        if self.replies_off {
            self.commands.say(&["CLIENT", "REPLY", "ON"]);
        }
        pack(&mut self.commands);
        self.unread = self.commands.count();
        if self.replies_off {
            // Its own answer is none.
            self.commands.say(&["CLIENT", "REPLY", "OFF"]);
        }
        self.write()?;
        if self.replies_off {
            self.read()?;
        }
        let answer = read(self);
        if let Err(ExchangeError::Unusable(..) | ExchangeError::Disconnected(..)) = answer {
            return answer;
        }
        while self.unread > 0 {
            match self.read() {
                Ok(_) | Err(ExchangeError::ErrorReply(..)) => {}
                Err(unusable) => return Err(unusable),
            }
        }
        answer
    }

    /// Sends commands that Redis does not answer.
    pub(super) fn send(
        &mut self,
        pack: impl FnOnce(&mut CommandBuffer),
    ) -> Result<(), ExchangeError> {
        self.pass_over()?;
        self.commands.clear();
        pack(&mut self.commands);
        self.write()
    }

    /// The same for commands that may wait, in the system, until others are sent.
    ///
    /// There is nothing to be read then, or the system would drop them when this process dies.
    pub(super) fn send_lazily(
        &mut self,
        pack: impl FnOnce(&mut CommandBuffer),
    ) -> Result<(), ExchangeError> {
        self.wire.socket().set_lazy(true);
        let sent = self.send(pack);
        self.wire.socket().set_lazy(false);
        sent
    }

    /// Has Redis answer only when it is asked to, from now on.
    pub(super) fn quiet(&mut self) -> Result<(), ExchangeError> {
        self.ask(&["CLIENT", "REPLY", "ON"])?;
        self.send(|commands| commands.say(&["CLIENT", "REPLY", "OFF"]))?;
        self.replies_off = true;
        Ok(())
    }

    pub(super) fn replies_off(&self) -> bool {
        self.replies_off
    }

    /// The next answer; an error that Redis answers with is a failure.
    pub(super) fn read(&mut self) -> Result<Value, ExchangeError> {
        let value = self.parser.parse_value(&mut self.wire)?;
        self.unread = self.unread.saturating_sub(1);
        if let Value::ServerError(error) = value {
            return Err(error.into());
        }
        Ok(value)
    }

    /// The values of these fields, in their order: several commands are on their way at a time, so that
    /// Redis works on one while another's answer is read. Where there is a `limit`, each answer may take
    /// that long.
    pub(super) fn values(
        &mut self,
        hash: &str,
        keys: &[&str],
        limit: Option<Duration>,
        each: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), ExchangeError> {
        let (mut rest, mut asked) = self.pack_values(hash, keys);
        let is_asked = |ahead: &mut Prefetched| ahead.commands == self.commands.bytes();
        if self.ahead.take_if(is_asked).is_none() {
            self.pass_over()?;
            (rest, asked) = self.pack_values(hash, keys);
            self.write()?;
        }
        let mut bulk = self.listen()?;
        let mut refused = Ok(());
        while let Some(count) = asked.pop_front() {
            if let Some(limit) = limit {
                self.set_deadline(deadline_after(limit));
            }
            let mut bytes = 0_usize;
            let read = self.read_values(&mut bulk, count, &mut |value| {
                bytes = bytes.saturating_add(value.as_ref().map_or(0, Vec::len));
                if refused.is_ok() {
                    each(value);
                }
            });
            match read {
                Ok(()) => self.read_window = (next_values(count, bytes), AT_A_TIME),
                Err(ExchangeError::ErrorReply(kind, words)) => {
                    // What was asked besides is answered too.
                    refused = refused.and(Err(ExchangeError::ErrorReply(kind, words)));
                    rest = &[];
                }
                Err(failure) => return Err(failure),
            }
            if !rest.is_empty() {
                self.commands.clear();
                rest = self.pack_more_values(hash, rest, &mut asked);
                self.write()?;
            }
        }
        self.silence(&bulk)?;
        refused
    }

    /// Sends the first commands for values that are likely to be asked for next, with these keys. Their
    /// answers are passed over where anything else is done first.
    pub(super) fn ask_ahead(&mut self, hash: &str, keys: &[&str]) -> Result<(), ExchangeError> {
        self.pass_over()?;
        let (_, asked) = self.pack_values(hash, keys);
        self.write()?;
        let commands = self.commands.bytes().to_vec();
        self.ahead = Some(Prefetched { commands, asked });
        Ok(())
    }

    /// Reads what was asked for ahead and is not wanted.
    fn pass_over(&mut self) -> Result<(), ExchangeError> {
        let Some(Prefetched { asked, .. }) = self.ahead.take() else {
            return Ok(());
        };
        let mut bulk = self.listen()?;
        for count in asked {
            match self.read_values(&mut bulk, count, &mut drop) {
                Ok(()) | Err(ExchangeError::ErrorReply(..)) => {}
                Err(failure) => return Err(failure),
            }
        }
        self.silence(&bulk)
    }

    /// Packs the first commands for these values, and gives what is still to be asked for and how many
    /// values each command asks for.
    fn pack_values<'a>(
        &mut self,
        hash: &str,
        keys: &'a [&'a str],
    ) -> (&'a [&'a str], VecDeque<usize>) {
        self.pack_loud();
        let mut asked = VecDeque::new();
        let rest = self.pack_more_values(hash, keys, &mut asked);
        (rest, asked)
    }

    fn pack_more_values<'a>(
        &mut self,
        hash: &str,
        mut rest: &'a [&'a str],
        asked: &mut VecDeque<usize>,
    ) -> &'a [&'a str] {
        let (size, depth) = self.read_window;
        while asked.len() < depth && !rest.is_empty() {
            let (some, others) = rest.split_at(size.min(rest.len()));
            self.commands.list(&["HMGET", hash], some.iter().copied());
            asked.push_back(some.len());
            rest = others;
        }
        rest
    }

    /// The answer to one command for so many values.
    fn read_values(
        &mut self,
        bulk: &mut RespReader,
        count: usize,
        each: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), ExchangeError> {
        if bulk.list(&mut self.wire)? != count {
            return Err(ExchangeError::protocol(
                "HMGET answered with another number of values",
            ));
        }
        for _ in 0..count {
            each(bulk.value(&mut self.wire)?);
        }
        Ok(())
    }

    /// One command that is answered with a list of strings.
    pub(super) fn strings(&mut self, words: &[&str]) -> Result<Vec<Vec<u8>>, ExchangeError> {
        self.pass_over()?;
        self.pack_loud();
        self.commands.say(words);
        self.write()?;
        let mut bulk = self.listen()?;
        let strings = match bulk.list(&mut self.wire) {
            Ok(count) => {
                let mut strings = Vec::new();
                for _ in 0..count {
                    // There is a string for each.
                    strings.push(bulk.value(&mut self.wire)?.unwrap_or_default());
                }
                Ok(strings)
            }
            Err(ExchangeError::ErrorReply(kind, words)) => {
                Err(ExchangeError::ErrorReply(kind, words))
            }
            Err(failure) => return Err(failure),
        };
        self.silence(&bulk)?;
        strings
    }

    /// Has Redis answer to what is packed behind this.
    fn pack_loud(&mut self) {
        self.commands.clear();
        if self.replies_off {
            self.commands.say(&["CLIENT", "REPLY", "ON"]);
        }
    }

    /// What reads the answers to that.
    fn listen(&mut self) -> Result<RespReader, ExchangeError> {
        debug_assert!(self.unread == 0, "the parser has no bytes of what follows");
        let mut bulk = RespReader::new();
        if self.replies_off {
            bulk.done(&mut self.wire)?;
        }
        Ok(bulk)
    }

    /// Has it answer no more, when everything has been read.
    fn silence(&mut self, bulk: &RespReader) -> Result<(), ExchangeError> {
        if !bulk.is_empty() {
            return Err(ExchangeError::protocol("more was answered than was asked"));
        }
        if self.replies_off {
            self.send(|commands| commands.say(&["CLIENT", "REPLY", "OFF"]))?;
        }
        Ok(())
    }

    /// Whether there are answers in this exchange that have not been read.
    pub(super) fn has_more(&self) -> bool {
        self.unread > 0
    }

    fn write(&mut self) -> Result<(), ExchangeError> {
        self.wire.write_all(self.commands.bytes())?;
        Ok(self.wire.flush()?)
    }

    /// Until when what follows must be over.
    pub(super) fn set_deadline(&mut self, deadline: Instant) {
        self.wire.socket().set_deadline(deadline);
    }
}

/// How many values are asked for by the first command, and how many bytes of them by each other one: as
/// many as the last one would have had.
const FIRST_VALUES: usize = 64;
const MOST_VALUES: usize = 256;
const VALUES_BYTES: usize = 128 * 1024;
/// How many commands for values are on their way.
const AT_A_TIME: usize = 4;

/// How many values to ask for next, where so many had so many bytes.
fn next_values(count: usize, bytes: usize) -> usize {
    let each = bytes.checked_div(count).unwrap_or_default().max(1);
    let fitting = VALUES_BYTES.checked_div(each).unwrap_or_default();
    fitting.clamp(1, MOST_VALUES)
}
