//! One life of the program: killed and started again so many times, and then left to come to its end.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;

use super::{
    LAST,
    account::Account,
    program::{CLIENT, INBOUND, Orders, TOPIC, exit},
};
use crate::{
    LIMIT, Mosquitto, Proxy, RedisServer, Subscriber,
    child::program,
    crash::{Versions, connect_options, inbound_payload},
    eventually,
    random::Random,
};

/// For how many microseconds a run reads its records and connects, of which Paho waits 100,000 before it reads the CONNACK.
const START: usize = 110_000;
/// And for how many at most it publishes and receives before it is killed.
const FLOW: usize = 100_000;

/// What is to be tried.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    pub versions: Versions,
    /// Whether the connection to the broker breaks now and then before the kill.
    pub cuts: bool,
    pub rounds: usize,
    /// Everything that is random follows from it, but for what the machine does at the same instants.
    pub seed: u64,
}

/// What a run meets, at instants in microseconds from its start.
enum Event {
    Cut,
    Send(usize),
    Kill,
}

/// What is there besides the program.
struct World {
    folder: tempfile::TempDir,
    proxy: Proxy,
    redis: RedisServer,
    sender: mqtt::AsyncClient,
    /// What was sent to the program.
    sent: Vec<String>,
    version: u32,
    ends: Vec<ExitStatus>,
}

impl Life {
    pub fn run(self) -> Account {
        let broker = Mosquitto::start();
        let subscriber = Subscriber::start(&broker.url(), TOPIC, 2);
        let version = match self.versions {
            Versions::V5 => mqtt::MQTT_VERSION_5,
            _ => mqtt::MQTT_VERSION_3_1_1,
        };
        // So that what is sent to the program finds a session from the beginning.
        let first = client(&broker, CLIENT, version);
        first
            .subscribe(INBOUND, 2)
            .wait_for(LIMIT)
            .expect("subscribes");
        first.disconnect(None).wait_for(LIMIT).expect("disconnects");
        drop(first);

        let mut world = World {
            folder: tempfile::tempdir().expect("a folder"),
            proxy: Proxy::start(broker.port()),
            redis: RedisServer::start(),
            sender: client(&broker, "sender", mqtt::MQTT_VERSION_5),
            sent: Vec::new(),
            version,
            ends: Vec::new(),
        };
        let mut random = Random::of(self.seed);
        for _ in 0..self.rounds {
            world.round(self.cuts, &mut random);
        }
        world.finish(&mut random);

        // Messages reach the subscriber in the order in which the broker took them, so this is the last.
        world.send(TOPIC, LAST);
        let arrived = eventually(LIMIT, "the last message arrives", || {
            let messages = subscriber.messages();
            let (_, last) = messages.last()?;
            (last == LAST.as_bytes()).then_some(messages)
        });
        let folder = world.folder.path();
        let account = Account::of(folder, &arrived, self.versions, &world.sent, &world.ends);
        if !account.is_clean()
            && let Ok(kept) = env::var("KILLS_KEEP")
        {
            let arrived: Vec<String> = arrived
                .iter()
                .map(|(topic, payload)| format!("{topic} {}\n", payload.escape_ascii()))
                .collect();
            fs::write(folder.join("arrived"), arrived.concat()).expect("written");
            fs::write(folder.join("broker"), broker.log()).expect("written");
            keep(folder, Path::new(&kept));
        }
        account
    }
}

impl World {
    /// One run and its end.
    fn round(&mut self, cuts: bool, random: &mut Random) {
        self.send_some(random.below(4));
        // All is drawn beforehand, so that it is the same whatever happens.
        let seed = random.draw();
        let kill = if random.below(4) == 0 {
            random.below(START)
        } else {
            START + random.below(FLOW)
        };
        let mut events = vec![
            (random.below(kill + 1), Event::Send(random.below(6))),
            (kill, Event::Kill),
        ];
        if cuts && random.below(2) == 0 {
            events.push((random.below(kill + 1), Event::Cut));
        }
        events.sort_by_key(|(instant, _)| *instant);

        let mut child = self.start(seed, false);
        let started = Instant::now();
        for (instant, event) in events {
            let instant = Duration::from_micros(u64::try_from(instant).expect("small"));
            thread::sleep(instant.saturating_sub(started.elapsed()));
            match event {
                Event::Cut => self.proxy.cut(),
                Event::Send(count) => self.send_some(count),
                // Nothing happens to one that has given up.
                Event::Kill => child.kill().expect("a child can be killed"),
            }
        }
        self.ends.push(child.wait().expect("can be waited for"));
    }

    /// Runs that are not killed, until one is through.
    fn finish(&mut self, random: &mut Random) {
        self.send(INBOUND, LAST);
        for _ in 0..5 {
            let mut child = self.start(random.draw(), true);
            let status = eventually(LIMIT, "the last run ends", || {
                child.try_wait().expect("can be waited for")
            });
            self.ends.push(status);
            if status.code() != Some(exit::GIVEN_UP) {
                return;
            }
        }
    }

    fn start(&self, seed: u64, last: bool) -> Child {
        let run = self.ends.len();
        let orders = Orders {
            broker: self.proxy.url(),
            redis: self.redis.url(),
            version: self.version,
            folder: self.folder.path().to_owned(),
            run,
            seed,
            last,
            inbound: true,
            // A machine with more to do than this must not be taken for a fault.
            patience: LIMIT,
        };
        let log = fs::File::create(self.folder.path().join(format!("log-{run}"))).expect("a file");
        program("kill-program")
            .envs(orders.variables())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program can be run")
    }

    fn send_some(&mut self, count: usize) {
        for _ in 0..count {
            let text = inbound_payload(self.sent.len() + 1, self.ends.len());
            self.send(INBOUND, &text);
            self.sent.push(text);
        }
    }

    fn send(&self, topic: &str, text: &str) {
        let message = mqtt::Message::new(topic, text, mqtt::QOS_2);
        self.sender
            .publish(message)
            .wait_for(LIMIT)
            .expect("the broker takes it");
    }
}

/// One that is connected and has no records.
fn client(broker: &Mosquitto, id: &str, version: u32) -> mqtt::AsyncClient {
    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .client_id(id)
        .mqtt_version(version)
        .persistence(mqtt::PersistenceType::None)
        .create_client()
        .expect("a client");
    client
        .connect(connect_options(version, LIMIT))
        .wait_for(LIMIT)
        .expect("connects");
    client
}

/// Whether a run was killed, and did not end by itself.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGKILL)
}

/// Keeps what the runs have written, for whoever looks for the reason.
fn keep(folder: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in fs::read_dir(folder).expect("a folder") {
        let file = file.expect("a file");
        fs::copy(file.path(), to.join(file.file_name())).expect("can be copied");
    }
}
