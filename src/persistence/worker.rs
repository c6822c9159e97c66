//! The threads of an open persistence: the worker, which ticks, checks and recovers, and the notifier.

use std::{io, sync::Arc, thread};

use super::{
    exchange::Exchange,
    lifecycle::Lifecycle,
    notifier::Notifier,
    schedule::Wait,
    shared::{PersistenceShared, WorkerState},
};
use crate::store::Store;

/// Spawns the notifier of an opening, and the worker unless that of the last opening still runs.
pub(super) fn spawn_threads<S: Store>(
    shared: &Arc<PersistenceShared<S>>,
    notifier: Arc<Notifier>,
) -> io::Result<()> {
    thread::Builder::new()
        .name("mqtt-notifier".to_owned())
        .spawn(move || notifier.run())?;
    let mut state = shared.lock();
    if state.worker == WorkerState::Absent {
        let shared = Arc::clone(shared);
        thread::Builder::new()
            .name("mqtt-persistence".to_owned())
            .spawn(move || run(&shared))?;
        state.worker = WorkerState::Busy;
    }
    Ok(())
}

/// Does what is due until the persistence is closed.
fn run<S: Store>(shared: &PersistenceShared<S>) {
    while let Some(mut exchange) = shared.next_exchange() {
        exchange.perform();
        shared.end_exchange(exchange);
    }
}

impl<S: Store> PersistenceShared<S> {
    /// Does what is due and waits until a step of recovery is; `None` if the persistence is closed.
    fn next_exchange(&self) -> Option<Exchange<S>> {
        let mut state = self.lock();
        loop {
            if let Some(exchange) = self.take_step(&mut state.lifecycle) {
                return Some(exchange);
            }
            if let Lifecycle::Closed(_) = state.lifecycle {
                state.worker = WorkerState::Absent;
                return None;
            }
            let wait = self.run_due(&mut state.lifecycle);
            state.worker = WorkerState::Waiting(wait);
            match wait {
                Wait::Ticking(until) if until <= self.clock().since_boot() => {
                    state = self.yield_to_calls(state);
                }
                Wait::Ticking(until) | Wait::Idle(until) | Wait::Backoff(until) => {
                    (state, _) = self.wait_until(state, until);
                }
                Wait::NotOpen => state = self.wait(state),
            }
            state.worker = WorkerState::Busy;
        }
    }

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
