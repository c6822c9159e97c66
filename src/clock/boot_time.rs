//! A monotonic clock that also counts the time during which the device is suspended.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Returns the time since boot, for ages and for the durations of outages.
///
/// `Instant` stops while a Linux device is suspended, so it would make a record that waited over night
/// a few minutes old. Other systems get an `Instant` since the first call.
pub(crate) fn since_boot() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(time) = read(libc::CLOCK_BOOTTIME) {
        return time;
    }
    since_first_call()
}

/// Returns the time since an arbitrary start, without the time during which the device was suspended.
///
/// Reads the clock of `Instant`. The difference of two `Duration`s is cheaper than that of two `Instant`s.
#[cfg(feature = "metrics")]
pub(crate) fn awake_time() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(time) = read(libc::CLOCK_MONOTONIC) {
        return time;
    }
    since_first_call()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn read(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a `timespec` of ours, which the call only writes.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    if result != 0 {
        return None;
    }
    let seconds = u64::try_from(time.tv_sec).ok()?;
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    Some(Duration::new(seconds, nanos))
}

fn since_first_call() -> Duration {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/proc/uptime` counts suspended time too, in hundredths of a second.
    #[cfg(target_os = "linux")]
    #[test]
    fn since_boot_agrees_with_uptime() {
        let before = since_boot();
        let text = std::fs::read_to_string("/proc/uptime").expect("procfs");
        let after = since_boot();
        let (uptime, _) = text.split_once(' ').expect("two numbers");
        let uptime = Duration::from_secs_f64(uptime.parse().expect("seconds"));
        let rounding = Duration::from_millis(10);
        assert!(before <= uptime + rounding, "{before:?} {uptime:?}");
        assert!(uptime <= after + rounding, "{uptime:?} {after:?}");
    }

    #[test]
    fn neither_source_goes_backwards() {
        for source in [since_boot, since_first_call] {
            let mut last = source();
            for _ in 0..100_000 {
                let now = source();
                assert!(now >= last, "{now:?} {last:?}");
                last = now;
            }
        }
    }
}
