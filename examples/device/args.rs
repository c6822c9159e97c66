//! The command line.

#![expect(clippy::doc_markdown, reason = "these comments are the help")]

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use clap::{Parser, value_parser};
use paho_mqtt_redis::{Durability, paho_mqtt as mqtt};

/// Publishes readings at a fixed rate. At QoS 1 and 2 each reading that the client accepts stays in Redis until the
/// broker acknowledges it, across broker outages and crashes of this program. Readings are lost at QoS 0, if the buffer is
/// full (counted as refused), and if this program dies while Redis is unavailable. The backlog and every call to Redis are
/// served as metrics.
#[derive(Parser)]
#[command(name = "device", version, after_help = include_str!("help.txt"), max_term_width = 120, allow_negative_numbers = true)]
pub struct Args {
    /// MQTT broker: mqtt://HOST[:PORT] (TLS is left out of this example)
    #[arg(long, default_value = "mqtt://127.0.0.1:1883", value_name = "URI")]
    pub broker: String,
    /// redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE] or unix:///PATH[?db=DATABASE&user=USER&pass=PASSWORD]
    #[arg(long, default_value = "redis://127.0.0.1:6379/0", value_name = "URL")]
    pub redis: String,
    /// Prefix of the Redis key, before client id and broker
    #[arg(long, value_parser = text, value_name = "TEXT")]
    pub key_prefix: Option<String>,
    /// A reading waits until it is confirmed (Redis has it), synced (the disk of Redis has it) or pipelined (it is on its way)
    #[arg(long, default_value = "confirmed", value_name = "WORD")]
    pub durability: Durability,
    /// Number of Redis replicas that have to have a reading, too
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    pub replicas: u32,
    /// MQTT client id, also part of the Redis key
    #[arg(long, default_value = "example-device", value_parser = text, value_name = "ID")]
    pub client_id: String,
    /// Topic of the readings
    #[arg(long, default_value = "example/readings", value_parser = topic)]
    pub topic: String,
    /// 0: at most once, 1: at least once, 2: exactly once
    #[arg(long, default_value = "1", value_parser = value_parser!(i32).range(0..=2))]
    pub qos: i32,
    /// MQTT version: 3.1.1 or 5
    #[arg(long, default_value = "5", value_parser = version, value_name = "VERSION")]
    pub mqtt: mqtt::MqttVersion,
    /// Readings per second, 0.001 to 1000000
    #[arg(long, default_value = "1", value_parser = interval, value_name = "NUMBER")]
    pub rate: Duration,
    /// Message size in bytes, 0 to 16777216, at least what the reading needs
    #[arg(long, default_value = "64", value_parser = value_parser!(u32).range(0..=16_777_216))]
    pub payload: u32,
    /// Stop after this many readings
    #[arg(long, value_parser = value_parser!(u64).range(1..), value_name = "NUMBER")]
    pub count: Option<u64>,
    /// Address for /metrics, such as 127.0.0.1:9464 or [::1]:9464; port 0 picks a free port, 'none' disables it
    #[arg(long, default_value = "127.0.0.1:9464", value_name = "ADDRESS")]
    pub listen: String,
    /// All series, or only those that the fleet board, recording rules and alerts use
    #[arg(long, default_value = "full", value_parser = ["full", "lean"])]
    pub metrics: String,
    /// Require the bearer token in this file
    #[arg(long, value_name = "FILE")]
    pub listen_token: Option<PathBuf>,
    /// Require the user and password in this file, as USER:PASSWORD; browsers ask for them. With a token, either is enough
    #[arg(long, value_name = "FILE")]
    pub listen_login: Option<PathBuf>,
    /// Serve over TLS with certificate and key from this PEM file (feature server-tls)
    #[arg(long, value_name = "FILE")]
    pub listen_tls: Option<PathBuf>,
    /// Messages that may wait, 4 to 60000; readings beyond it are dropped and counted as refused
    #[arg(long, default_value = "10000", value_parser = value_parser!(u16).range(4..=60_000))]
    pub buffer: u16,
    /// Time that a clean stop waits for acknowledgments, 0 to 86400
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    pub stop_timeout: Duration,
    /// Append the id of each accepted reading to this file, one per line
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Log format on stderr, final error included
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub log: String,
}

/// Accepts a text that MQTT can carry.
fn text(text: &str) -> Result<String, String> {
    if (1..=65_535).contains(&text.len()) && !text.contains(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("it takes 1 to 65535 bytes without control characters".to_owned())
}

fn topic(topic: &str) -> Result<String, String> {
    if topic.contains(['+', '#']) {
        return Err("readings have a topic without + and #".to_owned());
    }
    text(topic)
}

fn version(version: &str) -> Result<mqtt::MqttVersion, &'static str> {
    match version {
        "3.1.1" => Ok(mqtt::MqttVersion::V3_1_1),
        "5" => Ok(mqtt::MqttVersion::V5),
        _ => Err("it is 3.1.1 or 5"),
    }
}

/// Returns the time from one reading to the next.
fn interval(rate: &str) -> Result<Duration, String> {
    number(rate, 0.001..=1_000_000.0).map(|rate| Duration::from_secs_f64(1.0 / rate))
}

fn seconds(seconds: &str) -> Result<Duration, String> {
    number(seconds, 0.0..=86_400.0).map(Duration::from_secs_f64)
}

fn number(text: &str, range: RangeInclusive<f64>) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("it is a number from {} to {}", range.start(), range.end()))
}
