//! The clocks of the metrics: one for durations, one for ages, and Unix time for timestamps.

#[cfg(test)]
use std::sync::Arc;
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::clock::{awake_time, since_boot};

/// The clocks of the system, which tests replace.
#[derive(Clone)]
pub(crate) enum Clock {
    System,
    #[cfg(test)]
    Fixed(Arc<dyn Fn() -> Duration + Send + Sync>),
}

impl Clock {
    /// Returns clocks that all read `now`.
    #[cfg(test)]
    pub(crate) fn fixed(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self::Fixed(Arc::new(now))
    }

    /// Returns the time since an arbitrary start, without the time during which the device was suspended.
    ///
    /// For the durations of calls: one that a suspend interrupts did not keep Paho waiting for so long.
    pub(crate) fn now(&self) -> Duration {
        match self {
            Self::System => awake_time(),
            #[cfg(test)]
            Self::Fixed(now) => now(),
        }
    }

    /// Returns the time since boot, for ages: a record goes on waiting while the device is suspended.
    pub(crate) fn since_boot(&self) -> Duration {
        match self {
            Self::System => since_boot(),
            #[cfg(test)]
            Self::Fixed(now) => now(),
        }
    }

    /// Returns the time since 1970 by the device's clock, or zero before 1970.
    pub(crate) fn unix_time(&self) -> Duration {
        match self {
            // A device without a real-time clock can be set to a time before 1970.
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            #[cfg(test)]
            Self::Fixed(now) => now(),
        }
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
        let clock = Clock::System;
        let before = since_boot();
        let now = clock.since_boot();
        let after = since_boot();
        assert!(
            before <= now && now <= after,
            "{before:?} {now:?} {after:?}"
        );
    }
}
