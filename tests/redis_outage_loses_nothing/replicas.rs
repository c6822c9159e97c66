//! The option `replicas`: a put returns once replicas have the record, and what they lack is kept in memory.

use std::{
    io::Write,
    mem,
    os::unix::net::UnixStream,
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    ErrorKind, RedisPersistence, RedisPersistenceBuilder, StoreEvent, StoreObserver,
};
use redis::TypedCommands;
use testkit::{LIMIT, RedisServer, eventually, record, sentinel::Replicated};

use super::records::{CLIENT, HASH, SERVER, opened, put};

fn options(redis: &RedisServer) -> RedisPersistenceBuilder {
    let options = RedisPersistence::builder().url(redis.url()).replicas(1);
    options.operation_timeout(Duration::from_secs(1))
}

/// Options whose time only a replica that never answers exceeds.
fn patient(redis: &RedisServer) -> RedisPersistenceBuilder {
    options(redis).operation_timeout(LIMIT)
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

#[test]
fn replica_has_record_when_put_returns() {
    let both = Replicated::with(&[]);
    let mut persistence = opened(patient(&both.servers[0]), CLIENT);
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
    let mut persistence = opened(options(&both.servers[0]).cache_limit(0), CLIENT);
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

/// Passes on the kind of each failed attempt, and `None` for one that succeeds.
struct Attempts(Sender<Option<ErrorKind>>);

impl StoreObserver for Attempts {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        let kind = match event {
            StoreEvent::Down { error, .. } | StoreEvent::StillDown { error, .. } => {
                Some(error.kind())
            }
            StoreEvent::Up { .. } => None,
            _ => return,
        };
        // Fails once the test is over.
        let _ = self.0.send(kind);
    }
}

/// Opens a persistence that wants one replica, and returns its attempts.
fn observed(redis: &RedisServer) -> (RedisPersistence, Receiver<Option<ErrorKind>>) {
    let (sender, attempts) = mpsc::channel();
    let options = RedisPersistence::builder().url(redis.url()).replicas(1);
    let persistence = opened(options.observer(Attempts(sender)), CLIENT);
    (persistence, attempts)
}

/// Waits for this many further attempts that fail for lack of replicas.
#[track_caller]
fn assert_attempts_fail(attempts: &Receiver<Option<ErrorKind>>, number: usize) {
    for _ in 0..number {
        let attempt = attempts.recv_timeout(LIMIT).expect("another attempt");
        assert_eq!(attempt, Some(ErrorKind::NotReplicated));
    }
}

/// Redis looks `hz` times per second for a `WAIT` that is over.
#[test]
fn late_reply_to_wait_has_one_reason() {
    let redis = RedisServer::with(&["--hz", "1"]);
    let (mut persistence, attempts) = observed(&redis);
    put(&mut persistence, 1);
    assert_attempts_fail(&attempts, 4);
    mem::forget(persistence);
}

/// `WAIT` counts a replica that has acknowledged nothing, if Redis has passed on nothing to replicas yet.
#[test]
fn replica_that_joins_ends_outage_once_it_answers() {
    let redis = RedisServer::start();
    let (mut persistence, attempts) = observed(&redis);
    put(&mut persistence, 1);
    // The write that recovery repeats changes nothing in Redis then.
    persistence.remove("q-1").expect("removed");
    eventually(LIMIT, "the record is gone", || {
        (count(&redis) == 0).then_some(())
    });
    let mut replica = UnixStream::connect(redis.socket()).expect("connects");
    replica.write_all(b"PSYNC ? -1\r\n").expect("joins");
    eventually(LIMIT, "it gets the data", || {
        let info = redis::cmd("INFO")
            .arg("replication")
            .query(&mut redis.connection());
        let info: String = info.expect("INFO");
        info.contains("state=online,offset=0").then_some(())
    });
    // Those before it came.
    while attempts.try_recv().is_ok() {}
    assert_attempts_fail(&attempts, 2);
    replica
        .write_all(b"REPLCONF ACK 1000000\r\n")
        .expect("it has loaded the data");
    persistence.health().flush(LIMIT).expect("is recovered");
    assert_eq!(count(&redis), 0);
}

#[test]
fn redis_that_refuses_without_replicas_is_outage() {
    let both = Replicated::with(&[]);
    let options = || options(&both.servers[0]).replicas(0);
    let mut persistence = opened(options(), CLIENT);
    put(&mut persistence, 1);
    both.cut_link(0);
    both.servers[0].set("min-replicas-to-write", "1");
    put(&mut persistence, 2);
    assert_not_replicated(&persistence);
    mem::forget(persistence);
    both.servers[0].set("min-replicas-to-write", "0");
}

/// A client that starts while Redis refuses writes reads what is there.
#[test]
fn client_opens_without_replicas() {
    let both = Replicated::with(&[]);
    let mut persistence = opened(options(&both.servers[0]), CLIENT);
    put(&mut persistence, 1);
    drop(persistence);
    both.cut_link(0);
    both.servers[0].set("min-replicas-to-write", "1");
    for replicas in [0, 1] {
        let options = options(&both.servers[0]).replicas(replicas);
        let mut persistence = opened(options, CLIENT);
        assert_eq!(persistence.keys().expect("listed"), ["q-1"]);
        put(&mut persistence, 2);
        assert_not_replicated(&persistence);
        both.servers[0].set("min-replicas-to-write", "0");
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
    let mut persistence = opened(patient(&both.servers[0]), CLIENT);
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
    let mut started = opened(options(&both.servers[1]).replicas(0), CLIENT);
    assert_eq!(started.keys().expect("restored").len(), 20);
}
