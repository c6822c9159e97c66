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
use paho_mqtt_redis::{Health, OnBrokenWrite, RedisPersistence, StoreObserver};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    client::{BoxedPersistence, Client, ClientKind, ClientOptions, SESSION_EXPIRY, UnderWay},
    crash_table,
    cut::cut_request,
    files::Files,
    killing::{Kill, Killing, Victim, aim_at_redis, kill_self, strike},
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
    /// A client that was stopped had not sent everything, or Redis lacks records.
    pub const NOT_STOPPED: i32 = 34;
}

/// Returns the orders of this program, or ends it if there are none.
pub(crate) fn orders<T: DeserializeOwned>() -> T {
    let text = env::var(ORDERS).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|error| {
        eprintln!("the variable {ORDERS} has no orders for this program: {error}");
        process::exit(2)
    })
}

/// Logs errors of the library to standard error, which the driver shows if the program fails.
pub(super) fn log_errors() {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::ERROR)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
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

/// Connect options for a session that is kept.
pub fn session(version: u32) -> mqtt::ConnectOptionsBuilder {
    if version == mqtt::MQTT_VERSION_5 {
        let mut properties = mqtt::Properties::new();
        let seconds = u32::try_from(SESSION_EXPIRY.as_secs()).expect("small");
        properties
            .push_u32(mqtt::PropertyCode::SessionExpiryInterval, seconds)
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

/// Returns a callback that appends the messages that a client receives to a file, and a flag that it sets at the last one.
fn note_received(
    folder: &Path,
    run: usize,
) -> (impl FnMut(mqtt::Message) + Send + use<>, Arc<AtomicBool>) {
    let mut received = append(folder, "received");
    let has_last = Arc::<AtomicBool>::default();
    let came = Arc::clone(&has_last);
    let note = move |message: mqtt::Message| {
        let text = message.payload_str();
        // A single write, since a kill may come at any time.
        received
            .write_all(format!("{run} {text}\n").as_bytes())
            .expect("takes a line");
        came.fetch_or(text == LAST, Ordering::Relaxed);
    };
    (note, has_last)
}

/// Keys of a client's records in Redis.
pub(super) fn records(redis: &mut redis::Connection, client: &str, broker: &str) -> Vec<String> {
    try_records(redis, client, broker).expect("Redis answers")
}

fn try_records(
    redis: &mut redis::Connection,
    client: &str,
    broker: &str,
) -> redis::RedisResult<Vec<String>> {
    let server = broker.trim_start_matches("mqtt://");
    redis::cmd("HKEYS")
        .arg(format!("{client}:{server}"))
        .query(redis)
}

/// Publishes the messages of one run or client, and follows them.
pub(super) struct Publisher {
    pub client: Client,
    pub next: Id,
    waiting: Vec<UnderWay>,
}

impl Publisher {
    pub fn new(client: Client, next: Id) -> Self {
        Self {
            client,
            next,
            waiting: Vec::new(),
        }
    }

    /// Publishes the next message and reports it if it was accepted. Returns true if it was.
    pub fn publish(&mut self) -> bool {
        let under_way = match self.client.publish(self.next.message()) {
            Ok(under_way) => under_way,
            Err(error) => {
                eprintln!("cannot publish {}: {error}", self.next);
                return false;
            }
        };
        report(&format!("accepted {}", self.next));
        self.next.number += 1;
        self.waiting.push(under_way);
        true
    }

    /// Number of messages that were not acknowledged at the last `settle`.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Removes completed messages. Returns false if Paho has freed one that it has yet to send, and the program is to end.
    pub fn settle(&mut self) -> bool {
        let mut is_well = true;
        self.waiting.retain_mut(|message| match message.ended() {
            None => true,
            Some(ended) => {
                is_well &= !ended.is_err_and(|failed| failed.is_broken_write);
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
    pub client: ClientKind,
    pub broker: String,
    /// URL of a Redis, or a folder.
    pub store: String,
    /// The same, or another URL of that Redis, to read the records without the persistence.
    pub records: String,
    /// The master, if Redis has a replica; `store` is the URL of its sentinel then.
    pub master: Option<Master>,
    /// Durability, by the word of the option.
    pub durability: String,
    /// Number of replicas that have to have a record.
    pub replicas: u32,
    /// Bytes of values that the persistence keeps in memory.
    pub cache_limit: usize,
    /// Protocol levels that the client is created for and connects with, 0 for the default.
    pub levels: (u32, u32),
    pub kill: Kill,
    pub victim: Victim,
    /// Timeout of one exchange with Redis.
    pub operation_timeout: Duration,
    pub folder: PathBuf,
    pub run: usize,
    /// Number of messages that earlier runs had accepted.
    pub published: usize,
    pub script: Script,
}

/// Redis server that may die with the program or before it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Master {
    pub pid: u32,
    /// URL of its TCP port.
    pub url: String,
}

/// Command for a program that is killed, or whose Redis is.
pub(super) const STRIKE: &str = "strike";

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
    log_errors();
    if let (Victim::Redis, Some(master)) = (orders.victim, &orders.master) {
        aim_at_redis(master.pid);
    }
    let commands = commands();
    thread::spawn(move || {
        for command in commands {
            assert_eq!(command, STRIKE, "an unknown command");
            strike();
        }
    });
    if let Kill::Cut { request, quarters } = orders.kill {
        let master = orders.master.as_ref().map(|master| &master.url);
        cut_request(master.unwrap_or(&orders.store), request, quarters * 2);
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
    /// `None` with Paho's own files.
    health: Option<Health>,
}

impl Killed {
    fn create(orders: Orders) -> Self {
        let (note, has_last) = note_received(&orders.folder, orders.run);
        let mut options = ClientOptions::new(orders.client, &orders.broker, CLIENT, orders.levels);
        options.on_message = Some(Box::new(note));
        options.on_broken_write = OnBrokenWrite::Exit(exit::GIVEN_UP);
        options.connect_timeout = match orders.script {
            Script::Deterministic => crash_table::program::LIMIT,
            Script::Random { .. } => {
                options.guard = Some(Arc::new(GiveUpOnDamage));
                LIMIT / 4
            }
        };
        // The account needs the calls to distinguish errors of Paho from ours.
        let trace = append(&orders.folder, &format!("trace-{}", orders.run));
        let kill = orders.kill;
        let killing = move |store: BoxedPersistence| -> BoxedPersistence {
            Box::new(Killing::new(store, kill, trace))
        };
        let created = if orders.store.contains("://") {
            let redis = RedisPersistence::builder()
                .url(&orders.store)
                .durability(orders.durability.parse().expect("a durability"))
                .replicas(orders.replicas)
                .operation_timeout(orders.operation_timeout)
                .cache_limit(orders.cache_limit)
                .open_timeout(LIMIT);
            let created = options.create(redis, None, killing);
            created.map(|(client, health)| (client, Some(health)))
        } else {
            let files = Files::new(Path::new(&orders.store));
            let created = options.create_bare(killing(Box::new(files)));
            let created = created.map(|client| (client, None));
            created.map_err(|error| error.to_string())
        };
        let (client, health) = created.unwrap_or_else(|error| {
            eprintln!("cannot create the client: {error}");
            process::exit(exit::NOT_CREATED)
        });
        let next = Id {
            run: orders.run,
            number: orders.published,
        };
        Self {
            has_last,
            publisher: Publisher::new(client, next),
            orders,
            health,
        }
    }

    pub fn client(&self) -> &Client {
        &self.publisher.client
    }

    pub fn is_connected(&self) -> bool {
        self.client().is_connected()
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
            if has_last && remaining.is_empty() && !self.has_unwritten() {
                break;
            }
            if started.elapsed() > LIMIT / 2 {
                fs::write(self.orders.folder.join("remaining"), remaining.join(" "))
                    .expect("can be written");
                process::exit(exit::REMAINING);
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        if let Script::Deterministic = self.orders.script {
            // An error here does not matter: every inbound message is accounted for elsewhere.
            let _ = self.client().unsubscribe(INBOUND, LIMIT);
        }
        if let Err(left) = self.client().end(LIMIT) {
            eprintln!("not everything has ended: {left}");
            process::exit(exit::NOT_STOPPED);
        }
        process::exit(exit::DONE);
    }

    /// Returns true if messages wait that a promoted replica may not have yet.
    fn has_unwritten(&self) -> bool {
        let health = self.health.as_ref();
        self.orders.victim == Victim::Redis
            && health.is_some_and(|health| health.snapshot().waiting_messages > 0)
    }

    /// Lists the keys in the store without the client.
    fn records(&self) -> Box<dyn FnMut() -> Vec<String>> {
        let (store, broker) = (self.orders.records.clone(), self.orders.broker.clone());
        if store.contains("://") {
            let redis = redis::Client::open(store).expect("a URL");
            let mut kept = None;
            let may_die = self.orders.victim == Victim::Redis;
            return Box::new(move || {
                let connection = kept.take().map_or_else(|| redis.get_connection(), Ok);
                let listed = connection.and_then(|mut connection| {
                    let listed = try_records(&mut connection, CLIENT, &broker)?;
                    kept = Some(connection);
                    Ok(listed)
                });
                match listed {
                    // Its replica is not promoted yet.
                    Err(error) if may_die => vec![error.to_string()],
                    listed => listed.expect("Redis answers"),
                }
            });
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
