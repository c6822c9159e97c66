//! `oldest_record_age_seconds`, which grows by itself: it is computed when it is read.

use std::time::Duration;

use prometheus::{
    GaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{clock::Clock, series::Clients};

#[derive(Clone)]
pub(super) struct OldestAge {
    pub(super) gauge: GaugeVec,
    clients: Clients,
    clock: Clock,
}

impl OldestAge {
    pub(super) fn new(gauge: GaugeVec, clients: Clients, clock: Clock) -> Self {
        Self {
            gauge,
            clients,
            clock,
        }
    }
}

impl Collector for OldestAge {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = self.clock.now();
        self.clients.for_each_oldest(|kind| {
            let age = kind
                .since
                .map_or(Duration::ZERO, |since| now.saturating_sub(since));
            kind.gauge.set(age.as_secs_f64());
        });
        self.gauge.collect()
    }
}
