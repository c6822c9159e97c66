//! [`ClientShare`]: the share of one persistence in the series of its client.

use std::{
    collections::HashMap,
    mem,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use prometheus::{IntCounter, proto::MetricFamily};

use super::{
    family::{Families, FamilyOptions, HeldInfo},
    labels::{BuildLabels, KindLabel, OperationLabel},
    message_changes::MessageChanges,
    table::{CallFamilies, CallSeries, MessageFamilies, MessageSeries},
};
use crate::error::ErrorKind;

/// The families of what a persistence measures, and the clients that have series.
pub(super) struct ClientFamilies {
    pub(super) calls: CallFamilies,
    pub(super) messages: MessageFamilies,
    by_label: Mutex<HashMap<String, LabelSeries>>,
}

impl ClientFamilies {
    pub(super) fn create(options: &FamilyOptions) -> prometheus::Result<Self> {
        Ok(Self {
            calls: CallFamilies::create(options)?,
            messages: MessageFamilies::create(options)?,
            by_label: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, LabelSeries>> {
        // Counters and gauges are valid after a panic of any holder.
        self.by_label.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Collects the message families in one step.
    ///
    /// A scrape that read them one after the other would count a message that moves meanwhile twice, or not at all.
    pub(super) fn collect_messages(&self, is_lean: bool) -> Vec<MetricFamily> {
        // Held to the end, since another scrape that publishes meanwhile would move what this one still reads.
        let clients = self.lock();
        for client in clients.values() {
            client.publish_messages();
        }
        self.messages.collect(is_lean)
    }

    pub(super) fn collect_calls(&self, is_lean: bool, now: Duration) -> Vec<MetricFamily> {
        for client in self.lock().values() {
            client.publish_ages(now);
        }
        self.calls.collect(is_lean)
    }
}

/// The series of one `client_id` label, which several persistences may share.
///
/// Each series is looked up once, so that a call costs no lookup by label values.
pub(crate) struct ClientSeries {
    pub(crate) calls: CallSeries,
    messages: MessageSeries,
    /// The changes of `messages` since the last scrape.
    changes: Mutex<MessageChanges>,
}

impl ClientSeries {
    /// Returns the counter of the kind, or that of [`ErrorKind::Other`] if there is no such counter.
    ///
    /// A custom persistence may return a kind that this crate never returns from the call.
    pub(crate) fn error(&self, operation: OperationLabel, kind: ErrorKind) -> Option<&IntCounter> {
        let errors = &self.calls.operation_errors_total;
        let find = |kind| errors.get((operation, kind));
        find(kind).or_else(|| find(ErrorKind::Other))
    }

    /// Adds the changes of one call, of which the next scrape sees all.
    pub(crate) fn add_messages(&self, changes: &MessageChanges) {
        let mut sum = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        sum.add(changes);
    }
}

/// The series of one label and the persistences that use them.
struct LabelSeries {
    series: Arc<ClientSeries>,
    persistences: Vec<Arc<OldestTimes>>,
}

impl LabelSeries {
    /// Moves the changes since the last scrape to the series.
    fn publish_messages(&self) {
        let changes = {
            let changes = self.series.changes.lock();
            mem::take(&mut *changes.unwrap_or_else(PoisonError::into_inner))
        };
        self.series.messages.apply(&changes);
    }

    /// Sets the ages, which grow without any call.
    fn publish_ages(&self, now: Duration) {
        for kind in KindLabel::ALL {
            let times = self.persistences.iter();
            let oldest = times.filter_map(|times| times.kind(kind).get()).min();
            let age = oldest.map_or(Duration::ZERO, |since| now.saturating_sub(since));
            let gauges = &self.series.calls.oldest_record_age_seconds;
            gauges.of(kind).set(age.as_secs_f64());
        }
    }
}

/// The share of one persistence in the series of its client.
///
/// Creates the series with the first share of a label and removes them with the last.
pub(crate) struct ClientShare {
    families: Arc<ClientFamilies>,
    label: String,
    oldest: Arc<OldestTimes>,
    series: Arc<ClientSeries>,
    store: &'static str,
    /// Two stores under one label have a `build_info` each.
    build_info: HeldInfo,
}

impl ClientShare {
    pub(super) fn new(families: &Arc<ClientFamilies>, label: &str, store: &'static str) -> Self {
        let oldest = Arc::new(OldestTimes::default());
        let mut clients = families.lock();
        let client = clients
            .entry(label.to_owned())
            .or_insert_with(|| LabelSeries {
                series: Arc::new(ClientSeries {
                    calls: families.calls.series(label),
                    messages: families.messages.series(label),
                    changes: Mutex::default(),
                }),
                persistences: Vec::new(),
            });
        client.persistences.push(Arc::clone(&oldest));
        let series = Arc::clone(&client.series);
        drop(clients);
        let server = String::new();
        Self {
            build_info: series.calls.build_info.hold(&BuildLabels { store, server }),
            store,
            families: Arc::clone(families),
            label: label.to_owned(),
            oldest,
            series,
        }
    }

    /// Sets the server that `build_info` names.
    pub(crate) fn set_server(&mut self, server: &str) {
        let labels = BuildLabels {
            store: self.store,
            server: server.to_owned(),
        };
        self.build_info = self.series.calls.build_info.hold(&labels);
    }

    /// Sets the arrival time of the oldest record of the kind, or that there is none.
    pub(crate) fn set_oldest(&self, kind: KindLabel, since: Option<Duration>) {
        self.oldest.kind(kind).set(since);
    }
}

impl Deref for ClientShare {
    type Target = ClientSeries;

    fn deref(&self) -> &ClientSeries {
        &self.series
    }
}

impl Drop for ClientShare {
    fn drop(&mut self) {
        let Self {
            families,
            label,
            oldest,
            ..
        } = self;
        let mut clients = families.lock();
        let Some(client) = clients.get_mut(label) else {
            return;
        };
        // Persistences have no name of their own; they are identified by the address of their times.
        client
            .persistences
            .retain(|other| !Arc::ptr_eq(other, oldest));
        if client.persistences.is_empty() {
            // Under the lock, so that a client that opens meanwhile does not lose its new series.
            clients.remove(label);
            families.calls.remove(label);
            families.messages.remove(label);
        }
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
