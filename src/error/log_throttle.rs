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
}
