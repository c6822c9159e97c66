//! What can go wrong with a Redis, and what becomes of a program that publishes meanwhile.
//!
//! Each run is a process of its own: a persistence that does not survive takes nothing else along, and the program can be left
//! without file descriptors.

mod app;
mod arrivals;
mod catalogue;
mod killed;
mod publisher;
mod report;
mod run;
mod site;

use std::{
    env,
    io::Read,
    process::{self, Stdio},
    thread,
    time::{Duration, Instant},
};

pub use catalogue::FAULTS;
pub use report::Report;
pub use site::Site;

use super::{LIMIT, child::program};

/// What the program does while a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// It publishes to a broker that acknowledges.
    Publishing,
    /// It publishes, and the broker is away.
    BrokerAway,
    /// It publishes nothing; what it had published waits for a broker that is away.
    Idle,
    /// It is killed, and started again when the fault is over.
    Killed,
}

impl Setting {
    pub const ALL: [Self; 4] = [Self::Publishing, Self::BrokerAway, Self::Idle, Self::Killed];

    pub fn name(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::BrokerAway => "broker away",
            Self::Idle => "idle",
            Self::Killed => "killed",
        }
    }
}

/// Who keeps the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    Ours,
    Direct,
}

impl Keeper {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Direct => "direct",
        }
    }
}

/// Something that can go wrong.
pub struct Fault {
    pub name: &'static str,
    /// For the Redis server.
    arguments: &'static [&'static str],
    /// What it is told as: one of these, unless a program that publishes may pass it by without noticing.
    pub kinds: &'static [&'static str],
    pub may_pass_unnoticed: bool,
    /// Whether Redis has afterwards what it had before.
    pub keeps: bool,
    /// Whether a program can be killed meanwhile, and another one be started.
    pub can_be_killed_in: bool,
    way: Way,
    /// Redis is not there when the program starts, and comes so much later.
    late: Option<Duration>,
    pub lasts: Duration,
    pub begin: fn(&mut Site),
    pub end: fn(&mut Site),
}

/// How the program gets to Redis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Socket,
    /// Over something that can break in the middle of what is sent.
    Breaking,
}

/// How long a fault lasts at least, in which messages are published.
const DURATION: Duration = Duration::from_millis(400);
/// Shorter than every fault that stops Redis.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The same where it is to outlast the keep-alive.
const LONG: Duration = Duration::from_millis(1_800);
/// How many messages are published before a fault, and after it, at least.
const MESSAGES: usize = 30;

/// What a run is told in its environment.
const ORDER: &str = "FAULT";

/// Runs what the environment orders, and prints what became of it; does nothing where it orders nothing.
pub fn run_ordered() {
    let Ok(order) = env::var(ORDER) else { return };
    let words: Vec<&str> = order.split(',').collect();
    let [index, setting, keeper] = words[..] else {
        panic!("{order:?} is no order");
    };
    let fault = &FAULTS[index.parse::<usize>().expect("a number")];
    let setting = Setting::ALL.into_iter().find(|one| one.name() == setting);
    let setting = setting.expect("a setting");
    let keeper = if keeper == Keeper::Direct.name() {
        Keeper::Direct
    } else {
        Keeper::Ours
    };
    let report = if setting == Setting::Killed {
        killed::run(fault)
    } else {
        run::run(fault, setting, keeper)
    };
    report.print();
    // What is left of a persistence that failed may never come to an end.
    process::exit(0);
}

/// What becomes of it in a process of its own, or how that ended without telling.
pub fn run_apart(fault: &Fault, setting: Setting, keeper: Keeper) -> Result<Report, String> {
    let index = FAULTS
        .iter()
        .position(|one| one.name == fault.name)
        .expect("listed");
    let mut child = program("fault-program")
        .env(
            ORDER,
            format!("{index},{},{}", setting.name(), keeper.name()),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    let mut output = child.stdout.take().expect("piped");
    let mut errors = child.stderr.take().expect("piped");
    let told = thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).map(|_| text)
    });
    let complaints = thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("can be waited for") {
            Some(status) => break status.to_string(),
            None if started.elapsed() > LIMIT * 4 => {
                child.kill().expect("it runs");
                child.wait().expect("it ends");
                break "it stood still".to_owned();
            }
            None => thread::park_timeout(Duration::from_millis(10)),
        }
    };
    let text = told.join().expect("no panic").unwrap_or_default();
    let complaints = complaints.join().expect("no panic").unwrap_or_default();
    Report::read(&text).ok_or(format!("{status}\n{complaints}"))
}
