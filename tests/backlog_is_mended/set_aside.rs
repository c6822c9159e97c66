//! Records of the quarantine and dropped messages are seen, put back, published again and deleted.

use std::{collections::BTreeSet, time::Duration};

use paho_mqtt as mqtt;
use paho_mqtt_redis::RedisPersistence;
use redis::Commands;
use serde_json::json;
use testkit::{LIMIT, Mosquitto, RedisServer, Subscriber, publish_command, publish_packet, record};

use crate::{
    stored::{
        CLIENT, NAME, everything, fill, keys, kill_while, put, records, run_after_kill, set_aside,
        store,
    },
    tool::{objects, run},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Sets three records aside, oldest first; returns their names.
fn three(redis: &RedisServer, place: &str) -> [String; 3] {
    let other = publish_command(7, 1, "other/topic", b"\x1b[2J");
    [
        set_aside(
            redis,
            place,
            "s5-7",
            &record("s5-7", b"first"),
            "session_lost",
            3 * HOUR,
        ),
        set_aside(redis, place, "c-8", &other, "buffer_full", 2 * HOUR),
        set_aside(redis, place, "q-9", b"\x01", "unreadable", HOUR),
    ]
}

fn names(redis: &RedisServer, arguments: &[&str]) -> Vec<String> {
    let objects = objects(redis, arguments);
    let names = objects
        .iter()
        .map(|object| object["name"].as_str().expect("a name").to_owned());
    names.collect()
}

#[test]
fn unknown_reason_is_refused_with_known_ones() {
    let redis = RedisServer::start();
    for place in ["quarantine", "discarded"] {
        three(&redis, place);
        for action in [&["list"][..], &["delete", "--yes"], &["publish-again"]] {
            let arguments = [&[place], action, &[CLIENT, "--reason", "session_losd"]].concat();
            let refused = run(&redis, &arguments).expect(2);
            for reason in [
                "session_lost",
                "over_budget",
                "unreadable",
                "other_version",
                "poison",
                "unknown",
            ] {
                assert!(refused.err.contains(reason), "{refused:?}");
            }
        }
    }
}

#[test]
fn records_are_listed_by_condition() {
    let redis = RedisServer::start();
    for place in ["quarantine", "discarded"] {
        let [first, second, third] = three(&redis, place);
        for (arguments, expected) in [
            (&[CLIENT][..], &[&first, &second, &third][..]),
            (&[], &[&first, &second, &third]),
            (&["--prefix", "dev"], &[&first, &second, &third]),
            (&["--prefix", "x"], &[]),
            (
                &[CLIENT, "--reason", "session_lost,unreadable"],
                &[&first, &third],
            ),
            (&[CLIENT, "--older-than", "90m"], &[&first, &second]),
            (&[CLIENT, "--topic", "other/#"], &[&second]),
            (&[CLIENT, "--number", "8-9"], &[&second, &third]),
            (&[CLIENT, "--limit", "1"], &[&first]),
        ] {
            let listed = names(&redis, &[&[place, "list"], arguments].concat());
            assert_eq!(listed.iter().collect::<Vec<_>>(), expected, "{arguments:?}");
        }
        let list = run(&redis, &[place, "list", CLIENT]).expect(0);
        for word in [
            "KEY",
            "session_lost",
            "3h 0m",
            "unreadable",
            "other/topic",
            &second,
        ] {
            assert!(list.out.contains(word), "{word}: {list:?}");
        }
    }
}

#[test]
fn record_is_shown_with_all_that_is_in_it() {
    let redis = RedisServer::start();
    let [first, second, _] = three(&redis, "discarded");
    let shown = run(&redis, &["discarded", "show", CLIENT, "c-8"]).expect(0);
    for line in [
        format!("name       {second}"),
        "reason     buffer_full".to_owned(),
        "topic      other/topic".to_owned(),
        "QoS        1".to_owned(),
        r"payload    \u{1b}[2J".to_owned(),
    ] {
        assert!(
            shown.out.lines().any(|shown| shown == line),
            "{line}: {shown:?}"
        );
    }
    let [object] = &objects(&redis, &["discarded", "show", CLIENT, &first])[..] else {
        panic!("one object");
    };
    assert_eq!(object["payload"], json!("Zmlyc3Q="));
    assert_eq!(object["key"], json!("s5-7"));
    assert_eq!(object["reason"], json!("session_lost"));
    run(&redis, &["discarded", "show", CLIENT, "c-1"]).expect(2);
    // Two records with one key differ in their names.
    set_aside(
        &redis,
        "discarded",
        "c-8",
        &record("c-8", b"x"),
        "buffer_full",
        Duration::ZERO,
    );
    let ambiguous = run(&redis, &["discarded", "show", CLIENT, "c-8"]).expect(2);
    assert!(ambiguous.err.contains(&second), "{ambiguous:?}");
}

#[test]
fn records_are_put_back_under_free_keys() {
    let redis = RedisServer::start();
    for place in ["quarantine", "discarded"] {
        let hash = format!("{NAME}:{place}");
        store(&redis, NAME, &["c-1", "c5-8"]);
        let values = records(&redis, NAME);
        let [first, second, third] = three(&redis, place);
        let back = run(&redis, &[place, "put-back", CLIENT, "--all"]).expect(1);
        assert_eq!(back.out, format!("{first} put back as s5-7\n"));
        assert!(
            back.err
                .contains(&format!("{second} stays: the client has c5-8")),
            "{back:?}"
        );
        assert!(
            back.err
                .contains(&format!("{third} stays: Paho could not read it")),
            "{back:?}"
        );
        assert_eq!(keys(&redis, NAME), ["c-1", "c5-8", "s5-7"]);
        assert_eq!(records(&redis, NAME)["s5-7"], record("s5-7", b"first"));
        assert_eq!(records(&redis, NAME)["c5-8"], values["c5-8"]);
        assert_eq!(keys(&redis, &hash), [second, third]);
        run(&redis, &["purge", CLIENT, "--all", "--yes"]).expect(0);
        // By its key, now that it is free.
        run(&redis, &[place, "put-back", CLIENT, "c-8"]).expect(0);
        assert_eq!(keys(&redis, NAME), ["c-8"]);
        run(&redis, &[place, "put-back", CLIENT]).expect(2);
        run(&redis, &["purge", CLIENT, "--all", "--yes"]).expect(0);
    }
}

#[test]
fn records_are_deleted_after_question() {
    let redis = RedisServer::start();
    let [_, second, third] = three(&redis, "quarantine");
    let before = everything(&redis);
    run(&redis, &["quarantine", "delete", CLIENT, "--all"]).expect(5);
    run(&redis, &["quarantine", "delete", CLIENT, "--yes"]).expect(2);
    assert_eq!(everything(&redis), before);
    fill(&redis);
    run(
        &redis,
        &[
            "quarantine",
            "delete",
            CLIENT,
            "--older-than",
            "150m",
            "--yes",
        ],
    )
    .expect(0);
    assert_eq!(keys(&redis, &format!("{NAME}:quarantine")), [second, third]);
    run(&redis, &["quarantine", "delete", CLIENT, "--all", "--yes"]).expect(0);
    assert!(everything(&redis).is_empty());
}

#[test]
fn full_redis_refuses_and_loses_nothing() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1"]);
    three(&redis, "discarded");
    let before = everything(&redis);
    fill(&redis);
    for action in ["put-back", "publish-again"] {
        let full = run(&redis, &["discarded", action, CLIENT, "--all"]).expect(3);
        assert_eq!(full.err.lines().count(), 1, "{full:?}");
        assert_eq!(everything(&redis), before);
    }
}

