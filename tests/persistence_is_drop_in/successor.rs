//! Compatibility with paho-mqtt-redis 0.3.2 in both directions: a hash named `client_id:server_uri`, a field per record, plain
//! bytes.

use std::collections::HashMap;

use paho_mqtt as mqtt;
use paho_mqtt_redis::RedisPersistence;
use redis::Commands;
use testkit::{LIMIT, Mosquitto, RedisServer, Subscriber, eventually, publish_command};

const ID: &str = "device-1";

fn client(redis: &RedisServer, broker: &str) -> mqtt::AsyncClient {
    let persistence = RedisPersistence::builder()
        .url(redis.url())
        .build()
        .expect("a valid URL");
    mqtt::CreateOptionsBuilder::new()
        .server_uri(broker)
        .client_id(ID)
        .mqtt_version(mqtt::MQTT_VERSION_3_1_1)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .user_persistence(persistence)
        .create_client()
        .expect("a client")
}

fn connect(client: &mqtt::AsyncClient) {
    let options = mqtt::ConnectOptionsBuilder::new()
        .clean_session(false)
        .finalize();
    client.connect(options).wait_for(LIMIT).expect("connects");
}

fn hash(broker: &Mosquitto) -> String {
    format!("{ID}:127.0.0.1:{}", broker.port())
}

#[test]
fn hash_of_0_3_2_is_restored_beside_foreign_fields() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let subscriber = Subscriber::start(&broker.url(), "old/#", 1);
    let mut raw = redis.connection();
    let hash = hash(&broker);
    let record = publish_command(1, 1, "old/topic", b"left by 0.3.2");
    let _: () = raw.hset(&hash, "c-1", record).expect("HSET");
    // Each of these would crash Paho, or be deleted by Paho.
    let foreign: [&[u8]; 5] = [b"note", b"x-1", b"with\0nul", b"\xff\xfe", b""];
    for field in foreign {
        let _: () = raw.hset(&hash, field, b"someone else's").expect("HSET");
    }

    let client = client(&redis, &broker.url());
    connect(&client);
    let messages = subscriber.wait_for(1, LIMIT);
    assert_eq!(
        messages,
        [("old/topic".to_owned(), b"left by 0.3.2".to_vec())]
    );
    // The subscriber may have the message before the client has its acknowledgement.
    eventually(LIMIT, "the record of the message is removed", || {
        let entries: usize = raw.hlen(&hash).expect("HLEN");
        (entries <= foreign.len()).then_some(())
    });
    client
        .disconnect(None)
        .wait_for(LIMIT)
        .expect("disconnects");
    drop(client);
    let remaining: HashMap<Vec<u8>, Vec<u8>> = raw.hgetall(&hash).expect("HGETALL");
    let expected = foreign.map(|field| (field.to_vec(), b"someone else's".to_vec()));
    assert_eq!(remaining, HashMap::from(expected));
}

#[test]
fn written_hash_is_readable_by_0_3_2() {
    let (redis, mut broker) = (RedisServer::start(), Mosquitto::start());
    let client = client(&redis, &broker.url());
    connect(&client);
    broker.stop();
    drop(client.publish(mqtt::Message::new("new/topic", b"written here".to_vec(), 1)));

    let hash = hash(&broker);
    let mut raw = redis.connection();
    let kind: String = redis::cmd("TYPE").arg(&hash).query(&mut raw).expect("TYPE");
    assert_eq!(kind, "hash");
    let fields: Vec<String> = raw.hkeys(&hash).expect("HKEYS");
    let [field] = &fields[..] else {
        panic!("one record: {fields:?}")
    };
    assert!(
        field == "c-1" || field == "s-1" || field.starts_with("c-"),
        "{field}"
    );
    let value: Vec<u8> = raw.hget(&hash, field).expect("HGET");
    let contains = |part: &[u8]| value.windows(part.len()).any(|window| window == part);
    let is_complete = contains(b"new/topic") && contains(b"written here");
    assert!(is_complete, "{value:?}");

    // A successor restores the same bytes.
    drop(client);
    broker.restart();
    let subscriber = Subscriber::start(&broker.url(), "new/#", 1);
    let again = self::client(&redis, &broker.url());
    connect(&again);
    let messages = subscriber.wait_for(1, LIMIT);
    assert_eq!(
        messages[0],
        ("new/topic".to_owned(), b"written here".to_vec())
    );
}
