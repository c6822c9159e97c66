//! One case: kills the program as ordered, runs it again until every message has completed, and accounts for its messages.

use std::{
    collections::{HashMap, HashSet},
    env,
    fmt::Write,
    io::Write as _,
    path::{Path, PathBuf},
    process::{ChildStdin, ExitStatus},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use paho_mqtt_redis::Durability;

use super::{COLUMNS, Row, Servers, Store, boards::Boards};
use crate::{
    LIMIT,
    broker::{Action, Broker, Direction, Kind, Packet},
    harness::{
        Balance, Id, Inbound, Kill, Victim,
        child::{Child, Runs, was_killed},
        killing::REDIS_KILLED,
        ledger::named,
        lines,
        messages::{CLIENT, INBOUND, inbound_payload},
        program::{STRIKE, Script, exit},
    },
};

/// Result of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The first run ended before it reached its kill.
    pub unkilled: bool,
    balance: Balance,
    /// Lost because Paho removed the record when the broker had no session.
    discarded: Vec<Id>,
    inbound: Inbound,
    /// Runs that ended by themselves before every message had completed.
    given_up: usize,
    /// Any other error: records that remain, a run that does not end.
    trouble: Option<String>,
    /// Trace of every call and every packet.
    pub trace: String,
}

impl Outcome {
    pub fn cells(&self) -> [usize; COLUMNS.len()] {
        let [lost0, lost1, lost2] = self.balance.lost.each_ref().map(Vec::len);
        let inbound = &self.inbound;
        [
            lost0,
            lost1,
            lost2,
            self.discarded.len(),
            self.balance.repeated[2].len(),
            self.balance.altered.len(),
            self.balance.prefixed.len(),
            inbound.lost.len(),
            // The scripted broker never repeats a message by mistake.
            inbound.twice.len() + inbound.twice_by_broker.len(),
            inbound.lost_by_paho.len(),
            inbound.twice_by_paho.len(),
            self.given_up,
            usize::from(self.trouble.is_some()),
        ]
    }

    pub fn wrong(&self) -> Vec<String> {
        let by_broker = self.inbound.twice_by_broker.clone();
        [
            self.balance.wrong(),
            self.inbound.wrong(),
            named([("inbound sent twice", by_broker)]),
            self.trouble.iter().cloned().collect(),
        ]
        .concat()
    }
}

/// Environment variable with the number of replicas that have to have a record, 1 otherwise.
const REPLICAS: &str = "REPLICAS";

struct Case<'a> {
    row: Row,
    /// One kill for each of the first runs.
    kills: Vec<Kill>,
    broker: Broker,
    runs: Runs,
    /// Redis with a replica, if that is the store.
    boards: Option<&'a mut Boards>,
    /// The first run has reached its kill.
    reached: bool,
}

pub fn run(row: Row, servers: &mut Servers, kills: Vec<Kill>) -> Outcome {
    let broker = Broker::start();
    broker.discard_sessions(row.forgets);
    // Withheld packets leave messages in each state when the connection is lost.
    broker.withhold_nth(Kind::Puback, 2);
    broker.withhold_nth(Kind::Pubrec, 2);
    broker.withhold_nth(Kind::Pubcomp, 2);
    broker.when(nth(2, |kind| kind == Kind::Connect), vec![Action::Release]);
    let mut runs = Runs::new(&broker.url(), "", row.versions.levels());
    runs.orders.client = row.client;
    runs.orders.victim = row.victim;
    let boards = prepare(row.store, servers, &mut runs);
    let mut case = Case {
        row,
        kills,
        broker,
        runs,
        boards,
        reached: false,
    };
    case.run()
}