/// Lets a real client send what is stored for it to a broker, and returns the payloads in order.
fn sent_by_client(
    redis: &RedisServer,
    broker: &Mosquitto,
    version: u32,
    count: usize,
) -> Vec<String> {
    let subscriber = Subscriber::start(&broker.url(), "#", 2);
    let persistence = RedisPersistence::builder().url(redis.url()).build();
    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri("mqtt://broker:1883")
        .client_id(CLIENT)
        .mqtt_version(version)
        .user_persistence(persistence.expect("a valid URL"))
        .create_client()
        .expect("a client");
    let mut options = if version == mqtt::MQTT_VERSION_5 {
        let mut options = mqtt::ConnectOptionsBuilder::new_v5();
        options.clean_start(false);
        options.properties(mqtt::properties![mqtt::PropertyCode::SessionExpiryInterval => 3600]);
        options
    } else {
        let mut options = mqtt::ConnectOptionsBuilder::with_mqtt_version(version);
        options.clean_session(false);
        options
    };
    // What is stored has another name.
    let options = options.server_uris(&[broker.url()]).finalize();
    client.connect(options).wait_for(LIMIT).expect("connects");
    subscriber.wait_for(count, LIMIT);
    testkit::eventually(LIMIT, "everything is acknowledged", || {
        keys(redis, NAME).is_empty().then_some(())
    });
    let messages = subscriber.messages().into_iter();
    messages
        .map(|(_, payload)| String::from_utf8(payload).expect("text"))
        .collect()
}

