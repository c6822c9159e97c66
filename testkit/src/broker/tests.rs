//! The scripted broker behaves as a correct broker, except as scripted.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc,
    time::Duration,
};

use paho_mqtt as mqtt;

use crate::{
    LIMIT,
    broker::{Action, Broker, Direction, Kind, Seen},
    recording::{Client, alone},
};

const VERSIONS: [mqtt::MqttVersion; 2] = [mqtt::MqttVersion::V3_1_1, mqtt::MqttVersion::V5];

fn client(broker: &Broker, version: mqtt::MqttVersion) -> Client {
    let client = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .client_id("client")
        .mqtt_version(version)
        .persistence(mqtt::PersistenceType::None)
        .create_client();
    Client::from(client.expect("a client"))
}

fn options(version: mqtt::MqttVersion, keeps: bool) -> mqtt::ConnectOptions {
    let mut options = mqtt::ConnectOptionsBuilder::with_mqtt_version(version);
    if version == mqtt::MqttVersion::V5 {
        let mut properties = mqtt::Properties::new();
        let expiry = u32::from(keeps) * 3600;
        properties
            .push_u32(mqtt::PropertyCode::SessionExpiryInterval, expiry)
            .expect("a property of CONNECT");
        options.clean_start(!keeps).properties(properties);
    } else {
        options.clean_session(!keeps);
    }
    options.finalize()
}

/// Connects and returns true if the broker had a session.
fn connect(client: &mqtt::AsyncClient, keeps: bool) -> bool {
    let options = options(client.mqtt_version(), keeps);
    let response = client.connect(options).wait_for(LIMIT).expect("connects");
    response
        .connect_response()
        .expect("a CONNACK")
        .session_present
}

fn publish(client: &mqtt::AsyncClient, payload: &str, qos: i32) -> mqtt::DeliveryToken {
    client.publish(mqtt::Message::new("a/topic", payload, qos))
}

fn accepted(broker: &Broker) -> Vec<(String, u8)> {
    let text = |payload| String::from_utf8(payload).expect("UTF-8");
    broker
        .accepted()
        .into_iter()
        .map(|accepted| (text(accepted.payload), accepted.qos))
        .collect()
}

#[test]
fn broker_accepts_messages_once_and_sees_all_packets() {
    let _alone = alone();
    for version in VERSIONS {
        let broker = Broker::start();
        let client = client(&broker, version);
        assert!(!connect(&client, true));
        client.subscribe("b/#", 2).wait_for(LIMIT).expect("SUBACK");
        for qos in 0..=2 {
            let token = publish(&client, &format!("at {qos}"), qos);
            token.wait_for(LIMIT).expect("is delivered");
        }
        client.unsubscribe("b/#").wait_for(LIMIT).expect("UNSUBACK");
        client.disconnect(None).wait_for(LIMIT).expect("goes");
        broker.wait_for(Direction::FromClient, Kind::Disconnect, 1);

        let at = |qos| (format!("at {qos}"), qos);
        assert_eq!(accepted(&broker), [at(0), at(1), at(2)]);
        let kinds: Vec<_> = broker.seen().iter().map(|seen| seen.packet.kind).collect();
        let expected = [
            Kind::Connect,
            Kind::Connack,
            Kind::Subscribe,
            Kind::Suback,
            Kind::Publish,
            Kind::Publish,
            Kind::Puback,
            Kind::Publish,
            Kind::Pubrec,
            Kind::Pubrel,
            Kind::Pubcomp,
            Kind::Unsubscribe,
            Kind::Unsuback,
            Kind::Disconnect,
        ];
        assert_eq!(kinds, expected);
        assert_eq!(broker.faults(), Vec::<String>::new());
    }
}

/// Loses the connection while the answer to the second message is withheld, and reconnects.
fn without_an_answer(version: mqtt::MqttVersion, kind: Kind, qos: i32) -> Broker {
    let broker = Broker::start();
    let client = client(&broker, version);
    let losses = client.losses();
    connect(&client, true);
    broker.withhold_nth(kind, 2);
    publish(&client, "first", qos)
        .wait_for(LIMIT)
        .expect("is delivered");
    let second = publish(&client, "second", qos);
    broker.wait_for(Direction::Withheld, kind, 1);
    broker.drop_connections();
    losses.recv_timeout(LIMIT).expect("the connection is lost");
    assert!(connect(&client, true));
    second.wait_for(LIMIT).expect("is delivered at last");
    broker
}

#[test]
fn resent_qos_2_message_is_accepted_once() {
    let _alone = alone();
    for version in VERSIONS {
        for (kind, publishes) in [(Kind::Pubrec, 3), (Kind::Pubcomp, 2)] {
            let broker = without_an_answer(version, kind, 2);
            assert_eq!(accepted(&broker).len(), 2);
            assert_eq!(
                broker.count(Direction::FromClient, Kind::Publish),
                publishes
            );
            let dup = |seen: &Seen| seen.packet.dup;
            assert_eq!(
                broker.seen().iter().filter(|seen| dup(seen)).count(),
                publishes - 2
            );
        }
    }
}

