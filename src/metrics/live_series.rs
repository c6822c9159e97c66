//! [`ClientSeriesGuard`]: the series of a client, for as long as one of its persistences lives.

use std::{collections::hash_map::Entry, sync::Arc, time::Duration};

use super::{
    catalog::MetricCatalog,
    client_table::{ClientSeries, KindSeries, LabelSeries, OldestTimes, OperationSeries},
    labels::{KindLabel, OperationLabel},
    removal::remove_series,
};
use crate::error::ErrorKind;

impl ClientSeries {
    fn new(catalog: &MetricCatalog, label: &str) -> Self {
        Self {
            operations: OperationLabel::ALL.map(|operation| {
                let labels = [label, operation.as_str()];
                OperationSeries {
                    duration: catalog.operation_duration.with_label_values(&labels),
                    errors: possible_errors(operation)
                        .map(|error| {
                            let labels = [label, operation.as_str(), error.as_str()];
                            (error, catalog.operation_errors.with_label_values(&labels))
                        })
                        .collect(),
                    misses: can_miss(operation)
                        .then(|| catalog.operation_misses.with_label_values(&labels)),
                }
            }),
            kinds: KindLabel::ALL.map(|kind| {
                let labels = [label, kind.as_str()];
                KindSeries {
                    records: catalog.records.with_label_values(&labels),
                    bytes: catalog.record_bytes.with_label_values(&labels),
                    added: catalog.added_records.with_label_values(&labels),
                    removed: catalog.removed_records.with_label_values(&labels),
                    oldest_age: catalog.oldest_record_age.gauge.with_label_values(&labels),
                }
            }),
            messages: catalog.messages.series(label),
            in_progress: catalog.operations_in_progress.with_label_values(&[label]),
            value_size: catalog.value_size.with_label_values(&[label]),
            opened: catalog.opened.with_label_values(&[label]),
            restore_duration: catalog.restore_duration.with_label_values(&[label]),
        }
    }
}

fn can_miss(operation: OperationLabel) -> bool {
    matches!(operation, OperationLabel::Get | OperationLabel::Remove)
}

/// Returns the kinds of error that the call can return, so that no series exists that can never move.
fn possible_errors(operation: OperationLabel) -> impl Iterator<Item = ErrorKind> {
    use OperationLabel::{Close, ContainsKey, Get, Open, Put, Remove};
    ErrorKind::ALL
        .iter()
        .copied()
        .filter(move |error| match error {
            _ if operation == ContainsKey => false,
            ErrorKind::InvalidOption
            | ErrorKind::Registration
            | ErrorKind::Bind
            | ErrorKind::Render
            | ErrorKind::Full
            | ErrorKind::Broker
            | ErrorKind::File => false,
            ErrorKind::InvalidClientId => operation == Open,
            ErrorKind::InvalidKey => matches!(operation, Put | Get | Remove),
            ErrorKind::NotOpen => !matches!(operation, Open | Close),
            ErrorKind::NotFound | ErrorKind::Lost => operation == Get,
            ErrorKind::Damaged => operation == Put,
            _ => true,
        })
}

/// The share of one persistence in the series of its client.
///
/// Creates the series with the first share of a label and removes them with the last.
pub(crate) struct ClientSeriesGuard {
    catalog: Arc<MetricCatalog>,
    label: String,
    oldest: Arc<OldestTimes>,
    series: Arc<ClientSeries>,
}

impl ClientSeriesGuard {
    pub(super) fn new(catalog: Arc<MetricCatalog>, label: &str, store: &'static str) -> Self {
        let oldest = Arc::new(OldestTimes::default());
        let mut clients = catalog.client_table.lock();
        let label_series = match clients.entry(label.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(LabelSeries {
                series: Arc::new(ClientSeries::new(&catalog, label)),
                persistences: Vec::new(),
            }),
        };
        label_series.persistences.push((Arc::clone(&oldest), store));
        catalog
            .build_info
            .with_label_values(&build_info(label, store))
            .set(1);
        let series = Arc::clone(&label_series.series);
        drop(clients);
        Self {
            catalog,
            label: label.to_owned(),
            oldest,
            series,
        }
    }

    pub(crate) fn series(&self) -> &ClientSeries {
        &self.series
    }

    /// Sets the arrival time of the oldest record of the kind, or that there is none.
    pub(crate) fn set_oldest(&self, kind: KindLabel, since: Option<Duration>) {
        self.oldest.kind(kind).set(since);
    }
}

impl Drop for ClientSeriesGuard {
    fn drop(&mut self) {
        let Self {
            catalog,
            label,
            oldest,
            ..
        } = self;
        let mut clients = catalog.client_table.lock();
        let Some(label_series) = clients.get_mut(label) else {
            return;
        };
        // Persistences have no name of their own; they are identified by the address of their times.
        let is_own = |(other, _): &(Arc<OldestTimes>, _)| Arc::ptr_eq(other, oldest);
        let Some(own) = label_series.persistences.iter().position(is_own) else {
            return;
        };
        let (_, store) = label_series.persistences.swap_remove(own);
        // Two stores under one label have a `build_info` each.
        if !label_series
            .persistences
            .iter()
            .any(|(_, other)| *other == store)
        {
            remove_series(&catalog.build_info, &build_info(label, store));
        }
        if label_series.persistences.is_empty() {
            // Under the lock, so that a client that opens meanwhile does not lose its new series.
            clients.remove(label);
            catalog.remove_client_series(label);
        }
    }
}

fn build_info<'a>(label: &'a str, store: &'a str) -> [&'a str; 3] {
    [label, env!("CARGO_PKG_VERSION"), store]
}

impl MetricCatalog {
    /// Removes the series that [`ClientSeries::new`] created.
    fn remove_client_series(&self, label: &str) {
        for operation in OperationLabel::ALL {
            let labels = [label, operation.as_str()];
            remove_series(&self.operation_duration, &labels);
            for error in possible_errors(operation) {
                remove_series(
                    &self.operation_errors,
                    &[label, operation.as_str(), error.as_str()],
                );
            }
            if can_miss(operation) {
                remove_series(&self.operation_misses, &labels);
            }
        }
        for kind in KindLabel::ALL {
            let labels = [label, kind.as_str()];
            remove_series(&self.records, &labels);
            remove_series(&self.record_bytes, &labels);
            remove_series(&self.added_records, &labels);
            remove_series(&self.removed_records, &labels);
            remove_series(&self.oldest_record_age.gauge, &labels);
        }
        self.messages.remove_message_series(label);
        remove_series(&self.operations_in_progress, &[label]);
        remove_series(&self.value_size, &[label]);
        remove_series(&self.opened, &[label]);
        remove_series(&self.restore_duration, &[label]);
    }
}
