//! Limits how often a repeated event is logged.

use std::time::{Duration, Instant};

/// Time after which an event of the same kind is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Suppresses log lines with the kind of the last one for 10 s, and counts their events.
///
/// A store that is down may fail thousands of calls per second, for one reason.
pub(crate) struct LogThrottle<Kind> {
    last: Option<(Kind, Instant)>,
    suppressed: u64,
}

impl<Kind> Default for LogThrottle<Kind> {
    fn default() -> Self {
        Self {
            last: None,
            suppressed: 0,
        }
    }
}

impl<Kind: Copy + PartialEq> LogThrottle<Kind> {
    /// Returns the lines that these events make due, each with its kind and number of events: that of the
    /// suppressed ones of another kind, and that of these.
    pub(crate) fn lines(
        &mut self,
        kind: Kind,
        events: u64,
        now: Instant,
    ) -> [Option<(Kind, u64)>; 2] {
        let others = self.take_overdue(Some(kind), now);
        let admitted = self.admit(kind, events, now);
        let own = admitted.map(|suppressed| (kind, suppressed.saturating_add(events)));
        [others, own]
    }

    /// Returns how many events were suppressed since the last line, or `None` to suppress these.
    ///
    /// They are admitted if their kind differs from that of the last line, or 10 s after that line.
    pub(crate) fn admit(&mut self, kind: Kind, events: u64, now: Instant) -> Option<u64> {
        let is_repeated = self.last.is_some_and(|(last, at)| {
            last == kind && now.saturating_duration_since(at) < LOG_INTERVAL
        });
        if is_repeated {
            self.suppressed = self.suppressed.saturating_add(events);
            return None;
        }
        self.last = Some((kind, now));
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Returns the suppressed events if no line can follow that would count them: of another kind than
    /// `next`, or 10 s after their line.
    pub(crate) fn take_overdue(&mut self, next: Option<Kind>, now: Instant) -> Option<(Kind, u64)> {
        let (last, at) = self.last?;
        let is_overdue = now.saturating_duration_since(at) >= LOG_INTERVAL;
        let is_other = next.is_some_and(|next| next != last);
        if is_overdue || is_other {
            self.take_rest()
        } else {
            None
        }
    }

    /// Returns the suppressed events, if there are any.
    pub(crate) fn take_rest(&mut self) -> Option<(Kind, u64)> {
        let (last, _) = self.last?;
        let suppressed = std::mem::take(&mut self.suppressed);
        (suppressed > 0).then_some((last, suppressed))
    }

    /// Returns the time after which suppressed events are overdue, if there are any.
    pub(crate) fn until_overdue(&self, now: Instant) -> Option<Duration> {
        let (_, at) = self.last?;
        let since = now.saturating_duration_since(at);
        (self.suppressed > 0).then(|| LOG_INTERVAL.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn repeated_error_is_logged_at_once_then_throttled() {
        let mut throttle = LogThrottle::default();
        let start = Instant::now();
        let mut admit =
            |kind, seconds| throttle.admit(kind, 1, start + Duration::from_secs(seconds));
        assert_eq!(admit(ErrorKind::Connection, 0), Some(0));
        assert_eq!(admit(ErrorKind::Connection, 0), None);
        assert_eq!(admit(ErrorKind::Connection, 9), None);
        assert_eq!(admit(ErrorKind::Connection, 10), Some(2));
        assert_eq!(admit(ErrorKind::Loading, 11), Some(0));
        assert_eq!(admit(ErrorKind::Connection, 12), Some(0));
    }

    #[test]
    fn suppressed_events_are_reported_under_their_kind() {
        let (first, other) = (ErrorKind::Connection, ErrorKind::Loading);
        let mut throttle = LogThrottle::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(throttle.until_overdue(at(0)), None);
        assert_eq!(throttle.admit(first, 1, at(0)), Some(0));
        assert_eq!(throttle.until_overdue(at(1)), None);
        assert_eq!(throttle.admit(first, 3, at(1)), None);
        assert_eq!(throttle.until_overdue(at(4)), Some(Duration::from_secs(6)));
        assert_eq!(throttle.take_overdue(Some(first), at(9)), None);
        assert_eq!(throttle.take_overdue(None, at(9)), None);
        assert_eq!(throttle.take_overdue(Some(other), at(9)), Some((first, 3)));
        assert_eq!(throttle.admit(first, 2, at(9)), None);
        assert_eq!(throttle.take_overdue(None, at(10)), Some((first, 2)));
        assert_eq!(throttle.take_rest(), None);
    }
}
