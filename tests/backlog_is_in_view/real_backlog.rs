//! A backlog that a real client has written is shown exactly, also while that client is connected.

use std::time::{SystemTime, UNIX_EPOCH};

use paho_mqtt as mqtt;
use paho_mqtt_redis::RedisPersistence;
use redis::Commands;
use serde_json::{Value, json};
use testkit::{
    LIMIT, RedisServer,
    broker::{Broker, Direction, Kind},
    publish_command, record,
    recording::{CLIENT, Client, alone},
    subscribe_command, unsubscribe_command,
};

use crate::tool::{objects, run};

const VERSIONS: [u32; 2] = [mqtt::MQTT_VERSION_3_1_1, mqtt::MQTT_VERSION_5];

/// Creates a client with a record of each kind but `q`, which is connected with Redis and not with the broker.
///
/// In flight: one message at QoS 1, and two at QoS 2, of which the broker has received one. Three messages wait.
fn backlog(redis: &RedisServer, broker: &Broker, version: u32) -> Client {
    let persistence = RedisPersistence::builder().url(redis.url()).build();
    let client = Client::create(persistence.expect("valid"), broker, version);
    let losses = client.losses();
    client.connect(version);
    broker.withhold(Kind::Puback);
    broker.withhold_nth(Kind::Pubrec, 1);
    broker.withhold(Kind::Pubcomp);
    broker.withhold(Kind::Pubrel);
    broker.deliver(CLIENT, "commands", b"inbound", 2);
    broker.wait_for(Direction::Withheld, Kind::Pubrel, 1);
    client.accept("first", 1);
    client.accept("second", 2);
    client.accept("third", 2);
    broker.wait_for(Direction::Withheld, Kind::Pubcomp, 1);
    broker.drop_connections();
    losses.recv_timeout(LIMIT).expect("the connection is lost");
    for qos in 0..=2 {
        client.accept(&format!("waits {qos}"), qos);
    }
    client
}

fn name_of(broker: &Broker) -> String {
    format!("{CLIENT}:{}", broker.url().replace("mqtt://", ""))
}

/// Fields of an object, in the order of `names`.
fn fields(object: &Value, names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| object[*name].clone()).collect()
}

#[test]
fn backlog_of_real_client_is_shown_as_it_goes_out() {
    let _alone = alone();
    for version in VERSIONS {
        let (redis, broker) = (RedisServer::start(), Broker::start());
        let client = backlog(&redis, &broker, version);
        let shown = objects(&redis, &["show", CLIENT, "--payload"]);
        let names = ["action", "packet_id", "qos", "topics", "payload"];
        let rows: Vec<Vec<Value>> = shown.iter().map(|row| fields(row, &names)).collect();
        let topic = ["a/topic"];
        let expected = [
            json!(["sent", 1, 1, topic, "Zmlyc3Q="]),
            json!(["sent", 2, 2, topic, "c2Vjb25k"]),
            json!(["sent", 3, 2, topic, "dGhpcmQ="]),
            json!(["pubrel", 3, null, [], null]),
            json!(["publish", null, 0, topic, "d2FpdHMgMA=="]),
            json!(["publish", 4, 1, topic, "d2FpdHMgMQ=="]),
            json!(["publish", 5, 2, topic, "d2FpdHMgMg=="]),
            json!(["received", 1, 2, ["commands"], "aW5ib3VuZA=="]),
        ];
        assert_eq!(json!(rows), json!(expected), "{version}");
        let versions = ["3.1.1", "5"].map(|version| json!(version));
        let written = &versions[usize::from(version == mqtt::MQTT_VERSION_5)];
        assert!(shown.iter().all(|row| row["mqtt_version"] == *written));
        // It is as usable as before.
        client.accept("another", 1);
        assert_eq!(objects(&redis, &["show", CLIENT]).len(), 9);
    }
}

