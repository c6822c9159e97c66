//! `Durability::Synced`: a put returns when the disk of Redis has the record, and a Redis that replies before that is refused.

use std::{fs, time::Duration};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{Durability, Error, ErrorKind, Flushed, RedisPersistence};
use testkit::{RedisServer, eventually, record};

/// Options with which Redis calls fsync before it replies.
const ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

/// Limit that only a call that never returns reaches.
const AMPLE: Duration = Duration::from_secs(10);

fn persistence(redis: &RedisServer) -> RedisPersistence {
    RedisPersistence::builder()
        .url(redis.url())
        .connect_timeout(AMPLE)
        .operation_timeout(AMPLE)
        .durability(Durability::Synced)
        .build()
        .unwrap()
}

/// Error of opening with a Redis that was started with these options.
fn refused(options: &[&str]) -> Error {
    let redis = RedisServer::with(options);
    let error = persistence(&redis).connect("device", "127.0.0.1:1883");
    let error = error.expect_err("it cannot promise anything about its disk");
    assert_eq!(error.kind(), ErrorKind::NotSynced, "{error}");
    error
}

/// Everything that the AOF has, in one file or several.
fn aof(redis: &RedisServer) -> Vec<u8> {
    let folder = redis.dir().join("appendonlydir");
    let Ok(files) = fs::read_dir(folder) else {
        return fs::read(redis.dir().join("appendonly.aof")).unwrap();
    };
    let files = files.map(|file| fs::read(file.unwrap().path()).unwrap());
    files.flatten().collect()
}

fn sources(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn redis_that_syncs_later_is_refused() {
    for (options, reason) in [
        (&["--appendonly", "no"][..], "appendonly is no"),
        (&ALWAYS[..2], "appendfsync is everysec"),
        (
            &[&ALWAYS[..], &["--no-appendfsync-on-rewrite", "yes"]].concat(),
            "no-appendfsync-on-rewrite is yes",
        ),
    ] {
        let text = sources(&refused(options));
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn file_has_record_when_put_returns() {
    let redis = RedisServer::with(&ALWAYS);
    let mut persistence = persistence(&redis);
    persistence.open("device", "127.0.0.1:1883").unwrap();
    for number in 1..20 {
        let payload = format!("payload {number}");
        let value = record("c-1", payload.as_bytes());
        persistence.put("c-1", vec![&value]).unwrap();
        let stored = aof(&redis);
        let mut parts = stored.windows(payload.len());
        assert!(parts.any(|part| part == payload.as_bytes()), "{payload}");
    }
}

#[test]
fn flush_returns_disk_with_synced() {
    let redis = RedisServer::with(&ALWAYS);
    for (durability, expected) in [
        (Durability::Synced, Flushed::Disk),
        (Durability::Confirmed, Flushed::Store),
    ] {
        let mut persistence = RedisPersistence::builder()
            .url(redis.url())
            .durability(durability)
            .build()
            .unwrap();
        persistence.open("device", "127.0.0.1:1883").unwrap();
        persistence
            .put("c-1", vec![&record("c-1", b"payload")])
            .unwrap();
        let flushed = persistence.health().flush(AMPLE).expect("is confirmed");
        assert_eq!(flushed, expected);
        persistence.close().unwrap();
    }
}

#[test]
fn user_needs_right_to_see_settings() {
    let redis = RedisServer::with(&ALWAYS);
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("default").arg("-config");
    command.exec(&mut redis.connection()).unwrap();
    let error = persistence(&redis).connect("device", "127.0.0.1:1883");
    let text = sources(&error.expect_err("its settings are unknown"));
    assert!(text.contains("+config|get"), "{text}");
}

#[test]
fn changed_setting_is_outage_until_it_is_back() {
    let redis = RedisServer::with(&ALWAYS);
    let mut persistence = persistence(&redis);
    persistence.open("device", "127.0.0.1:1883").unwrap();
    let health = persistence.health();
    let value = record("c-1", b"payload");
    persistence.put("c-1", vec![&value]).unwrap();

    redis.set("appendfsync", "everysec");
    let error = eventually(AMPLE, "the change is noticed", || {
        health
            .last_error()
            .filter(|error| error.kind() == ErrorKind::NotSynced)
    });
    let text = sources(&error);
    assert!(text.contains("appendfsync is everysec"), "{text}");
    persistence.put("c-2", vec![&value]).unwrap();
    assert!(!health.snapshot().up);
    let error = health.flush(Duration::ZERO).expect_err("in an outage");
    assert_eq!(error.kind(), ErrorKind::NotSynced, "{error}");

    redis.set("appendfsync", "always");
    assert_eq!(health.flush(AMPLE).unwrap(), Flushed::Disk);
    let status = health.snapshot();
    assert!(status.up && status.held_records == 0, "{status:?}");
    let stored = aof(&redis);
    assert!(stored.windows(3).any(|part| part == b"c-2"));
}
