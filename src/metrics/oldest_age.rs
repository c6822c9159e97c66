//! [`OldestAgeCollector`]: the `oldest_record_age_seconds` metric.

use std::time::Duration;

use prometheus::{
    GaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{client_table::ClientTable, clock::Clock};

/// The collector of `oldest_record_age_seconds`.
///
/// Ages grow without any call, so they are computed at each scrape.
#[derive(Clone)]
pub(super) struct OldestAgeCollector {
    pub(super) gauge: GaugeVec,
    client_table: ClientTable,
    clock: Clock,
}

impl OldestAgeCollector {
    pub(super) fn new(gauge: GaugeVec, client_table: ClientTable, clock: Clock) -> Self {
        Self {
            gauge,
            client_table,
            clock,
        }
    }
}

impl Collector for OldestAgeCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let now = self.clock.since_boot();
        self.client_table.for_each_oldest(|sample| {
            let age = sample
                .since
                .map_or(Duration::ZERO, |since| now.saturating_sub(since));
            sample.gauge.set(age.as_secs_f64());
        });
        self.gauge.collect()
    }
}
