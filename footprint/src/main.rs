//! Smallest program with each persistence, whose size and memory `scripts/footprint` measures.
//!
//! `footprint PLACE MESSAGES`: creates a client that keeps its messages at PLACE, which is a folder without the feature `redis` and
//! the URL of a Redis with it, publishes this many messages of 100 B without a connection, and prints its resident memory in KiB, the
//! number of its threads, and the processor time that it has used in hundredths of a second.

use std::{env, error::Error, fs, process};

use paho_mqtt_redis::paho_mqtt as mqtt;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let place = arguments.next().ok_or("no place")?;
    let messages: i32 = arguments.next().ok_or("no number")?.parse()?;
    let options = mqtt::CreateOptionsBuilder::new()
        .server_uri("mqtt://127.0.0.1:1")
        .client_id("footprint")
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .max_buffered_messages(messages.max(1));
    let (options, _server) = with_persistence(options, &place)?;
    let client = mqtt::AsyncClient::new(options.finalize())?;
    for _ in 0..messages {
        let message = mqtt::Message::new("readings", [b'x'; 100], mqtt::QOS_1);
        client
            .try_publish(message)
            .map_err(|failure| failure.to_string())?;
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next())
            .unwrap_or("?")
    };
    let times = fs::read_to_string("/proc/self/stat")?;
    // The name of the program, in parentheses, is the second field; user and system time are the 14th and 15th.
    let times = times.rsplit(')').next().unwrap_or_default();
    let times: Vec<u64> = times
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    println!(
        "{} {} {}",
        field("VmRSS:"),
        field("Threads:"),
        times.iter().sum::<u64>()
    );
    // Dropping the client would remove the messages from the files.
    process::exit(0);
}

#[cfg(not(feature = "redis"))]
fn with_persistence(
    options: mqtt::CreateOptionsBuilder,
    folder: &str,
) -> Result<(mqtt::CreateOptionsBuilder, ()), Box<dyn Error>> {
    Ok((options.persistence(std::path::Path::new(folder)), ()))
}

#[cfg(all(feature = "redis", not(feature = "metrics")))]
fn with_persistence(
    options: mqtt::CreateOptionsBuilder,
    url: &str,
) -> Result<(mqtt::CreateOptionsBuilder, ()), Box<dyn Error>> {
    let redis = paho_mqtt_redis::RedisPersistence::builder()
        .url(url)
        .build()?;
    Ok((options.user_persistence(redis), ()))
}

#[cfg(all(feature = "metrics", not(feature = "server")))]
fn with_persistence(
    options: mqtt::CreateOptionsBuilder,
    url: &str,
) -> Result<(mqtt::CreateOptionsBuilder, ()), Box<dyn Error>> {
    let (redis, _) = measured(url)?;
    Ok((options.user_persistence(redis), ()))
}

#[cfg(feature = "server")]
fn with_persistence(
    options: mqtt::CreateOptionsBuilder,
    url: &str,
) -> Result<(mqtt::CreateOptionsBuilder, paho_mqtt_redis::MetricsServer), Box<dyn Error>> {
    let (redis, registry) = measured(url)?;
    let server = paho_mqtt_redis::MetricsServer::bind("127.0.0.1:0", registry)?;
    Ok((options.user_persistence(redis), server))
}

#[cfg(feature = "metrics")]
fn measured(
    url: &str,
) -> Result<
    (
        paho_mqtt_redis::Instrumented<paho_mqtt_redis::RedisPersistence>,
        paho_mqtt_redis::prometheus::Registry,
    ),
    Box<dyn Error>,
> {
    let registry = paho_mqtt_redis::prometheus::Registry::new();
    let metrics = paho_mqtt_redis::PersistenceMetrics::register(&registry)?;
    let redis = paho_mqtt_redis::RedisPersistence::builder()
        .url(url)
        .build()?;
    Ok((redis.instrument(&metrics), registry))
}
