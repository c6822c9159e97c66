//! How often the log is told of errors, since an outage makes one with every call, and when it is
//! told that one is over.

use std::time::{Duration, Instant};

use crate::ErrorKind;

const INTERVAL: Duration = Duration::from_secs(10);

/// What the log was told last.
#[derive(Default)]
pub(super) struct Complaints {
    last: Option<(ErrorKind, Instant)>,
    suppressed: u64,
    outage: Option<Outage>,
}

/// The store has not answered since then.
struct Outage {
    since: Instant,
    failed_calls: u64,
    /// Whether the log was told of any of them.
    told: bool,
}

/// An outage that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recovery {
    pub(super) lasted: Duration,
    pub(super) failed_calls: u64,
}

impl Complaints {
    /// How many errors the log was not told of since the last one, if it is time for this one: when
    /// it is of another kind, or after a while.
    pub(super) fn due(&mut self, kind: ErrorKind, now: Instant) -> Option<u64> {
        let due = self.due_now(kind, now);
        if self.outage.is_none() && is_outage(kind) {
            self.outage = Some(Outage {
                since: now,
                failed_calls: 0,
                told: false,
            });
        }
        if let Some(outage) = &mut self.outage {
            outage.failed_calls = outage.failed_calls.saturating_add(1);
            outage.told |= due.is_some();
        }
        due
    }

    /// The store has answered: how the outage was that this ends, if the log was told of one.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Recovery> {
        let Outage {
            since,
            failed_calls,
            told,
        } = self.outage.take()?;
        told.then(|| Recovery {
            lasted: now.saturating_duration_since(since),
            failed_calls,
        })
    }

    fn due_now(&mut self, kind: ErrorKind, now: Instant) -> Option<u64> {
        let repeated = self
            .last
            .is_some_and(|(last, at)| last == kind && now.saturating_duration_since(at) < INTERVAL);
        if repeated {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.last = Some((kind, now));
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Whether no call can succeed as long as it lasts; a store that is full, say, still reads.
fn is_outage(kind: ErrorKind) -> bool {
    use ErrorKind::{Authentication, Busy, Connection, Loading, Protocol, Timeout, Tls};
    matches!(
        kind,
        Connection | Timeout | Tls | Authentication | Loading | Busy | Protocol
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_of_at_once_and_then_now_and_then() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let mut due = |kind, seconds| complaints.due(kind, start + Duration::from_secs(seconds));
        assert_eq!(due(ErrorKind::Connection, 0), Some(0));
        assert_eq!(due(ErrorKind::Connection, 0), None);
        assert_eq!(due(ErrorKind::Connection, 9), None);
        assert_eq!(due(ErrorKind::Connection, 10), Some(2));
        assert_eq!(due(ErrorKind::Loading, 11), Some(0));
        assert_eq!(due(ErrorKind::Connection, 12), Some(0));
    }

    #[test]
    fn the_end_of_an_outage_is_told_of_once_with_its_length_and_its_calls() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(complaints.answered(at(0)), None);
        complaints.due(ErrorKind::Connection, at(1));
        complaints.due(ErrorKind::Connection, at(2));
        complaints.due(ErrorKind::Loading, at(3));
        let recovery = Recovery {
            lasted: Duration::from_secs(3),
            failed_calls: 3,
        };
        assert_eq!(complaints.answered(at(4)), Some(recovery));
        assert_eq!(complaints.answered(at(5)), None);
        // It was not told of, so neither is its end.
        complaints.due(ErrorKind::Loading, at(6));
        assert_eq!(complaints.answered(at(7)), None);
    }

    #[test]
    fn what_a_store_that_answers_refuses_is_no_outage() {
        let mut complaints = Complaints::default();
        let now = Instant::now();
        complaints.due(ErrorKind::OutOfMemory, now);
        complaints.due(ErrorKind::InvalidKey, now);
        assert_eq!(complaints.answered(now), None);
    }
}
