//! Many clients in one process, as in a gateway.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    process::{self, Stdio},
    thread,
    time::Duration,
};

use paho_mqtt_redis::{Client, ConnectionState, MemoryPersistence, Session};
use testkit::{LIMIT, Mosquitto, Subscriber, child::ignored_test, eventually, poll};

use super::world::{TOPIC, message, wait_for};

const CLIENTS: usize = 40;
/// Paho freezes all of them if as many connections are pending, unless `net.core.wmem_default` was raised.
const BURST: usize = 1000;

/// Counts the threads of this process that work for its clients.
fn client_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("procfs");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "mqtt-client").count()
}

fn start(count: usize, broker: &str) -> Vec<Client> {
    let start = |number| {
        let session = Session::new(format!("device-{number}"), broker);
        let session = session.persistence(MemoryPersistence::new());
        session.start().expect("starts")
    };
    (0..count).map(start).collect()
}

#[test]
fn many_clients_share_few_threads() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 0);
    let clients = start(CLIENTS, &broker.url());
    for client in &clients {
        drop(client.publish(message("x")).expect("accepted"));
    }
    subscriber.wait_for(CLIENTS, LIMIT);
    eventually(LIMIT, "all are acknowledged", || {
        let mut states = clients.iter().map(Client::state);
        states.all(|state| state.acknowledged == 1).then_some(())
    });
    let threads = client_threads();
    assert!((1..=4).contains(&threads), "{threads}");
    for client in clients {
        assert!(client.stop(LIMIT).expect("stops").has_ended);
    }
}

#[test]
fn clients_without_broker_let_others_connect() {
    let broker = Mosquitto::start();
    let retries = Duration::from_millis(10);
    // More than may connect at the same time, each with three addresses that refuse at once.
    let session = |number| {
        Session::new(format!("lonely-{number}"), "mqtt://127.0.0.1:1")
            .broker("mqtt://127.0.0.1:2")
            .broker("mqtt://127.0.0.1:3")
            .backoff(retries, retries)
            .persistence(MemoryPersistence::new())
    };
    let lonely: Vec<Client> = (0..120)
        .map(|number| session(number).start().expect("starts"))
        .collect();
    eventually(LIMIT, "each has failed", || {
        let mut states = lonely.iter().map(Client::state);
        states.all(|state| state.failed_attempts > 0).then_some(())
    });
    let client = start(1, &broker.url()).remove(0);
    wait_for(&client, ConnectionState::Connected);
}

/// Runs as a separate program, which the environment configures; returns at once if it does not.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    let Ok(broker) = env::var("BROKER") else {
        return;
    };
    let warnings = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
    warnings.init();
    let clients = start(BURST, &broker);
    for client in &clients {
        drop(client.publish(message("x")).expect("accepted"));
        assert!(!client.paho().is_connected());
    }
    // To stop them would wait for the attempts.
    process::exit(0);
}

/// Counts the bytes that a socket takes one by one.
fn unread_bytes() -> usize {
    let (mut writer, _reader) = UnixStream::pair().expect("a pair");
    writer.set_nonblocking(true).expect("a socket");
    let fits = |_: &usize| writer.write(&[0]).is_ok();
    (0..BURST).take_while(fits).count()
}

#[test]
fn burst_of_connections_freezes_no_client() {
    // Nobody accepts, so each connection stays pending.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let mut child = ignored_test(module_path!(), "child")
        .env("BROKER", format!("mqtt://{address}"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test can be run once more");
    let mut output = child.stdout.take().expect("piped");
    let log = thread::spawn(move || {
        let mut log = String::new();
        output.read_to_string(&mut log).map(|_| log)
    });
    let ended = poll(LIMIT, || child.try_wait().expect("a child"));
    child.kill().expect("a child");
    assert!(ended.expect("it is not frozen").success());
    let log = log.join().expect("no panic").expect("text");
    let warnings = log.matches("more clients than Paho survives").count();
    assert_eq!(warnings, usize::from(BURST > unread_bytes()), "{log}");
}
