//! Masters that are killed one after the other, with three sentinels, while clients publish.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{Health, RedisPersistence};

use super::{Balance, ClientKind, Ledger, child::Child, messages::TOPIC, program::exit, soak};
use crate::{
    LIMIT, Mosquitto, Subscriber,
    child::program,
    eventually,
    log::Log,
    random::Random,
    record,
    sentinel::{Replicated, Sentinel},
};

const CLIENTS: usize = 4;
/// A third of the messages is at QoS 0, so that 500 per second remain at QoS 1 and 2.
const INTERVAL: Duration = Duration::from_micros(1_333);
/// Interval between two records of the client that only waits.
const WAITING_INTERVAL: Duration = Duration::from_millis(10);
/// Time by which the replica is behind at every other kill.
const LAG: Duration = Duration::from_millis(100);
/// Two exchanges, of which a call that reads after a wait may make as many.
const LONGEST_CALL: Duration = Duration::from_millis(500);

/// Result of all kills.
#[derive(Debug, Default)]
pub struct Outcome {
    replicas: u32,
    pub kills: usize,
    /// Messages of the program, which has their values in memory.
    pub balance: Balance,
    /// Records of a client without a broker, whose values are only in Redis: all, and those that are lost.
    pub waiting: usize,
    pub lost: usize,
    /// Records that persistences counted as lost.
    pub counted_lost: u64,
    longest: Duration,
    /// Connections that the broker has accepted from the program.
    connections: usize,
    trouble: Vec<String>,
}

/// Client that has no broker and keeps no values in memory.
struct Waiting {
    health: Health,
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<(RedisPersistence, usize, Duration)>,
}

impl Waiting {
    fn start(redis: &str, replicas: u32) -> Self {
        let builder = RedisPersistence::builder().url(redis).replicas(replicas);
        let mut persistence = builder.cache_limit(0).build().expect("good options");
        persistence.open("waiting", "nowhere").expect("opens");
        let health = persistence.health();
        let is_over = Arc::<AtomicBool>::default();
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let (mut count, mut longest) = (0, Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                count += 1;
                let key = format!("q-{count}");
                let value = record(&key, key.as_bytes());
                let started = Instant::now();
                persistence.put(&key, vec![&value]).expect("never refused");
                longest = longest.max(started.elapsed());
                thread::sleep(WAITING_INTERVAL);
            }
            (persistence, count, longest)
        });
        Self {
            health,
            is_over,
            thread,
        }
    }

    fn end(self, outcome: &mut Outcome) {
        self.is_over.store(true, Ordering::Relaxed);
        let (mut persistence, count, longest) = self.thread.join().expect("no panic");
        self.health.flush(LIMIT).expect("Redis is there");
        let found = persistence.keys().expect("the keys").len();
        outcome.waiting = count;
        outcome.lost = count - found;
        outcome.counted_lost += self.health.snapshot().lost_records;
        outcome.longest = outcome.longest.max(longest);
    }
}

