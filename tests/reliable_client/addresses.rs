//! The addresses of the broker: one per attempt, and only such as Paho can use.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{Client, ConnectionState, ErrorKind, MemoryPersistence, Session};
use testkit::{LIMIT, broker::Broker, eventually};

use super::world::{CLIENT, message, wait_for};

fn session(broker: &str) -> Session {
    Session::new(CLIENT, broker)
        .persistence(MemoryPersistence::new())
        .backoff(Duration::from_millis(10), Duration::from_millis(50))
}

/// An address that accepts connections and never answers.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let url = format!("mqtt://{}", listener.local_addr().expect("bound"));
    (listener, url)
}

#[track_caller]
fn delivers(client: &Client) {
    let mut delivery = client.publish(message("x")).expect("accepted");
    delivery.wait_for(LIMIT).expect("acknowledged");
}

#[test]
fn lost_first_address_is_replaced_by_second() {
    let (first, second) = (Broker::start(), Broker::start());
    let client = session(&first.url()).broker(second.url()).start();
    let client = client.expect("starts");
    wait_for(&client, ConnectionState::Connected);
    delivers(&client);
    first.refuse(usize::MAX);
    first.drop_connections();
    eventually(LIMIT, "it connects again", || {
        (client.state().connects == 2 && client.state().is_connected()).then_some(())
    });
    delivers(&client);
    assert_eq!((first.accepted().len(), second.accepted().len()), (1, 1));
    let started = Instant::now();
    client.stop(LIMIT).expect("stops");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn address_that_never_answers_is_left() {
    let (_listener, silent) = silent();
    let broker = Broker::start();
    let client = session(&silent).broker(broker.url());
    let client = client.connect_timeout(Duration::from_secs(1)).start();
    let client = client.expect("starts");
    wait_for(&client, ConnectionState::Connected);
    assert_eq!(client.state().failed_attempts, 1);
    delivers(&client);
    client.stop(LIMIT).expect("stops");
}

#[test]
fn scheme_of_name_changes_no_connection() {
    for name in ["ws://old:80", "mqtts://old:8883", "unix:///old"] {
        let broker = Broker::start();
        let client = session(&broker.url()).name(name).start().expect("starts");
        delivers(&client);
        client.stop(LIMIT).expect("stops");
    }
}

#[test]
fn addresses_of_different_kinds_are_refused() {
    for (first, second) in [
        ("mqtt://a", "mqtts://b"),
        ("wss://a", "ws://b"),
        ("ws://a", "tcp://b"),
        ("unix:///a", "mqtt://b"),
    ] {
        let error = session(first).broker(second).start().expect_err(second);
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.to_string().contains("the option broker:"), "{error}");
    }
    session("tcp://127.0.0.1:1")
        .broker("mqtt://127.0.0.1:1")
        .start()
        .expect("the same kind");
}

#[test]
fn secure_address_without_tls_is_refused() {
    // The tests are built without the TLS of Paho.
    for broker in ["mqtts://127.0.0.1:1", "wss://127.0.0.1:1", "ssl://a"] {
        let error = session(broker).start().expect_err(broker);
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.to_string().contains("mqtt-tls"), "{error}");
    }
}

#[test]
fn every_version_starts_over_websocket() {
    for version in [mqtt::MQTT_VERSION_3_1_1, mqtt::MQTT_VERSION_5] {
        for scheme in ["mqtt", "tcp", "ws"] {
            let session = session(&format!("{scheme}://127.0.0.1:1"));
            let client = session.mqtt_version(version).start();
            let client = client.unwrap_or_else(|error| panic!("{scheme} {version}: {error}"));
            eventually(LIMIT, "an attempt fails", || {
                (client.state().failed_attempts > 0).then_some(())
            });
        }
    }
}

#[test]
fn name_that_cannot_be_resolved_is_shown() {
    let client = session("mqtt://no-such-broker.invalid:1883").start();
    let client = client.expect("starts");
    let error = eventually(LIMIT, "an attempt fails", || client.state().last_error);
    let expected =
        "mqtt://no-such-broker.invalid:1883: cannot resolve the name no-such-broker.invalid: ";
    assert!(error.starts_with(expected), "{error}");
    drop(client.publish(message("x")).expect("accepted"));
}

#[test]
fn failures_name_their_address() {
    let broker = Broker::start();
    let (dead, url) = ("mqtt://127.0.0.1:1", broker.url());
    let client = session(dead).broker(&url).start().expect("starts");
    wait_for(&client, ConnectionState::Connected);
    let error = client.state().last_error.expect("that of the first one");
    assert!(error.starts_with(&format!("{dead}: ")), "{error}");
    broker.refuse(usize::MAX);
    broker.drop_connections();
    let lost = format!("{url}: ");
    eventually(LIMIT, "the loss is shown", || {
        client.state().last_error?.starts_with(&lost).then_some(())
    });
}
