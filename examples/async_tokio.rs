//! Publishes from `async` code with tokio. Any other executor does as well: a delivery is a plain future.
//!
//! `cargo run --example async_tokio [BROKER [REDIS]]`, by default `mqtt://127.0.0.1:1883 redis://127.0.0.1:6379/0`.

use std::{env, error::Error, time::Duration};

use paho_mqtt_redis::{Session, paho_mqtt as mqtt};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let broker = args.next().unwrap_or("mqtt://127.0.0.1:1883".to_owned());
    let redis = args.next().unwrap_or("redis://127.0.0.1:6379/0".to_owned());

    // Starting and stopping wait for Redis and for the broker, so they have a thread of their own.
    let session = Session::new("async-example", broker).redis_url(redis);
    let client = spawn_blocking(|| session.start()).await??;

    for number in 1..=10 {
        let message = mqtt::Message::new("example/readings", number.to_string(), mqtt::QOS_1);
        // Returns once Redis has the message.
        let delivery = client.publish(message)?;
        // Nobody needs to wait for the broker, but everybody can.
        match timeout(Duration::from_secs(1), delivery).await {
            Ok(acknowledged) => acknowledged?,
            Err(_) => println!("{number} waits in Redis"),
        }
        sleep(Duration::from_millis(100)).await;
    }

    let stopped = spawn_blocking(|| client.stop(Duration::from_secs(5))).await??;
    println!(
        "{} acknowledged, {} wait in Redis",
        stopped.acknowledged, stopped.pending
    );
    Ok(())
}
