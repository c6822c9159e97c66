//! The endpoint survives a log subscriber that always panics, and a child process that holds its sockets.
//!
//! Subscriber and child concern the process, so these tests have a binary of their own.

#![allow(unsafe_code)]

use std::{
    io::{Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use paho_mqtt_redis::{MetricsServer, prometheus::Registry};
use testkit::{LIMIT, REQUEST, connected, eventually, sent, status};
use tracing::{Event, Metadata, Subscriber, span};

const ANY: &str = "127.0.0.1:0";

/// Panics at each event of the acceptor.
struct Panicking;

impl Subscriber for Panicking {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        assert_ne!(thread::current().name(), Some("metrics-server"));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn log_subscriber_that_panics_does_not_end_server() {
    tracing::subscriber::set_global_default(Panicking).unwrap();
    let server = MetricsServer::builder(Registry::new())
        .max_connections(1)
        .request_timeout(LIMIT)
        .bind(ANY)
        .unwrap();
    let address = server.local_addr().unwrap();
    let silent = connected(address);
    // Its eviction is logged.
    let evicting = connected(address);
    eventually(LIMIT, "it still serves", || {
        (status(&sent(address, REQUEST)) == "200").then_some(())
    });
    drop((silent, evicting));
}

#[test]
fn drop_does_not_wait_for_forked_child() {
    let server = MetricsServer::bind(ANY, Registry::new()).unwrap();
    let (mut parent, mut child) = UnixStream::pair().unwrap();
    let spawner = thread::spawn(move || {
        let mut command = Command::new("true");
        let waits = move || {
            child.write_all(b"x")?;
            child.read_exact(&mut [0])
        };
        // SAFETY: between fork and exec the closure only writes and reads.
        unsafe { command.pre_exec(waits) }.status().unwrap()
    });
    parent.read_exact(&mut [0]).unwrap();
    let (dropped, is_dropped) = mpsc::channel();
    let ending = thread::spawn(move || {
        drop(server);
        dropped.send(()).unwrap();
    });
    let in_time = is_dropped.recv_timeout(Duration::from_secs(10));
    parent.write_all(b"x").unwrap();
    assert!(spawner.join().unwrap().success());
    ending.join().unwrap();
    in_time.expect("the child still has all sockets of the server");
}
