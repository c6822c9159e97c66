//! Faults of Redis, and a program that publishes during them.
//!
//! Each run is a process of its own, so that a persistence that crashes ends no other run, and the program can run out of file
//! descriptors.

mod app;
mod catalogue;
mod killed;
mod program;
mod site;

use std::{
    fmt, iter,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

pub use catalogue::FAULTS;
pub use program::run_program;
pub use site::Site;

use super::{
    ClientKind, Ledger,
    child::Child,
    program::{DEFAULT_CACHE_LIMIT, cache_limit},
};
use crate::{LIMIT, child::program, process::die_with_this_thread};

/// Situation of the program while a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// It publishes to a broker that acknowledges.
    Publishing,
    /// It publishes, and the broker is unreachable.
    BrokerAway,
    /// It publishes nothing; earlier messages wait for an unreachable broker.
    Idle,
    /// It is killed, and started again when the fault is over.
    Killed,
}

impl Setting {
    pub const ALL: [Self; 4] = [Self::Publishing, Self::BrokerAway, Self::Idle, Self::Killed];

    fn name(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::BrokerAway => "broker away",
            Self::Idle => "idle",
            Self::Killed => "killed",
        }
    }
}

/// Persistence that keeps the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keeper {
    Ours,
    Direct,
}

/// Fault of Redis.
pub struct Fault {
    pub name: &'static str,
    /// Arguments of the Redis server.
    arguments: &'static [&'static str],
    /// Kinds of error as which it must be reported, unless a program that publishes may not notice it.
    kinds: &'static [&'static str],
    may_pass_unnoticed: bool,
    /// Set if Redis keeps its contents.
    keeps: bool,
    /// Set if a program can be killed meanwhile, and another one be started.
    pub can_be_killed_in: bool,
    way: Way,
    /// Delay of the start of Redis after the start of the program, if Redis is late.
    late: Option<Duration>,
    pub lasts: Duration,
    pub begin: fn(&mut Site),
    pub end: fn(&mut Site),
}

impl Fault {
    /// Returns true if no message may be lost: Redis keeps its contents, or the program has them in memory too.
    pub fn is_covered(&self) -> bool {
        self.keeps || cache_limit() >= DEFAULT_CACHE_LIMIT
    }
}

/// Connection of the program to Redis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Socket,
    /// Through a forwarder that can break in the middle of a request or an answer.
    Breaking,
}

/// Minimum duration of a fault, during which messages are published.
const DURATION: Duration = Duration::from_millis(400);
/// Keep-alive of the program, shorter than every fault that stops Redis.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Duration of a fault that outlasts the keep-alive.
const LONG: Duration = Duration::from_millis(1_800);
/// Minimum number of messages before a fault, and after it.
const MESSAGES: usize = 30;

/// One fault in one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Index in the catalogue.
    fault: usize,
    pub setting: Setting,
    keeper: Keeper,
}

impl Run {
    /// All possible runs in a setting.
    pub fn all(setting: Setting) -> impl Iterator<Item = Self> {
        let runs = Self::kept_by(Keeper::Ours, setting);
        runs.filter(move |run| setting != Setting::Killed || run.fault().can_be_killed_in)
    }

    fn kept_by(keeper: Keeper, setting: Setting) -> impl Iterator<Item = Self> {
        let covered = (0..FAULTS.len()).filter(|fault| FAULTS[*fault].is_covered());
        covered.map(move |fault| Self {
            fault,
            setting,
            keeper,
        })
    }

    pub fn fault(self) -> &'static Fault {
        &FAULTS[self.fault]
    }

    /// Runs it in a process of its own. The error is the end of a process that did not report.
    pub fn start(self) -> Result<Report, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let nothing = Arc::<Mutex<Ledger>>::default();
        let log = folder.path().join("log");
        let mut command = program("fault-program");
        die_with_this_thread(&mut command);
        let mut child = Child::start(command, &self, &log, &nothing);
        let started = Instant::now();
        let status = loop {
            if child.has_ended() {
                break child.wait().to_string();
            }
            if started.elapsed() > LIMIT * 4 {
                child.kill();
                break "it hung".to_owned();
            }
            thread::park_timeout(Duration::from_millis(10));
        };
        let report = child.answer(Duration::ZERO);
        let report = report.and_then(|report| serde_json::from_str(&report).ok());
        report.ok_or_else(|| format!("{status}\n{}", child.log()))
    }

    /// First promise that a report breaks.
    pub fn wrong(self, report: &Report) -> Option<&'static str> {
        let (fault, setting) = (self.fault(), self.setting);
        let survives = setting != Setting::Killed;
        let is_reported = report.has_one_of(fault.kinds);
        let must_report = survives
            && !fault.kinds.is_empty()
            && !(fault.may_pass_unnoticed && setting == Setting::Publishing);
        [
            (report.published == 0, "nothing was published"),
            (!report.lost.is_empty(), "messages are lost"),
            (!report.twice.is_empty(), "messages came twice"),
            (report.altered > 0, "payloads are altered"),
            (report.refused > 0 && survives, "messages were refused"),
            // Far more than the deadline, since the machine may be busy.
            (report.longest > LIMIT / 4, "a call took long"),
            (report.remaining > 0, "records remain"),
            (report.counted_lost > 0, "records are counted as lost"),
            (
                setting == Setting::Publishing && !report.connected,
                "the connection to the broker was lost",
            ),
            (
                must_report && !is_reported,
                "it was not reported with its kind",
            ),
            (
                must_report && report.log.is_empty(),
                "the log does not report it",
            ),
        ]
        .into_iter()
        .find_map(|(is_broken, promise)| is_broken.then_some(promise))
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keeper = match self.keeper {
            Keeper::Ours => "ours",
            Keeper::Direct => "direct",
        };
        write!(
            f,
            "{keeper} | {} | {}",
            self.fault().name,
            self.setting.name()
        )
    }
}

