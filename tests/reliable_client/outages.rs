//! Outages of broker and Redis, at the start and later.

use std::time::{Duration, Instant, SystemTime};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{
    ConnectionState, ErrorKind, MemoryPersistence, PersistenceMetrics, Session,
    prometheus::Registry, render,
};
use testkit::{
    LIMIT, Mosquitto, eventually,
    log::Log,
    network::{Link, Network},
};

use super::world::{CLIENT, TOPIC, World, message, payloads, publish, session, wait_for};

#[test]
fn broker_away_at_start_gets_every_message_later() {
    let mut world = World::start();
    world.broker.stop();
    let client = world.session().start().expect("starts without a broker");
    publish(&client, "early", 20);
    let state = eventually(LIMIT, "attempts fail", || {
        let state = client.state();
        (state.failed_attempts > 1 && state.connection == ConnectionState::Waiting).then_some(state)
    });
    assert!(state.last_error.is_some(), "{state:?}");
    let next = state.next_attempt.expect("it waits");
    assert!(next <= SystemTime::now() + Duration::from_secs(1));
    assert_eq!((state.pending, state.acknowledged), (20, 0));

    world.broker.restart();
    assert_eq!(world.arrived(20), payloads("early", 20));
    let delivery = client.publish(message("late")).expect("accepted");
    delivery.wait().expect("acknowledged");
    let state = client.state();
    assert!(state.is_connected(), "{state:?}");
    let stopped = client.stop(LIMIT).expect("stops");
    assert_eq!((stopped.acknowledged, stopped.pending), (21, 0));
    assert_eq!(world.arrived(21).len(), 21);
}

#[test]
fn broker_that_restarts_gets_each_message_once() {
    let mut world = World::start();
    let client = world.session().start().expect("starts");
    let mut all = Vec::new();
    for round in 0..3 {
        wait_for(&client, ConnectionState::Connected);
        let run = format!("up {round}");
        publish(&client, &run, 20);
        all.extend(payloads(&run, 20));
        world.arrived(all.len());
        world.stop_broker(&client);
        let run = format!("down {round}");
        publish(&client, &run, 20);
        all.extend(payloads(&run, 20));
        wait_for(&client, ConnectionState::Waiting);
        world.broker.restart();
    }
    assert_eq!(world.arrived(all.len()), all);
    let state = client.state();
    assert_eq!((state.connects >= 3, state.sessions_lost), (true, 0));
    let stopped = client.stop(LIMIT).expect("stops");
    assert_eq!(stopped.pending, 0);
    assert_eq!(world.arrived(all.len()), all);
}

#[test]
fn redis_outage_delays_no_message() {
    let mut world = World::start();
    let client = world.session().start().expect("starts");
    publish(&client, "before", 10);
    world.redis.kill();
    publish(&client, "during", 10);
    world.arrived(20);
    world.redis.restart();
    publish(&client, "after", 10);
    world.arrived(30);
    let stopped = client.stop(LIMIT).expect("Redis has everything");
    assert_eq!((stopped.acknowledged, stopped.pending), (30, 0));
}

#[test]
fn stop_reports_what_only_memory_has() {
    let mut world = World::start();
    let client = world.session().start().expect("starts");
    wait_for(&client, ConnectionState::Connected);
    world.stop_broker(&client);
    world.redis.kill();
    publish(&client, "lost", 3);
    let error = client.stop(Duration::ZERO).expect_err("Redis is gone");
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(
        error.to_string().contains("lacks 3 of its records"),
        "{error}"
    );
}

#[test]
fn redis_away_at_start_is_typed_error() {
    let mut world = World::start();
    world.redis.kill();
    let start = || {
        world
            .session()
            .redis(|redis| redis.open_timeout(Duration::from_millis(100)))
    };
    let error = start().start().expect_err("no store");
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    // Unless that is wanted.
    let session = start().redis(|redis| redis.open_without_redis(true));
    let log = Log::default();
    let client = log
        .during(|| session.start())
        .expect("starts without Redis");
    assert!(
        log.text().contains("starts without its store"),
        "{}",
        log.text()
    );
    publish(&client, "held", 5);
    assert_eq!(world.arrived(5), payloads("held", 5));
    world.redis.restart();
    client.stop(LIMIT).expect("Redis has everything");
}

#[test]
fn stop_succeeds_if_missing_redis_lacks_nothing() {
    let mut world = World::start();
    world.redis.kill();
    let session = world.session().redis(|redis| {
        let redis = redis.open_timeout(Duration::from_millis(100));
        redis.open_without_redis(true)
    });
    let client = session.start().expect("starts without Redis");
    publish(&client, "sent", 1);
    assert_eq!(world.arrived(1), payloads("sent", 1));
    eventually(LIMIT, "its record is no longer needed", || {
        (client.health().snapshot().held_records == 0).then_some(())
    });
    let stopped = client.stop(LIMIT).expect("nothing is lost");
    assert_eq!((stopped.acknowledged, stopped.pending), (1, 0));
}

#[test]
fn second_address_is_used_if_first_is_dead() {
    let world = World::start();
    let dead = {
        let mut broker = Mosquitto::start();
        broker.kill();
        broker.url()
    };
    let start = |first: &str, second: &str| {
        let session = session(first, &world.redis).broker(second);
        session.start().expect("starts")
    };
    let client = start(&dead, &world.broker.url());
    publish(&client, "one", 5);
    world.arrived(5);
    client.stop(LIMIT).expect("stops");
    // The records have a name that depends on no address, so what waits is found again after a move.
    let client = start(&dead, &dead);
    publish(&client, "two", 5);
    let stopped = client.stop(Duration::ZERO).expect("stops");
    assert_eq!(stopped.pending, 5);
    let client = start(&world.broker.url(), &dead);
    assert_eq!(world.arrived(10)[5..], payloads("two", 5));
    client.stop(LIMIT).expect("stops");
}

