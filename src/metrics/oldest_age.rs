//! `oldest_record_age_seconds`, which grows by itself: it is computed when it is read.

use std::time::Duration;

use prometheus::{
    GaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{client_table::ClientTable, clock::Clock};

#[derive(Clone)]
pub(super) struct OldestAgeCollector {
    pub(super) gauge: GaugeVec,
    clients: ClientTable,
    clock: Clock,
}

impl OldestAgeCollector {
    pub(super) fn new(gauge: GaugeVec, clients: ClientTable, clock: Clock) -> Self {
        Self {
            gauge,
            clients,
            clock,
        }
    }
}

impl Collector for OldestAgeCollector {
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
