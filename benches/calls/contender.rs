//! Persistences whose calls are measured.

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    Durability, Instrumented, MemoryPersistence, Persistence, PersistenceMetrics, RedisPersistence,
    RedisPersistenceBuilder, Store, prometheus::Registry,
};

use crate::nothing::Nothing;
use testkit::RedisServer;

/// Measured persistence.
pub type Measured = Box<dyn ClientPersistence>;

/// Options of a `RedisPersistence`, except its address.
type Builder = fn() -> RedisPersistenceBuilder;

/// Durabilities of `RedisPersistence`, each with a table per transport.
const DURABILITIES: &[(&str, Builder)] = &[
    ("Confirmed", RedisPersistence::builder),
    ("Pipelined", || {
        RedisPersistence::builder().durability(Durability::Pipelined)
    }),
];

/// One persistence, plain and instrumented.
pub struct Pair {
    pub name: String,
    pub plain: Measured,
    pub instrumented: Measured,
}

/// Opens all of them.
pub fn all(redis: &RedisServer) -> Vec<Pair> {
    let metrics = PersistenceMetrics::register(&Registry::new()).expect("a new registry");
    let mut pairs = vec![
        Pair {
            name: "nothing kept".to_owned(),
            plain: Box::new(Nothing),
            instrumented: Box::new(Instrumented::new(Nothing, &metrics)),
        },
        of("MemoryPersistence", &metrics, MemoryPersistence::new),
    ];
    for (durability, builder) in DURABILITIES {
        for (transport, url) in [("TCP", redis.tcp_url()), ("Unix socket", redis.url())] {
            let name = format!("RedisPersistence, {durability}, {transport}");
            let build = || builder().url(&url).build().expect("good options");
            pairs.push(of(&name, &metrics, build));
        }
    }
    for (number, pair) in pairs.iter_mut().enumerate() {
        for (kind, persistence) in [
            ("plain", &mut pair.plain),
            ("instrumented", &mut pair.instrumented),
        ] {
            let client_id = format!("{kind}-{number}");
            persistence
                .open(&client_id, "broker.example:1883")
                .expect("opens");
        }
    }
    pairs
}

fn of<S: Store + 'static>(
    name: &str,
    metrics: &PersistenceMetrics,
    build: impl Fn() -> Persistence<S>,
) -> Pair {
    Pair {
        name: name.to_owned(),
        plain: Box::new(build()),
        instrumented: Box::new(build().instrument(metrics)),
    }
}
