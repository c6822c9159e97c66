//! Accepted readings survive a killed device: none is lost at QoS 1 and 2, and none arrives twice at QoS 2.

use std::collections::HashMap;

use paho_mqtt as mqtt;
use testkit::{LIMIT, Mosquitto, Proxy, RedisServer, Subscriber, device, device::Device, packet};

const TOPIC: &str = "example/readings";

/// Starts a subscriber to the readings.
///
/// At QoS 2, a restarted Mosquitto 2.0 repeats incomplete messages to its subscribers, which would count as duplicates of the
/// device; hence QoS 0.
fn subscriber(broker: &Mosquitto) -> Subscriber {
    Subscriber::start(&broker.url(), TOPIC, 0)
}

/// Counts the arrivals of each reading, after the broker has delivered all its messages.
fn arrivals(broker: &Mosquitto, subscriber: &Subscriber) -> HashMap<String, usize> {
    // A broker delivers to a subscriber in the order of arrival, so this is the last message.
    const MARK: &[u8] = b"the end";
    let options = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .client_id("marker")
        .persistence(mqtt::PersistenceType::None)
        .finalize();
    let client = mqtt::AsyncClient::new(options).expect("a client");
    client
        .connect(mqtt::ConnectOptions::new())
        .wait_for(LIMIT)
        .expect("connects");
    client
        .publish(mqtt::Message::new(TOPIC, MARK, 2))
        .wait_for(LIMIT)
        .expect("publishes");
    client
        .disconnect(None)
        .wait_for(LIMIT)
        .expect("disconnects");
    let messages = testkit::eventually(LIMIT, "the mark arrives", || {
        let messages = subscriber.messages();
        messages
            .iter()
            .any(|(_, payload)| payload == MARK)
            .then_some(messages)
    });
    let mut arrivals = HashMap::new();
    for (_, payload) in messages.iter().filter(|(_, payload)| payload != MARK) {
        *arrivals.entry(device::id(payload)).or_default() += 1;
    }
    arrivals
}

fn records(redis: &RedisServer) -> Vec<String> {
    let mut connection = redis.connection();
    let hashes: Vec<String> = redis::cmd("KEYS")
        .arg("*")
        .query(&mut connection)
        .expect("KEYS");
    let fields = |hash| {
        redis::cmd("HKEYS")
            .arg(hash)
            .query::<Vec<String>>(&mut connection)
    };
    hashes
        .into_iter()
        .map(fields)
        .flat_map(|fields| fields.expect("HKEYS"))
        .collect()
}

/// Kills a device whose QoS 2 message awaits the withheld packet `lost`, and asserts that a second run delivers it once.
fn killed_without_an_answer(version: &str, lost: u8) {
    let redis = RedisServer::start();
    let broker = Mosquitto::start();
    let proxy = Proxy::start(broker.port());
    let subscriber = subscriber(&broker);
    let options = [
        "--qos", "2", "--mqtt", version, "--count", "1", "--listen", "none",
    ];
    let device = Device::new(&proxy.url(), &redis.url(), &options);

    proxy.withhold(lost);
    let mut first = device.start(&["--stop-timeout", "60"]);
    proxy.wait_lost(lost, LIMIT);
    // The broker can be faster than the ledger of the device.
    device.wait_accepted_in_all(&mut first, 1);
    first.kill();
    assert!(!records(&redis).is_empty(), "the message is stored");

    let publishes = proxy.sent(packet::PUBLISH);
    assert_eq!(publishes, 1);
    proxy.release();
    let mut second = device.start(&[]);
    let status = second.wait();
    assert!(status.success(), "{status}: {}", second.log());

    let arrivals = arrivals(&broker, &subscriber);
    assert_eq!(device.accepted().len(), 2);
    for accepted in device.accepted() {
        assert_eq!(
            arrivals.get(&accepted),
            Some(&1),
            "{accepted} in {arrivals:?}\n{}",
            second.log()
        );
    }
    assert_eq!(arrivals.len(), 2);
    // A PUBLISH is resent if and only if its PUBREC was lost.
    let again = usize::from(lost == packet::PUBREC);
    assert_eq!(proxy.sent(packet::PUBLISH) - publishes, 1 + again);
    assert_eq!(records(&redis), Vec::<String>::new());
}

#[test]
fn qos_2_message_without_pubrec_arrives_once_mqtt_5() {
    killed_without_an_answer("5", packet::PUBREC);
}

