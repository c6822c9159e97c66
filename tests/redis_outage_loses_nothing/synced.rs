//! `Durability::Synced`: a put returns when the disk of Redis has the record, and Redis is refused if it cannot promise that.

use std::{fs, time::Duration};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{Durability, Error, ErrorKind, Flushed, RedisPersistence};
use testkit::{RedisServer, child::assert_passes_with_valkey, record};

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

/// Error of a second client of a Redis whose disk is not synced.
fn persistence_error(redis: &RedisServer) -> Error {
    let connected = persistence(redis).connect("other", "127.0.0.1:1883");
    connected.expect_err("the disk has not got the probe")
}

fn set_policy(redis: &RedisServer, policy: &str) {
    let mut set = redis::cmd("CONFIG");
    let set = set.arg("SET").arg("appendfsync").arg(policy);
    set.exec(&mut redis.connection()).unwrap();
}

/// Redis 7.2 and later and Valkey have it.
fn has_waitaof() -> bool {
    let version = RedisServer::version();
    !["Redis 6.", "Redis 7.0"]
        .iter()
        .any(|old| version.starts_with(old))
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
fn redis_without_aof_is_refused() {
    let text = sources(&refused(&["--appendonly", "no"]));
    assert!(text.contains("set appendonly yes"), "{text}");
    assert!(text.contains("appendonly"), "{text}");
}

#[test]
fn redis_without_waitaof_has_to_sync_always() {
    if has_waitaof() {
        return;
    }
    let always = ["--appendonly", "yes", "--appendfsync", "always"];
    for (options, reason) in [
        (&always[..2], "appendfsync is everysec"),
        (
            &[&always[..], &["--no-appendfsync-on-rewrite", "yes"]].concat(),
            "no-appendfsync-on-rewrite is yes",
        ),
    ] {
        let text = sources(&refused(options));
        assert!(text.contains(reason), "{text}");
    }
}

#[test]
fn disk_has_record_when_put_returns() {
    let redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut persistence = persistence(&redis);
    persistence.open("device", "127.0.0.1:1883").unwrap();
    let mut info = redis.connection();
    for number in 1..20 {
        let payload = format!("payload {number}");
        let value = record("c-1", payload.as_bytes());
        persistence.put("c-1", vec![&value]).unwrap();
        let stored = aof(&redis);
        let mut parts = stored.windows(payload.len());
        assert!(parts.any(|part| part == payload.as_bytes()), "{payload}");
    }
    let stats: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(&mut info)
        .unwrap();
    assert_eq!(stats.contains("cmdstat_waitaof:"), has_waitaof(), "{stats}");
}

#[test]
fn connection_waits_for_what_others_wrote() {
    if !has_waitaof() {
        return;
    }
    let redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "no"]);
    let error = persistence_error(&redis);
    assert_eq!(error.kind(), ErrorKind::NotSynced, "{error}");
}

#[test]
fn flush_says_that_disk_has_each_record() {
    let redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
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
fn user_needs_rights_to_ask_for_disk() {
    let redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut connection = redis.connection();
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("default").arg("-config");
    if has_waitaof() {
        command.arg("-waitaof");
    }
    command.exec(&mut connection).unwrap();
    let error = persistence(&redis).connect("device", "127.0.0.1:1883");
    let text = sources(&error.expect_err("it cannot be asked"));
    assert!(text.contains("+waitaof"), "{text}");
}

/// Redis before 7.2 has no `WAITAOF`, so it is refused before the first put.
#[test]
fn disk_that_does_not_sync_has_no_record() {
    let redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let mut persistence = persistence(&redis);
    let opened = persistence.open("device", "127.0.0.1:1883");
    if !has_waitaof() {
        let error = opened.expect_err("nothing is known of the disk");
        let error = Error::in_mqtt(&error).expect("an error of this crate");
        return assert_eq!(error.kind(), ErrorKind::NotSynced, "{error}");
    }
    opened.unwrap();
    set_policy(&redis, "no");
    let health = persistence.health();
    let value = record("c-1", b"payload");
    // Nothing writes the file to the disk, so the put gives up and keeps the record.
    persistence.put("c-1", vec![&value]).unwrap();
    assert!(!health.snapshot().up);
    let error = health.last_error().expect("of the outage");
    assert_eq!(error.kind(), ErrorKind::NotSynced, "{error}");
    assert_eq!(persistence.get("c-1").unwrap(), value);

    // It goes on as one outage, and a new connection finds the same.
    let error = persistence_error(&redis);
    assert_eq!(error.kind(), ErrorKind::NotSynced, "{error}");
    assert!(!health.snapshot().up);
    set_policy(&redis, "everysec");
    assert_eq!(health.flush(AMPLE).unwrap(), Flushed::Disk);
    persistence.put("c-2", vec![&value]).unwrap();
    let status = health.snapshot();
    assert!(status.up && status.held_records == 0, "{status:?}");
}

#[test]
fn valkey_waits_for_its_disk() {
    assert_passes_with_valkey("synced::disk_");
    assert_passes_with_valkey("synced::connection_");
}
