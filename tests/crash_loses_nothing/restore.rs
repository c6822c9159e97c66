//! Waiting messages are restored completely and in order, whatever happens while they are read.

use std::time::Duration;

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::RedisPersistence;
use redis::Commands;
use testkit::{
    LIMIT, Mosquitto, RedisServer, Subscriber, eventually, harness::connect_options,
    intercepted::Intercepted, log::Log, publish_command, record,
};

const TOPIC: &str = "readings";

fn hash(broker: &Mosquitto) -> String {
    format!("device:127.0.0.1:{}", broker.port())
}

fn persistence(redis: &RedisServer) -> RedisPersistence {
    let options = RedisPersistence::builder().url(redis.url());
    options.build().expect("a valid URL")
}

fn client(
    redis: &RedisServer,
    broker: &Mosquitto,
    version: u32,
) -> mqtt::Result<mqtt::AsyncClient> {
    mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .client_id("device")
        .mqtt_version(version)
        .max_buffered_messages(100_000)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .user_persistence(persistence(redis))
        .create_client()
}

/// Gives the broker a session of the client, without which Paho deletes what is in flight.
fn create_session(broker: &Mosquitto, version: u32) {
    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .client_id("device")
        .mqtt_version(version)
        .persistence(None)
        .create_client()
        .expect("is created");
    let connected = client.connect(connect_options(version, LIMIT));
    connected.wait_for(LIMIT).expect("connects");
    client
        .disconnect(None)
        .wait_for(LIMIT)
        .expect("disconnects");
}

fn connect(client: &mqtt::AsyncClient) {
    let options = mqtt::ConnectOptionsBuilder::with_mqtt_version(mqtt::MQTT_VERSION_3_1_1)
        .clean_session(false)
        .finalize();
    client.connect(options).wait_for(LIMIT).expect("connects");
}

/// Waits for `count` messages and returns the numbers in their payloads.
fn arrived(subscriber: &Subscriber, count: usize, limit: Duration) -> Vec<usize> {
    let messages = eventually(limit, "all messages arrive", || {
        let messages = subscriber.messages();
        (messages.len() >= count).then_some(messages)
    });
    let number = |payload: &[u8]| String::from_utf8_lossy(payload).parse().expect("a number");
    messages
        .iter()
        .map(|(_, payload)| number(payload))
        .collect()
}

/// Writes a record as Paho would.
fn store(connection: &mut redis::Connection, broker: &Mosquitto, key: &str, payload: &[u8]) {
    let _: () = connection
        .hset(hash(broker), key, record(key, payload))
        .expect("HSET");
}

/// Fills the hash with commands as Paho writes them, numbered from `first`.
fn fill(redis: &RedisServer, hash: &str, first: usize, count: usize, qos: i32) {
    let mut connection = redis.connection();
    for batch in (0..count).collect::<Vec<_>>().chunks(1_000) {
        let mut pipeline = redis::pipe();
        for message in batch {
            let key = format!("c-{}", (first + message) % 1_000_000);
            let id = i32::try_from(message % 65_535 + 1).expect("a packet id");
            let value = publish_command(id, qos, TOPIC, message.to_string().as_bytes());
            pipeline.hset(hash, key, value).ignore();
        }
        pipeline.exec(&mut connection).expect("filled");
    }
}

#[test]
fn many_messages_keep_order_over_wrap() {
    const COUNT: usize = 20_000;
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 0);
    fill(&redis, &hash(&broker), 990_000, COUNT, 0);
    let client = client(&redis, &broker, mqtt::MQTT_VERSION_3_1_1).expect("created");
    connect(&client);
    let numbers = arrived(&subscriber, COUNT, Duration::from_secs(120));
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
    eventually(LIMIT, "all records are removed", || {
        let remaining: usize = redis.connection().hlen(hash(&broker)).expect("HLEN");
        (remaining == 0).then_some(())
    });
}

#[test]
fn publish_after_wrap_takes_no_number_in_use() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 0);
    fill(&redis, &hash(&broker), 999_998, 4, 1);
    let client = client(&redis, &broker, mqtt::MQTT_VERSION_3_1_1).expect("created");
    for message in 4..8 {
        client
            .try_publish(mqtt::Message::new(TOPIC, message.to_string(), mqtt::QOS_1))
            .expect("accepted");
    }
    let waiting: usize = redis.connection().hlen(hash(&broker)).expect("HLEN");
    assert_eq!(waiting, 8);
    connect(&client);
    assert_eq!(arrived(&subscriber, 8, LIMIT), (0..8).collect::<Vec<_>>());
}

