//! A deterministic program with a scripted broker, killed at every call, request or packet.

mod case;
pub(super) mod program;

use std::{
    env, fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{Kill, Versions};
use crate::RedisServer;

/// The place of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    Redis {
        /// Over TCP, and not a Unix socket.
        tcp: bool,
        /// `put` does not wait for it.
        pipelined: bool,
    },
    /// Paho's own.
    Files,
}

/// The kind of point at which the program is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Before and after a call of the persistence.
    Call,
    /// The same, and its next run too.
    Twice,
    /// In the middle of a request to Redis.
    Request,
    /// Upon a packet that has reached the broker.
    Packet,
}

impl Crash {
    pub const ALL: [Self; 4] = [Self::Call, Self::Twice, Self::Request, Self::Packet];

    /// The kills of the case with this number, if every `stride`-th point is tried.
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
                // The second point moves along with the first, so that over a row most pairs of neighbourhoods occur.
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

/// One kind of crash at every point, or at some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub store: Store,
    pub versions: Versions,
    /// The broker forgets the session at each connect.
    pub forgets: bool,
    pub crash: Crash,
}

/// The counted columns of a row: of the messages that were accepted, of those that the program was to receive and Paho lost or handed
/// over twice by itself or not, of runs that ended by themselves before everything was through, and of cases in which records stay or
/// a run does not end.
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

/// The result of all cases of a row.
#[derive(Debug, Default)]
pub struct Tally {
    pub points: usize,
    /// Of the columns.
    pub sums: [usize; COLUMNS.len()],
    /// For each case that is not clean, what is wrong with it, part by part, and its trace.
    pub traces: Vec<(Vec<String>, String)>,
}

/// A cell of the table that is not zero and yet not ours.
pub struct Known {
    versions: &'static [Versions],
    /// The beginning of the part that says what is wrong.
    about: &'static str,
    /// The place in Paho C 1.3.16.
    why: &'static str,
}

/// Every such cell, in one place.
const KNOWN: [Known; 1] = [Known {
    versions: &[Versions::Default3],
    about: "a byte in front",
    why: "MQTTPersistence_restorePackets gives a restored 3.1.1 PUBLISH the version of the client at its creation \
          (publish->MQTTVersion = c->MQTTVersion), so that it is sent with an empty list of MQTT 5 properties",
}];

impl Row {
    /// Every row, in the order of the table.
    pub fn all() -> Vec<Self> {
        let redis = |(tcp, pipelined)| Store::Redis { tcp, pipelined };
        let ways = [(false, false), (false, true), (true, false), (true, true)];
        let mut rows = Vec::new();
        for store in ways.map(redis).into_iter().chain([Store::Files]) {
            for versions in [Versions::V5, Versions::V3, Versions::Default3] {
                for forgets in [false, true] {
                    for crash in Crash::ALL {
                        if store != Store::Files || crash != Crash::Request {
                            rows.push(Self {
                                store,
                                versions,
                                forgets,
                                crash,
                            });
                        }
                    }
                }
            }
        }
        rows
    }

    /// Tries every `stride`-th point, at most `most` of them, and `workers` at a time.
    pub fn run(self, stride: usize, most: usize, workers: usize) -> Tally {
        // A single run can end before its kill for another reason, and be followed by one that does not.
        const ENOUGH: usize = 4;
        let next = AtomicUsize::new(0);
        let unharmed = AtomicUsize::new(0);
        let tally = Mutex::new(Tally::default());
        let work = || {
            // One per thread, since it ends with the thread that starts it.
            let redis = (self.store != Store::Files).then(RedisServer::tcp);
            while unharmed.load(Ordering::Relaxed) < ENOUGH {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    break;
                }
                let outcome = case::run(self, redis.as_ref(), self.crash.kills(number, stride));
                unharmed.fetch_add(usize::from(outcome.unharmed), Ordering::Relaxed);
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

    /// Returns whether something is wrong with a case that is not known.
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
            Store::Files => "Paho's files",
        };
        let session = if self.forgets { "forgotten" } else { "kept" };
        let crash = match self.crash {
            Crash::Call => "at a call",
            Crash::Twice => "at a call, twice",
            Crash::Request => "within a request",
            Crash::Packet => "at a packet",
        };
        write!(f, "{store} | {} | {session} | {crash}", self.versions)
    }
}

/// Prints the rows that contain `part`, as Markdown. Returns whether a row of Redis has nothing that is not known.
///
/// `CRASH_STRIDE=n` tries every n-th point only; `CRASH_STORIES=n` adds, on standard error, the traces of the first n cases of a row
/// in which something went wrong.
pub fn print(part: &str) -> bool {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let stride = number("CRASH_STRIDE").unwrap_or(1);
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let columns = COLUMNS.join(" | ");
    println!("| store | MQTT | session | killed | points | {columns} |");
    println!("|---|---|---|---|--:|{}", "--:|".repeat(COLUMNS.len()));
    let mut is_clean = true;
    for row in Row::all() {
        if !row.to_string().contains(part) {
            continue;
        }
        let factor = if row.crash == Crash::Twice { 5 } else { 1 };
        let tally = row.run(stride * factor, usize::MAX, workers);
        let sums = tally.sums.map(|sum| sum.to_string()).join(" | ");
        println!("| {row} | {} | {sums} |", tally.points);
        let traces = tally.traces.iter();
        for (wrong, trace) in traces.take(number("CRASH_STORIES").unwrap_or(0)) {
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
