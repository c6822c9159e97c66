//! First program of the README: publishes one message, which Redis keeps until the broker has acknowledged it.
//!
//! `cargo run --example publish [BROKER [REDIS]]`, by default `mqtt://127.0.0.1:1883 redis://127.0.0.1:6379/0`.

use std::{env, error::Error, process::ExitCode};

use paho_mqtt_redis::{RedisPersistence, paho_mqtt as mqtt};

const CLIENT_ID: &str = "publish-example";
/// Paho restores records in the form of the version that the client was created for, so it must connect with the same.
const VERSION: mqtt::MqttVersion = mqtt::MqttVersion::V5;
const SESSION_EXPIRY_SECONDS: u32 = 24 * 60 * 60;

fn run() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let broker = args.next().unwrap_or("mqtt://127.0.0.1:1883".to_owned());
    let mut persistence = match args.next() {
        Some(redis) => RedisPersistence::builder().url(redis).build()?,
        None => RedisPersistence::new(),
    };
    // Paho reports only "persistence error"; connect() returns the reason.
    persistence.connect(CLIENT_ID, &broker)?;

    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.as_str())
        .client_id(CLIENT_ID)
        .mqtt_version(VERSION)
        .user_persistence(persistence)
        .create_client()?;

    // Without a session that outlives the connection, Paho deletes what is in flight when the connection is lost.
    let mut session = mqtt::Properties::new();
    session.push_u32(
        mqtt::PropertyCode::SessionExpiryInterval,
        SESSION_EXPIRY_SECONDS,
    )?;
    let options = mqtt::ConnectOptionsBuilder::with_mqtt_version(VERSION)
        .clean_start(false)
        .properties(session)
        .finalize();
    let connected = client.connect(options).wait();
    connected.map_err(|error| format!("cannot connect to the broker {broker}: {error}"))?;

    let message = mqtt::Message::new("example/readings", "21.5", mqtt::QoS::ExactlyOnce);
    client.publish(message).wait()?;
    println!("published and acknowledged");

    client.disconnect(None).wait()?;
    Ok(())
}

fn main() -> ExitCode {
    // `tracing_subscriber::fmt::init()` with `env-filter` shows errors only; outages are at `info` and `warn`.
    tracing_subscriber::fmt()
        .with_env_filter("info,paho_mqtt_c=error")
        .with_writer(std::io::stderr)
        .init();
    let Err(error) = run() else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("  caused by: {cause}");
        source = cause.source();
    }
    ExitCode::FAILURE
}
