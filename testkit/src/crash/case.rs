//! One life of the program: killed as asked for, run again until everything is through, and then the account.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
    fs::File,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Kill,
    child::{CLIENT, INBOUND, Orders, TOPIC, exit},
    inbound::{self, End, Inbound},
    is_whole, lines, qos,
};
use crate::{
    RedisServer,
    broker::{Action, Broker, Direction, Kind},
    child::program,
};

/// What the client is created for, and what it connects with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    V5,
    V3,
    /// Created for the default, which is 5, and connected with 3.1.1.
    Default3,
}

impl Versions {
    /// As protocol levels, where zero is the default.
    fn levels(self) -> (u32, u32) {
        match self {
            Self::V5 => (5, 5),
            Self::V3 => (4, 4),
            Self::Default3 => (0, 4),
        }
    }
}

pub struct Case<'a> {
    /// None for Paho's own files.
    pub redis: Option<&'a RedisServer>,
    /// Whether the program gets there over TCP.
    pub tcp: bool,
    pub pipelined: bool,
    pub versions: Versions,
    /// Whether the broker forgets the session at each connect.
    pub forgets: bool,
    /// Where it is killed in each run; it is not in those that follow.
    pub kills: Vec<Kill>,
}

/// What became of the messages that were accepted.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether its first run ended by itself, before it came to its kill.
    pub unharmed: bool,
    /// By QoS.
    pub lost: [Vec<String>; 3],
    /// Lost too, but since Paho removed the record of its own accord when the broker had no session.
    pub discarded: Vec<String>,
    /// At QoS 2.
    pub twice: Vec<String>,
    pub altered: Vec<String>,
    /// With one byte too many in front, and otherwise as they were.
    pub prefixed: Vec<String>,
    /// What the program was to receive.
    pub inbound: Inbound,
    /// Runs that ended by themselves before everything was through.
    pub given_up: usize,
    /// What else went wrong: records that stay, a run that does not end.
    pub trouble: Option<String>,
    /// Every call and every packet.
    pub story: String,
}

