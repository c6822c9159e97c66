//! Every way in which a message leaves, with a real client and broker, in the metrics, the events and on the page.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{
    DropReason, ErrorKind, MetricsServer, OverBudget, PersistenceMetrics, RedisPersistence,
    RedisPersistenceBuilder, StoreEvent, StoreObserver,
    prometheus::{
        Registry,
        proto::{LabelPair, MetricType},
    },
};
use testkit::{
    LIMIT, Mosquitto, RedisServer,
    accounting::accounts,
    body,
    broker::{Broker, Direction, Kind},
    child::ignored_test,
    eventually,
    log::Log,
    recording::{CLIENT, Client, alone},
    sent,
};

const V3: u32 = mqtt::MQTT_VERSION_3_1_1;
const V5: u32 = mqtt::MQTT_VERSION_5;
const VERSIONS: [u32; 2] = [V3, V5];
/// Reason code of MQTT 5: not authorized.
const NOT_AUTHORIZED: u8 = 0x87;

/// Counts dropped records by kind and reason.
#[derive(Default)]
struct Drops(Mutex<BTreeMap<(&'static str, &'static str), i64>>);

impl Drops {
    fn counts(&self) -> Vec<(&'static str, &'static str, i64)> {
        let drops = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = drops.iter();
        counts
            .map(|((kind, reason), records)| (*kind, *reason, *records))
            .collect()
    }
}

impl StoreObserver for Drops {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if let StoreEvent::Dropped {
            kind,
            reason,
            records,
            ..
        } = event
        {
            let mut drops = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *drops.entry((kind.as_str(), reason.as_str())).or_default() +=
                i64::try_from(*records).expect("a small number");
        }
    }
}

/// A Redis, and the metrics and drops of the one client whose records are in it.
struct Device {
    redis: RedisServer,
    registry: Registry,
    metrics: PersistenceMetrics,
    drops: Arc<Drops>,
}

impl Device {
    fn start() -> Self {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).expect("registers");
        Self {
            redis: RedisServer::start(),
            registry,
            metrics,
            drops: Arc::default(),
        }
    }

    fn persistence(&self) -> impl ClientPersistence + Send + 'static {
        self.persistence_with_cache(1024 * 1024)
    }

    fn builder(&self) -> RedisPersistenceBuilder {
        let options = RedisPersistence::builder().url(self.redis.url());
        options.observer(Arc::<Drops>::clone(&self.drops))
    }

    fn persistence_with_cache(&self, limit: usize) -> impl ClientPersistence + Send + 'static {
        let options = self.builder().cache_limit(limit);
        options.build().expect("valid").instrument(&self.metrics)
    }

    /// Options of a client that publishes without a connection.
    fn options(&self, broker: &str, version: u32) -> mqtt::CreateOptionsBuilder {
        options(broker, version, self.persistence())
    }

    fn client(&self, broker: &str, version: u32) -> Client {
        create(self.options(broker, version))
    }

    /// Sum of a metric over the series with these labels.
    #[expect(clippy::cast_possible_truncation, reason = "counts are small")]
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let name = format!("mqtt_persistence_{name}");
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let family = family.unwrap_or_else(|| panic!("no {name}"));
        let has = |pairs: &[LabelPair], (label, value): &(&str, &str)| {
            let mut pairs = pairs.iter();
            pairs.any(|pair| (pair.name(), pair.value()) == (label, value))
        };
        let metrics = family.get_metric().iter();
        let metrics =
            metrics.filter(|metric| labels.iter().all(|label| has(metric.get_label(), label)));
        let values = metrics.map(|metric| match family.get_field_type() {
            MetricType::COUNTER => metric.get_counter().get_value(),
            _ => metric.get_gauge().get_value(),
        });
        values.sum::<f64>() as i64
    }

    fn delivered(&self) -> i64 {
        self.sum("delivered_messages_total", &[])
    }

    fn waiting(&self) -> i64 {
        self.sum("waiting_messages", &[])
    }

    fn wait_for(&self, name: &str, labels: &[(&str, &str)], value: i64) {
        eventually(LIMIT, &format!("{name} {labels:?} is {value}"), || {
            (self.sum(name, labels) == value).then_some(())
        });
    }

    /// Asserts the dropped records, by the metrics and by the events, and that the messages add up.
    #[track_caller]
    fn assert_dropped(&self, expected: &[(&str, &str, i64)]) {
        for (kind, reason, records) in expected {
            let labels = [("kind", *kind), ("reason", *reason)];
            let counted = self.sum("dropped_records_total", &labels);
            assert_eq!(counted, *records, "{labels:?}");
        }
        let all: i64 = expected.iter().map(|(.., records)| records).sum();
        assert_eq!(self.sum("dropped_records_total", &[]), all);
        let reported = || {
            let counts = self.drops.counts();
            (counts.iter().map(|(.., records)| records).sum::<i64>() >= all).then_some(counts)
        };
        assert_eq!(eventually(LIMIT, "the events come", reported), expected);
        self.assert_messages_add_up();
    }

    /// Asserts that each message that was accepted or restored is somewhere.
    #[track_caller]
    fn assert_messages_add_up(&self) {
        let accounts = accounts(&self.registry);
        let account = accounts.get(CLIENT).expect("an open client");
        assert!(account.is_balanced(), "{account:?}");
    }
}

