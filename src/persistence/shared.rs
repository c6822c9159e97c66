//! The state that Paho's calls, the worker and `Health` share, and the waits for its changes.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use super::{
    call_semantics::CallSemantics, config::PersistenceConfig, lifecycle::Lifecycle, schedule::Wait,
};
use crate::{
    cache::StoreAccess,
    clock::Clock,
    error::{Error, ErrorKind},
    paho::Key,
    store::Store,
    threads::JobHandle,
};

/// Long enough for a call that waits for the mutex to get it.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// Guarded by one mutex; of user code only a [`Store`] runs while it is held.
pub(super) struct PersistenceShared<S: Store> {
    state: Mutex<State<S>>,
    /// Notified of each change that a call or a flush may wait for.
    changed: Condvar,
    pub(super) config: PersistenceConfig,
}

pub(super) struct State<S: Store> {
    pub(super) lifecycle: Lifecycle<S>,
    pub(super) worker: WorkerState,
    /// Wakes the worker, if there is one.
    pub(super) job: Option<JobHandle>,
}

/// The state of the worker; decides if it needs to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerState {
    /// There is no worker.
    Absent,
    Busy,
    Waiting(Wait),
}

impl<S: Store> State<S> {
    /// Wakes the worker if it has work before the end of its wait.
    ///
    /// Called after each call of Paho, so a worker that ticks is not woken for pending writes.
    pub(super) fn wake_worker(&mut self) {
        let has_work = match (self.worker, &self.lifecycle) {
            (WorkerState::Waiting(Wait::Idle(_)), Lifecycle::Up { opened, .. }) => {
                opened.records.cache.has_unsettled()
            }
            // An outage has begun since the worker decided to wait.
            (WorkerState::Waiting(Wait::Idle(_) | Wait::Ticking(_)), Lifecycle::Down { .. }) => {
                true
            }
            _ => false,
        };
        if has_work {
            self.wake_worker_now();
        }
    }

    /// Wakes the worker, whatever it waits for.
    pub(super) fn wake_worker_now(&mut self) {
        if let WorkerState::Waiting(_) = self.worker {
            self.worker = WorkerState::Busy;
        }
        if let Some(job) = &self.job {
            job.wake();
        }
    }
}

impl<S: Store> PersistenceShared<S> {
    pub(super) fn new(store: S, config: PersistenceConfig) -> Self {
        Self {
            state: Mutex::new(State {
                lifecycle: Lifecycle::Closed(store),
                worker: WorkerState::Absent,
                job: None,
            }),
            changed: Condvar::new(),
            config,
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.config.clock
    }

    /// Locks the mutex, even if a thread panicked while it held it: a panic here would unwind into
    /// a C callback.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the mutex unless another thread, or a call that shows this, holds it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, State<S>>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits for a notification, or until this time since boot; returns `true` if the time has come.
    pub(super) fn wait_until<'a>(
        &'a self,
        state: MutexGuard<'a, State<S>>,
        until: Duration,
    ) -> (MutexGuard<'a, State<S>>, bool) {
        let clock = self.clock();
        let left = until.saturating_sub(clock.since_boot());
        if left.is_zero() {
            return (state, true);
        }
        let state = match clock {
            Clock::System => {
                let waited = self.changed.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            Clock::Simulated(clock) => {
                drop(state);
                clock.wait(until);
                self.lock()
            }
        };
        (state, false)
    }

    /// Lets calls have the mutex that wait for it: one who takes it again at once would keep them out.
    pub(super) fn yield_to_calls<'a>(
        &'a self,
        state: MutexGuard<'a, State<S>>,
    ) -> MutexGuard<'a, State<S>> {
        drop(state);
        self.clock().sleep(PAUSE);
        self.lock()
    }

    /// Waits until the state changes.
    pub(super) fn wait<'a>(&'a self, state: MutexGuard<'a, State<S>>) -> MutexGuard<'a, State<S>> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while `should_wait` holds, and returns `false` if it still does at this time since boot.
    pub(super) fn wait_while<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<S>>,
        until: Duration,
        should_wait: impl Fn(&Lifecycle<S>) -> bool,
    ) -> (MutexGuard<'a, State<S>>, bool) {
        let mut is_late = false;
        while should_wait(&state.lifecycle) {
            if is_late {
                return (state, false);
            }
            (state, is_late) = self.wait_until(state, until);
        }
        (state, true)
    }

    /// Notifies everything that waits for a change.
    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Runs `work` on the open records, or fails with [`ErrorKind::NotOpen`].
    pub(super) fn with_open<T>(
        &self,
        attempt: impl FnOnce() -> String,
        work: impl FnOnce(&mut CallSemantics, &mut StoreAccess<'_, S>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.call(&mut self.lock(), attempt, work)
    }

    fn call<T>(
        &self,
        state: &mut State<S>,
        attempt: impl FnOnce() -> String,
        work: impl FnOnce(&mut CallSemantics, &mut StoreAccess<'_, S>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let result = state.lifecycle.call(self.clock(), work);
        state.wake_worker();
        result.unwrap_or_else(|| Err(Error::new(ErrorKind::NotOpen, attempt())))
    }

    /// Reads the value of a record.
    ///
    /// If only the store has the value, waits for an unavailable store once per outage, and for a
    /// readable one as long as the worker has it; both for up to the call timeout.
    pub(super) fn get(&self, key: Key) -> Result<Vec<u8>, Error> {
        let attempt = || format!("read record {key}");
        let until = self.clock().deadline_after(self.config.call_timeout);
        let mut existed = false;
        // Not unlocked before it waits: the worker could end the outage in between, and the call would
        // fail although the store is back.
        let mut state = self.lock();
        loop {
            let result = self.call(&mut state, attempt, |records, access| {
                records.get(access, key)
            });
            match &result {
                // It was lost during the outage for whose end this call has waited.
                Err(error) if error.kind() == ErrorKind::NotFound && existed => {
                    return Err(Error::new(ErrorKind::Lost, attempt()));
                }
                Err(error) if error.kind() != ErrorKind::NotFound => existed = true,
                _ => return result,
            }
            let is_readable_after_step = state.lifecycle.is_readable_after_step();
            match state.lifecycle.outage_mut() {
                // The worker brings a readable store back after each step. That wait is short, so it
                // does not count as the one wait of the outage.
                Some(outage) if is_readable_after_step || !outage.was_waited_for => {
                    outage.was_waited_for |= !is_readable_after_step;
                }
                _ => return result,
            }
            let is_over;
            (state, is_over) = self.wait_while(state, until, |lifecycle| {
                lifecycle.outage().is_some()
                    && (!is_readable_after_step || lifecycle.is_readable_after_step())
            });
            if !is_over {
                return result;
            }
        }
    }
}