#[test]
fn qos_2_message_without_pubrec_arrives_once_mqtt_3() {
    killed_without_an_answer("3.1.1", packet::PUBREC);
}

#[test]
fn qos_2_message_without_pubcomp_arrives_once_mqtt_5() {
    killed_without_an_answer("5", packet::PUBCOMP);
}

#[test]
fn qos_2_message_without_pubcomp_arrives_once_mqtt_3() {
    killed_without_an_answer("3.1.1", packet::PUBCOMP);
}

/// Kills a publishing device several times, once without its broker, and then lets it run to its end.
fn killed_in_full_flow(qos: &str, version: &str) -> (Vec<String>, HashMap<String, usize>) {
    let redis = RedisServer::start();
    let mut broker = Mosquitto::start();
    let subscriber = subscriber(&broker);
    let options = [
        "--qos", qos, "--mqtt", version, "--rate", "1000", "--listen", "none",
    ];
    let device = Device::new(&broker.url(), &redis.url(), &options);
    for _ in 0..3 {
        let mut run = device.start(&[]);
        device.wait_accepted(&mut run, 150);
        run.kill();
    }
    let mut run = device.start(&[]);
    device.wait_accepted(&mut run, 50);
    broker.stop();
    device.wait_accepted(&mut run, 100);
    run.kill();
    assert!(
        qos == "0" || records(&redis).len() >= 100,
        "the backlog is stored"
    );
    broker.restart();

    let mut last = device.start(&["--count", "100", "--stop-timeout", "15"]);
    let status = last.wait();
    assert!(status.success(), "{status}: {}", last.log());
    let arrivals = arrivals(&broker, &subscriber);
    let remaining = records(&redis);
    assert_eq!(remaining, Vec::<String>::new(), "{}", last.log());
    (device.accepted(), arrivals)
}

#[track_caller]
fn assert_nothing_lost(accepted: &[String], arrivals: &HashMap<String, usize>) {
    let lost: Vec<_> = accepted
        .iter()
        .filter(|id| !arrivals.contains_key(*id))
        .collect();
    assert!(
        lost.is_empty(),
        "of {} accepted these did not arrive: {lost:?}",
        accepted.len()
    );
}

#[track_caller]
fn assert_nothing_doubled(arrivals: &HashMap<String, usize>) {
    let doubled: Vec<_> = arrivals.iter().filter(|(_, times)| **times > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
}

#[test]
fn killed_device_at_qos_0_continues() {
    let (accepted, arrivals) = killed_in_full_flow("0", "5");
    assert_nothing_doubled(&arrivals);
    let last = accepted.last().expect("readings");
    assert!(arrivals.contains_key(last), "the last reading arrives");
}

#[test]
fn killed_device_at_qos_1_loses_nothing_mqtt_5() {
    let (accepted, arrivals) = killed_in_full_flow("1", "5");
    assert_nothing_lost(&accepted, &arrivals);
}

#[test]
fn killed_device_at_qos_1_loses_nothing_mqtt_3() {
    let (accepted, arrivals) = killed_in_full_flow("1", "3.1.1");
    assert_nothing_lost(&accepted, &arrivals);
}

#[test]
fn killed_device_at_qos_2_delivers_once_mqtt_5() {
    let (accepted, arrivals) = killed_in_full_flow("2", "5");
    assert_nothing_lost(&accepted, &arrivals);
    assert_nothing_doubled(&arrivals);
}

#[test]
fn killed_device_at_qos_2_delivers_once_mqtt_3() {
    let (accepted, arrivals) = killed_in_full_flow("2", "3.1.1");
    assert_nothing_lost(&accepted, &arrivals);
    assert_nothing_doubled(&arrivals);
}

/// Covers a whole run, so that a limit on waiting for acknowledgments is not mistaken for a loss.
#[test]
fn clean_stop_leaves_no_record() {
    let redis = RedisServer::start();
    let broker = Mosquitto::start();
    let device = Device::new(
        &broker.url(),
        &redis.url(),
        &["--rate", "200", "--listen", "none"],
    );
    let mut run = device.start(&[]);
    device.wait_accepted(&mut run, 50);
    let status = run.stop();
    assert!(status.success(), "{status}: {}", run.log());
    let log = run.log();
    assert!(log.contains("nothing is left in Redis"), "{log}");
    assert_eq!(records(&redis), Vec::<String>::new());
}
