//! The program: it publishes all the time, online and offline, and receives at QoS 2, until it is killed.

use std::{
    collections::VecDeque,
    env,
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{RedisPersistence, StoreObserver};

use super::{LAST, WINDOW};
use crate::{
    LIMIT,
    crash::{self, Kill, Killing, append, connect_options, kill_self, lines},
    random::Random,
};

pub const CLIENT: &str = "program";
pub const TOPIC: &str = "readings";
pub const INBOUND: &str = "commands";

/// How a run ends that is not killed.
pub mod exit {
    pub const DONE: i32 = 0;
    /// A write was broken off, after which Paho would send damaged messages: the next run sends them as they were.
    pub const GIVEN_UP: i32 = 30;
    /// Records are left though every message is through.
    pub const LEFT: i32 = 31;
    pub const STUCK: i32 = 32;
    pub const NOT_CREATED: i32 = 33;
}

/// What the test tells a run, in its environment.
pub struct Orders {
    pub broker: String,
    pub redis: String,
    /// The protocol level.
    pub version: u32,
    pub folder: PathBuf,
    pub run: usize,
    pub seed: u64,
    /// It publishes nothing any more and ends when everything is through.
    pub last: bool,
    /// Whether messages are sent to it.
    pub inbound: bool,
    /// How long one exchange with Redis may take.
    pub patience: Duration,
}

impl Orders {
    pub fn variables(&self) -> [(&'static str, String); 9] {
        [
            ("KILLS_BROKER", self.broker.clone()),
            ("KILLS_REDIS", self.redis.clone()),
            ("KILLS_VERSION", self.version.to_string()),
            ("KILLS_FOLDER", self.folder.display().to_string()),
            ("KILLS_RUN", self.run.to_string()),
            ("KILLS_SEED", self.seed.to_string()),
            ("KILLS_LAST", self.last.to_string()),
            ("KILLS_INBOUND", self.inbound.to_string()),
            ("KILLS_PATIENCE", self.patience.as_millis().to_string()),
        ]
    }

    fn read() -> Option<Self> {
        Some(Self {
            broker: env::var("KILLS_BROKER").ok()?,
            redis: env::var("KILLS_REDIS").ok()?,
            version: env::var("KILLS_VERSION").ok()?.parse().ok()?,
            folder: env::var_os("KILLS_FOLDER")?.into(),
            run: env::var("KILLS_RUN").ok()?.parse().ok()?,
            seed: env::var("KILLS_SEED").ok()?.parse().ok()?,
            last: env::var("KILLS_LAST").ok()?.parse().ok()?,
            inbound: env::var("KILLS_INBOUND").ok()?.parse().ok()?,
            patience: Duration::from_millis(env::var("KILLS_PATIENCE").ok()?.parse().ok()?),
        })
    }
}

/// Does what the environment says; nothing where it says nothing.
pub fn run() {
    let Some(orders) = Orders::read() else {
        return;
    };
    thread::spawn(|| {
        // The test holds the other end, which closes when the test ends.
        let _ = io::stdin().read(&mut [0]);
        kill_self();
    });
    Program::create(&orders).run();
}

/// Ends the run before Paho sends a message of an earlier run that it has damaged: that has no token.
struct GivingUp;

impl StoreObserver for GivingUp {
    fn on_damaged(&self, _: &str, _: &str) {
        process::exit(exit::GIVEN_UP);
    }
}

struct Program<'a> {
    orders: &'a Orders,
    random: Random,
    client: mqtt::AsyncClient,
    has_last: Arc<AtomicBool>,
    ledger: File,
    published: usize,
    under_way: VecDeque<mqtt::Token>,
}

impl<'a> Program<'a> {
    fn create(orders: &'a Orders) -> Self {
        let path = orders.folder.join("ledger");
        let published = lines(&path).len();
        let store = RedisPersistence::builder()
            .url(&orders.redis)
            .operation_timeout(orders.patience)
            .open_timeout(LIMIT)
            .observer(Arc::new(GivingUp))
            .build()
            .expect("good options");
        // The account needs the calls, to tell what Paho does from what we do.
        let trace = append(&orders.folder.join(format!("trace-{}", orders.run)));
        let client = mqtt::CreateOptionsBuilder::new()
            .server_uri(&orders.broker)
            .client_id(CLIENT)
            .mqtt_version(orders.version)
            .max_buffered_messages(10_000)
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true)
            .user_persistence(Killing::new(store, Kill::Never, trace))
            .create_client()
            .unwrap_or_else(|_| process::exit(exit::NOT_CREATED));
        let has_last = Arc::new(AtomicBool::new(!orders.inbound));
        let run = orders.run;
        let mut received = append(&orders.folder.join("received"));
        let came = Arc::clone(&has_last);
        client.set_message_callback(move |_, message| {
            let Some(message) = message else { return };
            let text = message.payload_str();
            // In one write, as a kill may come at any time.
            received
                .write_all(format!("{run} {text}\n").as_bytes())
                .expect("takes a line");
            came.fetch_or(text == LAST, Ordering::Relaxed);
        });
        Self {
            orders,
            random: Random::of(orders.seed),
            client,
            has_last,
            ledger: append(&path),
            published,
            under_way: VecDeque::new(),
        }
    }

    fn run(mut self) -> ! {
        if self.orders.last {
            self.connect();
            self.finish();
        }
        if self.random.below(4) == 0 {
            self.publish(20);
        }
        loop {
            self.connect();
            self.publish(200);
            if self.random.below(3) == 0 && self.client.is_connected() {
                // It fails where the connection is lost meanwhile.
                let _ = self.client.disconnect(None).wait_for(LIMIT);
            }
            if !self.client.is_connected() {
                self.publish(30);
            }
        }
    }

    /// Some messages, and fewer than `end`, or fewer still when the connection is lost.
    fn publish(&mut self, end: usize) {
        let was_connected = self.client.is_connected();
        for _ in 0..self.random.below(end) {
            let text = crash::payload(self.published, self.orders.run);
            let qos = i32::try_from(crash::qos(&text)).expect("0 to 2");
            let message = mqtt::Message::new(TOPIC, text.as_bytes(), qos);
            let Ok(token) = self.client.try_publish(message) else {
                process::exit(exit::STUCK);
            };
            self.ledger
                .write_all(format!("{text}\n").as_bytes())
                .expect("takes a line");
            self.published += 1;
            self.under_way.push_back(token.into());
            while was_connected && self.under_way.len() >= WINDOW && self.client.is_connected() {
                self.look_after_tokens();
                thread::park_timeout(Duration::from_micros(200));
            }
            if was_connected && !self.client.is_connected() {
                return;
            }
        }
    }

    /// Forgets those that are through, and gives up where Paho has freed what it is yet to send.
    fn look_after_tokens(&mut self) {
        self.under_way.retain_mut(|token| match token.try_wait() {
            None => true,
            Some(Err(mqtt::Error::Failure)) => process::exit(exit::GIVEN_UP),
            Some(_) => false,
        });
    }

    /// As often as it takes, and subscribes now and then.
    fn connect(&mut self) {
        let options = connect_options(self.orders.version, LIMIT);
        let started = Instant::now();
        while !self.client.is_connected() {
            // Paho fails the tokens of a write that was broken off under the lock that `is_connected` took: none is to come.
            self.look_after_tokens();
            let _ = self.client.connect(options.clone()).wait_for(LIMIT);
            if started.elapsed() > LIMIT {
                process::exit(exit::STUCK);
            }
        }
        if self.orders.inbound && self.random.below(3) == 0 {
            // A connection that is lost meanwhile shows elsewhere.
            let _ = self.client.subscribe(INBOUND, 2).wait_for(LIMIT);
        }
    }

    /// Waits until every message is through in both directions, and goes.
    fn finish(mut self) -> ! {
        let started = Instant::now();
        loop {
            self.look_after_tokens();
            if self.has_last.load(Ordering::Relaxed) && self.is_empty() {
                break;
            }
            if started.elapsed() > LIMIT / 2 {
                process::exit(exit::LEFT);
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        let _ = self.client.disconnect(None).wait_for(LIMIT);
        process::exit(exit::DONE);
    }

    /// Whether the store is, asked without the client.
    fn is_empty(&self) -> bool {
        let server = self.orders.broker.trim_start_matches("mqtt://");
        let records: usize = redis::Client::open(self.orders.redis.as_str())
            .and_then(|client| client.get_connection())
            .and_then(|mut connection| {
                redis::cmd("HLEN")
                    .arg(format!("{CLIENT}:{server}"))
                    .query(&mut connection)
            })
            .expect("Redis answers");
        records == 0
    }
}
