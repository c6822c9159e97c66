//! Many clients in one process, as in a gateway.

use std::{
    env, fs,
    io::Read,
    net::TcpListener,
    process::{self, Stdio},
};

use paho_mqtt_redis::{Client, MemoryPersistence, Session};
use testkit::{LIMIT, Mosquitto, Subscriber, child::ignored_test, eventually, poll};

use super::world::{TOPIC, message};

const CLIENTS: usize = 40;
/// Paho freezes all of them if as many connections are pending.
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
    let ended = poll(LIMIT, || child.try_wait().expect("a child"));
    child.kill().expect("a child");
    assert!(ended.expect("it is not frozen").success());
    let mut log = String::new();
    let mut output = child.stdout.take().expect("piped");
    output.read_to_string(&mut log).expect("text");
    let buffer = fs::read_to_string("/proc/sys/net/core/wmem_default").expect("procfs");
    let survives: usize = buffer.trim().parse::<usize>().expect("a number") / 768;
    let warnings = log.matches("more clients than Paho survives").count();
    assert_eq!(warnings, usize::from(BURST > survives), "{log}");
}
