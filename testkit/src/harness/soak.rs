//! Many clients for a long time, with one fault after another.

mod program;
mod scraper;

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

pub use program::run as run_program;

use super::{
    Balance, ClientKind, Ledger,
    child::Child,
    faults::{FAULTS, Fault, Site},
    messages::TOPIC,
    program::exit,
};
use crate::{LIMIT, Mosquitto, Proxy, Subscriber, child::program, eventually, random::Random};
pub(super) use program::Orders;
use scraper::Scraper;

/// Clients of the program that runs throughout, and of the one that is killed and loses its connections.
const STEADY: Range<usize> = 0..20;
const RESTLESS: Range<usize> = 20..23;
/// Interval between two messages of each program.
const INTERVAL: Duration = Duration::from_micros(3_500);
const RESTLESS_INTERVAL: Duration = Duration::from_millis(20);
/// Longest pause of the broker: shorter than the keep-alive, since Paho frees messages that it has yet to send if it closes a
/// connection.
const LONGEST_PAUSE: Duration = Duration::from_millis(1_200);
/// Size from which the AOF of Redis is rewritten: the fault `LOADING` loads a command in 0.1 ms, and a KiB has about 10 of them, and
/// every start of Redis has a limit.
const LONGEST_AOF: u64 = 1 << 20;
/// Time of the first measurement of the memory.
const WARM_UP: Duration = Duration::from_secs(60);
/// Disables the per-thread caches of the C library: with this many threads they grow for minutes and hide the memory that the program
/// itself keeps.
const NO_CACHES: &str = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";

/// Result of a soak.
#[derive(Debug, Default)]
pub struct Outcome {
    pub faults: BTreeMap<&'static str, usize>,
    pub balance: Balance,
    /// Hashes that remain in Redis at the end.
    remaining: usize,
    /// Records that the persistences counted as lost.
    counted_lost: u64,
    /// Scrapes of the programs, each of which accounted for every message.
    pub scrapes: usize,
    longest: Duration,
    /// Number of times that the steady and the restless program ended because a write to the broker failed midway.
    given_up: [usize; 2],
    /// Resident memory of the steady program after the first minute, or at the start of a shorter soak, and at the end; and the part
    /// that it had allocated.
    resident: (usize, usize),
    allocated: (usize, usize),
    trouble: Vec<String>,
}

#[derive(Clone, Copy)]
enum Kind {
    Redis(&'static Fault),
    BrokerStopped,
    BrokerPaused,
    ConnectionCut,
    ProgramKilled,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Redis(fault) => fault.name,
            Self::BrokerStopped => "broker stopped and started",
            Self::BrokerPaused => "broker stands still",
            Self::ConnectionCut => "connections to the broker cut",
            Self::ProgramKilled => "program killed with -9",
        }
    }

    /// All kinds, except faults of Redis that must happen in the program itself or before it starts.
    fn all() -> Vec<Self> {
        let of_redis = FAULTS
            .iter()
            .filter(|fault| fault.can_be_killed_in && fault.is_covered());
        let others = [
            Self::BrokerStopped,
            Self::BrokerPaused,
            Self::ConnectionCut,
            Self::ProgramKilled,
        ];
        of_redis.map(Self::Redis).chain(others).collect()
    }
}

/// Soaks for this long, and until this many kinds of faults have happened, with a summary per minute. The same seed gives the same
/// faults in the same order.
pub fn run(lasting: Duration, kinds: usize, seed: u64, mut summarize: impl FnMut(&str)) -> Outcome {
    let mut world = World::start();
    // Once both programs answer, they have created their clients.
    world.recover();
    let mut random = Random::of(seed);
    let started = Instant::now();
    let mut summarized = started;
    let mut upcoming: Vec<Kind> = Vec::new();
    let warm_up = WARM_UP.min(lasting / 4);
    while (started.elapsed() < lasting || world.outcome.faults.len() < kinds)
        && world.outcome.trouble.is_empty()
    {
        if upcoming.is_empty() {
            // Every kind comes once before any repeats.
            upcoming = Kind::all();
        }
        let kind = upcoming.swap_remove(random.below(upcoming.len()));
        let meets_broker = random.below(4) == 0;
        let instant = Duration::from_millis(u64::try_from(random.below(600)).expect("small"));
        world.inflict(kind, meets_broker, instant);
        world.recover();
        world.measure(warm_up);
        if summarized.elapsed() >= Duration::from_secs(60) {
            summarized = Instant::now();
            summarize(&world.summary(started.elapsed()));
        }
    }
    world.finish()
}

