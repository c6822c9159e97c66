//! `drain` sends what waits, in order, and loses nothing, whatever ends it.

use std::{
    collections::BTreeMap,
    mem,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::RedisPersistence;
use serde_json::json;
use testkit::{
    LIMIT, Mosquitto, RedisServer, Subscriber,
    broker::{Broker, Direction, Kind},
    eventually, publish_command, record,
};

use crate::{
    stored::{CLIENT, NAME, everything, fill, keys, put, records, store},
    tool::{Run, command, objects, run},
};

fn drain(redis: &RedisServer, broker: &str, arguments: &[&str]) -> Run {
    run(
        redis,
        &[&["drain", CLIENT, "--to", broker], arguments].concat(),
    )
}

/// A drain that is waited for by [`ended`].
fn start(redis: &RedisServer, broker: &str, arguments: &[&str]) -> Child {
    command(&[&["drain", CLIENT, "--to", broker], arguments].concat())
        .env("MQTT_BACKLOG_URL", redis.url())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("runs")
}

#[track_caller]
fn ended(child: Child, code: i32) -> String {
    let output = child.wait_with_output().expect("ends");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// Stores waiting messages at QoS 1 and 2 with their numbers as payloads.
fn store_waiting(redis: &RedisServer, count: i32) {
    let mut pipe = redis::pipe();
    for number in 1..=count {
        let qos = 1 + number % 2;
        let command = publish_command(number, qos, "t", number.to_string().as_bytes());
        pipe.hset(NAME, format!("c-{number}"), command).ignore();
    }
    pipe.exec(&mut redis.connection()).expect("HSET");
}

/// Payloads that the broker has accepted, in order.
fn accepted(broker: &Broker) -> Vec<String> {
    let accepted = broker.accepted().into_iter();
    accepted
        .map(|message| String::from_utf8(message.payload).expect("text"))
        .collect()
}

/// Returns true if each message came first after all that waited before it.
fn is_in_order(accepted: &[String]) -> bool {
    let mut last = 0;
    accepted.iter().all(|payload| {
        let number: i32 = payload.parse().expect("a number");
        let is_next = number <= last + 1;
        last = last.max(number);
        is_next
    })
}

/// Number of times that the broker has accepted each payload.
fn times(broker: &Broker) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for payload in accepted(broker) {
        *times.entry(payload).or_default() += 1;
    }
    times
}

/// A device that accepted messages of each QoS without a connection, and died.
fn dead_device(redis: &RedisServer, version: u32) {
    let persistence = RedisPersistence::builder().url(redis.url()).build();
    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri("mqtt://broker:1883")
        .client_id(CLIENT)
        .mqtt_version(version)
        .max_buffered_messages(1_000)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .persist_qos0(true)
        .user_persistence(persistence.expect("a valid URL"))
        .create_client()
        .expect("a client");
    for number in 0..100 {
        let mut message = mqtt::MessageBuilder::new()
            .topic("readings")
            .payload(number.to_string())
            .qos(number % 3)
            .retained(number == 99);
        if version == mqtt::MQTT_VERSION_5 {
            let mut properties = mqtt::Properties::new();
            let code = mqtt::PropertyCode::MessageExpiryInterval;
            properties.push_u32(code, 3600).expect("pushed");
            let code = mqtt::PropertyCode::UserProperty;
            properties
                .push_string_pair(code, "key", "value")
                .expect("pushed");
            message = message.properties(properties);
        }
        client.try_publish(message.finalize()).expect("accepted");
    }
    // Paho's tidy end of a client of MQTT 5 would remove nothing that waits.
    drop(client);
}

fn dead_device_is_drained(version: u32) {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    dead_device(&redis, version);
    assert_eq!(keys(&redis, NAME).len(), 100);
    let subscriber = Subscriber::start(&broker.url(), "readings", 2);
    let drained = drain(&redis, &broker.url(), &[]).expect(0);
    assert_eq!(drained.out, "sent 100 messages\n");
    let messages = subscriber.wait_for(100, LIMIT).into_iter();
    let numbers = messages.map(|(_, payload)| String::from_utf8(payload).expect("text"));
    let numbers: Vec<i32> = numbers
        .map(|text| text.parse().expect("a number"))
        .collect();
    // Mosquitto passes a message at QoS 2 on when it is released, so the order is that of each QoS.
    for qos in 0..3 {
        let of_qos = numbers.iter().copied().filter(|number| number % 3 == qos);
        assert!(
            of_qos.eq((0..100).filter(|number| number % 3 == qos)),
            "{qos} {numbers:?}"
        );
    }
    assert!(everything(&redis).is_empty());
    // Once: nothing came after the last one either.
    let late = Subscriber::start(&broker.url(), "readings", 2);
    assert_eq!(late.wait_for(1, LIMIT)[0].1, b"99", "the retained one");
    assert_eq!(subscriber.messages().len(), 100);
}

#[test]
fn dead_device_of_mqtt_3_is_drained_in_order() {
    dead_device_is_drained(mqtt::MQTT_VERSION_3_1_1);
}

#[test]
fn dead_device_of_mqtt_5_is_drained_in_order() {
    dead_device_is_drained(mqtt::MQTT_VERSION_5);
}

#[test]
fn messages_in_flight_are_sent_on_request() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store(
        &redis,
        NAME,
        &["s-7", "s-8", "sc-8", "sc-9", "r-3", "q-4", "c-1"],
    );
    let drained = drain(&redis, &broker.url(), &[]).expect(0);
    let expected = "sent 1 message; left 3 in flight, 2 for the application\n";
    assert_eq!(drained.out, expected);
    assert_eq!(accepted(&broker), ["c-1"]);
    let [counts] = &objects(
        &redis,
        &["drain", CLIENT, "--to", &broker.url(), "--in-flight"],
    )[..] else {
        panic!("one object");
    };
    assert_eq!(counts["sent"], json!(2));
    assert_eq!(accepted(&broker), ["c-1", "s-7", "s-8"]);
    assert_eq!(keys(&redis, NAME), ["q-4", "r-3", "sc-9"]);
    assert!(broker.faults().is_empty(), "{:?}", broker.faults());
    // Under a client id of its own.
    assert!(
        broker
            .accepted()
            .iter()
            .all(|message| message.client == "device-backlog")
    );
}

