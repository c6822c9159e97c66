//! Program that is killed at random instants while it publishes to a real broker.

pub(super) mod program;

use std::{
    collections::HashSet, env, fmt, fs, path::Path, process::ExitStatus, thread, time::Duration,
};

use paho_mqtt as mqtt;

use super::{
    Balance, Inbound, Kill, Versions,
    child::{Child, Runs, was_killed},
    connect_options,
    messages::{CLIENT, INBOUND, LAST, TOPIC, inbound_payload},
    program::{Script, exit},
};
use crate::{LIMIT, Mosquitto, Proxy, RedisServer, Subscriber, eventually, random::Random};

/// Microseconds in which a run reads its records and connects. Paho waits for 100,000 of them before it reads the CONNACK.
const START: usize = 110_000;
/// At most this many messages are accepted before a run is killed, and at most these microseconds pass after the last of them.
const FLOW: usize = 60;
const AFTER: usize = 50_000;

/// Row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub versions: Versions,
    /// The connection to the broker breaks now and then before the kill.
    pub breaks: bool,
}

impl Row {
    pub const ALL: [Self; 4] = [
        Self::of(Versions::V5, false),
        Self::of(Versions::V5, true),
        Self::of(Versions::V3, false),
        Self::of(Versions::V3, true),
    ];

    const fn of(versions: Versions, breaks: bool) -> Self {
        Self { versions, breaks }
    }

    /// Kills the program this many times, and then runs it to its end.
    ///
    /// Everything random follows from the seed, except the scheduling of the machine.
    pub fn run(self, rounds: usize, seed: u64) -> Account {
        let broker = Mosquitto::start();
        let subscriber = Subscriber::start(&broker.url(), TOPIC, 2);
        let (version, _) = self.versions.levels();
        // Messages to the program need a session from the beginning.
        let first = client(&broker, CLIENT, version);
        let subscribing = first.subscribe(INBOUND, 2);
        subscribing.wait_for(LIMIT).expect("subscribes");
        first.disconnect(None).wait_for(LIMIT).expect("disconnects");
        drop(first);

        let proxy = Proxy::start(broker.port());
        let redis = RedisServer::start();
        let mut world = World {
            runs: Runs::new(&proxy.url(), &redis.url(), (version, version)),
            proxy,
            _redis: redis,
            sender: client(&broker, "sender", mqtt::MQTT_VERSION_5),
            sent: Vec::new(),
        };
        let mut random = Random::of(seed);
        // A run that ends after a cut is repeated, but not endlessly.
        let mut killed = 0;
        while killed < rounds && world.runs.ends.len() < 2 * rounds {
            killed += usize::from(was_killed(world.round(self.breaks, &mut random)));
        }
        world.finish(&mut random);

        // Messages reach the subscriber in the order in which the broker accepted them, so this one is the last.
        world.send(TOPIC, LAST);
        let arrived = eventually(LIMIT, "the last message arrives", || {
            let messages = subscriber.messages();
            let (_, last) = messages.last()?;
            (last == LAST.as_bytes()).then_some(messages)
        });
        let folder = world.runs.folder.path();
        let account = world.account(self.versions, &arrived);
        if !account.is_clean()
            && let Ok(kept) = env::var("KILLS_KEEP")
        {
            let lines = |lines: Vec<String>| lines.join("\n") + "\n";
            let arrived = arrived
                .iter()
                .map(|(topic, payload)| format!("{topic} {}", payload.escape_ascii()));
            let accepted = world.runs.ledger.lock().unwrap();
            let accepted = accepted.ids().map(|id| id.to_string()).collect();
            fs::write(folder.join("arrived"), lines(arrived.collect())).expect("written");
            fs::write(folder.join("ledger"), lines(accepted)).expect("written");
            fs::write(folder.join("broker"), broker.log()).expect("written");
            keep(folder, Path::new(&kept));
        }
        account
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = if self.breaks { "breaks" } else { "holds" };
        write!(f, "{} | {connection}", self.versions)
    }
}

/// Event that happens to a run.
enum Event {
    Cut,
    Send(usize),
    Kill,
}

struct World {
    runs: Runs,
    proxy: Proxy,
    _redis: RedisServer,
    sender: mqtt::AsyncClient,
    /// Payloads of messages to the program.
    sent: Vec<String>,
}

impl World {
    /// Executes one run up to its end.
    ///
    /// An instant is a number of accepted messages and the microseconds after the last of them, so that a run on a slow machine gets as
    /// far as on a fast one.
    fn round(&mut self, breaks: bool, random: &mut Random) -> ExitStatus {
        self.send_some(random.below(4));
        // Everything is drawn beforehand, so that the sequence does not depend on the course of the run.
        let seed = random.draw();
        let kill = if random.below(4) == 0 {
            (0, random.below(START))
        } else {
            (1 + random.below(FLOW), random.below(AFTER))
        };
        let before_kill = |random: &mut Random| {
            if kill.0 > 0 && random.below(2) == 0 {
                (0, random.below(START))
            } else {
                (random.below(kill.0 + 1), random.below(kill.1 + 1))
            }
        };
        let mut events = vec![
            (before_kill(random), Event::Send(random.below(6))),
            (kill, Event::Kill),
        ];
        if breaks && random.below(2) == 0 {
            events.push((before_kill(random), Event::Cut));
        }
        events.sort_by_key(|(instant, _)| *instant);

        let mut child = self.start(seed, false);
        let (mut accepted, mut passed) = (0, 0);
        for ((number, microseconds), event) in events {
            if number > accepted {
                child.await_accepted(number - accepted);
                (accepted, passed) = (number, 0);
            }
            let pause = u64::try_from(microseconds - passed).expect("small");
            thread::sleep(Duration::from_micros(pause));
            passed = microseconds;
            match event {
                Event::Cut => self.proxy.cut(),
                Event::Send(count) => self.send_some(count),
                // A run that has ended receives no event.
                Event::Kill => {}
            }
        }
        let status = child.kill();
        self.runs.ends.push(status);
        status
    }

