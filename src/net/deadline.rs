//! Absolute deadlines.

#[cfg(any(feature = "redis", feature = "server"))]
use std::io;
use std::time::{Duration, Instant};

/// Returns the instant that is `timeout` from now, or a year from now for a longer timeout.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    // `Instant` may not be able to represent a time far in the future.
    const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(timeout.min(MAX_TIMEOUT)).unwrap_or(now)
}

/// Returns the time until the deadline; zero after it.
#[cfg(any(feature = "redis", feature = "server"))]
pub(crate) fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Returns the time until the deadline, or `TimedOut` after it.
#[cfg(any(feature = "redis", feature = "server"))]
pub(crate) fn time_left(deadline: Instant) -> io::Result<Duration> {
    let remaining = remaining(deadline);
    if remaining.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // Some timeouts are rounded down to microseconds, and 0 can mean that there is no timeout.
    Ok(remaining.max(Duration::from_micros(1)))
}
