//! The series of each client, looked up once and alive as long as one of its persistences.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    catalog::MetricCatalog,
    client_table::{
        ClientSeries, KindSeries, LabelSeries, NO_RECORD, OldestTimes, OperationSeries,
        remove_series,
    },
    labels::{KindLabel, OperationLabel},
};
use crate::error::ErrorKind;

impl ClientSeries {
    fn new(families: &MetricCatalog, label: &str) -> Self {
        Self {
            operations: OperationLabel::ALL.map(|operation| {
                let labels = [label, operation.as_str()];
                OperationSeries {
                    duration: families.operation_duration.with_label_values(&labels),
                    errors: errors_of(operation)
                        .map(|error| {
                            let labels = [label, operation.as_str(), error.as_str()];
                            (error, families.operation_errors.with_label_values(&labels))
                        })
                        .collect(),
                    misses: can_miss(operation)
                        .then(|| families.operation_misses.with_label_values(&labels)),
                }
            }),
            kinds: KindLabel::ALL.map(|kind| {
                let labels = [label, kind.as_str()];
                KindSeries {
                    records: families.records.with_label_values(&labels),
                    bytes: families.record_bytes.with_label_values(&labels),
                    restored: families.restored_records.with_label_values(&labels),
                    added: families.added_records.with_label_values(&labels),
                    removed: families.removed_records.with_label_values(&labels),
                    oldest_age: families.oldest_record_age.gauge.with_label_values(&labels),
                }
            }),
            in_progress: families.operations_in_progress.with_label_values(&[label]),
            value_size: families.value_size.with_label_values(&[label]),
            opened: families.opened.with_label_values(&[label]),
            restore_duration: families.restore_duration.with_label_values(&[label]),
        }
    }
}

fn can_miss(operation: OperationLabel) -> bool {
    matches!(operation, OperationLabel::Get | OperationLabel::Remove)
}

/// The kinds that a call can fail with, so that no series exists that can never move.
fn errors_of(operation: OperationLabel) -> impl Iterator<Item = ErrorKind> {
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
            | ErrorKind::File => false,
            ErrorKind::InvalidClientId => operation == Open,
            ErrorKind::InvalidKey => matches!(operation, Put | Get | Remove),
            ErrorKind::NotOpen => !matches!(operation, Open | Close),
            ErrorKind::NotFound | ErrorKind::Lost => operation == Get,
            ErrorKind::Damaged => operation == Put,
            _ => true,
        })
}

/// One persistence's hold on the series of its client, which go when the last hold goes.
pub(crate) struct ClientSeriesGuard {
    families: Arc<MetricCatalog>,
    label: String,
    oldest: Arc<OldestTimes>,
    series: Arc<ClientSeries>,
}

impl ClientSeriesGuard {
    pub(super) fn new(families: Arc<MetricCatalog>, label: &str, store: &'static str) -> Self {
        let oldest = Arc::new(OldestTimes::new());
        let mut clients = families.clients.lock();
        let shared = match clients.entry(label.to_owned()) {
            Entry::Occupied(shared) => shared.into_mut(),
            Entry::Vacant(place) => place.insert(LabelSeries {
                series: Arc::new(ClientSeries::new(&families, label)),
                persistences: Vec::new(),
            }),
        };
        shared.persistences.push((Arc::clone(&oldest), store));
        families
            .build_info
            .with_label_values(&build_info(label, store))
            .set(1);
        let series = Arc::clone(&shared.series);
        drop(clients);
        Self {
            families,
            label: label.to_owned(),
            oldest,
            series,
        }
    }

    pub(crate) fn series(&self) -> &ClientSeries {
        &self.series
    }

    /// Notes since when the oldest record of that kind is there.
    pub(crate) fn set_oldest(&self, kind: KindLabel, since: Option<Duration>) {
        let nanos = since.map_or(NO_RECORD, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(NO_RECORD)
        });
        self.oldest.kind(kind).store(nanos, Ordering::Relaxed);
    }
}

impl Drop for ClientSeriesGuard {
    fn drop(&mut self) {
        let Self {
            families,
            label,
            oldest,
            ..
        } = self;
        let mut clients = families.clients.lock();
        let Some(shared) = clients.get_mut(label) else {
            return;
        };
        let is_own = |(other, _): &(Arc<OldestTimes>, _)| Arc::ptr_eq(other, oldest);
        let Some(own) = shared.persistences.iter().position(is_own) else {
            return;
        };
        let (_, store) = shared.persistences.swap_remove(own);
        if !shared.persistences.iter().any(|(_, other)| *other == store) {
            remove_series(&families.build_info, &build_info(label, store));
        }
        if shared.persistences.is_empty() {
            clients.remove(label);
            families.remove_client_series(label);
        }
    }
}

fn build_info<'a>(label: &'a str, store: &'a str) -> [&'a str; 3] {
    [label, env!("CARGO_PKG_VERSION"), store]
}

impl MetricCatalog {
    /// Removes what [`ClientSeries::new`] made.
    fn remove_client_series(&self, label: &str) {
        for operation in OperationLabel::ALL {
            let labels = [label, operation.as_str()];
            remove_series(&self.operation_duration, &labels);
            for error in errors_of(operation) {
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
            remove_series(&self.restored_records, &labels);
            remove_series(&self.added_records, &labels);
            remove_series(&self.removed_records, &labels);
            remove_series(&self.oldest_record_age.gauge, &labels);
        }
        remove_series(&self.operations_in_progress, &[label]);
        remove_series(&self.value_size, &[label]);
        remove_series(&self.opened, &[label]);
        remove_series(&self.restore_duration, &[label]);
    }
}
