//! The validated options of the Redis store.

use std::time::Duration;

use super::{address::RedisAddress, cluster, eviction_check::EvictionCheck};
use crate::{
    error::{Error, ErrorKind},
    store::Durability,
};

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

impl RedisConfig {
    /// Returns the key of the hash with the records of this name.
    pub(super) fn hash(&self, name: &str) -> Result<String, Error> {
        let key_prefix = &self.key_prefix;
        if !self.address.is_in_cluster() {
            return Ok(format!("{key_prefix}{name}"));
        }
        cluster::check_name(key_prefix, name).map_err(|reason| {
            Error::new(ErrorKind::InvalidOption, "use the records in a cluster").with_reason(reason)
        })?;
        Ok(cluster::hash(key_prefix, name))
    }
}
