//! One connection to Redis, on which every exchange has one absolute deadline.
//!
//! The `redis` crate's own connection limits each system call, so that a server which sends a byte
//! now and then is waited for without end; here its parser reads from a socket that knows when the
//! whole must be over.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use ::redis::{Parser, Value};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    bulk::Bulk,
    commands::Commands,
    reply::Failure,
    target::{Address, Target},
};
use crate::{
    Error,
    net::DeadlineStream,
    net::{deadline_after, time_left},
};

/// A connection, authenticated and with the database selected.
///
/// Once it is [`quiet`](Self::quiet), Redis answers only within an exchange. A client that dies with
/// answers on their way to it loses what it had sent behind them: Redis finds it gone when it
/// answers, and reads no further.
pub(super) struct Connection {
    wire: Wire,
    parser: Parser,
    commands: Commands,
    /// Redis answers only when it is asked to.
    is_quiet: bool,
    /// How many answers to the last commands have not been read.
    unread: usize,
    /// How many values the next command asks for, and how many such commands are on their way.
    pace: (usize, usize),
    ahead: Option<Ahead>,
}

/// What was asked for and not read yet.
struct Ahead {
    commands: Vec<u8>,
    /// How many values each command asks for.
    asked: VecDeque<usize>,
}

impl Connection {
    /// Connects to the target, within the deadline.
    pub(super) fn open(target: &Target, deadline: Instant) -> Result<Self, Error> {
        Self::introduced(target, deadline)
            .map_err(|failure| failure.named(|| format!("connect to Redis at {target}")))
    }

