//! Deterministic program with a scripted broker, killed at every call, request or packet, alone, with its Redis, or only that.

mod boards;
mod case;
mod fake_sentinel;
mod lagging_link;
pub(super) mod program;

use std::{
    env, fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use self::boards::Boards;
use super::{ClientKind, Kill, Versions, Victim};
use crate::RedisServer;

/// Persistence that keeps the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Redis {
        /// Over TCP instead of a Unix socket.
        tcp: bool,
        /// `put` does not wait for Redis.
        pipelined: bool,
    },
    /// `put` waits for the disk of a Redis that syncs always.
    Synced,
    /// A Redis with a replica, which a sentinel promotes, and `replicas(1)`.
    Replicated,
    /// Paho's own files.
    Files,
}

/// Kind of point at which the victim of a row is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Before and after a call of the persistence.
    Call,
    /// The same, and the next run too.
    Twice,
    /// In the middle of a request to Redis.
    Request,
    /// At a packet that has reached the broker.
    Packet,
}

impl Crash {
    pub const ALL: [Self; 4] = [Self::Call, Self::Twice, Self::Request, Self::Packet];

    /// Kills of the case with this number, if every `stride`-th point is tried.
    fn kills(self, number: usize, stride: usize) -> Vec<Kill> {
        let at = |cases: usize| (1 + number / cases * stride, number % cases);
        let around = |n, after: bool| {
            if after {
                Kill::After(n)
            } else {
                Kill::Before(n)
            }
        };
        match self {
            Self::Call => {
                let (n, after) = at(2);
                vec![around(n, after == 1)]
            }
            Self::Twice => {
                const SECOND: [usize; 6] = [2, 7, 13, 24, 38, 55];
                let (n, second) = at(SECOND.len());
                // The second point moves with the first, so that a row covers most combinations of the two.
                let m = SECOND[second] + n % 7;
                vec![around(n, number % 2 == 1), around(m, number % 3 == 1)]
            }
            Self::Request => {
                let (request, quarters) = at(5);
                vec![Kill::Cut { request, quarters }]
            }
            Self::Packet => vec![Kill::Packet(at(1).0)],
        }
    }
}

/// Row of the table: one kind of crash at every point, or at some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub client: ClientKind,
    pub store: Store,
    pub versions: Versions,
    /// Set if the broker discards the session at each connect.
    pub forgets: bool,
    /// Always the program, unless the store is `Replicated`.
    pub victim: Victim,
    pub crash: Crash,
}

/// The servers of a thread's cases.
enum Servers {
    Files,
    One(RedisServer),
    Boards(Box<Boards>),
}

impl Servers {
    fn start(store: Store) -> Self {
        match store {
            Store::Redis { .. } => Self::One(RedisServer::tcp()),
            Store::Synced => {
                let always = ["--appendonly", "yes", "--appendfsync", "always"];
                Self::One(RedisServer::with(&always))
            }
            Store::Replicated => Self::Boards(Box::new(Boards::start())),
            Store::Files => Self::Files,
        }
    }
}

/// Counted columns of a row: accepted messages; inbound messages that were lost or delivered twice, by Paho alone or not; runs that
/// ended by themselves before every message had completed; cases in which records remain or a run does not end.
const COLUMNS: [&str; 13] = [
    "lost, QoS 0",
    "lost, QoS 1",
    "lost, QoS 2",
    "discarded",
    "twice, QoS 2",
    "altered",
    "a byte in front",
    "inbound lost",
    "inbound twice",
    "lost by Paho",
    "twice by Paho",
    "given up",
    "trouble",
];

/// Result of all cases of a row.
#[derive(Debug, Default)]
pub struct Tally {
    pub points: usize,
    /// Sums of the columns.
    pub sums: [usize; COLUMNS.len()],
    /// Errors and trace of each case that is not clean.
    pub traces: Vec<(Vec<String>, String)>,
}

/// Cell of the table that is not zero because of a known error of Paho.
pub struct Known {
    versions: &'static [Versions],
    /// Prefix of the message of the error.
    about: &'static str,
    /// Source line in Paho C 1.3.16.
    why: &'static str,
}

/// All such cells.
const KNOWN: [Known; 1] = [Known {
    versions: &[Versions::Default3],
    about: "a byte in front",
    why: "MQTTPersistence_restorePackets gives a restored 3.1.1 PUBLISH the version of the client at its creation \
          (publish->MQTTVersion = c->MQTTVersion), so that it is sent with an empty list of MQTT 5 properties",
}];

impl Row {
    /// Row in which the program is killed, and its Redis lives on.
    pub fn of_program(
        (client, store): (ClientKind, Store),
        versions: Versions,
        forgets: bool,
        crash: Crash,
    ) -> Self {
        Self {
            client,
            store,
            versions,
            forgets,
            victim: Victim::Program,
            crash,
        }
    }