fn options(
    broker: &str,
    version: u32,
    persistence: impl ClientPersistence + Send + 'static,
) -> mqtt::CreateOptionsBuilder {
    mqtt::CreateOptionsBuilder::new()
        .server_uri(broker)
        .client_id(CLIENT)
        .mqtt_version(version)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .max_buffered_messages(1000)
        .user_persistence(persistence)
}

fn create(options: mqtt::CreateOptionsBuilder) -> Client {
    options.create_client().expect("a client").into()
}

/// Connects with a clean session. With MQTT 5 it may outlive the connection.
fn connect_clean(client: &mqtt::AsyncClient, version: u32, outlives: bool) {
    let options = if version == V5 {
        let mut properties = mqtt::Properties::new();
        let expiry = u32::from(outlives) * 3600;
        let pushed = properties.push_u32(mqtt::PropertyCode::SessionExpiryInterval, expiry);
        pushed.expect("a property of CONNECT");
        let mut options = mqtt::ConnectOptionsBuilder::new_v5();
        options.clean_start(true).properties(properties).finalize()
    } else {
        let mut options = mqtt::ConnectOptionsBuilder::with_mqtt_version(mqtt::MqttVersion::V3_1_1);
        options.clean_session(true).finalize()
    };
    client.connect(options).wait_for(LIMIT).expect("connects");
}

/// Gets a path of an endpoint.
fn get(server: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: device\r\nConnection: close\r\n\r\n");
    body(&sent(server, request.as_bytes())).to_owned()
}

