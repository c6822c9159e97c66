//! The program: it publishes, receives, loses its connection, and goes on from the end of the run before it.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{Durability, RedisPersistence};
use serde::{Deserialize, Serialize};

use crate::harness::{
    Id, connect_options, cut,
    files::Files,
    killing::{Kill, Killing},
    messages::{CLIENT, INBOUND},
    program::{Publisher, append, client, commands, exit, note_received, orders, records},
};

/// It publishes this many messages, a third of them at each QoS.
const MESSAGES: usize = 24;
/// These while it is connected, then those up to `ONLINE` while it is not.
const OFFLINE: usize = 10;
const ONLINE: usize = 16;

/// The time that anything may take before the run gives up.
const LIMIT: Duration = Duration::from_secs(4);

#[derive(Serialize, Deserialize)]
pub struct Orders {
    pub broker: String,
    /// The URL of a Redis, or a folder.
    pub store: String,
    /// The same, or another way to that Redis, to look at the records without the persistence.
    pub records: String,
    /// `put` does not wait for Redis.
    pub pipelined: bool,
    /// The protocol levels that the client is created for and connects with, 0 for the default.
    pub levels: (u32, u32),
    pub kill: Kill,
    pub folder: PathBuf,
    pub run: usize,
    /// Messages that the runs before it had accepted.
    pub published: usize,
}

/// Obeys its orders.
pub fn run() -> ! {
    let orders: Orders = orders();
    // The driver closes standard input when the program is to die.
    let _commands = commands();
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
    Program::create(&orders).run()
}

struct Program<'a> {
    orders: &'a Orders,
    publisher: Publisher,
    losses: Receiver<()>,
}

impl<'a> Program<'a> {
    fn create(orders: &'a Orders) -> Self {
        let options = match orders.levels.0 {
            0 => client(&orders.broker, CLIENT),
            version => client(&orders.broker, CLIENT).mqtt_version(version),
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
        .create_client()
        .unwrap_or_else(|_| process::exit(exit::NOT_CREATED));
        let (lost, losses) = mpsc::channel();
        client.set_connection_lost_callback(move |_| {
            // A run that is about to end does not wait for it any more.
            let _ = lost.send(());
        });
        note_received(&client, &orders.folder, orders.run);
        let next = Id {
            run: orders.run,
            number: orders.published,
        };
        Self {
            orders,
            publisher: Publisher::new(client, next),
            losses,
        }
    }

    fn run(mut self) -> ! {
        // A run that follows one that ended without a connection begins without one.
        if !(OFFLINE..ONLINE).contains(&self.orders.published) {
            self.connect();
        }
        if self.orders.published < OFFLINE {
            self.publish_until(OFFLINE);
            // The broker takes this as the sign to hang up.
            let topic = format!("hang up/{}", self.orders.run);
            self.publisher
                .mqtt
                .publish(mqtt::Message::new(topic, "", 0));
            self.losses
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| process::exit(exit::STUCK));
        }
        self.publish_until(ONLINE);
        if !self.publisher.mqtt.is_connected() {
            self.connect();
        }
        self.publish_until(MESSAGES);
        self.finish();
    }

    fn publish_until(&mut self, number: usize) {
        while self.publisher.next.number < number {
            if !self.publisher.publish() {
                process::exit(exit::GIVEN_UP);
            }
        }
    }

    /// Connects, as often as it takes, and subscribes.
    fn connect(&self) {
        let mqtt = &self.publisher.mqtt;
        let options = connect_options(self.orders.levels.1, LIMIT);
        let started = Instant::now();
        while mqtt.connect(options.clone()).wait_for(LIMIT).is_err() {
            if started.elapsed() > LIMIT {
                process::exit(exit::STUCK);
            }
        }
        if mqtt.subscribe(INBOUND, 2).wait_for(LIMIT).is_err() {
            process::exit(exit::GIVEN_UP);
        }
    }

    /// Waits until every message is through, and goes.
    fn finish(mut self) -> ! {
        let mut records = self.records();
        let started = Instant::now();
        loop {
            // A token fails if a write was broken off. The records show the rest, since those of an earlier run have no token, and
            // the token of one that Paho discards never ends.
            self.publisher.settle_or_give_up();
            let left = records();
            if left.is_empty() {
                break;
            }
            if started.elapsed() > Duration::from_secs(2) {
                fs::write(self.orders.folder.join("left"), left.join(" ")).expect("can be written");
                process::exit(exit::LEFT);
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        // Messages to it are in no account of this run, so that an error here does not matter.
        let mqtt = &self.publisher.mqtt;
        let _ = mqtt.unsubscribe(INBOUND).wait_for(LIMIT);
        let _ = mqtt.disconnect(None).wait_for(LIMIT);
        process::exit(exit::DONE);
    }

    /// Asks for the keys in the store without the client.
    fn records(&self) -> Box<dyn FnMut() -> Vec<String>> {
        let Orders {
            records: store,
            broker,
            ..
        } = self.orders;
        if store.starts_with("unix://") {
            let redis = redis::Client::open(store.as_str());
            let redis = redis.and_then(|redis| redis.get_connection());
            let (mut redis, broker) = (redis.expect("Redis answers"), broker.clone());
            return Box::new(move || records(&mut redis, CLIENT, &broker));
        }
        // Paho has a folder for each client in there.
        let store = store.clone();
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
