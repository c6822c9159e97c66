//! The parts that the programs are made of.

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, BufRead, Write},
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::StoreObserver;
use serde::de::DeserializeOwned;

use super::{
    killing::kill_self,
    messages::{Id, LAST},
};

/// The variable that has the orders of a program, as JSON.
pub(super) const ORDERS: &str = "ORDERS";
/// Begins the lines for the driver, since libraries may print others.
pub(super) const MARK: &str = "testkit: ";

/// Exit codes of a run that is not killed.
pub(super) mod exit {
    pub const DONE: i32 = 0;
    /// A write was broken off, after which Paho would send damaged messages: the next run sends them undamaged.
    pub const GIVEN_UP: i32 = 30;
    /// Records are left though every message is through.
    pub const LEFT: i32 = 31;
    pub const STUCK: i32 = 32;
    pub const NOT_CREATED: i32 = 33;
}

/// The orders of this program. Ends it if there are none.
pub(super) fn orders<T: DeserializeOwned>() -> T {
    let text = env::var(ORDERS).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_else(|error| {
        eprintln!("the variable {ORDERS} has no orders for this program: {error}");
        process::exit(2)
    })
}

/// Commands on standard input, at whose end the program kills itself: the driver has gone, or wants it to.
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

/// Reports to the driver in one write, since a kill may come at any time.
pub(super) fn report(words: &str) {
    io::stdout()
        .write_all(format!("{MARK}{words}\n").as_bytes())
        .expect("the driver reads");
}

/// A client that publishes whether or not it is connected.
pub(super) fn client(broker: &str, id: &str) -> mqtt::CreateOptionsBuilder {
    mqtt::CreateOptionsBuilder::new()
        .server_uri(broker)
        .client_id(id)
        .max_buffered_messages(100_000)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
}

/// For a session that is kept.
pub(super) fn session(version: u32) -> mqtt::ConnectOptionsBuilder {
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

/// The same, complete.
pub fn connect_options(version: u32, timeout: Duration) -> mqtt::ConnectOptions {
    session(version).connect_timeout(timeout).finalize()
}

pub(super) fn append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("can be opened")
}

/// Appends what a client receives to a file. The flag is set when the last message has come.
pub(super) fn note_received(
    client: &mqtt::AsyncClient,
    folder: &Path,
    run: usize,
) -> Arc<AtomicBool> {
    let mut received = append(&folder.join("received"));
    let has_last = Arc::<AtomicBool>::default();
    let came = Arc::clone(&has_last);
    client.set_message_callback(move |_, message| {
        let Some(message) = message else { return };
        let text = message.payload_str();
        // In one write, since a kill may come at any time.
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

/// Ends the run before Paho sends a message of an earlier run that it has damaged: such a message has no token.
pub(super) struct GiveUpOnDamage;

impl StoreObserver for GiveUpOnDamage {
    fn on_damaged(&self, _: &str, _: &str) {
        process::exit(exit::GIVEN_UP);
    }
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

    /// Publishes the next message and reports that it was accepted. Returns whether it was.
    pub fn publish(&mut self) -> bool {
        let Ok(token) = self.mqtt.try_publish(self.next.message()) else {
            return false;
        };
        report(&format!("accepted {}", self.next));
        self.next.number += 1;
        self.waiting.push(token.into());
        true
    }

    /// The number of messages that are not acknowledged, as far as `settle` has looked.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Forgets messages that are through. Returns false if Paho has freed one that it is yet to send.
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

    /// The same, and ends the run in that case.
    pub fn settle_or_give_up(&mut self) {
        if !self.settle() {
            process::exit(exit::GIVEN_UP);
        }
    }
}
