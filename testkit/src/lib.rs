//! Private servers, fault injection and small clients that tests and benches share.
//!
//! Every server has a folder of its own, listens on loopback or on a Unix socket only, and dies with the value that started it. A
//! server that is not installed fails the test with the name of its Debian package.

mod alertmanager;
pub mod breaking;
pub mod broker;
pub mod certificates;
pub mod child;
mod chromium;
pub mod crash;
pub mod dashboard;
pub mod device;
pub mod direct;
pub mod faults;
pub mod fleet;
mod http;
pub mod kills;
pub mod log;
mod mosquitto;
mod process;
mod prometheus;
pub mod promql;
mod proxy;
pub mod random;
pub mod recording;
mod redis;
pub mod rules;
pub mod serving;
pub mod soak;
pub mod statistics;
mod subscriber;
pub mod table;
pub mod timed;

#[cfg(test)]
mod tests;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

pub use self::{
    alertmanager::Alertmanager,
    chromium::Chromium,
    http::{
        HttpResponse, REQUEST, answer, answer_bytes, answer_of, body, connected, header, http_get,
        sent, status, try_http_get,
    },
    mosquitto::Mosquitto,
    process::{Server, on_free_port, resident},
    prometheus::{Prometheus, promtool_check_metrics},
    proxy::{Proxy, packet},
    subscriber::Subscriber,
};

pub use self::redis::{RedisServer, SNAPSHOT};

/// A publish command that waits to be sent, as Paho C stores it for MQTT 3.1.1.
pub fn publish_command(packet_id: i32, qos: i32, topic: &str, payload: &[u8]) -> Vec<u8> {
    const PUBLISH: i32 = 3;
    let length = i32::try_from(payload.len()).expect("short");
    [
        &PUBLISH.to_ne_bytes()[..],
        &packet_id.to_ne_bytes(),
        topic.as_bytes(),
        b"\0",
        &length.to_ne_bytes(),
        payload,
        &qos.to_ne_bytes(),
        &0_i32.to_ne_bytes(),
    ]
    .concat()
}

/// The same as the version writes it that the key is of.
pub fn publish_under(key: &str, packet_id: i32, qos: i32) -> Vec<u8> {
    let properties: &[u8] = if key.starts_with("c5") { b"\0" } else { b"" };
    let command = publish_command(packet_id, qos, "a/topic", b"payload");
    [&command, properties].concat()
}

/// A value that Paho could have written under a key, with this payload where it has one.
pub fn record(key: &str, payload: &[u8]) -> Vec<u8> {
    let (stem, number) = key.split_once('-').expect("a key of Paho");
    let number: u16 = number.parse().unwrap_or(1);
    let properties: &[u8] = if stem.ends_with('5') { b"\0" } else { b"" };
    match stem.trim_end_matches('5') {
        "c" => [
            publish_command(number.max(1).into(), 1, "t", payload),
            properties.to_vec(),
        ]
        .concat(),
        "sc" => [b"\x62\x02", &number.to_be_bytes()[..]].concat(),
        "q" => {
            let length = i32::try_from(payload.len()).expect("short");
            let flags = [2, 0, 0, i32::from(number), 1].map(i32::to_ne_bytes);
            let [before @ .., topic_length] = flags;
            let before = before.concat();
            [
                &length.to_ne_bytes()[..],
                payload,
                &before,
                b"t\0",
                &topic_length,
                properties,
            ]
            .concat()
        }
        _ => {
            let body = [b"\0\x01t", &number.to_be_bytes()[..], properties, payload].concat();
            let length = u8::try_from(body.len()).ok().filter(|length| *length < 128);
            [&[0x34, length.expect("short")], &body[..]].concat()
        }
    }
}

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The version of the library.
pub fn version() -> String {
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).expect("a manifest");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = "));
    version.expect("a version").trim_matches('"').to_owned()
}

/// How long something local may take before a test gives up: far longer than it needs, so that only a real fault reaches it.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Asks `probe` until it answers, for what announces itself by no event that could be awaited.
///
/// Panics with `what` when `limit` has passed without an answer.
#[track_caller]
pub fn eventually<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        thread::park_timeout(Duration::from_millis(10));
    }
}
