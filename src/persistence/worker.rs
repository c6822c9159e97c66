//! The thread of an open persistence: what happens without a call of Paho.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    lifecycle::{PersistenceShared, WorkerState},
    notifier::Notifier,
    recovery::recover,
    worker_context::WorkerContext,
};
use crate::{
    net::deadline_after,
    store::{HealthSnapshot, Store, StoreEvent},
};

/// How long a remove is held, and how long what nobody waits for goes unasked.
const TICK: Duration = Duration::from_millis(100);
/// How often the store is asked whether it is there and still has everything.
const IDLE: Duration = Duration::from_secs(1);

/// Starts the thread, which ends when the records are closed.
pub(super) fn spawn_worker<S: Store>(
    shared: &Arc<PersistenceShared<S>>,
    notifier: Notifier,
) -> io::Result<()> {
    let opening = shared.lock().opening;
    let shared = Arc::clone(shared);
    let work = move || {
        let context = WorkerContext {
            shared: &shared,
            opening,
            notifier: &notifier,
        };
        let worker = Worker {
            context,
            status: StatusThrottle::default(),
            checked: Instant::now(),
        };
        worker.run();
    };
    thread::Builder::new()
        .name("mqtt-persistence".to_owned())
        .spawn(work)?;
    Ok(())
}

/// The thread of one opening.
struct Worker<'a, S: Store> {
    context: WorkerContext<'a, S>,
    status: StatusThrottle,
    checked: Instant,
}

impl<S: Store> Worker<'_, S> {
    fn run(mut self) {
        loop {
            self.context.deliver_events();
            let mut state = self.context.shared.lock();
            if self.context.is_over(&state) {
                break;
            }
            let Some(open) = &mut state.open else { break };
            if !open.cache.events.is_empty() {
                continue;
            }
            if let Some(status) = self.status.due(open.cache.health_snapshot()) {
                open.cache.events.push(StoreEvent::Status(status));
                continue;
            }
            if let Some(away) = open.cache.lend_store() {
                drop(state);
                recover(&self.context, away);
                continue;
            }
            let (sleep, limit) = if open.cache.has_pending() {
                (WorkerState::Ticking, TICK)
            } else {
                (
                    WorkerState::Idle,
                    IDLE.saturating_sub(self.checked.elapsed()),
                )
            };
            state.sleep = sleep;
            let (mut state, is_due) = self.context.shared.wait(state, deadline_after(limit));
            state.sleep = WorkerState::Busy;
            if !is_due || self.context.is_over(&state) {
                continue;
            }
            let Some(open) = &mut state.open else { break };
            open.cache.flush();
            if self.checked.elapsed() >= IDLE {
                self.checked = Instant::now();
                open.cache.check();
            }
        }
        self.context.notifier.notify(&StoreEvent::Closed);
    }
}

/// What was told last of how the store is, and when.
#[derive(Default)]
struct StatusThrottle(Option<(HealthSnapshot, Instant)>);

impl StatusThrottle {
    /// What is to be told of it now: at once where it is up or down or has lost something, ten times a
    /// second what changes with every call, and once a second that nothing does.
    fn due(&mut self, status: HealthSnapshot) -> Option<HealthSnapshot> {
        if let Some((told, at)) = self.0 {
            let age = at.elapsed();
            let is_grave = told.up != status.up || told.lost_records != status.lost_records;
            let is_other = HealthSnapshot {
                last_confirmed: told.last_confirmed,
                ..status
            } != told;
            let is_due = is_grave || is_other && age >= TICK || told != status && age >= IDLE;
            if !is_due {
                return None;
            }
        }
        self.0 = Some((status, Instant::now()));
        Some(status)
    }
}
