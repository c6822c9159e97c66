//! Points in time until which something must be over.

#[cfg(feature = "redis")]
use std::io;
use std::time::{Duration, Instant};

/// The moment so long from now.
pub(crate) fn deadline_after(limit: Duration) -> Instant {
    /// Beyond this a limit is none, and the clock may not be able to count it.
    const A_YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let now = Instant::now();
    now.checked_add(limit.min(A_YEAR)).unwrap_or(now)
}

/// What is left until the deadline, as long as there is something.
#[cfg(feature = "redis")]
pub(crate) fn time_left(deadline: Instant) -> io::Result<Duration> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // A socket takes a limit in whole microseconds, and none of them for no limit.
    Ok(remaining.max(Duration::from_micros(1)))
}
