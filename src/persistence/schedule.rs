//! The times at which the worker ticks, checks the store and reports its state.

use std::time::Duration;

use super::fill::FillWarning;
use crate::store::HealthSnapshot;

/// Interval of flushes while writes are pending: the longest time that a write is deferred or goes
/// unconfirmed.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Interval of checks that the store is available and still has every record.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of attempts to write what the store refuses although it takes other writes.
const MIN_RETRY_INTERVAL: Duration = CHECK_INTERVAL;
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// Interval of status events during an outage.
pub(super) const OUTAGE_STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// The times since boot at which the worker has something to do.
pub(super) struct Schedule {
    /// Time of the flush of the writes that are pending, if any are.
    pub(super) tick: Option<Duration>,
    /// Time of the next check.
    pub(super) check: Duration,
    /// Time of the next attempt to write what the store refused, and the wait that led to it.
    pub(super) retry: Option<(Duration, Duration)>,
    /// The warning about records that exist only in memory was raised since the last outage began.
    pub(super) has_warned: bool,
    pub(super) fill_warning: FillWarning,
    /// The last reported snapshot and its time.
    status: Option<(HealthSnapshot, Duration)>,
}

/// The wait that the worker is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Until this time, although writes are pending.
    Ticking(Duration),
    /// Until this time; a pending write wakes the worker.
    Idle(Duration),
    /// Until this time, in an outage.
    Backoff(Duration),
    /// Until the state changes.
    NotOpen,
}

impl Schedule {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            tick: None,
            check: now.saturating_add(CHECK_INTERVAL),
            retry: None,
            has_warned: false,
            fill_warning: FillWarning::default(),
            status: None,
        }
    }

    /// Returns the time of the next attempt to write what the store refused.
    pub(super) fn retry_due(&mut self, now: Duration) -> Duration {
        let first = (now.saturating_add(MIN_RETRY_INTERVAL), MIN_RETRY_INTERVAL);
        let (due, _) = *self.retry.get_or_insert(first);
        due
    }

    /// Plans the next attempt: soon if the store has taken a message, else after twice the last wait.
    pub(super) fn plan_retry(&mut self, was_taken: bool, now: Duration) {
        let Some((_, last_wait)) = self.retry else {
            return;
        };
        let next_wait = last_wait.saturating_mul(2).min(MAX_RETRY_INTERVAL);
        self.retry = Some(if was_taken {
            (now.saturating_add(TICK), MIN_RETRY_INTERVAL)
        } else {
            (now.saturating_add(next_wait), next_wait)
        });
    }

    /// Returns the snapshot if it is due: at once if the store went up or down or lost records, up
    /// to ten times per second if counts changed, and once per second if only the time of the last
    /// confirmation or the age of the oldest message did.
    pub(super) fn due_status(
        &mut self,
        status: HealthSnapshot,
        now: Duration,
    ) -> Option<HealthSnapshot> {
        if let Some((reported, at)) = self.status {
            let age = now.saturating_sub(at);
            let is_urgent =
                reported.up != status.up || reported.lost_records != status.lost_records;
            // `last_confirmed` changes with nearly every call and would make each snapshot new.
            let has_new_counts = HealthSnapshot {
                last_confirmed: reported.last_confirmed,
                oldest_waiting: reported.oldest_waiting,
                ..status
            } != reported;
            let interval = if status.up {
                CHECK_INTERVAL
            } else {
                OUTAGE_STATUS_INTERVAL
            };
            let is_due = is_urgent
                || has_new_counts && age >= TICK
                || age >= interval && (reported != status || !status.up);
            if !is_due {
                return None;
            }
        }
        self.status = Some((status, now));
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn retries_back_off_until_message_is_taken() {
        let mut schedule = Schedule::new(SECOND);
        assert_eq!((schedule.tick, schedule.check), (None, 2 * SECOND));
        // Without a first attempt there is no next one.
        schedule.plan_retry(false, SECOND);
        assert_eq!(schedule.retry, None);
        assert_eq!(schedule.retry_due(SECOND), 2 * SECOND);
        assert_eq!(schedule.retry_due(9 * SECOND), 2 * SECOND);
        let mut waits = Vec::new();
        for _ in 0..11 {
            schedule.plan_retry(false, 5 * SECOND);
            waits.push(
                schedule
                    .retry_due(SECOND)
                    .saturating_sub(5 * SECOND)
                    .as_secs(),
            );
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        schedule.plan_retry(true, 5 * SECOND);
        assert_eq!(schedule.retry_due(SECOND), 5 * SECOND + TICK);
        schedule.plan_retry(false, 5 * SECOND);
        assert_eq!(schedule.retry_due(SECOND), 7 * SECOND);
    }

    #[test]
    fn status_is_due_by_what_has_changed() {
        let up = HealthSnapshot {
            up: true,
            last_confirmed: Some(std::time::SystemTime::UNIX_EPOCH),
            ..HealthSnapshot::default()
        };
        let down = HealthSnapshot { up: false, ..up };
        let lost = HealthSnapshot {
            lost_records: 1,
            ..up
        };
        let counted = HealthSnapshot {
            unconfirmed_records: 1,
            ..up
        };
        let confirmed = HealthSnapshot {
            last_confirmed: None,
            ..up
        };
        let before = |interval: Duration| interval.saturating_sub(Duration::from_nanos(1));
        let half = OUTAGE_STATUS_INTERVAL;
        for (first, then, age, is_due) in [
            (up, up, Duration::MAX, false),
            (up, down, Duration::ZERO, true),
            (down, up, Duration::ZERO, true),
            (up, lost, Duration::ZERO, true),
            (up, counted, before(TICK), false),
            (up, counted, TICK, true),
            (up, confirmed, before(CHECK_INTERVAL), false),
            (up, confirmed, CHECK_INTERVAL, true),
            (down, down, before(half), false),
            (down, down, half, true),
        ] {
            let mut schedule = Schedule::new(SECOND);
            assert_eq!(schedule.due_status(first, SECOND), Some(first));
            let now = SECOND.saturating_add(age);
            let due = schedule.due_status(then, now);
            assert_eq!(due, is_due.then_some(then), "{first:?} {then:?} {age:?}");
            // The next interval counts from the last report.
            if is_due {
                assert_eq!(schedule.due_status(then, now), None);
            }
        }
    }
}
