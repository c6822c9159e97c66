//! What Paho drops is set aside in Redis, and one call publishes it again.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{
    DeadLetters, DropReason, Place, RedisPersistence, SetAsideLimits, StoreEvent, StoreObserver,
};
use redis::Commands;
use testkit::{LIMIT, Mosquitto, RedisServer, Subscriber, eventually};

const TOPIC: &str = "readings";
const COUNT: usize = 200;

/// The recipe of docs/dead-letters.md: passes the reasons of drops to a thread of the program.
struct DropWatcher(Mutex<mpsc::Sender<DropReason>>);

impl StoreObserver for DropWatcher {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if let StoreEvent::Dropped { reason, .. } = event {
            let _ = self.0.lock().unwrap().send(*reason);
        }
    }
}

fn client(persistence: RedisPersistence, broker: &str, version: u32) -> mqtt::AsyncClient {
    mqtt::CreateOptionsBuilder::new()
        .server_uri(broker)
        .client_id("device")
        .mqtt_version(version)
        .max_buffered_messages(1_000)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .user_persistence(persistence)
        .create_client()
        .expect("a client")
}

fn connect(client: &mqtt::AsyncClient, version: u32) {
    let options = if version == mqtt::MQTT_VERSION_5 {
        mqtt::ConnectOptionsBuilder::new_v5()
            .clean_start(false)
            .properties(mqtt::properties![
                mqtt::PropertyCode::SessionExpiryInterval => 3600
            ])
            .finalize()
    } else {
        mqtt::ConnectOptionsBuilder::with_mqtt_version(version)
            .clean_session(false)
            .finalize()
    };
    eventually(LIMIT, "the client connects", || {
        let connected = client.connect(options.clone()).wait_for(LIMIT);
        connected.is_ok().then_some(())
    });
}

/// Fields of the hash of the records, or of a place beside it.
fn fields(redis: &RedisServer, broker: &Mosquitto, suffix: &str) -> Vec<String> {
    let hash = format!("device:127.0.0.1:{}{suffix}", broker.port());
    redis.connection().hkeys(hash).expect("HKEYS")
}

fn message(number: usize) -> mqtt::Message {
    let qos = if number.is_multiple_of(2) { 2 } else { 1 };
    mqtt::Message::new(TOPIC, number.to_string(), qos)
}

/// Brings messages in flight to a broker that stands still, and restarts it without its session.
fn lose_session(
    client: &mqtt::AsyncClient,
    version: u32,
    redis: &RedisServer,
    broker: &mut Mosquitto,
) -> Subscriber {
    connect(client, version);
    broker.pause();
    for number in 0..COUNT {
        client.try_publish(message(number)).expect("accepted");
    }
    eventually(LIMIT, "all messages are in flight", || {
        let keys = fields(redis, broker, "");
        let in_flight = keys.iter().filter(|key| key.starts_with('s')).count();
        (in_flight == COUNT).then_some(())
    });
    broker.restart();
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 2);
    eventually(LIMIT, "the connection is lost", || {
        (!client.is_connected()).then_some(())
    });
    connect(client, version);
    subscriber
}

/// Waits until each message has arrived, and asserts that none at QoS 2 came twice. At QoS 1 they may: Paho sends the messages of all
/// clients of a process again if one of them reconnects, such as that of another test.
#[track_caller]
fn assert_arrive(subscriber: &Subscriber) {
    let messages = eventually(LIMIT, "each message arrives", || {
        let messages = subscriber.messages();
        let numbers: BTreeSet<&Vec<u8>> = messages.iter().map(|(_, payload)| payload).collect();
        (numbers.len() == COUNT).then_some(messages)
    });
    let numbers = messages.iter().map(|(_, payload)| {
        let number = str::from_utf8(payload).expect("text");
        number.parse::<usize>().expect("a number")
    });
    let at_qos_2: Vec<usize> = numbers.filter(|number| number.is_multiple_of(2)).collect();
    assert_eq!(at_qos_2.len(), COUNT / 2, "{at_qos_2:?}");
}

fn listed(dead_letters: &DeadLetters) -> Vec<String> {
    let letters = dead_letters.list().expect("lists");
    let payload = |letter: &paho_mqtt_redis::DeadLetter| {
        let message = letter.to_message().expect("a message");
        message.payload_str().into_owned()
    };
    letters.iter().map(payload).collect()
}

