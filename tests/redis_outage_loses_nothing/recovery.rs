//! What recovery must stand: observers that panic or wait, records that cannot be read, other people's entries, and calls all the time.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{ErrorKind, RedisOptions, RedisPersistence, StoreEvent, StoreObserver};
use testkit::{LIMIT, RedisServer, eventually, record};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
const HASH: &str = "device:127.0.0.1:1883";

fn options(redis: &RedisServer) -> RedisOptions {
    RedisPersistence::builder().url(redis.url())
}

fn opened(options: RedisOptions) -> RedisPersistence {
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

/// Drops it on a thread of its own, which has to come to an end.
fn drop_in_time(persistence: RedisPersistence) {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        drop(persistence);
        ended.send(()).expect("somebody waits");
    });
    end.recv_timeout(LIMIT).expect("it is dropped");
}

/// Does something at each failed attempt to recover.
struct Wicked<F>(F);

impl<F: Fn() + Send + Sync> StoreObserver for Wicked<F> {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if matches!(event, StoreEvent::StillDown { .. }) {
            (self.0)();
        }
    }
}

#[test]
fn an_observer_that_panics_does_not_keep_redis_from_being_recovered() {
    let mut redis = RedisServer::start();
    let (told, tellings) = mpsc::channel();
    let told = Mutex::new(told);
    let observer = Wicked(move || {
        drop(told.lock().map(|told| told.send(())));
        panic!("as a test wants it");
    });
    let mut persistence = opened(options(&redis).observer(Arc::new(observer)));
    redis.kill();
    put(&mut persistence, "q-1", b"held");
    tellings
        .recv_timeout(LIMIT)
        .expect("it is told of a failed attempt");
    redis.restart();
    persistence.health().flush(LIMIT).expect("is recovered");
    assert_eq!(stored(&redis, "q-1"), Some(record("q-1", b"held")));
}

#[test]
fn an_observer_that_waits_for_whoever_closes_does_not_keep_it_from_closing() {
    let mut redis = RedisServer::start();
    let lock = Arc::new(Mutex::new(()));
    let (told, tellings) = mpsc::channel();
    let (wanted, told) = (Arc::clone(&lock), Mutex::new(told));
    let observer = Wicked(move || {
        drop(told.lock().map(|told| told.send(())));
        drop(wanted.lock());
    });
    let mut persistence = opened(options(&redis).observer(Arc::new(observer)));
    let held = lock.lock().expect("no panic");
    redis.kill();
    put(&mut persistence, "q-1", b"held");
    tellings
        .recv_timeout(LIMIT)
        .expect("it is told of a failed attempt");
    drop_in_time(persistence);
    drop(held);
}

/// Passes on what is damaged, with the thread that says so.
struct Damages(Mutex<mpsc::Sender<(String, String, thread::ThreadId)>>);

impl StoreObserver for Damages {
    fn on_damaged(&self, client_id: &str, key: &str) {
        let told = (client_id.to_owned(), key.to_owned(), thread::current().id());
        let damages = self.0.lock().expect("no panic");
        damages.send(told).expect("somebody waits");
        drop(damages);
        panic!("as a test wants it");
    }
}

#[test]
fn what_paho_has_damaged_is_told_before_it_is_sent() {
    let redis = RedisServer::start();
    let (told, damages) = mpsc::channel();
    let mut before = opened(options(&redis));
    put(&mut before, "s-1", b"a message");
    drop(before);
    let observer = Damages(Mutex::new(told));
    let mut persistence = opened(options(&redis).observer(Arc::new(observer)));
    // As Paho restores it, and sends it once more.
    persistence.keys().expect("lists");
    persistence.get("s-1").expect("can be read");
    put(&mut persistence, "s-1", b"a message");
    assert_eq!(damages.try_recv().ok(), None);

    let garbage = record("s-1", b"garbage");
    persistence
        .put("s-1", vec![&garbage])
        .expect_err("it is another one");
    // Paho sends it when `put` has returned.
    let told = damages.try_recv().expect("it was told");
    let here = thread::current().id();
    assert_eq!(told, (CLIENT.to_owned(), "s-1".to_owned(), here));
    drop(persistence);
    assert_eq!(stored(&redis, "s-1"), Some(record("s-1", b"a message")));
}

