//! How a persistence behaves, whatever its store is.

use std::{sync::Arc, time::Duration};

use super::observer::StoreObserver;
use crate::store::Durability;

/// As the options set it.
#[derive(Clone)]
pub(crate) struct PersistenceConfig {
    pub(crate) durability: Durability,
    /// How many bytes of values are kept.
    pub(crate) cache_limit: usize,
    /// How many bytes may be held before an alarm is raised.
    pub(crate) buffer_warn_bytes: usize,
    /// How long a call may wait for a store to come back.
    pub(crate) call_timeout: Duration,
    /// How long opening waits for a store that is not ready yet.
    pub(crate) open_timeout: Duration,
    pub(crate) observer: Option<Arc<dyn StoreObserver>>,
}

impl Default for PersistenceConfig {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            cache_limit: 16 * 1024 * 1024,
            buffer_warn_bytes: 1024 * 1024,
            call_timeout: Duration::from_millis(250),
            open_timeout: Duration::from_secs(2),
            observer: None,
        }
    }
}
