//! The recipe of docs/monitoring.md for a `redis_exporter` works, and its series are those that the rules read. `scripts/test --quick`
//! skips the test with `prometheus` in its name.

use std::process::Command;

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::RedisPersistence;
use redis::TypedCommands;
use testkit::{
    LIMIT, RedisServer, Server, dashboard::text, eventually, on_free_port, promql::selectors,
    publish_command, rules::load, try_http_get,
};

use super::page::MONITORING;

/// The value of a sample; `None` if there is no such series.
fn value(samples: &str, series: &str) -> Option<f64> {
    let line = samples.lines().find_map(|line| line.strip_prefix(series));
    line?.trim().parse().ok()
}

#[test]
fn prometheus_redis_exporter_shows_dead_backlog() {
    let redis = RedisServer::tcp();
    let rights = MONITORING.between("user exporter ", "\n");
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER")
        .arg("exporter")
        .arg(rights.split_whitespace().collect::<Vec<_>>());
    acl.exec(&mut redis.connection()).expect("ACL SETUSER");

    // The program that is dead now.
    let mut persistence = RedisPersistence::builder()
        .url(redis.url())
        .key_prefix("mqtt:")
        .build()
        .expect("good options");
    persistence
        .open("device-1", "broker.example:1883")
        .expect("opens");
    for number in 1..=3 {
        let command = publish_command(number, 1, "topic", b"x");
        let key = format!("c-{number}");
        persistence.put(&key, vec![&command]).expect("stored");
    }
    drop(persistence);
    let hash = "mqtt:device-1:broker.example:1883";
    let mut raw = redis.connection();
    raw.hset(format!("{hash}:quarantine"), "c-1", "x")
        .expect("HSET");
    raw.hset("other:device-1", "c-1", "x").expect("HSET");

    let arguments = MONITORING.between("ARGS=\"", "\"");
    let socket = redis.socket().display().to_string();
    let (port, _exporter) = on_free_port(|port| {
        let arguments = arguments
            .replace("/run/redis/redis.sock", &socket)
            .replace("127.0.0.1:9121", &format!("127.0.0.1:{port}"));
        let mut command = Command::new("prometheus-redis-exporter");
        command
            .args(arguments.split(' '))
            .env("REDIS_USER", MONITORING.between("REDIS_USER=", "\n").trim())
            .env(
                "REDIS_PASSWORD",
                MONITORING.between("REDIS_PASSWORD=", "\n").trim(),
            );
        Server::start(command, "prometheus-redis-exporter", "Providing metrics")
    });
    let samples = eventually(LIMIT, "it serves", || {
        let (status, _, samples) = try_http_get(("127.0.0.1", port), "/metrics").ok()?;
        (status == 200 && value(&samples, "redis_up ") == Some(1.0)).then_some(samples)
    });
    let size = |key: &str| {
        let series = format!("redis_key_size{{db=\"db0\",key=\"{key}\"}} ");
        value(&samples, &series)
    };
    assert_eq!(size(hash), Some(3.0), "{samples}");
    assert_eq!(size(&format!("{hash}:quarantine")), Some(1.0));
    assert_eq!(size("other:device-1"), None);

    // The rules read these two series, and tell backlogs from what else there is by the key.
    let rules = load().iter();
    let read = rules.flat_map(|rule| selectors(text(&rule["expr"])));
    let read: Vec<_> = read
        .filter(|selector| selector.metric.starts_with("redis_"))
        .collect();
    let names: Vec<&str> = read.iter().map(|selector| &*selector.metric).collect();
    assert_eq!(names, ["redis_key_size", "redis_up"]);
    assert!(
        read[0]
            .matchers
            .contains(r#"key!~".*:(quarantine|discarded|sends)""#)
    );
}
