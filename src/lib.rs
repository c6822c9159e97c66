//! Crash-safe store-and-forward for [Paho MQTT] on embedded Linux: messages in flight live in a local
//! Redis, not on flash, with metrics, dashboards and alerts.
//!
//! Pass a persistence to the client. From then on messages at QoS 1 and 2 that `publish` has accepted
//! survive a crash of the program, and a failure of Redis never makes `publish` fail. During an outage of
//! Redis new messages exist only in memory; they are written when it is back.
//!
#![cfg_attr(feature = "redis", doc = "```rust,no_run")]
#![cfg_attr(not(feature = "redis"), doc = "```rust,ignore")]
//! # use paho_mqtt_redis::{RedisPersistence, paho_mqtt as mqtt};
//! # fn main() -> mqtt::Result<()> {
//! let persistence = RedisPersistence::new(); // Redis on 127.0.0.1:6379
//! let client = mqtt::CreateOptionsBuilder::new().client_id("device-1").user_persistence(persistence).create_client()?;
//! # drop(client);
//! # Ok(())
//! # }
//! ```
//!
//! The client id, the server URI, the MQTT version and a session that outlives the connection have to be
//! right: see [a reliable client].
//!
//! # Three types to know
//!
//! - [`RedisPersistence`] is what the client gets. `RedisPersistence::builder()` sets the URL, the
//!   durability and the timeouts; [`MemoryPersistence`] behaves the same without a Redis.
//! - [`PersistenceMetrics`] measures it: register it once per process, and wrap each persistence with
//!   `instrument`.
//! - [`MetricsServer`] serves the metrics to Prometheus, and a page to people.
//!
//! [`Error`] is the one error type; [`ErrorKind`] explains each kind and what to do. [`Health`] and
//! [`StoreObserver`] report the state of the store to the program. To use another backend than Redis,
//! implement [`Store`] and wrap it in [`Persistence`].
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `redis` | yes | [`RedisPersistence`] |
//! | `metrics` | yes | [`PersistenceMetrics`] and `Instrumented` |
//! | `server` | no | [`MetricsServer`]; implies `metrics` |
//! | `server-tls` | no | TLS for [`MetricsServer`]; implies `server` |
//! | `cli` | no | the program `mqtt-backlog`; implies `redis` |
//! | `log` | no | events also go to the `log` crate, if no `tracing` subscriber is set |
//! | `redis-tls`, alias `tls` | no | `rediss://`: TLS to Redis; implies `redis` |
//! | `bundled` | yes | builds Paho C from the sources in paho-mqtt; needs cmake and a C compiler |
//! | `mqtt-tls`, alias `ssl` | no | TLS to the broker, with the system's OpenSSL |
//! | `mqtt-tls-vendored`, alias `vendored-ssl` | no | TLS to the broker, with an OpenSSL that is built from source |
//!
//! # Documentation
//!
//! The repository and the package have the whole documentation as `README.md` and in `docs/`:
//!
//! - [README]: a first program, the three settings that cost messages, performance
//! - [Guarantees]: what survives which crash, and the proof
//! - [A reliable client]: what a program has to do
//! - [mqtt-backlog]: the program that shows, checks and moves what waits
//! - [Dead letters]: what Paho drops, and how to publish it again
//! - [Redis]: configuration, users and rights, systemd
//! - [Metrics] and [the endpoint]: what is measured, and how it is served
//! - [Monitoring]: dashboards, recording rules and alerts; [OpenTelemetry]: spans to a collector
//! - [Errors] and [logging]: where an error shows, and which events are logged
//! - [Migrating from 0.3] and [the changelog][CHANGELOG]
//! - [Design]: how it works, and the glossary
//!
//! [Paho MQTT]: https://github.com/eclipse-paho/paho.mqtt.rust
//!
//! [README]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/README.md
//! [Guarantees]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/guarantees.md
//! [a reliable client]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/reliable-client.md
//! [mqtt-backlog]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/mqtt-backlog.md
//! [Dead letters]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/dead-letters.md
//! [Redis]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/redis.md
//! [Metrics]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/metrics.md
//! [the endpoint]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/endpoint.md
//! [Monitoring]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/monitoring.md
//! [OpenTelemetry]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/opentelemetry.md
//! [Errors]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/errors.md
//! [logging]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/logging.md
//! [Migrating from 0.3]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/migrating-from-0.3.md
//! [CHANGELOG]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/CHANGELOG.md
//! [Design]: https://docs.rs/crate/paho-mqtt-redis/0.4.0/source/docs/design.md
#![cfg_attr(not(feature = "redis"), doc = "[`RedisPersistence`]: #features")]
#![cfg_attr(not(feature = "metrics"), doc = "[`PersistenceMetrics`]: #features")]
#![cfg_attr(not(feature = "server"), doc = "[`MetricsServer`]: #features")]
#![cfg_attr(docsrs, feature(doc_cfg))]
// A panic would cross Paho's C callbacks and end the program.
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

#[cfg(not(unix))]
compile_error!("paho-mqtt-redis needs a Unix system: it uses Unix sockets and file descriptors");

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod backlog;
mod cache;
mod client;
mod clock;
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
#[doc(hidden)]
pub mod simulation;
mod store;
mod threads;
mod units;

pub use paho_mqtt;
#[cfg(feature = "metrics")]
pub use prometheus;