#[test]
fn stop_waits_for_messages_of_earlier_run() {
    let mut world = World::start();
    world.broker.stop();
    let client = world.session().start().expect("starts");
    publish(&client, "earlier", 50);
    let stopped = client.stop(Duration::ZERO).expect("flushed");
    assert_eq!((stopped.acknowledged, stopped.pending), (0, 50));
    world.broker.restart();
    let client = world.session().start().expect("starts");
    let stopped = client.stop(LIMIT).expect("stops");
    assert_eq!(stopped.pending, 0);
    assert_eq!(world.arrived(50), payloads("earlier", 50));
}

#[test]
fn stop_without_broker_takes_its_time_limit() {
    let mut world = World::start();
    world.broker.stop();
    let client = world.session().start().expect("starts");
    let delivery = client.publish(message("waits")).expect("accepted");
    let other = client.clone();
    let started = Instant::now();
    client.stop(Duration::from_millis(300)).expect("flushed");
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let error = delivery.wait().expect_err("it was stopped");
    assert_eq!(error.kind(), ErrorKind::NotOpen, "{error}");
    let error = other.publish(message("too late")).expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::NotOpen, "{error}");
    let error = other.stop(LIMIT).expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::NotOpen, "{error}");
}

#[test]
fn metrics_show_connection_and_next_attempt() {
    let mut world = World::start();
    world.broker.stop();
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let client = world.session().metrics(&metrics).start().expect("starts");
    let value = |name: &str| {
        let text = render(&registry).expect("renders");
        let start = format!("mqtt_persistence_{name}{{client_id=\"{CLIENT}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.map(|value| value.parse::<f64>().expect("a number"))
    };
    eventually(LIMIT, "an attempt fails and the next one is shown", || {
        let has_failed = value("broker_failed_attempts_total")? > 0.0;
        let next = value("broker_next_attempt_timestamp_seconds")?;
        (has_failed && next > 1.7e9).then_some(())
    });
    assert_eq!(value("broker_up"), Some(0.0));
    world.broker.restart();
    eventually(LIMIT, "it is connected", || {
        (value("broker_up")? > 0.0).then_some(())
    });
    assert_eq!(value("broker_next_attempt_timestamp_seconds"), Some(0.0));
    assert_eq!(value("broker_connections_total"), Some(1.0));
    assert_eq!(value("waiting_messages"), Some(0.0));
    drop(client);
    assert_eq!(value("broker_up"), None);
}

/// Returns the time from the start to the last acknowledgment of a backlog, over a network with a round trip of 50 ms.
fn backlog_takes(max_inflight: Option<u16>) -> Duration {
    const BACKLOG: usize = 200;
    let broker = Mosquitto::start();
    let delay = Duration::from_millis(25);
    let link = Link {
        delay,
        ..Link::default()
    };
    let network = Network::start(broker.port(), link);
    let persistence = MemoryPersistence::new();
    let session = |broker: &str| {
        let session = Session::new(CLIENT, broker).persistence(persistence.clone());
        match max_inflight {
            Some(window) => session.max_inflight(window),
            None => session,
        }
    };
    let away = session("mqtt://127.0.0.1:1").start().expect("starts");
    for number in 0..BACKLOG {
        let message = mqtt::Message::new(TOPIC, number.to_string(), mqtt::QOS_1);
        drop(away.publish(message).expect("accepted"));
    }
    away.stop(Duration::ZERO).expect("stops");
    let url = format!("mqtt://127.0.0.1:{}", network.port());
    let client = session(&url).start().expect("starts");
    wait_for(&client, ConnectionState::Connected);
    let started = Instant::now();
    eventually(LIMIT, "all is acknowledged", || {
        (client.health().snapshot().waiting_messages == 0).then_some(())
    });
    let took = started.elapsed();
    client.stop(LIMIT).expect("stops");
    took
}

#[test]
fn window_bounds_rate_of_backlog() {
    // 200 messages, 10 per round trip of 50 ms. Some of the first ten are sent before the client is seen connected.
    let bounded = backlog_takes(Some(10));
    assert!(bounded >= Duration::from_millis(850), "{bounded:?}");
    let unbounded = backlog_takes(None);
    assert!(unbounded < bounded / 2, "{unbounded:?} of {bounded:?}");
    println!("{bounded:?} with a window of 10, {unbounded:?} without");
}

#[test]
fn mqtt_3_client_survives_restart_of_broker() {
    let mut world = World::start();
    let start = || {
        let session = world.session().mqtt_version(mqtt::MQTT_VERSION_3_1_1);
        session.start().expect("starts")
    };
    let client = start();
    wait_for(&client, ConnectionState::Connected);
    publish(&client, "up", 10);
    world.arrived(10);
    world.stop_broker(&client);
    publish(&client, "down", 10);
    client.stop(Duration::ZERO).expect("flushed");
    world.broker.restart();
    // The same records with the other version.
    let client = world.session().start().expect("starts");
    let all = [payloads("up", 10), payloads("down", 10)].concat();
    assert_eq!(world.arrived(20), all);
    client.stop(LIMIT).expect("stops");
}
