//! A network with latency or little bandwidth delays the records, and makes none of them unusable.

use std::time::Duration;

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::RedisPersistence;
use testkit::{
    RedisServer,
    network::{Link, Network},
    record,
};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";

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