/// Publishes 100 messages to a buffer of 10 while the broker is away.
fn fill_buffer(version: u32) {
    let (device, broker) = (Device::start(), Broker::start());
    let server = MetricsServer::bind("127.0.0.1:0", device.registry.clone()).expect("a port");
    let options = device.options(&broker.url(), version);
    let options = options.max_buffered_messages(10);
    let client = create(options.delete_oldest_messages(true));
    for number in 0..100 {
        client.accept(&number.to_string(), 1);
    }
    let dropped = [("command", "buffer_full", 90)];
    device.assert_dropped(&dropped);
    assert_eq!((device.delivered(), device.waiting()), (0, 10));

    let address = server.local_addr().unwrap();
    let metrics = get(address, "/metrics");
    for line in [
        format!(
            "mqtt_persistence_dropped_records_total{{client_id=\"{CLIENT}\",kind=\"command\",reason=\"buffer_full\"}} 90\n"
        ),
        format!("mqtt_persistence_waiting_messages{{client_id=\"{CLIENT}\"}} 10\n"),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    let page = get(address, "/");
    for cell in [
        "<th scope=\"row\">buffer full</th><td>90</td>",
        "<dt>Messages waiting</dt><dd>10</dd>",
        "<dt>Delivered</dt><dd>0</dd>",
    ] {
        assert!(page.contains(cell), "{cell} in {page}");
    }

    client.connect(version);
    device.wait_for("delivered_messages_total", &[("qos", "1")], 10);
    device.assert_dropped(&dropped);
    let accepted = broker.accepted().into_iter().map(|message| message.payload);
    let youngest = (90..100).map(|number: usize| number.to_string().into_bytes());
    assert_eq!(
        accepted.collect::<Vec<_>>(),
        youngest.collect::<Vec<_>>(),
        "what was not dropped was delivered"
    );
}

#[test]
fn full_buffer_drops_oldest_and_counts_it() {
    let _alone = alone();
    fill_buffer(V3);
}

/// Paho C 1.3.16 passes a struct that it has not initialized to the failure callback of MQTT 5. It crashes half of the processes.
#[test]
fn full_buffer_of_mqtt_5_drops_oldest_unless_paho_crashes() {
    const SEGMENTATION_FAULT: i32 = 11;
    let survivor = (0..30).find_map(|_| {
        let mut child = ignored_test(module_path!(), "mqtt_5_child");
        let output = child.output().expect("the child runs");
        (output.status.signal() != Some(SEGMENTATION_FAULT)).then_some(output)
    });
    let output = survivor.expect("a child that Paho does not crash");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {log}", output.status);
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
#[ignore = "the child of the other test"]
fn mqtt_5_child() {
    let log = Log::default();
    log.of_the_process();
    fill_buffer(V5);
    eventually(LIMIT, "each drop is in a line of the log", || {
        let text = log.text();
        let lines = text.lines().filter(|line| {
            line.contains("WARN")
                && line.contains("records were dropped that were not delivered")
                && line.contains("record.kind=\"command\"")
                && line.contains("reason=\"buffer_full\"")
        });
        let numbers = lines.filter_map(|line| {
            let (_, rest) = line.split_once(" records=")?;
            rest.split(' ').next()?.parse::<i64>().ok()
        });
        (numbers.sum::<i64>() == 90).then_some(())
    });
}

#[test]
fn broker_without_sessions_loses_messages_in_flight() {
    let _alone = alone();
    for version in VERSIONS {
        let (device, mut broker) = (Device::start(), Mosquitto::start());
        let client = device.client(&broker.url(), version);
        client.connect(version);
        let losses = client.losses();
        // It takes packets and answers none.
        broker.pause();
        for number in 0..200 {
            client.accept(&number.to_string(), 1 + number % 2);
        }
        device.wait_for("records", &[("kind", "sent_publish")], 200);
        device.assert_dropped(&[]);
        broker.restart();
        losses.recv_timeout(LIMIT).expect("the connection is lost");
        assert_eq!((device.delivered(), device.waiting()), (0, 200));

        client.connect(version);
        device.assert_dropped(&[("sent_publish", "session_lost", 200)]);
        assert_eq!((device.delivered(), device.waiting()), (0, 0));
        let token = client.accept("after", 2);
        token.wait_for(LIMIT).expect("is delivered");
        device.assert_dropped(&[("sent_publish", "session_lost", 200)]);
        assert_eq!(device.sum("delivered_messages_total", &[("qos", "2")]), 1);
    }
}

#[test]
fn expired_message_is_not_sent_after_restart() {
    let _alone = alone();
    let (device, broker) = (Device::start(), Broker::start());
    let accept = |client: &Client, payload: &str, expiry: u32| {
        let mut properties = mqtt::Properties::new();
        let pushed = properties.push_u32(mqtt::PropertyCode::MessageExpiryInterval, expiry);
        pushed.expect("a property of PUBLISH");
        let message = mqtt::MessageBuilder::new()
            .topic("a/topic")
            .payload(payload)
            .qos(1)
            .properties(properties)
            .finalize();
        client.try_publish(message).expect("accepted");
    };
    let client = device.client(&broker.url(), V5);
    accept(&client, "short", 1);
    accept(&client, "long", 3600);
    let published = Instant::now();
    drop(client);
    eventually(LIMIT, "the short message expires", || {
        (published.elapsed() > Duration::from_secs(2)).then_some(())
    });
    let client = device.client(&broker.url(), V5);
    device.wait_for("dropped_records_total", &[("reason", "expired")], 1);
    assert_eq!(device.waiting(), 1);
    client.connect(V5);
    device.wait_for("delivered_messages_total", &[], 1);
    assert_eq!(broker.count(Direction::FromClient, Kind::Publish), 1);
    device.assert_messages_add_up();
}

#[test]
fn page_shows_each_reason_of_drops() {
    let _alone = alone();
    let device = Device::start();
    let server = MetricsServer::bind("127.0.0.1:0", device.registry.clone()).expect("a port");
    let _client = device.client(&Broker::start().url(), V5);
    let page = get(server.local_addr().unwrap(), "/");
    for reason in DropReason::ALL {
        let cell = format!(
            "<th scope=\"row\">{}</th><td>0</td>",
            reason.as_str().replace('_', " ")
        );
        assert!(page.contains(&cell), "{cell} in {page}");
    }
}

#[test]
fn what_exceeds_byte_budget_is_dropped_at_start() {
    let _alone = alone();
    for version in VERSIONS {
        let (device, broker) = (Device::start(), Broker::start());
        let within = |budget| {
            let options = device.builder().over_budget(OverBudget::DropOldest);
            let error = options.clone().build().expect_err("no budget");
            assert_eq!(error.kind(), ErrorKind::InvalidOption);
            let options = options.byte_budget(budget);
            let persistence = options.build().expect("valid");
            let letters = persistence.dead_letters();
            let persistence = persistence.instrument(&device.metrics);
            let client = create(self::options(&broker.url(), version, persistence));
            (client, letters)
        };
        let (client, _) = within(1000);
        // While the client lives, the budget keeps nothing out.
        for number in 0..20 {
            client.accept(&format!("{number:0100}"), number % 3);
        }
        eventually(LIMIT, "twice the budget waits", || {
            (device.sum("store_waiting_bytes", &[]) > 2000).then_some(())
        });
        assert_eq!(device.sum("dropped_records_total", &[]), 0);
        drop(client);

        let (client, letters) = within(1000);
        let of_reason = [("reason", "over_budget")];
        device.wait_for("dropped_records_total", &of_reason, 13);
        device.assert_dropped(&[("command", "over_budget", 13)]);
        assert_eq!(device.waiting(), 7);
        client.connect(version);
        device.wait_for("delivered_messages_total", &[], 7);
        // All at QoS 0 and 1 left, and the six at QoS 2 fit with the last one at QoS 1.
        let payloads = broker.accepted().into_iter();
        let numbers = payloads.map(|message| {
            let text = String::from_utf8(message.payload).expect("text");
            text.trim_start_matches('0').parse().expect("a number")
        });
        let mut numbers: Vec<i32> = numbers.collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [2, 5, 8, 11, 14, 17, 19]);

        let again = letters.publish_again(&client, |letter| letter.reason() == "over_budget");
        assert_eq!(again.expect("published").published, 13);
        device.wait_for("delivered_messages_total", &[], 20);
        device.assert_messages_add_up();
    }
}

#[test]
fn client_without_restore_drops_what_waits() {
    let _alone = alone();
    for version in VERSIONS {
        let (device, broker) = (Device::start(), Broker::start());
        let client = device.client(&broker.url(), version);
        for number in 0..5 {
            client.accept(&number.to_string(), number % 3);
        }
        drop(client);
        let options = device.options(&broker.url(), version);
        let client = create(options.restore_messages(false));
        device.assert_dropped(&[("command", "not_restored", 5)]);
        assert_eq!((device.delivered(), device.waiting()), (0, 0));
        client.connect(version);
        client
            .accept("after", 1)
            .wait_for(LIMIT)
            .expect("is delivered");
        device.assert_dropped(&[("command", "not_restored", 5)]);
        assert_eq!(device.delivered(), 1);
    }
}

#[test]
fn message_refused_in_pubrec_is_dropped() {
    let _alone = alone();
    let (device, broker) = (Device::start(), Broker::start());
    let client = device.client(&broker.url(), V5);
    client.connect(V5);
    broker.answer_with(Kind::Pubrec, NOT_AUTHORIZED);
    let refused = client.accept("refused", 2).wait_for(LIMIT);
    refused.expect_err("the token has the reason code");
    device.assert_dropped(&[("sent_publish", "rejected", 1)]);
    assert_eq!((device.delivered(), device.waiting()), (0, 0));
    broker.answer_with(Kind::Pubrec, 0);
    client
        .accept("taken", 2)
        .wait_for(LIMIT)
        .expect("is delivered");
    device.assert_dropped(&[("sent_publish", "rejected", 1)]);
    assert_eq!(device.delivered(), 1);
}

/// Paho makes the same calls as for an acknowledged message, so only the token shows the difference.
#[test]
fn message_refused_in_puback_counts_as_delivered() {
    let _alone = alone();
    let (device, broker) = (Device::start(), Broker::start());
    let client = device.client(&broker.url(), V5);
    client.connect(V5);
    broker.answer_with(Kind::Puback, NOT_AUTHORIZED);
    let refused = client.accept("refused", 1).wait_for(LIMIT);
    refused.expect_err("the token has the reason code");
    device.assert_dropped(&[]);
    assert_eq!((device.delivered(), device.waiting()), (1, 0));
    assert_eq!(broker.accepted(), []);
}

#[test]
fn restored_inbound_message_is_released_not_dropped() {
    let _alone = alone();
    for version in VERSIONS {
        let (device, broker) = (Device::start(), Broker::start());
        let client = device.client(&broker.url(), version);
        client.connect(version);
        broker.withhold(Kind::Pubrel);
        broker.deliver(CLIENT, "commands", b"payload", 2);
        broker.wait_for(Direction::Withheld, Kind::Pubrel, 1);
        drop(client);
        broker.wait_gone(CLIENT);
        broker.release(Kind::Pubrel);

        let client = device.client(&broker.url(), version);
        let kind = [("kind", "received_publish")];
        assert_eq!(device.sum("restored_records", &kind), 1);
        client.connect(version);
        broker.wait_acknowledged(CLIENT);
        device.wait_for("removed_records_total", &kind, 1);
        device.assert_dropped(&[]);
    }
}

#[test]
fn session_that_ends_with_connection_is_discarded() {
    let _alone = alone();
    for version in VERSIONS {
        let (device, broker) = (Device::start(), Broker::start());
        let client = device.client(&broker.url(), version);
        connect_clean(&client, version, false);
        let losses = client.losses();
        for kind in [Kind::Puback, Kind::Pubcomp] {
            broker.withhold(kind);
        }
        for qos in [1, 2] {
            client.accept("in flight", qos);
        }
        device.wait_for("records", &[("kind", "sent_pubrel")], 1);
        broker.drop_connections();
        losses.recv_timeout(LIMIT).expect("the connection is lost");
        let dropped = [
            ("sent_publish", "session_discarded", 2),
            ("sent_pubrel", "session_discarded", 1),
        ];
        device.assert_dropped(&dropped);
        // A message that waits for a connection outlives it.
        client.accept("waits", 1);
        assert_eq!((device.delivered(), device.waiting()), (0, 1));
    }
}

#[test]
fn clean_start_drops_what_was_in_flight() {
    let _alone = alone();
    let (device, broker) = (Device::start(), Broker::start());
    let client = device.client(&broker.url(), V5);
    client.connect(V5);
    let losses = client.losses();
    broker.withhold(Kind::Puback);
    client.accept("in flight", 1);
    device.wait_for("records", &[("kind", "sent_publish")], 1);
    broker.drop_connections();
    losses.recv_timeout(LIMIT).expect("the connection is lost");
    device.assert_dropped(&[]);
    connect_clean(&client, V5, true);
    device.assert_dropped(&[("sent_publish", "session_lost", 1)]);
    assert_eq!((device.delivered(), device.waiting()), (0, 0));
}

/// Alters the last byte of a PUBLISH that is put again, as Paho does after a write that broke off.
struct Damaging<P> {
    inner: P,
    puts: usize,
}

impl<P: ClientPersistence> ClientPersistence for Damaging<P> {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        self.inner.open(client_id, server_uri)
    }

    fn close(&mut self) -> mqtt::Result<()> {
        self.inner.close()
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
        let is_publish = key.starts_with("s-") || key.starts_with("s5-");
        self.puts += usize::from(is_publish);
        if !is_publish || self.puts == 1 {
            return self.inner.put(key, buffers);
        }
        let mut value = buffers.concat();
        let last = value.last_mut().expect("not empty");
        *last ^= 1;
        self.inner.put(key, vec![&value])
    }

    fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
        self.inner.get(key)
    }

    fn remove(&mut self, key: &str) -> mqtt::Result<()> {
        self.inner.remove(key)
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        self.inner.keys()
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        self.inner.clear()
    }

    fn contains_key(&mut self, key: &str) -> bool {
        self.inner.contains_key(key)
    }
}

