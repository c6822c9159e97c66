//! [`MetricCatalog`]: every metric with its name, help and labels.

use std::collections::HashMap;

use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    client_table::ClientTable, clock::Clock, connection_catalog::ConnectionCatalog, lean,
    message_catalog::MessageCatalog, names::PREFIX, oldest_age::OldestAgeCollector,
    store_catalog::StoreCatalog,
};
use crate::error::{Error, ErrorKind};

/// Every metric, in the order of the catalog in `docs/metrics.md`.
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
    pub(super) messages: MessageCatalog,
    pub(super) value_size: HistogramVec,
    pub(super) opened: GaugeVec,
    pub(super) restore_duration: GaugeVec,
    pub(super) build_info: IntGaugeVec,
    pub(super) store: StoreCatalog,
    pub(super) connection: ConnectionCatalog,
    pub(super) client_table: ClientTable,
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
        // The client id comes first: `labels.rs` tests that series cannot collide in this order.
        let by_kind = &["client_id", "kind"];
        let client_table = ClientTable::default();
        Ok(Self {
            operation_duration: HistogramVec::new(
                histogram(
                    "operation_duration_seconds",
                    "Duration of Paho's calls to the persistence, in seconds",
                    latency_buckets,
                ),
                &["client_id", "operation"],
            )?,
            operation_errors: IntCounterVec::new(
                opts("operation_errors_total", "Calls that returned an error"),
                &["client_id", "operation", "error"],
            )?,
            operation_misses: IntCounterVec::new(
                opts(
                    "operation_misses_total",
                    "Calls for a missing record; normal for remove",
                ),
                &["client_id", "operation"],
            )?,
            operations_in_progress: IntGaugeVec::new(
                opts("operations_in_progress", "Calls in progress"),
                &["client_id"],
            )?,
            records: IntGaugeVec::new(opts("records", "Records waiting, by kind"), by_kind)?,
            record_bytes: IntGaugeVec::new(
                opts("record_bytes", "Size of waiting records in bytes"),
                by_kind,
            )?,
            oldest_record_age: OldestAgeCollector::new(
                GaugeVec::new(
                    opts(
                        "oldest_record_age_seconds",
                        "Minimum age of the oldest waiting record, in seconds",
                    ),
                    by_kind,
                )?,
                client_table.clone(),
                clock.clone(),
            ),
            added_records: IntCounterVec::new(
                opts("added_records_total", "New records put"),
                by_kind,
            )?,
            removed_records: IntCounterVec::new(
                opts("removed_records_total", "Records removed"),
                by_kind,
            )?,
            messages: MessageCatalog::new(opts, client_table.clone())?,
            value_size: HistogramVec::new(
                histogram(
                    "value_size_bytes",
                    "Size of put values in bytes",
                    size_buckets,
                ),
                &["client_id"],
            )?,
            opened: GaugeVec::new(
                opts(
                    "opened_timestamp_seconds",
                    "Unix time of the last open, by the device's clock",
                ),
                &["client_id"],
            )?,
            restore_duration: GaugeVec::new(
                opts(
                    "restore_duration_seconds",
                    "Time from the last open to the last call that restores, in seconds",
                ),
                &["client_id"],
            )?,
            build_info: IntGaugeVec::new(
                opts("build_info", "Crate version and store of the client"),
                &["client_id", "version", "store"],
            )?,
            store: StoreCatalog::new(opts)?,
            connection: ConnectionCatalog::new(opts)?,
            client_table,
            clock,
        })
    }

    fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let mut collectors: Vec<Box<dyn Collector>> = vec![
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
            Box::new(self.store.waiting_bytes.clone()),
            Box::new(self.store.queued_messages.clone()),
            Box::new(self.store.limit_messages.clone()),
            Box::new(self.store.limit_bytes.clone()),
            Box::new(self.store.earlier_records.clone()),
            Box::new(self.store.poison_suspects.clone()),
            Box::new(self.store.lost.clone()),
            Box::new(self.store.quarantined.clone()),
            Box::new(self.store.last_confirmed.clone()),
        ];
        collectors.extend(self.store.set_aside.collectors());
        collectors.extend(self.connection.collectors());
        collectors.push(Box::new(self.messages.clone()));
        collectors
    }

    /// Returns the collectors that a registry gets: all, or those of the lean profile.
    fn exported(&self, is_lean: bool) -> Vec<Box<dyn Collector>> {
        let all = self.collectors().into_iter();
        if is_lean {
            all.filter_map(lean::filtered).collect()
        } else {
            all.collect()
        }
    }

    /// Registers every metric, or none if one of them fails.
    pub(super) fn register(&self, registry: &Registry, is_lean: bool) -> Result<(), Error> {
        for (position, collector) in self.exported(is_lean).into_iter().enumerate() {
            let descs: Vec<Desc> = collector.desc().into_iter().cloned().collect();
            if let Err(error) = registry.register(collector) {
                let name = refused_name(registry, &descs);
                // Unregistering goes by descriptor, so a second set of clones will do.
                for registered in self.exported(is_lean).into_iter().take(position) {
                    drop(registry.unregister(registered));
                }
                return Err(Error::new(
                    ErrorKind::Registration,
                    format!("register the metric {name}"),
                )
                .with_reason("already registered; register once and clone the handle")
                .with_source(error));
            }
        }
        Ok(())
    }
}

/// Returns the name that the registry refuses, of a collector with several.
fn refused_name<'a>(registry: &Registry, descs: &'a [Desc]) -> &'a str {
    let is_refused = |desc: &&Desc| {
        let probe = || Box::new(Probe((*desc).clone()));
        let refused = registry.register(probe()).is_err();
        refused || registry.unregister(probe()).is_err()
    };
    let refused = descs.iter().find(is_refused).or(descs.first());
    refused.map_or("", |desc| &desc.fq_name)
}

/// A collector of nothing under a name.
struct Probe(Desc);

impl Collector for Probe {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        Vec::new()
    }
}
