//! [`StoreEvent`], [`HealthSnapshot`] and [`HealthState`]: what observers, log and metrics learn about a store.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{set_aside::SetAsideLoss, traits::Place};
use crate::{
    error::Error,
    paho::{DropReason, RecordKind},
};

/// An event of the store of one client.
///
/// It is delivered on a thread of its own, outside every lock of the persistence. Later versions may
/// add events, and fields to each.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreEvent {
    /// Paho opened the persistence.
    #[non_exhaustive]
    Opened {
        /// Number of unreadable records, quarantined or unmovable, and of messages that may be poison.
        quarantined: usize,
    },
    /// The store is connected to a server: at open, and when it has found another one or other data.
    #[non_exhaustive]
    Connected {
        /// Its name and version, such as `Valkey 9.1.2`.
        server: String,
    },
    /// The store became unavailable. New writes stay in memory until it recovers.
    #[non_exhaustive]
    Down {
        /// The cause.
        error: Arc<Error>,
    },
    /// Another attempt to recover the store failed.
    #[non_exhaustive]
    StillDown {
        /// The cause of this failure.
        error: Arc<Error>,
        /// The kind of the error differs from that of the attempt before.
        is_new_reason: bool,
    },
    /// The store is available again and has every record that this process knows, except those that it
    /// [refuses](Self::Refused).
    #[non_exhaustive]
    Up {
        /// Duration of the outage.
        outage: Duration,
        /// Number of writes that the recovery made, some of them for the second time.
        rewritten: u64,
    },
    /// The records that exist only in memory have reached `buffer_warn_bytes`.
    #[non_exhaustive]
    BufferWarning {
        /// Their size in bytes.
        bytes: usize,
    },
    /// The waiting messages have reached 80 % of a limit: `max_buffered_messages` or `byte_budget`.
    #[non_exhaustive]
    NearlyFull {
        /// The number of messages that Paho has not sent yet.
        queued_messages: usize,
        /// The size of the records of all waiting messages in bytes.
        waiting_bytes: usize,
    },
    /// The store lost records of which this process has no copy.
    #[non_exhaustive]
    Lost {
        /// Their number.
        records: usize,
    },
    /// One of the records that [`Lost`](Self::Lost) counts, unless Paho does not know it, since it is of an
    /// [earlier run](Self::EarlierRecords).
    #[non_exhaustive]
    RecordLost {
        /// Paho's key of the record.
        key: String,
    },
    /// An unread record of an earlier run has another key now, since Paho reused its own.
    ///
    /// Paho does not know the record; the next start restores it. A command keeps its key in the store;
    /// it is the new command that is stored under another one. Records of a store that was unavailable
    /// at open are not reported.
    #[non_exhaustive]
    RecordRelocated {
        /// The key that it had.
        old_key: String,
        /// The new key, by which later events name the record.
        key: String,
        /// Size of the record in bytes.
        bytes: usize,
    },
    /// The store refuses some records, although it takes others. They exist only in memory, and are
    /// tried again.
    #[non_exhaustive]
    Refused {
        /// The last reply.
        error: Arc<Error>,
        /// The number of records that it refuses now.
        records: usize,
        /// Their size in bytes.
        bytes: usize,
    },
    /// The store has records that this process has never known.
    #[non_exhaustive]
    ForeignRecords {
        /// Their number.
        records: usize,
        /// `true` if they were moved to the quarantine, since the store came back with other data or they
        /// were in the way of a record.
        /// `false` if they stay, since another program wrote them.
        removed: bool,
    },
    /// The store, which was unavailable at open, has records of an earlier run.
    ///
    /// Paho does not know them, and nothing sends them before the next start, which restores them.
    #[non_exhaustive]
    EarlierRecords {
        /// Their number.
        records: usize,
    },
    /// A message was sent on more than `max_sends` connections and not acknowledged on any. It may be what
    /// ends them, or wait behind the message that does.
    ///
    /// Sent once per message.
    #[non_exhaustive]
    PoisonSuspect {
        /// Paho's key of the record.
        key: String,
        /// The number of connections, those of earlier runs included.
        connections: u32,
    },
    /// Paho removed records although their messages were not delivered.
    #[non_exhaustive]
    Dropped {
        /// Their kind.
        kind: RecordKind,
        /// The reason, as far as the calls show it.
        reason: DropReason,
        /// Their number.
        records: usize,
    },
    /// Records were set aside, to be listed with [`DeadLetters`](crate::DeadLetters).
    #[non_exhaustive]
    SetAside {
        /// Their place.
        place: Place,
        /// Their number.
        records: usize,
    },
    /// Records that were set aside, or were to be, are gone.
    #[non_exhaustive]
    SetAsideLost {
        /// Their place.
        place: Place,
        /// The reason.
        reason: SetAsideLoss,
        /// Their number.
        records: usize,
    },
    /// The state of the store.
    ///
    /// Sent at once if the store went up or down or lost records. Otherwise at most ten times per
    /// second while counts change, twice per second during an outage, and once per second if only the
    /// time of the last confirmation changed.
    Status(HealthSnapshot),
    /// Paho closed the persistence.
    Closed,
}

