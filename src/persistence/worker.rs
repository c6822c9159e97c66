//! The background work of an open persistence: the worker, which ticks, checks and recovers, and the notifier.

use std::{io, sync::Arc};

use super::{
    exchange::Exchange,
    lifecycle::Lifecycle,
    notifier::Notifier,
    schedule::Wait,
    shared::{PAUSE, PersistenceShared, WorkerState},
};
use crate::{
    store::Store,
    threads::{Job, NextTurn, Pools},
};

/// Starts the notifier of an opening, and the worker unless that of the last opening is not over.
pub(super) fn start_jobs<S: Store>(
    shared: &Arc<PersistenceShared<S>>,
    notifier: &Arc<Notifier>,
) -> io::Result<()> {
    let pools = Pools::of_this_process();
    let job = pools.notifiers.add(Arc::clone(notifier) as Arc<dyn Job>)?;
    notifier.outbox.wake_on_post(job);
    let mut state = shared.lock();
    if state.worker == WorkerState::Absent {
        let job = pools.workers.add(Arc::clone(shared) as Arc<dyn Job>)?;
        state.worker = WorkerState::Busy;
        state.job = Some(job);
    }
    Ok(())
}

/// The worker: does what is due until the persistence is closed.
impl<S: Store> Job for PersistenceShared<S> {
    fn turn(&self) -> NextTurn {
        let mut state = self.lock();
        state.worker = WorkerState::Busy;
        if let Some(mut exchange) = self.take_step(&mut state.lifecycle) {
            drop(state);
            exchange.perform();
            self.end_exchange(exchange);
            return NextTurn::At(self.clock().since_boot());
        }
        if let Lifecycle::Closed(_) = state.lifecycle {
            state.worker = WorkerState::Absent;
            state.job = None;
            return NextTurn::Never;
        }
        let wait = self.run_due(&mut state.lifecycle);
        state.worker = WorkerState::Waiting(wait);
        let now = self.clock().since_boot();
        match wait {
            // Calls that wait for the mutex come first.
            Wait::Ticking(until) if until <= now => NextTurn::At(now.saturating_add(PAUSE)),
            Wait::Ticking(until) | Wait::Idle(until) | Wait::Backoff(until) => NextTurn::At(until),
            Wait::NotOpen => NextTurn::OnWake,
        }
    }
}

impl<S: Store> PersistenceShared<S> {
    /// Takes the next step of recovery if it is due, or ends the outage if no step is left.
    pub(super) fn take_step(&self, lifecycle: &mut Lifecycle<S>) -> Option<Exchange<S>> {
        let was_down = lifecycle.outage().is_some();
        let exchange = lifecycle.take_step(self.clock());
        if was_down && lifecycle.outage().is_none() {
            self.notify();
        }
        exchange
    }

    /// Does what is due under the mutex.
    pub(super) fn run_due(&self, lifecycle: &mut Lifecycle<S>) -> Wait {
        let wait = lifecycle.run_due(self.clock(), &self.config);
        if let Wait::Ticking(_) = wait {
            // A flush may wait for what was written.
            self.notify();
        }
        wait
    }

    /// Brings the store back after a step.
    pub(super) fn end_exchange(&self, exchange: Exchange<S>) {
        self.lock().lifecycle.note_step(exchange, self.clock());
        self.notify();
    }
}
