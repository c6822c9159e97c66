//! What happens to the store, told outside every lock.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::error::Error;

/// Something that happened to the store of a client, beside the calls of Paho. Later versions may
/// have more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreEvent {
    /// The records are open.
    Opened {
        /// Unreadable records that were set aside, or could not be.
        quarantined: usize,
    },
    /// The store cannot be used: what is put is held here until it can.
    Down {
        /// Why.
        error: Arc<Error>,
    },
    /// Another attempt to use it has failed.
    StillDown {
        /// Why, this time.
        error: Arc<Error>,
        /// The reason is of another kind than before.
        is_new_reason: bool,
    },
    /// The store has everything again.
    Up {
        /// How long it could not be used.
        outage: Duration,
        /// How many changes were made again, or for the first time.
        rewritten: u64,
    },
    /// What is held here has reached the `buffer_warn_bytes`.
    BufferWarning {
        /// How many bytes are held.
        bytes: usize,
    },
    /// Records that the store has lost, and of which there was no copy here.
    Lost {
        /// How many.
        records: usize,
    },
    /// Records in the store that were not put there by this client.
    ForeignRecords {
        /// How many.
        records: usize,
        /// They were removed, since the store had come back with older contents. Otherwise another
        /// program has written them, and they are left.
        removed: bool,
    },
    /// Paho has removed records in flight without an acknowledgement: the session is gone.
    Discarded {
        /// The value of the `kind` label of the metrics.
        kind: &'static str,
        /// How many.
        records: usize,
    },
    /// How the store is, told when it is up or down, ten times a second while more or less waits, and
    /// twice a second while it is down.
    Status(HealthSnapshot),
    /// The records are closed.
    Closed,
}

/// How the store of a client is. Later versions may have more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthSnapshot {
    /// The records are open, and the store takes what is put.
    pub up: bool,
    /// Since when the store cannot be used, where it cannot.
    pub down_since: Option<SystemTime>,
    /// Records that are held here since the store cannot be used.
    pub held_records: usize,
    /// Their bytes.
    pub held_bytes: usize,
    /// Records that were sent and that the store has not confirmed.
    pub unconfirmed_records: usize,
    /// Their bytes.
    pub unconfirmed_bytes: usize,
    /// Records that the store has lost since the persistence was opened, and of which there was no
    /// copy here.
    pub lost_records: u64,
    /// When the store was last known to have everything.
    pub last_confirmed: Option<SystemTime>,
}