#[test]
fn a_put_over_a_record_that_cannot_be_read_now_is_taken_and_neither_is_lost() {
    let redis = RedisServer::start();
    let mut before = opened(options(&redis));
    for key in ["s-1", "q-1", "q-2"] {
        put(&mut before, key, b"before");
    }
    drop(before);
    let mut persistence = opened(options(&redis).cache_limit(0));
    persistence.keys().expect("lists");
    redis.pause();
    // Redis is found to stand still, so that Paho has not read them.
    persistence.get("q-1").expect_err("it cannot be read");
    for key in ["s-1", "q-1"] {
        put(&mut persistence, key, b"new");
    }
    redis.resume();
    persistence.health().flush(LIMIT).expect("is recovered");
    for key in ["s-1", "q-1"] {
        assert_eq!(stored(&redis, key), Some(record(key, b"new")), "{key}");
    }
    assert_eq!(stored(&redis, "q-3"), Some(record("q-1", b"before")));
    // A packet has its number in it.
    assert_eq!(
        stored(&redis, "s-65535"),
        Some(record("s-65535", b"before"))
    );
    assert_eq!(persistence.health().snapshot().lost_records, 0);
}

#[test]
fn what_waits_in_a_full_redis_can_be_sent_also_where_only_redis_has_it() {
    const COUNT: usize = 50;
    let redis = RedisServer::start();
    let mut persistence = opened(options(&redis).cache_limit(0));
    for number in 1..=COUNT {
        put(&mut persistence, &format!("c5-{number}"), &[b'x'; 100]);
    }
    redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory", "1"])
        .exec(&mut redis.connection())
        .expect("it is full");
    let health = persistence.health();
    // It is noticed though nothing is put.
    eventually(LIMIT, "it is noticed", || {
        health
            .last_error()
            .filter(|error| error.kind() == ErrorKind::OutOfMemory)
    });
    for number in 1..=COUNT {
        let key = format!("c5-{number}");
        persistence.get(&key).expect("can be read");
        persistence.remove(&key).expect("can be removed");
        // It is sent and acknowledged.
        let sent = format!("s5-{number}");
        put(&mut persistence, &sent, b"x");
        persistence.remove(&sent).expect("can be removed");
    }
    eventually(LIMIT, "they are removed", || {
        let left: usize = redis::cmd("HLEN")
            .arg(HASH)
            .query(&mut redis.connection())
            .expect("HLEN");
        (left == 0).then_some(())
    });
}

#[test]
fn a_loss_shows_behind_the_entries_of_others() {
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
    persistence.health().flush(LIMIT).expect("nothing is wrong");
    redis::cmd("HDEL")
        .arg(&[HASH, "q-1"])
        .exec(&mut redis.connection())
        .expect("HDEL");
    eventually(LIMIT, "it is written again", || stored(&redis, "q-1"));
    assert!(stored(&redis, "foreign").is_some());
}

#[test]
fn an_unreadable_record_that_had_to_stay_stays_when_redis_has_been_restarted() {
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
fn a_store_is_recovered_while_calls_go_on_and_in_their_order() {
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
        assert!(number < 1_000_000, "it never comes to an end");
        let key = format!("c-{}", number % 1_000 + 1);
        put(&mut persistence, &key, b"passes");
        persistence.remove(&key).expect("removes");
        thread::park_timeout(Duration::from_micros(100));
    }
    health.flush(LIMIT).expect("has everything");
    let there: usize = redis::cmd("HLEN")
        .arg(HASH)
        .query(&mut redis.connection())
        .expect("HLEN");
    assert_eq!(there, COUNT);
}
