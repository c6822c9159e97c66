//! The pictures in docs/mqtt-backlog.md, of a real run over the backlogs of four gateways.

use std::{
    fs,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::RedisPersistence;
use redis::Commands;
use testkit::{
    LIMIT, Mosquitto, RedisServer,
    broker::{Broker, Direction, Kind},
    child::tool,
    eventually,
    network::{Link, Network},
    recording::{Client, alone},
    repository,
    terminal::Terminal,
};

/// Server URI of the clients, a part of the names of their records; the brokers have other addresses.
const BROKER: &str = "mqtt://broker:1883";
const COLUMNS: usize = 126;
const ROWS: usize = 16;

struct Gateway(Client);

impl Gateway {
    fn create(redis: &RedisServer, id: &str) -> Self {
        Self::with(redis, id, mqtt::MQTT_VERSION_5, 100_000)
    }

    fn with(redis: &RedisServer, id: &str, version: u32, max_buffered: i32) -> Self {
        let persistence = RedisPersistence::builder().url(redis.url()).build();
        let client = mqtt::CreateOptionsBuilder::new()
            .server_uri(BROKER)
            .client_id(id)
            .mqtt_version(version)
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true)
            .max_buffered_messages(max_buffered)
            .delete_oldest_messages(true)
            .user_persistence(persistence.expect("valid"))
            .create_client();
        Self(client.expect("a client").into())
    }

    fn connect(&self, broker: &str) {
        let mut session = mqtt::Properties::new();
        let code = mqtt::PropertyCode::SessionExpiryInterval;
        session.push_u32(code, 3600).expect("a property of CONNECT");
        let options = mqtt::ConnectOptionsBuilder::new_v5()
            .server_uris(&[broker])
            .clean_start(false)
            .properties(session)
            .max_inflight(10)
            .finalize();
        let connected = mqtt::AsyncClient::connect(&self.0, options).wait_for(LIMIT);
        connected.expect("connects");
    }

    /// Publishes the readings of a plant with these numbers.
    fn publish_readings(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let pump = number % 12 + 1;
            let topic = format!("plant/pump-{pump}/vibration");
            let payload = format!(
                "{{\"number\":{number},\"spectrum\":\"{}\"}}",
                "0".repeat(160)
            );
            self.accept(mqtt::Message::new(topic, payload, 1));
        }
    }

    fn accept(&self, message: mqtt::Message) {
        self.0.try_publish(message).expect("accepted");
    }
}

/// Leaves the records of a gateway whose connection broke with two messages at QoS 2 in flight, and others that wait.
fn in_flight(redis: &RedisServer) {
    let broker = Broker::start();
    let gateway = Gateway::create(redis, "gateway-west");
    let losses = gateway.0.losses();
    gateway.connect(&broker.url());
    broker.withhold_nth(Kind::Pubrec, 1);
    broker.withhold(Kind::Pubcomp);
    let message = |topic, payload, qos| mqtt::Message::new(topic, payload, qos);
    gateway.accept(message("plant/pump-3/state", "off", 2));
    gateway.accept(message("plant/pump-3/state", "on", 2));
    broker.wait_for(Direction::Withheld, Kind::Pubcomp, 1);
    broker.drop_connections();
    losses.recv_timeout(LIMIT).expect("the connection is lost");
    for payload in ["21.5", "21.7", "22.4"] {
        gateway.accept(message("plant/pump-3/temperature", payload, 1));
    }
    let mut properties = mqtt::Properties::new();
    let code = mqtt::PropertyCode::MessageExpiryInterval;
    properties.push_u32(code, 7200).expect("pushed");
    let code = mqtt::PropertyCode::UserProperty;
    properties
        .push_string_pair(code, "unit", "K")
        .expect("pushed");
    let alarm = mqtt::MessageBuilder::new()
        .topic("plant/pump-3/alarm")
        .payload("overheated")
        .qos(2)
        .retained(true)
        .properties(properties);
    gateway.accept(alarm.finalize());
    gateway.accept(message("plant/pump-3/debug", "\x1b[31mfault\r\n", 0));
}

/// Leaves the records of a gateway whose buffer was full, and of which two were damaged.
fn set_aside(redis: &RedisServer) {
    // With MQTT 5, Paho C 1.3.16 may crash when its buffer is full.
    let create = || Gateway::with(redis, "gateway-east", mqtt::MQTT_VERSION_3_1_1, 250);
    let gateway = create();
    gateway.publish_readings(0..262);
    drop(gateway);
    let hash = format!("gateway-east:{}", BROKER.replace("mqtt://", ""));
    let damaged = [("c-401", "damaged"), ("c-402", "damaged")];
    let _: () = redis
        .connection()
        .hset_multiple(&hash, &damaged)
        .expect("HSET");
    drop(create());
}

/// Takes the pictures in `docs/images/`: `cargo test -p testkit --test backlog_is_in_view -- --ignored pictures`.
#[test]
#[ignore = "people check its pictures"]
fn pictures_of_fleet_at_work() {
    let _alone = alone();
    let (redis, broker) = (RedisServer::start(), Mosquitto::start());
    in_flight(&redis);
    set_aside(&redis);
    let growing = Gateway::create(&redis, "gateway-south");
    growing.publish_readings(0..1_460);
    let draining = Gateway::create(&redis, "gateway-north");
    draining.publish_readings(0..4_800);
    let link = Link {
        delay: Duration::from_millis(40),
        bytes_per_second: None,
    };
    let network = Network::start(broker.port(), link);
    draining.connect(&format!("mqtt://127.0.0.1:{}", network.port()));
    eventually(LIMIT, "it drains", || {
        let hash = "gateway-north:broker:1883";
        let records: usize = redis.connection().hlen(hash).expect("HLEN");
        (records < 4_700).then_some(())
    });
    let growing = &growing;
    let (is_alive, is_over) = mpsc::channel::<()>();
    thread::scope(|scope| {
        // Dropped at the end, also by a panic.
        let _is_alive = is_alive;
        scope.spawn(move || {
            let interval = Duration::from_millis(25);
            for number in 1_460.. {
                growing.publish_readings(number..number + 1);
                if is_over.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        });
        let path = tool();
        let folder = path.parent().expect("a file is in a folder");
        let path = format!("{}:/usr/bin:/bin", folder.display());
        let url = redis.url();
        let environment = [("PATH", &path[..]), ("MQTT_BACKLOG_URL", &url)];
        for (name, typed, run) in [
            ("list", "mqtt-backlog list", ""),
            ("show", "mqtt-backlog show gateway-west --payload", ""),
            // Ends as by Ctrl-C.
            (
                "watch",
                "mqtt-backlog watch",
                "timeout --foreground --signal=INT 11 ",
            ),
        ] {
            let mut terminal = Terminal::new(COLUMNS, ROWS);
            terminal.run(&format!("{run}{typed}"), &environment);
            let lines = terminal.lines();
            println!("$ {typed}\n{}", lines.join("\n"));
            let is_wide = |line: &String| line.chars().count() >= COLUMNS;
            assert!(!lines.iter().any(is_wide), "more columns are needed");
            assert!(lines.len() > 4 && !lines[0].contains("mqtt-backlog"));
            let file = format!("docs/images/backlog-{name}.svg");
            fs::write(repository().join(file), terminal.svg(typed)).expect("written");
        }
    });
}
