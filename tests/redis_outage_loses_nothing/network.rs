//! A network with latency or little bandwidth delays the records, and makes none of them unusable.

use std::{iter, time::Duration};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::RedisPersistence;
use redis::TypedCommands;
use testkit::{
    LIMIT, RedisServer,
    network::{Link, Network},
    record,
};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
const HASH: &str = "device:127.0.0.1:1883";

/// Latency in each direction.
const DELAY: Duration = Duration::from_millis(60);
const PASSWORD: &str = "Zq7xKv2w";

/// Redis far away, with a password.
struct FarRedis {
    redis: RedisServer,
    /// Connection of the test itself, which is not far away.
    near: redis::Connection,
    network: Network,
    url: String,
}

impl FarRedis {
    fn start(has_tls: bool) -> Self {
        let redis = RedisServer::tcp();
        let link = Link {
            delay: DELAY,
            ..Link::default()
        };
        let (scheme, port) = if has_tls {
            ("rediss", redis.listen_with_tls(false))
        } else {
            ("redis", redis.port())
        };
        let mut near = redis.connection();
        let set = redis::cmd("CONFIG")
            .arg(&["SET", "requirepass", PASSWORD])
            .exec(&mut near);
        set.expect("CONFIG SET");
        redis::cmd("SELECT").arg(1).exec(&mut near).expect("SELECT");
        let network = Network::start(port, link);
        let url = format!("{scheme}://:{PASSWORD}@127.0.0.1:{}/1", network.port());
        Self {
            redis,
            near,
            network,
            url,
        }
    }

    /// A persistence with default timeouts.
    fn persistence(&self) -> RedisPersistence {
        let mut options = RedisPersistence::builder().url(&self.url).cache_limit(0);
        if self.url.starts_with("rediss") {
            options = options.ca_file(self.redis.dir().join("trusted.crt"));
        }
        options.build().expect("good options")
    }

    fn store(&mut self, key: &str) {
        let stored = self.near.hset(HASH, key, record(key, b"x"));
        stored.expect("HSET");
    }

    /// Counts the round trips of `work`.
    fn round_trips(&self, work: impl FnOnce()) -> usize {
        let before = self.network.round_trips();
        work();
        self.network.round_trips() - before
    }
}

#[test]
fn connect_takes_four_round_trips_at_most() {
    for (has_tls, connecting, opening) in [(false, 3, 6), (true, 4, 7)] {
        let mut far = FarRedis::start(has_tls);
        for (keys, further) in [(&[][..], 0), (&["q-1"], 1)] {
            for key in keys {
                far.store(key);
            }
            let mut persistence = far.persistence();
            let connected = far.round_trips(|| {
                persistence.connect(CLIENT, SERVER).expect("connects");
            });
            let opened = far.round_trips(|| {
                persistence.open(CLIENT, SERVER).expect("opens");
            });
            let expected = (connecting, opening + further);
            assert_eq!((connected, opened), expected, "{has_tls}, {keys:?}");
            persistence.close().expect("closes");
        }
    }
}

#[test]
fn tls_far_away_works_with_default_timeouts() {
    let mut far = FarRedis::start(true);
    let mut persistence = far.persistence();
    persistence.connect(CLIENT, SERVER).expect("connects");
    persistence.open(CLIENT, SERVER).expect("opens");
    let health = persistence.health();
    let value = |key| record(key, b"x");
    for key in ["q-1", "q-2"] {
        persistence.put(key, vec![&value(key)]).expect("stored");
    }
    assert_eq!(persistence.get("q-1").expect("is read"), value("q-1"));
    persistence.remove("q-1").expect("removed");
    assert!(health.last_error().is_none());

    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal"])
        .exec(&mut far.near)
        .expect("CLIENT KILL");
    persistence.put("q-3", vec![&value("q-3")]).expect("kept");
    health.last_error().expect("its connection broke");
    health.flush(LIMIT).expect("written to Redis");
    assert!(health.snapshot().up);
    let mut stored = far.near.hkeys(HASH).expect("HKEYS");
    stored.sort();
    assert_eq!(stored, ["q-2", "q-3"]);
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
