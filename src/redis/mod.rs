//! Records in a Redis hash.

mod acl;
mod address;
#[cfg(feature = "cli")]
mod arrivals;
mod builder;
mod client_lock;
mod cluster;
mod command_buffer;
mod config;
mod connect;
mod connection;
mod disk_sync;
mod environment;
mod eviction_check;
mod exchange_error;
mod login;
mod other_records;
mod password;
mod preflight;
#[cfg(feature = "cli")]
mod reader;
mod replicas;
mod resp;
mod sentinel;
mod store;
#[cfg(feature = "redis-tls")]
mod tls;
mod url_error;
mod write_commands;

pub use builder::{RedisPersistence, RedisPersistenceBuilder};
pub use eviction_check::EvictionCheck;
#[cfg(feature = "cli")]
pub(crate) use preflight::server_version;
#[cfg(feature = "cli")]
pub use reader::Owner;
#[cfg(feature = "cli")]
pub(crate) use reader::{Diagnosis, Owners, RedisReader};
pub use store::RedisStore;
