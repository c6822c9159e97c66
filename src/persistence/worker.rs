//! The background thread of an open persistence: ticks, checks, recovery and event delivery.

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

/// Interval of flushes while writes are pending: the longest time that a write is deferred or goes
/// unconfirmed.
const TICK: Duration = Duration::from_millis(100);
/// Interval of checks that the store is available and still has every record.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Spawns the worker of the current opening. It ends when the persistence is closed.
pub(super) fn spawn_worker<S: Store>(
    shared: &Arc<PersistenceShared<S>>,
    notifier: Notifier,
) -> io::Result<()> {
    let generation = shared.lock().generation;
    let shared = Arc::clone(shared);
    let work = move || {
        let context = WorkerContext {
            shared: &shared,
            generation,
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

/// The worker of one opening.
struct Worker<'a, S: Store> {
    context: WorkerContext<'a, S>,
    status: StatusThrottle,
    /// Time of the last check.
    checked: Instant,
}

impl<S: Store> Worker<'_, S> {
    fn run(mut self) {
        loop {
            self.context.deliver_events();
            let mut lifecycle = self.context.shared.lock();
            if self.context.is_stale(&lifecycle) {
                break;
            }
            let Some(open) = &mut lifecycle.open else {
                break;
            };
            // A call may have queued an event while the mutex was released.
            if !open.cache.events.is_empty() {
                continue;
            }
            if let Some(status) = self.status.due(open.cache.health_snapshot()) {
                open.cache.events.push(StoreEvent::Status(status));
                continue;
            }
            if let Some(lent) = open.cache.lend_store() {
                drop(lifecycle);
                recover(&self.context, lent);
                continue;
            }
            let (worker, limit) = if open.cache.has_pending() {
                (WorkerState::Ticking, TICK)
            } else {
                (
                    WorkerState::Idle,
                    CHECK_INTERVAL.saturating_sub(self.checked.elapsed()),
                )
            };
            lifecycle.worker = worker;
            let until = deadline_after(limit);
            let (mut lifecycle, timed_out) = self.context.shared.wait_until(lifecycle, until);
            lifecycle.worker = WorkerState::Busy;
            // A wake-up before the deadline is not a tick: the loop finds out what it was for.
            if !timed_out || self.context.is_stale(&lifecycle) {
                continue;
            }
            let Some(open) = &mut lifecycle.open else {
                break;
            };
            open.cache.flush();
            if self.checked.elapsed() >= CHECK_INTERVAL {
                self.checked = Instant::now();
                open.cache.check();
            }
        }
        self.context.notifier.notify(&StoreEvent::Closed);
    }
}

/// The last reported snapshot and its time.
#[derive(Default)]
struct StatusThrottle(Option<(HealthSnapshot, Instant)>);

impl StatusThrottle {
    /// Returns the snapshot if it is due: at once if the store went up or down or lost records, up
    /// to ten times per second if counts changed, and once per second if only the time of the last
    /// confirmation did.
    fn due(&mut self, status: HealthSnapshot) -> Option<HealthSnapshot> {
        if let Some((reported, at)) = self.0 {
            let age = at.elapsed();
            let is_urgent =
                reported.up != status.up || reported.lost_records != status.lost_records;
            // `last_confirmed` changes with nearly every call and would make each snapshot new.
            let has_new_counts = HealthSnapshot {
                last_confirmed: reported.last_confirmed,
                ..status
            } != reported;
            let is_due = is_urgent
                || has_new_counts && age >= TICK
                || reported != status && age >= CHECK_INTERVAL;
            if !is_due {
                return None;
            }
        }
        self.0 = Some((status, Instant::now()));
        Some(status)
    }
}
