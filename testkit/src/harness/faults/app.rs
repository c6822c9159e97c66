//! Program that publishes continuously on a thread of its own.

use std::{
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use paho_mqtt_redis::{
    Health, PersistenceMetrics, RedisPersistence,
    prometheus::{
        Registry,
        proto::{Metric, MetricFamily},
    },
};

use super::{KEEP_ALIVE, Keeper, MESSAGES};
use crate::{
    LIMIT, Mosquitto,
    direct::Direct,
    eventually,
    harness::{
        BoxedPersistence, ClientKind, Id, Ledger,
        client::{Client, ClientOptions, UnderWay},
        program::cache_limit,
    },
    timed::Timed,
};

pub const CLIENT: &str = "device";
/// Limit on the messages that wait for an acknowledgment during a connection.
const WINDOW: usize = 30;

pub struct App {
    pub health: Option<Health>,
    registry: Registry,
    longest: Arc<Mutex<Duration>>,
    shared: Arc<Shared>,
    publishing: Option<JoinHandle<()>>,
}

struct Shared {
    client: Client,
    ledger: Mutex<Ledger>,
    refused: AtomicUsize,
    is_over: AtomicBool,
    under_way: Mutex<Vec<UnderWay>>,
}

impl App {
    /// Waits for a Redis that is late, if the persistence can.
    pub fn start(redis: &str, broker: &Mosquitto, keeper: Keeper) -> Self {
        let registry = Registry::new();
        let longest = Arc::<Mutex<Duration>>::default();
        let kind = match keeper {
            Keeper::Ours => ClientKind::chosen(),
            Keeper::Direct => ClientKind::Bare,
        };
        let mut options = ClientOptions::new(kind, &broker.url(), CLIENT, (5, 5));
        options.keep_alive = Some(KEEP_ALIVE);
        options.connects_first = true;
        let of_calls = Arc::clone(&longest);
        let timed = move |persistence: BoxedPersistence| -> BoxedPersistence {
            Box::new(Timed::new(persistence, &of_calls))
        };
        let (client, health) = match keeper {
            Keeper::Ours => {
                let metrics = PersistenceMetrics::register(&registry).expect("a new registry");
                let redis = RedisPersistence::builder()
                    .url(redis)
                    .cache_limit(cache_limit())
                    .open_timeout(LIMIT);
                let created = options.create(redis, Some(&metrics), timed);
                let (client, health) = created.expect("Redis can be used");
                (client, Some(health))
            }
            Keeper::Direct => {
                let persistence = timed(Box::new(Direct::new(redis)));
                let created = options.create_bare(persistence);
                (created.expect("a client"), None)
            }
        };
        let app = Self {
            health,
            registry,
            longest,
            shared: Arc::new(Shared {
                client,
                ledger: Mutex::default(),
                refused: AtomicUsize::new(0),
                is_over: AtomicBool::new(false),
                under_way: Mutex::default(),
            }),
            publishing: None,
        };
        app.connect();
        app
    }

    /// Connects, retrying until it succeeds.
    pub fn connect(&self) {
        eventually(LIMIT, "the client connects", || {
            self.shared.client.connect(LIMIT).then_some(())
        });
    }

    pub fn is_connected(&self) -> bool {
        self.shared.client.is_connected()
    }

    pub fn has_never_lost_connection(&self) -> bool {
        self.is_connected() && !self.shared.client.has_lost_connection()
    }

    pub fn longest_call(&self) -> Duration {
        *self.longest.lock().unwrap()
    }

    /// Kinds of error that are counted.
    pub fn kinds(&self) -> Vec<String> {
        let counted = self.counted("mqtt_persistence_store_errors_total");
        let labels = counted.iter().flat_map(Metric::get_label);
        labels
            .filter(|label| label.name() == "error")
            .map(|label| label.value().to_owned())
            .collect()
    }

    /// Number of times that Paho could not read a message: with a small cache, its value is in Redis alone. Only the next run sends it.
    pub fn unread(&self) -> usize {
        let counted = self.counted("mqtt_persistence_operation_errors_total");
        let is_of_get = |metric: &&Metric| {
            let mut labels = metric.get_label().iter();
            labels.any(|label| label.name() == "operation" && label.value() == "get")
        };
        let of_get = counted.iter().filter(is_of_get);
        let numbers = of_get.map(|metric| metric.get_counter().get_value().to_string());
        numbers
            .map(|number| number.parse::<usize>().expect("whole"))
            .sum()
    }

    /// Counters of a family that are not zero.
    fn counted(&self, name: &str) -> Vec<Metric> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.into_iter().flat_map(MetricFamily::get_metric);
        let counted = metrics.filter(|metric| metric.get_counter().get_value() > 0.0);
        counted.cloned().collect()
    }

    /// Ends the client. The error is what a session still has, or a store of its lacks.
    pub fn disconnect(&self) -> Result<(), String> {
        self.shared.client.end(LIMIT / 4)
    }

    pub fn start_publishing(&mut self) {
        self.shared.is_over.store(false, Ordering::Relaxed);
        let shared = Arc::clone(&self.shared);
        self.publishing = Some(thread::spawn(move || shared.publish()));
    }

    /// Waits until some more messages have been accepted.
    pub fn advance(&self) {
        let enough = self.ledger(|ledger| ledger.accepted()) + MESSAGES;
        eventually(LIMIT, "messages are accepted", || {
            let accepted = self.ledger(|ledger| ledger.accepted());
            (accepted >= enough).then_some(())
        });
    }

    /// Pauses publishing. Returns true if the thread has ended.
    pub fn pause(&mut self) -> bool {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let Some(thread) = self.publishing.take() else {
            return true;
        };
        let started = Instant::now();
        while !thread.is_finished() {
            if started.elapsed() > LIMIT {
                return false;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        thread.join().expect("no panic");
        true
    }

    /// Does the same, and waits until every message is acknowledged or has failed.
    pub fn stop(&mut self) -> bool {
        let has_ended = self.pause();
        if has_ended {
            self.shared.settle();
        }
        has_ended
    }

    /// Closes the client and the persistence. The ledger goes on.
    pub fn end(self) -> Ledger {
        // Records that remain are found in Redis.
        let _ = self.disconnect();
        mem::take(&mut *self.shared.ledger.lock().unwrap())
    }

    pub fn ledger<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        work(&mut self.shared.ledger.lock().unwrap())
    }

    /// Number of accepted messages that are not acknowledged yet.
    pub fn waiting(&self) -> usize {
        self.shared.under_way.lock().unwrap().len()
    }

    /// Number of messages that were refused or not acknowledged.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn publish(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let number = self.ledger.lock().unwrap().accepted();
            let id = Id { run: 0, number };
            if let Ok(under_way) = self.client.publish(id.message()) {
                self.ledger.lock().unwrap().accept(id);
                self.under_way.lock().unwrap().push(under_way);
            } else {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            let is_full = self.under_way.lock().unwrap().len() >= WINDOW;
            if is_full && self.client.is_connected() {
                self.settle();
            }
            thread::park_timeout(Duration::from_micros(500));
        }
    }

    /// Waits until each message is acknowledged or has failed, or until none has been for a while: the token of a message that Paho
    /// could not read never completes.
    fn settle(&self) {
        let mut under_way = mem::take(&mut *self.under_way.lock().unwrap());
        let mut progressed = Instant::now();
        while !under_way.is_empty() && progressed.elapsed() < LIMIT / 2 {
            let before = under_way.len();
            under_way.retain_mut(|message| match message.ended() {
                None => true,
                Some(ended) => {
                    let refused = usize::from(ended.is_err());
                    self.refused.fetch_add(refused, Ordering::Relaxed);
                    false
                }
            });
            if under_way.len() < before {
                progressed = Instant::now();
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        self.refused.fetch_add(under_way.len(), Ordering::Relaxed);
    }
}
