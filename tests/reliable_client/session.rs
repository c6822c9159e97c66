//! The session with the broker: what it has to keep, and what is done again if it is lost.

use std::{
    env, process,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{ConnectionState, ErrorKind, MemoryPersistence, Session};
use testkit::{
    LIMIT,
    broker::{Broker, Direction, Kind, Packet},
    child::ignored_test,
    eventually,
    log::Log,
};

use super::world::{CLIENT, World, message, wait_for};

fn session(broker: &Broker) -> Session {
    Session::new(CLIENT, broker.url())
        .persistence(MemoryPersistence::new())
        .backoff(Duration::from_millis(10), Duration::from_millis(50))
}

#[test]
fn session_that_broker_lost_is_counted() {
    let mut world = World::start();
    let client = world.session().start().expect("starts");
    let delivery = client.publish(message("one")).expect("accepted");
    delivery.wait().expect("acknowledged");
    // A broker that is killed has saved no session.
    world.broker.kill();
    world.broker.restart();
    eventually(LIMIT, "the loss is counted", || {
        (client.state().sessions_lost == 1).then_some(())
    });
    let delivery = client.publish(message("two")).expect("accepted");
    delivery.wait().expect("acknowledged");
    client.stop(LIMIT).expect("stops");
}

#[test]
fn message_in_lost_session_ends_with_error() {
    let broker = Broker::start();
    let client = session(&broker).start().expect("starts");
    wait_for(&client, ConnectionState::Connected);
    broker.withhold(Kind::Pubrec);
    let delivery = client.publish(message("in flight")).expect("accepted");
    eventually(LIMIT, "it is sent", || {
        (!broker.accepted().is_empty()).then_some(())
    });
    broker.discard_sessions(true);
    broker.drop_connections();
    let error = delivery.wait().expect_err("the session is lost");
    assert_eq!(error.kind(), ErrorKind::Broker, "{error}");
    assert!(error.to_string().contains("session"), "{error}");
    wait_for(&client, ConnectionState::Connected);
    let state = client.state();
    assert_eq!((state.failed, state.sessions_lost), (1, 1), "{state:?}");
}

#[test]
fn subscription_outlives_session() {
    let mut world = World::start();
    let received = Arc::new(Mutex::new(Vec::new()));
    let inbox = Arc::clone(&received);
    let client = world
        .session()
        .on_message(move |_, message| {
            let text = message.payload_str().into_owned();
            inbox.lock().unwrap().push(text);
        })
        .start()
        .expect("starts");
    client
        .subscribe("commands/#", mqtt::QOS_1)
        .expect("a filter");
    let send = |world: &World, text: &str| {
        let sender =
            Session::new("sender", world.broker.url()).persistence(MemoryPersistence::new());
        let sender = sender.start().expect("starts");
        // Until the broker has the subscription.
        eventually(LIMIT, text, || {
            let message = mqtt::Message::new("commands/x", text, mqtt::QOS_1);
            drop(sender.publish(message).expect("accepted"));
            received
                .lock()
                .unwrap()
                .iter()
                .any(|got| got == text)
                .then_some(())
        });
        sender.stop(LIMIT).expect("stops");
    };
    send(&world, "first");
    world.broker.kill();
    world.broker.restart();
    send(&world, "second");
    let error = client.subscribe("", mqtt::QOS_1).expect_err("no filter");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    client.stop(LIMIT).expect("stops");
}

#[test]
fn client_dropped_while_it_connects_never_hangs() {
    // Paho ends its threads with its last client, which takes a while.
    let broker = Broker::start();
    let other = session(&broker).start().expect("starts");
    wait_for(&other, ConnectionState::Connected);
    broker.refuse(usize::MAX);
    let url = broker.url();
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        for round in 0..300 {
            let client = Session::new(format!("short-{round}"), url.as_str());
            let client = client.persistence(MemoryPersistence::new()).start();
            let client = client.expect("starts");
            // Some are dropped before the attempt fails, some at that moment, and some after it.
            thread::sleep(Duration::from_micros(round * 10));
            drop(client);
        }
        done.send(()).expect("the test waits");
    });
    is_done.recv_timeout(LIMIT).expect("none hangs");
    drop(other);
}

#[test]
fn refusal_of_connection_is_shown() {
    let broker = Broker::start();
    broker.refuse(3);
    let client = session(&broker).start().expect("starts");
    let error = eventually(LIMIT, "a refusal", || client.state().last_error);
    assert!(error.contains("refused"), "{error}");
    wait_for(&client, ConnectionState::Connected);
    assert_eq!(client.state().failed_attempts, 3);
}

#[test]
fn options_without_client_connect_alike() {
    let world = World::start();
    let options = world.session().into_options().expect("options");
    let paho = mqtt::AsyncClient::new(options.create).expect("a client");
    let connected = paho.connect(options.connect).wait_for(LIMIT);
    connected.expect("connects");
    paho.publish(message("x")).wait_for(LIMIT).expect("sent");
    assert_eq!(world.arrived(1), ["x"]);
    assert!(options.health.snapshot().up);
}

