//! Compared ways to keep messages.

use std::{
    env,
    io::{self, Read},
    mem,
    path::Path,
    process::{self, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::{
    Durability, MemoryPersistence, MetricsServer, PersistenceMetrics, RedisPersistence,
    RedisPersistenceBuilder, prometheus::Registry,
};

use crate::job::Addresses;
use testkit::{direct::Direct, limit::Limit, try_http_get};

/// Options of a `RedisPersistence`, except its address.
type Builder = fn() -> RedisPersistenceBuilder;

/// Durabilities of `RedisPersistence`, each with a row per transport.
const DURABILITIES: &[(&str, Builder)] = &[
    ("Confirmed", RedisPersistence::builder),
    ("Pipelined", || {
        RedisPersistence::builder().durability(Durability::Pipelined)
    }),
];

/// Long, so that a busy machine does not count as a fault.
const LIMIT: Duration = Duration::from_secs(10);

/// Way to keep messages.
#[derive(Clone)]
pub struct Contender {
    pub name: String,
    pub store: Store,
    instrumented: bool,
    scraped: bool,
}

#[derive(Clone, Copy)]
pub enum Store {
    None,
    Memory,
    /// Paho's own persistence.
    Files(Medium),
    /// One command per call, over TCP.
    Direct,
    /// In memory, with one round trip to Redis wherever `Confirmed` has to wait.
    Limit(Transport),
    Ours(Transport, Builder),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    Disk,
    Tmpfs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Unix,
}

/// Contenders that the ratios refer to.
pub const NONE: &str = "none";
pub const MEMORY: &str = "memory";
pub const DIRECT: &str = "direct";
pub const TMPFS: &str = "files on tmpfs";

const TRANSPORTS: [(Transport, &str); 2] =
    [(Transport::Tcp, "TCP"), (Transport::Unix, "Unix socket")];

fn limit(transport: &str) -> String {
    format!("limit, {transport}")
}

/// All contenders, in the order of the tables.
pub fn all() -> Vec<Contender> {
    let plain = |name: &str, store| Contender {
        name: name.to_owned(),
        store,
        instrumented: false,
        scraped: false,
    };
    let mut all = vec![plain(NONE, Store::None)];
    all.extend(plain(MEMORY, Store::Memory).and_instrumented());
    for (transport, name) in TRANSPORTS {
        all.push(plain(&limit(name), Store::Limit(transport)));
    }
    all.push(plain("files on disk", Store::Files(Medium::Disk)));
    all.push(plain(TMPFS, Store::Files(Medium::Tmpfs)));
    all.push(plain(DIRECT, Store::Direct));
    for &(durability, options) in DURABILITIES {
        for (transport, name) in TRANSPORTS {
            let ours = plain(
                &format!("{durability}, {name}"),
                Store::Ours(transport, options),
            );
            all.extend(ours.and_instrumented());
        }
    }
    all
}

/// Durabilities whose price is compared, each over a Unix socket.
pub fn durabilities() -> Vec<Contender> {
    let others: [(&str, Builder); 2] = [
        ("Confirmed, replicas(1)", || {
            RedisPersistence::builder().replicas(1)
        }),
        ("Synced", || {
            RedisPersistence::builder().durability(Durability::Synced)
        }),
    ];
    let all = DURABILITIES.iter().copied().chain(others);
    let contenders = all.map(|(name, options)| Contender {
        name: name.to_owned(),
        store: Store::Ours(Transport::Unix, options),
        instrumented: false,
        scraped: false,
    });
    contenders.collect()
}

impl Contender {
    fn and_instrumented(self) -> [Self; 3] {
        let instrumented = Self {
            name: format!("{}, instrumented", self.name),
            instrumented: true,
            ..self
        };
        let scraped = Self {
            name: format!("{}, scraped", instrumented.name),
            scraped: true,
            ..instrumented
        };
        [self, instrumented, scraped]
    }

    /// Does the same for another column.
    pub fn renamed(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self.clone()
        }
    }

    /// Name of the contender that makes only the round trips that the promise of this one needs; `None` if it makes no promise about
    /// Redis.
    pub fn limit(&self) -> Option<String> {
        match self.name.split_once(", ") {
            Some(("Confirmed", transport)) => Some(limit(transport)),
            Some(("Pipelined", _)) => Some(MEMORY.to_owned()),
            _ => None,
        }
    }

    /// Returns true if records outlive the process.
    pub fn outlives_the_process(&self) -> bool {
        !matches!(self.store, Store::None | Store::Memory | Store::Limit(_))
    }

    pub fn uses_redis(&self) -> bool {
        matches!(self.store, Store::Direct | Store::Ours(..))
    }

    /// Returns true for the plain variant with the fastest transport or medium, which represents the others if measuring these would
    /// only take time.
    pub fn stands_for_others(&self) -> bool {
        let longer_way = matches!(
            self.store,
            Store::Ours(Transport::Tcp, _) | Store::Files(Medium::Disk)
        );
        !self.instrumented && !longer_way
    }

    pub fn is_instrumented(&self) -> bool {
        self.instrumented
    }

    pub fn is_scraped(&self) -> bool {
        self.scraped
    }

    /// Sets the persistence of the client.
    pub fn install(
        &self,
        options: mqtt::CreateOptionsBuilder,
        at: &Addresses,
    ) -> mqtt::CreateOptionsBuilder {
        match self.store {
            Store::None => options.persistence(mqtt::PersistenceType::None),
            Store::Files(_) => options.persistence(Path::new(&at.folder)),
            Store::Direct => options.user_persistence(Direct::new(&at.redis_tcp)),
            Store::Memory => self.install_ours(options, MemoryPersistence::new()),
            Store::Limit(transport) => options.user_persistence(Limit::new(at.redis(transport))),
            Store::Ours(transport, builder) => {
                let persistence = builder()
                    .url(at.redis(transport))
                    .operation_timeout(LIMIT)
                    .open_timeout(LIMIT)
                    .build()
                    .expect("good options");
                self.install_ours(options, persistence)
            }
        }
    }

    fn install_ours<S: paho_mqtt_redis::Store + Send + 'static>(
        &self,
        options: mqtt::CreateOptionsBuilder,
        persistence: paho_mqtt_redis::Persistence<S>,
    ) -> mqtt::CreateOptionsBuilder {
        if self.instrumented {
            let registry = Registry::new();
            let metrics = PersistenceMetrics::register(&registry).expect("a new registry");
            if self.scraped {
                serve(registry);
            }
            options.user_persistence(persistence.instrument(&metrics))
        } else {
            options.user_persistence(persistence)
        }
    }
}

/// Argument that makes a process of the bench a scraper.
pub const SCRAPER: &str = "--scrape";

/// Serves the metrics, and starts a process that scrapes them until this one ends.
fn serve(registry: Registry) {
    let server = MetricsServer::bind("127.0.0.1:0", registry).expect("a port");
    let scraper = Command::new(env::current_exe().expect("this program"))
        .args([SCRAPER, &server.local_addr().unwrap().to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("it starts");
    // Both last as long as this process; the scraper ends when its input closes.
    mem::forget((server, scraper));
}

/// Scrapes ten times per second.
pub fn scrape(address: &str) -> ! {
    const INTERVAL: Duration = Duration::from_millis(100);
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        process::exit(0);
    });
    let mut next = Instant::now();
    loop {
        // Fails at the end, when the server is gone before the scraper.
        if let Ok((status, _, _)) = try_http_get(address, "/metrics") {
            assert_eq!(status, 200);
        }
        next += INTERVAL;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}
