//! Has everything go wrong, one thing after the other, and draws up the account.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::{
    TOPIC,
    account::{Account, Balance},
    program::Orders,
    running::Running,
};
use crate::{
    LIMIT, Mosquitto, Proxy, Subscriber, eventually,
    faults::{FAULTS, Fault, Site},
    random::Random,
};

/// The clients of the program that lives throughout, and of the one that is killed and loses its connections.
const STEADY: usize = 20;
const RESTLESS: usize = 3;
/// Between two messages of each program.
const PAUSE: Duration = Duration::from_micros(3_500);
const RESTLESS_PAUSE: Duration = Duration::from_millis(20);
/// How long the broker stands still: less than the keep-alive, since Paho frees what it is still to send where a connection is
/// given up.
const LONGEST_PAUSE: Duration = Duration::from_millis(1_200);
/// When the memory is looked at for the first time.
const WARM_UP: Duration = Duration::from_secs(60);

/// How long, and which: the same seed has the same things go wrong in the same order.
pub struct Soak {
    pub lasting: Duration,
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub faults: BTreeMap<&'static str, usize>,
    pub accepted: usize,
    pub balance: Balance,
    pub altered: usize,
    /// Records that are in Redis at the end, and what the persistences counted as lost.
    pub left: usize,
    pub counted_lost: u64,
    pub longest: Duration,
    /// How often the program that lives throughout did not, and the other, since a write to the broker was broken off.
    pub given_up: usize,
    pub restless_given_up: usize,
    /// Its resident memory after the first minute, or at the start of a shorter soak, and at the end; and what of it the
    /// program had asked for.
    pub resident: (usize, usize),
    pub allocated: (usize, usize),
    pub trouble: Vec<String>,
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

    /// Those of Redis that need not happen in the program itself or before it starts.
    fn all() -> Vec<Self> {
        let of_redis = FAULTS.iter().filter(|fault| fault.can_be_killed_in);
        let others = [
            Self::BrokerStopped,
            Self::BrokerPaused,
            Self::ConnectionCut,
            Self::ProgramKilled,
        ];
        of_redis.map(Self::Redis).chain(others).collect()
    }
}

/// Tells of it while it goes on.
pub fn run(soak: &Soak, mut tell: impl FnMut(&str)) -> Outcome {
    let mut world = World::start();
    // Both programs have created their clients when they have answered.
    world.recover();
    let mut random = Random::of(soak.seed);
    let started = Instant::now();
    let mut told = started;
    let mut left: Vec<Kind> = Vec::new();
    let warm_up = WARM_UP.min(soak.lasting / 4);
    while started.elapsed() < soak.lasting && world.outcome.trouble.is_empty() {
        if left.is_empty() {
            // Each once before one comes again.
            left = Kind::all();
        }
        let kind = left.swap_remove(random.below(left.len()));
        let meets_broker = random.below(4) == 0;
        let instant = Duration::from_millis(u64::try_from(random.below(600)).expect("small"));
        world.suffer(kind, meets_broker, instant);
        world.recover();
        world.take_stock(warm_up);
        if told.elapsed() >= Duration::from_secs(60) {
            told = Instant::now();
            tell(&world.summary(started.elapsed()));
        }
    }
    world.finish()
}

struct World {
    site: Site,
    broker: Mosquitto,
    proxy: Proxy,
    subscriber: Subscriber,
    account: Arc<Mutex<Account>>,
    steady: Running,
    restless: Running,
    outcome: Outcome,
}

impl World {
    fn start() -> Self {
        let site = Site::of_all_faults();
        let broker = Mosquitto::start();
        let proxy = Proxy::start(broker.port());
        // At QoS 0, since Mosquitto 2.0.11 repeats what was half done at QoS 2 when it is stopped and started.
        let subscriber = Subscriber::start(&broker.url(), TOPIC, 0);
        let account = Arc::<Mutex<Account>>::default();
        let steady = start_steady(&site, &broker, &account);
        let restless = start_restless(&site, &proxy, &account);
        Self {
            site,
            broker,
            proxy,
            subscriber,
            account,
            steady,
            restless,
            outcome: Outcome::default(),
        }
    }

