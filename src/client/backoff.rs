//! [`Backoff`]: how long to wait between two attempts to connect.

use std::time::Duration;

/// Waits that grow with each failure, and that differ between devices.
///
/// Each wait is a random part of a ceiling that doubles (*full jitter*). Devices that lost their broker at the same
/// moment so come back spread over the ceiling, and not in waves.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
    random: u64,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self {
            min,
            max,
            ceiling: min,
            random: seed,
        }
    }

    /// Returns the time until the next attempt, and doubles the ceiling.
    pub(super) fn next(&mut self) -> Duration {
        let ceiling = self.ceiling.min(self.max);
        self.ceiling = ceiling.saturating_mul(2);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        // The upper half of the product is the random number scaled to the ceiling.
        let product = u128::from(nanos).saturating_mul(u128::from(self.next_random()));
        Duration::from_nanos(u64::try_from(product.wrapping_shr(64)).unwrap_or(nanos))
    }

    /// Begins anew, after a connection that lasted.
    pub(super) fn reset(&mut self) {
        self.ceiling = self.min;
    }

    /// `SplitMix64`: short, and good enough to spread devices.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed.wrapping_shr(30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed.wrapping_shr(27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed.wrapping_shr(31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(60);

    /// The longest of many devices' waits after each failure.
    fn longest(failures: usize) -> Vec<Duration> {
        let mut longest = vec![Duration::ZERO; failures];
        for seed in 0..2_000 {
            let mut backoff = Backoff::new(MIN, MAX, seed);
            for longest in &mut longest {
                *longest = backoff.next().max(*longest);
            }
        }
        longest
    }

    #[test]
    fn ceiling_doubles_up_to_maximum() {
        let ceilings = [1, 2, 4, 8, 16, 32, 60, 60];
        for (longest, ceiling) in longest(ceilings.len()).into_iter().zip(ceilings) {
            let ceiling = Duration::from_secs(ceiling);
            assert!(longest <= ceiling, "{longest:?} of {ceiling:?}");
            assert!(
                longest > ceiling.mul_f64(0.99),
                "{longest:?} of {ceiling:?}"
            );
        }
    }

    #[test]
    fn devices_come_back_spread_over_ceiling() {
        let mut tenths = [0; 10];
        for seed in 0..10_000 {
            let wait = Backoff::new(MIN, MAX, seed).next();
            tenths[usize::try_from(wait.as_millis() / 100).expect("small")] += 1;
        }
        for devices in tenths {
            assert!((900..1_100).contains(&devices), "{tenths:?}");
        }
    }

    #[test]
    fn reset_begins_anew() {
        let mut backoff = Backoff::new(MIN, MAX, 7);
        for _ in 0..10 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= MIN);
    }
}