/// With MQTT 5 and no session expiry, Paho deletes the records in flight when such a client is dropped.
#[test]
fn created_and_dropped_client_loses_nothing() {
    for version in [mqtt::MQTT_VERSION_3_1_1, mqtt::MQTT_VERSION_5] {
        let (redis, broker) = (RedisServer::start(), Mosquitto::start());
        let keys = if version == mqtt::MQTT_VERSION_5 {
            ["c5-1", "s5-2", "s5-3", "sc5-3", "r5-4"]
        } else {
            ["c-1", "s-2", "s-3", "sc-3", "r-4"]
        };
        let mut connection = redis.connection();
        for key in keys {
            store(&mut connection, &broker, key, b"x");
        }
        for _ in 0..3 {
            drop(client(&redis, &broker, version).expect("created"));
        }
        let remaining: usize = connection.hlen(hash(&broker)).expect("HLEN");
        assert_eq!(remaining, keys.len(), "{version}");
    }
}

/// After a change of the MQTT version a client sends what the other version has left, once and unchanged.
#[test]
fn client_of_other_version_sends_what_waits() {
    let versions = [
        (mqtt::MQTT_VERSION_5, ["c-3", "s-1", "s-2", "sc-2"]),
        (mqtt::MQTT_VERSION_3_1_1, ["c5-3", "s5-1", "s5-2", "sc5-2"]),
    ];
    for (version, keys) in versions {
        let (redis, broker) = (RedisServer::start(), Mosquitto::start());
        let subscriber = Subscriber::start(&broker.url(), "#", 2);
        create_session(&broker, version);
        let mut connection = redis.connection();
        for key in keys {
            store(&mut connection, &broker, key, key.as_bytes());
        }
        let client = mqtt::CreateOptionsBuilder::new()
            .server_uri(broker.url())
            .client_id("device")
            .mqtt_version(version)
            .user_persistence(persistence(&redis).mqtt_version(version))
            .create_client()
            .expect("is created");
        let options = connect_options(version, LIMIT);
        client.connect(options).wait_for(LIMIT).expect("connects");
        eventually(LIMIT, "all records are removed", || {
            let remaining: usize = redis.connection().hlen(hash(&broker)).expect("HLEN");
            (remaining == 0).then_some(())
        });
        let messages = eventually(LIMIT, "both arrive", || {
            let messages = subscriber.messages();
            (messages.len() >= 2).then_some(messages)
        });
        let mut payloads: Vec<_> = messages.into_iter().map(|(_, payload)| payload).collect();
        payloads.sort();
        assert_eq!(payloads, [keys[0].as_bytes(), keys[1].as_bytes()]);
    }
}

/// Returns a persistence whose `get` or `keys` fails once, after this many of these calls.
fn failing_after(calls_before: usize, inner: RedisPersistence) -> impl ClientPersistence + Send {
    let mut calls = 0;
    Intercepted::new(inner, move |call| {
        if ["get", "keys"].contains(&call) {
            calls += 1;
            if calls == calls_before + 1 {
                return Err(mqtt::Error::PersistenceError);
            }
        }
        Ok(())
    })
}

/// With the defaults of MQTT 5, Paho deletes the records read so far when it cannot read the rest, and gives new messages the
/// numbers of unread ones.
#[test]
fn error_at_any_call_of_restore_loses_nothing() {
    // Each message has a packet id of its own.
    let keys = ["c5-7", "c5-8", "s5-2", "s5-3", "sc5-3", "r5-4", "q5-1"];
    // Three lists, and each record once; a later call never comes.
    let calls = 3 + keys.len();
    for calls_before in 0..=calls {
        let (redis, broker) = (RedisServer::start(), Mosquitto::start());
        let mut connection = redis.connection();
        for key in keys {
            store(&mut connection, &broker, key, b"x");
        }
        let created = mqtt::CreateOptionsBuilder::new()
            .server_uri(broker.url())
            .client_id("device")
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true)
            .user_persistence(failing_after(calls_before, persistence(&redis)))
            .create_client();
        let mut published = 0;
        if let Ok(client) = &created {
            for _ in 0..3 {
                client
                    .try_publish(mqtt::Message::new(TOPIC, "new", mqtt::QOS_1))
                    .expect("accepted");
                published += 1;
            }
        }
        assert!(created.is_ok() || calls_before < calls);
        drop(created);
        let values: Vec<Vec<u8>> = connection.hvals(hash(&broker)).expect("HVALS");
        assert_eq!(values.len(), keys.len() + published, "{calls_before}");
        for key in keys {
            assert!(values.contains(&record(key, b"x")), "{calls_before}: {key}");
        }
    }
}