#[test]
fn acknowledged_damaged_copy_drops_good_message() {
    let _alone = alone();
    for version in VERSIONS {
        let (device, broker) = (Device::start(), Broker::start());
        let inner = device.persistence();
        let client = create(options(&broker.url(), version, Damaging { inner, puts: 0 }));
        client.connect(version);
        let losses = client.losses();
        broker.withhold(Kind::Puback);
        client.accept("good", 1);
        broker.wait_for(Direction::FromClient, Kind::Publish, 1);
        broker.drop_connections();
        losses.recv_timeout(LIMIT).expect("the connection is lost");
        broker.release(Kind::Puback);
        device.assert_dropped(&[]);
        client.connect(version);
        device.wait_for("waiting_messages", &[], 0);
        device.assert_dropped(&[("sent_publish", "damaged", 1)]);
        assert_eq!(device.delivered(), 0);
    }
}

#[test]
fn messages_add_up_through_outages_and_restarts() {
    let _alone = alone();
    for version in VERSIONS {
        let (mut device, broker) = (Device::start(), Broker::start());
        let client = device.client(&broker.url(), version);
        let publish = |client: &Client, count: i32| {
            for number in 0..count {
                client.accept(&number.to_string(), number % 3);
            }
        };
        publish(&client, 30);
        assert_eq!(device.waiting(), 30);
        device.assert_messages_add_up();

        // The broker acknowledges no message at QoS 1.
        broker.withhold(Kind::Puback);
        client.connect(version);
        device.wait_for("waiting_messages", &[], 10);
        device.assert_messages_add_up();
        for qos in ["0", "2"] {
            device.wait_for("delivered_messages_total", &[("qos", qos)], 10);
        }

        // Without Redis.
        device.redis.kill();
        publish(&client, 30);
        device.wait_for("waiting_messages", &[], 20);
        device.wait_for("delivered_messages_total", &[], 40);
        device.assert_messages_add_up();

        // Without Redis and broker, which then comes back without the session.
        let losses = client.losses();
        broker.discard_sessions(true);
        broker.drop_connections();
        losses.recv_timeout(LIMIT).expect("the connection is lost");
        publish(&client, 30);
        assert_eq!(device.waiting(), 50);
        device.assert_messages_add_up();
        device.redis.restart();
        device.wait_for("store_up", &[], 1);
        broker.release(Kind::Puback);
        client.connect(version);
        device.wait_for("waiting_messages", &[], 0);
        device.assert_dropped(&[("sent_publish", "session_lost", 20)]);
        assert_eq!(device.delivered(), 70);

        // Another start, with messages in flight and waiting ones.
        broker.discard_sessions(false);
        broker.withhold(Kind::Puback);
        client.accept("in flight", 1);
        device.wait_for("records", &[("kind", "sent_publish")], 1);
        let stopped = client.disconnect(None);
        stopped.wait_for(LIMIT).expect("disconnects");
        publish(&client, 3);
        device.assert_messages_add_up();
        drop(client);
        let client = create(options(
            &broker.url(),
            version,
            device.persistence_with_cache(0),
        ));
        assert_eq!(device.waiting(), 4);
        device.assert_messages_add_up();
        broker.release(Kind::Puback);
        client.connect(version);
        device.wait_for("delivered_messages_total", &[], 4);
        device.assert_messages_add_up();

        // Redis loses messages. The program has a copy of the youngest one only.
        let stopped = client.disconnect(None);
        stopped.wait_for(LIMIT).expect("disconnects");
        publish(&client, 6);
        let mut redis = device.redis.connection();
        redis::cmd("FLUSHALL").exec(&mut redis).expect("empty");
        device.wait_for("lost_messages_total", &[], 5);
        assert_eq!((device.delivered(), device.waiting()), (4, 1));
        device.assert_messages_add_up();
    }
}
