//! Publishes one message, which Redis keeps until the broker has acknowledged it.
//!
//! `cargo run --example publish [BROKER [REDIS]]`, by default `mqtt://127.0.0.1:1883 redis://127.0.0.1:6379/0`.

use std::{env, error::Error, time::Duration};

use paho_mqtt_redis::{Session, paho_mqtt as mqtt};

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info,paho_mqtt_c=error")
        .with_writer(std::io::stderr)
        .init();
    let mut args = env::args().skip(1);
    let broker = args.next().unwrap_or("mqtt://127.0.0.1:1883".to_owned());
    let redis = args.next().unwrap_or("redis://127.0.0.1:6379/0".to_owned());

    let client = Session::new("publish-example", broker)
        .redis_url(redis)
        .start()?;
    client.publish(mqtt::Message::new("example/readings", "21.5", mqtt::QOS_2))?;
    let stopped = client.stop(Duration::from_secs(5))?;
    println!(
        "{} acknowledged, {} wait in Redis",
        stopped.acknowledged, stopped.pending
    );
    Ok(())
}