/// Index of a program in `World::programs`.
const STEADY_ONE: usize = 0;
const RESTLESS_ONE: usize = 1;

/// Parses the report of a program: its longest call, and the number of records that it has counted as lost.
pub(super) fn parse_report(report: &str) -> Option<(Duration, u64)> {
    let numbers = report.split(' ').filter_map(|word| word.parse().ok());
    match numbers.collect::<Vec<u64>>()[..] {
        [longest, lost] => Some((Duration::from_micros(longest), lost)),
        _ => None,
    }
}

fn metrics_socket(folder: &tempfile::TempDir, which: usize) -> PathBuf {
    folder.path().join(format!("metrics-{which}"))
}

struct World {
    site: Site,
    broker: Mosquitto,
    proxy: Proxy,
    subscriber: Subscriber,
    ledger: Arc<Mutex<Ledger>>,
    /// Folder for the standard error of the programs and for the sockets of their metrics.
    folder: tempfile::TempDir,
    scraper: Scraper,
    /// The steady program and the restless one.
    programs: Vec<Child>,
    outcome: Outcome,
}

impl World {
    fn start() -> Self {
        let broker = Mosquitto::start();
        let folder = tempfile::tempdir().expect("a folder");
        let sockets = [STEADY_ONE, RESTLESS_ONE].map(|which| metrics_socket(&folder, which));
        let mut world = Self {
            site: Site::of_all_faults(),
            proxy: Proxy::start(broker.port()),
            // At QoS 0, since after a restart Mosquitto 2.0.11 repeats messages that were incomplete at QoS 2.
            subscriber: Subscriber::start(&broker.url(), TOPIC, 0),
            broker,
            ledger: Arc::default(),
            scraper: Scraper::start(sockets.to_vec()),
            folder,
            programs: Vec::new(),
            outcome: Outcome::default(),
        };
        world.programs = vec![world.start_one(STEADY_ONE), world.start_one(RESTLESS_ONE)];
        world
    }

    fn start_one(&self, which: usize) -> Child {
        let (broker, redis, clients, interval) = if which == STEADY_ONE {
            (self.broker.url(), self.site.socket_url(), STEADY, INTERVAL)
        } else {
            (
                self.proxy.url(),
                self.site.url(),
                RESTLESS,
                RESTLESS_INTERVAL,
            )
        };
        let ledger = self.ledger.lock().unwrap();
        let orders = Orders {
            client: ClientKind::chosen(),
            broker,
            redis,
            replicas: 0,
            first: clients.start,
            numbers: clients.map(|client| ledger.next(client)).collect(),
            interval,
            metrics: metrics_socket(&self.folder, which),
        };
        drop(ledger);
        let mut command = program("soak-program");
        command.env("GLIBC_TUNABLES", NO_CACHES);
        let log = self.folder.path().join(format!("log-{which}"));
        Child::start(command, &orders, &log, &self.ledger)
    }

