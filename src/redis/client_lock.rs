//! The lock on the records of a client: at most one connection uses them at a time.
//!
//! Redis may not yet have read all that a dead program sent, or that was sent over an abandoned
//! connection, and until then its records are out of date. A second program with the same records
//! would undo the writes of the first. Each connection is named after its records with
//! `CLIENT SETNAME`, so that `CLIENT LIST` shows both.
//!
//! A predecessor is waited for while it may still be used. One that counts as gone may only be
//! stopped: it is ended with `CLIENT KILL`, after which it can never write again.

use std::{
    collections::HashMap,
    fmt::Write,
    hash::{BuildHasher, RandomState},
    thread,
    time::{Duration, Instant},
};

use ::redis::Value;

#[cfg(feature = "cli")]
use super::command_buffer::CommandBuffer;
use super::{
    connection::RedisConnection,
    exchange_error::ExchangeError,
    preflight::{Preflight, encode_checks, read_checks},
};
use crate::error::ErrorKind;

/// The shortest wait between two polls; it grows to ten times that.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The idle time after which the peer of a connection may count as gone.
///
/// A connection in use is never idle for longer than a second. Without this rule a peer whose machine
/// lost power would keep the lock until TCP gives up.
const GONE_AFTER_IDLE: Duration = Duration::from_secs(30);
/// The time for which such a peer is observed, by the clock of this machine, before it is gone.
///
/// Longer than the second within which a living owner makes an exchange, which resets its idle time:
/// if the clock of Redis jumps forward, everybody looks idle until then. Shorter than the default
/// `open_timeout`, so that an opening can see the end of it.
const OBSERVATION_TIME: Duration = Duration::from_millis(1_500);
/// The longest time between two polls of one observation.
///
/// A stalled Redis has not read what a peer sent meanwhile. Longer than the backoff of a recovery.
const MAX_POLL_GAP: Duration = Duration::from_secs(5);
/// The lead that the idle time may have over the clock of this machine: Redis counts whole seconds.
const IDLE_TOLERANCE: Duration = Duration::from_secs(2);
/// The address of no client. Killing it shows if the user may kill, also where client ids have 32 bits.
const NO_ADDRESS: &str = "0.0.0.0:0";

/// The identity of a store object, which its connections have in their names, and what it has seen of
/// others.
pub(super) struct ClientLock {
    /// A random number, different for two objects and for two runs of a program.
    id: u64,
    /// The number of connections that have been named so far.
    connections: u64,
    /// Of these, the number that had been named at the last `release`.
    released: u64,
    /// By client id. They outlive an attempt to connect, which may be shorter than an observation.
    observations: HashMap<u64, Observation>,
}

/// The rights of the user that the lock found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockRights {
    /// All of them.
    All,
    /// The user may not run `CLIENT KILL`, so a peer that only seems gone may write again.
    NoKill,
    /// The user may not run `CLIENT SETNAME` or `CLIENT LIST`, so nothing was waited for.
    NoList,
}

impl ClientLock {
    pub(super) fn new() -> Self {
        Self {
            id: RandomState::new().hash_one(std::process::id()),
            connections: 0,
            released: 0,
            observations: HashMap::new(),
        }
    }

    /// Ends the use of the records: what was sent so far must still arrive, since nothing here
    /// repeats it any more.
    pub(super) fn release(&mut self) {
        self.released = self.connections;
    }

