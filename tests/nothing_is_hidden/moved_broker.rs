//! A backlog under another address of the broker is found, and moved without a loss.

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{Error, ErrorKind, RedisPersistence, RedisPersistenceBuilder};
use redis::TypedCommands;
use testkit::{LIMIT, Mosquitto, RedisServer, Subscriber, log::Log, publish_command, record};

const CLIENT: &str = "device";
const OLD: &str = "mqtt://old.example:1883";
const NEW: &str = "mqtt://new.example:1883";
/// A name for the records, which is no address of a broker.
const STABLE: &str = "mqtt://backlog";
const OLD_HASH: &str = "mqtt:device:old.example:1883";
const NEW_HASH: &str = "mqtt:device:new.example:1883";
const TOPIC: &str = "readings";

fn options(redis: &RedisServer) -> RedisPersistenceBuilder {
    RedisPersistence::builder()
        .url(redis.url())
        .key_prefix("mqtt:")
        .connect_timeout(LIMIT)
        .operation_timeout(LIMIT)
}

fn persistence(redis: &RedisServer) -> RedisPersistence {
    options(redis).build().expect("good options")
}

fn client(redis: &RedisServer, server_uri: &str) -> mqtt::AsyncClient {
    mqtt::CreateOptionsBuilder::new()
        .server_uri(server_uri)
        .client_id(CLIENT)
        .mqtt_version(mqtt::MQTT_VERSION_5)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .user_persistence(persistence(redis))
        .create_client()
        .expect("created")
}

fn publish(client: &mqtt::AsyncClient, payloads: std::ops::Range<usize>) {
    for payload in payloads {
        let message = mqtt::Message::new(TOPIC, payload.to_string(), mqtt::QOS_2);
        client.try_publish(message).expect("accepted");
    }
}

fn adopt(redis: &RedisServer, from: &str) -> Result<usize, Error> {
    let adoption = persistence(redis).adopt(CLIENT, NEW, from)?;
    assert_eq!(adoption.left, 0);
    Ok(adoption.moved)
}

#[test]
fn moved_backlog_is_sent_first_and_in_order() {
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 2);
    let old = client(&redis, OLD);
    publish(&old, 0..40);
    drop(old);
    let new = client(&redis, STABLE);
    publish(&new, 40..60);
    drop(new);

    let log = Log::default();
    let mut moved = persistence(&redis);
    log.during(|| moved.connect(CLIENT, STABLE))
        .expect("connects");
    assert!(
        log.text().contains("old.example:1883 (40)"),
        "{}",
        log.text()
    );
    let found = moved.find_moved_backlogs(CLIENT, STABLE).expect("found");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].server_uri.as_str(), found[0].records),
        ("old.example:1883", 40)
    );
    let adoption = moved
        .adopt(CLIENT, STABLE, &found[0].server_uri)
        .expect("adopted");
    assert_eq!((adoption.moved, adoption.left), (40, 0));
    assert!(!redis.connection().exists(OLD_HASH).expect("EXISTS"));
    drop(moved);

    let client = client(&redis, STABLE);
    let options = mqtt::ConnectOptionsBuilder::new_v5()
        .clean_start(false)
        .server_uris(&[broker.url()])
        .finalize();
    client.connect(options).wait_for(LIMIT).expect("connects");
    let arrived = subscriber.wait_for(60, LIMIT);
    let arrived: Vec<_> = arrived.iter().map(|(_, payload)| payload.clone()).collect();
    let sent: Vec<_> = (0..60).map(|n| n.to_string().into_bytes()).collect();
    assert_eq!(arrived, sent);
}

#[test]
fn backlog_of_living_owner_is_not_adopted() {
    let redis = RedisServer::start();
    let mut owner = persistence(&redis);
    owner.open(CLIENT, "old.example:1883").expect("opens");
    owner
        .put("c-1", vec![&publish_command(1, 1, TOPIC, b"x")])
        .expect("put");
    let error = adopt(&redis, OLD).expect_err("in use");
    assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    assert_eq!(redis.connection().hlen(OLD_HASH).expect("HLEN"), 1);
    drop(owner);
    assert_eq!(adopt(&redis, OLD).expect("adopted"), 1);
}

