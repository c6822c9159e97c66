//! Parts that the programs share.

use std::{
    env, fs,
    fs::{File, OpenOptions},
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{Durability, RedisPersistence, StoreObserver};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    crash_table,
    cut::cut_request,
    files::Files,
    killing::{Kill, Killing, kill_self},
    messages::{CLIENT, INBOUND, Id, LAST},
    random_kills,
};
use crate::LIMIT;

/// Environment variable with the orders of a program, as JSON.
pub(crate) const ORDERS: &str = "ORDERS";
/// Environment variable with the bytes of values that a persistence keeps in memory.
const CACHE_LIMIT: &str = "CACHE_LIMIT";
/// The library's default.
pub(super) const DEFAULT_CACHE_LIMIT: usize = 16 * 1024 * 1024;
/// Prefix of the lines for the driver; libraries may print other lines.
pub(super) const MARK: &str = "testkit: ";

/// Exit codes of a run that is not killed.
pub(super) mod exit {
    pub const DONE: i32 = 0;
    /// A write failed midway, and Paho would send damaged messages: the next run sends them undamaged.
    pub const GIVEN_UP: i32 = 30;
    /// Records remain although every message has completed.
    pub const REMAINING: i32 = 31;
    pub const STUCK: i32 = 32;
    pub const NOT_CREATED: i32 = 33;
}

/// Returns the orders of this program, or ends it if there are none.
pub(crate) fn orders<T: DeserializeOwned>() -> T {
    let text = env::var(ORDERS).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|error| {
        eprintln!("the variable {ORDERS} has no orders for this program: {error}");
        process::exit(2)
    })
}

/// Reads commands from standard input. At its end the program kills itself: the driver is gone, or wants that.
pub(super) fn commands() -> Receiver<String> {
    let (pass, commands) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            drop(pass.send(line));
        }
        kill_self();
    });
    commands
}

/// Reports to the driver in a single write, since a kill may come at any time.
pub(super) fn report(words: &str) {
    io::stdout()
        .write_all(format!("{MARK}{words}\n").as_bytes())
        .expect("the driver reads");
}

/// Client that publishes whether or not it is connected.
pub(super) fn client(broker: &str, id: &str) -> mqtt::CreateOptionsBuilder {
    mqtt::CreateOptionsBuilder::new()
        .server_uri(broker)
        .client_id(id)
        .max_buffered_messages(100_000)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
}

/// Connect options for a session that is kept.
pub fn session(version: u32) -> mqtt::ConnectOptionsBuilder {
    if version == mqtt::MQTT_VERSION_5 {
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
    }
}

/// Does the same, with everything set.
pub fn connect_options(version: u32, timeout: Duration) -> mqtt::ConnectOptions {
    session(version).connect_timeout(timeout).finalize()
}

fn append(folder: &Path, name: &str) -> File {
    let path = folder.join(name);
    let options = OpenOptions::new().create(true).append(true).open(path);
    options.expect("can be opened")
}

/// Appends the messages that a client receives to a file. Sets the flag when the last one has arrived.
fn note_received(client: &mqtt::AsyncClient, folder: &Path, run: usize) -> Arc<AtomicBool> {
    let mut received = append(folder, "received");
    let has_last = Arc::<AtomicBool>::default();
    let came = Arc::clone(&has_last);
    client.set_message_callback(move |_, message| {
        let Some(message) = message else { return };
        let text = message.payload_str();
        // A single write, since a kill may come at any time.
        received
            .write_all(format!("{run} {text}\n").as_bytes())
            .expect("takes a line");
        came.fetch_or(text == LAST, Ordering::Relaxed);
    });
    has_last
}

/// Keys of a client's records in Redis.
pub(super) fn records(redis: &mut redis::Connection, client: &str, broker: &str) -> Vec<String> {
    let server = broker.trim_start_matches("mqtt://");
    redis::cmd("HKEYS")
        .arg(format!("{client}:{server}"))
        .query(redis)
        .expect("Redis answers")
}

/// Publishes the messages of one run or client, and keeps their tokens.
pub(super) struct Publisher {
    pub mqtt: mqtt::AsyncClient,
    pub next: Id,
    waiting: Vec<mqtt::Token>,
}

impl Publisher {
    pub fn new(mqtt: mqtt::AsyncClient, next: Id) -> Self {
        Self {
            mqtt,
            next,
            waiting: Vec::new(),
        }
    }

    /// Publishes the next message and reports it if it was accepted. Returns true if it was.
    pub fn publish(&mut self) -> bool {
        let token = match self.mqtt.try_publish(self.next.message()) {
            Ok(token) => token,
            Err(error) => {
                eprintln!("cannot publish {}: {error}", self.next);
                return false;
            }
        };
        report(&format!("accepted {}", self.next));
        self.next.number += 1;
        self.waiting.push(token.into());
        true
    }

    /// Number of messages that were not acknowledged at the last `settle`.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Removes completed messages. Returns false if Paho has freed one that it has yet to send.
    pub fn settle(&mut self) -> bool {
        let mut is_well = true;
        self.waiting.retain_mut(|token| match token.try_wait() {
            None => true,
            Some(ended) => {
                is_well &= !matches!(ended, Err(mqtt::Error::Failure));
                false
            }
        });
        is_well
    }

    /// Does the same, and ends the run in that case.
    pub fn settle_or_exit(&mut self) {
        if !self.settle() {
            process::exit(exit::GIVEN_UP);
        }
    }
}

/// Ends the run before Paho sends a damaged message of an earlier run, which has no token.
struct GiveUpOnDamage;

