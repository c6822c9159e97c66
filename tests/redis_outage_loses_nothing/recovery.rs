//! Recovery under adverse conditions: observers that panic or block, unreadable records, foreign entries, constant calls.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    ErrorKind, RedisPersistence, RedisPersistenceBuilder, StoreEvent, StoreObserver,
};
use testkit::{LIMIT, RedisServer, eventually, record};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
const HASH: &str = "device:127.0.0.1:1883";

fn options(redis: &RedisServer) -> RedisPersistenceBuilder {
    RedisPersistence::builder().url(redis.url())
}

fn opened(options: RedisPersistenceBuilder) -> RedisPersistence {
    let mut persistence = options.build().expect("good options");
    persistence.open(CLIENT, SERVER).expect("opens");
    persistence
}

fn put(persistence: &mut RedisPersistence, key: &str, payload: &[u8]) {
    let value = record(key, payload);
    persistence
        .put(key, vec![&value])
        .expect("is never refused");
}

fn stored(redis: &RedisServer, key: &str) -> Option<Vec<u8>> {
    let mut command = redis::cmd("HGET");
    let command = command.arg(HASH).arg(key);
    command.query(&mut redis.connection()).expect("HGET")
}

/// Drops the persistence on another thread and waits until that has ended.
fn drop_in_time(persistence: RedisPersistence) {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        drop(persistence);
        ended.send(()).expect("the test receives");
    });
    end.recv_timeout(LIMIT).expect("is dropped");
}

/// Runs a hook at each failed attempt to recover.
struct HostileObserver<F>(F);

impl<F: Fn() + Send + Sync> StoreObserver for HostileObserver<F> {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if matches!(event, StoreEvent::StillDown { .. }) {
            (self.0)();
        }
    }
}

#[test]
fn panicking_observer_does_not_prevent_recovery() {
    let mut redis = RedisServer::start();
    let (failed, failures) = mpsc::channel();
    let failed = Mutex::new(failed);
    let observer = HostileObserver(move || {
        drop(failed.lock().map(|failed| failed.send(())));
        panic!("on purpose");
    });
    let mut persistence = opened(options(&redis).observer(Arc::new(observer)));
    redis.kill();
    put(&mut persistence, "q-1", b"pending");
    failures
        .recv_timeout(LIMIT)
        .expect("the observer is notified of a failed attempt");
    redis.restart();
    persistence.health().flush(LIMIT).expect("is recovered");
    assert_eq!(stored(&redis, "q-1"), Some(record("q-1", b"pending")));
}

#[test]
fn blocking_observer_does_not_prevent_close() {
    let mut redis = RedisServer::start();
    let lock = Arc::new(Mutex::new(()));
    let (failed, failures) = mpsc::channel();
    let (contended, failed) = (Arc::clone(&lock), Mutex::new(failed));
    let observer = HostileObserver(move || {
        drop(failed.lock().map(|failed| failed.send(())));
        drop(contended.lock());
    });
    let mut persistence = opened(options(&redis).observer(Arc::new(observer)));
    let guard = lock.lock().expect("no panic");
    redis.kill();
    put(&mut persistence, "q-1", b"pending");
    failures
        .recv_timeout(LIMIT)
        .expect("the observer is notified of a failed attempt");
    drop_in_time(persistence);
    drop(guard);
}

/// Sends each damaged record with the id of the notifying thread, and panics.
struct DamageRecorder(Mutex<mpsc::Sender<(String, String, thread::ThreadId)>>);

impl StoreObserver for DamageRecorder {
    fn on_damaged(&self, client_id: &str, key: &str) {
        let damage = (client_id.to_owned(), key.to_owned(), thread::current().id());
        let damages = self.0.lock().expect("no panic");
        damages.send(damage).expect("the test receives");
        drop(damages);
        panic!("on purpose");
    }
}

#[test]
fn damaged_message_is_reported_before_it_is_sent() {
    let redis = RedisServer::start();
    let (sender, damages) = mpsc::channel();
    let mut before = opened(options(&redis));
    put(&mut before, "s-1", b"a message");
    drop(before);
    let observer = DamageRecorder(Mutex::new(sender));
    let mut persistence = opened(options(&redis).observer(Arc::new(observer)));
    // Restored by Paho, and sent once more.
    persistence.keys().expect("lists");
    persistence.get("s-1").expect("can be read");
    put(&mut persistence, "s-1", b"a message");
    assert_eq!(damages.try_recv().ok(), None);

    let garbage = record("s-1", b"garbage");
    persistence
        .put("s-1", vec![&garbage])
        .expect_err("is another message");
    // Paho sends it when `put` has returned.
    let damage = damages.try_recv().expect("the observer was notified");
    let here = thread::current().id();
    assert_eq!(damage, (CLIENT.to_owned(), "s-1".to_owned(), here));
    drop(persistence);
    assert_eq!(stored(&redis, "s-1"), Some(record("s-1", b"a message")));
}

