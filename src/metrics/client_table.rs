//! The series of each client, by label, and the age of its oldest records.

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
pub(crate) struct ClientSeries {
    pub(super) operations: [OperationSeries; OperationLabel::ALL.len()],
    pub(super) kinds: [KindSeries; KindLabel::ALL.len()],
    pub(crate) in_progress: IntGauge,
    pub(crate) value_size: Histogram,
    pub(crate) opened: Gauge,
    pub(crate) restore_duration: Gauge,
}

pub(crate) struct OperationSeries {
    pub(crate) duration: Histogram,
    /// One for each kind that the call can fail with.
    pub(super) errors: Vec<(ErrorKind, IntCounter)>,
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

/// Since when the oldest record of each kind has been there, in one persistence.
pub(super) struct OldestTimes([AtomicU64; KindLabel::ALL.len()]);

/// No record is there.
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

/// What one label stands for at the moment.
pub(super) struct LabelSeries {
    pub(super) series: Arc<ClientSeries>,
    /// One for each persistence that is alive, with its store.
    pub(super) persistences: Vec<(Arc<OldestTimes>, &'static str)>,
}

/// All clients with their series, by label.
#[derive(Clone, Default)]
pub(super) struct ClientTable(Arc<Mutex<HashMap<String, LabelSeries>>>);

impl ClientTable {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<String, LabelSeries>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls back for each client and kind with the moment since when its oldest record is there.
    pub(super) fn for_each_oldest(&self, mut each: impl FnMut(&OldestSample<'_>)) {
        for shared in self.lock().values() {
            for kind in KindLabel::ALL {
                let since = shared
                    .persistences
                    .iter()
                    .map(|(oldest, _)| oldest.kind(kind).load(Ordering::Relaxed))
                    .min()
                    .filter(|since| *since != NO_RECORD);
                each(&OldestSample {
                    gauge: &shared.series.kind(kind).oldest_age,
                    since: since.map(Duration::from_nanos),
                });
            }
        }
    }
}

/// One gauge of an age, and what it is computed from.
pub(super) struct OldestSample<'a> {
    pub(super) gauge: &'a Gauge,
    pub(super) since: Option<Duration>,
}

pub(super) fn remove_series<T: MetricVecBuilder>(family: &MetricVec<T>, labels: &[&str]) {
    // It fails only where there is no such series, and that is what is wanted.
    drop(family.remove_label_values(labels));
}
