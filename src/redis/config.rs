//! The validated options of the Redis store.

use std::time::Duration;

use super::{address::RedisAddress, eviction_check::EvictionCheck};
use crate::store::Durability;

/// What the store works with, once the options have been checked.
pub(super) struct RedisConfig {
    pub(super) address: RedisAddress,
    pub(super) key_prefix: String,
    pub(super) connect_timeout: Duration,
    pub(super) operation_timeout: Duration,
    pub(super) open_timeout: Duration,
    pub(super) eviction_check: EvictionCheck,
    pub(super) durability: Durability,
}