/// Runs as a separate program, since a process has one log; returns at once if the environment does not ask for it.
#[test]
#[ignore = "started by another test"]
fn child_without_receiver() {
    if env::var("HAS_NO_RECEIVER").is_err() {
        return;
    }
    let log = Log::default();
    log.of_the_process();
    let broker = Broker::start();
    broker.create_session(CLIENT);
    for payload in ["one", "two"] {
        broker.deliver(CLIENT, "earlier", payload.as_bytes(), 2);
    }
    let client = session(&broker).start().expect("starts");
    broker.wait_acknowledged(CLIENT);
    let error = client.subscribe("a", mqtt::QOS_1).expect_err("no receiver");
    assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
    assert!(error.to_string().contains("on_message"), "{error}");
    client.stop(LIMIT).expect("stops");
    let text = log.text();
    assert_eq!(text.matches("arrive and are dropped").count(), 1, "{text}");
    process::exit(DROPPED);
}

/// Exit code of the child whose messages were dropped.
const DROPPED: i32 = 7;

#[test]
fn messages_without_receiver_are_dropped_and_logged() {
    let mut child = ignored_test(module_path!(), "child_without_receiver");
    let ended = child.env("HAS_NO_RECEIVER", "1").output();
    let ended = ended.expect("it runs");
    assert_eq!(ended.status.code(), Some(DROPPED), "{ended:?}");
}

#[test]
fn filter_of_earlier_run_is_unsubscribed() {
    let broker = Broker::start();
    broker.create_session(CLIENT);
    let client = session(&broker).start().expect("starts");
    // Before the first connection and after it.
    client.unsubscribe("old/#").expect("a filter");
    wait_for(&client, ConnectionState::Connected);
    broker.wait_for(Direction::ToClient, Kind::Unsuback, 1);
    client.unsubscribe("older/#").expect("a filter");
    broker.wait_for(Direction::ToClient, Kind::Unsuback, 2);
    let seen = broker.seen().into_iter();
    let filters: Vec<String> = seen
        .filter(|seen| seen.packet.kind == Kind::Unsubscribe)
        .flat_map(|seen| seen.packet.filters)
        .collect();
    assert_eq!(filters, ["old/#", "older/#"]);
    client.stop(LIMIT).expect("stops");
}

#[test]
fn reason_of_broker_for_its_disconnect_is_shown() {
    let broker = Broker::start();
    let client = session(&broker).backoff(LIMIT, LIMIT).start();
    let client = client.expect("starts");
    wait_for(&client, ConnectionState::Connected);
    let mut packet = Packet::new(Kind::Disconnect, 0);
    packet.code = 0x8E;
    broker.send(CLIENT, packet);
    wait_for(&client, ConnectionState::Waiting);
    let error = client.state().last_error.expect("a reason");
    assert!(error.contains("0x8E"), "{error}");
}

#[test]
#[ignore = "started by another test"]
fn child_with_lost_sessions() {
    if env::var("LOSES_SESSIONS").is_err() {
        return;
    }
    let log = Log::default();
    log.of_the_process();
    let (broker, records) = (Broker::start(), MemoryPersistence::new());
    broker.withhold(Kind::Pubrec);
    let start = || {
        let session = Session::new(CLIENT, "mqtt://127.0.0.1:1").broker(broker.url());
        let client = session.persistence(records.clone()).start();
        let client = client.expect("starts");
        wait_for(&client, ConnectionState::Connected);
        client
    };
    let client = start();
    drop(client.publish(message("of earlier run")).expect("accepted"));
    broker.wait_for(Direction::FromClient, Kind::Publish, 1);
    client.stop(Duration::ZERO).expect("stops");
    broker.discard_sessions(true);
    let client = start();
    let delivery = client.publish(message("of this run")).expect("accepted");
    broker.wait_for(Direction::FromClient, Kind::Publish, 2);
    broker.drop_connections();
    delivery.wait().expect_err("the session is lost");
    wait_for(&client, ConnectionState::Connected);
    client.stop(LIMIT).expect("stops");
    let text = log.text();
    let count = |part: &str| text.matches(part).count();
    assert_eq!(count("the broker has lost the session; Paho"), 2, "{text}");
    let failure = "only counted: the broker has lost the session that it was in";
    assert_eq!(count(failure), 1, "{text}");
    let next = format!("next_address=\"{}\"", broker.url());
    assert!(count(&next) > 1, "{text}");
    assert!(count("to the broker: mqtt://127.0.0.1:1: ") > 1, "{text}");
    process::exit(LOGGED);
}

/// Exit code of the child whose log was right.
const LOGGED: i32 = 8;

#[test]
fn lost_sessions_and_dead_addresses_are_logged() {
    let mut child = ignored_test(module_path!(), "child_with_lost_sessions");
    let ended = child.env("LOSES_SESSIONS", "1").output();
    let ended = ended.expect("it runs");
    assert_eq!(ended.status.code(), Some(LOGGED), "{ended:?}");
}

#[test]
fn session_lost_between_runs_is_counted() {
    let broker = Broker::start();
    broker.withhold(Kind::Pubrec);
    let records = MemoryPersistence::new();
    let start = || {
        let session = Session::new(CLIENT, broker.url()).persistence(records.clone());
        let client = session.start().expect("starts");
        wait_for(&client, ConnectionState::Connected);
        client
    };
    let client = start();
    // There was no session before the first run.
    assert_eq!(client.state().sessions_lost, 0);
    drop(client.publish(message("in flight")).expect("accepted"));
    broker.wait_for(Direction::FromClient, Kind::Publish, 1);
    client.stop(Duration::ZERO).expect("stops");
    let client = start();
    assert_eq!(client.state().sessions_lost, 0);
    client.stop(Duration::ZERO).expect("stops");
    broker.discard_sessions(true);
    let client = start();
    assert_eq!(client.state().sessions_lost, 1);
    client.stop(LIMIT).expect("stops");
}
