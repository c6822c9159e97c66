//! The clocks of the metrics: monotonic time for ages and durations, Unix time for timestamps.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A monotonic clock and a Unix clock, which tests replace.
#[derive(Clone)]
pub(crate) struct Clock {
    monotonic: TimeSource,
    unix_time: TimeSource,
}

type TimeSource = Arc<dyn Fn() -> Duration + Send + Sync>;

impl Clock {
    /// Returns the clocks of the system.
    pub(crate) fn monotonic() -> Self {
        let start = Instant::now();
        // A device without a real-time clock can be set to a time before 1970.
        let since_1970 = || SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            monotonic: Arc::new(move || start.elapsed()),
            unix_time: Arc::new(move || since_1970().unwrap_or_default()),
        }
    }

    /// Returns clocks that both read `now`.
    #[cfg(test)]
    pub(crate) fn fixed(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let now: TimeSource = Arc::new(now);
        Self {
            unix_time: Arc::clone(&now),
            monotonic: now,
        }
    }

    /// Returns the time since an arbitrary start, which never goes backwards.
    pub(crate) fn now(&self) -> Duration {
        (self.monotonic)()
    }

    /// Returns the time since 1970 by the device's clock, or zero before 1970.
    pub(crate) fn unix_time(&self) -> Duration {
        (self.unix_time)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
