//! Clients created over hashes with arbitrary content neither crash nor lose records.
//!
//! Paho reads some records without checking where they end, so the clients are created in child processes.

use std::{collections::HashMap, env, process::Output, thread};

use paho_mqtt as mqtt;
use paho_mqtt_redis::RedisPersistence;
use redis::Commands;
use testkit::{RedisServer, child::ignored_test, random::Random, record};

const CHILDREN: u64 = 4;
const CASES: u64 = 2_500;
const HASH: &str = "device:127.0.0.1:1";
const QUARANTINE: &str = "device:127.0.0.1:1:quarantine";
/// First case of a child.
const FIRST_CASE: &str = "HOSTILE_FIRST_CASE";
/// Number of cases of a child, if not [`CASES`].
const NUMBER_OF_CASES: &str = "HOSTILE_CASES";

type Entries = HashMap<Vec<u8>, Vec<u8>>;

/// Expected treatment of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Treatment {
    /// Stays, since Paho can read it.
    Stays,
    /// Stays, since it does not belong to Paho.
    Foreign,
    /// Stays or is quarantined: Paho may be unable to read it.
    Kept,
    /// Stays or is removed: Paho removes a PUBREL without its PUBLISH.
    MayGo,
}

fn foreign_field(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => random
            .pick(&[
                "",
                "c",
                "s5",
                "c-",
                "-1",
                "c-01",
                "s-0",
                "s-65536",
                "c-1000000",
                "x-1",
                "c-1 ",
                "sc--1",
            ])
            .into(),
        1 => b"c-1\0".to_vec(),
        2 => b"\xff\xfe-1".to_vec(),
        _ => random.bytes(20),
    }
}

fn key(random: &mut Random) -> String {
    let stem = random.pick(&["c", "c5", "s", "s5", "sc", "sc5", "r", "r5", "q", "q5"]);
    let number = match (stem, random.below(4)) {
        ("c" | "c5" | "q" | "q5", 0) => random.pick(&[0, 1, 2, 999_998, 999_999]),
        (_, 1) => random.pick(&[1, 2, 65_535]),
        _ => random.below(65_000) + 1,
    };
    format!("{stem}-{number}")
}

fn damaged(random: &mut Random, mut value: Vec<u8>) -> Vec<u8> {
    match random.below(5) {
        0 => Vec::new(),
        1 => {
            value.truncate(random.below(value.len() + 1));
            value
        }
        2 => {
            for _ in 0..=random.below(3) {
                let position = random.below(value.len());
                value[position] = random.draw().to_le_bytes()[2];
            }
            value
        }
        3 => [value, random.bytes(12)].concat(),
        _ => random.bytes(40),
    }
}

/// Draws the content of a hash and the treatment of each entry; the last value of a field counts.
fn contents(random: &mut Random) -> HashMap<Vec<u8>, (Vec<u8>, Treatment)> {
    let mut contents = HashMap::new();
    for _ in 0..=random.below(7) {
        let payload = if random.below(50) == 0 {
            vec![b'x'; 100]
        } else {
            random.bytes(30)
        };
        let entry = match random.below(10) {
            0 => (
                foreign_field(random),
                (random.bytes(30), Treatment::Foreign),
            ),
            1..=4 => {
                let key = key(random);
                let value = record(&key, &payload);
                let value = damaged(random, value);
                (key.into_bytes(), (value, Treatment::Kept))
            }
            _ => {
                let key = key(random);
                let value = record(&key, &payload);
                (key.into_bytes(), (value, Treatment::Stays))
            }
        };
        let (field, (value, treatment)) = entry;
        let treatment = if field.starts_with(b"sc") && treatment != Treatment::Foreign {
            Treatment::MayGo
        } else {
            treatment
        };
        if is_foreign(&field) || treatment != Treatment::Foreign {
            contents.insert(field, (value, treatment));
        }
    }
    contents
}

/// Returns false for random bytes that happen to be a key of Paho.
fn is_foreign(field: &[u8]) -> bool {
    !matches!(str::from_utf8(field), Ok(text) if text.contains('-') && text.starts_with(['c', 's', 'r', 'q']) && text.len() <= 10 && text.ends_with(|c: char| c.is_ascii_digit()) && !["c-01", "s-0", "s-65536", "c-1000000", "sc--1"].contains(&text))
}

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