#[test]
fn what_cannot_be_sent_stays_and_is_named() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    let mut expired = publish_command(3, 1, "t", b"x");
    expired.extend(b"\x05\x02\x65\x53\xf1\x00");
    put(&redis, NAME, "c5-1", &expired);
    put(&redis, NAME, "c-2", b"damaged");
    put(&redis, NAME, "c-3", &testkit::subscribe_command(4, "a/#"));
    store(&redis, NAME, &["c-4"]);
    let drained = drain(&redis, &broker.url(), &[]).expect(1);
    assert_eq!(
        drained.out,
        "sent 1 message; left 1 of subscriptions, 2 that could not be sent\n"
    );
    for line in [
        "c5-1 stays: its expiry has passed",
        "c-2 stays: Paho could not read it",
    ] {
        assert!(drained.err.contains(line), "{drained:?}");
    }
    assert_eq!(accepted(&broker), ["c-4"]);
    assert_eq!(keys(&redis, NAME), ["c-2", "c-3", "c5-1"]);
}

#[test]
fn message_that_broker_refuses_stays() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store(&redis, NAME, &["c5-1", "c5-2"]);
    // Not authorized.
    broker.answer_with(Kind::Puback, 0x87);
    let drained = drain(&redis, &broker.url(), &[]).expect(1);
    assert!(drained.err.contains("c5-1 stays: refused"), "{drained:?}");
    assert_eq!(keys(&redis, NAME), ["c5-1", "c5-2"]);
}

