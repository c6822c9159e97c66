// The README's examples are doc tests, for which its features are needed.
#![cfg_attr(all(feature = "redis", feature = "server"), doc = include_str!("../README.md"))]
#![cfg_attr(
    not(all(feature = "redis", feature = "server")),
    doc = "Redis persistence, metrics and a metrics endpoint for the Eclipse Paho MQTT client; see the README."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// A panic here would cross Paho's C callbacks and end the program.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::get_unwrap,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used,
    )
)]

mod cache;
mod error;
#[cfg(feature = "metrics")]
mod instrumented;
#[cfg(feature = "metrics")]
mod metrics;
mod net;
mod paho;
mod persistence;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "server")]
mod server;
mod store;

pub use paho_mqtt;
#[cfg(feature = "metrics")]
pub use prometheus;

pub use error::{Error, ErrorKind};
#[cfg(feature = "metrics")]
pub use instrumented::Instrumented;
#[cfg(feature = "metrics")]
pub use metrics::{PersistenceMetrics, PersistenceMetricsBuilder, render, write_textfile};
pub use persistence::{Health, MemoryPersistence, Persistence, StoreObserver};
#[cfg(feature = "redis")]
pub use redis::{EvictionCheck, RedisPersistence, RedisPersistenceBuilder, RedisStore};
/// The way from the bytes of a peer to those of the answer, for the fuzzer.
#[cfg(all(fuzzing, feature = "server"))]
#[doc(hidden)]
pub use server::fuzzing;
#[cfg(feature = "server")]
pub use server::{MetricsServer, MetricsServerBuilder};
pub use store::{
    Change, Connected, Durability, Group, HealthSnapshot, MemoryStore, Sent, Store, StoreEvent,
};
