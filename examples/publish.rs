//! The shortest useful program: one message that Redis keeps until the broker has acknowledged it.
//!
//! `cargo run --example publish [BROKER [REDIS]]`, by default `mqtt://127.0.0.1:1883 redis://127.0.0.1:6379/0`.

use std::{env, error::Error};

use paho_mqtt_redis::{RedisPersistence, paho_mqtt as mqtt};

const CLIENT_ID: &str = "publish-example";
const VERSION: mqtt::MqttVersion = mqtt::MqttVersion::V3_1_1;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let broker = args.next().unwrap_or("mqtt://127.0.0.1:1883".to_owned());
    let mut persistence = match args.next() {
        Some(redis) => RedisPersistence::builder().url(redis).build()?,
        None => RedisPersistence::new(),
    };
    // Paho would only say "persistence error"; asked here, a Redis that cannot be used says why.
    persistence.connect(CLIENT_ID, &broker)?;

    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker)
        .client_id(CLIENT_ID)
        // Paho restores records in the form of this version, so it is the one that the client connects with.
        .mqtt_version(VERSION)
        .user_persistence(persistence)
        .create_client()?;

    // With a clean session Paho would throw away what an earlier run left in flight.
    let options = mqtt::ConnectOptionsBuilder::with_mqtt_version(VERSION)
        .clean_session(false)
        .finalize();
    client.connect(options).wait()?;

    let message = mqtt::Message::new("example/readings", "21.5", mqtt::QoS::ExactlyOnce);
    client.publish(message).wait()?;
    println!("published and acknowledged");

    client.disconnect(None).wait()?;
    Ok(())
}
