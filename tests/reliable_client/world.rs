//! A broker, a Redis and a client between them.

use std::time::Duration;

use paho_mqtt as mqtt;
use paho_mqtt_redis::{Client, ConnectionState, Session};
use testkit::{LIMIT, Mosquitto, RedisServer, Subscriber, eventually};

pub const CLIENT: &str = "device-1";
pub const TOPIC: &str = "readings";

/// A session that retries soon.
pub fn session(broker: &str, redis: &RedisServer) -> Session {
    Session::new(CLIENT, broker)
        .redis_url(redis.url())
        .backoff(Duration::from_millis(20), Duration::from_millis(200))
}

pub fn message(payload: &str) -> mqtt::Message {
    mqtt::Message::new(TOPIC, payload, mqtt::QOS_2)
}

/// Publishes messages `run 0`, `run 1` and so on.
pub fn publish(client: &Client, run: &str, count: usize) {
    for number in 0..count {
        let message = message(&format!("{run} {number}"));
        drop(client.publish(message).expect("accepted"));
    }
}

pub fn payloads(run: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{run} {number}")).collect()
}

/// A broker with a subscriber, and a Redis that survives a kill.
///
/// The subscriber is at QoS 0: at QoS 2 Mosquitto 2.0.11 delivers what the subscriber had not completed once more after
/// a restart, although it has sent the PUBREL.
pub struct World {
    pub subscriber: Subscriber,
    pub broker: Mosquitto,
    pub redis: RedisServer,
}

impl World {
    pub fn start() -> Self {
        let broker = Mosquitto::start();
        Self {
            subscriber: Subscriber::start(&broker.url(), TOPIC, 0),
            broker,
            redis: RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]),
        }
    }

    pub fn session(&self) -> Session {
        session(&self.broker.url(), &self.redis)
    }

    /// Stops the broker, and waits until the client has noticed: what it publishes before may break off, and Paho would
    /// send memory that it has freed.
    pub fn stop_broker(&mut self, client: &Client) {
        eventually(LIMIT, "nothing is on its way", || {
            (client.state().pending == 0).then_some(())
        });
        self.broker.stop();
        eventually(LIMIT, "the client has noticed", || {
            (!client.state().is_connected()).then_some(())
        });
    }

    /// Waits until at least this many messages have arrived.
    #[track_caller]
    pub fn arrived(&self, count: usize) -> Vec<String> {
        let arrived = self.subscriber.wait_for(count, LIMIT).into_iter();
        let text = |payload| String::from_utf8(payload).expect("text");
        arrived.map(|(_, payload)| text(payload)).collect()
    }
}

#[track_caller]
pub fn wait_for(client: &Client, state: ConnectionState) {
    eventually(LIMIT, &format!("{state:?}"), || {
        (client.state().connection == state).then_some(())
    });
}