#[test]
fn list_counts_messages_and_names_owner() {
    let _alone = alone();
    for version in VERSIONS {
        let (redis, broker) = (RedisServer::start(), Broker::start());
        let client = backlog(&redis, &broker, version);
        let names = ["waiting", "in_flight", "inbound", "records", "owner"];
        let [listed] = &objects(&redis, &["list"])[..] else {
            panic!("one client");
        };
        assert_eq!(listed["client"], json!(name_of(&broker)));
        assert_eq!(
            json!(fields(listed, &names)),
            json!([3, 3, 1, 8, "connected"])
        );
        let mut connection = redis.connection();
        let values: Vec<Vec<u8>> = connection.hvals(name_of(&broker)).expect("HVALS");
        let bytes: usize = values.iter().map(Vec::len).sum();
        assert_eq!(listed["bytes"], json!(bytes));
        drop(client);
        let [listed] = &objects(&redis, &["list", "--prefix", &CLIENT[..3]])[..] else {
            panic!("one client");
        };
        assert_eq!(listed["owner"], "none");
        assert!(objects(&redis, &["list", "--prefix", "another"]).is_empty());
    }
}

#[test]
fn check_foresees_what_paho_restores() {
    let _alone = alone();
    for version in VERSIONS {
        let (redis, broker) = (RedisServer::start(), Broker::start());
        let _client = backlog(&redis, &broker, version);
        let checked = objects(&redis, &["check", CLIENT]);
        let [redis, restore] = &checked[..] else {
            panic!("no finding: {checked:?}");
        };
        assert_eq!(redis["problems"], json!([]));
        assert_eq!(redis["aof"], json!(false));
        let names = [
            "publish_qos_0",
            "publish_qos_1",
            "publish_qos_2",
            "sent_qos_1",
            "sent_qos_2",
            "released",
            "received",
            "packet_ids",
        ];
        let counts = fields(&restore["restore"], &names);
        assert_eq!(json!(counts), json!([1, 1, 1, 1, 1, 1, 1, 5]));
    }
}

#[test]
fn properties_and_expiry_are_shown() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    let persistence = RedisPersistence::builder().url(redis.url()).build();
    let client = Client::create(persistence.expect("valid"), &broker, mqtt::MQTT_VERSION_5);
    let mut properties = mqtt::Properties::new();
    let code = mqtt::PropertyCode::MessageExpiryInterval;
    properties.push_u32(code, 600).expect("pushed");
    let code = mqtt::PropertyCode::UserProperty;
    properties
        .push_string_pair(code, "k", "v\x1b")
        .expect("pushed");
    let code = mqtt::PropertyCode::CorrelationData;
    properties.push_binary(code, b"\x00\xff").expect("pushed");
    let message = mqtt::MessageBuilder::new()
        .topic("t")
        .payload("x")
        .qos(1)
        .retained(true)
        .properties(properties);
    client.try_publish(message.finalize()).expect("accepted");
    let [shown] = &objects(&redis, &["show", CLIENT])[..] else {
        panic!("one message");
    };
    let expected = json!([
        {"name": "user_property", "value": ["k", "v\u{1b}"]},
        {"name": "correlation_data", "value": "AP8="},
    ]);
    assert_eq!(shown["properties"], expected);
    assert_eq!(shown["retained"], json!(true));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("later");
    let left = shown["expires_at"].as_u64().expect("a time") - now.as_secs();
    assert!((500..=600).contains(&left), "{left}");
    let table = run(&redis, &["show", CLIENT]).expect(0).out;
    assert!(table.contains(r"user_property=k:v\u{1b}"), "{table}");
    assert!(table.contains("correlation_data=00ff"), "{table}");
}

/// Writes records as Paho would.
fn store(redis: &RedisServer, hash: &str, records: &[(&str, Vec<u8>)]) {
    let _: () = redis
        .connection()
        .hset_multiple(hash, records)
        .expect("HSET");
}

fn keys(shown: &[Value]) -> String {
    let keys = shown.iter().map(|row| row["key"].as_str().expect("a key"));
    keys.collect::<Vec<_>>().join(" ")
}

