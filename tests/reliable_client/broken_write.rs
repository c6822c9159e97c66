//! A write to the broker that breaks off is reported before Paho sends what it has freed.

use std::{
    env, process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{
    Client, ConnectionState, ErrorKind, MemoryPersistence, OnBrokenWrite, Session,
};
use testkit::{LIMIT, Mosquitto, Proxy, child::ignored_test};

use super::world::{CLIENT, wait_for};

fn session(broker: &str) -> Session {
    Session::new(CLIENT, broker)
        .persistence(MemoryPersistence::new())
        .backoff(Duration::from_millis(5), Duration::from_millis(5))
}

/// Publishes without a pause, and cuts the connection, until `is_done` or a refusal that is not for a limit.
fn provoke(client: &Client, proxy: &Proxy, is_done: impl Fn() -> bool) -> Option<ErrorKind> {
    let started = Instant::now();
    let mut next_cut = Instant::now() + Duration::from_millis(50);
    while started.elapsed() < LIMIT && !is_done() {
        let message = mqtt::Message::new("t", vec![b'x'; 2_000], mqtt::QOS_1);
        match client.publish(message) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Full => thread::yield_now(),
            Err(error) => return Some(error.kind()),
        }
        if next_cut <= Instant::now() && client.state().is_connected() {
            proxy.cut();
            next_cut = Instant::now() + Duration::from_millis(20);
        }
    }
    None
}

/// Starts the child, whose memory is damaged at its end, and returns its exit code.
fn run(mode: &str) -> (Option<i32>, String) {
    let broker = Mosquitto::start();
    let ended = ignored_test(module_path!(), "child")
        .env("MODE", mode)
        .env("BROKER_PORT", broker.port().to_string())
        .output()
        .expect("it runs");
    (ended.status.code(), format!("{ended:?}"))
}

/// Runs as a separate program; returns at once if the environment has no mode for it.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    let Ok(mode) = env::var("MODE") else {
        return;
    };
    let port = env::var("BROKER_PORT").expect("a port").parse();
    let proxy = Proxy::start(port.expect("a port"));
    let session = session(&proxy.url());
    if mode == "exit" {
        provoke(&session.start().expect("starts"), &proxy, || false);
        return;
    }
    let calls = Arc::<AtomicUsize>::default();
    let called = Arc::clone(&calls);
    let reaction = OnBrokenWrite::call(move |broken| {
        assert_eq!(broken.client_id, CLIENT);
        assert!(broken.flushed.is_ok(), "{broken:?}");
        called.fetch_add(1, Ordering::Relaxed);
    });
    let client = session.on_broken_write(reaction).start().expect("starts");
    provoke(&client, &proxy, || calls.load(Ordering::Relaxed) > 0);
    wait_for(&client, ConnectionState::Stopped);
    let refused = client.publish(mqtt::Message::new("t", "x", mqtt::QOS_1));
    let error = refused.expect_err("nothing more is accepted");
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    let state = client.state();
    assert!(
        state
            .last_error
            .is_some_and(|error| error.contains("broken off"))
    );
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    process::exit(CALLED);
}

/// Exit code of the child that was called back.
const CALLED: i32 = 7;

#[test]
fn broken_write_calls_back_and_ends_client() {
    let (code, output) = run("call");
    assert_eq!(code, Some(CALLED), "{output}");
}

#[test]
fn broken_write_ends_program_with_its_code() {
    let (code, output) = run("exit");
    assert_eq!(code, Some(OnBrokenWrite::EXIT_CODE), "{output}");
}
