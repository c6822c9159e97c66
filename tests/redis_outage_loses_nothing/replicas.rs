//! The option `replicas`: a put returns once replicas have the record, and what they lack is kept in memory.

use std::{mem, time::Duration};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{ErrorKind, RedisPersistence, RedisPersistenceBuilder};
use redis::TypedCommands;
use testkit::{LIMIT, RedisServer, record, sentinel::Replicated};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
const HASH: &str = "device:127.0.0.1:1883";

fn options(redis: &RedisServer) -> RedisPersistenceBuilder {
    let options = RedisPersistence::builder().url(redis.url()).replicas(1);
    options.operation_timeout(Duration::from_secs(1))
}

/// Options whose time only a replica that never answers exceeds.
fn patient(redis: &RedisServer) -> RedisPersistenceBuilder {
    options(redis).operation_timeout(LIMIT)
}

fn opened(options: RedisPersistenceBuilder) -> RedisPersistence {
    let mut persistence = options.build().expect("good options");
    persistence.open(CLIENT, SERVER).expect("opens");
    persistence
}

fn put(persistence: &mut RedisPersistence, number: usize) {
    let key = format!("q-{number}");
    let value = record(&key, key.as_bytes());
    persistence.put(&key, vec![&value]).expect("never refused");
}

fn count(server: &RedisServer) -> usize {
    server.connection().hlen(HASH).expect("HLEN")
}

#[track_caller]
fn assert_not_replicated(persistence: &RedisPersistence) {
    let health = persistence.health();
    assert!(!health.snapshot().up);
    let error = health.last_error().expect("of the outage");
    assert_eq!(error.kind(), ErrorKind::NotReplicated, "{error}");
}

fn set(redis: &RedisServer, option: &str, value: &str) {
    let mut set = redis::cmd("CONFIG");
    let set = set.arg("SET").arg(option).arg(value);
    set.exec(&mut redis.connection()).expect("CONFIG SET");
}

#[test]
fn replica_has_record_when_put_returns() {
    let both = Replicated::with(&[]);
    let mut persistence = opened(patient(&both.servers[0]));
    let mut replica = both.servers[1].connection();
    for number in 1..=50 {
        put(&mut persistence, number);
        assert_eq!(replica.hlen(HASH).expect("HLEN"), number);
    }
    assert!(persistence.health().snapshot().up);
}

#[test]
fn replica_that_stops_is_outage_until_it_is_back() {
    let both = Replicated::with(&[]);
    let mut persistence = opened(options(&both.servers[0]).cache_limit(0));
    put(&mut persistence, 1);
    both.servers[1].pause();
    put(&mut persistence, 2);
    assert_not_replicated(&persistence);
    put(&mut persistence, 3);
    // Only the master has its value.
    let value = persistence.get("q-1").expect("the master can be read");
    assert_eq!(value, record("q-1", b"q-1"));
    both.servers[1].resume();
    persistence.health().flush(LIMIT).expect("is recovered");
    assert_eq!(count(&both.servers[1]), 3);
    assert_eq!(persistence.health().snapshot().lost_records, 0);
}

#[test]
fn redis_that_refuses_without_replicas_is_outage() {
    let both = Replicated::with(&[]);
    let options = || options(&both.servers[0]).replicas(0);
    let mut persistence = opened(options());
    put(&mut persistence, 1);
    both.cut_link(0);
    set(&both.servers[0], "min-replicas-to-write", "1");
    put(&mut persistence, 2);
    assert_not_replicated(&persistence);
    mem::forget(persistence);
    set(&both.servers[0], "min-replicas-to-write", "0");
}

/// A client that starts while Redis refuses writes reads what is there.
#[test]
fn client_opens_without_replicas() {
    let both = Replicated::with(&[]);
    let mut persistence = opened(options(&both.servers[0]));
    put(&mut persistence, 1);
    drop(persistence);
    both.cut_link(0);
    set(&both.servers[0], "min-replicas-to-write", "1");
    for replicas in [0, 1] {
        let options = options(&both.servers[0]).replicas(replicas);
        let mut persistence = opened(options);
        assert_eq!(persistence.keys().expect("listed"), ["q-1"]);
        put(&mut persistence, 2);
        assert_not_replicated(&persistence);
        set(&both.servers[0], "min-replicas-to-write", "0");
        if replicas == 0 {
            persistence.health().flush(LIMIT).expect("is recovered");
            assert_eq!(count(&both.servers[0]), 2);
            persistence.remove("q-2").expect("removed");
        }
    }
}

#[test]
fn user_needs_right_to_wait_for_replicas() {
    let redis = RedisServer::start();
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg("default").arg("-wait");
    command.exec(&mut redis.connection()).expect("ACL SETUSER");
    let mut persistence = options(&redis).build().expect("good options");
    let error = persistence.connect(CLIENT, SERVER).expect_err("no right");
    assert_eq!(error.kind(), ErrorKind::Permission);
    let text = format!("{error} {error:?}");
    assert!(text.contains("+wait"), "{text}");
}

#[test]
fn promoted_replica_has_all_that_was_confirmed() {
    let mut both = Replicated::with(&[]);
    let mut persistence = opened(patient(&both.servers[0]));
    for number in 1..=20 {
        put(&mut persistence, number);
    }
    both.servers[0].kill();
    mem::forget(persistence);
    redis::cmd("REPLICAOF")
        .arg("NO")
        .arg("ONE")
        .exec(&mut both.servers[1].connection())
        .expect("it is promoted");
    let mut started = opened(options(&both.servers[1]).replicas(0));
    assert_eq!(started.keys().expect("restored").len(), 20);
}
