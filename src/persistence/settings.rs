//! How a persistence behaves, whatever its store is.

use std::{sync::Arc, time::Duration};

use super::events::StoreObserver;

/// What `put` waits for, and so what a crash of the store can cost.
///
/// A crash of the program costs nothing with either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Until the store has said that it has the record.
    #[default]
    Confirmed,
    /// Until the operating system has taken it on its way to the store, which is asked for it after
    /// at most 256 changes, 256 KiB or a tenth of a second. A crash of the store *and* of the
    /// program within that time loses it, and so does a power cut. Over TCP the system gathers until
    /// then what is small, which spares Redis most of its work; it sends it when the program dies.
    Pipelined,
}

/// As the options set it.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) durability: Durability,
    /// How many bytes of values are kept.
    pub(crate) cache_limit: usize,
    /// How many bytes may be held before an alarm is raised.
    pub(crate) buffer_warn_bytes: usize,
    /// How long a call may wait for a store to come back.
    pub(crate) patience: Duration,
    /// How long opening waits for a store that is not ready yet.
    pub(crate) open_timeout: Duration,
    pub(crate) observer: Option<Arc<dyn StoreObserver>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            cache_limit: 16 * 1024 * 1024,
            buffer_warn_bytes: 1024 * 1024,
            patience: Duration::from_millis(250),
            open_timeout: Duration::from_secs(2),
            observer: None,
        }
    }
}
