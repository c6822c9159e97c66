//! One program at a time owns the records, whatever the clock of Redis says, and nothing arrives late from an earlier owner.

use std::time::{Duration, Instant};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{ErrorKind, RedisPersistence, RedisPersistenceBuilder};
use testkit::{
    LIMIT, RedisServer, eventually,
    log::Log,
    network::{Link, Network},
    record,
    rewriting::{Rewriting, with_field},
};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
const HASH: &str = "device:127.0.0.1:1883";
/// Longer than an owner that lives may be silent, and longer than it is observed.
const OPEN_TIMEOUT: Duration = Duration::from_secs(4);

fn options(url: &str) -> RedisPersistenceBuilder {
    RedisPersistence::builder()
        .url(url)
        .open_timeout(OPEN_TIMEOUT)
}

fn opened(url: &str) -> RedisPersistence {
    let mut persistence = options(url).build().expect("good options");
    persistence.open(CLIENT, SERVER).expect("opens");
    persistence
}

fn put(persistence: &mut RedisPersistence, key: &str, payload: &[u8]) {
    let value = record(key, payload);
    persistence.put(key, vec![&value]).expect("never refused");
}

fn stored(redis: &RedisServer, key: &str) -> Option<Vec<u8>> {
    let mut command = redis::cmd("HGET");
    let command = command.arg(HASH).arg(key);
    command.query(&mut redis.connection()).expect("HGET")
}

fn wait_for(persistence: &RedisPersistence, kind: ErrorKind) {
    let health = persistence.health();
    eventually(LIMIT, "the outage", || {
        let error = health.last_error()?;
        (error.kind() == kind).then_some(())
    });
}

/// Asserts that a second program is refused if Redis gives clients these idle times.
#[track_caller]
fn assert_owner_keeps_records(idle: impl Fn(Duration) -> Option<i64> + Send + 'static) {
    let redis = RedisServer::tcp();
    let mut owner = opened(&redis.url());
    let mut started = None;
    let seen = Rewriting::start(redis.port(), move |line| {
        let elapsed = started.get_or_insert_with(Instant::now).elapsed();
        idle(elapsed).map_or_else(|| line.to_owned(), |idle| with_field(line, "idle", idle))
    });
    let mut second = options(&seen.url()).build().expect("good options");
    let error = second.connect(CLIENT, SERVER).expect_err("is in use");
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    put(&mut owner, "q-1", b"mine");
    assert!(owner.health().snapshot().up);
}

#[test]
fn negative_idle_time_hides_no_owner() {
    assert_owner_keeps_records(|_| Some(-3_600));
}

/// The idle time of a living owner is that of the jump until its next exchange, which comes within a second.
#[test]
fn forward_jump_of_clock_ends_no_living_owner() {
    assert_owner_keeps_records(|elapsed| {
        let seconds = i64::try_from(elapsed.as_secs()).expect("short");
        (seconds < 1).then_some(3_600 + seconds)
    });
}

#[test]
fn replaced_owner_can_never_write_again() {
    let redis = RedisServer::tcp();
    let mut owner = opened(&redis.url());
    put(&mut owner, "q-1", b"old");
    owner.health().flush(LIMIT).expect("stored");
    let mut started = None;
    let seen = Rewriting::start(redis.port(), move |line| {
        let started = *started.get_or_insert_with(Instant::now);
        let seconds = i64::try_from(started.elapsed().as_secs()).expect("short");
        with_field(line, "idle", 40 + seconds)
    });
    let mut successor = options(&seen.url()).build().expect("good options");
    let started = Instant::now();
    successor.open(CLIENT, SERVER).expect("takes over");
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1_500), "{took:?}");
    successor.get("q-1").expect("reads what it restores");
    put(&mut successor, "q-1", b"new");
    successor.health().flush(LIMIT).expect("stored");

    put(&mut owner, "q-1", b"from the past");
    wait_for(&owner, ErrorKind::InUse);
    assert_eq!(stored(&redis, "q-1"), Some(record("q-1", b"new")));
    assert!(successor.health().snapshot().up);
}

#[test]
fn late_bytes_of_own_connection_have_no_effect() {
    let redis = RedisServer::tcp();
    let network = Network::start(redis.port(), Link::default());
    let mut persistence = opened(&network.url());
    put(&mut persistence, "q-1", b"one");
    put(&mut persistence, "q-2", b"one");
    network.hold();
    // Sent, and on its way until the end of this test.
    put(&mut persistence, "q-1", b"two");
    put(&mut persistence, "q-1", b"three");
    persistence.remove("q-2").expect("never refused");
    persistence.health().flush(LIMIT).expect("connects again");
    let before = network.delivered();
    network.release();
    eventually(LIMIT, "the late bytes", || {
        (network.delivered() > before).then_some(())
    });
    // Redis has read everything that arrived before the first of these commands when it runs the second.
    let _ = stored(&redis, "q-1");
    assert_eq!(stored(&redis, "q-1"), Some(record("q-1", b"three")));
    assert_eq!(stored(&redis, "q-2"), None);
    assert!(persistence.health().snapshot().up);
}

#[test]
fn missing_right_to_kill_is_logged_at_open() {
    let redis = RedisServer::start();
    redis::cmd("ACL")
        .arg(&["SETUSER", "mqtt", "on", ">secret", "~*", "+@all"])
        // Before version 7 no subcommand can be taken away, only given.
        .arg(&[
            "-client",
            "+client|reply",
            "+client|setname",
            "+client|list",
        ])
        .exec(&mut redis.connection())
        .expect("ACL SETUSER");
    let url = format!("{}?user=mqtt&pass=secret", redis.url());
    let log = Log::default();
    let mut persistence = log.during(|| opened(&url));
    let text = log.text();
    assert!(text.contains("the user lacks +client|kill"), "{text}");
    put(&mut persistence, "q-1", b"x");
    // Without the right it waits until Redis has read what its last connection sent.
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .exec(&mut redis.connection())
        .expect("CLIENT KILL");
    put(&mut persistence, "q-2", b"x");
    persistence.health().flush(LIMIT).expect("connects again");
}