fn lost_session_is_published_again(version: u32) {
    let (redis, mut broker) = (RedisServer::start(), Mosquitto::start());
    let persistence = RedisPersistence::builder().url(redis.url());
    let persistence = persistence.build().expect("a valid URL");
    let (dead_letters, health) = (persistence.dead_letters(), persistence.health());
    let client = client(persistence, &broker.url(), version);
    let subscriber = lose_session(&client, version, &redis, &mut broker);

    let numbers: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    assert_eq!(listed(&dead_letters), numbers);
    assert_eq!(fields(&redis, &broker, ":discarded").len(), COUNT);
    assert_eq!(health.snapshot().discarded_records, COUNT);
    assert!(subscriber.messages().is_empty());

    let again = dead_letters
        .publish_again(&client, |letter| letter.reason() == "session_lost")
        .expect("publishes");
    assert_eq!((again.published, again.skipped), (COUNT, 0));
    assert!(again.refusal.is_none());
    // Each was set aside once and sent once, so it arrives once.
    assert_arrive(&subscriber);
    assert!(listed(&dead_letters).is_empty());
    assert!(fields(&redis, &broker, ":discarded").is_empty());
    assert_eq!(health.snapshot().discarded_records, 0);
}

#[test]
fn lost_session_of_mqtt_3_is_published_again() {
    lost_session_is_published_again(mqtt::MQTT_VERSION_3_1_1);
}

#[test]
fn lost_session_of_mqtt_5_is_published_again() {
    lost_session_is_published_again(mqtt::MQTT_VERSION_5);
}

#[test]
fn program_publishes_again_when_observer_reports_drop() {
    let version = mqtt::MQTT_VERSION_5;
    let (redis, mut broker) = (RedisServer::start(), Mosquitto::start());
    let (dropped, drops) = mpsc::channel();
    let persistence = RedisPersistence::builder()
        .url(redis.url())
        .observer(Arc::new(DropWatcher(Mutex::new(dropped))))
        .build()
        .expect("a valid URL");
    let dead_letters = persistence.dead_letters();
    let client = client(persistence, &broker.url(), version);
    let program = client.clone();
    let thread = std::thread::spawn(move || {
        let mut published = 0;
        while published < COUNT {
            let reason = drops.recv_timeout(LIMIT).expect("a drop");
            let again = dead_letters
                .publish_again(&program, |letter| letter.reason() == reason.as_str())
                .expect("publishes");
            published += again.published;
        }
    });
    let subscriber = lose_session(&client, version, &redis, &mut broker);
    assert_arrive(&subscriber);
    thread.join().expect("all are published again");
}

#[test]
fn dead_letters_outlive_program_and_have_limits() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let persistence = || {
        let limits = SetAsideLimits::default().records(50);
        RedisPersistence::builder()
            .url(redis.url())
            .dead_letter_limits(limits)
            .build()
            .expect("a valid URL")
    };
    let version = mqtt::MQTT_VERSION_3_1_1;
    let options = |persistence| {
        mqtt::CreateOptionsBuilder::new()
            .server_uri(broker.url())
            .client_id("device")
            .mqtt_version(version)
            .max_buffered_messages(10)
            .delete_oldest_messages(true)
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true)
            .user_persistence(persistence)
            .create_client()
            .expect("a client")
    };
    let client = options(persistence());
    for number in 0..100 {
        client.try_publish(message(number)).expect("accepted");
    }
    drop(client);
    assert_eq!(fields(&redis, &broker, "").len(), 10);
    let kept: Vec<String> = (40..90).map(|number| number.to_string()).collect();
    let persistence = persistence();
    let dead_letters = persistence.dead_letters();
    let client = options(persistence);
    assert_eq!(listed(&dead_letters), kept);
    let letters = dead_letters.list().expect("lists");
    assert!(
        letters.iter().all(|letter| {
            letter.place() == Place::Discarded && letter.reason() == "buffer_full"
        })
    );
    dead_letters.remove(&letters[0]).expect("removed");
    assert_eq!(listed(&dead_letters), kept[1..]);
    drop(client);
}

#[test]
fn full_redis_makes_room_for_removes() {
    let redis = RedisServer::start();
    let mut broker = Mosquitto::start();
    let persistence = RedisPersistence::builder().url(redis.url());
    let persistence = persistence.build().expect("a valid URL");
    let (dead_letters, health) = (persistence.dead_letters(), persistence.health());
    let version = mqtt::MQTT_VERSION_3_1_1;
    let client = client(persistence, &broker.url(), version);
    connect(&client, version);
    broker.pause();
    for number in 0..10 {
        client.try_publish(message(number)).expect("accepted");
    }
    eventually(LIMIT, "all messages are in flight", || {
        let keys = fields(&redis, &broker, "");
        (keys.iter().filter(|key| key.starts_with('s')).count() == 10).then_some(())
    });
    redis.set_maxmemory("1");
    broker.restart();
    eventually(LIMIT, "the connection is lost", || {
        (!client.is_connected()).then_some(())
    });
    connect(&client, version);
    eventually(LIMIT, "the dropped records are gone", || {
        fields(&redis, &broker, "").is_empty().then_some(())
    });
    redis.set_maxmemory("0");
    health
        .flush(Duration::from_secs(20))
        .expect("Redis is usable");
    assert!(listed(&dead_letters).is_empty());
}
