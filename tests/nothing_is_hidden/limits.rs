//! A buffer that fills shows in the metrics, an event and `check_room` before Paho refuses a message.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{
    ErrorKind, Health, PersistenceMetrics, RedisPersistence, StoreEvent, StoreObserver,
    prometheus::Registry, render,
};
use testkit::{
    LIMIT, Mosquitto, RedisServer, Subscriber, eventually,
    recording::{CLIENT, Client, alone},
};

const TOPIC: &str = "topic";
/// Paho's buffer in messages.
const BUFFER: usize = 10;

/// Counts the warnings about a limit.
#[derive(Default)]
struct Warnings(AtomicUsize);

impl Warnings {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl StoreObserver for Warnings {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if let StoreEvent::NearlyFull { .. } = event {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A client without its broker, with a buffer of [`BUFFER`] messages and a byte budget.
struct Device {
    version: u32,
    broker: Mosquitto,
    client: Client,
    health: Health,
    registry: Registry,
    warnings: Arc<Warnings>,
    _redis: RedisServer,
}

impl Device {
    fn without_broker(version: u32, byte_budget: usize) -> Self {
        let (redis, mut broker) = (RedisServer::start(), Mosquitto::start());
        let (registry, warnings) = (Registry::new(), Arc::<Warnings>::default());
        let metrics = PersistenceMetrics::register(&registry).expect("registers");
        let observer = Arc::<Warnings>::clone(&warnings);
        let persistence = RedisPersistence::builder()
            .url(redis.url())
            .max_buffered_messages(BUFFER)
            .byte_budget(byte_budget)
            .observer(observer)
            .build()
            .expect("valid");
        let health = persistence.health();
        let options = mqtt::CreateOptionsBuilder::new()
            .server_uri(broker.url())
            .client_id(CLIENT)
            .mqtt_version(version)
            .send_while_disconnected(true)
            .max_buffered_messages(i32::try_from(BUFFER).expect("small"))
            .user_persistence(persistence.instrument(&metrics));
        let client: Client = options.create_client().expect("a client").into();
        client.connect(version);
        let losses = client.losses();
        broker.stop();
        losses.recv_timeout(LIMIT).expect("the connection is lost");
        Self {
            version,
            broker,
            client,
            health,
            registry,
            warnings,
            _redis: redis,
        }
    }

    /// Waits until a gauge of the store has this value.
    #[track_caller]
    fn wait_for(&self, gauge: &str, value: usize) {
        let line = format!("mqtt_persistence_store_{gauge}{{client_id=\"{CLIENT}\"}} {value}\n");
        eventually(LIMIT, &line, || {
            let metrics = render(&self.registry).expect("renders");
            metrics.contains(&line).then_some(())
        });
    }

    fn message(number: usize) -> mqtt::Message {
        mqtt::Message::new(TOPIC, number.to_string(), mqtt::QOS_2)
    }

    /// Publishes as long as there is room, and returns the number of messages.
    fn publish_while_there_is_room(&self) -> usize {
        for number in 0..=BUFFER {
            let message = Self::message(number);
            let size = message.topic().len() + message.payload().len();
            if let Err(error) = self.health.check_room(size) {
                assert_eq!(error.kind(), ErrorKind::Full);
                return number;
            }
            self.client
                .try_publish(message)
                .expect("accepted, since there is room");
        }
        panic!("room for more than {BUFFER}");
    }

    /// Brings the broker back, and waits until this many messages have arrived and the gauges are 0.
    fn deliver(&mut self, count: usize) {
        self.broker.restart();
        let subscriber = Subscriber::start(&self.broker.url(), TOPIC, 2);
        self.client.connect(self.version);
        let arrived = eventually(LIMIT, "all messages arrive", || {
            let messages = subscriber.messages();
            (messages.len() >= count).then_some(messages)
        });
        let payloads: Vec<_> = arrived.into_iter().map(|(_, payload)| payload).collect();
        let sent: Vec<_> = (0..count)
            .map(|number| number.to_string().into_bytes())
            .collect();
        assert_eq!(payloads, sent);
        self.wait_for("queued_messages", 0);
        self.wait_for("waiting_bytes", 0);
    }
}

#[test]
fn full_buffer_is_seen_before_paho_refuses() {
    let _alone = alone();
    for version in [mqtt::MQTT_VERSION_3_1_1, mqtt::MQTT_VERSION_5] {
        let mut device = Device::without_broker(version, 1024 * 1024);
        device.wait_for("limit_messages", BUFFER);
        device.wait_for("limit_bytes", 1024 * 1024);
        device.wait_for("queued_messages", 0);

        assert_eq!(device.publish_while_there_is_room(), BUFFER);
        // Paho and the persistence agree on the message for which there is no room.
        let refused = device.client.try_publish(Device::message(BUFFER));
        let Err(mqtt::Error::Publish(code, _)) = refused else {
            panic!("{:?}", refused.map(drop));
        };
        assert_eq!(
            mqtt::Error::from(code).to_string(),
            mqtt::Error::MaxBufferedMessages.to_string()
        );
        let now = device.health.snapshot();
        assert_eq!(now.queued_messages, BUFFER);
        device.wait_for("queued_messages", BUFFER);
        device.wait_for("waiting_bytes", now.waiting_bytes);
        eventually(LIMIT, "a warning comes", || {
            (device.warnings.count() > 0).then_some(())
        });

        device.deliver(BUFFER);
        assert!(device.health.check_room(1).is_ok());
        assert_eq!(device.warnings.count(), 1);
    }
}

#[test]
fn byte_budget_is_kept_by_asking_before_publish() {
    let _alone = alone();
    let version = mqtt::MQTT_VERSION_5;
    let mut device = Device::without_broker(version, 250);
    let published = device.publish_while_there_is_room();
    assert!((1..BUFFER).contains(&published), "{published}");
    device.wait_for("queued_messages", published);
    eventually(LIMIT, "a warning comes", || {
        (device.warnings.count() > 0).then_some(())
    });
    device.deliver(published);
    assert_eq!(device.warnings.count(), 1);
}
