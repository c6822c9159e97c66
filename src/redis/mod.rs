//! Records in a Redis hash.

mod acl;
mod address;
mod builder;
mod client_lock;
mod command_buffer;
mod config;
mod connect;
mod connection;
mod eviction_check;
mod exchange_error;
mod other_records;
mod preflight;
mod resolver;
mod resp;
mod store;
#[cfg(feature = "tls")]
mod tls;
mod url_error;
mod write_commands;

pub use builder::{RedisPersistence, RedisPersistenceBuilder};
pub use eviction_check::EvictionCheck;
pub use store::RedisStore;
