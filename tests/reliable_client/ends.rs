//! Ends of a client: what is open, what is lost and who is told, whatever ends it.

use std::{
    env,
    net::{Ipv4Addr, TcpListener},
    process,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use paho_mqtt_redis::{Client, ConnectionState, ErrorKind, Health, MemoryPersistence, Session};
use testkit::{LIMIT, broker::Broker, child::ignored_test, eventually};
use tracing::{Event, Level, Metadata, Subscriber, span};

use super::world::{CLIENT, message, wait_for};

const NOWHERE: &str = "mqtt://127.0.0.1:1";

/// A log that panics at each warning that a client cannot connect.
struct PanickingLog;

impl Subscriber for PanickingLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().contains("client") && *metadata.level() == Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {
        panic!("the log of the program panics");
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Runs as a separate program, since a process has one log; returns at once if the environment does not ask for it.
#[test]
#[ignore = "started by another test"]
fn child() {
    if env::var("PANICS").is_err() {
        return;
    }
    tracing::subscriber::set_global_default(PanickingLog).expect("the first");
    let session = Session::new(CLIENT, NOWHERE).persistence(MemoryPersistence::new());
    let client = session.start().expect("starts");
    let mut delivery = client.publish(message("x")).expect("accepted");
    let error = delivery.wait_for(LIMIT).expect_err("the thread panics");
    assert_eq!(error.kind(), ErrorKind::NotOpen, "{error}");
    wait_for(&client, ConnectionState::Stopped);
    let error = client.publish(message("x")).expect_err("nobody sends it");
    assert_eq!(error.kind(), ErrorKind::Other, "{error}");
    assert!(error.to_string().contains("panicked"), "{error}");
    let started = Instant::now();
    drop(client);
    // Paho takes a second to end its threads.
    assert!(started.elapsed() < Duration::from_secs(2));
    process::exit(SURVIVED);
}

/// Exit code of the child that survived its log.
const SURVIVED: i32 = 7;

#[test]
fn panic_of_worker_ends_client() {
    let mut child = ignored_test(module_path!(), "child");
    let ended = child.env("PANICS", "1").output().expect("it runs");
    assert_eq!(ended.status.code(), Some(SURVIVED), "{ended:?}");
}

#[test]
fn records_are_closed_once_client_has_stopped() {
    let broker = Broker::start();
    // Paho ends its threads with its last client, which takes a second.
    let other = Session::new("other", broker.url()).persistence(MemoryPersistence::new());
    let _other = other.start().expect("starts");
    for round in 0..50 {
        let persistence = MemoryPersistence::new();
        let health = persistence.health();
        let session = Session::new(CLIENT, broker.url()).persistence(persistence);
        let client = session.start().expect("starts");
        wait_for(&client, ConnectionState::Connected);
        if round % 2 == 0 {
            client.stop(LIMIT).expect("stops");
        } else {
            drop(client);
        }
        let error = health.flush(Duration::ZERO).expect_err("it is closed");
        assert_eq!(error.kind(), ErrorKind::NotOpen, "round {round}: {error}");
    }
}

/// A session with a broker that has a message for it, and the state of its records.
fn session_with_message(broker: &Broker) -> (Session, Health) {
    broker.create_session(CLIENT);
    broker.deliver(CLIENT, "question", b"why", 1);
    let persistence = MemoryPersistence::new();
    let health = persistence.health();
    let session = Session::new(CLIENT, broker.url()).persistence(persistence);
    (session, health)
}

fn is_closed(health: &Health) -> bool {
    let flushed = health.flush(Duration::ZERO);
    flushed.is_err_and(|error| error.kind() == ErrorKind::NotOpen)
}

#[test]
fn receiver_publishes_with_client_it_is_given() {
    let broker = Broker::start();
    let (session, health) = session_with_message(&broker);
    let session = session.on_message(|client, message| {
        let answer = paho_mqtt::Message::new("answer", message.payload(), 1);
        drop(client.publish(answer).expect("accepted"));
    });
    let client = session.start().expect("starts");
    eventually(LIMIT, "the answer arrives", || {
        let accepted = broker.accepted();
        accepted
            .iter()
            .any(|message| message.topic == "answer")
            .then_some(())
    });
    drop(client);
    assert!(is_closed(&health));
}

#[test]
fn client_kept_by_its_receiver_ends_with_stop() {
    let broker = Broker::start();
    let (session, health) = session_with_message(&broker);
    let kept = Arc::<OnceLock<Client>>::default();
    let keeps = Arc::clone(&kept);
    let session = session.on_message(move |client, _| {
        keeps.get_or_init(|| client.clone());
    });
    let client = session.start().expect("starts");
    eventually(LIMIT, "it is kept", || kept.get().map(drop));
    drop(kept);
    assert!(client.stop(LIMIT).expect("stops").has_ended);
    assert!(is_closed(&health));
}

#[test]
fn last_client_may_be_dropped_by_its_receiver() {
    let broker = Broker::start();
    let (session, health) = session_with_message(&broker);
    let last = Arc::<Mutex<Option<Client>>>::default();
    let slot = Arc::clone(&last);
    let (done, is_done) = std::sync::mpsc::channel();
    let session = session.on_message(move |_, _| {
        while slot.lock().unwrap().take().is_none() {
            std::thread::yield_now();
        }
        done.send(Instant::now()).expect("the test waits");
    });
    // Paho ends its threads with its last client, which takes a while.
    let other = Session::new("other", broker.url()).persistence(MemoryPersistence::new());
    let _other = other.start().expect("starts");
    let client = session.start().expect("starts");
    *last.lock().unwrap() = Some(client);
    let dropped = is_done.recv_timeout(LIMIT).expect("it is dropped");
    eventually(LIMIT, "the records are closed", || {
        is_closed(&health).then_some(())
    });
    let took = dropped.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn attempt_that_hangs_delays_stop_once() {
    // It accepts connections and never answers.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let silent = format!("mqtt://{}", listener.local_addr().expect("bound"));
    let persistence = MemoryPersistence::new();
    let health = persistence.health();
    let session = Session::new(CLIENT, silent).persistence(persistence);
    let client = session.connect_timeout(Duration::from_secs(2)).start();
    let client = client.expect("starts");
    let (_connection, _) = listener.accept().expect("it connects");
    let delivery = client.publish(message("x")).expect("accepted");
    let started = Instant::now();
    let stopped = client.stop(Duration::ZERO).expect("flushed");
    let took = started.elapsed();
    assert!((2..3).contains(&took.as_secs()), "{took:?}");
    assert_eq!((stopped.has_ended, stopped.pending), (false, 1));
    let error = delivery.wait().expect_err("it was stopped");
    assert_eq!(error.kind(), ErrorKind::NotOpen, "{error}");
    eventually(LIMIT, "the records are closed", || {
        is_closed(&health).then_some(())
    });
}