    /// All rows of a kind of client, in the order of the table.
    pub fn all(client: ClientKind) -> Vec<Self> {
        let redis = |(tcp, pipelined)| Store::Redis { tcp, pipelined };
        let ways = [(false, false), (false, true), (true, false), (true, true)];
        let mut rows = Vec::new();
        for store in ways.map(redis).into_iter().chain([Store::Files]) {
            for versions in [Versions::V5, Versions::V3, Versions::Default3] {
                for forgets in [false, true] {
                    for crash in Crash::ALL {
                        if store != Store::Files || crash != Crash::Request {
                            rows.push(Self::of_program((client, store), versions, forgets, crash));
                        }
                    }
                }
            }
        }
        let kept = |store, versions, victim, crash| Self {
            victim,
            ..Self::of_program((client, store), versions, false, crash)
        };
        for crash in Crash::ALL {
            rows.push(kept(Store::Synced, Versions::V5, Victim::Program, crash));
        }
        for victim in [Victim::Board, Victim::Redis] {
            for versions in [Versions::V5, Versions::V3] {
                // A program that lives on has no second run.
                let crashes = Crash::ALL.into_iter();
                let crashes =
                    crashes.filter(|crash| victim == Victim::Board || *crash != Crash::Twice);
                rows.extend(crashes.map(|crash| kept(Store::Replicated, versions, victim, crash)));
            }
        }
        rows.retain(|row| row.client == ClientKind::Bare || row.is_of_session());
        rows
    }

    /// Returns true for the rows of a session. It has one version, the store of the library, and the same calls over a socket.
    fn is_of_session(self) -> bool {
        let is_over_socket = matches!(self.store, Store::Redis { tcp: false, .. } | Store::Synced);
        is_over_socket && self.versions != Versions::Default3
    }

    /// Tries every `stride`-th point, at most `most` of them, and `workers` at a time.
    pub fn run(self, stride: usize, most: usize, workers: usize) -> Tally {
        // A single run can end before its kill for another reason, so one such run does not end the row.
        const ENOUGH: usize = 4;
        let next = AtomicUsize::new(0);
        let unkilled = AtomicUsize::new(0);
        let tally = Mutex::new(Tally::default());
        let work = || {
            // One per thread, since a server dies with the thread that started it.
            let mut servers = Servers::start(self.store);
            while unkilled.load(Ordering::Relaxed) < ENOUGH {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    break;
                }
                let outcome = case::run(self, &mut servers, self.crash.kills(number, stride));
                unkilled.fetch_add(usize::from(outcome.unkilled), Ordering::Relaxed);
                let mut tally = tally.lock().unwrap();
                tally.points += 1;
                for (sum, cell) in tally.sums.iter_mut().zip(outcome.cells()) {
                    *sum += cell;
                }
                let wrong = outcome.wrong();
                if !wrong.is_empty() {
                    tally.traces.push((wrong, outcome.trace));
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(work);
            }
        });
        tally.into_inner().unwrap()
    }

    /// Returns true if a case has an error that is not known.
    pub fn is_unknown(self, wrong: &[String]) -> bool {
        let explains = |known: &Known, part: &String| {
            known.versions.contains(&self.versions) && part.starts_with(known.about)
        };
        wrong
            .iter()
            .any(|part| !KNOWN.iter().any(|known| explains(known, part)))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = match self.store {
            Store::Redis { tcp, pipelined } => match (tcp, pipelined) {
                (false, false) => "Redis",
                (false, true) => "Redis, pipelined",
                (true, false) => "Redis over TCP",
                (true, true) => "Redis over TCP, pipelined",
            },
            Store::Synced => "Redis, synced",
            Store::Replicated => "Redis with a replica",
            Store::Files => "Paho's files",
        };
        let session = if self.forgets { "forgotten" } else { "kept" };
        let crash = match self.crash {
            Crash::Call => "at a call",
            Crash::Twice => "at a call, twice",
            Crash::Request => "within a request",
            Crash::Packet => "at a packet",
        };
        let victim = match self.victim {
            Victim::Program => "",
            Victim::Board => "with Redis, ",
            Victim::Redis => "Redis alone, ",
        };
        let versions = self.versions;
        write!(f, "{store} | {versions} | {session} | {victim}{crash}")
    }
}

/// Prints the rows that contain `part` as Markdown. Returns true if no row of Redis has an unknown error.
///
/// `CRASH_STRIDE=n` tries every n-th point only; `CRASH_TRACES=n` adds, on standard error, the traces of the first n cases of a row
/// that are not clean.
pub fn print(part: &str) -> bool {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let stride = number("CRASH_STRIDE").unwrap_or(1);
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let columns = COLUMNS.join(" | ");
    println!("| store | MQTT | session | killed | points | {columns} |");
    println!("|---|---|---|---|--:|{}", "--:|".repeat(COLUMNS.len()));
    let mut is_clean = true;
    for row in Row::all(ClientKind::chosen()) {
        if !row.to_string().contains(part) {
            continue;
        }
        let factor = if row.crash == Crash::Twice { 5 } else { 1 };
        let tally = row.run(stride * factor, usize::MAX, workers);
        let sums = tally.sums.map(|sum| sum.to_string()).join(" | ");
        println!("| {row} | {} | {sums} |", tally.points);
        let traces = tally.traces.iter();
        for (wrong, trace) in traces.take(number("CRASH_TRACES").unwrap_or(0)) {
            eprintln!("{row}: {}\n{trace}", wrong.join("; "));
        }
        let is_unknown = |(wrong, _): &(Vec<String>, String)| row.is_unknown(wrong);
        is_clean &= row.store == Store::Files || !tally.traces.iter().any(is_unknown);
    }
    for known in KNOWN {
        let versions: Vec<_> = known.versions.iter().map(Versions::to_string).collect();
        let versions = versions.join(" and ");
        eprintln!("known with MQTT {versions}: {}: {}", known.about, known.why);
    }
    is_clean
}
