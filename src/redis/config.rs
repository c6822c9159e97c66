//! The validated options of the Redis store.

use std::time::Duration;

use super::{address::RedisAddress, eviction_check::EvictionCheck};
use crate::store::Durability;

/// The options of a [`RedisStore`](crate::redis::RedisStore), validated by the builder.
///
/// The rest of the builder's options goes to the persistence, which is the same for every store.
#[derive(Clone)]
pub(super) struct RedisConfig {
    pub(super) address: RedisAddress,
    /// Precedes `client_id:server_uri` in the key of the hash.
    pub(super) key_prefix: String,
    pub(super) connect_timeout: Duration,
    /// Limits one exchange as a whole.
    pub(super) operation_timeout: Duration,
    /// Limits listing the records. The persistence retries `connect` for as long.
    pub(super) open_timeout: Duration,
    pub(super) eviction_check: EvictionCheck,
    pub(super) durability: Durability,
    /// A write is confirmed once this many replicas have it.
    pub(super) replicas: u32,
}