    /// Repeats runs that are not killed until one completes.
    fn finish(&mut self, random: &mut Random) {
        self.send(INBOUND, LAST);
        for _ in 0..5 {
            let mut child = self.start(random.draw(), true);
            let status = child.wait_for(LIMIT, "the last run ends");
            self.runs.ends.push(status);
            if status.code() != Some(exit::GIVEN_UP) {
                return;
            }
        }
    }

    fn start(&self, seed: u64, is_last: bool) -> Child {
        let inbound = true;
        let script = Script::Random {
            seed,
            inbound,
            is_last,
        };
        self.runs.start(script, Kill::Never)
    }

    fn send_some(&mut self, count: usize) {
        for _ in 0..count {
            let text = inbound_payload(self.sent.len() + 1, self.runs.ends.len());
            self.send(INBOUND, &text);
            self.sent.push(text);
        }
    }

    fn send(&self, topic: &str, text: &str) {
        let message = mqtt::Message::new(topic, text, mqtt::QOS_2);
        let sending = self.sender.publish(message);
        sending.wait_for(LIMIT).expect("the broker takes it");
    }

    fn account(&self, versions: Versions, arrived: &[(String, Vec<u8>)]) -> Account {
        let has_given_up = |end: &&ExitStatus| end.code() == Some(exit::GIVEN_UP);
        let is_killed = |end: &&ExitStatus| was_killed(**end);
        let (last, before) = self.runs.ends.split_last().expect("a run");
        let wrong = before
            .iter()
            .find(|end| !is_killed(end) && !has_given_up(end))
            .or((!last.success()).then_some(last));
        let mut ledger = self.runs.ledger.lock().unwrap();
        for (topic, payload) in arrived {
            if payload != LAST.as_bytes() {
                ledger.arrive(topic, payload, None);
            }
        }
        let sent = [&self.sent[..], &[LAST.to_owned()]].concat();
        Account {
            killed: self.runs.ends.iter().filter(is_killed).count(),
            given_up: self.runs.ends.iter().filter(has_given_up).count(),
            balance: ledger.balance(),
            sent: self.sent.len(),
            inbound: self.runs.inbound(versions, &[], &sent, &HashSet::new()),
            trouble: wrong.map(ToString::to_string),
        }
    }
}

/// Client that is connected and has no records.
fn client(broker: &Mosquitto, id: &str, version: u32) -> mqtt::AsyncClient {
    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .client_id(id)
        .mqtt_version(version)
        .persistence(mqtt::PersistenceType::None)
        .create_client()
        .expect("a client");
    let connecting = client.connect(connect_options(version, LIMIT));
    connecting.wait_for(LIMIT).expect("connects");
    client
}

/// Keeps the files of the runs for debugging.
fn keep(folder: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in fs::read_dir(folder).expect("a folder") {
        let file = file.expect("a file");
        fs::copy(file.path(), to.join(file.file_name())).expect("can be copied");
    }
}

/// Result of a row.
#[derive(Debug, Default)]
pub struct Account {
    pub killed: usize,
    /// Runs that ended by themselves because a write failed midway.
    pub given_up: usize,
    pub balance: Balance,
    /// Messages to the program.
    pub sent: usize,
    pub inbound: Inbound,
    /// Unexpected end of a run.
    pub trouble: Option<String>,
}

impl Account {
    /// Returns true if every promise is kept.
    pub fn is_clean(&self) -> bool {
        self.balance.is_clean()
            && self.inbound.wrong().is_empty()
            && self.balance.unreported <= self.killed + self.given_up
            && self.trouble.is_none()
    }

    /// Cells of the row.
    fn cells(&self) -> String {
        let Balance {
            accepted: [accepted0, accepted1, accepted2],
            altered,
            prefixed,
            unreported,
            ..
        } = &self.balance;
        let [lost0, lost1, lost2] = self.balance.lost.each_ref().map(Vec::len);
        let inbound = &self.inbound;
        format!(
            "{} | {} | {accepted0}/{accepted1}/{accepted2} | {lost0} | {lost1} | {lost2} | {} | {} | {} | {unreported} | {} | {} | {} | {} | {} | {} | {}",
            self.killed,
            self.given_up,
            self.balance.again(),
            self.balance.twice(),
            altered.len() + prefixed.len(),
            self.sent,
            inbound.lost.len(),
            inbound.twice.len(),
            inbound.lost_by_paho.len(),
            inbound.twice_by_paho.len(),
            inbound.twice_by_broker.len(),
            self.trouble.as_deref().unwrap_or("none"),
        )
    }
}

/// Prints every row as Markdown. Returns true if all are clean.
pub fn print(rounds: usize, seed: u64) -> bool {
    println!(
        "| MQTT | connection | seed | killed | given up | accepted, QoS 0/1/2 | lost, QoS 0 | lost, QoS 1 | lost, QoS 2 | again, QoS 1 | twice, QoS 2 | altered | unreported | sent to it | lost | twice | lost by Paho | twice by Paho | twice by the broker | trouble |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|");
    let mut all_clean = true;
    for row in Row::ALL {
        let account = row.run(rounds, seed);
        println!("| {row} | {seed} | {} |", account.cells());
        if !account.is_clean() {
            eprintln!("{row}: {account:#?}");
            all_clean = false;
        }
    }
    all_clean
}
