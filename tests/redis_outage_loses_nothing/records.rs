//! Persistence of a client, and numbered records in it.

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{RedisPersistence, RedisPersistenceBuilder};
use testkit::record;

pub const CLIENT: &str = "device";
pub const SERVER: &str = "127.0.0.1:1883";
/// Key of the hash of [`CLIENT`] without a prefix.
pub const HASH: &str = "device:127.0.0.1:1883";

pub fn opened(options: RedisPersistenceBuilder, client: &str) -> RedisPersistence {
    let mut persistence = options.build().expect("good options");
    persistence.open(client, SERVER).expect("opens");
    persistence
}

/// Puts the record `q-NUMBER`.
pub fn put(persistence: &mut RedisPersistence, number: usize) {
    let key = format!("q-{number}");
    let value = record(&key, key.as_bytes());
    persistence.put(&key, vec![&value]).expect("never refused");
}