    fn suffer(&mut self, kind: Kind, meets_broker: bool, instant: Duration) {
        self.count(kind);
        match kind {
            Kind::Redis(fault) => {
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
                // Paho frees what it is still to send where a write is broken off, so that nothing is to be on its way.
                for program in [&mut self.steady, &mut self.restless] {
                    program.ask("hold");
                }
                self.broker.stop();
                for program in [&mut self.steady, &mut self.restless] {
                    program.tell("go");
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
                // What only the program has would go with it.
                self.restless.ask("flush");
                thread::sleep(instant);
                self.restless.kill();
                self.restless = start_restless(&self.site, &self.proxy, &self.account);
            }
        }
    }

    fn count(&mut self, kind: Kind) {
        *self.outcome.faults.entry(kind.name()).or_default() += 1;
    }

    /// Waits until Redis has everything, by itself. A program that had to give up is started again.
    fn recover(&mut self) {
        for _ in 0..3 {
            if self.steady.ask("flush").as_deref() != Some("flushed") {
                let fault = self.steady.end_soon();
                let fault = fault.map(|fault| format!("the program that is steady {fault}"));
                self.outcome.trouble.extend(fault);
                self.outcome.given_up += 1;
                self.outcome.resident = (0, 0);
                self.outcome.allocated = (0, 0);
                self.steady = start_steady(&self.site, &self.broker, &self.account);
            } else if self.restless.ask("flush").as_deref() != Some("flushed") {
                let fault = self.restless.end_soon();
                let fault = fault.map(|fault| format!("the program that is restless {fault}"));
                self.outcome.trouble.extend(fault);
                self.outcome.restless_given_up += 1;
                self.restless = start_restless(&self.site, &self.proxy, &self.account);
            } else {
                return;
            }
        }
    }

    fn take_stock(&mut self, warm_up: Duration) {
        let mut account = self.account.lock().unwrap();
        for (_, payload) in self.subscriber.take() {
            account.arrive(&payload);
        }
        self.outcome.accepted = account.accepted;
        drop(account);
        let Outcome {
            resident,
            allocated,
            ..
        } = &mut self.outcome;
        if let Some((now_resident, now_allocated)) = self.steady.memory() {
            if resident.0 == 0 && self.steady.started.elapsed() >= warm_up {
                (resident.0, allocated.0) = (now_resident, now_allocated);
            }
            (resident.1, allocated.1) = (now_resident, now_allocated);
        }
    }

    fn summary(&self, elapsed: Duration) -> String {
        let faults: usize = self.outcome.faults.values().sum();
        let balance = self.account.lock().unwrap().balance();
        format!(
            "{} min: {faults} faults, {} accepted, {} under way, {} twice at QoS 2, {} MiB resident",
            elapsed.as_secs() / 60,
            self.outcome.accepted,
            balance.lost.len(),
            balance.twice.len(),
            self.outcome.resident.1 >> 20,
        )
    }

    fn finish(mut self) -> Outcome {
        for program in [&mut self.steady, &mut self.restless] {
            program.ask("flush");
            let report = program.ask("report").unwrap_or_default();
            let numbers: Vec<u64> = report
                .split(' ')
                .filter_map(|word| word.parse().ok())
                .collect();
            if let [longest, lost] = numbers[..] {
                self.outcome.longest = self.outcome.longest.max(Duration::from_micros(longest));
                self.outcome.counted_lost += lost;
            } else {
                self.outcome.trouble.push(format!("no report: {report:?}"));
            }
            program.tell("end");
            let status = program.wait();
            if !status.success() {
                self.outcome
                    .trouble
                    .push(format!("a program ended with {status}"));
            }
        }
        let started = Instant::now();
        while !self.account.lock().unwrap().is_complete() && started.elapsed() < LIMIT {
            thread::park_timeout(Duration::from_millis(20));
            let mut account = self.account.lock().unwrap();
            for (_, payload) in self.subscriber.take() {
                account.arrive(&payload);
            }
        }
        // What the dying connections had sent is read by then.
        self.outcome.left = eventually(LIMIT, "Redis answers", || self.records());
        let account = self.account.lock().unwrap();
        self.outcome.accepted = account.accepted;
        self.outcome.altered = account.altered.len();
        self.outcome.balance = account.balance();
        self.outcome
    }

    fn records(&mut self) -> Option<usize> {
        let mut connection = self.site.redis().connection();
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("soak-*")
            .query(&mut connection)
            .ok()?;
        Some(keys.len())
    }
}

fn start_steady(site: &Site, broker: &Mosquitto, account: &Arc<Mutex<Account>>) -> Running {
    let numbers = (0..STEADY).map(|client| account.lock().unwrap().next(client));
    let orders = Orders {
        broker: broker.url(),
        redis: site.socket_url(),
        first: 0,
        numbers: numbers.collect(),
        pause: PAUSE,
    };
    Running::start(&orders, account)
}

fn start_restless(site: &Site, proxy: &Proxy, account: &Arc<Mutex<Account>>) -> Running {
    let numbers = (STEADY..STEADY + RESTLESS).map(|client| account.lock().unwrap().next(client));
    let orders = Orders {
        broker: proxy.url(),
        redis: site.url(),
        first: STEADY,
        numbers: numbers.collect(),
        pause: RESTLESS_PAUSE,
    };
    Running::start(&orders, account)
}

impl Outcome {
    pub fn is_clean(&self) -> bool {
        self.balance.lost.is_empty()
            && self.balance.twice.is_empty()
            && self.altered == 0
            && self.left == 0
            && self.counted_lost == 0
            && self.trouble.is_empty()
    }
}

/// As Markdown.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what went wrong | times |\n|---|--:|")?;
        for (name, times) in &self.faults {
            writeln!(f, "| {name} | {times} |")?;
        }
        let total: usize = self.faults.values().sum();
        writeln!(f, "| all | {total} |\n")?;
        let megabytes =
            |bytes: usize| format!("{}.{:02} MB", bytes / 1_000_000, bytes / 10_000 % 100);
        let megabytes_of = |(first, last)| format!("{}, {}", megabytes(first), megabytes(last));
        writeln!(f, "| account | |\n|---|--:|")?;
        for (what, value) in [
            ("accepted messages", self.accepted.to_string()),
            ("lost, QoS 1 and 2", self.balance.lost.len().to_string()),
            ("twice, QoS 2", self.balance.twice.len().to_string()),
            ("altered", self.altered.to_string()),
            (
                "again, QoS 1, where it may be",
                self.balance.again.to_string(),
            ),
            (
                "lost, QoS 0, where it may be",
                self.balance.lost_at_qos_0.to_string(),
            ),
            ("hashes left in Redis", self.left.to_string()),
            ("records counted as lost", self.counted_lost.to_string()),
            (
                "longest call",
                format!("{:.0} ms", self.longest.as_secs_f64() * 1000.0),
            ),
            (
                "programs that Paho made give up, the steady and the restless",
                format!("{}, {}", self.given_up, self.restless_given_up),
            ),
            (
                "its resident memory, first and last",
                megabytes_of(self.resident),
            ),
            (
                "what of it the program has asked for",
                megabytes_of(self.allocated),
            ),
        ] {
            writeln!(f, "| {what} | {value} |")?;
        }
        for trouble in &self.trouble {
            writeln!(f, "\n{trouble}")?;
        }
        Ok(())
    }
}
