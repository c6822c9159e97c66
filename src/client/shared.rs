//! [`ClientShared`]: the state that the client and its worker share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::{
    connection::ConnectionError,
    deliveries::Deliveries,
    gauges::Gauges,
    report::ConnectionState,
    signal::{Flag, Signal},
    subscriptions::Subscriptions,
};
use crate::{
    error::{Error, ErrorKind},
    persistence::Health,
};

/// Time in which a client that is dropped, or that stops, disconnects.
pub(super) const DISCONNECT_LIMIT: Duration = Duration::from_secs(2);

/// The state that the client and its worker share.
pub(super) struct ClientShared {
    pub(super) client_id: String,
    pub(super) signal: Arc<Signal>,
    pub(super) deliveries: Deliveries,
    pub(super) health: Health,
    pub(super) gauges: Gauges,
    /// Set once the worker has dropped all that it had, its client of Paho included.
    pub(super) ended: Arc<Flag>,
    state: Mutex<SharedState>,
}

pub(super) struct SharedState {
    /// Why nothing can be published any more.
    pub(super) closed: Option<Closed>,
    pub(super) shown: Shown,
    pub(super) subscriptions: Subscriptions,
    pub(super) refused: u64,
    /// Set once the log has it that messages are refused, until one is accepted.
    pub(super) is_full: bool,
}

/// Why a client accepts nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    Stopped,
    /// A write to the broker was broken off.
    Damaged,
    /// The worker of the client panicked.
    Panicked,
}

impl Closed {
    pub(super) fn error(self, attempt: &str) -> Error {
        match self {
            Self::Stopped => {
                Error::new(ErrorKind::NotOpen, attempt).with_reason("the client was stopped")
            }
            Self::Damaged => Error::new(ErrorKind::Damaged, attempt),
            Self::Panicked => Error::new(ErrorKind::Other, attempt).with_reason(
                "the worker of the client panicked, in code of the program such as its log; restart the program",
            ),
        }
    }
}

/// The connection, as the program sees it.
pub(super) struct Shown {
    pub(super) connection: ConnectionState,
    pub(super) since: SystemTime,
    pub(super) next_attempt: Option<SystemTime>,
    pub(super) last_error: Option<ConnectionError>,
    pub(super) connects: u64,
    pub(super) failed_attempts: u64,
    pub(super) sessions_lost: u64,
}

impl ClientShared {
    pub(super) fn new(
        client_id: String,
        signal: Arc<Signal>,
        health: Health,
        gauges: Gauges,
    ) -> Self {
        Self {
            client_id,
            deliveries: Deliveries::new(Arc::clone(&signal)),
            signal,
            health,
            gauges,
            ended: Arc::default(),
            state: Mutex::new(SharedState {
                closed: None,
                shown: Shown {
                    connection: ConnectionState::Connecting,
                    since: SystemTime::now(),
                    next_attempt: None,
                    last_error: None,
                    connects: 0,
                    failed_attempts: 0,
                    sessions_lost: 0,
                },
                subscriptions: Subscriptions::default(),
                refused: 0,
                is_full: false,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SharedState> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if messages of an earlier run wait. They have no token.
    pub(super) fn waits_for_earlier_run(&self) -> bool {
        let pending = self.deliveries.counts().pending;
        self.health.snapshot().waiting_messages > pending
    }

    /// Returns false once the worker has ended the connection.
    pub(super) fn is_running(&self) -> bool {
        self.lock().shown.connection != ConnectionState::Stopped
    }
}