#[test]
fn resent_qos_1_message_is_accepted_again() {
    let _alone = alone();
    for version in VERSIONS {
        let broker = without_an_answer(version, Kind::Puback, 1);
        let [first, second] = ["first", "second"].map(|text| (text.to_owned(), 1));
        assert_eq!(accepted(&broker), [first, second.clone(), second]);
    }
}

#[test]
fn withheld_kind_is_sent_after_release() {
    let _alone = alone();
    let broker = Broker::start();
    let client = client(&broker, mqtt::MqttVersion::V5);
    connect(&client, true);
    broker.withhold(Kind::Suback);
    let short = Duration::from_millis(50);
    client.subscribe("b/#", 1).wait_for(short).unwrap_err();
    broker.release(Kind::Suback);
    client.subscribe("b/#", 1).wait_for(LIMIT).expect("SUBACK");
}

#[test]
fn session_ends_with_connection_unless_kept() {
    let _alone = alone();
    for version in VERSIONS {
        let broker = Broker::start();
        let client = client(&broker, version);
        let reconnect = |keeps| {
            let present = connect(&client, keeps);
            client.disconnect(None).wait_for(LIMIT).expect("goes");
            present
        };
        assert!(!reconnect(true));
        assert!(reconnect(true));
        assert!(!reconnect(false));
        assert!(!reconnect(true));
        broker.discard_sessions(true);
        assert!(!reconnect(true));
        broker.discard_sessions(false);
        assert!(reconnect(true));
    }
}

#[test]
fn client_is_refused_requested_number_of_times() {
    let _alone = alone();
    for version in VERSIONS {
        let broker = Broker::start();
        broker.refuse(2);
        let client = client(&broker, version);
        for _ in 0..2 {
            let attempt = client.connect(options(version, true));
            attempt.wait_for(LIMIT).unwrap_err();
        }
        connect(&client, true);
        assert_eq!(broker.count(Direction::FromClient, Kind::Connect), 3);
    }
}

#[test]
fn connection_ends_at_requested_packet() {
    let _alone = alone();
    for version in VERSIONS {
        let broker = Broker::start();
        broker.drop_at(Kind::Publish, 2);
        broker.when(
            |packet| packet.kind == Kind::Publish,
            vec![Action::Refuse(1)],
        );
        let client = client(&broker, version);
        let losses = client.losses();
        connect(&client, true);
        publish(&client, "first", 1)
            .wait_for(LIMIT)
            .expect("is delivered");
        let second = publish(&client, "second", 1);
        losses.recv_timeout(LIMIT).expect("the connection is lost");
        client
            .connect(options(version, true))
            .wait_for(LIMIT)
            .unwrap_err();
        assert!(connect(&client, true));
        second.wait_for(LIMIT).expect("is delivered at last");
    }
}

#[test]
fn client_receives_once_over_lost_connections() {
    let _alone = alone();
    for version in VERSIONS {
        let broker = Broker::start();
        let client = client(&broker, version);
        let losses = client.losses();
        let (received, inbox) = mpsc::channel();
        client.set_message_callback(move |_, message| {
            // No message arrives when the connection is lost.
            let Some(message) = message else { return };
            // A test that has ended has no receiver.
            let _ = received.send((message.payload_str().into_owned(), message.qos() as u8));
        });
        connect(&client, true);
        let next = || inbox.recv_timeout(LIMIT).expect("a message arrives");
        for qos in 0..=2 {
            broker.deliver("client", "b/c", b"one", qos);
            assert_eq!(next(), ("one".to_owned(), qos));
        }
        broker.wait_acknowledged("client");

        for kind in [Kind::Publish, Kind::Pubrel] {
            broker.withhold(kind);
            broker.deliver("client", "b/c", b"two", 2);
            broker.wait_for(Direction::Withheld, kind, 1);
            broker.drop_connections();
            losses.recv_timeout(LIMIT).expect("the connection is lost");
            broker.release(kind);
            assert!(connect(&client, true));
            assert_eq!(next(), ("two".to_owned(), 2));
            broker.wait_acknowledged("client");
        }
        let more = inbox.try_iter().count();
        assert_eq!(more, 0, "{:#?}", broker.seen());
    }
}

#[test]
fn protocol_violation_is_fault_and_ends_connection() {
    let broker = Broker::start();
    let address = broker.url();
    let address = address.strip_prefix("mqtt://").expect("a URL of ours");
    let mut stream = TcpStream::connect(address).expect("listens");
    stream
        .write_all(b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01x\x36\x05\x00\x01a\x00\x01")
        .expect("takes it");
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("the connection ends");
    assert_eq!(answer, b"\x20\x02\x00\x00");
    assert_eq!(broker.faults(), ["x: a PUBLISH at QoS 3"]);
}
