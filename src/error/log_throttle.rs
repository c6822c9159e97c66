//! Limits how often a repeated error is logged.

use std::time::{Duration, Instant};

use super::ErrorKind;

/// Time after which an error of the same kind is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Suppresses log lines with the kind of the last one for 10 s, and counts them.
///
/// A store that is down may fail thousands of calls per second, for one reason.
#[derive(Default)]
pub(crate) struct LogThrottle {
    last: Option<(ErrorKind, Instant)>,
    suppressed: u64,
}

impl LogThrottle {
    /// Returns how many errors were suppressed since the last line, or `None` to suppress this one.
    ///
    /// An error is admitted if its kind differs from that of the last line, or 10 s after that line.
    pub(crate) fn admit(&mut self, kind: ErrorKind, now: Instant) -> Option<u64> {
        let is_repeated = self.last.is_some_and(|(last, at)| {
            last == kind && now.saturating_duration_since(at) < LOG_INTERVAL
        });
        if is_repeated {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.last = Some((kind, now));
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_error_is_logged_at_once_then_throttled() {
        let mut throttle = LogThrottle::default();
        let start = Instant::now();
        let mut admit = |kind, seconds| throttle.admit(kind, start + Duration::from_secs(seconds));
        assert_eq!(admit(ErrorKind::Connection, 0), Some(0));
        assert_eq!(admit(ErrorKind::Connection, 0), None);
        assert_eq!(admit(ErrorKind::Connection, 9), None);
        assert_eq!(admit(ErrorKind::Connection, 10), Some(2));
        assert_eq!(admit(ErrorKind::Loading, 11), Some(0));
        assert_eq!(admit(ErrorKind::Connection, 12), Some(0));
    }
}
