//! The configuration of a persistence, whatever its store is.

use std::time::Duration;

use super::fill::SharedLimits;
use crate::{
    cache::{Confirmation, DEFAULT_MAX_SENDS, SetAsideOptions},
    clock::Clock,
    store::Durability,
};

/// The address of a store, without user and password, for `Debug` and spans.
#[derive(Clone)]
#[cfg_attr(
    not(all(feature = "redis", feature = "metrics")),
    allow(
        dead_code,
        reason = "only Redis has one, and only spans need its parts"
    )
)]
pub(crate) struct StoreAddress {
    /// The whole address, as a URL.
    pub(crate) url: String,
    /// The server with its port, for the names of spans.
    pub(crate) target: String,
    /// The name or IP address of the host, or the path of a Unix socket.
    pub(crate) server: String,
    pub(crate) port: Option<u16>,
    /// The database within the server.
    pub(crate) namespace: String,
}

/// The settings that do not depend on the store; the builders document their public forms.
#[derive(Clone)]
pub(crate) struct PersistenceConfig {
    pub(crate) store_address: Option<StoreAddress>,
    pub(crate) durability: Durability,
    /// Number of replicas that confirm a record; one of them may take over.
    pub(crate) replicas: u32,
    /// Maximum size of cached values, in bytes; pending values are kept beyond it.
    pub(crate) cache_limit: usize,
    /// Size of records that exist only in memory, in bytes, from which a warning is raised.
    pub(crate) buffer_warn_bytes: usize,
    /// The limits of what waits, for gauges, warnings and `Health::check_room`.
    pub(crate) waiting_limits: SharedLimits,
    /// Time that one call may wait for an unavailable store.
    pub(crate) call_timeout: Duration,
    /// Time that opening waits for a store that is not ready.
    pub(crate) open_timeout: Duration,
    /// `open` succeeds if the store is unreachable, and its records are loaded later.
    pub(crate) open_without_store: bool,
    /// `connect` looks for a backlog of the same client id under another server URI.
    pub(crate) moved_backlog_check: bool,
    /// A message in flight that was sent on more connections is suspected of being poison; `u32::MAX` for none.
    pub(crate) max_sends: u32,
    /// Opening quarantines the first message that is suspected.
    pub(crate) quarantines_poison: bool,
    /// What is set aside, and its bounds.
    pub(crate) set_asides: SetAsideOptions,
    pub(crate) clock: Clock,
}

impl PersistenceConfig {
    /// Returns which sends wait for the store.
    pub(super) fn confirmation(&self) -> Confirmation {
        match self.durability {
            Durability::Pipelined => Confirmation::WhenDue,
            Durability::Confirmed if self.replicas == 0 => Confirmation::OnRequest,
            Durability::Confirmed | Durability::Synced => Confirmation::Always,
        }
    }
}

impl Default for PersistenceConfig {
    fn default() -> Self {
        Self {
            store_address: None,
            durability: Durability::default(),
            replicas: 0,
            cache_limit: 16 * 1024 * 1024,
            buffer_warn_bytes: 1024 * 1024,
            waiting_limits: SharedLimits::default(),
            call_timeout: Duration::from_millis(250),
            open_timeout: Duration::from_secs(2),
            open_without_store: false,
            moved_backlog_check: true,
            max_sends: DEFAULT_MAX_SENDS,
            quarantines_poison: false,
            set_asides: SetAsideOptions::default(),
            clock: Clock::System,
        }
    }
}