pub use client::{
    BrokenWrite, Client, ClientState, ConnectionState, Delivery, OnBrokenWrite, PublishError,
    Session, SessionOptions, Stopped,
};
pub use error::{Error, ErrorKind};
#[cfg(feature = "metrics")]
pub use instrumented::Instrumented;
#[cfg(feature = "metrics")]
pub use metrics::{PersistenceMetrics, PersistenceMetricsBuilder, render, write_textfile};
pub use paho::{DropReason, RecordKind};
pub use persistence::{
    Adoption, DeadLetter, DeadLetters, Flushed, Health, MemoryPersistence, MovedBacklog,
    OverBudget, Persistence, PublishedAgain, StoreObserver,
};
#[cfg(feature = "redis")]
pub use redis::{EvictionCheck, RedisPersistence, RedisPersistenceBuilder, RedisStore};
/// The endpoint from the bytes of a request to those of the response, for the fuzzer.
#[cfg(all(fuzzing, feature = "server"))]
#[doc(hidden)]
pub use server::fuzzing;
#[cfg(feature = "server")]
pub use server::{MetricsServer, MetricsServerBuilder};
pub use store::{
    Adopted, Change, Connected, Durability, Group, HealthSnapshot, HealthState, MemoryStore,
    OtherRecords, Place, Sent, SetAsideLimits, SetAsideLoss, Store, StoreEvent,
};

/// Compiles the examples of the README and of `docs/` as doc tests.
#[cfg(all(doctest, feature = "redis", feature = "server"))]
mod documentation {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/dead-letters.md")]
    mod dead_letters {}
    #[doc = include_str!("../docs/endpoint.md")]
    mod endpoint {}
    #[doc = include_str!("../docs/logging.md")]
    mod logging {}
    #[doc = include_str!("../docs/metrics.md")]
    mod metrics {}
    #[doc = include_str!("../docs/redis.md")]
    mod redis {}
    #[doc = include_str!("../docs/reliable-client.md")]
    mod reliable_client {}
    mod upstream {
        #[doc = include_str!("../docs/upstream/connect-owns-client.md")]
        mod connect_owns_client {}
        #[doc = include_str!("../docs/upstream/contains-key.md")]
        mod contains_key {}
        #[doc = include_str!("../docs/upstream/destroy-deletes-session.md")]
        mod destroy_deletes_session {}
        #[doc = include_str!("../docs/upstream/failed-get.md")]
        mod failed_get {}
        #[doc = include_str!("../docs/upstream/incomplete-restore.md")]
        mod incomplete_restore {}
        #[doc = include_str!("../docs/upstream/interrupt-socket.md")]
        mod interrupt_socket {}
        #[doc = include_str!("../docs/upstream/interrupted-write.md")]
        mod interrupted_write {}
        #[doc = include_str!("../docs/upstream/packet-id-search.md")]
        mod packet_id_search {}
        #[doc = include_str!("../docs/upstream/persistence-errors.md")]
        mod persistence_errors {}
        #[doc = include_str!("../docs/upstream/repeated-connect-callback.md")]
        mod repeated_connect_callback {}
        #[doc = include_str!("../docs/upstream/restored-version.md")]
        mod restored_version {}
        #[doc = include_str!("../docs/upstream/sequence-numbers.md")]
        mod sequence_numbers {}
        #[doc = include_str!("../docs/upstream/token-of-failed-publish.md")]
        mod token_of_failed_publish {}
        #[doc = include_str!("../docs/upstream/unchecked-records.md")]
        mod unchecked_records {}
        #[doc = include_str!("../docs/upstream/uninitialized-failure-data.md")]
        mod uninitialized_failure_data {}
        #[doc = include_str!("../docs/upstream/unsubscribe.md")]
        mod unsubscribe {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    const FRONT_PAGE: &str = include_str!("lib.rs");

    #[test]
    fn front_page_links_lead_into_this_package() {
        let root = concat!(
            "https://docs.rs/crate/paho-mqtt-redis/",
            env!("CARGO_PKG_VERSION"),
            "/source/"
        );
        let links = FRONT_PAGE
            .lines()
            .filter_map(|line| line.strip_prefix("//! [")?.split_once("]: "));
        let links = links.filter(|(name, _)| *name != "Paho MQTT");
        let paths: Vec<&str> = links
            .map(|(name, link)| {
                link.strip_prefix(root)
                    .unwrap_or_else(|| panic!("{name}: {link}"))
            })
            .collect();
        assert!(paths.len() > 5, "{paths:?}");
        for path in paths {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            assert!(file.is_file(), "{path}");
        }
    }

    #[test]
    fn front_page_features_match_manifest() {
        let manifest = include_str!("../Cargo.toml");
        let (_, features) = manifest.split_once("\n[features]\n").expect("features");
        let (features, _) = features.split_once("\n[").expect("a next section");
        let (_, default) = features.split_once("default = [").expect("a default");
        let (default, _) = default.split_once(']').expect("its end");
        let names = features
            .lines()
            .filter_map(|line| Some(line.split_once(" = [")?.0));
        let mut expected: Vec<(&str, bool)> = names
            .filter(|name| *name != "default")
            .map(|name| (name, default.contains(&format!("\"{name}\""))))
            .collect();
        expected.sort_unstable();
        let mut documented = Vec::new();
        for line in FRONT_PAGE.lines() {
            let row = line.strip_prefix("//! | `");
            if let Some((names, rest)) = row.and_then(|row| row.split_once("` | ")) {
                // An alias is in the same row.
                let names = names.split("`, alias `");
                documented.extend(names.map(|name| (name, rest.starts_with("yes"))));
            }
        }
        documented.sort_unstable();
        assert_eq!(documented, expected);
    }
}
