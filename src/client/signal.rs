//! [`Signal`]: wakes the worker, from Paho's threads and from those of the program.

use std::{
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Wake, Waker},
    time::Duration,
};

use super::connection::ConnectionError;
use crate::threads::JobHandle;

/// What has happened since the worker looked last.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Deliveries whose tokens have ended.
    pub(super) completed: Vec<u64>,
    /// The connection may have changed, or the subscriptions.
    pub(super) is_due: bool,
    /// The client stops.
    pub(super) stops: bool,
    /// Paho sends a damaged message of an earlier run.
    pub(super) is_damaged: bool,
}

/// Collects what has happened, and wakes the worker.
#[derive(Default)]
pub(super) struct Signal {
    pending: Mutex<Pending>,
    /// The reason that the broker gave for the end of the connection.
    disconnected: Mutex<Option<ConnectionError>>,
    worker: OnceLock<JobHandle>,
}

impl Signal {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // A list and flags, which no panic leaves half written.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes this job for what has happened, and for all that happens from now on.
    pub(super) fn set_worker(&self, worker: JobHandle) {
        self.worker.get_or_init(|| worker).wake();
    }

    fn wake_worker(&self) {
        if let Some(worker) = self.worker.get() {
            worker.wake();
        }
    }

    /// Lets the worker look at the connection and the subscriptions.
    pub(super) fn look(&self) {
        self.lock().is_due = true;
        self.wake_worker();
    }

    pub(super) fn stop(&self) {
        self.lock().stops = true;
        self.wake_worker();
    }

    /// Reports a damaged message that no delivery stands for.
    pub(super) fn damage(&self) {
        self.lock().is_damaged = true;
        self.wake_worker();
    }

    /// Keeps the reason of the broker's DISCONNECT, and lets the worker look at the connection.
    pub(super) fn disconnected(&self, reason: ConnectionError) {
        let disconnected = self.disconnected.lock();
        *disconnected.unwrap_or_else(PoisonError::into_inner) = Some(reason);
        self.look();
    }

    /// Takes the reason of the broker's DISCONNECT. Paho reports it before it ends the connection.
    pub(super) fn take_disconnected(&self) -> Option<ConnectionError> {
        let disconnected = self.disconnected.lock();
        disconnected.unwrap_or_else(PoisonError::into_inner).take()
    }

    fn complete(&self, delivery: u64) {
        let mut pending = self.lock();
        pending.completed.push(delivery);
        // Only the first one of a batch needs to wake the worker.
        let is_first = pending.completed.len() == 1;
        drop(pending);
        if is_first {
            self.wake_worker();
        }
    }

    /// Takes what has happened.
    pub(super) fn take(&self) -> Pending {
        mem::take(&mut self.lock())
    }
}

/// Wakes the worker when the token of an attempt to connect or of a subscription ends.
pub(super) fn waker_to_look(signal: &Arc<Signal>) -> Waker {
    struct Look(Arc<Signal>);
    impl Wake for Look {
        fn wake(self: Arc<Self>) {
            self.0.look();
        }
    }
    Waker::from(Arc::new(Look(Arc::clone(signal))))
}

/// Notes that a delivery has ended, when its token does.
///
/// Called on one of Paho's threads while the token is locked, so the token is read later, by the worker.
pub(super) fn waker_of_delivery(signal: &Arc<Signal>, delivery: u64) -> Waker {
    struct Complete(Arc<Signal>, u64);
    impl Wake for Complete {
        fn wake(self: Arc<Self>) {
            self.0.complete(self.1);
        }
    }
    Waker::from(Arc::new(Complete(Arc::clone(signal), delivery)))
}

/// A flag that threads wait for.
#[derive(Debug, Default)]
pub(super) struct Flag {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Flag {
    pub(super) fn set(&self) {
        *self.is_set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until it is set, for up to `limit`; returns true if it is.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let is_set = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(is_set, limit, |is_set| !*is_set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
