//! What has arrived of what was published.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use crate::{
    Subscriber,
    crash::{is_whole, qos},
};

pub struct Arrivals(HashMap<String, usize>);

impl Arrivals {
    /// Waits until these have arrived, for so long at most.
    pub fn of(expected: &[String], subscriber: &Subscriber, limit: Duration) -> Self {
        let started = Instant::now();
        loop {
            let arrivals = Self::until_now(subscriber);
            let is_complete = expected.iter().all(|text| arrivals.0.contains_key(text));
            if is_complete || started.elapsed() > limit {
                return arrivals;
            }
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    fn until_now(subscriber: &Subscriber) -> Self {
        let mut arrived = HashMap::new();
        for (_, payload) in subscriber.messages() {
            let text = String::from_utf8_lossy(&payload).into_owned();
            *arrived.entry(text).or_default() += 1;
        }
        Self(arrived)
    }

    /// Which of these have not.
    pub fn missing(&self, expected: &[String]) -> Vec<String> {
        let missing = expected.iter().filter(|text| !self.0.contains_key(*text));
        missing.cloned().collect()
    }

    /// Those at QoS 2 that have more than once.
    pub fn twice(&self) -> Vec<String> {
        let twice = self
            .0
            .iter()
            .filter(|(text, times)| **times > 1 && is_whole(text) && qos(text) == 2);
        twice.map(|(text, _)| text.clone()).collect()
    }

    /// How many are none that were published.
    pub fn altered(&self) -> usize {
        self.0.keys().filter(|text| !is_whole(text)).count()
    }
}