#[test]
fn adoption_writes_over_no_present_record() {
    let redis = RedisServer::start();
    let mut raw = redis.connection();
    let store = |raw: &mut redis::Connection, hash: &str, key: &str, value: Vec<u8>| {
        raw.hset(hash, key, value).expect("HSET");
    };
    for (key, payload) in [("s5-1", b"a"), ("c5-2", b"b")] {
        store(&mut raw, OLD_HASH, key, record(key, payload));
        store(&mut raw, NEW_HASH, key, record(key, &payload.repeat(2)));
    }
    // The other client's quarantine is no backlog, and stays.
    store(
        &mut raw,
        &format!("{OLD_HASH}:quarantine"),
        "c5-1",
        b"x".to_vec(),
    );
    let found = persistence(&redis).find_moved_backlogs(CLIENT, NEW);
    assert_eq!(found.expect("found").len(), 1);
    assert_eq!(adopt(&redis, OLD).expect("adopted"), 2);
    assert_eq!(adopt(&redis, OLD).expect("nothing left"), 0);
    let value = |raw: &mut redis::Connection, key: &str| -> Vec<u8> {
        redis::cmd("HGET")
            .arg(NEW_HASH)
            .arg(key)
            .query(raw)
            .expect("HGET")
    };
    assert_eq!(value(&mut raw, "s5-1"), record("s5-1", b"aa"));
    assert_eq!(value(&mut raw, "c5-2"), record("c5-2", b"bb"));
    assert_eq!(value(&mut raw, "s5-65535"), record("s5-65535", b"a"));
    assert_eq!(value(&mut raw, "c5-1"), record("c5-2", b"b"));
    assert_eq!(raw.hlen(NEW_HASH).expect("HLEN"), 4);
    assert!(
        raw.exists(format!("{OLD_HASH}:quarantine"))
            .expect("EXISTS")
    );
}

#[test]
fn full_redis_leaves_rest_of_backlog_where_it_is() {
    let redis = RedisServer::start();
    let mut raw = redis.connection();
    for id in 1..=100 {
        let command = publish_command(id, 2, TOPIC, &[0; 10_000]);
        raw.hset(OLD_HASH, format!("c-{id}"), command)
            .expect("HSET");
    }
    redis.set_maxmemory("1");
    let error = adopt(&redis, OLD).expect_err("full");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert_eq!(raw.hlen(OLD_HASH).expect("HLEN"), 100);
    redis.set_maxmemory("0");
    assert_eq!(adopt(&redis, OLD).expect("adopted"), 100);
    assert_eq!(raw.hlen(NEW_HASH).expect("HLEN"), 100);
}

#[test]
fn user_without_scan_connects_with_warning() {
    let redis = RedisServer::start();
    let rights = ["on", "nopass", "~*", "&*", "+@all", "-scan"];
    let mut acl = redis::cmd("ACL");
    acl.arg("SETUSER").arg("default").arg(&rights);
    acl.exec(&mut redis.connection()).expect("ACL SETUSER");
    for (checks, warns) in [(true, true), (false, false)] {
        let log = Log::default();
        let options = options(&redis).moved_backlog_check(checks);
        let mut persistence = options.build().expect("good options");
        let connected = log.during(|| persistence.connect(CLIENT, NEW));
        connected.expect("connects all the same");
        let text = log.text();
        assert_eq!(text.contains("lacks +scan"), warns, "{text}");
    }
}

#[test]
fn search_skips_what_is_no_hash_and_other_clients() {
    let redis = RedisServer::start();
    let mut raw = redis.connection();
    raw.set("mqtt:device:a:1", "no hash").expect("SET");
    raw.hset("mqtt:devices:a:1", "c-1", "x").expect("HSET");
    raw.hset("device:a:1", "c-1", "x").expect("HSET");
    let found = persistence(&redis).find_moved_backlogs(CLIENT, NEW);
    assert_eq!(found.expect("found"), []);
    let mut starred = persistence(&redis);
    let found = starred.find_moved_backlogs("d*", NEW).expect("found");
    assert_eq!(found, []);
}