#[test]
fn selection_shows_matching_messages_only() {
    let redis = RedisServer::start();
    let command = |id, topic| publish_command(id, 1, topic, b"x");
    let records = [
        ("c-1", command(1, "plant/a/temperature")),
        ("c-2", command(2, "plant/b/temperature")),
        ("c-999999", command(3, "plant/a/state")),
        ("c-3", subscribe_command(4, "plant/#")),
        (
            "c5-4",
            [&unsubscribe_command(5, "plant/#")[..], b"\0"].concat(),
        ),
        ("s-9", record("s-9", b"x")),
        ("sc-9", record("sc-9", b"")),
        ("q-5", record("q-5", b"x")),
    ];
    store(&redis, "device:broker:1", &records);
    for (arguments, expected) in [
        (&[][..], "s-9 sc-9 c-999999 c-1 c-2 c-3 c5-4 q-5"),
        (&["--kind", "command"], "c-999999 c-1 c-2 c-3 c5-4"),
        (&["--kind", "publish"], "c-999999 c-1 c-2"),
        (&["--kind", "publish", "--number", "3-4"], ""),
        (&["--kind", "subscribe,received"], "c-3"),
        (&["--kind", "unsubscribe,sent"], "s-9 sc-9 c5-4"),
        (&["--kind", "pubrel"], "s-9 sc-9"),
        (&["--kind", "unreadable"], ""),
        (&["--topic", "plant/+/temperature"], "c-1 c-2"),
        (&["--topic", "plant/a/#", "--number", "1-10"], "c-1"),
        (&["--topic", "t"], "s-9 sc-9 q-5"),
        (&["--kind", "sent_pubrel,undelivered"], "s-9 sc-9 q-5"),
        (&["--number", "2,9"], "s-9 sc-9 c-2"),
        (&["--limit", "2"], "s-9 sc-9 c-999999"),
        (&["--kind", "received_publish"], ""),
    ] {
        let arguments = [&["show", "device"], arguments].concat();
        let shown = objects(&redis, &arguments);
        assert_eq!(keys(&shown), expected, "{arguments:?}");
    }
    let table = run(
        &redis,
        &["show", "device", "--payload=hex", "--number", "1"],
    );
    assert!(table.expect(0).out.contains("78"));
    store(
        &redis,
        "device:broker:1",
        &[("c-5", b"damaged".to_vec()), ("q-6", b"damaged".to_vec())],
    );
    for (kind, expected) in [("unreadable", "c-5 q-6"), ("undelivered", "q-5 q-6")] {
        let shown = run(&redis, &["show", "device", "--json", "--kind", kind]);
        assert_eq!(keys(&shown.expect(1).objects()), expected);
    }
}

#[test]
fn long_payload_is_cut_between_characters() {
    let redis = RedisServer::start();
    // Of the characters at the end of the first 256 bytes, one begins there, and one has two bytes there.
    for (payload, shown) in [
        ("é".repeat(129), "é".repeat(128)),
        (
            format!("a{}", "é".repeat(128)),
            format!("a{}", "é".repeat(127)),
        ),
        ("€".repeat(90), "€".repeat(85)),
        ("a".repeat(257), "a".repeat(256)),
    ] {
        let command = publish_command(1, 1, "t", payload.as_bytes());
        store(&redis, "device:broker:1", &[("c-1", command)]);
        let table = run(&redis, &["show", "device", "--payload"]).expect(0).out;
        let end = format!(" {shown}… (the first 256 bytes; all with --json --payload)\n");
        assert!(table.ends_with(&end), "{table}");
    }
    let whole = publish_command(1, 1, "t", "é".repeat(128).as_bytes());
    store(&redis, "device:broker:1", &[("c-1", whole)]);
    let table = run(&redis, &["show", "device", "--payload"]).expect(0).out;
    assert!(
        table.ends_with(&format!(" {}\n", "é".repeat(128))),
        "{table}"
    );
}

/// Finding and its entries, in one text per finding.
fn findings(checked: &[Value]) -> Vec<String> {
    let findings = checked
        .iter()
        .filter(|object| object["finding"].is_string());
    let findings = findings.map(|object| {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let entries = object["entries"].as_array().expect("a list").iter();
        let entries = entries.map(text).collect::<Vec<_>>().join(" ");
        format!("{}: {entries}", text(&object["finding"]))
    });
    findings.collect()
}

