//! The clock that ages and durations are measured with, and that of the calendar.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Two clocks.
#[derive(Clone)]
pub(crate) struct Clock {
    now: Time,
    calendar: Time,
}

type Time = Arc<dyn Fn() -> Duration + Send + Sync>;

impl Clock {
    pub(crate) fn monotonic() -> Self {
        let start = Instant::now();
        // A device without a real-time clock can be set to the time before 1970.
        let since_1970 = || SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            now: Arc::new(move || start.elapsed()),
            calendar: Arc::new(move || since_1970().unwrap_or_default()),
        }
    }

    #[cfg(test)]
    pub(crate) fn fixed(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let now: Time = Arc::new(now);
        Self {
            calendar: Arc::clone(&now),
            now,
        }
    }

    /// Time since some moment, which never goes backwards.
    pub(crate) fn now(&self) -> Duration {
        (self.now)()
    }

    /// Time since 1970, as far as the device knows.
    pub(crate) fn unix_time(&self) -> Duration {
        (self.calendar)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
