//! How often the log is told of errors that calls are answered with.

use std::time::{Duration, Instant};

use super::ErrorKind;

const INTERVAL: Duration = Duration::from_secs(10);

/// What the log was told last.
#[derive(Default)]
pub(crate) struct LogThrottle {
    last: Option<(ErrorKind, Instant)>,
    suppressed: u64,
}

impl LogThrottle {
    /// How many errors the log was not told of since the last one, if it is time for this one: when
    /// it is of another kind, or after a while.
    pub(crate) fn admit(&mut self, kind: ErrorKind, now: Instant) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_error_is_logged_at_once_then_throttled() {
        let mut throttle = LogThrottle::default();
        let start = Instant::now();
        let mut due = |kind, seconds| throttle.admit(kind, start + Duration::from_secs(seconds));
        assert_eq!(due(ErrorKind::Connection, 0), Some(0));
        assert_eq!(due(ErrorKind::Connection, 0), None);
        assert_eq!(due(ErrorKind::Connection, 9), None);
        assert_eq!(due(ErrorKind::Connection, 10), Some(2));
        assert_eq!(due(ErrorKind::Loading, 11), Some(0));
        assert_eq!(due(ErrorKind::Connection, 12), Some(0));
    }
}
