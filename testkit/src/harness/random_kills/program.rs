//! The program: it publishes all the time, online and offline, and receives at QoS 2, until it is killed.

use std::{
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt_redis::RedisPersistence;
use serde::{Deserialize, Serialize};

use crate::{
    LIMIT,
    harness::{
        Id, connect_options,
        killing::{Kill, Killing},
        messages::{CLIENT, INBOUND},
        program::{
            GiveUpOnDamage, Publisher, append, client, exit, note_received, orders, records,
        },
    },
    random::Random,
};

/// At most this many messages wait for an acknowledgement.
const WINDOW: usize = 50;

#[derive(Serialize, Deserialize)]
pub(in crate::harness) struct Orders {
    pub broker: String,
    pub redis: String,
    /// The protocol level.
    pub version: u32,
    pub folder: PathBuf,
    pub run: usize,
    /// Messages that the runs before it had accepted.
    pub published: usize,
    pub seed: u64,
    /// It publishes nothing any more and ends when everything is through.
    pub last: bool,
    /// Messages are sent to it.
    pub inbound: bool,
    /// The time that one exchange with Redis may take.
    pub operation_timeout: Duration,
}

/// Obeys its orders.
pub fn run() -> ! {
    let orders: Orders = orders();
    Program::create(&orders).run()
}

struct Program<'a> {
    orders: &'a Orders,
    random: Random,
    publisher: Publisher,
    has_last: Arc<AtomicBool>,
}

impl<'a> Program<'a> {
    fn create(orders: &'a Orders) -> Self {
        let store = RedisPersistence::builder()
            .url(&orders.redis)
            .operation_timeout(orders.operation_timeout)
            .open_timeout(LIMIT)
            .observer(Arc::new(GiveUpOnDamage))
            .build()
            .expect("good options");
        // The account needs the calls, to keep apart errors of Paho and ours.
        let trace = append(&orders.folder.join(format!("trace-{}", orders.run)));
        let client = client(&orders.broker, CLIENT)
            .mqtt_version(orders.version)
            .user_persistence(Killing::new(store, Kill::Never, trace))
            .create_client()
            .unwrap_or_else(|_| process::exit(exit::NOT_CREATED));
        let next = Id {
            run: orders.run,
            number: orders.published,
        };
        Self {
            orders,
            random: Random::of(orders.seed),
            has_last: note_received(&client, &orders.folder, orders.run),
            publisher: Publisher::new(client, next),
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
            if self.random.below(3) == 0 && self.is_connected() {
                // It fails if the connection is lost meanwhile.
                let _ = self.publisher.mqtt.disconnect(None).wait_for(LIMIT);
            }
            if !self.is_connected() {
                self.publish(30);
            }
        }
    }

    fn is_connected(&self) -> bool {
        self.publisher.mqtt.is_connected()
    }

    /// Publishes some messages, fewer than `end`, or fewer still when the connection is lost.
    fn publish(&mut self, end: usize) {
        let was_connected = self.is_connected();
        for _ in 0..self.random.below(end) {
            if !self.publisher.publish() {
                process::exit(exit::STUCK);
            }
            while was_connected && self.publisher.waiting() >= WINDOW && self.is_connected() {
                self.publisher.settle_or_give_up();
                thread::park_timeout(Duration::from_micros(200));
            }
            if was_connected && !self.is_connected() {
                return;
            }
        }
    }

    /// Connects, as often as it takes, and subscribes now and then.
    fn connect(&mut self) {
        let options = connect_options(self.orders.version, LIMIT);
        let started = Instant::now();
        while !self.is_connected() {
            // Paho fails the tokens of a write that was broken off under the lock that `is_connected` took: none is to come.
            self.publisher.settle_or_give_up();
            let _ = self.publisher.mqtt.connect(options.clone()).wait_for(LIMIT);
            if started.elapsed() > LIMIT {
                process::exit(exit::STUCK);
            }
        }
        if self.orders.inbound && self.random.below(3) == 0 {
            // A connection that is lost meanwhile shows elsewhere.
            let _ = self.publisher.mqtt.subscribe(INBOUND, 2).wait_for(LIMIT);
        }
    }

    /// Waits until every message is through in both directions, and goes.
    fn finish(mut self) -> ! {
        let redis = redis::Client::open(self.orders.redis.as_str());
        let redis = redis.and_then(|redis| redis.get_connection());
        let mut redis = redis.expect("Redis answers");
        let started = Instant::now();
        loop {
            self.publisher.settle_or_give_up();
            let has_last = !self.orders.inbound || self.has_last.load(Ordering::Relaxed);
            if has_last && records(&mut redis, CLIENT, &self.orders.broker).is_empty() {
                break;
            }
            if started.elapsed() > LIMIT / 2 {
                process::exit(exit::LEFT);
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        let _ = self.publisher.mqtt.disconnect(None).wait_for(LIMIT);
        process::exit(exit::DONE);
    }
}
