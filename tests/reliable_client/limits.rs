//! The limits of what waits.

use std::time::{Duration, Instant};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{
    ErrorKind, MemoryPersistence, PersistenceMetrics, Session, prometheus::Registry, render,
};

use super::world::{CLIENT, message};

/// An address of no broker.
const NOWHERE: &str = "mqtt://127.0.0.1:1";

#[test]
fn message_at_limit_is_refused_at_once() {
    const LIMIT: usize = 3_000;
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let persistence = MemoryPersistence::new();
    let session = || {
        Session::new(CLIENT, NOWHERE)
            .persistence(persistence.clone())
            .max_messages(LIMIT)
            .metrics(&metrics)
    };
    let client = session().start().expect("starts");
    for number in 0..LIMIT {
        drop(client.publish(message(&number.to_string())).expect("room"));
    }
    let started = Instant::now();
    for _ in 0..100 {
        let error = client.publish(message("more")).expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        assert_eq!(error.into_message().payload_str(), "more");
    }
    // Paho alone would search its lists of 3,000 messages for each of 3,000 packet ids.
    let took = started.elapsed();
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(client.state().refused, 100);
    assert!(client.check_room(1).is_err());
    let text = render(&registry).expect("renders");
    let line = format!("mqtt_persistence_refused_messages_total{{client_id=\"{CLIENT}\"}} 100");
    assert!(text.contains(&line), "{text}");
    let stopped = client.stop(Duration::ZERO).expect("stops");
    assert_eq!(stopped.pending, LIMIT);

    // Those of an earlier run count too.
    let client = session().start().expect("starts");
    let error = client.publish(message("more")).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert!(error.to_string().contains("max_messages: 3000"), "{error}");
}

#[test]
fn message_over_byte_budget_is_refused() {
    let session = Session::new(CLIENT, NOWHERE).persistence(MemoryPersistence::new());
    let client = session.byte_budget(10_000).start().expect("starts");
    let large = "x".repeat(4_000);
    for _ in 0..2 {
        drop(client.publish(message(&large)).expect("room"));
    }
    let error = client.publish(message(&large)).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert!(error.to_string().contains("byte_budget"), "{error}");
    drop(client.publish(message("small")).expect("room"));
    assert_eq!(client.state().refused, 1);
}

#[test]
fn option_that_cannot_work_is_named() {
    let session = || Session::new(CLIENT, NOWHERE).persistence(MemoryPersistence::new());
    let property = || {
        let mut properties = mqtt::Properties::new();
        let expiry = mqtt::PropertyCode::SessionExpiryInterval;
        properties.push_u32(expiry, 1).expect("a property");
        properties
    };
    for (session, option) in [
        (session().broker("broker.example:1883"), "broker"),
        (session().broker("mqtt://"), "broker"),
        (session().name("backlog"), "name"),
        (
            session().mqtt_version(mqtt::MQTT_VERSION_3_1),
            "mqtt_version",
        ),
        (session().session_expiry(Duration::ZERO), "session_expiry"),
        (session().max_messages(3), "max_messages"),
        (session().max_messages(65_535), "max_messages"),
        (session().max_inflight(0), "max_inflight"),
        (session().backoff(Duration::ZERO, Duration::ZERO), "backoff"),
        (
            session().connect_properties(property()),
            "connect_properties",
        ),
        (
            session()
                .mqtt_version(mqtt::MQTT_VERSION_3_1_1)
                .connect_options(|options| {
                    options.properties(mqtt::Properties::new());
                }),
            "connect_options",
        ),
    ] {
        let error = session.start().expect_err(option);
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("the option {option}:")), "{text}");
    }
    let session = Session::new("", NOWHERE).persistence(MemoryPersistence::new());
    let error = session.start().expect_err("no client id");
    assert_eq!(error.kind(), ErrorKind::InvalidClientId, "{error}");
}

#[test]
fn limit_holds_though_handle_was_taken_before() {
    let persistence = MemoryPersistence::new();
    let health = persistence.health();
    let session = Session::new(CLIENT, NOWHERE).persistence(persistence);
    let client = session.byte_budget(5_000).max_messages(100).start();
    let client = client.expect("starts");
    assert_eq!(health.snapshot().limit_messages, Some(100));
    drop(client.publish(message("small")).expect("room"));
    let refused = client.publish(message(&"x".repeat(6_000)));
    let error = refused.expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
}

#[test]
fn topic_that_mqtt_forbids_is_refused() {
    let session = Session::new(CLIENT, NOWHERE).persistence(MemoryPersistence::new());
    let client = session.start().expect("starts");
    let long = "x".repeat(65_536);
    for topic in ["", "a/+", "#", "a/#/b", long.as_str()] {
        let refused = client.publish(mqtt::Message::new(topic, "x", mqtt::QOS_1));
        let error = refused.expect_err("MQTT forbids it");
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        assert!(error.to_string().len() < 300, "{error}");
    }
    assert_eq!(client.health().snapshot().waiting_messages, 0);
    let longest = mqtt::Message::new(&long[1..], "x", mqtt::QOS_1);
    drop(client.publish(longest).expect("allowed"));
}