#[test]
fn only_selected_messages_are_sent() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store_waiting(&redis, 9);
    drain(&redis, &broker.url(), &["--number", "3-5"]).expect(0);
    drain(&redis, &broker.url(), &["--limit", "2"]).expect(0);
    drain(&redis, &broker.url(), &["--topic", "other"]).expect(0);
    assert_eq!(accepted(&broker), ["3", "4", "5", "1", "2"]);
    assert_eq!(keys(&redis, NAME), ["c-6", "c-7", "c-8", "c-9"]);
}

#[test]
fn rate_is_not_exceeded() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store_waiting(&redis, 6);
    let started = Instant::now();
    drain(&redis, &broker.url(), &["--rate", "10"]).expect(0);
    assert!(started.elapsed() >= Duration::from_millis(500));
    assert_eq!(accepted(&broker).len(), 6);
}

#[test]
fn wrong_options_are_refused() {
    let redis = RedisServer::start();
    store_waiting(&redis, 1);
    for arguments in [
        &["--client-id", CLIENT][..],
        &["--rate", "0"],
        &["--window", "0"],
        &["--mqtt-version", "4"],
        &["--user-password-file", "/nowhere"],
        &["--user", "u", "--user-password-file", "/nowhere"],
    ] {
        drain(&redis, "mqtt://127.0.0.1:1", arguments).expect(2);
    }
    let secret = drain(&redis, "mqtt://user:secret@127.0.0.1:1", &[]).expect(2);
    assert!(!secret.err.contains("secret"), "{secret:?}");
    // The program of the tests has no OpenSSL.
    for uri in ["mqtts://127.0.0.1:1", "wss://127.0.0.1:1"] {
        let tls = drain(&redis, uri, &[]).expect(2);
        assert!(tls.err.contains("--features cli,mqtt-tls"), "{tls:?}");
    }
    // Schemes that Paho does not know.
    for uri in ["http://127.0.0.1:1", "MQTTS://127.0.0.1:1"] {
        let unknown = drain(&redis, uri, &[]).expect(2);
        assert!(
            unknown.err.contains("write mqtt://HOST:PORT"),
            "{unknown:?}"
        );
    }
    assert_eq!(keys(&redis, NAME), ["c-1"]);
}

#[test]
fn broker_that_cannot_be_reached_is_a_clear_line() {
    let redis = RedisServer::start();
    store_waiting(&redis, 1);
    let before = everything(&redis);
    let refused = drain(&redis, "mqtt://127.0.0.1:1", &[]).expect(3);
    assert!(
        refused
            .err
            .contains("cannot connect to the broker mqtt://127.0.0.1:1"),
        "{refused:?}"
    );
    let broker = Broker::start();
    broker.refuse(1);
    drain(&redis, &broker.url(), &[]).expect(3);
    assert_eq!(everything(&redis), before);
    // Without a message for it, the broker is not needed.
    drain(&redis, "mqtt://127.0.0.1:1", &["--number", "9"]).expect(0);
}

#[test]
fn connection_that_breaks_is_made_again() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store_waiting(&redis, 200);
    broker.drop_at(Kind::Publish, 50);
    let drained = drain(&redis, &broker.url(), &["--window", "10"]).expect(0);
    assert!(
        drained.err.contains("broke; connecting again"),
        "{drained:?}"
    );
    assert!(is_in_order(&accepted(&broker)));
    let times = times(&broker);
    assert_eq!(times.len(), 200);
    let doubled = times.values().filter(|times| **times > 1).count();
    assert!(doubled <= 10, "{doubled} arrived twice");
    assert!(times.values().all(|times| *times <= 2));
    assert!(keys(&redis, NAME).is_empty());
}

/// A broker that ends each of the first connections in the middle of a burst of messages.
fn restless_broker(breaks: usize) -> Broker {
    let broker = Broker::start();
    for number in 1..=breaks {
        broker.drop_at(Kind::Publish, 20 * number);
    }
    broker
}