/// Kills the master this many times. At every other kill the replica is behind.
pub fn run(kills: usize, replicas: u32, seed: u64, mut summarize: impl FnMut(&str)) -> Outcome {
    let mut both = Replicated::with(&["--appendonly", "yes"]);
    let sentinels = Sentinel::three(both.servers[0].port());
    let url = Sentinel::url_of_all(&sentinels);
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 0);
    let ledger = Arc::<Mutex<Ledger>>::default();
    let folder = tempfile::tempdir().expect("a folder");
    let orders = soak::Orders {
        client: ClientKind::chosen(),
        broker: broker.url(),
        redis: url.clone(),
        replicas,
        first: 0,
        numbers: vec![0; CLIENTS],
        interval: INTERVAL,
        metrics: folder.path().join("metrics"),
    };
    let log = folder.path().join("log");
    let mut publishing = Child::start(program("soak-program"), &orders, &log, &ledger);
    let waiting = Waiting::start(&url, replicas);
    let mut outcome = Outcome {
        replicas,
        ..Outcome::default()
    };
    let mut random = Random::of(seed);
    let mut master = 0;
    while outcome.kills < kills && outcome.trouble.is_empty() {
        publishing.await_accepted(100 + random.below(400));
        if outcome.kills % 2 == 1 {
            both.cut_link(master);
            thread::sleep(LAG);
        }
        both.servers[master].kill();
        outcome.kills += 1;
        let promoted = both.servers[1 - master].port();
        let started = Instant::now();
        eventually(LIMIT, "the failover", || {
            let is_new = |sentinel: &Sentinel| sentinel.master() == promoted;
            sentinels.iter().all(is_new).then_some(())
        });
        let took = started.elapsed();
        both.servers[master].restart();
        master = settled_master(&both, &sentinels);
        // With `replicas`, nothing is confirmed before the old master is back.
        if publishing.ask("flush").as_deref() != Some("flushed") {
            let fault = publishing.fault().unwrap_or_default();
            outcome.trouble.push(format!("no flush: {fault}"));
        }
        if let Err(error) = waiting.health.flush(LIMIT) {
            outcome.trouble.push(format!("no flush: {error}"));
        }
        summarize(&format!("{} killed, failover in {took:?}", outcome.kills));
    }
    waiting.end(&mut outcome);
    let report = publishing.ask("report").unwrap_or_default();
    if let Some((longest, lost)) = soak::parse_report(&report) {
        outcome.longest = outcome.longest.max(longest);
        outcome.counted_lost += lost;
    } else {
        outcome.trouble.push(format!("no report: {report:?}"));
    }
    // Before the end: a client whose connection ends there may connect again.
    outcome.connections = broker.log().matches(" as soak-").count();
    publishing.send("end");
    let status = publishing.wait();
    if status.code() != Some(exit::DONE) {
        let trouble = format!("the program ended with {status}: {}", publishing.log());
        outcome.trouble.push(trouble);
    }
    let mut ledger = ledger.lock().unwrap();
    ledger.collect_all(&subscriber, LIMIT, |_| true);
    outcome.balance = ledger.balance();
    outcome
}

/// Waits until one server is the master for all, and the other its replica, and returns the first. On a busy machine that need not be
/// the one that was promoted.
fn settled_master(both: &Replicated, sentinels: &[Sentinel]) -> usize {
    let master = eventually(LIMIT * 2, "one master and its replica", || {
        (0..2).find(|master| {
            let port = both.servers[*master].port();
            both.is_linked(1 - master) && sentinels.iter().all(|sentinel| sentinel.master() == port)
        })
    });
    sentinels.iter().for_each(Sentinel::wait_for_replica);
    master
}

impl Outcome {
    pub fn is_clean(&self) -> bool {
        self.balance.is_clean()
            && self.counted_lost == self.lost as u64
            && (self.replicas == 0 || self.lost == 0)
            && self.longest < LONGEST_CALL
            && self.connections == CLIENTS
            && self.trouble.is_empty()
    }
}

/// Formats the row of the table.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [_, lost1, lost2] = self.balance.lost.each_ref().map(Vec::len);
        let [_, accepted1, accepted2] = self.balance.accepted;
        write!(
            f,
            "| `replicas({})` | {} | {} | {} | {} | {} | {} | {} | {:.0} ms | {} |",
            self.replicas,
            self.kills,
            accepted1 + accepted2,
            lost1 + lost2,
            self.balance.twice(),
            self.waiting,
            self.lost,
            self.counted_lost,
            self.longest.as_secs_f64() * 1000.0,
            self.connections - CLIENTS.min(self.connections),
        )
    }
}

/// Kills masters without `replicas` and with it, and prints the table. Returns true if it is clean.
pub fn print(kills: usize, seed: u64) -> bool {
    let log = Log::default();
    log.of_the_process();
    println!(
        "| | failovers | messages, QoS 1 and 2 | lost | twice, QoS 2 | records only in Redis | of these lost | counted as lost | \
         longest call | reconnects to the broker |\n|---|{}",
        "--:|".repeat(9)
    );
    let mut is_clean = true;
    for replicas in [0, 1] {
        let before = logged(&log);
        let outcome = run(kills, replicas, seed, |line| eprintln!("{line}"));
        println!("{outcome}");
        let logged = logged(&log) - before;
        // The program has a log of its own.
        let is_logged = logged == outcome.lost;
        if !outcome.is_clean() || !is_logged {
            eprintln!("{logged} records lost in the log; {outcome:#?}");
            is_clean = false;
        }
    }
    is_clean
}

/// Number of records that the log says are lost.
fn logged(log: &Log) -> usize {
    let text = log.text();
    let lines = text
        .lines()
        .filter(|line| line.contains("lost records of which"));
    let counts = lines.filter_map(|line| {
        let (_, count) = line.split_once("records=")?;
        count.split(' ').next()?.parse::<usize>().ok()
    });
    counts.sum()
}