#[test]
fn put_over_unreadable_record_loses_neither() {
    let redis = RedisServer::start();
    let mut before = opened(options(&redis));
    for key in ["s-1", "q-1", "q-2"] {
        put(&mut before, key, b"before");
    }
    drop(before);
    let mut persistence = opened(options(&redis).cache_limit(0));
    persistence.keys().expect("lists");
    redis.pause();
    // Detects the outage, and so Paho has read neither record.
    persistence.get("q-1").expect_err("is unreadable");
    for key in ["s-1", "q-1"] {
        put(&mut persistence, key, b"new");
    }
    redis.resume();
    persistence.health().flush(LIMIT).expect("is recovered");
    assert_eq!(stored(&redis, "s-1"), Some(record("s-1", b"new")));
    // Behind the unread ones, so that the next start finds all in order.
    assert_eq!(stored(&redis, "q-1"), Some(record("q-1", b"before")));
    assert_eq!(stored(&redis, "q-3"), Some(record("q-1", b"new")));
    // A packet contains its number, so the unread one makes room.
    assert_eq!(
        stored(&redis, "s-65535"),
        Some(record("s-65535", b"before"))
    );
    assert_eq!(persistence.health().snapshot().lost_records, 0);
}

#[test]
fn backlog_only_in_full_redis_can_be_sent() {
    const COUNT: usize = 50;
    let redis = RedisServer::start();
    let mut persistence = opened(options(&redis).cache_limit(0));
    for number in 1..=COUNT {
        put(&mut persistence, &format!("c5-{number}"), &[b'x'; 100]);
    }
    redis.set_maxmemory("1");
    let health = persistence.health();
    // Detected without a put.
    eventually(LIMIT, "the outage is detected", || {
        health
            .last_error()
            .filter(|error| error.kind() == ErrorKind::OutOfMemory)
    });
    for number in 1..=COUNT {
        let key = format!("c5-{number}");
        persistence.get(&key).expect("can be read");
        persistence.remove(&key).expect("can be removed");
        // Sent and acknowledged.
        let sent = format!("s5-{number}");
        put(&mut persistence, &sent, b"x");
        persistence.remove(&sent).expect("can be removed");
    }
    eventually(LIMIT, "the records are removed", || {
        let remaining: usize = redis::cmd("HLEN")
            .arg(HASH)
            .query(&mut redis.connection())
            .expect("HLEN");
        (remaining == 0).then_some(())
    });
}

#[test]
fn loss_is_found_beside_foreign_entries() {
    let redis = RedisServer::start();
    let mut persistence = opened(options(&redis));
    let hset = |field: &str| {
        redis::cmd("HSET")
            .arg(&[HASH, field, "somebody else's"])
            .exec(&mut redis.connection())
            .expect("HSET");
    };
    put(&mut persistence, "q-1", b"one");
    put(&mut persistence, "q-2", b"two");
    hset("foreign");
    persistence.health().flush(LIMIT).expect("flushes");
    redis::cmd("HDEL")
        .arg(&[HASH, "q-1"])
        .exec(&mut redis.connection())
        .expect("HDEL");
    eventually(LIMIT, "the record is rewritten", || stored(&redis, "q-1"));
    assert!(stored(&redis, "foreign").is_some());
}

#[test]
fn unmovable_record_stays_over_redis_restart() {
    let arguments = [
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--user",
        "device",
        "on",
        ">secret",
        &format!("~{HASH}"),
        "+@all",
    ];
    let mut redis = RedisServer::with(&arguments);
    redis::cmd("HSET")
        .arg(&[HASH, "s-7", "damaged"])
        .exec(&mut redis.connection())
        .expect("HSET");
    let url = format!("{}?user=device&pass=secret", redis.url());
    let mut persistence = opened(RedisPersistence::builder().url(url));
    put(&mut persistence, "q-1", b"one");
    redis.restart();
    persistence.health().flush(LIMIT).expect("is recovered");
    assert_eq!(stored(&redis, "s-7").as_deref(), Some(&b"damaged"[..]));
    assert!(stored(&redis, "q-1").is_some());
}

#[test]
fn recovery_keeps_order_under_constant_calls() {
    const COUNT: usize = 20_000;
    let mut redis = RedisServer::start();
    let mut persistence = opened(options(&redis));
    redis.kill();
    for number in 1..=COUNT {
        put(&mut persistence, &format!("q-{number}"), b"waits");
    }
    redis.restart();
    let health = persistence.health();
    let mut number = 0_usize;
    while !health.snapshot().up {
        number += 1;
        assert!(number < 1_000_000, "recovery does not end");
        let key = format!("c-{}", number % 1_000 + 1);
        put(&mut persistence, &key, b"passes");
        persistence.remove(&key).expect("removes");
        thread::park_timeout(Duration::from_micros(100));
    }
    health.flush(LIMIT).expect("flushes");
    let remaining: usize = redis::cmd("HLEN")
        .arg(HASH)
        .query(&mut redis.connection())
        .expect("HLEN");
    assert_eq!(remaining, COUNT);
}
