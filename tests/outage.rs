//! The log tells of an outage of Redis, for which client it is, and once that it is over.

#![cfg(feature = "redis")]

mod support;

use std::time::Duration;

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::RedisPersistence;
use support::{RedisServer, log::Log};

#[test]
fn the_log_tells_whose_redis_is_away_and_once_that_it_answers_again() {
    const AMPLE: Duration = Duration::from_secs(10);
    let mut redis = RedisServer::start();
    let log = Log::default();
    log.during(|| {
        let mut persistence = RedisPersistence::builder()
            .url(redis.url())
            .connect_timeout(AMPLE)
            .operation_timeout(AMPLE)
            .build()
            .expect("valid");
        persistence.open("device", "127.0.0.1:1883").expect("opens");
        for _ in 0..2 {
            persistence.put("c-1", vec![b"value"]).expect("puts");
            redis.kill();
            for _ in 0..3 {
                persistence.put("c-1", vec![b"value"]).expect_err("away");
            }
            // It is answered without Redis.
            persistence.keys().expect("lists");
            redis.restart();
            for _ in 0..3 {
                persistence.put("c-1", vec![b"value"]).expect("puts");
            }
        }
    });
    let text = log.text();
    let lines = |level: &str| {
        let of_level = text.lines().filter(|line| line.contains(level));
        of_level.collect::<Vec<_>>()
    };
    let warnings = lines("WARN");
    assert!(!warnings.is_empty(), "{text}");
    for line in warnings {
        assert!(line.contains(r#"messaging.client.id="device""#), "{line}");
    }
    let again: Vec<_> = lines("INFO")
        .into_iter()
        .filter(|line| line.contains("Redis answers again"))
        .collect();
    // The second outage is too soon for the log to be told of it.
    let [line] = again[..] else {
        panic!("not once: {text}");
    };
    for part in [
        r#"messaging.client.id="device""#,
        "failed_calls=3",
        "outage_seconds=",
    ] {
        assert!(line.contains(part), "{part} is not in: {line}");
    }
}
