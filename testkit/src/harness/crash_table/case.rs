//! One case: kills the program as ordered, runs it again until every message has completed, and accounts for its messages.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    process::ExitStatus,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use paho_mqtt_redis::Durability;

use super::{COLUMNS, Row, Store};
use crate::{
    RedisServer,
    broker::{Action, Broker, Direction, Kind, Packet},
    harness::{
        Balance, Id, Inbound, Kill,
        child::{Runs, was_killed},
        ledger::named,
        lines,
        messages::{CLIENT, INBOUND, inbound_payload},
        program::{Script, exit},
    },
};

/// Result of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The first run ended by itself, before it reached its kill.
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

struct Case {
    row: Row,
    /// One kill for each of the first runs.
    kills: Vec<Kill>,
    broker: Broker,
    runs: Runs,
}

pub fn run(row: Row, redis: Option<&RedisServer>, kills: Vec<Kill>) -> Outcome {
    let broker = Broker::start();
    broker.discard_sessions(row.forgets);
    // Withheld packets leave messages in each state when the connection is lost.
    broker.withhold_nth(Kind::Puback, 2);
    broker.withhold_nth(Kind::Pubrec, 2);
    broker.withhold_nth(Kind::Pubcomp, 2);
    broker.when(nth(2, |kind| kind == Kind::Connect), vec![Action::Release]);
    let url = redis.map(RedisServer::url).unwrap_or_default();
    let mut runs = Runs::new(&broker.url(), &url, row.versions.levels());
    runs.orders.client = row.client;
    if let Some(redis) = redis {
        // Ports are reused, and with them the keys of earlier cases.
        redis::cmd("FLUSHALL")
            .exec(&mut redis.connection())
            .expect("Redis answers");
    }
    if let (Store::Redis { tcp, pipelined }, Some(redis)) = (row.store, redis) {
        if pipelined {
            runs.orders.durability = Durability::Pipelined.to_string();
        }
        if tcp {
            runs.orders.store = redis.tcp_url();
        }
    } else if row.store == Store::Synced {
        runs.orders.durability = Durability::Synced.to_string();
    } else {
        let files = runs.folder.path().join("files");
        std::fs::create_dir(&files).expect("a folder");
        runs.orders.store = files.display().to_string();
        runs.orders.records.clone_from(&runs.orders.store);
    }
    let mut case = Case {
        row,
        kills,
        broker,
        runs,
    };
    case.run()
}

impl Case {
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
                None if was_killed(status) && self.kill(run) != Kill::Never => {}
                // The next run completes the messages; without one, the case does not end.
                Some(exit::GIVEN_UP | exit::STUCK) if run < last => outcome.given_up += 1,
                _ => outcome.trouble = Some(format!("run {run} ended with {status}")),
            }
        }
        outcome.unkilled = !was_killed(self.runs.ends[0]);
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

    fn run_once(&self) -> ExitStatus {
        let run = self.runs.ends.len();
        let kill = self.kill(run);
        let lifeline = Arc::new(Mutex::new(None));
        let cut_lifeline = {
            let lifeline = Arc::clone(&lifeline);
            move || drop(lifeline.lock().unwrap().take())
        };
        if let Kill::Packet(n) = kill {
            let cut = Action::Run(Box::new(cut_lifeline));
            self.broker.when(nth(n, |_| true), vec![cut]);
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

        // The lock is kept until the lifeline exists, so that it cannot be cut before.
        let mut guard = lifeline.lock().unwrap();
        let mut child = self.runs.start(Script::Deterministic, kill);
        *guard = child.input.take();
        drop(guard);
        let status = child.wait();
        self.broker.wait_gone(CLIENT);
        ended.store(true, Ordering::Relaxed);
        status
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
            "{:?}, killed {:?}, session {session}\n",
            self.row.versions, self.kills
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
