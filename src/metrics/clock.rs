//! The clocks of the metrics: one for durations, one for ages, and Unix time for timestamps.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::clock::since_boot;

/// The clocks of the system, which tests replace.
#[derive(Clone)]
pub(crate) struct Clock {
    awake: TimeSource,
    boot: TimeSource,
    unix_time: TimeSource,
}

type TimeSource = Arc<dyn Fn() -> Duration + Send + Sync>;

impl Clock {
    /// Returns the clocks of the system.
    pub(crate) fn system() -> Self {
        let start = Instant::now();
        // A device without a real-time clock can be set to a time before 1970.
        let since_1970 = || SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            awake: Arc::new(move || start.elapsed()),
            boot: Arc::new(since_boot),
            unix_time: Arc::new(move || since_1970().unwrap_or_default()),
        }
    }

    /// Returns clocks that all read `now`.
    #[cfg(test)]
    pub(crate) fn fixed(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let now: TimeSource = Arc::new(now);
        Self {
            unix_time: Arc::clone(&now),
            boot: Arc::clone(&now),
            awake: now,
        }
    }

    /// Returns the time since an arbitrary start, without the time during which the device was suspended.
    ///
    /// For the durations of calls: one that a suspend interrupts did not keep Paho waiting for so long.
    pub(crate) fn now(&self) -> Duration {
        (self.awake)()
    }

    /// Returns the time since boot, for ages: a record goes on waiting while the device is suspended.
    pub(crate) fn since_boot(&self) -> Duration {
        (self.boot)()
    }

    /// Returns the time since 1970 by the device's clock, or zero before 1970.
    pub(crate) fn unix_time(&self) -> Duration {
        (self.unix_time)()
    }
}

/// Returns the value of a timestamp metric; zero for a time before 1970.
pub(super) fn unix_seconds(at: SystemTime) -> f64 {
    let since_1970 = at.duration_since(UNIX_EPOCH);
    since_1970.unwrap_or_default().as_secs_f64()
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_count_from_boot() {
        let clock = Clock::system();
        let before = since_boot();
        let now = clock.since_boot();
        let after = since_boot();
        assert!(
            before <= now && now <= after,
            "{before:?} {now:?} {after:?}"
        );
    }
}
