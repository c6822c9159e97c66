//! Another client in the measured process, with a Redis of its own.

use std::{
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{Health, RedisPersistence};
use testkit::{LIMIT, eventually};

use crate::{
    client::{MAX_WAITING, connect},
    job::Job,
};

pub struct Neighbor {
    health: Health,
    redis: String,
}

impl Neighbor {
    /// Publishes a thousand messages per second at QoS 1 until the process ends.
    pub fn start(job: &Job) -> Result<Self, mqtt::Error> {
        let redis = job.at.neighbor.clone();
        let persistence = RedisPersistence::builder()
            .url(&redis)
            .build()
            .expect("good options");
        let health = persistence.health();
        let client = mqtt::CreateOptionsBuilder::new()
            .server_uri(&job.at.broker)
            .client_id(format!("{}-neighbor", job.client_id))
            .max_buffered_messages(MAX_WAITING)
            .user_persistence(persistence)
            .create_client()?;
        connect(&client, job.version)?;
        thread::spawn(move || {
            let mut due = Instant::now();
            loop {
                // The delivery does not matter for the measurement.
                drop(client.publish(mqtt::Message::new("bench/neighbor", "21.5", 1)));
                due += Duration::from_millis(1);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        Ok(Self { health, redis })
    }

    /// Pauses its Redis and waits until it has noticed.
    pub fn lose_redis(&self) {
        let client = redis::Client::open(self.redis.as_str()).expect("a URL");
        let mut connection = client.get_connection().expect("it answers still");
        redis::cmd("CLIENT")
            .arg(&["PAUSE", "600000", "ALL"])
            .exec(&mut connection)
            .expect("it stands still");
        eventually(LIMIT, "the loss of Redis is noticed", || {
            (!self.health.snapshot().up).then_some(())
        });
    }
}