#[test]
fn drain_survives_writes_that_break_off() {
    // Which write breaks off is up to the scheduler, so there are many.
    let drains = ["3.1.1", "5"].into_iter().cycle().take(6).map(|version| {
        thread::spawn(move || {
            let (redis, broker) = (RedisServer::start(), restless_broker(6));
            store_waiting(&redis, 200);
            let arguments = ["--window", "100", "--mqtt-version", version];
            let drained = drain(&redis, &broker.url(), &arguments).expect(0);
            assert_eq!(drained.err.matches("broke; connecting again").count(), 6);
            assert!(is_in_order(&accepted(&broker)));
            assert_eq!(times(&broker).len(), 200);
            assert!(keys(&redis, NAME).is_empty());
        })
    });
    let drains: Vec<_> = drains.collect();
    for drain in drains {
        drain.join().expect("no drain is aborted");
    }
}

#[test]
fn packet_id_of_lost_session_swallows_nothing() {
    for version in ["3.1.1", "5"] {
        let (redis, broker) = (RedisServer::start(), Broker::start());
        store_waiting(&redis, 10);
        broker.withhold(Kind::Pubrec);
        let arguments = ["--mqtt-version", version];
        // The broker keeps the packet ids of five messages at QoS 2: of a connection that breaks, and of a
        // drain that is killed. Those at QoS 1 are gone, so the next connection numbers the others anew.
        let mut child = start(&redis, &broker.url(), &arguments);
        for connection in 1..=2 {
            broker.wait_for(Direction::Withheld, Kind::Pubrec, 5 * connection);
            eventually(LIMIT, "those at QoS 1 are removed", || {
                (keys(&redis, NAME).len() == 5).then_some(())
            });
            broker.drop_connections();
        }
        broker.wait_for(Direction::Withheld, Kind::Pubrec, 15);
        child.kill().expect("is killed");
        child.wait().expect("has ended");
        broker.release(Kind::Pubrec);
        store_waiting(&redis, 10);
        drain(&redis, &broker.url(), &arguments).expect(0);
        let times = times(&broker);
        assert_eq!(times.len(), 10);
        for (payload, times) in times {
            let is_qos_2 = payload.parse::<i32>().expect("a number") % 2 == 1;
            assert_eq!(times, if is_qos_2 { 4 } else { 2 }, "{version} {payload}");
        }
        assert!(broker.faults().is_empty(), "{:?}", broker.faults());
    }
}

#[test]
fn broker_keeps_no_session_of_drain() {
    for version in [mqtt::MQTT_VERSION_3_1_1, mqtt::MQTT_VERSION_5] {
        let (redis, broker) = (RedisServer::start(), Mosquitto::start());
        store_waiting(&redis, 10);
        let name = if version == mqtt::MQTT_VERSION_5 {
            "5"
        } else {
            "3.1.1"
        };
        drain(&redis, &broker.url(), &["--mqtt-version", name]).expect(0);
        let client = mqtt::CreateOptionsBuilder::new()
            .server_uri(broker.url())
            .client_id(format!("{CLIENT}-backlog"))
            .persistence(mqtt::PersistenceType::None)
            .create_client()
            .expect("a client");
        let mut options = mqtt::ConnectOptionsBuilder::with_mqtt_version(mqtt::MQTT_VERSION_3_1_1);
        options.clean_session(false);
        let connected = client.connect(options.finalize()).wait_for(LIMIT);
        // Its own callback may drop it last, and would hang.
        mem::forget(client);
        let response = connected.expect("connects").connect_response();
        assert!(!response.expect("a CONNACK").session_present, "{name}");
    }
}

/// Asserts that each message from 1 to this number has been sent, or still waits.
fn assert_none_is_lost(redis: &RedisServer, broker: &Broker, messages: usize) {
    let left = records(redis, NAME);
    let times = times(broker);
    for number in 1..=messages {
        let is_left = left.contains_key(&format!("c-{number}"));
        assert!(
            is_left || times.contains_key(&number.to_string()),
            "{number} is lost"
        );
    }
}

