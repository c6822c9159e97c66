//! The series of each client by label, and the arrival times of its oldest records.

use std::{
    collections::HashMap,
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

use super::labels::{KindLabel, OperationLabel};
use crate::error::ErrorKind;

/// The series of one `client_id` label, which several persistences may share.
///
/// Each series is looked up once, so that a call costs no lookup by label values.
pub(crate) struct ClientSeries {
    pub(super) operations: [OperationSeries; OperationLabel::ALL.len()],
    pub(super) kinds: [KindSeries; KindLabel::ALL.len()],
    pub(crate) in_progress: IntGauge,
    pub(crate) value_size: Histogram,
    pub(crate) opened: Gauge,
    pub(crate) restore_duration: Gauge,
}

/// The series of one operation of a client.
pub(crate) struct OperationSeries {
    pub(crate) duration: Histogram,
    /// One counter per kind of error that the call can return.
    pub(super) errors: Vec<(ErrorKind, IntCounter)>,
    /// Present for `get` and `remove`; no other call can miss.
    pub(crate) misses: Option<IntCounter>,
}

impl OperationSeries {
    /// Returns the counter of the kind, or that of [`ErrorKind::Other`] if there is no such counter.
    ///
    /// A custom persistence may return a kind that this crate never returns from the call.
    pub(crate) fn error(&self, kind: ErrorKind) -> Option<&IntCounter> {
        let find = |wanted| self.errors.iter().find(|(kind, _)| *kind == wanted);
        find(kind)
            .or_else(|| find(ErrorKind::Other))
            .map(|(_, counter)| counter)
    }
}

/// The series of one kind of record of a client.
pub(crate) struct KindSeries {
    pub(crate) records: IntGauge,
    pub(crate) bytes: IntGauge,
    pub(crate) restored: IntGauge,
    pub(crate) added: IntCounter,
    pub(crate) removed: IntCounter,
    pub(super) oldest_age: Gauge,
}

impl ClientSeries {
    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    pub(crate) fn operation(&self, operation: OperationLabel) -> &OperationSeries {
        &self.operations[operation as usize]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    pub(crate) fn kind(&self, kind: KindLabel) -> &KindSeries {
        &self.kinds[kind as usize]
    }
}

/// The arrival time of the oldest record of each kind in one persistence, in nanoseconds since boot.
///
/// Atomics, so that a scrape never waits for a call, which may be waiting for the store.
pub(super) struct OldestTimes([AtomicU64; KindLabel::ALL.len()]);

/// The time that stands for a kind without records. It is the largest, so that `min` ignores it.
pub(super) const NO_RECORD: u64 = u64::MAX;

impl OldestTimes {
    pub(super) fn new() -> Self {
        Self([const { AtomicU64::new(NO_RECORD) }; KindLabel::ALL.len()])
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    pub(super) fn kind(&self, kind: KindLabel) -> &AtomicU64 {
        &self.0[kind as usize]
    }
}

/// The series of one label and the persistences that use them.
pub(super) struct LabelSeries {
    pub(super) series: Arc<ClientSeries>,
    /// The oldest times and the store name of each live persistence.
    pub(super) persistences: Vec<(Arc<OldestTimes>, &'static str)>,
}

/// The series of all clients, by label.
#[derive(Clone, Default)]
pub(super) struct ClientTable(Arc<Mutex<HashMap<String, LabelSeries>>>);

impl ClientTable {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<String, LabelSeries>> {
        // Counters and gauges are valid after a panic of any holder.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `on_sample` for each client and kind with the arrival time of the oldest record.
    pub(super) fn for_each_oldest(&self, mut on_sample: impl FnMut(&OldestSample<'_>)) {
        for label_series in self.lock().values() {
            for kind in KindLabel::ALL {
                let since = label_series
                    .persistences
                    .iter()
                    .map(|(oldest, _)| oldest.kind(kind).load(Ordering::Relaxed))
                    .min()
                    .filter(|since| *since != NO_RECORD);
                on_sample(&OldestSample {
                    gauge: &label_series.series.kind(kind).oldest_age,
                    since: since.map(Duration::from_nanos),
                });
            }
        }
    }
}

/// One age gauge and the arrival time that its value is computed from.
pub(super) struct OldestSample<'a> {
    pub(super) gauge: &'a Gauge,
    pub(super) since: Option<Duration>,
}

/// Removes the series with these label values, if it exists.
pub(super) fn remove_series<T: MetricVecBuilder>(family: &MetricVec<T>, labels: &[&str]) {
    // The only error is that the series does not exist, which is the wanted state.
    drop(family.remove_label_values(labels));
}
