//! Records of a client, written as the library writes them.

use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::RedisPersistence;
use redis::Commands;
use testkit::{LIMIT, RedisServer, eventually, record};

use crate::tool::{command, run};

pub const CLIENT: &str = "device";

/// The records of [`CLIENT`], under a server URI that no test connects to.
pub const NAME: &str = "device:broker:1883";

pub type Records = BTreeMap<String, Vec<u8>>;

/// Puts records under their keys, each with its key as the payload.
pub fn store(redis: &RedisServer, name: &str, keys: &[&str]) {
    for key in keys {
        put(redis, name, key, &record(key, key.as_bytes()));
    }
}

pub fn put(redis: &RedisServer, hash: &str, key: &str, value: &[u8]) {
    let _: () = redis.connection().hset(hash, key, value).expect("HSET");
}

/// Sets a record aside, as long ago as this; returns its name.
pub fn set_aside(
    redis: &RedisServer,
    place: &str,
    key: &str,
    value: &[u8],
    reason: &str,
    age: Duration,
) -> String {
    set_aside_in(redis, &format!("{NAME}:{place}"), key, value, reason, age)
}

/// Does the same in this hash.
pub fn set_aside_in(
    redis: &RedisServer,
    hash: &str,
    key: &str,
    value: &[u8],
    reason: &str,
    age: Duration,
) -> String {
    let time = SystemTime::now() - age;
    let millis = time.duration_since(UNIX_EPOCH).expect("later").as_millis();
    let name = format!("{millis}:{reason}:{}:{key}:{:016x}", value.len(), 7);
    put(redis, hash, &name, value);
    name
}

pub fn records(redis: &RedisServer, hash: &str) -> Records {
    redis.connection().hgetall(hash).expect("HGETALL")
}

pub fn keys(redis: &RedisServer, hash: &str) -> Vec<String> {
    records(redis, hash).into_keys().collect()
}

/// Everything in Redis.
pub fn everything(redis: &RedisServer) -> BTreeMap<String, Records> {
    let names: Vec<String> = redis.connection().keys("*").expect("KEYS");
    let contents = names.into_iter().map(|name| {
        let records = records(redis, &name);
        (name, records)
    });
    contents.collect()
}

/// A program that is connected with the records of [`CLIENT`].
pub fn connected_program(redis: &RedisServer, uri: &str) -> impl ClientPersistence + use<> {
    let persistence = RedisPersistence::builder().url(redis.url()).build();
    let mut persistence = persistence.expect("a valid URL");
    persistence.open(CLIENT, uri).expect("opens");
    persistence
}

/// Runs the program until `is_changing`, and kills it; returns true if it had not ended by then.
pub fn kill_while(
    redis: &RedisServer,
    arguments: &[&str],
    mut is_changing: impl FnMut() -> bool,
) -> bool {
    let mut program = command(arguments)
        .env("MQTT_BACKLOG_URL", redis.url())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    let started = Instant::now();
    // Without a pause, since it takes milliseconds.
    while !is_changing() && started.elapsed() < LIMIT {}
    let has_ended = program.try_wait().expect("is a child").is_some();
    program.kill().expect("is killed");
    program.wait().expect("has ended");
    !has_ended
}

/// Runs the program to its end, once Redis has noticed that a killed one is gone.
pub fn run_after_kill(redis: &RedisServer, arguments: &[&str]) {
    eventually(LIMIT, "the killed program owns the records no more", || {
        (run(redis, arguments).code == Some(0)).then_some(())
    });
}

/// Fills Redis, so that it takes no new records.
pub fn fill(redis: &RedisServer) {
    redis.set_maxmemory("1");
}
