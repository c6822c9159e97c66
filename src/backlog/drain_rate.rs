//! The rate at which a backlog shrinks.

use std::{collections::VecDeque, time::Duration};

/// The rate over the last samples.
#[derive(Debug, Default)]
pub struct DrainRate {
    /// Times and numbers of messages, oldest first.
    samples: VecDeque<(Duration, usize)>,
}

/// Number of samples that the rate is taken over.
const SAMPLES: usize = 10;

impl DrainRate {
    /// Adds a number of messages at this time.
    pub fn add(&mut self, time: Duration, messages: usize) {
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((time, messages));
    }

    /// Messages per second by which the backlog shrinks; negative while it grows. `None` before the second
    /// sample.
    #[must_use]
    pub fn per_second(&self) -> Option<f64> {
        let ((first, before), (last, after)) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.checked_sub(*first)?.as_secs_f64();
        // Exact enough for a rate.
        #[allow(clippy::cast_precision_loss)]
        let shrunk = *before as f64 - *after as f64;
        (seconds > 0.0).then(|| shrunk / seconds)
    }

    /// The time until the backlog is empty at this rate; `None` if it does not shrink.
    #[must_use]
    pub fn until_empty(&self) -> Option<Duration> {
        let (_, messages) = self.samples.back()?;
        if *messages == 0 {
            return Some(Duration::ZERO);
        }
        let rate = self.per_second().filter(|rate| *rate > 0.0)?;
        #[allow(clippy::cast_precision_loss)]
        let seconds = *messages as f64 / rate;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(samples: &[(u64, usize)]) -> DrainRate {
        let mut rate = DrainRate::default();
        for (second, messages) in samples {
            rate.add(Duration::from_secs(*second), *messages);
        }
        rate
    }

    #[test]
    fn rate_is_taken_over_last_samples() {
        for (samples, per_second, until_empty) in [
            (&[][..], None, None),
            (&[(0, 10)], None, None),
            (&[(0, 100), (1, 90)], Some(10.0), Some(9)),
            (&[(0, 100), (1, 100)], Some(0.0), None),
            (&[(0, 100), (2, 110)], Some(-5.0), None),
            (&[(0, 100), (5, 0)], Some(20.0), Some(0)),
            (&[(1, 5), (1, 4)], None, None),
        ] {
            let rate = rate(samples);
            assert_eq!(rate.per_second(), per_second, "{samples:?}");
            let until_empty = until_empty.map(Duration::from_secs);
            assert_eq!(rate.until_empty(), until_empty, "{samples:?}");
        }
    }

    #[test]
    fn old_samples_are_forgotten() {
        let mut samples = vec![(0, 1_000_000)];
        samples.extend((1..=10).map(|second| (second, 1_000 - usize::try_from(second).unwrap())));
        assert_eq!(rate(&samples).per_second(), Some(1.0));
    }
}
