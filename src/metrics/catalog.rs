//! Every metric of the catalogue: its name, help and labels.

use std::collections::HashMap;

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use super::{
    client_table::ClientTable, clock::Clock, lean, names::PREFIX, oldest_age::OldestAgeCollector,
    store_catalog::StoreCatalog,
};
use crate::error::{Error, ErrorKind};

/// Every metric, in the order of the catalogue.
pub(super) struct MetricCatalog {
    pub(super) operation_duration: HistogramVec,
    pub(super) operation_errors: IntCounterVec,
    pub(super) operation_misses: IntCounterVec,
    pub(super) operations_in_progress: IntGaugeVec,
    pub(super) records: IntGaugeVec,
    pub(super) record_bytes: IntGaugeVec,
    pub(super) oldest_record_age: OldestAgeCollector,
    pub(super) added_records: IntCounterVec,
    pub(super) removed_records: IntCounterVec,
    pub(super) value_size: HistogramVec,
    pub(super) restored_records: IntGaugeVec,
    pub(super) opened: GaugeVec,
    pub(super) restore_duration: GaugeVec,
    pub(super) build_info: IntGaugeVec,
    pub(super) store: StoreCatalog,
    pub(super) clients: ClientTable,
    pub(super) clock: Clock,
}

impl MetricCatalog {
    pub(super) fn new(
        latency_buckets: Vec<f64>,
        size_buckets: Vec<f64>,
        const_labels: &HashMap<String, String>,
        clock: Clock,
    ) -> prometheus::Result<Self> {
        let opts = |name: &str, help: &str| {
            Opts::new(format!("{PREFIX}{name}"), help).const_labels(const_labels.clone())
        };
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| HistogramOpts {
            common_opts: opts(name, help),
            buckets,
        };
        let by_kind = &["client_id", "kind"];
        let clients = ClientTable::default();
        Ok(Self {
            operation_duration: HistogramVec::new(
                histogram(
                    "operation_duration_seconds",
                    "How long each call of Paho to its persistence took",
                    latency_buckets,
                ),
                &["client_id", "operation"],
            )?,
            operation_errors: IntCounterVec::new(
                opts(
                    "operation_errors_total",
                    "Calls that were answered with an error",
                ),
                &["client_id", "operation", "error"],
            )?,
            operation_misses: IntCounterVec::new(
                opts(
                    "operation_misses_total",
                    "Calls for a record that is not there, normal for remove",
                ),
                &["client_id", "operation"],
            )?,
            operations_in_progress: IntGaugeVec::new(
                opts(
                    "operations_in_progress",
                    "Calls that have not been answered yet",
                ),
                &["client_id"],
            )?,
            records: IntGaugeVec::new(opts("records", "Records that wait"), by_kind)?,
            record_bytes: IntGaugeVec::new(
                opts("record_bytes", "Size of the records that wait"),
                by_kind,
            )?,
            oldest_record_age: OldestAgeCollector::new(
                GaugeVec::new(
                    opts(
                        "oldest_record_age_seconds",
                        "How long the oldest record has been waiting, at least",
                    ),
                    by_kind,
                )?,
                clients.clone(),
                clock.clone(),
            ),
            added_records: IntCounterVec::new(
                opts(
                    "added_records_total",
                    "Records that were put and not there before",
                ),
                by_kind,
            )?,
            removed_records: IntCounterVec::new(
                opts("removed_records_total", "Records that were removed"),
                by_kind,
            )?,
            value_size: HistogramVec::new(
                histogram("value_size_bytes", "Size of what was put", size_buckets),
                &["client_id"],
            )?,
            restored_records: IntGaugeVec::new(
                opts("restored_records", "Records found at the last open"),
                by_kind,
            )?,
            opened: GaugeVec::new(
                opts(
                    "opened_timestamp_seconds",
                    "When the persistence was last opened, by the clock of the device",
                ),
                &["client_id"],
            )?,
            restore_duration: GaugeVec::new(
                opts(
                    "restore_duration_seconds",
                    "From the last open to the end of the last call that belongs to restoring",
                ),
                &["client_id"],
            )?,
            build_info: IntGaugeVec::new(
                opts("build_info", "Version of the crate and store of the client"),
                &["client_id", "version", "store"],
            )?,
            store: StoreCatalog::new(opts)?,
            clients,
            clock,
        })
    }

    fn collectors(&self) -> [Box<dyn Collector>; 27] {
        [
            Box::new(self.operation_duration.clone()),
            Box::new(self.operation_errors.clone()),
            Box::new(self.operation_misses.clone()),
            Box::new(self.operations_in_progress.clone()),
            Box::new(self.records.clone()),
            Box::new(self.record_bytes.clone()),
            Box::new(self.oldest_record_age.clone()),
            Box::new(self.added_records.clone()),
            Box::new(self.removed_records.clone()),
            Box::new(self.value_size.clone()),
            Box::new(self.restored_records.clone()),
            Box::new(self.opened.clone()),
            Box::new(self.restore_duration.clone()),
            Box::new(self.build_info.clone()),
            Box::new(self.store.up.clone()),
            Box::new(self.store.changed.clone()),
            Box::new(self.store.reconnects.clone()),
            Box::new(self.store.reconnect_failures.clone()),
            Box::new(self.store.errors.clone()),
            Box::new(self.store.unconfirmed_records.clone()),
            Box::new(self.store.unconfirmed_bytes.clone()),
            Box::new(self.store.held_records.clone()),
            Box::new(self.store.held_bytes.clone()),
            Box::new(self.store.discarded.clone()),
            Box::new(self.store.lost.clone()),
            Box::new(self.store.quarantined.clone()),
            Box::new(self.store.last_confirmed.clone()),
        ]
    }

    /// What a registry is to tell of.
    fn told(&self, is_lean: bool) -> Vec<Box<dyn Collector>> {
        let all = self.collectors().into_iter();
        if is_lean {
            all.filter_map(lean::narrowed).collect()
        } else {
            all.collect()
        }
    }

    /// All of them or none.
    pub(super) fn register(&self, registry: &Registry, is_lean: bool) -> Result<(), Error> {
        for (position, collector) in self.told(is_lean).into_iter().enumerate() {
            let name = collector
                .desc()
                .first()
                .map(|desc| desc.fq_name.clone())
                .unwrap_or_default();
            if let Err(error) = registry.register(collector) {
                for registered in self.told(is_lean).into_iter().take(position) {
                    drop(registry.unregister(registered));
                }
                return Err(Error::new(
                    ErrorKind::Registration,
                    format!("register the metric {name}"),
                )
                .with_reason(
                    "the registry has it already; register once and hand clones of the \
                         handle to each persistence",
                )
                .with_source(error));
            }
        }
        Ok(())
    }
}
