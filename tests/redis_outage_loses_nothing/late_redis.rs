//! A client that is created while Redis is dead publishes, and nothing of it or of an earlier run is lost or arrives twice.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{Health, RedisPersistence};
use redis::TypedCommands;
use testkit::{
    LIMIT, Mosquitto, RedisServer, Subscriber, eventually, harness::connect_options, log::Log,
};

const TOPIC: &str = "readings";
/// Held by each test: Paho skips packet ids that waiting commands of any client of the process have.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A Redis that has everything again after a kill: with `everysec` it may put writes off for two seconds.
fn durable_redis() -> RedisServer {
    RedisServer::with(&["--appendonly", "yes", "--appendfsync", "always"])
}

/// Creates a client, which may start without Redis.
fn create(
    redis: &RedisServer,
    broker: &Mosquitto,
    without_redis: bool,
) -> mqtt::Result<(mqtt::AsyncClient, Health)> {
    let persistence = RedisPersistence::builder()
        .url(redis.url())
        .open_without_redis(without_redis)
        .open_timeout(Duration::from_millis(200))
        .build()?;
    let health = persistence.health();
    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .client_id("device")
        .mqtt_version(mqtt::MQTT_VERSION_5)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .user_persistence(persistence)
        .create_client()?;
    Ok((client, health))
}

fn connect(client: &mqtt::AsyncClient) {
    let options = connect_options(mqtt::MQTT_VERSION_5, LIMIT);
    client.connect(options).wait_for(LIMIT).expect("connects");
}

fn publish(client: &mqtt::AsyncClient, run: &str, count: usize) -> Vec<mqtt::DeliveryToken> {
    let tokens = (0..count).map(|number| {
        let message = mqtt::Message::new(TOPIC, format!("{run}{number}"), mqtt::QOS_2);
        client.try_publish(message).expect("accepted")
    });
    tokens.collect()
}

fn payloads(run: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{run}{number}")).collect()
}

fn arrived(subscriber: &Subscriber, count: usize) -> Vec<String> {
    let arrived = subscriber.wait_for(count, LIMIT).into_iter();
    let text = |payload| String::from_utf8(payload).expect("text");
    arrived.map(|(_, payload)| text(payload)).collect()
}

fn keys(redis: &RedisServer, broker: &Mosquitto) -> Vec<String> {
    let hash = format!("device:127.0.0.1:{}", broker.port());
    redis.connection().hkeys(hash).expect("HKEYS")
}

fn stored(redis: &RedisServer, broker: &Mosquitto) -> usize {
    keys(redis, broker).len()
}

/// Pauses the broker, and waits until it has stopped: it answers for a moment after the signal.
fn pause(broker: &Mosquitto) {
    broker.pause();
    eventually(LIMIT, "the broker has stopped", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", broker.pid())).expect("it lives");
        stat.contains(") T ").then_some(())
    });
}

/// Waits until Redis has everything and the number of records of an earlier run is known.
fn wait_up(health: &Health) -> usize {
    eventually(LIMIT, "Redis has everything", || {
        let now = health.snapshot();
        (now.up && now.held_records == 0).then_some(now.earlier_records)
    })
}

/// Starts again, and asserts that the rest of these messages arrives, each once.
fn finish(redis: &RedisServer, broker: &Mosquitto, subscriber: &Subscriber, all: &[String]) {
    let (client, health) = create(redis, broker, true).expect("created");
    assert_eq!(health.snapshot().earlier_records, 0);
    connect(&client);
    arrived(subscriber, all.len());
    eventually(LIMIT, "all records are removed", || {
        (stored(redis, broker) == 0).then_some(())
    });
    // What arrived twice would have arrived by now.
    client
        .publish(mqtt::Message::new(TOPIC, "end", mqtt::QOS_2))
        .wait_for(LIMIT)
        .expect("sent");
    let messages = arrived(subscriber, all.len() + 1);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for message in &messages {
        *counts.entry(message).or_default() += 1;
    }
    for payload in all {
        assert_eq!(
            counts.get(payload.as_str()),
            Some(&1),
            "{payload}: {messages:?}"
        );
    }
    assert_eq!(messages.len(), all.len() + 1);
}

