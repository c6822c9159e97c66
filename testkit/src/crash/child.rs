//! The program that is killed: it publishes, receives, loses its connection, and goes on where the run before it ended.

use std::{
    env, fs,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{Durability, RedisPersistence};

use super::{
    Kill, MESSAGES, cut,
    files::Files,
    killing::{Killing, kill_self},
    lines, payload, qos,
};

pub const CLIENT: &str = "program";
pub const TOPIC: &str = "readings";
/// What it receives at QoS 2.
pub const INBOUND: &str = "commands";

/// It publishes these while it is connected, then those up to `ONLINE` while it is not.
const OFFLINE: usize = 10;
const ONLINE: usize = 16;

/// How long anything may take before the run gives up.
const LIMIT: Duration = Duration::from_secs(4);

/// How a run ends.
pub mod exit {
    pub const DONE: i32 = 0;
    /// Paho has given up a message, after which it would send damaged ones: the run is to be followed by another.
    pub const GIVEN_UP: i32 = 30;
    /// Records are left though every message is through.
    pub const LEFT: i32 = 31;
    pub const STUCK: i32 = 32;
    pub const NOT_CREATED: i32 = 33;
}

/// What the test tells a run, in its environment.
pub struct Orders {
    pub broker: String,
    /// The URL of a Redis, or a folder.
    pub store: String,
    /// The same, or another way to that Redis, to look at the records without the persistence.
    pub records: String,
    /// Whether `put` leaves without the word of Redis.
    pub pipelined: bool,
    /// The protocol levels that the client is created for and connects with; zero is the default.
    pub created: u32,
    pub connected: u32,
    pub kill: Kill,
    pub folder: PathBuf,
    pub run: usize,
}

impl Orders {
    pub fn variables(&self) -> [(&'static str, String); 9] {
        let kill = match self.kill {
            Kill::Before(n) => format!("before {n}"),
            Kill::After(n) => format!("after {n}"),
            Kill::Cut { request, quarters } => format!("cut {request}/{quarters}"),
            _ => String::new(),
        };
        [
            ("CRASH_BROKER", self.broker.clone()),
            ("CRASH_STORE", self.store.clone()),
            ("CRASH_RECORDS", self.records.clone()),
            ("CRASH_PIPELINED", u32::from(self.pipelined).to_string()),
            ("CRASH_CREATED", self.created.to_string()),
            ("CRASH_CONNECTED", self.connected.to_string()),
            ("CRASH_KILL", kill),
            ("CRASH_FOLDER", self.folder.display().to_string()),
            ("CRASH_RUN", self.run.to_string()),
        ]
    }

    fn read() -> Option<Self> {
        let number = |name| env::var(name).ok()?.parse().ok();
        let kill = env::var("CRASH_KILL").ok()?;
        let kill = match kill.split_once(' ') {
            Some(("before", n)) => Kill::Before(n.parse().ok()?),
            Some(("cut", place)) => {
                let (request, quarters) = place.split_once('/')?;
                Kill::Cut {
                    request: request.parse().ok()?,
                    quarters: quarters.parse().ok()?,
                }
            }
            Some((_, n)) => Kill::After(n.parse().ok()?),
            None => Kill::Never,
        };
        Some(Self {
            broker: env::var("CRASH_BROKER").ok()?,
            store: env::var("CRASH_STORE").ok()?,
            records: env::var("CRASH_RECORDS").ok()?,
            pipelined: number("CRASH_PIPELINED")? == 1,
            created: number("CRASH_CREATED")?,
            connected: number("CRASH_CONNECTED")?,
            kill,
            folder: env::var_os("CRASH_FOLDER")?.into(),
            run: usize::try_from(number("CRASH_RUN")?).ok()?,
        })
    }
}

/// Does what the environment says; nothing where it says nothing.
pub fn run() {
    let Some(orders) = Orders::read() else {
        return;
    };
    thread::spawn(|| {
        // The test holds the other end: it closes when the program is to die, and when the test does.
        let _ = io::stdin().read(&mut [0]);
        kill_self();
    });
    thread::spawn(|| {
        let started = Instant::now();
        while started.elapsed() < LIMIT * 2 {
            thread::park_timeout(LIMIT);
        }
        process::exit(exit::STUCK);
    });
    if let Kill::Cut { request, quarters } = orders.kill {
        cut::arm(&orders.store, request, quarters);
    }
    Program::create(&orders).run();
}

struct Program<'a> {
    orders: &'a Orders,
    client: mqtt::AsyncClient,
    losses: Receiver<()>,
    ledger: File,
    published: usize,
    under_way: Vec<mqtt::Token>,
}

impl<'a> Program<'a> {
    fn create(orders: &'a Orders) -> Self {
        let path = orders.folder.join("ledger");
        let published = lines(&path).len();
        let options = mqtt::CreateOptionsBuilder::new()
            .server_uri(&orders.broker)
            .client_id(CLIENT)
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true);
        let options = match orders.created {
            0 => options,
            version => options.mqtt_version(version),
        };
        let trace = append(&orders.folder.join(format!("trace-{}", orders.run)));
        let client = if orders.store.contains("://") {
            let store = RedisPersistence::builder()
                .url(&orders.store)
                .durability(if orders.pipelined {
                    Durability::Pipelined
                } else {
                    Durability::Confirmed
                })
                // A machine with more to do than this must not be taken for a fault.
                .operation_timeout(LIMIT)
                .open_timeout(LIMIT)
                .build()
                .expect("good options");
            options.user_persistence(Killing::new(store, orders.kill, trace))
        } else {
            let store = Files::new(Path::new(&orders.store));
            options.user_persistence(Killing::new(store, orders.kill, trace))
        }
        .create_client();
        let Ok(client) = client else {
            process::exit(exit::NOT_CREATED);
        };
        let (lost, losses) = mpsc::channel();
        client.set_connection_lost_callback(move |_| {
            // A run that is about to end listens no more.
            let _ = lost.send(());
        });
        let run = orders.run;
        let mut received = append(&orders.folder.join("received"));
        client.set_message_callback(move |_, message| {
            if let Some(message) = message {
                // In one write, as a kill may come at any time.
                received
                    .write_all(format!("{run} {}\n", message.payload_str()).as_bytes())
                    .expect("takes a line");
            }
        });
        Self {
            orders,
            client,
            losses,
            ledger: append(&path),
            published,
            under_way: Vec::new(),
        }
    }

    fn run(mut self) -> ! {
        // A run that follows one that ended without a connection begins without one.
        if !(OFFLINE..ONLINE).contains(&self.published) {
            self.connect();
        }
        if self.published < OFFLINE {
            self.publish_until(OFFLINE);
            // The broker takes this as the sign to hang up.
            let topic = format!("hang up/{}", self.orders.run);
            self.client.publish(mqtt::Message::new(topic, "", 0));
            self.losses
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| process::exit(exit::STUCK));
        }
        if self.published < ONLINE {
            self.publish_until(ONLINE);
        }
        if !self.client.is_connected() {
            self.connect();
        }
        self.publish_until(MESSAGES);
        self.finish();
    }

    fn publish_until(&mut self, number: usize) {
        while self.published < number {
            let text = payload(self.published, self.orders.run);
            let qos = i32::try_from(qos(&text)).expect("0 to 2");
            let message = mqtt::Message::new(TOPIC, text.as_bytes(), qos);
            let Ok(token) = self.client.try_publish(message) else {
                process::exit(exit::GIVEN_UP);
            };
            // In one write, so that a line is there as a whole or not at all.
            self.ledger
                .write_all(format!("{text}\n").as_bytes())
                .expect("takes a line");
            self.published += 1;
            self.under_way.push(token.into());
        }
    }

    /// As often as it takes, and subscribes.
    fn connect(&self) {
        let options = connect_options(self.orders.connected, LIMIT);
        let started = Instant::now();
        while self
            .client
            .connect(options.clone())
            .wait_for(LIMIT)
            .is_err()
        {
            if started.elapsed() > LIMIT {
                process::exit(exit::STUCK);
            }
        }
        if self.client.subscribe(INBOUND, 2).wait_for(LIMIT).is_err() {
            process::exit(exit::GIVEN_UP);
        }
    }

    /// Waits until every message is through, and goes.
    fn finish(mut self) -> ! {
        let started = Instant::now();
        // A token fails with this where a write was broken off. The records tell of the rest, since those of an earlier run have no token, and the token of one that Paho discards never ends.
        loop {
            let given_up = |token: &mut mqtt::Token| {
                matches!(token.try_wait(), Some(Err(mqtt::Error::Failure)))
            };
            if self.under_way.iter_mut().any(given_up) {
                process::exit(exit::GIVEN_UP);
            }
            let left = self.records();
            if left.is_empty() {
                break;
            }
            if started.elapsed() > Duration::from_secs(2) {
                fs::write(self.orders.folder.join("left"), left.join(" ")).expect("can be written");
                process::exit(exit::LEFT);
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        // What is subscribed and received is in no account, so that an error here is none.
        let _ = self.client.unsubscribe(INBOUND).wait_for(LIMIT);
        let _ = self.client.disconnect(None).wait_for(LIMIT);
        process::exit(exit::DONE);
    }

    /// The keys in the store, asked for without the client.
    fn records(&self) -> Vec<String> {
        if self.orders.records.starts_with("unix://") {
            let server = self.orders.broker.trim_start_matches("mqtt://");
            return redis::Client::open(self.orders.records.as_str())
                .and_then(|client| client.get_connection())
                .and_then(|mut connection| {
                    redis::cmd("HKEYS")
                        .arg(format!("{CLIENT}:{server}"))
                        .query(&mut connection)
                })
                .expect("Redis answers");
        }
        // Paho has a folder for each client in there.
        fs::read_dir(&self.orders.records)
            .expect("a folder")
            .flat_map(|client| fs::read_dir(client.expect("a folder").path()))
            .flatten()
            .map(|file| {
                file.expect("a file")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }
}

/// Of a session that is kept.
pub fn connect_options(version: u32, timeout: Duration) -> mqtt::ConnectOptions {
    let mut options = if version == mqtt::MQTT_VERSION_5 {
        let mut properties = mqtt::Properties::new();
        properties
            .push_u32(mqtt::PropertyCode::SessionExpiryInterval, 3600)
            .expect("a property of CONNECT");
        let mut options = mqtt::ConnectOptionsBuilder::new_v5();
        options.clean_start(false).properties(properties);
        options
    } else {
        let mut options = mqtt::ConnectOptionsBuilder::with_mqtt_version(mqtt::MqttVersion::V3_1_1);
        options.clean_session(false);
        options
    };
    options.connect_timeout(timeout).finalize()
}

pub fn append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("can be opened")
}
