//! Simulated device.

use std::{
    collections::VecDeque,
    mem,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    Instrumented, MemoryStore, MetricsServer, Persistence, PersistenceMetrics, prometheus::Registry,
};

use super::{Switches, store::FailingStore};
use crate::{publish_packet, record};

/// Limit on waiting messages; the application drops further ones.
const MOST_WAITING: usize = 5_000;
/// Payload of a reading.
const PAYLOAD: [u8; 64] = [b'.'; 64];

pub struct Device {
    pub switches: Switches,
    persistence: Instrumented<Persistence<FailingStore>>,
    server: MetricsServer,
    next: u16,
    /// Numbers of the commands that have not been sent.
    waiting: VecDeque<u16>,
    /// Numbers of the messages that have not been acknowledged.
    sent: Vec<u16>,
}

impl Device {
    pub fn start(name: &str, is_lean: bool) -> Self {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::builder();
        let metrics = if is_lean { metrics.lean() } else { metrics };
        let metrics = metrics.register(&registry).expect("registers");
        let switches = Switches {
            name: name.to_owned(),
            store_is_down: Arc::new(AtomicBool::new(false)),
            link_is_down: Arc::new(AtomicBool::new(false)),
        };
        let store = FailingStore {
            store: MemoryStore::default(),
            is_down: Arc::clone(&switches.store_is_down),
        };
        let mut persistence = Persistence::with_store(store).instrument(&metrics);
        persistence
            .open(name, "broker.example:1883")
            .expect("opens");
        let server = MetricsServer::bind("127.0.0.1:0", registry).expect("a port");
        Self {
            switches,
            persistence,
            server,
            next: 1,
            waiting: VecDeque::new(),
            sent: Vec::new(),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.local_addr().expect("TCP")
    }

    /// Accepts a message. If the link is up, acknowledges all sent messages and sends all waiting ones, with the calls that Paho
    /// makes.
    pub fn step(&mut self) {
        if self.waiting.len() < MOST_WAITING {
            self.put("c5", self.next, &PAYLOAD);
            self.waiting.push_back(self.next);
            self.next = self.next.checked_add(1).unwrap_or(1);
        }
        if self.switches.link_is_down.load(Ordering::Relaxed) {
            return;
        }
        for number in mem::take(&mut self.sent) {
            self.remove("s5", number);
        }
        while let Some(number) = self.waiting.pop_front() {
            let read = self.persistence.get(&format!("c5-{number}"));
            read.expect("kept in memory");
            self.remove("c5", number);
            self.put("s5", number, &PAYLOAD);
            self.sent.push(number);
        }
    }

    fn remove(&mut self, stem: &str, number: u16) {
        let key = format!("{stem}-{number}");
        self.persistence.remove(&key).expect("removed, or pending");
    }

    fn put(&mut self, stem: &str, number: u16, payload: &[u8]) {
        let key = format!("{stem}-{number}");
        // At QoS 1: a message at QoS 2 that has no PUBREL when it is removed counts as rejected.
        let value = if stem == "s5" {
            publish_packet(&key, 1, payload)
        } else {
            record(&key, payload)
        };
        self.persistence
            .put(&key, vec![&value])
            .expect("stored, or pending");
    }
}
