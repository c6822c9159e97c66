//! The clock that a persistence is given: time since boot for durations, and the device's time.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::boot_time::since_boot;

/// The clock of the system, or the one of a simulator.
#[derive(Clone, Default)]
pub(crate) enum Clock {
    #[default]
    System,
    Simulated(Arc<dyn SimulatedClock>),
}

/// The clock of one simulated process.
pub trait SimulatedClock: Send + Sync + 'static {
    /// The time since the device booted.
    fn since_boot(&self) -> Duration;

    /// The device's time.
    fn time(&self) -> SystemTime;

    /// Lets a call wait for the worker, for at most until this time since boot.
    ///
    /// Returns once the worker has done something or time has advanced.
    fn wait(&self, until: Duration);
}

impl Clock {
    pub(crate) fn since_boot(&self) -> Duration {
        match self {
            Self::System => since_boot(),
            Self::Simulated(clock) => clock.since_boot(),
        }
    }

    pub(crate) fn time(&self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Simulated(clock) => clock.time(),
        }
    }

    /// Returns the time since boot after which `timeout` has passed.
    pub(crate) fn deadline_after(&self, timeout: Duration) -> Duration {
        self.since_boot().saturating_add(timeout)
    }

    /// Returns a random number, which spreads the attempts of many clients.
    pub(crate) fn random(&self) -> u8 {
        match self {
            Self::System => {
                let [random, ..] = RandomState::new().hash_one(0).to_ne_bytes();
                random
            }
            Self::Simulated(_) => 0,
        }
    }

    /// Sleeps, without a lock.
    pub(crate) fn sleep(&self, timeout: Duration) {
        match self {
            Self::System => std::thread::sleep(timeout),
            Self::Simulated(clock) => {
                let until = self.deadline_after(timeout);
                while clock.since_boot() < until {
                    clock.wait(until);
                }
            }
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.since_boot()).finish()
    }
}