/// Empties the store, and sets the orders that depend on it.
fn prepare<'a>(store: Store, servers: &'a mut Servers, runs: &mut Runs) -> Option<&'a mut Boards> {
    let orders = &mut runs.orders;
    match servers {
        Servers::Files => {
            let files = runs.folder.path().join("files");
            std::fs::create_dir(&files).expect("a folder");
            orders.store = files.display().to_string();
            orders.records.clone_from(&orders.store);
            None
        }
        Servers::One(redis) => {
            // Ports are reused, and with them the keys of earlier cases.
            redis::cmd("FLUSHALL")
                .exec(&mut redis.connection())
                .expect("Redis answers");
            orders.store = redis.url();
            orders.records = redis.url();
            match store {
                Store::Redis { tcp, pipelined } => {
                    if pipelined {
                        orders.durability = Durability::Pipelined.to_string();
                    }
                    if tcp {
                        orders.store = redis.tcp_url();
                    }
                }
                _ => orders.durability = Durability::Synced.to_string(),
            }
            None
        }
        Servers::Boards(boards) => {
            boards.clear();
            let socket = socket(runs);
            boards.link_socket(&socket);
            let orders = &mut runs.orders;
            orders.store = boards.url();
            orders.records = format!("unix://{}", socket.display());
            let replicas = env::var(REPLICAS).ok();
            orders.replicas = replicas.map_or(1, |number| number.parse().expect("a number"));
            if orders.victim == Victim::Redis {
                // A program that lives would write from its memory what the replica lacks.
                orders.cache_limit = 0;
            }
            Some(boards)
        }
    }
}

/// Link to the socket of the master.
fn socket(runs: &Runs) -> PathBuf {
    runs.folder.path().join("redis.sock")
}