#[test]
fn waiting_messages_of_both_runs_arrive_once() {
    let _alone = alone();
    let (mut redis, broker) = (durable_redis(), Mosquitto::start());
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 2);
    let (old, _) = create(&redis, &broker, false).expect("created");
    publish(&old, "old", 20);
    drop(old);
    redis.kill();

    assert!(create(&redis, &broker, false).is_err());
    let log = Log::default();
    let (client, health) = log
        .during(|| create(&redis, &broker, true))
        .expect("created without Redis");
    assert!(
        log.text().contains("opened without the store"),
        "{}",
        log.text()
    );
    publish(&client, "new", 50);
    assert_eq!(health.snapshot().held_records, 50);
    redis.restart();
    assert_eq!(wait_up(&health), 20);
    assert_eq!(stored(&redis, &broker), 70);
    drop(client);

    let all = [payloads("old", 20), payloads("new", 50)].concat();
    finish(&redis, &broker, &subscriber, &all);
    assert_eq!(subscriber.messages().len(), 71);
    let order = arrived(&subscriber, 71);
    assert_eq!(order[..70], all);
}

#[test]
fn messages_sent_without_redis_arrive_once() {
    let _alone = alone();
    let (mut redis, broker) = (durable_redis(), Mosquitto::start());
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 2);
    let (old, _) = create(&redis, &broker, false).expect("created");
    publish(&old, "old", 20);
    drop(old);
    redis.kill();

    let (client, health) = create(&redis, &broker, true).expect("created without Redis");
    connect(&client);
    publish(&client, "sent", 30);
    arrived(&subscriber, 30);
    redis.restart();
    publish(&client, "later", 20);
    assert_eq!(wait_up(&health), 20);
    arrived(&subscriber, 50);
    drop(client);

    let all = [
        payloads("old", 20),
        payloads("sent", 30),
        payloads("later", 20),
    ]
    .concat();
    finish(&redis, &broker, &subscriber, &all);
}

/// Lets the broker have ten messages of an earlier run, unacknowledged, whose packet ids this run uses again.
///
/// `in_flight`: those of this run are unacknowledged too when Redis comes back.
fn reuse_packet_ids(in_flight: bool) {
    let _alone = alone();
    let (mut redis, broker) = (durable_redis(), Mosquitto::start());
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 2);
    let (old, health) = create(&redis, &broker, false).expect("created");
    connect(&old);
    pause(&broker);
    let tokens = publish(&old, "old", 10);
    health.flush(LIMIT).expect("stored");
    eventually(LIMIT, "the messages are in flight", || {
        let keys = keys(&redis, &broker);
        keys.iter().all(|key| key.starts_with("s5-")).then_some(())
    });
    drop(tokens);
    drop(old);
    redis.kill();
    broker.resume();

    let (client, health) = create(&redis, &broker, true).expect("created without Redis");
    connect(&client);
    if in_flight {
        pause(&broker);
    }
    publish(&client, "new", 30);
    if !in_flight {
        arrived(&subscriber, 30);
    }
    redis.restart();
    assert_eq!(wait_up(&health), 10);
    broker.resume();
    arrived(&subscriber, 30);
    eventually(LIMIT, "those of this run are acknowledged", || {
        let keys = keys(&redis, &broker);
        let moved = keys.iter().any(|key| key.starts_with("s5-655"));
        (keys.len() == 10 && moved == in_flight).then_some(())
    });
    let log = broker.log();
    assert!(log.contains("Reused message ID"), "{log}");
    drop(client);

    let all = [payloads("old", 10), payloads("new", 30)].concat();
    finish(&redis, &broker, &subscriber, &all);
}

#[test]
fn reused_packet_ids_lose_nothing_with_mosquitto() {
    reuse_packet_ids(false);
}

#[test]
fn packet_ids_in_flight_of_both_runs_lose_nothing() {
    reuse_packet_ids(true);
}

#[test]
fn redis_that_never_comes_back_delays_no_close() {
    let (mut redis, broker) = (durable_redis(), Mosquitto::start());
    redis.kill();
    let mut persistence = RedisPersistence::builder()
        .url(redis.url())
        .open_without_redis(true)
        .open_timeout(Duration::from_millis(200))
        .build()
        .expect("good options");
    assert!(persistence.connect("device", &broker.url()).is_err());
    persistence.open("device", "127.0.0.1:1").expect("opens");
    let value = testkit::record("c5-1", b"x");
    persistence.put("c5-1", vec![&value]).expect("held");
    assert_eq!(persistence.get("c5-1").expect("held"), value);
    let error = persistence.close().expect_err("a record is lost");
    assert!(error.to_string().contains("1 pending record"), "{error}");
}