    /// With `AUTH` and `SELECT`, where the URL asks for them.
    fn introduced(target: &Target, deadline: Instant) -> Result<Self, Failure> {
        let mut connection = Self {
            wire: Wire::new(connect(&target.address, deadline)?, target)?,
            parser: Parser::new(),
            commands: Commands::default(),
            is_quiet: false,
            unread: 0,
            pace: (FIRST_VALUES, 1),
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
    pub(super) fn ask(&mut self, words: &[&str]) -> Result<Value, Failure> {
        self.exchange(|commands| commands.say(words), Self::read)
    }

    /// Sends commands and reads their answers, which `read` may do in part.
    pub(super) fn exchange<T>(
        &mut self,
        pack: impl FnOnce(&mut Commands),
        read: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.pass_over()?;
        self.commands.clear();
        if self.is_quiet {
            self.commands.say(&["CLIENT", "REPLY", "ON"]);
        }
        pack(&mut self.commands);
        self.unread = self.commands.count();
        if self.is_quiet {
            // Its own answer is none.
            self.commands.say(&["CLIENT", "REPLY", "OFF"]);
        }
        self.write()?;
        if self.is_quiet {
            self.read()?;
        }
        let answer = read(self);
        if let Err(Failure::Unusable(..) | Failure::Broken(..)) = answer {
            return answer;
        }
        while self.unread > 0 {
            match self.read() {
                Ok(_) | Err(Failure::Answer(..)) => {}
                Err(unusable) => return Err(unusable),
            }
        }
        answer
    }

    /// Sends commands that Redis does not answer.
    pub(super) fn send(&mut self, pack: impl FnOnce(&mut Commands)) -> Result<(), Failure> {
        self.pass_over()?;
        self.commands.clear();
        pack(&mut self.commands);
        self.write()
    }

    /// The same for commands that may wait, in the system, until others are sent.
    ///
    /// There is nothing to be read then, or the system would drop them when this process dies.
    pub(super) fn send_lazily(&mut self, pack: impl FnOnce(&mut Commands)) -> Result<(), Failure> {
        self.wire.socket().set_lazy(true);
        let sent = self.send(pack);
        self.wire.socket().set_lazy(false);
        sent
    }

    /// Has Redis answer only when it is asked to, from now on.
    pub(super) fn quiet(&mut self) -> Result<(), Failure> {
        self.ask(&["CLIENT", "REPLY", "ON"])?;
        self.send(|commands| commands.say(&["CLIENT", "REPLY", "OFF"]))?;
        self.is_quiet = true;
        Ok(())
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// The next answer; an error that Redis answers with is a failure.
    pub(super) fn read(&mut self) -> Result<Value, Failure> {
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
    ) -> Result<(), Failure> {
        let (mut rest, mut asked) = self.pack_values(hash, keys);
        let is_asked = |ahead: &mut Ahead| ahead.commands == self.commands.bytes();
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
                Ok(()) => self.pace = (next_values(count, bytes), AT_A_TIME),
                Err(Failure::Answer(kind, words)) => {
                    // What was asked besides is answered too.
                    refused = refused.and(Err(Failure::Answer(kind, words)));
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
    pub(super) fn ask_ahead(&mut self, hash: &str, keys: &[&str]) -> Result<(), Failure> {
        self.pass_over()?;
        let (_, asked) = self.pack_values(hash, keys);
        self.write()?;
        let commands = self.commands.bytes().to_vec();
        self.ahead = Some(Ahead { commands, asked });
        Ok(())
    }

    /// Reads what was asked for ahead and is not wanted.
    fn pass_over(&mut self) -> Result<(), Failure> {
        let Some(Ahead { asked, .. }) = self.ahead.take() else {
            return Ok(());
        };
        let mut bulk = self.listen()?;
        for count in asked {
            match self.read_values(&mut bulk, count, &mut drop) {
                Ok(()) | Err(Failure::Answer(..)) => {}
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
        let (size, depth) = self.pace;
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
        bulk: &mut Bulk,
        count: usize,
        each: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Failure> {
        if bulk.list(&mut self.wire)? != count {
            return Err(Failure::protocol(
                "HMGET answered with another number of values",
            ));
        }
        for _ in 0..count {
            each(bulk.value(&mut self.wire)?);
        }
        Ok(())
    }

    /// One command that is answered with a list of strings.
    pub(super) fn strings(&mut self, words: &[&str]) -> Result<Vec<Vec<u8>>, Failure> {
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
            Err(Failure::Answer(kind, words)) => Err(Failure::Answer(kind, words)),
            Err(failure) => return Err(failure),
        };
        self.silence(&bulk)?;
        strings
    }

    /// Has Redis answer to what is packed behind this.
    fn pack_loud(&mut self) {
        self.commands.clear();
        if self.is_quiet {
            self.commands.say(&["CLIENT", "REPLY", "ON"]);
        }
    }

    /// What reads the answers to that.
    fn listen(&mut self) -> Result<Bulk, Failure> {
        debug_assert!(self.unread == 0, "the parser has no bytes of what follows");
        let mut bulk = Bulk::new();
        if self.is_quiet {
            bulk.done(&mut self.wire)?;
        }
        Ok(bulk)
    }

    /// Has it answer no more, when everything has been read.
    fn silence(&mut self, bulk: &Bulk) -> Result<(), Failure> {
        if !bulk.is_empty() {
            return Err(Failure::protocol("more was answered than was asked"));
        }
        if self.is_quiet {
            self.send(|commands| commands.say(&["CLIENT", "REPLY", "OFF"]))?;
        }
        Ok(())
    }

    /// Whether there are answers in this exchange that have not been read.
    pub(super) fn has_more(&self) -> bool {
        self.unread > 0
    }

    fn write(&mut self) -> Result<(), Failure> {
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

/// Connects to the first address that answers.
fn connect(address: &Address, deadline: Instant) -> Result<DeadlineStream, Failure> {
    let addresses: Vec<(SockAddr, Domain)> = match address {
        Address::Unix(path) => vec![(SockAddr::unix(path)?, Domain::UNIX)],
        Address::Tcp(host, port) => resolve(host, *port, deadline)?
            .into_iter()
            .map(|address| (address.into(), Domain::for_address(address)))
            .collect(),
    };
    let mut failure = Failure::Broken(NO_HOST, "the host name has no address".into());
    for (tried, (address, domain)) in addresses.iter().enumerate() {
        // One that never answers must leave time for the next.
        let left = u32::try_from(addresses.len().saturating_sub(tried)).unwrap_or(u32::MAX);
        let limit = time_left(deadline)?.checked_div(left).unwrap_or_default();
        match connect_to(address, *domain, limit.max(Duration::from_micros(1))) {
            Ok(socket) => return Ok(DeadlineStream::new(Arc::new(socket), deadline)),
            Err(error) => failure = refusal(address, error),
        }
    }
    Err(failure)
}

const NO_HOST: &str = "the host name is not found; check how it is written in the URL, and that \
                       this device can look names up";

/// Why there is no connection to that address, and what to do.
fn refusal(address: &SockAddr, error: io::Error) -> Failure {
    let reason = match (error.kind(), address.is_unix()) {
        (io::ErrorKind::ConnectionRefused, true) => {
            "nothing listens on this socket; check that it runs, since the file may be left from \
             before"
        }
        (io::ErrorKind::ConnectionRefused, false) => {
            "nothing listens there; check that it runs, and that host and port in the URL are its \
             own"
        }
        (io::ErrorKind::NotFound, true) => {
            "there is no such socket file; check that it runs, and that `unixsocket` in its \
             configuration is this path"
        }
        (io::ErrorKind::PermissionDenied, true) => {
            "this user has no permission on the socket; make the user a member of its group, as in \
             `usermod -aG redis USER`, and see that `unixsocketperm` is 770"
        }
        _ => return error.into(),
    };
    Failure::Broken(reason, error.into())
}

fn connect_to(address: &SockAddr, domain: Domain, limit: Duration) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect_timeout(address, limit)?;
    if domain != Domain::UNIX {
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

/// The addresses of a host. The system's look-up of a name knows no limit, so it is left behind on
/// a thread of its own when it takes too long.
fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, Failure> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (found, answer) = mpsc::channel();
    let host = host.to_owned();
    thread::Builder::new()
        .name("redis-host-name".to_owned())
        .spawn(move || {
            let addresses = (host.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect);
            // Nobody listens any more where it took too long.
            drop(found.send(addresses));
        })?;
    let found = answer.recv_timeout(time_left(deadline)?).map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            "the look-up of the host name took too long",
        )
    })?;
    found.map_err(|error| Failure::Broken(NO_HOST, error.into()))
}

/// What the bytes go through.
enum Wire {
    Plain(DeadlineStream),
    #[cfg(feature = "tls")]
    Tls(Box<super::tls::Stream>),
}

impl Wire {
    #[cfg_attr(
        not(feature = "tls"),
        expect(clippy::unnecessary_wraps, reason = "only a handshake can fail")
    )]
    fn new(socket: DeadlineStream, target: &Target) -> Result<Self, Failure> {
        #[cfg(feature = "tls")]
        if let (true, Address::Tcp(host, _)) = (target.tls, &target.address) {
            return Ok(Self::Tls(Box::new(super::tls::connect(socket, host)?)));
        }
        debug_assert!(!target.tls, "refused when the URL was read");
        Ok(Self::Plain(socket))
    }

    fn socket(&mut self) -> &mut DeadlineStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_mut(),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    /// A test that runs as root has every permission, so that this can only be made up.
    #[test]
    fn forbidden_socket_error_names_remedy() {
        let unix = SockAddr::unix("/run/redis.sock").expect("short");
        let tcp = SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 6379)));
        for (address, told) in [(unix, true), (tcp, false)] {
            let denied = io::ErrorKind::PermissionDenied.into();
            let error = refusal(&address, denied).named(|| "connect".to_owned());
            assert_eq!(error.kind(), ErrorKind::Connection);
            let text = error.to_string();
            assert_eq!(text.contains("usermod -aG redis"), told, "{text}");
        }
    }
}