impl Case<'_> {
    fn run(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let last = self.kills.len() + 5;
        for run in 0..=last {
            let status = self.run_once();
            self.runs.ends.push(status);
            match status.code() {
                // The broker may still have inbound messages, which it sends to the next run.
                Some(exit::DONE) if run == last || self.broker.has_delivered_all(CLIENT) => break,
                Some(exit::DONE) => {}
                Some(exit::REMAINING) => {
                    let remaining = self.runs.folder.path().join("remaining");
                    let remaining = std::fs::read_to_string(remaining).expect("was written");
                    outcome.trouble = Some(format!("records remain: {remaining}"));
                    break;
                }
                None if was_killed(status) && self.may_die(run) => {}
                // The next run completes the messages; without one, the case does not end.
                Some(exit::GIVEN_UP | exit::STUCK) if run < last => outcome.given_up += 1,
                _ => outcome.trouble = Some(format!("run {run} ended with {status}")),
            }
        }
        outcome.unkilled = !self.reached;
        let mut ledger = self.runs.ledger.lock().unwrap();
        for accepted in self.broker.accepted() {
            if !accepted.topic.starts_with("hang up/") {
                ledger.arrive(&accepted.topic, &accepted.payload, Some(accepted.qos));
            }
        }
        outcome.balance = ledger.balance();
        drop(ledger);
        if self.row.forgets {
            let removed = self.removed_last();
            for lost in &mut outcome.balance.lost {
                let discarded = lost.extract_if(.., |id| removed.contains(&id.to_string()));
                outcome.discarded.extend(discarded);
            }
        }
        let faults = self.broker.faults();
        if !faults.is_empty() {
            outcome.trouble = Some(faults.join(", "));
        }
        outcome.inbound = self.inbound();
        outcome.trace = self.trace();
        outcome
    }

    fn kill(&self, run: usize) -> Kill {
        self.kills.get(run).copied().unwrap_or(Kill::Never)
    }

    /// Returns true if this run is one that is killed.
    fn may_die(&self, run: usize) -> bool {
        self.kill(run) != Kill::Never && self.row.victim != Victim::Redis
    }

    fn run_once(&mut self) -> ExitStatus {
        let run = self.runs.ends.len();
        let kill = self.kill(run);
        self.runs.orders.master = self.boards.as_ref().map(|boards| boards.master());
        let input = Arc::new(Mutex::new(None::<ChildStdin>));
        let strike = {
            let input = Arc::clone(&input);
            move || {
                if let Some(input) = &mut *input.lock().unwrap() {
                    // Fails if the program has ended.
                    let _ = writeln!(input, "{STRIKE}");
                }
            }
        };
        if let Kill::Packet(n) = kill {
            let mut is_nth = nth(n, |_| true);
            if self.row.victim == Victim::Redis {
                // The program lives on, and needs the answer to the packet.
                let strikes = move |packet: &Packet| {
                    if is_nth(packet) {
                        strike();
                    }
                    false
                };
                self.broker.when(strikes, Vec::new());
            } else {
                self.broker
                    .when(is_nth, vec![Action::Run(Box::new(strike))]);
            }
        }
        let sign = format!("hang up/{run}");
        // A restored message does not count for the run that restored it.
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        self.broker.when(
            move |packet| packet.topic == sign && !over.load(Ordering::Relaxed),
            vec![Action::Drop, Action::Refuse(2)],
        );
        let deliver = |number| Action::Deliver {
            topic: INBOUND,
            payload: inbound_payload(number, run),
            qos: 2,
        };
        self.broker.when(
            |packet| packet.kind == Kind::Subscribe,
            vec![deliver(1), deliver(2)],
        );

        // The lock is kept until the input exists, so that nothing can strike before.
        let mut guard = input.lock().unwrap();
        let mut child = self.runs.start(Script::Deterministic, kill);
        *guard = child.input.take();
        drop(guard);
        let status = self.wait(&mut child, kill);
        self.broker.wait_gone(CLIENT);
        ended.store(true, Ordering::Relaxed);
        status
    }

    /// Waits for the end of a run. If Redis dies in it, or with it, the replica takes over.
    fn wait(&mut self, child: &mut Child, kill: Kill) -> ExitStatus {
        let socket = socket(&self.runs);
        let is_first = self.runs.ends.is_empty();
        if self.row.victim == Victim::Redis && kill != Kill::Never {
            // There is no report if the run ends before its kill.
            if child.answer(LIMIT * 3).as_deref() == Some(REDIS_KILLED) {
                self.reached |= is_first;
                self.fail_over(&socket);
            }
            return child.wait();
        }
        let status = child.wait();
        if was_killed(status) {
            self.reached |= is_first;
            self.fail_over(&socket);
        }
        status
    }

    fn fail_over(&mut self, socket: &Path) {
        if let Some(boards) = &mut self.boards {
            boards.fail_over(socket);
        }
    }

    fn inbound(&self) -> Inbound {
        let mut sent: Vec<String> = Vec::new();
        // Discarding a session also discards the messages in flight.
        let mut discarded = HashSet::new();
        for seen in self.broker.seen() {
            if seen.direction != Direction::ToClient {
                continue;
            }
            let packet = seen.packet;
            if packet.kind == Kind::Connack && !packet.session_present {
                discarded.extend(sent.iter().cloned());
            }
            let text = String::from_utf8_lossy(&packet.payload).into_owned();
            if packet.kind == Kind::Publish && !sent.contains(&text) {
                sent.push(text);
            }
        }
        self.runs
            .inbound(self.row.versions, &self.kills, &sent, &discarded)
    }

    fn calls(&self, run: usize) -> Vec<String> {
        lines(&self.runs.folder.path().join(format!("trace-{run}")))
    }

    fn trace(&self) -> String {
        let session = if self.row.forgets {
            "forgotten"
        } else {
            "kept"
        };
        let mut trace = format!(
            "{:?}, {:?} killed {:?}, session {session}\n",
            self.row.versions, self.row.victim, self.kills
        );
        let mut section = |heading: &str, lines: Vec<String>| {
            writeln!(trace, "{heading}:").unwrap();
            for line in lines {
                writeln!(trace, "  {line}").unwrap();
            }
        };
        for (run, end) in self.runs.ends.iter().enumerate() {
            section(&format!("calls of run {run}, {end}"), self.calls(run));
        }
        let received = lines(&self.runs.folder.path().join("received"));
        section("received, each with its run", received);
        let seen = self.broker.seen().into_iter();
        let packets = seen.map(|seen| format!("{:?} {:?}", seen.direction, seen.packet));
        section("packets", packets.collect());
        trace
    }

    /// Messages whose sent PUBLISH Paho has removed in one of the runs.
    fn removed_last(&self) -> HashSet<String> {
        let mut keys = HashMap::new();
        let mut removed = HashSet::new();
        for line in (0..self.runs.ends.len()).flat_map(|run| self.calls(run)) {
            let mut words = line.split(' ').skip(1);
            let (call, key, name) = (words.next(), words.next(), words.next());
            let Some(key) = key.filter(|key| key.starts_with("s-") || key.starts_with("s5-"))
            else {
                continue;
            };
            match (call, name) {
                (Some("put"), Some(name)) => {
                    removed.remove(name);
                    keys.insert(key.to_owned(), name.to_owned());
                }
                (Some("remove"), _) => removed.extend(keys.remove(key)),
                _ => {}
            }
        }
        removed
    }
}

/// Returns a condition that holds for the n-th packet of a counted kind.
fn nth(n: usize, counts: fn(Kind) -> bool) -> impl FnMut(&Packet) -> bool {
    let mut arrived = 0;
    move |packet| {
        let counted = counts(packet.kind);
        arrived += usize::from(counted);
        counted && arrived == n
    }
}
