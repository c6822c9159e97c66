//! Everything that a program does with Paho and Redis, in one short process, so that scripts/valgrind can check each memory access.

use std::{sync::mpsc, time::Duration};

use paho_mqtt as mqtt;
use paho_mqtt_redis::RedisPersistence;
use redis::Commands;
use testkit::{
    LIMIT, RedisServer,
    broker::{Broker, Direction, Kind},
    eventually,
    harness::connect_options,
    record,
};

const AT_A_TIME: usize = 9;
const VERSIONS: [u32; 2] = [mqtt::MQTT_VERSION_3_1_1, mqtt::MQTT_VERSION_5];

fn client(redis: &RedisServer, broker: &str, version: u32) -> mqtt::Result<mqtt::AsyncClient> {
    client_with_timeout(redis, broker, version, LIMIT)
}

/// Creates a client that waits up to `open_timeout` for an unavailable Redis.
fn client_with_timeout(
    redis: &RedisServer,
    broker: &str,
    version: u32,
    open_timeout: Duration,
) -> mqtt::Result<mqtt::AsyncClient> {
    let persistence = RedisPersistence::builder()
        .url(redis.url())
        // Valgrind slows everything down.
        .connect_timeout(LIMIT)
        .operation_timeout(LIMIT)
        .open_timeout(open_timeout)
        .build()
        .expect("valid");
    mqtt::CreateOptionsBuilder::new()
        .server_uri(broker)
        .client_id("device")
        .mqtt_version(version)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .user_persistence(persistence)
        .create_client()
}

fn connect(client: &mqtt::AsyncClient, version: u32) {
    client
        .connect(connect_options(version, LIMIT))
        .wait_for(LIMIT)
        .expect("connects");
}

fn hash(broker: &Broker) -> String {
    format!("device:{}", broker.url().trim_start_matches("mqtt://"))
}

fn publish_some(client: &mqtt::AsyncClient, text: &str) -> Vec<mqtt::DeliveryToken> {
    (0..AT_A_TIME)
        .map(|number| {
            let payload = format!("{text} {number} {}", "x".repeat(number * 100));
            let message =
                mqtt::Message::new("readings", payload, i32::try_from(number % 3).unwrap());
            client.try_publish(message).expect("accepted")
        })
        .collect()
}

fn wait_until_empty(redis: &RedisServer, broker: &Broker) {
    let mut connection = redis.connection();
    eventually(LIMIT, "all records are removed", || {
        let remaining: usize = connection.hlen(hash(broker)).expect("HLEN");
        (remaining == 0).then_some(())
    });
}

#[test]
fn messages_pass_over_reconnect_and_restart() {
    for version in VERSIONS {
        let (redis, broker) = (RedisServer::start(), Broker::start());
        let first = client(&redis, &broker.url(), version).expect("created");
        publish_some(&first, "before the first connect");
        let (lost, losses) = mpsc::channel();
        first.set_connection_lost_callback(move |_| lost.send(()).expect("the test receives"));
        let (received, messages) = mpsc::channel();
        first.set_message_callback(move |_, message| {
            received.send(message).expect("the test receives");
        });
        connect(&first, version);
        first
            .subscribe("commands", 2)
            .wait_for(LIMIT)
            .expect("subscribes");
        for qos in 0..3 {
            broker.deliver("device", "commands", b"payload", qos);
            messages.recv_timeout(LIMIT).expect("is received");
        }
        wait_until_empty(&redis, &broker);

        // Messages in each state when the connection is lost, and when the client is dropped.
        broker.withhold_nth(
            Kind::Pubcomp,
            broker.count(Direction::ToClient, Kind::Pubcomp) + 1,
        );
        publish_some(&first, "connected");
        broker.wait_for(Direction::Withheld, Kind::Pubcomp, 1);
        broker.withhold(Kind::Puback);
        broker.withhold(Kind::Pubrec);
        publish_some(&first, "unanswered");
        // No write may fail midway: Paho frees such a message and sends it again, which is not the subject here.
        broker.wait_for(Direction::FromClient, Kind::Publish, 3 * AT_A_TIME);
        broker.drop_connections();
        losses.recv_timeout(LIMIT).expect("the connection is lost");
        publish_some(&first, "not connected");
        connect(&first, version);
        broker.wait_for(Direction::FromClient, Kind::Publish, 4 * AT_A_TIME);
        first.disconnect(None).wait_for(LIMIT).expect("disconnects");
        drop(first);

        broker.release(Kind::Puback);
        broker.release(Kind::Pubrec);
        let second = client(&redis, &broker.url(), version).expect("created");
        connect(&second, version);
        wait_until_empty(&redis, &broker);
        second
            .unsubscribe("commands")
            .wait_for(LIMIT)
            .expect("unsubscribes");
        second
            .disconnect(None)
            .wait_for(LIMIT)
            .expect("disconnects");
        assert_eq!(broker.faults(), Vec::<String>::new());
    }
}

#[test]
fn client_is_created_over_good_and_bad_records() {
    for version in VERSIONS {
        let (redis, broker) = (RedisServer::start(), Broker::start());
        let mut connection = redis.connection();
        let stems = match version {
            mqtt::MQTT_VERSION_5 => ["c5", "s5", "sc5", "r5", "q5"],
            _ => ["c", "s", "sc", "r", "q"],
        };
        for stem in stems {
            for number in 1..=3 {
                let key = format!("{stem}-{number}");
                let value = record(&key, b"payload");
                // One complete, one truncated, one empty.
                let length = value.len() * (3 - number) / 2;
                let _: () = connection
                    .hset(hash(&broker), key, &value[..length.min(value.len())])
                    .expect("HSET");
            }
        }
        for _ in 0..2 {
            drop(client(&redis, &broker.url(), version).expect("created"));
        }
        let connected = client(&redis, &broker.url(), version).expect("created");
        connect(&connected, version);
        connected
            .disconnect(None)
            .wait_for(LIMIT)
            .expect("disconnects");
    }
}

#[test]
fn client_without_redis_is_not_created() {
    let broker = Broker::start();
    let mut redis = RedisServer::start();
    redis.kill();
    for version in VERSIONS {
        client_with_timeout(&redis, &broker.url(), version, Duration::from_millis(1))
            .map(drop)
            .expect_err("is not created");
    }
}