#[test]
fn check_finds_what_opening_would_repair() {
    let redis = RedisServer::start();
    let expired = {
        let value = publish_command(8, 1, "t", b"x");
        let time = 1_700_000_000_u32.to_be_bytes();
        [&value[..], b"\x05\x02", &time].concat()
    };
    let records = [
        ("c-0", publish_command(1, 1, "t", b"x")),
        ("c-999999", publish_command(2, 1, "t", b"x")),
        ("c-2", publish_command(2, 1, "t", b"x")),
        ("c5-3", expired),
        ("c-4", b"damaged".to_vec()),
        ("s-9", record("s-9", b"same")),
        ("s5-9", record("s5-9", b"same")),
        ("s-10", record("s-10", b"one")),
        ("s5-10", record("s5-10", b"another")),
        ("sc-11", record("sc-11", b"")),
        ("other", b"x".to_vec()),
    ];
    store(&redis, "device:broker:1", &records);
    store(
        &redis,
        "device:broker:1:discarded",
        &[("1:x:1:c-1:00", Vec::new())],
    );
    let run = run(&redis, &["check", "device", "--json"]).expect(1);
    let expected = [
        "unreadable: c-4",
        "foreign: other",
        "version_pair: s-10",
        "stale_pubrel: sc-11",
        "expired: c5-3",
        "duplicate: s-9",
        "shared_packet_id: c-999999",
        "wrapped: c-999999",
        "command_zero: c-0",
        "both_versions: 5 of 3.1.1, 2 of 5",
        "discarded: 1:x:1:c-1:00",
    ];
    assert_eq!(findings(&run.objects()), expected, "{}", run.out);
    let remaining: usize = redis.connection().hlen("device:broker:1").expect("HLEN");
    assert_eq!(remaining, records.len());
    let aside: bool = redis
        .connection()
        .exists("device:broker:1:quarantine")
        .expect("EXISTS");
    assert!(!aside);
}

#[test]
fn watch_shows_rate_and_end() {
    let redis = RedisServer::start();
    let records: Vec<(String, Vec<u8>)> = (1..=100)
        .map(|number| (format!("c-{number}"), publish_command(number, 1, "t", b"x")))
        .collect();
    let _: () = redis
        .connection()
        .hset_multiple("device:broker:1", &records)
        .expect("HSET");
    let watching = [
        "watch",
        "device",
        "--json",
        "--interval",
        "0.5",
        "--count",
        "2",
    ];
    let watched = std::thread::scope(|scope| {
        let watching = scope.spawn(|| run(&redis, &watching).expect(0).objects());
        // Between the two looks.
        std::thread::sleep(std::time::Duration::from_millis(250));
        let keys: Vec<String> = (1..=50).map(|number| format!("c-{number}")).collect();
        let _: () = redis
            .connection()
            .hdel("device:broker:1", keys)
            .expect("HDEL");
        watching.join().expect("ends")
    });
    let [first, second] = &watched[..] else {
        panic!("{watched:?}");
    };
    // On a busy machine the first look may come after the remove.
    if first["waiting"] == json!(100) {
        assert_eq!(first["drained_per_second"], json!(null));
        let rate = second["drained_per_second"].as_f64().expect("a rate");
        assert!(rate > 1.0 && rate <= 101.0, "{rate}");
        assert!(second["seconds_until_empty"].is_u64(), "{second}");
    }
    assert_eq!(second["waiting"], json!(50));
    let bytes = second["bytes"].as_u64().expect("a number");
    assert_eq!(bytes % 50, 0, "{bytes}");
}

#[test]
fn check_shows_whether_snapshot_was_saved() {
    let redis = RedisServer::start();
    let snapshot = || {
        let checked = run(&redis, &["check", "--redis-only"]);
        let line = checked.out.lines().find(|line| line.contains("snapshot"));
        line.expect("a line about it").to_owned()
    };
    let json = || objects(&redis, &["check", "--redis-only"])[0]["rdb_last_save"].clone();
    assert!(
        snapshot().contains("none since Redis started, "),
        "{}",
        snapshot()
    );
    assert_eq!(json(), Value::Null);
    redis::cmd("SAVE")
        .exec(&mut redis.connection())
        .expect("SAVE");
    assert!(snapshot().contains("  saved "), "{}", snapshot());
    assert!(json().is_u64());
}
