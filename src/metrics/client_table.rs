//! The series of each client by label, and the arrival times of its oldest records.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

use super::{
    labels::{KindLabel, OperationLabel},
    message_series::MessageSeries,
};
use crate::error::ErrorKind;

/// The series of one `client_id` label, which several persistences may share.
///
/// Each series is looked up once, so that a call costs no lookup by label values.
pub(crate) struct ClientSeries {
    pub(super) operations: [OperationSeries; OperationLabel::ALL.len()],
    pub(super) kinds: [KindSeries; KindLabel::ALL.len()],
    pub(crate) messages: MessageSeries,
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

/// The arrival time of the oldest record of each kind in one persistence, since boot.
///
/// Atomics, so that a scrape never waits for a call, which may be waiting for the store.
#[derive(Default)]
pub(super) struct OldestTimes([OldestTime; KindLabel::ALL.len()]);

impl OldestTimes {
    #[expect(
        clippy::indexing_slicing,
        reason = "there is an element for each variant"
    )]
    pub(super) fn kind(&self, kind: KindLabel) -> &OldestTime {
        &self.0[kind as usize]
    }
}

/// The arrival time of the oldest record of one kind.
///
/// In two halves, since some 32-bit processors have no 64-bit atomics. A scrape that reads between the
/// writes of the halves is off by less than a second, once.
pub(super) struct OldestTime {
    seconds: AtomicU32,
    nanos: AtomicU32,
}

/// The seconds that stand for no record. As a time since boot it is more than a century.
const NO_RECORD: u32 = u32::MAX;

impl Default for OldestTime {
    fn default() -> Self {
        Self {
            seconds: AtomicU32::new(NO_RECORD),
            nanos: AtomicU32::new(0),
        }
    }
}

impl OldestTime {
    pub(super) fn set(&self, since: Option<Duration>) {
        let seconds = since.map_or(NO_RECORD, |since| {
            u32::try_from(since.as_secs()).unwrap_or(NO_RECORD)
        });
        self.seconds.store(seconds, Ordering::Relaxed);
        let nanos = since.unwrap_or_default().subsec_nanos();
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        let seconds = self.seconds.load(Ordering::Relaxed);
        let nanos = self.nanos.load(Ordering::Relaxed);
        (seconds != NO_RECORD).then(|| Duration::new(seconds.into(), nanos))
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
                    .filter_map(|(oldest, _)| oldest.kind(kind).get())
                    .min();
                on_sample(&OldestSample {
                    gauge: &label_series.series.kind(kind).oldest_age,
                    since,
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
