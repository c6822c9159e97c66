//! The work of the worker that needs the mutex, and the wait until more is due.

use std::time::Duration;

use super::{
    call_semantics::CallSemantics,
    config::PersistenceConfig,
    lifecycle::{Lifecycle, Opened},
    schedule::{CHECK_INTERVAL, OUTAGE_STATUS_INTERVAL, TICK, Wait},
};
use crate::{
    clock::Clock,
    store::{Store, StoreEvent},
};

impl<S: Store> Lifecycle<S> {
    /// Does one thing that is due and needs the mutex, and returns how long the worker may wait.
    ///
    /// That is at most three exchanges with the store, for each of which a call may have to wait as long as
    /// for one of its own.
    pub(super) fn run_due(&mut self, clock: &Clock, config: &PersistenceConfig) -> Wait {
        let now = clock.since_boot();
        let wait = match self {
            Self::Closed(_) | Self::Opening | Self::Closing | Self::Recovering { .. } => {
                return Wait::NotOpen;
            }
            Self::Down { recovery, .. } => {
                let status_due = now.saturating_add(OUTAGE_STATUS_INTERVAL);
                let until = recovery.due.min(status_due);
                self.report_status(now, config);
                return Wait::Backoff(until);
            }
            Self::Up { opened, .. } => up_wait(opened, now),
        };
        let Some(Opened { schedule, .. }) = self.opened() else {
            return wait;
        };
        let is_tick = schedule.tick.is_some_and(|tick| tick <= now);
        let is_check = schedule.check <= now;
        let is_retry = schedule.retry.is_some_and(|(due, _)| due <= now);
        if !is_tick && !is_check && !is_retry {
            // After the work, so that it shows what the work has changed.
            self.report_status(now, config);
            return wait;
        }
        let was_taken = self.call(clock, |CallSemantics { cache, .. }, access| {
            if is_retry {
                return cache.retry_refused(access);
            }
            cache.flush(access);
            if is_check {
                // One of the two, so that calls wait for no more exchanges.
                if !cache.remove_stale(access) {
                    cache.check(access);
                }
            } else {
                // What is refused stays, and no call waits for it.
                drop(cache.write_removals(access));
            }
            false
        });
        if let Self::Up { opened, .. } | Self::Down { opened, .. } = self {
            let Opened { schedule, .. } = &mut **opened;
            if is_retry {
                schedule.plan_retry(was_taken == Some(true), now);
            } else {
                schedule.tick = None;
            }
            if is_check && !is_retry {
                schedule.check = now.saturating_add(CHECK_INTERVAL);
            }
        }
        // The caller asks again, after calls that wait for the mutex.
        Wait::Ticking(now)
    }

    /// Posts a status event, a warning near a limit and, once per outage, the buffer warning.
    ///
    /// The buffer warning may come after the outage, for what the store refuses.
    fn report_status(&mut self, now: Duration, config: &PersistenceConfig) {
        if let Self::Up { opened, .. } | Self::Down { opened, .. } = self {
            opened.records.cache.index.set_now(now);
        }
        let status = self.health_snapshot(config.waiting_limits.get());
        let (Self::Up { opened, .. } | Self::Down { opened, .. }) = self else {
            return;
        };
        let Opened {
            schedule, notifier, ..
        } = &mut **opened;
        let bytes = status.held_bytes;
        if bytes >= config.buffer_warn_bytes.max(1) && !schedule.has_warned {
            schedule.has_warned = true;
            notifier.outbox.post([StoreEvent::BufferWarning { bytes }]);
        }
        if schedule
            .fill_warning
            .is_due(config.waiting_limits.get(), &status)
        {
            notifier.outbox.post([StoreEvent::NearlyFull {
                queued_messages: status.queued_messages,
                waiting_bytes: status.waiting_bytes,
            }]);
        }
        if let Some(status) = schedule.due_status(status, now) {
            notifier.outbox.post([StoreEvent::Status(status)]);
        }
    }
}

/// Plans the next tick if writes are pending, and returns the wait until the next thing to do.
fn up_wait(opened: &mut Opened, now: Duration) -> Wait {
    let Opened {
        records, schedule, ..
    } = opened;
    let mut until = schedule.check;
    if records.cache.has_refused() {
        until = until.min(schedule.retry_due(now));
    } else {
        schedule.retry = None;
    }
    if records.cache.has_unsettled() || records.cache.has_removals() {
        let tick = schedule
            .tick
            .get_or_insert_with(|| now.saturating_add(TICK));
        Wait::Ticking(until.min(*tick))
    } else {
        schedule.tick = None;
        Wait::Idle(until)
    }
}
