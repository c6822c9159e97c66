//! Program with some clients that publish at a rate, controlled by commands on standard input.

use std::{
    path::PathBuf,
    process,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt_redis::{
    Health, MetricsServer, OnBrokenWrite, PersistenceMetrics, RedisPersistence, StoreObserver,
    prometheus::Registry,
};
use serde::{Deserialize, Serialize};

use crate::{
    LIMIT,
    accounting::accounts,
    harness::{
        self, BoxedPersistence, ClientKind, Id,
        client::ClientOptions,
        kill_self,
        program::{
            DEFAULT_CACHE_LIMIT, Publisher, cache_limit, commands, exit, log_errors, orders, report,
        },
    },
    timed::Timed,
};

/// Keep-alive interval of a client.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Time that messages get to complete, if some may never do so.
const PATIENCE: Duration = Duration::from_secs(5);
/// Limit on the waiting messages of one client.
const MOST_WAITING: usize = 2_000;

#[derive(Serialize, Deserialize)]
pub struct Orders {
    pub client: ClientKind,
    pub broker: String,
    pub redis: String,
    /// Number of replicas that have to have a record.
    pub replicas: u32,
    /// Number of its first client, and number of the first message of each.
    pub first: usize,
    pub numbers: Vec<usize>,
    /// Interval between two messages.
    pub interval: Duration,
    /// Socket on which it serves its metrics.
    pub metrics: PathBuf,
}

/// Runs the program.
pub fn run() -> ! {
    let orders: Orders = orders();
    log_errors();
    let commands = commands();
    Program::create(&orders).run(&commands, orders.interval)
}

struct Program {
    registry: Registry,
    clients: Vec<Client>,
    _server: MetricsServer,
    longest: Arc<Mutex<Duration>>,
    next: usize,
    is_held: bool,
}

struct Client {
    publisher: Publisher,
    health: Health,
}

impl Program {
    fn create(orders: &Orders) -> Self {
        let longest = Arc::<Mutex<Duration>>::default();
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).expect("a new registry");
        let server = MetricsServer::builder(registry.clone()).bind_unix(&orders.metrics, 0o600);
        let guard = Arc::new(Guard::default());
        let numbered = orders.numbers.iter().enumerate();
        let clients = numbered.map(|(place, &number)| {
            let run = orders.first + place;
            let redis = RedisPersistence::builder()
                .url(&orders.redis)
                .replicas(orders.replicas)
                .cache_limit(cache_limit())
                .open_timeout(LIMIT);
            let id = format!("soak-{run}");
            let mut options = ClientOptions::new(orders.client, &orders.broker, &id, (5, 5));
            options.keep_alive = Some(KEEP_ALIVE);
            options.connect_timeout = Duration::from_secs(3);
            options.guard = Some(Arc::clone(&guard) as Arc<dyn StoreObserver>);
            let broken = Arc::clone(&guard);
            options.on_broken_write = OnBrokenWrite::call(move |_| broken.give_up());
            let of_calls = Arc::clone(&longest);
            let timed = move |persistence| -> BoxedPersistence {
                Box::new(Timed::new(persistence, &of_calls))
            };
            let created = options.create(redis, Some(&metrics), timed);
            let (client, health) = created.unwrap_or_else(|error| {
                eprintln!("cannot create {id}: {error}");
                process::exit(exit::NOT_CREATED)
            });
            guard.0.lock().unwrap().push(health.clone());
            if orders.client == ClientKind::Bare {
                let link = client.clone();
                thread::spawn(move || keep_connected(&link));
            }
            Client {
                publisher: Publisher::new(client, Id { run, number }),
                health,
            }
        });
        Self {
            clients: clients.collect(),
            registry,
            _server: server.expect("a socket"),
            longest,
            next: 0,
            is_held: false,
        }
    }

    fn run(mut self, commands: &Receiver<String>, interval: Duration) -> ! {
        let mut due = Instant::now();
        loop {
            due = (due + interval).max(Instant::now());
            match commands.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(command) => self.obey(&command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => kill_self(),
            }
            if !self.is_held {
                self.publish_one();
            }
        }
    }

    fn obey(&mut self, command: &str) {
        let mut healths = self.clients.iter().map(|client| &client.health);
        match command {
            // No message is in flight to a broker that is about to stop.
            "hold" => {
                self.is_held = true;
                self.settle();
                report("held");
            }
            "go" => self.is_held = false,
            "flush" => match healths.try_for_each(|health| health.flush(LIMIT).map(drop)) {
                Ok(()) => report("flushed"),
                Err(error) => report(&format!("unflushed {error}")),
            },
            "memory" => report(&allocated().to_string()),
            "report" => {
                let longest = self.longest.lock().unwrap().as_micros();
                let lost: u64 = healths.map(|health| health.snapshot().lost_records).sum();
                report(&format!("{longest} {lost}"));
            }
            "end" => {
                self.settle();
                for client in &self.clients {
                    if let Err(left) = client.publisher.client.end(LIMIT) {
                        eprintln!("not everything has ended: {left}");
                        process::exit(exit::NOT_STOPPED);
                    }
                    // Records that remain in Redis are found there.
                    let _ = client.health.flush(LIMIT);
                }
                for (client, account) in accounts(&self.registry) {
                    assert!(account.is_balanced(), "{client}: {account:?}");
                }
                process::exit(exit::DONE);
            }
            other => panic!("{other:?} is not a command"),
        }
    }

    fn publish_one(&mut self) {
        self.next = (self.next + 1) % self.clients.len();
        self.settle_tokens();
        let publisher = &mut self.clients[self.next].publisher;
        if publisher.waiting() < MOST_WAITING && !publisher.publish() {
            process::exit(exit::STUCK);
        }
    }

    /// Exits if Paho has freed a message that it has yet to send, once Redis has every record.
    fn settle_tokens(&mut self) {
        let mut is_well = true;
        for client in &mut self.clients {
            is_well &= client.publisher.settle();
        }
        if !is_well {
            self.give_up();
        }
    }

    /// Ends, so that the next run sends what this one cannot.
    fn give_up(&self) -> ! {
        give_up(self.clients.iter().map(|client| &client.health))
    }

    fn settle(&mut self) {
        let started = Instant::now();
        let waits = |client: &Client| client.publisher.waiting() > 0;
        while self.clients.iter().any(waits) {
            self.settle_tokens();
            // Paho drops a command that it cannot read in an outage, and only the next run sends it.
            let has_unread = cache_limit() < DEFAULT_CACHE_LIMIT;
            if has_unread && started.elapsed() > PATIENCE {
                self.give_up();
            }
            if started.elapsed() > LIMIT * 2 {
                process::exit(exit::STUCK);
            }
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Ends the program before Paho sends a damaged message: the token of its failure may come too late on a busy machine.
#[derive(Default)]
struct Guard(Mutex<Vec<Health>>);

impl Guard {
    fn give_up(&self) -> ! {
        give_up(&*self.0.lock().unwrap())
    }
}

impl StoreObserver for Guard {
    fn on_damaged(&self, _: &str, _: &str) {
        self.give_up();
    }
}

/// Ends the program once Redis has every record.
fn give_up<'a>(healths: impl IntoIterator<Item = &'a Health>) -> ! {
    for health in healths {
        // Records that cannot be saved are counted as lost by the driver.
        let _ = health.flush(LIMIT);
    }
    process::exit(exit::GIVEN_UP)
}

/// Reconnects whenever there is no connection.
fn keep_connected(client: &harness::client::Client) {
    loop {
        if !client.is_connected() {
            // Retried at the next tick.
            let _ = client.connect(LIMIT);
        }
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// Bytes that the program has allocated and not freed. Memory that the C library caches does not count.
// The C library has no safe interface for this.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn allocated() -> usize {
    // SAFETY: it only returns a value.
    let about = unsafe { libc::mallinfo2() };
    about.uordblks + about.hblkhd
}

/// No other C library has this number.
#[cfg(not(target_env = "gnu"))]
fn allocated() -> usize {
    panic!("the soak needs glibc, which counts what is allocated")
}
