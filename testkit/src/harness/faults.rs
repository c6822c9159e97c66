//! Faults of Redis, and a program that publishes meanwhile.
//!
//! Each run is a process of its own: a persistence that does not survive takes nothing else along, and the program can be left
//! without file descriptors.

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

use super::{Ledger, child::Child};
use crate::{LIMIT, child::program, process::die_with_this_thread};

/// The program while a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// It publishes to a broker that acknowledges.
    Publishing,
    /// It publishes, and the broker is away.
    BrokerAway,
    /// It publishes nothing; earlier messages wait for a broker that is away.
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

/// The persistence that keeps the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keeper {
    Ours,
    Direct,
}

/// Something that can go wrong.
pub struct Fault {
    pub name: &'static str,
    /// For the Redis server.
    arguments: &'static [&'static str],
    /// It is reported as one of these, unless a program that publishes may pass it by without noticing.
    kinds: &'static [&'static str],
    may_pass_unnoticed: bool,
    /// Redis has afterwards everything that it had before.
    keeps: bool,
    /// A program can be killed meanwhile, and another one be started.
    pub can_be_killed_in: bool,
    way: Way,
    /// Redis is not there when the program starts, and comes this much later.
    late: Option<Duration>,
    pub lasts: Duration,
    pub begin: fn(&mut Site),
    pub end: fn(&mut Site),
}

/// The connection of the program to Redis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Socket,
    /// Over something that can break in the middle of a request or an answer.
    Breaking,
}

/// The least time that a fault lasts, in which messages are published.
const DURATION: Duration = Duration::from_millis(400);
/// Shorter than every fault that stops Redis.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The same for a fault that is to outlast the keep-alive.
const LONG: Duration = Duration::from_millis(1_800);
/// At least this many messages are published before a fault, and after it.
const MESSAGES: usize = 30;

/// One fault in one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The place in the catalogue.
    fault: usize,
    pub setting: Setting,
    keeper: Keeper,
}

impl Run {
    /// Every possible run in a setting.
    pub fn all(setting: Setting) -> impl Iterator<Item = Self> {
        let runs = Self::kept_by(Keeper::Ours, setting);
        runs.filter(move |run| setting != Setting::Killed || run.fault().can_be_killed_in)
    }

    fn kept_by(keeper: Keeper, setting: Setting) -> impl Iterator<Item = Self> {
        (0..FAULTS.len()).map(move |fault| Self {
            fault,
            setting,
            keeper,
        })
    }

    pub fn fault(self) -> &'static Fault {
        &FAULTS[self.fault]
    }

    /// Runs it in a process of its own. If that ends without a report, returns how.
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
                break "it stood still".to_owned();
            }
            thread::park_timeout(Duration::from_millis(10));
        };
        let report = child.answer(Duration::ZERO);
        let report = report.and_then(|report| serde_json::from_str(&report).ok());
        report.ok_or_else(|| format!("{status}\n{}", child.log()))
    }

    /// The first promise that a report breaks.
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
            // Far more than the deadline: the machine may be busy.
            (report.longest > LIMIT / 4, "a call took long"),
            (report.left > 0, "records are left"),
            (report.counted_lost > 0, "records are counted as lost"),
            (
                setting == Setting::Publishing && !report.connected,
                "the connection to the broker was lost",
            ),
            (
                must_report && !is_reported,
                "it was not reported as what it is",
            ),
            (
                must_report && report.log.is_empty(),
                "the log does not say it",
            ),
        ]
        .into_iter()
        .find_map(|(is_so, what)| is_so.then_some(what))
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

/// The result of a program and its messages.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub published: usize,
    /// Calls of `publish` that failed, and messages whose token did.
    refused: usize,
    /// Messages at QoS 1 and 2 that did not arrive, of those that the promises cover.
    lost: Vec<String>,
    /// The number of others that did not: kept in a program that was killed, or in a Redis that lost its contents.
    uncovered: usize,
    /// Messages at QoS 2 that arrived more than once.
    twice: Vec<String>,
    /// Those of which that is known to be so: Redis took no writes when the waiting one became a sent one.
    twice_uncovered: usize,
    altered: usize,
    /// The time of the longest call of the persistence.
    longest: Duration,
    /// The connection to the broker was never lost.
    connected: bool,
    /// Records that are in Redis when all has arrived.
    left: usize,
    /// Records that the persistence counted as lost.
    counted_lost: u64,
    /// The time from the end of the fault until Redis had everything.
    recovered: Duration,
    /// The kinds of error in the metrics.
    kinds: Vec<String>,
    /// The line of the log that begins the outage.
    log: String,
}

impl Report {
    /// The columns of the table.
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
            self.left.to_string(),
            self.kinds.join(", "),
            self.log.clone(),
        ]
    }

    fn has_one_of(&self, kinds: &[&str]) -> bool {
        self.kinds.iter().any(|kind| kinds.contains(&kind.as_str()))
    }
}

/// Prints every fault in every setting, as Markdown. Returns whether all of ours are clean.
pub fn print() -> bool {
    let ours = Setting::ALL.map(|setting| Run::all(setting).collect::<Vec<_>>());
    let direct = Run::kept_by(Keeper::Direct, Setting::Publishing);
    let mut runs: Vec<Run> = ours.concat().into_iter().chain(direct).collect();
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

/// Runs as many at a time as there are cores.
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
