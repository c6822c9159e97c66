//! The series of each client, looked up once and alive as long as one of its persistences.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus::{
    Gauge, Histogram, IntCounter, IntGauge,
    core::{MetricVec, MetricVecBuilder},
};

use super::{Families, KindLabel, OperationLabel};
use crate::ErrorKind;

/// The series of one `client_id` label, which several persistences may share.
pub(crate) struct ClientSeries {
    operations: [OperationSeries; OperationLabel::ALL.len()],
    kinds: [KindSeries; KindLabel::ALL.len()],
    pub(crate) in_progress: IntGauge,
    pub(crate) value_size: Histogram,
    pub(crate) opened: Gauge,
    pub(crate) restore_duration: Gauge,
}

pub(crate) struct OperationSeries {
    pub(crate) duration: Histogram,
    /// One for each kind that the call can fail with.
    errors: Vec<(ErrorKind, IntCounter)>,
    /// Only get and remove can miss.
    pub(crate) misses: Option<IntCounter>,
}

impl OperationSeries {
    /// The counter of that kind, or of [`ErrorKind::Other`] where another's persistence answers
    /// with one that this call cannot fail with here.
    pub(crate) fn error(&self, kind: ErrorKind) -> Option<&IntCounter> {
        let of = |wanted| self.errors.iter().find(|(kind, _)| *kind == wanted);
        of(kind)
            .or_else(|| of(ErrorKind::Other))
            .map(|(_, counter)| counter)
    }
}

pub(crate) struct KindSeries {
    pub(crate) records: IntGauge,
    pub(crate) bytes: IntGauge,
    pub(crate) restored: IntGauge,
    pub(crate) added: IntCounter,
    pub(crate) removed: IntCounter,
    pub(super) oldest_age: Gauge,
}

impl ClientSeries {
    fn new(families: &Families, label: &str) -> Self {
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

    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    pub(crate) fn of_operation(&self, operation: OperationLabel) -> &OperationSeries {
        &self.operations[operation as usize]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    pub(crate) fn of_kind(&self, kind: KindLabel) -> &KindSeries {
        &self.kinds[kind as usize]
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

/// Since when the oldest record of each kind has been there, in one persistence.
struct Oldest([AtomicU64; KindLabel::ALL.len()]);

/// No record is there.
const NONE: u64 = u64::MAX;

impl Oldest {
    fn new() -> Self {
        Self([const { AtomicU64::new(NONE) }; KindLabel::ALL.len()])
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    fn of_kind(&self, kind: KindLabel) -> &AtomicU64 {
        &self.0[kind as usize]
    }
}

/// What one label stands for at the moment.
struct Shared {
    series: Arc<ClientSeries>,
    /// One for each persistence that is alive, with its store.
    persistences: Vec<(Arc<Oldest>, &'static str)>,
}

/// All clients with their series, by label.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<HashMap<String, Shared>>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls back for each client and kind with the moment since when its oldest record is there.
    pub(super) fn for_each_oldest(&self, mut each: impl FnMut(&KindSeriesAge<'_>)) {
        for shared in self.lock().values() {
            for kind in KindLabel::ALL {
                let since = shared
                    .persistences
                    .iter()
                    .map(|(oldest, _)| oldest.of_kind(kind).load(Ordering::Relaxed))
                    .min()
                    .filter(|since| *since != NONE);
                each(&KindSeriesAge {
                    gauge: &shared.series.of_kind(kind).oldest_age,
                    since: since.map(Duration::from_nanos),
                });
            }
        }
    }
}

/// One gauge of an age, and what it is computed from.
pub(super) struct KindSeriesAge<'a> {
    pub(super) gauge: &'a Gauge,
    pub(super) since: Option<Duration>,
}

/// One persistence's hold on the series of its client, which go when the last hold goes.
pub(crate) struct LiveSeries {
    families: Arc<Families>,
    label: String,
    oldest: Arc<Oldest>,
    series: Arc<ClientSeries>,
}

impl LiveSeries {
    pub(super) fn new(families: Arc<Families>, label: &str, store: &'static str) -> Self {
        let oldest = Arc::new(Oldest::new());
        let mut clients = families.clients.lock();
        let shared = match clients.entry(label.to_owned()) {
            Entry::Occupied(shared) => shared.into_mut(),
            Entry::Vacant(place) => place.insert(Shared {
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
        let nanos = since.map_or(NONE, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(NONE)
        });
        self.oldest.of_kind(kind).store(nanos, Ordering::Relaxed);
    }
}

impl Drop for LiveSeries {
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
        let is_own = |(other, _): &(Arc<Oldest>, _)| Arc::ptr_eq(other, oldest);
        let Some(own) = shared.persistences.iter().position(is_own) else {
            return;
        };
        let (_, store) = shared.persistences.swap_remove(own);
        if !shared.persistences.iter().any(|(_, other)| *other == store) {
            forget(&families.build_info, &build_info(label, store));
        }
        if shared.persistences.is_empty() {
            clients.remove(label);
            families.forget(label);
        }
    }
}

fn build_info<'a>(label: &'a str, store: &'a str) -> [&'a str; 3] {
    [label, env!("CARGO_PKG_VERSION"), store]
}

impl Families {
    /// Removes what [`ClientSeries::new`] made.
    fn forget(&self, label: &str) {
        for operation in OperationLabel::ALL {
            let labels = [label, operation.as_str()];
            forget(&self.operation_duration, &labels);
            for error in errors_of(operation) {
                forget(
                    &self.operation_errors,
                    &[label, operation.as_str(), error.as_str()],
                );
            }
            if can_miss(operation) {
                forget(&self.operation_misses, &labels);
            }
        }
        for kind in KindLabel::ALL {
            let labels = [label, kind.as_str()];
            forget(&self.records, &labels);
            forget(&self.record_bytes, &labels);
            forget(&self.restored_records, &labels);
            forget(&self.added_records, &labels);
            forget(&self.removed_records, &labels);
            forget(&self.oldest_record_age.gauge, &labels);
        }
        forget(&self.operations_in_progress, &[label]);
        forget(&self.value_size, &[label]);
        forget(&self.opened, &[label]);
        forget(&self.restore_duration, &[label]);
    }
}

pub(super) fn forget<T: MetricVecBuilder>(family: &MetricVec<T>, labels: &[&str]) {
    // It fails only where there is no such series, and that is what is wanted.
    drop(family.remove_label_values(labels));
}