/// A client created for 3.1.1 is not created over a record of MQTT 5.
#[test]
fn client_of_wrong_version_loses_nothing() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let mut connection = redis.connection();
    for key in ["s-9", "s5-5", "s-2", "c-1"] {
        store(&mut connection, &broker, key, b"x");
    }
    client(&redis, &broker, mqtt::MQTT_VERSION_3_1_1)
        .map(drop)
        .expect_err("refused");
    let remaining: usize = connection.hlen(hash(&broker)).expect("HLEN");
    assert_eq!(remaining, 4);
}

#[test]
fn log_names_unreadable_record_and_wrong_version() {
    for (key, damaged, created_for, connected_as) in [
        ("s-2", "c-7", mqtt::MQTT_VERSION_5, "3.1.1"),
        ("s5-2", "c5-7", mqtt::MQTT_VERSION_3_1_1, "5"),
        ("r5-2", "c5-7", mqtt::MQTT_VERSION_3_1_1, "5"),
    ] {
        let (redis, broker) = (RedisServer::start(), Mosquitto::start());
        let mut connection = redis.connection();
        store(&mut connection, &broker, key, b"x");
        let _: () = connection
            .hset(hash(&broker), damaged, "damaged")
            .expect("HSET");
        let log = Log::default();
        log.during(|| drop(client(&redis, &broker, created_for)));
        let text = log.text();
        let warnings: Vec<&str> = text.lines().filter(|line| line.contains("WARN")).collect();
        let [unreadable, version] = warnings[..] else {
            panic!("{text}");
        };
        assert!(
            unreadable.contains("moved to the quarantine hash") && unreadable.contains(damaged),
            "{text}"
        );
        assert!(
            version.contains(&format!("records of MQTT {connected_as}")),
            "{text}"
        );
        assert!(
            version.contains("CreateOptionsBuilder::mqtt_version"),
            "{text}"
        );
        for line in warnings {
            assert!(line.contains(r#"messaging.client.id="device""#), "{text}");
        }
        let quarantined: Vec<String> = connection
            .hkeys(format!("{}:quarantine", hash(&broker)))
            .expect("HKEYS");
        assert_eq!(quarantined.len(), 1, "{quarantined:?}");
        let key = quarantined[0].split(':').nth(3);
        assert_eq!(key, Some(damaged), "{quarantined:?}");
    }
}

#[test]
fn duplicate_publish_across_versions_is_restored_once() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let mut connection = redis.connection();
    for (key, payload) in [("s-1", b"x"), ("s5-1", b"x"), ("s-2", b"x"), ("s5-2", b"y")] {
        store(&mut connection, &broker, key, payload);
    }
    drop(client(&redis, &broker, mqtt::MQTT_VERSION_5).expect("created"));
    let mut remaining: Vec<String> = connection.hkeys(hash(&broker)).expect("HKEYS");
    remaining.sort_unstable();
    // Two different messages stay, however Paho treats them.
    assert_eq!(remaining, ["s-2", "s5-1", "s5-2"]);
}

#[test]
fn backlog_of_large_messages_is_read_within_timeout() {
    const COUNT: usize = 80;
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let mut connection = redis.connection();
    let payload = vec![b'x'; 4 * 1024 * 1024];
    for number in 1..=COUNT {
        let id = i32::try_from(number).expect("small");
        let value = publish_command(id, 1, TOPIC, &payload);
        let _: () = connection
            .hset(hash(&broker), format!("c-{number}"), value)
            .expect("HSET");
    }
    let created = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .client_id("device")
        .mqtt_version(mqtt::MQTT_VERSION_3_1_1)
        .user_persistence(persistence(&redis))
        .create_client();
    drop(created.expect("created"));
    let remaining: usize = connection.hlen(hash(&broker)).expect("HLEN");
    assert_eq!(remaining, COUNT);
}

#[test]
fn full_redis_with_wrapped_numbers_opens_unchanged() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    fill(&redis, &hash(&broker), 999_998, 4, 1);
    let mut connection = redis.connection();
    let _: () = connection
        .hset(hash(&broker), "s-7", "damaged")
        .expect("HSET");
    redis.set_maxmemory("1");
    let log = Log::default();
    log.during(|| drop(client(&redis, &broker, mqtt::MQTT_VERSION_3_1_1).expect("created")));
    assert!(log.text().contains("stay in place"), "{}", log.text());
    let remaining: usize = connection.hlen(hash(&broker)).expect("HLEN");
    assert_eq!(remaining, 5);
}