    fn inflict(&mut self, kind: Kind, meets_broker: bool, instant: Duration) {
        self.count(kind);
        match kind {
            Kind::Redis(fault) => {
                if self.site.redis().aof_size() > LONGEST_AOF {
                    self.site.redis().rewrite_aof();
                }
                (fault.begin)(&mut self.site);
                thread::sleep(instant);
                if meets_broker {
                    self.count(Kind::BrokerPaused);
                    self.broker.pause();
                    thread::sleep(fault.lasts.min(LONGEST_PAUSE));
                    self.broker.resume();
                    thread::sleep(fault.lasts.saturating_sub(LONGEST_PAUSE));
                } else {
                    thread::sleep(fault.lasts);
                }
                (fault.end)(&mut self.site);
            }
            Kind::BrokerStopped => {
                // If a write fails midway, Paho frees messages that it has yet to send, so none may be in flight now.
                for program in &mut self.programs {
                    program.ask("hold");
                }
                self.broker.stop();
                for program in &mut self.programs {
                    program.send("go");
                }
                thread::sleep(instant);
                self.broker.restart();
            }
            Kind::BrokerPaused => {
                self.broker.pause();
                thread::sleep((instant * 6).min(LONGEST_PAUSE));
                self.broker.resume();
            }
            Kind::ConnectionCut => {
                self.proxy.cut();
                thread::sleep(instant);
            }
            Kind::ProgramKilled => {
                // Records that exist only in memory would be lost with the program.
                self.programs[RESTLESS_ONE].ask("flush");
                thread::sleep(instant);
                self.programs[RESTLESS_ONE].kill();
                self.programs[RESTLESS_ONE] = self.start_one(RESTLESS_ONE);
            }
        }
    }

    fn count(&mut self, kind: Kind) {
        *self.outcome.faults.entry(kind.name()).or_default() += 1;
    }

    /// Waits until Redis has every record without a restart. Starts a program again that had to end.
    fn recover(&mut self) {
        for _ in 0..3 {
            let flushed = |program: &mut Child| program.ask("flush").as_deref() == Some("flushed");
            let Some(which) = self.programs.iter_mut().position(|one| !flushed(one)) else {
                return;
            };
            let name = ["steady", "restless"][which];
            let fault = self.programs[which].fault();
            let fault = fault.map(|fault| format!("the program that is {name} {fault}"));
            self.outcome.trouble.extend(fault);
            self.outcome.given_up[which] += 1;
            if which == STEADY_ONE {
                self.outcome.resident = (0, 0);
                self.outcome.allocated = (0, 0);
            }
            self.programs[which] = self.start_one(which);
        }
    }

    fn measure(&mut self, warm_up: Duration) {
        self.count_scrapes();
        self.ledger.lock().unwrap().collect(&self.subscriber);
        let steady = &mut self.programs[STEADY_ONE];
        let allocated = steady.ask("memory").and_then(|bytes| bytes.parse().ok());
        if let (Some(allocated), Some(resident)) = (allocated, steady.resident()) {
            let outcome = &mut self.outcome;
            if outcome.resident.0 == 0 && steady.started.elapsed() >= warm_up {
                (outcome.resident.0, outcome.allocated.0) = (resident, allocated);
            }
            (outcome.resident.1, outcome.allocated.1) = (resident, allocated);
        }
    }

    fn count_scrapes(&mut self) {
        let scrapes = self.scraper.take();
        self.outcome.scrapes += scrapes.checked;
        let wrong = scrapes.wrong.into_iter();
        let wrong = wrong.map(|wrong| format!("a scrape does not add up: {wrong}"));
        self.outcome.trouble.extend(wrong);
    }

    fn summary(&self, elapsed: Duration) -> String {
        let faults: usize = self.outcome.faults.values().sum();
        let balance = self.ledger.lock().unwrap().balance();
        let [_, lost1, lost2] = balance.lost.each_ref().map(Vec::len);
        format!(
            "{} min: {faults} faults, {} accepted, {} in flight, {} twice at QoS 2, {} MiB resident",
            elapsed.as_secs() / 60,
            balance.accepted.iter().sum::<usize>(),
            lost1 + lost2,
            balance.twice(),
            self.outcome.resident.1 >> 20,
        )
    }