impl StoreObserver for GiveUpOnDamage {
    fn on_damaged(&self, _: &str, _: &str) {
        process::exit(exit::GIVEN_UP);
    }
}

/// Orders of a program that is killed.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Orders {
    pub broker: String,
    /// URL of a Redis, or a folder.
    pub store: String,
    /// The same, or another URL of that Redis, to read the records without the persistence.
    pub records: String,
    /// `put` does not wait for Redis.
    pub pipelined: bool,
    /// Protocol levels that the client is created for and connects with, 0 for the default.
    pub levels: (u32, u32),
    pub kill: Kill,
    /// Timeout of one exchange with Redis.
    pub operation_timeout: Duration,
    pub folder: PathBuf,
    pub run: usize,
    /// Number of messages that earlier runs had accepted.
    pub published: usize,
    pub script: Script,
}

/// Actions of a program that is killed.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum Script {
    /// The same in each run.
    Deterministic,
    /// Random, until it is killed; the last run publishes nothing and ends when every message has completed.
    Random {
        seed: u64,
        /// Set if messages are sent to it.
        inbound: bool,
        is_last: bool,
    },
}

/// Runs a program that is killed, following its orders.
pub fn run_killed() -> ! {
    let orders: Orders = orders();
    // The driver closes standard input to kill the program.
    let _commands = commands();
    if let Kill::Cut { request, quarters } = orders.kill {
        cut_request(&orders.store, request, quarters * 2);
    }
    let script = orders.script;
    let program = Killed::create(orders);
    match script {
        Script::Deterministic => crash_table::program::run(program),
        Script::Random {
            seed,
            inbound,
            is_last,
        } => random_kills::program::run(program, seed, inbound, is_last),
    }
}

/// Bytes of values that a persistence keeps in memory; the library's default unless the environment has another number.
pub(super) fn cache_limit() -> usize {
    env::var(CACHE_LIMIT).map_or(DEFAULT_CACHE_LIMIT, |limit| {
        limit.parse().expect("a number of bytes")
    })
}

/// Program that is killed.
pub(super) struct Killed {
    pub orders: Orders,
    pub publisher: Publisher,
    pub has_last: Arc<AtomicBool>,
}

impl Killed {
    fn create(orders: Orders) -> Self {
        let mut options = client(&orders.broker, CLIENT);
        if orders.levels.0 != 0 {
            options = options.mqtt_version(orders.levels.0);
        }
        // The account needs the calls to distinguish errors of Paho from ours.
        let trace = append(&orders.folder, &format!("trace-{}", orders.run));
        let client = if orders.store.contains("://") {
            let store = RedisPersistence::builder()
                .url(&orders.store)
                .durability(if orders.pipelined {
                    Durability::Pipelined
                } else {
                    Durability::Confirmed
                })
                .operation_timeout(orders.operation_timeout)
                .cache_limit(cache_limit())
                .open_timeout(LIMIT);
            let store = match orders.script {
                Script::Deterministic => store,
                Script::Random { .. } => store.observer(Arc::new(GiveUpOnDamage)),
            };
            let store = store.build().expect("good options");
            options.user_persistence(Killing::new(store, orders.kill, trace))
        } else {
            let store = Files::new(Path::new(&orders.store));
            options.user_persistence(Killing::new(store, orders.kill, trace))
        }
        .create_client()
        .unwrap_or_else(|_| process::exit(exit::NOT_CREATED));
        let next = Id {
            run: orders.run,
            number: orders.published,
        };
        Self {
            has_last: note_received(&client, &orders.folder, orders.run),
            publisher: Publisher::new(client, next),
            orders,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.publisher.mqtt.is_connected()
    }

    /// Waits until every message has completed, inbound ones too if the last of them is awaited, and exits.
    pub fn finish(mut self, inbound: bool) -> ! {
        let mut records = self.records();
        let started = Instant::now();
        loop {
            // A token fails if a write failed midway. The records show the rest: messages of an earlier run have no token, and the
            // token of a message that Paho discards never completes.
            self.publisher.settle_or_exit();
            let has_last = !inbound || self.has_last.load(Ordering::Relaxed);
            let remaining = records();
            if has_last && remaining.is_empty() {
                break;
            }
            if started.elapsed() > LIMIT / 2 {
                fs::write(self.orders.folder.join("remaining"), remaining.join(" "))
                    .expect("can be written");
                process::exit(exit::REMAINING);
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        let mqtt = &self.publisher.mqtt;
        if let Script::Deterministic = self.orders.script {
            // An error here does not matter: every inbound message is accounted for elsewhere.
            let _ = mqtt.unsubscribe(INBOUND).wait_for(LIMIT);
        }
        let _ = mqtt.disconnect(None).wait_for(LIMIT);
        process::exit(exit::DONE);
    }

    /// Lists the keys in the store without the client.
    fn records(&self) -> Box<dyn FnMut() -> Vec<String>> {
        let (store, broker) = (self.orders.records.clone(), self.orders.broker.clone());
        if store.contains("://") {
            let redis = redis::Client::open(store).and_then(|redis| redis.get_connection());
            let mut redis = redis.expect("Redis answers");
            return Box::new(move || records(&mut redis, CLIENT, &broker));
        }
        // Paho makes a folder per client in it.
        Box::new(move || {
            let clients = fs::read_dir(&store).expect("a folder");
            let files = clients.flat_map(|client| fs::read_dir(client.expect("a folder").path()));
            let names = files
                .flatten()
                .map(|file| file.expect("a file").file_name());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .collect()
        })
    }
}