impl Case<'_> {
    /// Runs it in `folder`, which is empty.
    pub fn run(&self, folder: &Path) -> Outcome {
        if let Some(redis) = self.redis {
            // Ports come back, and with them the keys of the cases before.
            redis::cmd("FLUSHALL")
                .exec(&mut redis.connection())
                .expect("Redis answers");
        }
        let broker = Broker::start();
        broker.forget_sessions(self.forgets);
        // So that the loss of the connection finds messages in each state; it would find none without an end later on.
        broker.withhold_nth(Kind::Puback, 2);
        broker.withhold_nth(Kind::Pubrec, 2);
        broker.withhold_nth(Kind::Pubcomp, 2);
        broker.when(nth(2, |kind| kind == Kind::Connect), vec![Action::Release]);

        let mut outcome = Outcome::default();
        let mut ends = Vec::new();
        let last = self.kills.len() + 5;
        for run in 0..=last {
            let kill = self.kills.get(run).copied().unwrap_or(Kill::Never);
            let status = self.start(run, kill, &broker, folder);
            ends.push(status);
            match status.code() {
                // What it was to receive may still be with the broker, which sends it to the next run.
                Some(exit::DONE) if run == last || broker.has_delivered_all(CLIENT) => break,
                Some(exit::DONE) => {}
                Some(exit::LEFT) => {
                    let left = std::fs::read_to_string(folder.join("left")).expect("was written");
                    outcome.trouble = Some(format!("records are left: {left}"));
                    break;
                }
                None if status.signal() == Some(libc::SIGKILL) && kill != Kill::Never => {}
                // The next run makes up for it; if there is none, it does not come to an end.
                Some(exit::GIVEN_UP | exit::STUCK) if run < last => outcome.given_up += 1,
                _ => outcome.trouble = Some(format!("run {run} ended with {status}")),
            }
        }
        outcome.unharmed = ends[0].signal() != Some(libc::SIGKILL);
        let removed = removed_last(folder, ends.len());
        self.account(&broker, folder, &removed, &mut outcome);
        outcome.inbound = self.inbound(&broker, folder, &ends);
        outcome.story = self.story(&broker, folder, &ends);
        outcome
    }

    fn start(&self, run: usize, kill: Kill, broker: &Broker, folder: &Path) -> ExitStatus {
        let (created, connected) = self.versions.levels();
        let records = match self.redis {
            Some(redis) => redis.url(),
            None => folder.join("files").display().to_string(),
        };
        let tcp = self.redis.filter(|_| self.tcp);
        let store = tcp.map_or_else(|| records.clone(), RedisServer::tcp_url);
        let orders = Orders {
            broker: broker.url(),
            store,
            records,
            pipelined: self.pipelined,
            created,
            connected,
            kill,
            folder: folder.to_owned(),
            run,
        };
        let lifeline = Arc::new(Mutex::new(None));
        let cut_lifeline = {
            let lifeline = Arc::clone(&lifeline);
            move || drop(lifeline.lock().unwrap().take())
        };
        if let Kill::Packet(n) = kill {
            broker.when(nth(n, |_| true), vec![Action::Run(Box::new(cut_lifeline))]);
        }
        let sign = format!("hang up/{run}");
        // One that was restored is not for the run that restored it.
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        broker.when(
            move |packet| packet.topic == sign && !over.load(Ordering::Relaxed),
            vec![Action::Drop, Action::Refuse(2)],
        );
        let deliver = |number| Action::Deliver {
            topic: INBOUND,
            payload: inbound::payload(number, run),
            qos: 2,
        };
        broker.when(
            |packet| packet.kind == Kind::Subscribe,
            vec![deliver(1), deliver(2)],
        );

        // The lock is held until the lifeline is there, so that it cannot be cut before.
        let mut held = lifeline.lock().unwrap();
        let log = || File::create(folder.join(format!("log-{run}"))).expect("a file");
        let mut child = program("crash-program")
            .envs(orders.variables())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log())
            .spawn()
            .expect("the program can be run");
        *held = child.stdin.take();
        drop(held);
        let status = child.wait().expect("a child can be waited for");
        broker.wait_gone(CLIENT);
        ended.store(true, Ordering::Relaxed);
        status
    }

    fn account(
        &self,
        broker: &Broker,
        folder: &Path,
        removed: &HashSet<String>,
        outcome: &mut Outcome,
    ) {
        let mut arrived: HashMap<String, usize> = HashMap::new();
        for accepted in broker.accepted() {
            let text = String::from_utf8_lossy(&accepted.payload).into_owned();
            if accepted.topic.starts_with("hang up/") {
                continue;
            }
            let is_right = |text: &str| {
                accepted.topic == TOPIC && is_whole(text) && usize::from(accepted.qos) == qos(text)
            };
            let shown = || format!("{} {}", accepted.topic, accepted.payload.escape_ascii());
            // A message with a byte in front of it has arrived, though not as it was.
            let text = match text.strip_prefix('\0') {
                Some(rest) if is_right(rest) => {
                    outcome.prefixed.push(shown());
                    rest.to_owned()
                }
                _ if is_right(&text) => text,
                _ => {
                    outcome.altered.push(shown());
                    text
                }
            };
            *arrived.entry(text).or_default() += 1;
        }
        for text in lines(&folder.join("ledger")) {
            let name = text.split('|').next().unwrap_or_default().to_owned();
            match arrived.get(&text).copied().unwrap_or_default() {
                0 if self.forgets && removed.contains(&name) => outcome.discarded.push(name),
                0 => outcome.lost[qos(&text)].push(name),
                1 => {}
                times if qos(&text) == 2 => outcome.twice.push(format!("{name} {times} times")),
                _ => {}
            }
        }
        let faults = broker.faults();
        if !faults.is_empty() {
            outcome.trouble = Some(faults.join(", "));
        }
    }

    fn inbound(&self, broker: &Broker, folder: &Path, ends: &[ExitStatus]) -> Inbound {
        let mut sent: Vec<String> = Vec::new();
        // A session that is forgotten takes along what was under way.
        let mut discarded = HashSet::new();
        for seen in broker.seen() {
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
        let ends: Vec<End> = ends
            .iter()
            .enumerate()
            .map(|(run, status)| End {
                kill: self.kills.get(run).copied().unwrap_or(Kill::Never),
                done: status.success(),
            })
            .collect();
        Inbound::account(self.versions, folder, &ends, &sent, &discarded)
    }

    fn story(&self, broker: &Broker, folder: &Path, ends: &[ExitStatus]) -> String {
        let mut story = format!(
            "{:?}, killed {:?}, session {}\n",
            self.versions,
            self.kills,
            if self.forgets { "forgotten" } else { "kept" }
        );
        for (run, end) in ends.iter().enumerate() {
            writeln!(story, "calls of run {run}, {end}:").unwrap();
            for line in lines(&trace(folder, run)) {
                writeln!(story, "  {line}").unwrap();
            }
        }
        inbound::write_story(&mut story, folder);
        writeln!(story, "packets:").unwrap();
        for seen in broker.seen() {
            writeln!(story, "  {:?} {:?}", seen.direction, seen.packet).unwrap();
        }
        story
    }
}

/// Holds for the n-th packet of a kind that counts.
fn nth(n: usize, counts: fn(Kind) -> bool) -> impl FnMut(&crate::broker::Packet) -> bool {
    let mut arrived = 0;
    move |packet| {
        let counted = counts(packet.kind);
        arrived += usize::from(counted);
        counted && arrived == n
    }
}

fn trace(folder: &Path, run: usize) -> PathBuf {
    folder.join(format!("trace-{run}"))
}

/// The messages whose sent PUBLISH Paho has removed in one of so many runs.
fn removed_last(folder: &Path, runs: usize) -> HashSet<String> {
    let mut keys = HashMap::new();
    let mut removed = HashSet::new();
    for line in (0..runs).flat_map(|run| lines(&trace(folder, run))) {
        let mut words = line.split(' ').skip(1);
        let (call, key, name) = (words.next(), words.next(), words.next());
        let Some(key) = key.filter(|key| key.starts_with("s-") || key.starts_with("s5-")) else {
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