    /// Names the connection, waits until every earlier connection to the records is gone, and makes the
    /// [checks](Preflight), all in one exchange if there is none.
    ///
    /// Without the right to name and list connections, nothing is waited for. After the deadline the
    /// error is `Timeout` for an earlier connection of this object, and `InUse` for one of another.
    pub(super) fn acquire(
        &mut self,
        connection: &mut RedisConnection,
        database: i64,
        hash: &str,
        deadline: Instant,
    ) -> Result<(LockRights, Preflight), ExchangeError> {
        self.connections = self.connections.wrapping_add(1);
        let prefix = name_prefix(database, hash);
        let name = format!("{prefix}{:016x}:{}", self.id, self.connections);
        let mut polls = 0_u32;
        let mut kill = Vec::new();
        let mut may_kill = true;
        loop {
            let started = Instant::now();
            let new_name = (polls == 0).then_some(&*name);
            let (poll, preflight) = poll(connection, hash, new_name, &kill)?;
            let Some(poll) = poll else {
                return Ok((LockRights::NoList, preflight));
            };
            may_kill &= poll.may_kill;
            let now = Instant::now();
            // Redis also lists the clients of others, which may be thousands.
            let lines = poll.list.lines().filter(|line| line.contains(&prefix));
            let peers: Vec<Peer<'_>> = lines
                .filter_map(|line| Peer::parse(line, &prefix))
                .collect();
            self.observe(&peers, now);
            let verdicts = peers.iter().map(|peer| (self.judge(peer, now), peer));
            let verdicts: Vec<_> = verdicts
                .filter(|(verdict, _)| *verdict != Verdict::Ignored)
                .filter(|(verdict, _)| may_kill || *verdict != Verdict::Gone)
                .collect();
            let Some((_, predecessor)) = verdicts.first() else {
                self.observations.clear();
                let rights = if may_kill {
                    LockRights::All
                } else {
                    LockRights::NoKill
                };
                return Ok((rights, preflight));
            };
            let ended = verdicts
                .iter()
                .filter(|(verdict, _)| may_kill && verdict.is_final());
            let ended: Vec<u64> = ended.map(|(_, peer)| peer.id).collect();
            // Killing is not a wait, so it is tried even if the deadline has passed. Redis may need a
            // moment to end a connection, so the same ones are not killed at once again.
            let is_new = !ended.is_empty() && ended != kill;
            kill = ended;
            if is_new {
                // What has arrived of an own connection may still be executed, in case this program
                // dies before it has written it again.
                thread::sleep(POLL_INTERVAL);
                polls = polls.saturating_add(1);
                continue;
            }
            let left = deadline.saturating_duration_since(now);
            if left.is_zero() {
                return Err(if predecessor.object == self.id {
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
            let took = now.saturating_duration_since(started);
            thread::sleep(poll_interval(polls, took).min(left));
        }
    }

    /// Notes the idle times of a poll, and forgets the peers that are no longer listed.
    fn observe(&mut self, peers: &[Peer<'_>], now: Instant) {
        let mut before = std::mem::take(&mut self.observations);
        let observed = peers.iter().map(|peer| {
            let observation = match before.remove(&peer.id) {
                Some(observation) => observation.then(peer.idle, now),
                None => Observation::new(peer.idle, now),
            };
            (peer.id, observation)
        });
        self.observations = observed.collect();
    }

    /// Decides about one connection of a list that has been [observed](Self::observe).
    fn judge(&self, peer: &Peer<'_>, now: Instant) -> Verdict {
        if peer.object == self.id {
            return if peer.number >= self.connections {
                Verdict::Ignored
            } else if peer.number > self.released {
                Verdict::Superseded
            } else {
                Verdict::Waits
            };
        }
        // One that came later counts too: it may have been named first.
        let observed = self.observations.get(&peer.id);
        let observed = observed.map_or(Duration::ZERO, |observation| observation.time(now));
        if peer.idle >= GONE_AFTER_IDLE && observed >= OBSERVATION_TIME {
            Verdict::Gone
        } else {
            Verdict::Waits
        }
    }
}

/// The meaning of a connection to the same records for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the new one itself.
    Ignored,
    /// It is waited for: it may be in use, or Redis may not have read all that was sent over it.
    Waits,
    /// Nobody uses it any more, or its program is stopped.
    Gone,
    /// This object gave it up. Everything that Redis had not confirmed is written again over the new
    /// connection, so it must not arrive over this one afterwards.
    Superseded,
}

impl Verdict {
    fn is_final(self) -> bool {
        matches!(self, Self::Gone | Self::Superseded)
    }
}

/// The idle times of one peer, over all polls since the last one that showed a sign of life.
#[derive(Clone, Copy)]
struct Observation {
    since: Instant,
    first_idle: Duration,
    last: Instant,
    last_idle: Duration,
}

impl Observation {
    fn new(idle: Duration, now: Instant) -> Self {
        Self {
            since: now,
            first_idle: idle,
            last: now,
            last_idle: idle,
        }
    }

    /// Adds a poll, which starts a new observation if the idle time does not continue that of the
    /// last one: the peer made an exchange, or the clock of Redis jumped.
    fn then(self, idle: Duration, now: Instant) -> Self {
        let elapsed = now.saturating_duration_since(self.since);
        let most = self.first_idle.saturating_add(elapsed);
        let gap = now.saturating_duration_since(self.last);
        if idle < self.last_idle || idle > most.saturating_add(IDLE_TOLERANCE) || gap > MAX_POLL_GAP
        {
            return Self::new(idle, now);
        }
        Self {
            last: now,
            last_idle: idle,
            ..self
        }
    }

    fn time(self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

/// The replies to one poll.
struct Poll {
    may_kill: bool,
    list: String,
}

/// Names a new connection and asks if the user may kill others, ends these clients, lists those that are
/// left, and makes the [checks](Preflight), all in one exchange.
///
/// The poll is `None` if the user may not name or list connections. The checks come last: what they find
/// holds for a connection without predecessors.
fn poll(
    connection: &mut RedisConnection,
    hash: &str,
    name: Option<&str>,
    kill: &[u64],
) -> Result<(Option<Poll>, Preflight), ExchangeError> {
    connection.exchange(
        |commands| {
            if let Some(name) = name {
                commands.push_words(&["CLIENT", "SETNAME", name]);
                commands.push_words(&["CLIENT", "KILL", "ADDR", NO_ADDRESS]);
            }
            for id in kill {
                commands.push_words(&["CLIENT", "KILL", "ID", itoa::Buffer::new().format(*id)]);
            }
            commands.push_words(&["CLIENT", "LIST"]);
            encode_checks(commands, hash);
        },
        |replies| {
            let mut may_kill = true;
            let mut has_name = true;
            if name.is_some() {
                match permitted(replies.read_reply())? {
                    Some(Value::Okay) => {}
                    Some(_) => {
                        return Err(ExchangeError::protocol("CLIENT SETNAME did not return OK"));
                    }
                    None => has_name = false,
                }
                may_kill = permitted(replies.read_reply())?.is_some();
            }
            for _ in kill {
                may_kill &= permitted(replies.read_reply())?.is_some();
            }
            let list = read_list(replies)?.filter(|_| has_name);
            let poll = list.map(|list| Poll { may_kill, list });
            Ok((poll, read_checks(replies)?))
        },
    )
}

/// Reads the reply to `CLIENT LIST`; `None` if the user may not list connections.
fn read_list(replies: &mut RedisConnection) -> Result<Option<String>, ExchangeError> {
    match permitted(replies.read_reply())? {
        Some(Value::BulkString(list)) => Ok(Some(String::from_utf8_lossy(&list).into_owned())),
        Some(_) => Err(ExchangeError::protocol(
            "CLIENT LIST returned an unexpected reply",
        )),
        None => Ok(None),
    }
}

/// Returns `None` if Redis refused the command as such: the user may not run it, or it has been
/// renamed.
fn permitted(reply: Result<Value, ExchangeError>) -> Result<Option<Value>, ExchangeError> {
    match reply {
        Ok(value) => Ok(Some(value)),
        Err(ExchangeError::ErrorReply(ErrorKind::Permission | ErrorKind::Server, _)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Returns how long to wait after so many polls, the last of which took this long.
///
/// A list costs Redis time in proportion to its clients. If a thousand programs wait at once, they
/// must not keep Redis from answering those that work.
fn poll_interval(polls: u32, took: Duration) -> Duration {
    let [random, ..] = RandomState::new().hash_one(polls).to_ne_bytes();
    let interval = POLL_INTERVAL
        .saturating_mul(polls.clamp(1, 10))
        .max(took.saturating_mul(4));
    // Up to a quarter more, so that they do not all come at the same time.
    interval.saturating_add(interval.mul_f64(f64::from(random) / 1_024.0))
}

/// A connection to the same records: a line of `CLIENT LIST`, whose fields differ between versions of
/// Redis.
struct Peer<'a> {
    id: u64,
    /// The store object whose connection it is.
    object: u64,
    /// Counts the connections of that object.
    number: u64,
    address: &'a str,
    /// The seconds since it was opened, for the error text.
    age: &'a str,
    idle: Duration,
}

impl<'a> Peer<'a> {
    /// Parses a line, and returns `None` if the client is not named after these records.
    fn parse(line: &'a str, prefix: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(found, _)| *found == name)
                .map(|(_, value)| value)
        };
        // The key of other records may begin with that of these.
        let (object, number) = value("name")?.strip_prefix(prefix)?.split_once(':')?;
        if object.len() != 16 {
            return None;
        }
        // By the wall clock of Redis, and so negative after a step back. A peer must not disappear
        // because of an idle time that cannot be read.
        let idle = value("idle").and_then(|idle| idle.parse::<i64>().ok());
        let idle = idle.and_then(|idle| u64::try_from(idle).ok());
        Some(Self {
            id: value("id")?.parse().ok()?,
            object: u64::from_str_radix(object, 16).ok()?,
            number: number.parse().ok()?,
            address: value("addr").unwrap_or_default(),
            age: value("age").unwrap_or_default(),
            idle: Duration::from_secs(idle.unwrap_or_default()),
        })
    }

    fn describe(&self) -> String {
        format!(
            "connection {} from {}, open for {} s",
            self.id, self.address, self.age
        )
    }
}

/// Returns the names of all connections to this hash up to the id of the store object.
pub(super) fn name_prefix(database: i64, hash: &str) -> String {
    format!("paho-mqtt-redis:{database}/{}:", percent_encode(hash))
}

/// A program that is connected with records.
#[cfg(feature = "cli")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Owner {
    /// Its network address, as Redis sees it.
    pub address: String,
    /// Time since its last exchange. A program that runs makes one every second.
    pub idle: Duration,
}

/// Makes the [checks](Preflight) with those of the user's rights to the lock, on a connection that owns no
/// records.
#[cfg(feature = "cli")]
pub(super) fn check_rights(
    connection: &mut RedisConnection,
    hash: &str,
) -> Result<(LockRights, Preflight), ExchangeError> {
    let (poll, preflight) = poll(connection, hash, Some("mqtt-backlog"), &[])?;
    let rights = match poll {
        None => LockRights::NoList,
        Some(poll) if poll.may_kill => LockRights::All,
        Some(_) => LockRights::NoKill,
    };
    Ok((rights, preflight))
}

/// Lists the programs that are connected with records, by the [prefix](name_prefix) of their names.
///
/// Returns `None` if the user may not list connections.
#[cfg(feature = "cli")]
pub(super) fn list_owners(
    connection: &mut RedisConnection,
) -> Result<Option<HashMap<String, Owner>>, ExchangeError> {
    let encode = |commands: &mut CommandBuffer| commands.push_words(&["CLIENT", "LIST"]);
    let list = connection.exchange(encode, read_list)?;
    Ok(list.map(|list| parse_owners(&list)))
}

#[cfg(feature = "cli")]
fn parse_owners(list: &str) -> HashMap<String, Owner> {
    let mut owners: HashMap<String, Owner> = HashMap::new();
    for line in list.lines() {
        let mut pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
        let name = pairs.find_map(|(field, value)| (field == "name").then_some(value));
        let Some((rest, _)) = name.and_then(|name| name.rsplit_once(':')) else {
            continue;
        };
        let Some((hash, _)) = rest.rsplit_once(':') else {
            continue;
        };
        let prefix = format!("{hash}:");
        let Some(peer) = Peer::parse(line, &prefix) else {
            continue;
        };
        // Of several connections the one that is in use says most.
        let known = owners.get(&prefix);
        if hash.starts_with("paho-mqtt-redis:") && known.is_none_or(|known| peer.idle < known.idle)
        {
            let address = peer.address.to_owned();
            let idle = peer.idle;
            owners.insert(prefix, Owner { address, idle });
        }
    }
    owners
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

    const PREFIX: &str = "paho-mqtt-redis:0/mqtt:a:b:";
    /// The object whose connections are decided about.
    const OWN: u64 = 7;
    const OTHER: u64 = 8;

    fn lock() -> ClientLock {
        ClientLock {
            id: OWN,
            connections: 3,
            ..ClientLock::new()
        }
    }

    fn peer(object: u64, number: u64, idle: u64) -> Peer<'static> {
        Peer {
            id: 100 * object + number,
            object,
            number,
            address: "127.0.0.1:9",
            age: "3",
            idle: Duration::from_secs(idle),
        }
    }

    /// Polls for another object, at these milliseconds with these seconds of idle time; returns the last verdict.
    fn verdict(polls: &[(u64, u64)]) -> Verdict {
        let mut lock = lock();
        let started = Instant::now();
        let mut verdict = Verdict::Ignored;
        for (at, idle) in polls {
            let now = started + Duration::from_millis(*at);
            let peer = peer(OTHER, 1, *idle);
            lock.observe(std::slice::from_ref(&peer), now);
            verdict = lock.judge(&peer, now);
        }
        verdict
    }

    #[test]
    fn silent_peer_is_gone_after_observation() {
        assert_eq!(verdict(&[(0, 4_000)]), Verdict::Waits);
        assert_eq!(verdict(&[(0, 40), (1_499, 41)]), Verdict::Waits);
        assert_eq!(verdict(&[(0, 40), (700, 40), (1_500, 41)]), Verdict::Gone);
        // Over several attempts to connect, and while the idle time reaches its bound.
        assert_eq!(
            verdict(&[(0, 28), (400, 28), (2_900, 31), (3_000, 31)]),
            Verdict::Gone
        );
        assert_eq!(verdict(&[(0, 28), (1_600, 29)]), Verdict::Waits);
    }

    #[test]
    fn sign_of_life_or_jump_starts_new_observation() {
        // An exchange of the peer, or a step back of the clock.
        assert_eq!(
            verdict(&[(0, 60), (900, 60), (1_000, 0), (1_600, 31)]),
            Verdict::Waits
        );
        assert_eq!(verdict(&[(0, 60), (1_600, 45)]), Verdict::Waits);
        // A step forward.
        assert_eq!(verdict(&[(0, 0), (900, 0), (1_600, 61)]), Verdict::Waits);
        // A stalled Redis: what the peer sent meanwhile may be unread.
        assert_eq!(verdict(&[(0, 0), (40_000, 40)]), Verdict::Waits);
        assert_eq!(
            verdict(&[(0, 0), (40_000, 40), (40_100, 0), (41_600, 1)]),
            Verdict::Waits
        );
        assert_eq!(
            verdict(&[(0, 0), (40_000, 40), (40_800, 40), (41_500, 41)]),
            Verdict::Gone
        );
    }

    #[cfg(feature = "cli")]
    #[test]
    fn owners_are_listed_by_their_hash() {
        let line = |name: &str, idle| format!("id=7 addr=[::1]:9 name={name} age=3 idle={idle}");
        let first = name_prefix(0, "a b:host:1");
        let list = [
            line(&format!("{first}00000000000000ab:1"), 40),
            line(&format!("{first}00000000000000ac:2"), 1),
            line(&format!("{}00000000000000ad:1", name_prefix(3, "x:y")), 35),
            line("another:thing:00000000000000ad:1", 0),
            line("", 0),
        ];
        let owners = parse_owners(&list.join("\n"));
        assert_eq!(owners.len(), 2, "{owners:?}");
        assert_eq!(owners[&first].idle, Duration::from_secs(1));
        assert_eq!(owners["paho-mqtt-redis:3/x:y:"].address, "[::1]:9");
    }

    #[test]
    fn superseded_connection_is_never_waited_for() {
        let mut lock = lock();
        let now = Instant::now();
        for (number, expected) in [
            (1, Verdict::Superseded),
            (2, Verdict::Superseded),
            (3, Verdict::Ignored),
        ] {
            assert_eq!(lock.judge(&peer(OWN, number, 0), now), expected);
        }
        // What was sent before a close is not written again.
        lock.release();
        lock.connections = 5;
        for (number, expected) in [
            (3, Verdict::Waits),
            (4, Verdict::Superseded),
            (5, Verdict::Ignored),
        ] {
            assert_eq!(lock.judge(&peer(OWN, number, 60), now), expected);
        }
        // A later one of another object may have been named first.
        assert_eq!(lock.judge(&peer(OTHER, 9, 0), now), Verdict::Waits);
    }

    #[test]
    fn unlisted_peer_is_forgotten() {
        let mut lock = lock();
        let now = Instant::now();
        lock.observe(&[peer(OTHER, 1, 0), peer(OTHER, 2, 0)], now);
        assert_eq!(lock.observations.len(), 2);
        lock.observe(&[peer(OTHER, 2, 0)], now);
        assert_eq!(lock.observations.len(), 1);
    }

    #[test]
    fn poll_interval_grows_with_polls_and_their_cost() {
        let fast = Duration::from_micros(100);
        let in_range = |interval: Duration, least: u64| {
            let least = Duration::from_millis(least);
            (least..=least.mul_f64(1.25)).contains(&interval)
        };
        assert!(in_range(poll_interval(1, fast), 5));
        assert!(in_range(poll_interval(4, fast), 20));
        assert!(in_range(poll_interval(1_000, fast), 50));
        assert!(in_range(poll_interval(1, Duration::from_millis(30)), 120));
    }

    #[test]
    fn client_name_has_no_spaces_and_stays_unique() {
        assert_eq!(percent_encode("mqtt:a b:1883"), "mqtt:a%20b:1883");
        assert_eq!(percent_encode("50%=ü"), "50%25%3D%C3%BC");
    }

    #[test]
    fn client_line_of_any_version_is_read() {
        let name = format!("name={PREFIX}00000000000000ff:12");
        for (line, idle) in [
            (
                format!("id=7 addr=127.0.0.1:9 laddr=x fd=8 {name} age=3 idle=31 flags=N"),
                31,
            ),
            // After a step back of the clock.
            (
                format!("id=7 addr=127.0.0.1:9 {name} age=3 idle=-31 lib-name=x"),
                0,
            ),
            (format!("id=7 addr=127.0.0.1:9 {name} age=3"), 0),
            (format!("id=7 addr=127.0.0.1:9 {name} age=3 idle=x"), 0),
        ] {
            let peer = Peer::parse(&line, PREFIX).expect("a peer");
            assert_eq!((peer.id, peer.object, peer.number), (7, 0xff, 12));
            assert_eq!(peer.idle, Duration::from_secs(idle));
            assert_eq!(
                peer.describe(),
                "connection 7 from 127.0.0.1:9, open for 3 s"
            );
        }
    }

    #[test]
    fn connection_to_other_records_is_no_peer() {
        for name in [
            "",
            "another",
            "paho-mqtt-redis:1/mqtt:a:b:00000000000000ff:1",
            "paho-mqtt-redis:0/mqtt:a:b:",
            // The key of these records is longer.
            "paho-mqtt-redis:0/mqtt:a:b:c:00000000000000ff:1",
            "paho-mqtt-redis:0/mqtt:a:b:00000000000000ff:1:00000000000000ff:1",
        ] {
            let line = format!("id=7 addr=127.0.0.1:9 name={name} age=3 idle=31");
            assert!(Peer::parse(&line, PREFIX).is_none(), "{name}");
        }
    }
}
