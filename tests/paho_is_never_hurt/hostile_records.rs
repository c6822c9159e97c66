//! Clients created over hashes with arbitrary content neither crash nor lose records.
//!
//! Paho reads some records without checking where they end, so the clients are created in child processes.

use std::{collections::HashMap, env, process::Output, thread};

use paho_mqtt as mqtt;
use paho_mqtt_redis::RedisPersistence;
use redis::Commands;
use testkit::{
    RedisServer,
    child::ignored_test,
    hostile::{Treatment, contents},
    random::Random,
};

const CHILDREN: u64 = 4;
const CASES: u64 = 1_000;
const HASH: &str = "device:127.0.0.1:1";
const QUARANTINE: &str = "device:127.0.0.1:1:quarantine";
/// First case of a child.
const FIRST_CASE: &str = "HOSTILE_FIRST_CASE";
/// Number of cases of a child, if not [`CASES`].
const NUMBER_OF_CASES: &str = "HOSTILE_CASES";

type Entries = HashMap<Vec<u8>, Vec<u8>>;

/// Creates a client over what is in Redis, and drops it.
fn create(url: &str, version: u32) -> mqtt::Result<()> {
    let persistence = RedisPersistence::builder().url(url).build().expect("valid");
    mqtt::CreateOptionsBuilder::new()
        .server_uri("tcp://127.0.0.1:1")
        .client_id("device")
        .mqtt_version(version)
        .user_persistence(persistence)
        .create_client()
        .map(drop)
}

#[test]
#[ignore = "the child of the other test"]
fn child() {
    let Ok(first) = env::var(FIRST_CASE) else {
        return;
    };
    let first: u64 = first.parse().expect("a number");
    let cases = env::var(NUMBER_OF_CASES).map_or(CASES, |cases| cases.parse().expect("a number"));
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    for case in first..first + cases {
        // The last line of a crashed child.
        eprintln!("case {case}");
        let mut random = Random::of(case);
        let contents = contents(&mut random);
        redis::cmd("FLUSHALL").exec(&mut connection).expect("empty");
        for (field, (value, _)) in &contents {
            let _: () = connection.hset(HASH, field, value).expect("HSET");
        }
        let version = if random.below(4) == 0 {
            mqtt::MQTT_VERSION_3_1_1
        } else {
            mqtt::MQTT_VERSION_5
        };
        let created = create(&redis.url(), version);
        let has_v5_packets = contents.keys().any(|key| {
            [&b"s5"[..], b"sc5", b"r5"]
                .iter()
                .any(|stem| key.starts_with(stem))
        });
        assert!(
            created.is_ok() || version != mqtt::MQTT_VERSION_5 && has_v5_packets,
            "case {case}: {created:?}"
        );

        let remaining: Entries = connection.hgetall(HASH).expect("HGETALL");
        let quarantined: Entries = connection.hgetall(QUARANTINE).expect("HGETALL");
        for (field, (value, treatment)) in &contents {
            let name = String::from_utf8_lossy(field);
            let stays = remaining.get(field) == Some(value);
            // A command gets another packet id, which is in bytes 4 to 7, if another message has its own.
            let is_same = |found: &Vec<u8>| {
                found.len() == value.len() && found[..4] == value[..4] && found[8..] == value[8..]
            };
            let is_command = field.starts_with(b"c") && value.len() > 8;
            let moved = is_command && remaining.values().any(is_same);
            // Time, reason and length come before the key, and a hash behind it.
            let is_entry =
                |name: &[u8]| name.split(|byte| *byte == b':').nth(3) == Some(field.as_slice());
            let is_quarantined = quarantined
                .iter()
                .any(|(name, found)| is_entry(name) && found == value);
            let right = match treatment {
                Treatment::Foreign => stays,
                Treatment::Stays => stays || moved,
                Treatment::Kept => stays || moved || is_quarantined,
                Treatment::MayGo => true,
            };
            assert!(
                right,
                "case {case}: {name} is {treatment:?}, and was {value:?}; remaining {remaining:?}; \
                 quarantined {quarantined:?}"
            );
        }
    }
}

fn run(first: u64) -> Output {
    ignored_test(module_path!(), "child")
        .env(FIRST_CASE, first.to_string())
        .output()
        .expect("the child runs")
}

#[test]
fn hostile_hashes_crash_no_client_and_lose_nothing() {
    let children: Vec<_> = (0..CHILDREN)
        .map(|child| thread::spawn(move || run(child * CASES)))
        .collect();
    for child in children {
        let output = child.join().expect("no panic");
        let log = String::from_utf8_lossy(&output.stderr);
        let end: Vec<&str> = log.lines().rev().take(12).collect();
        assert!(output.status.success(), "{}: {end:#?}", output.status);
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    }
}
