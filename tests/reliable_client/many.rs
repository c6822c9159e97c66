//! Many clients in one process, as in a gateway.

use std::fs;

use paho_mqtt_redis::{Client, MemoryPersistence, Session};
use testkit::{LIMIT, Mosquitto, Subscriber, eventually};

use super::world::{TOPIC, message};

const CLIENTS: usize = 40;

/// Counts the threads of this process that work for its clients.
fn client_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("procfs");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "mqtt-client").count()
}

#[test]
fn many_clients_share_few_threads() {
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 0);
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|number| {
            let session = Session::new(format!("device-{number}"), broker.url());
            let session = session.persistence(MemoryPersistence::new());
            session.start().expect("starts")
        })
        .collect();
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