/// Result of a program and its messages.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub published: usize,
    /// Calls of `publish` that failed, and messages whose token did.
    refused: usize,
    /// Messages at QoS 1 and 2 that did not arrive, of those that the promises cover.
    lost: Vec<String>,
    /// Number of other messages that did not arrive: kept in a program that was killed, or in a Redis that lost its contents.
    uncovered: usize,
    /// Messages at QoS 2 that arrived more than once.
    twice: Vec<String>,
    /// Number of those for which that is known: Redis took no writes when the waiting message was sent.
    twice_uncovered: usize,
    altered: usize,
    /// Duration of the longest call of the persistence.
    longest: Duration,
    /// Set if the connection to the broker was never lost.
    connected: bool,
    /// Records that remain in Redis after all messages have arrived.
    remaining: usize,
    /// Records that the persistence counted as lost.
    counted_lost: u64,
    /// Time from the end of the fault until Redis had every record.
    recovered: Duration,
    /// Kinds of error in the metrics.
    kinds: Vec<String>,
    /// Reason in the log line that begins the outage.
    log: String,
}

impl Report {
    /// Columns of the table.
    const COLUMNS: [&str; 12] = [
        "published",
        "lost",
        "twice, QoS 2",
        "lost, not covered",
        "twice, not covered",
        "refused",
        "longest call, ms",
        "MQTT connection",
        "recovered after, ms",
        "left in Redis",
        "`store_errors_total`",
        "log",
    ];

    fn cells(&self) -> [String; Self::COLUMNS.len()] {
        let milliseconds = |duration: Duration| format!("{:.1}", duration.as_secs_f64() * 1000.0);
        [
            self.published.to_string(),
            self.lost.len().to_string(),
            self.twice.len().to_string(),
            self.uncovered.to_string(),
            self.twice_uncovered.to_string(),
            self.refused.to_string(),
            milliseconds(self.longest),
            if self.connected { "alive" } else { "lost" }.to_owned(),
            milliseconds(self.recovered),
            self.remaining.to_string(),
            self.kinds.join(", "),
            self.log.clone(),
        ]
    }

    fn has_one_of(&self, kinds: &[&str]) -> bool {
        self.kinds.iter().any(|kind| kinds.contains(&kind.as_str()))
    }
}

/// Prints every fault in every setting as Markdown. Returns true if all of ours are clean.
pub fn print() -> bool {
    let ours = Setting::ALL.map(|setting| Run::all(setting).collect::<Vec<_>>());
    let mut runs: Vec<Run> = ours.concat();
    if ClientKind::chosen() == ClientKind::Bare {
        runs.extend(Run::kept_by(Keeper::Direct, Setting::Publishing));
    }
    let columns = Report::COLUMNS;
    println!("| kept by | fault | program | {} |", columns.join(" | "));
    println!("|---|---|---|{}", "---|".repeat(columns.len()));
    let mut is_clean = true;
    runs.sort_by_key(|run| (run.fault, run.setting as usize));
    for (run, report) in iter::zip(&runs, run_all(&runs)) {
        let wrong = match &report {
            Ok(report) => {
                println!("| {run} | {} |", report.cells().join(" | "));
                run.wrong(report)
            }
            Err(end) => {
                eprintln!("{run}: {end}");
                let end = end.lines().next().unwrap_or_default();
                let empty = " |".repeat(columns.len() - 2);
                println!("| {run} | the program did not survive: {end} |{empty} |");
                Some("it did not survive")
            }
        };
        if run.keeper == Keeper::Ours
            && let Some(wrong) = wrong
        {
            eprintln!("{run}: {wrong}");
            is_clean = false;
        }
    }
    is_clean
}

/// Runs one process per core at a time.
fn run_all(runs: &[Run]) -> Vec<Result<Report, String>> {
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let next = || next.fetch_add(1, Ordering::Relaxed);
        let numbers = iter::repeat_with(next).take_while(|number| *number < runs.len());
        let ran = numbers.map(|number| (number, runs[number].start()));
        ran.collect::<Vec<_>>()
    };
    let mut ran: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ran = workers.into_iter().map(ScopedJoinHandle::join);
        ran.flat_map(|ran| ran.expect("no panic")).collect()
    });
    ran.sort_by_key(|(number, _)| *number);
    ran.into_iter().map(|(_, report)| report).collect()
}