/// The events of an outage, for a persistence of the program's own that reports to a
/// [`StoreObserver`](crate::StoreObserver), such as `PersistenceMetrics`.
impl StoreEvent {
    /// Creates [`Opened`](Self::Opened).
    #[must_use]
    pub fn opened(quarantined: usize) -> Self {
        Self::Opened { quarantined }
    }

    /// Creates [`Connected`](Self::Connected).
    #[must_use]
    pub fn connected(server: impl Into<String>) -> Self {
        let server = server.into();
        Self::Connected { server }
    }

    /// Creates [`Down`](Self::Down).
    #[must_use]
    pub fn down(error: Arc<Error>) -> Self {
        Self::Down { error }
    }

    /// Creates [`StillDown`](Self::StillDown).
    #[must_use]
    pub fn still_down(error: Arc<Error>, is_new_reason: bool) -> Self {
        Self::StillDown {
            error,
            is_new_reason,
        }
    }

    /// Creates [`Up`](Self::Up).
    #[must_use]
    pub fn up(outage: Duration, rewritten: u64) -> Self {
        Self::Up { outage, rewritten }
    }
}

/// The state of the store of one client. Later versions may add fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthSnapshot {
    /// The persistence is open and the store accepts writes. [`state`](Self::state) separates a closed
    /// persistence from an outage.
    pub up: bool,
    /// Start of the outage, by the device's clock; `None` if there is no outage.
    pub down_since: Option<SystemTime>,
    /// Number of records that exist only in memory because the store is unavailable or, if it is up,
    /// refuses them.
    pub held_records: usize,
    /// Their size in bytes.
    pub held_bytes: usize,
    /// Number of records that were sent and that the store has not confirmed yet.
    pub unconfirmed_records: usize,
    /// Their size in bytes.
    pub unconfirmed_bytes: usize,
    /// Number of messages to the broker that wait to be sent or acknowledged: those in Paho's buffer, and
    /// those in flight.
    pub waiting_messages: usize,
    /// Number of them that Paho has not sent yet: the fill of its buffer, but for messages at QoS 0 with
    /// `persist_qos0(false)`.
    pub queued_messages: usize,
    /// The size of the records of all waiting messages in bytes.
    pub waiting_bytes: usize,
    /// The limit of `queued_messages`, if the option `max_buffered_messages` is set.
    pub limit_messages: Option<usize>,
    /// The limit of `waiting_bytes`, if the option `byte_budget` is set.
    pub limit_bytes: Option<usize>,
    /// The time that the oldest of them has been waiting, to a second; a lower bound after a restart.
    /// `None` if none waits.
    pub oldest_waiting: Option<Duration>,
    /// Number of records that the store lost since the persistence was opened, and of which this
    /// process had no copy.
    pub lost_records: u64,
    /// Number of records of an earlier run that wait for the next start, since the store was unavailable
    /// at open.
    pub earlier_records: usize,
    /// Number of messages in flight that were sent on more than `max_sends` connections.
    pub poison_suspects: usize,
    /// Time at which the store last had every record that it does not refuse, by the device's clock;
    /// `None` before that. While it refuses one, only confirmed writes move it.
    pub last_confirmed: Option<SystemTime>,
    /// Number of dead letters: records that Paho dropped, and that are set aside.
    pub discarded_records: usize,
    /// Size of their values in bytes, as far as their names have it.
    pub discarded_bytes: usize,
    /// Number of records in the quarantine.
    pub quarantined_records: usize,
    /// Size of their values in bytes, as far as their names have it.
    pub quarantined_bytes: usize,
}

impl HealthSnapshot {
    /// Returns if the store is up, down, or not in use.
    #[must_use]
    pub fn state(&self) -> HealthState {
        match self.down_since {
            _ if self.up => HealthState::Up,
            Some(_) => HealthState::Down,
            None => HealthState::Closed,
        }
    }
}

/// The state of the store of one client. Later versions may add states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HealthState {
    /// The persistence is not open: no client has it yet, or its client was dropped.
    Closed,
    /// The store accepts writes.
    Up,
    /// The store is unavailable, and what is put exists only in memory.
    Down,
}

impl HealthState {
    /// Returns the state in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for HealthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
