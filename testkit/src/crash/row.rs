//! A row of the table: one kind of crash at every point, or at some.

use std::{
    fmt, iter,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Kill,
    case::{Case, Outcome, Versions},
};
use crate::RedisServer;

/// Where the records are.
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

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Before and after a call of the persistence.
    Call,
    /// The same, and its next run too.
    Twice,
    /// In the middle of a request to Redis.
    Request,
    /// When a packet has reached the broker.
    Packet,
}

impl Crash {
    /// The kills of the case with that number, where every `stride`-th point is tried.
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

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub store: Store,
    pub versions: Versions,
    pub forgets: bool,
    pub crash: Crash,
}

/// What became of the messages in all cases of a row.
#[derive(Debug, Default)]
pub struct Tally {
    pub points: usize,
    pub lost: [usize; 3],
    pub discarded: usize,
    pub twice: usize,
    pub altered: usize,
    pub prefixed: usize,
    /// Of the messages that the program was to receive, those of which Paho has no share in what became of them.
    pub inbound_lost: usize,
    pub inbound_twice: usize,
    /// Those that Paho loses and hands over twice.
    pub inbound_by_paho: [usize; 2],
    /// Runs that ended by themselves before everything was through.
    pub given_up: usize,
    /// Cases in which records stay or a run does not end.
    pub trouble: usize,
    /// What each case that is not clean was about, and how it came.
    pub stories: Vec<(String, String)>,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        self.points += 1;
        for (sum, lost) in iter::zip(&mut self.lost, &outcome.lost) {
            *sum += lost.len();
        }
        self.discarded += outcome.discarded.len();
        self.twice += outcome.twice.len();
        self.altered += outcome.altered.len();
        self.prefixed += outcome.prefixed.len();
        let inbound = &outcome.inbound;
        self.inbound_lost += inbound.lost.len();
        // The broker of the tests does no such thing.
        let by_broker = &inbound.twice_by_broker;
        self.inbound_twice += inbound.twice.len() + by_broker.len();
        self.inbound_by_paho[0] += inbound.lost_by_paho.len();
        self.inbound_by_paho[1] += inbound.twice_by_paho.len();
        self.given_up += outcome.given_up;
        self.trouble += usize::from(outcome.trouble.is_some());
        let [_, lost1, lost2] = &outcome.lost;
        let faults = [
            ("lost at QoS 1", lost1),
            ("lost at QoS 2", lost2),
            ("twice", &outcome.twice),
            ("altered", &outcome.altered),
            ("a byte in front", &outcome.prefixed),
            ("inbound lost", &inbound.lost),
            ("inbound twice", &inbound.twice),
            ("inbound sent twice", by_broker),
        ];
        let mut about: Vec<_> = faults
            .into_iter()
            .filter(|(_, messages)| !messages.is_empty())
            .map(|(fault, messages)| format!("{fault}: {}", messages.join(", ")))
            .collect();
        about.extend(outcome.trouble);
        if !about.is_empty() {
            self.stories.push((about.join("; "), outcome.story));
        }
    }
}

impl Row {
    /// Tries every `stride`-th point, and not more than so many, with as many at a time as there are cores.
    pub fn run(self, stride: usize, most: usize) -> Tally {
        // A single run can end before its kill for another reason, and be followed by one that does not.
        const ENOUGH: usize = 4;
        let next = AtomicUsize::new(0);
        let unharmed = AtomicUsize::new(0);
        let tally = Mutex::new(Tally::default());
        let workers = thread::available_parallelism().map_or(2, usize::from);
        thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    // Of the thread, as it ends with the one that starts it.
                    let redis = (self.store != Store::Files).then(RedisServer::tcp);
                    while unharmed.load(Ordering::Relaxed) < ENOUGH {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= most {
                            break;
                        }
                        let outcome = self.case(redis.as_ref(), number, stride);
                        unharmed.fetch_add(usize::from(outcome.unharmed), Ordering::Relaxed);
                        tally.lock().unwrap().add(outcome);
                    }
                });
            }
        });
        tally.into_inner().unwrap()
    }

    fn case(self, redis: Option<&RedisServer>, number: usize, stride: usize) -> Outcome {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("files")).expect("a folder");
        let (tcp, pipelined) = match self.store {
            Store::Redis { tcp, pipelined } => (tcp, pipelined),
            Store::Files => (false, false),
        };
        let case = Case {
            redis,
            tcp,
            pipelined,
            versions: self.versions,
            forgets: self.forgets,
            kills: self.crash.kills(number, stride),
        };
        case.run(folder.path())
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
        let versions = match self.versions {
            Versions::V5 => "5",
            Versions::V3 => "3.1.1",
            Versions::Default3 => "3.1.1, created for 5",
        };
        let session = if self.forgets { "forgotten" } else { "kept" };
        let crash = match self.crash {
            Crash::Call => "at a call",
            Crash::Twice => "at a call, twice",
            Crash::Request => "within a request",
            Crash::Packet => "at a packet",
        };
        write!(f, "{store} | {versions} | {session} | {crash}")
    }
}