fn published_again(version: u32) {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let v = if version == mqtt::MQTT_VERSION_5 {
        "5"
    } else {
        ""
    };
    let waiting: Vec<String> = (1..=5).map(|number| format!("c{v}-{number}")).collect();
    let waiting: Vec<&str> = waiting.iter().map(String::as_str).collect();
    store(&redis, NAME, &waiting);
    for number in 1..=20_u64 {
        let key = format!("s{v}-{number}");
        let qos = if number.is_multiple_of(2) { 2 } else { 1 };
        let value = publish_packet(&key, qos, format!("again {number}").as_bytes());
        let age = Duration::from_secs(1_000 - number);
        set_aside(&redis, "discarded", &key, &value, "session_lost", age);
    }
    let again = run(
        &redis,
        &[
            "discarded",
            "publish-again",
            CLIENT,
            "--reason",
            "session_lost",
        ],
    );
    assert_eq!(again.expect(0).out.lines().count(), 20);
    assert!(keys(&redis, &format!("{NAME}:discarded")).is_empty());
    let sent = sent_by_client(&redis, &broker, version, 25);
    assert_eq!(sent[..5], waiting, "they waited before");
    // Mosquitto passes a message at QoS 2 on when it is released, so the order is that of each QoS.
    for odd in [true, false] {
        let numbers = sent[5..]
            .iter()
            .map(|payload| payload.replace("again ", ""));
        let numbers = numbers.map(|number| number.parse::<u64>().expect("a number"));
        let of_qos = numbers.filter(|number| number.is_multiple_of(2) != odd);
        let expected = (1..=20).filter(|number: &u64| number.is_multiple_of(2) != odd);
        assert!(of_qos.eq(expected), "{sent:?}");
    }
}

#[test]
fn client_of_mqtt_3_sends_messages_again() {
    published_again(mqtt::MQTT_VERSION_3_1_1);
}

#[test]
fn client_of_mqtt_5_sends_messages_again() {
    published_again(mqtt::MQTT_VERSION_5);
}

#[test]
fn client_sends_what_was_put_back() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    store(&redis, NAME, &["c-2"]);
    for key in ["c-1", "c-3"] {
        let value = record(key, key.as_bytes());
        set_aside(&redis, "quarantine", key, &value, "foreign", Duration::ZERO);
    }
    run(&redis, &["quarantine", "put-back", CLIENT, "--all"]).expect(0);
    let sent = sent_by_client(&redis, &broker, mqtt::MQTT_VERSION_3_1_1, 3);
    assert_eq!(sent, ["c-1", "c-2", "c-3"]);
}

#[test]
fn entry_of_another_origin_can_be_deleted() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1"]);
    put(&redis, &format!("{NAME}:quarantine"), "a note", b"x");
    let listed = names(&redis, &["quarantine", "list", CLIENT]);
    assert_eq!(listed, ["a note"]);
    let back = run(&redis, &["quarantine", "put-back", CLIENT, "--all"]).expect(1);
    assert!(
        back.err.contains("a note stays: its name has no key"),
        "{back:?}"
    );
    run(&redis, &["quarantine", "delete", CLIENT, "a note", "--yes"]).expect(0);
    let left: BTreeSet<String> = everything(&redis).into_keys().collect();
    assert_eq!(left, BTreeSet::from([NAME.to_owned()]));
}

#[test]
fn killed_publish_again_loses_and_doubles_nothing() {
    const MESSAGES: usize = 5_000;
    let redis = RedisServer::start();
    let hash = format!("{NAME}:discarded");
    let mut pipe = redis::pipe();
    for number in 1..=MESSAGES {
        let key = format!("c5-{number}");
        let value = record(&key, key.as_bytes());
        let name = format!(
            "1700000000000:buffer_full:{}:{key}:{number:016x}",
            value.len()
        );
        pipe.hset(&hash, name, value).ignore();
    }
    pipe.exec(&mut redis.connection()).expect("HSET");
    let again = ["discarded", "publish-again", CLIENT, "--all"];
    let mut connection = redis.connection();
    let mut count = || -> usize { connection.hlen(&hash).expect("HLEN") };
    let cut = (0..20).any(|_| {
        let before = count();
        let was_killed = before > 0 && kill_while(&redis, &again, || count() < before);
        // Each is in exactly one of the two places.
        assert_eq!(keys(&redis, NAME).len() + count(), MESSAGES);
        was_killed && count() > 0
    });
    assert!(cut, "none was killed in the middle");
    run_after_kill(&redis, &again);
    let shown = objects(&redis, &["show", CLIENT, "--payload"]);
    let payloads: BTreeSet<&str> = shown
        .iter()
        .filter_map(|row| row["payload"].as_str())
        .collect();
    let ids: BTreeSet<u64> = shown
        .iter()
        .filter_map(|row| row["packet_id"].as_u64())
        .collect();
    assert_eq!(
        (shown.len(), payloads.len(), ids.len()),
        (MESSAGES, MESSAGES, MESSAGES)
    );
}