    /// Ends a program. One that cannot send a message itself is started again for that.
    fn end(&mut self, which: usize) {
        for _ in 0..3 {
            let (program, outcome) = (&mut self.programs[which], &mut self.outcome);
            program.ask("flush");
            let report = program.ask("report").unwrap_or_default();
            if let Some((longest, lost)) = parse_report(&report) {
                outcome.longest = outcome.longest.max(longest);
                outcome.counted_lost += lost;
            } else {
                outcome.trouble.push(format!("no report: {report:?}"));
            }
            program.send("end");
            let status = program.wait();
            if status.code() != Some(exit::GIVEN_UP) {
                if !status.success() {
                    let trouble = format!("a program ended with {status}");
                    outcome.trouble.push(trouble);
                }
                return;
            }
            outcome.given_up[which] += 1;
            self.programs[which] = self.start_one(which);
        }
        let trouble = "a program gives up each time that it is to end".to_owned();
        self.outcome.trouble.push(trouble);
    }

    fn finish(mut self) -> Outcome {
        self.count_scrapes();
        for which in [STEADY_ONE, RESTLESS_ONE] {
            self.end(which);
        }
        let outcome = &mut self.outcome;
        let mut ledger = self.ledger.lock().unwrap();
        ledger.collect_all(&self.subscriber, LIMIT, |_| true);
        outcome.balance = ledger.balance();
        // Once Redis answers, it has read the remaining requests of dead connections.
        outcome.remaining = eventually(LIMIT, "Redis answers", || {
            let mut connection = self.site.redis().connection();
            let keys = redis::cmd("KEYS").arg("soak-*").query(&mut connection);
            keys.ok().map(|keys: Vec<String>| keys.len())
        });
        drop(ledger);
        self.outcome
    }
}

impl Outcome {
    pub fn accepted(&self) -> usize {
        self.balance.accepted.iter().sum()
    }

    pub fn is_clean(&self) -> bool {
        self.balance.is_clean()
            && self.remaining == 0
            && self.counted_lost == 0
            && self.scrapes > 0
            && self.trouble.is_empty()
    }
}

/// Formats the account as Markdown.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| fault | times |\n|---|--:|")?;
        for (name, times) in &self.faults {
            writeln!(f, "| {name} | {times} |")?;
        }
        let total: usize = self.faults.values().sum();
        writeln!(f, "| all | {total} |\n")?;
        let megabytes =
            |bytes: usize| format!("{}.{:02} MB", bytes / 1_000_000, bytes / 10_000 % 100);
        let both = |(first, last)| format!("{}, {}", megabytes(first), megabytes(last));
        let [lost0, lost1, lost2] = self.balance.lost.each_ref().map(Vec::len);
        let altered = self.balance.altered.len() + self.balance.prefixed.len();
        let longest = self.longest.as_secs_f64() * 1000.0;
        let [steady, restless] = self.given_up;
        writeln!(f, "| account | |\n|---|--:|")?;
        for (name, value) in [
            ("accepted messages", self.accepted().to_string()),
            ("lost, QoS 1 and 2", (lost1 + lost2).to_string()),
            ("twice, QoS 2", self.balance.twice().to_string()),
            ("altered", altered.to_string()),
            (
                "again, QoS 1, which is allowed",
                self.balance.repeated[1].len().to_string(),
            ),
            ("lost, QoS 0, which is allowed", lost0.to_string()),
            ("hashes remaining in Redis", self.remaining.to_string()),
            ("records counted as lost", self.counted_lost.to_string()),
            (
                "scrapes that account for every message",
                self.scrapes.to_string(),
            ),
            ("longest call", format!("{longest:.0} ms")),
            (
                "ends after a broken write, steady and restless program",
                format!("{steady}, {restless}"),
            ),
            (
                "resident memory of the steady program, first and last",
                both(self.resident),
            ),
            ("allocated part of it, first and last", both(self.allocated)),
        ] {
            writeln!(f, "| {name} | {value} |")?;
        }
        for trouble in &self.trouble {
            writeln!(f, "\n{trouble}")?;
        }
        Ok(())
    }
}

/// Soaks and prints the account. Returns true if it is clean.
pub fn print(minutes: u64, seed: u64) -> bool {
    let lasting = Duration::from_secs(minutes * 60);
    let outcome = run(lasting, 0, seed, |line| println!("{line}"));
    print!("{outcome}");
    if !outcome.is_clean() {
        eprintln!("{outcome:#?}");
    }
    outcome.is_clean()
}
