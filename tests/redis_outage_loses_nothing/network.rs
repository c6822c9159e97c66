//! A network with latency or little bandwidth delays the records, and makes none of them unusable.

use std::{iter, time::Duration};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::RedisPersistence;
use testkit::{
    RedisServer,
    network::{Link, Network},
    record,
};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
const HASH: &str = "device:127.0.0.1:1883";

/// A persistence with default timeouts.
fn at(network: &Network) -> RedisPersistence {
    let options = RedisPersistence::builder().url(network.url());
    options.build().expect("good options")
}

#[test]
fn latency_leaves_time_to_connect() {
    let redis = RedisServer::tcp();
    let delay = Duration::from_millis(30);
    let link = Link {
        delay,
        ..Link::default()
    };
    let network = Network::start(redis.port(), link);
    let mut persistence = at(&network);
    persistence.connect(CLIENT, SERVER).expect("connects");
    persistence.open(CLIENT, SERVER).expect("opens");
    persistence
        .put("q-1", vec![&record("q-1", b"x")])
        .expect("never refused");
    assert!(persistence.health().snapshot().up);
}

#[test]
fn large_record_is_read_over_slow_network() {
    const SIZE: usize = 1_000_000;
    let redis = RedisServer::tcp();
    let keys = ["c-1", "c-2", "q-1"];
    let value = |key| record(key, &iter::repeat_n(b'x', SIZE).collect::<Vec<_>>());
    let mut pipeline = redis::pipe();
    for key in keys {
        pipeline.hset(HASH, key, value(key));
    }
    pipeline.exec(&mut redis.connection()).expect("HSET");
    let link = Link {
        bytes_per_second: Some(2_000_000),
        ..Link::default()
    };
    let network = Network::start(redis.port(), link);
    for cache_limit in [0, 2 * SIZE] {
        let options = RedisPersistence::builder().url(network.url());
        let mut persistence = options
            .cache_limit(cache_limit)
            .build()
            .expect("good options");
        persistence.open(CLIENT, SERVER).expect("reads the values");
        for key in keys {
            let found = persistence.get(key).expect("can be read");
            assert!(found == value(key), "{key}");
        }
        assert!(persistence.health().snapshot().up);
    }
}
