//! Persistences under test, each with a store of its own.

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    Instrumented, MemoryPersistence, PersistenceMetrics, RedisPersistence, prometheus::Registry,
};
use testkit::{LIMIT, RedisServer};

pub type Opened = Box<dyn ClientPersistence + Send>;

pub const ID: &str = "device-1";
pub const URI: &str = "127.0.0.1:1883";

/// Creates persistences over one store, which lives as long as this value.
pub struct Backend {
    create: Box<dyn Fn() -> Opened>,
    _redis: Option<RedisServer>,
}

impl Backend {
    /// Returns another persistence over the store, not yet open.
    pub fn create(&self) -> Opened {
        (self.create)()
    }

    /// Returns an open persistence over the emptied store.
    pub fn opened(&self) -> Opened {
        let mut persistence = self.create();
        persistence.open(ID, URI).expect("opens");
        persistence.clear().expect("clears");
        persistence
    }
}

fn in_memory<P: ClientPersistence + Send + 'static>(
    create: impl Fn(MemoryPersistence) -> P + 'static,
) -> Backend {
    let memory = MemoryPersistence::new();
    Backend {
        create: Box::new(move || Box::new(create(memory.clone()))),
        _redis: None,
    }
}

fn in_redis<P: ClientPersistence + Send + 'static>(
    redis: RedisServer,
    url: String,
    create: impl Fn(RedisPersistence) -> P + 'static,
) -> Backend {
    let persistence = move || {
        // A server on a busy machine may take longer than the defaults.
        let options = RedisPersistence::builder()
            .connect_timeout(LIMIT)
            .operation_timeout(LIMIT);
        options.url(&url).build().expect("a valid URL")
    };
    Backend {
        create: Box::new(move || Box::new(create(persistence()))),
        _redis: Some(redis),
    }
}

fn metrics() -> PersistenceMetrics {
    PersistenceMetrics::register(&Registry::new()).expect("registers")
}

pub fn memory() -> Backend {
    in_memory(|memory| memory)
}

pub fn redis_tcp() -> Backend {
    let redis = RedisServer::tcp();
    let url = redis.tcp_url();
    in_redis(redis, url, |persistence| persistence)
}

pub fn redis_unix() -> Backend {
    let redis = RedisServer::start();
    let url = redis.url();
    in_redis(redis, url, |persistence| persistence)
}

pub fn instrumented_memory() -> Backend {
    let metrics = metrics();
    in_memory(move |memory| memory.instrument(&metrics))
}

pub fn instrumented_redis_tcp() -> Backend {
    let (redis, metrics) = (RedisServer::tcp(), metrics());
    let url = redis.tcp_url();
    in_redis(redis, url, move |persistence| {
        persistence.instrument(&metrics)
    })
}

pub fn instrumented_redis_unix() -> Backend {
    let (redis, metrics) = (RedisServer::start(), metrics());
    let url = redis.url();
    in_redis(redis, url, move |persistence| {
        Instrumented::new(persistence, &metrics)
    })
}
