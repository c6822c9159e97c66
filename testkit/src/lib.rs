//! Private servers, fault injection and small clients that tests and benches share.
//!
//! Every server has a folder of its own, listens on loopback or on a Unix socket only, and dies with the value that started it. A
//! server that is not installed fails the test with the name of its Debian package.

pub mod accounting;
mod alertmanager;
pub mod backlog;
pub mod bar_chart;
pub mod breaking;
pub mod broker;
pub mod certificates;
pub mod charts;
pub mod child;
mod chromium;
pub mod cluster;
pub mod dashboard;
pub mod device;
pub mod direct;
pub mod fleet;
pub mod gate;
pub mod harness;
pub mod hostile;
mod http;
pub mod intercepted;
pub mod limit;
mod listening;
pub mod log;
mod mosquitto;
pub mod network;
mod paho;
mod process;
mod prometheus;
pub mod promql;
mod proxy;
pub mod random;
pub mod recording;
mod redis;
pub mod rewriting;
pub mod rules;
pub mod runbook;
pub mod sentinel;
pub mod serving;
pub mod simulator;
pub mod statistics;
mod subscriber;
pub mod table;
pub mod terminal;
pub mod timed;
pub mod unit;
pub mod victoria_metrics;

#[cfg(test)]
mod tests;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{MemoryPersistence, PersistenceMetrics, prometheus::Registry};

pub use self::{
    alertmanager::Alertmanager,
    chromium::Chromium,
    http::{
        HttpResponse, REQUEST, answer, answer_bytes, answer_of, body, connected, header, http_get,
        sent, status, try_http_get,
    },
    mosquitto::Mosquitto,
    paho::{
        TOPIC, command_token, publish_command, publish_command_of, publish_packet, record,
        subscribe_command, unsubscribe_command,
    },
    process::{Server, on_free_port, resident},
    prometheus::{Prometheus, now, promtool_check_metrics},
    proxy::{Proxy, packet},
    redis::{RedisServer, SNAPSHOT},
    subscriber::Subscriber,
};

/// Root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Version of the library.
pub fn version() -> String {
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).expect("a manifest");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = "));
    version.expect("a version").trim_matches('"').to_owned()
}

/// Registry with the series of the open client `device-1`, whose records are in memory.
pub fn registry() -> (Registry, impl ClientPersistence) {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let mut persistence = MemoryPersistence::new().instrument(&metrics);
    persistence.open("device-1", "uri").expect("opens");
    (registry, persistence)
}

/// Limit on anything local: far longer than it needs, so that only a real fault reaches it.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Repeats `probe` until it returns `Some`, for conditions that no event announces.
///
/// Panics with `condition` once `limit` has passed.
#[track_caller]
pub fn eventually<T>(limit: Duration, condition: &str, probe: impl FnMut() -> Option<T>) -> T {
    poll(limit, probe).unwrap_or_else(|| panic!("not within {limit:?}: {condition}"))
}

/// Repeats `probe` until it returns `Some`, or `limit` has passed.
pub fn poll<T>(limit: Duration, probe: impl FnMut() -> Option<T>) -> Option<T> {
    poll_every(Duration::from_millis(10), limit, probe)
}

/// Does the same as `eventually` for queries to Prometheus, less often: results change a few times per second, and more queries
/// would only load the machine.
#[track_caller]
pub fn eventually_queried<T>(
    limit: Duration,
    condition: &str,
    query: impl FnMut() -> Option<T>,
) -> T {
    poll_every(Duration::from_millis(200), limit, query)
        .unwrap_or_else(|| panic!("not within {limit:?}: {condition}"))
}

fn poll_every<T>(
    interval: Duration,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Option<T> {
    let started = Instant::now();
    loop {
        let answer = probe();
        if answer.is_some() || started.elapsed() >= limit {
            return answer;
        }
        thread::park_timeout(interval);
    }
}
