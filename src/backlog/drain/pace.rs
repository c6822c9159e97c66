//! The rate at which messages are sent.

use std::time::{Duration, Instant};

/// Spaces messages evenly. Time that was lost is not made up for, so the rate is never exceeded.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// Allows this many messages per second; any number if there is no rate.
    pub(super) fn new(rate: Option<f64>, now: Instant) -> Self {
        let interval = rate.and_then(|rate| Duration::try_from_secs_f64(rate.recip()).ok());
        Self {
            interval: interval.unwrap_or_default(),
            next: now,
        }
    }

    /// Returns the time until the next message may be sent.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Notes that a message was sent.
    pub(super) fn sent(&mut self, now: Instant) {
        let from = self.next.max(now);
        self.next = from.checked_add(self.interval).unwrap_or(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_spaced_evenly() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(Some(10.0), start);
        assert_eq!(pace.wait(start), Duration::ZERO);
        pace.sent(start);
        assert_eq!(pace.wait(at(30)), Duration::from_millis(70));
        assert_eq!(pace.wait(at(100)), Duration::ZERO);
        // A message that was sent late does not let the next one come early.
        pace.sent(at(1_000));
        assert_eq!(pace.wait(at(1_000)), Duration::from_millis(100));
    }

    #[test]
    fn without_rate_nothing_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(None, start);
        for _ in 0..100 {
            pace.sent(start);
        }
        assert_eq!(pace.wait(start), Duration::ZERO);
    }
}