#[test]
fn broker_that_stays_away_ends_drain() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store_waiting(&redis, 100);
    broker.refuse(usize::MAX);
    broker.drop_at(Kind::Publish, 50);
    // The first CONNECT is answered.
    broker.refuse(0);
    let child = start(&redis, &broker.url(), &["--give-up", "2", "--rate", "200"]);
    broker.wait_for(Direction::FromClient, Kind::Publish, 1);
    broker.refuse(usize::MAX);
    let text = ended(child, 3);
    assert!(text.contains("cannot connect to the broker"), "{text}");
    assert_none_is_lost(&redis, &broker, 100);
    assert!(!keys(&redis, NAME).is_empty());
}

#[test]
fn broker_that_acknowledges_nothing_ends_drain() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store_waiting(&redis, 30);
    broker.withhold(Kind::Puback);
    broker.withhold(Kind::Pubrec);
    let stuck = drain(&redis, &broker.url(), &["--give-up", "1"]).expect(3);
    assert!(
        stuck.err.contains("it has acknowledged nothing for 1 s"),
        "{stuck:?}"
    );
    assert!(stuck.err.contains("c-1"), "{stuck:?}");
    assert_eq!(keys(&redis, NAME).len(), 30);
}

#[test]
fn killed_drain_loses_nothing() {
    const WINDOW: usize = 10;
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store_waiting(&redis, 400);
    let window = WINDOW.to_string();
    let arguments = ["--window", window.as_str(), "--rate", "1000"];
    let mut kills = 0;
    for stop in [40, 90, 150, 230, 310] {
        let mut child = start(&redis, &broker.url(), &arguments);
        broker.wait_for(Direction::FromClient, Kind::Publish, stop);
        child.kill().expect("is killed");
        child.wait().expect("has ended");
        kills += 1;
        assert_none_is_lost(&redis, &broker, 400);
        // The next one owns the records as soon as Redis has noticed.
    }
    drain(&redis, &broker.url(), &arguments).expect(0);
    let times = times(&broker);
    assert_eq!(times.len(), 400);
    let extra: usize = times.values().map(|times| times - 1).sum();
    assert!(
        extra <= kills * WINDOW,
        "{extra} more than once after {kills} kills"
    );
    assert!(keys(&redis, NAME).is_empty());
}

#[test]
fn redis_that_stops_ends_drain() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store_waiting(&redis, 200);
    let child = start(
        &redis,
        &broker.url(),
        &["--timeout", "0.5", "--rate", "100"],
    );
    broker.wait_for(Direction::FromClient, Kind::Publish, 20);
    redis.pause();
    let text = ended(child, 3);
    redis.resume();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_none_is_lost(&redis, &broker, 200);
    assert!(!keys(&redis, NAME).is_empty());
}

#[test]
fn full_redis_is_drained() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    store(&redis, NAME, &["c-1", "c5-2"]);
    fill(&redis);
    drain(&redis, &broker.url(), &[]).expect(0);
    assert!(keys(&redis, NAME).is_empty());
    assert_eq!(accepted(&broker), ["c-1", "c5-2"]);
}

#[test]
fn draining_program_owns_the_records() {
    let (redis, broker) = (RedisServer::start(), Broker::start());
    put(&redis, NAME, "c-1", &record("c-1", b"x"));
    broker.withhold(Kind::Puback);
    let child = start(&redis, &broker.url(), &[]);
    broker.wait_for(Direction::FromClient, Kind::Publish, 1);
    run(&redis, &["purge", CLIENT, "--all", "--yes"]).expect(4);
    broker.release(Kind::Puback);
    // What was withheld is due when the client connects again.
    broker.drop_connections();
    ended(child, 0);
    eventually(LIMIT, "the message is removed", || {
        keys(&redis, NAME).is_empty().then_some(())
    });
}
