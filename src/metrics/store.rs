//! The metrics of what only the store knows, which it tells as events.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::{Families, KindLabel, PersistenceMetrics, series::forget};
use crate::{ErrorKind, HealthSnapshot, StoreEvent, StoreObserver};

/// Every metric whose name starts with `store_`.
pub(super) struct StoreFamilies {
    pub(super) up: IntGaugeVec,
    pub(super) changed: GaugeVec,
    pub(super) reconnects: IntCounterVec,
    pub(super) reconnect_failures: IntCounterVec,
    pub(super) errors: IntCounterVec,
    pub(super) unconfirmed_records: IntGaugeVec,
    pub(super) unconfirmed_bytes: IntGaugeVec,
    pub(super) held_records: IntGaugeVec,
    pub(super) held_bytes: IntGaugeVec,
    pub(super) discarded: IntCounterVec,
    pub(super) lost: IntCounterVec,
    pub(super) quarantined: IntCounterVec,
    pub(super) last_confirmed: GaugeVec,
    /// By label.
    shared: Mutex<HashMap<String, Shared>>,
    /// By client id, those that the handle observes itself.
    observed: Mutex<HashMap<String, StoreSeries>>,
}

impl StoreFamilies {
    pub(super) fn new(opts: impl Fn(&str, &str) -> Opts) -> prometheus::Result<Self> {
        let of_client = &["client_id"];
        let counter = |name, help| IntCounterVec::new(opts(name, help), of_client);
        let gauge = |name, help| IntGaugeVec::new(opts(name, help), of_client);
        Ok(Self {
            up: gauge("store_up", "Whether the store can be used")?,
            changed: GaugeVec::new(
                opts(
                    "store_changed_timestamp_seconds",
                    "Since when the store can be used, or cannot, by the clock of the device",
                ),
                of_client,
            )?,
            reconnects: counter(
                "store_reconnects_total",
                "How often the store could be used again",
            )?,
            reconnect_failures: counter(
                "store_reconnect_failures_total",
                "Failed attempts to use the store again",
            )?,
            errors: IntCounterVec::new(
                opts(
                    "store_errors_total",
                    "Errors of the store that Paho was spared",
                ),
                &["client_id", "error"],
            )?,
            unconfirmed_records: gauge(
                "store_unconfirmed_records",
                "Records that were sent and not confirmed yet",
            )?,
            unconfirmed_bytes: gauge(
                "store_unconfirmed_bytes",
                "Size of the records that were sent and not confirmed yet",
            )?,
            held_records: gauge(
                "store_held_records",
                "Records held in memory since the store cannot be used",
            )?,
            held_bytes: gauge(
                "store_held_bytes",
                "Size of the records held in memory since the store cannot be used",
            )?,
            discarded: IntCounterVec::new(
                opts(
                    "store_discarded_records_total",
                    "Records in flight that Paho removed without an acknowledgement",
                ),
                &["client_id", "kind"],
            )?,
            lost: counter(
                "store_lost_records_total",
                "Records that the store lost and of which there was no copy",
            )?,
            quarantined: counter(
                "store_quarantined_records_total",
                "Unreadable records that were set aside at open",
            )?,
            last_confirmed: GaugeVec::new(
                opts(
                    "store_last_confirmed_timestamp_seconds",
                    "When the store was last known to have everything, by the clock of the device",
                ),
                of_client,
            )?,
            shared: Mutex::default(),
            observed: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Shared>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, label: &str) {
        let of_client = [label];
        forget(&self.up, &of_client);
        forget(&self.changed, &of_client);
        forget(&self.reconnects, &of_client);
        forget(&self.reconnect_failures, &of_client);
        for error in errors() {
            forget(&self.errors, &[label, error.as_str()]);
        }
        forget(&self.unconfirmed_records, &of_client);
        forget(&self.unconfirmed_bytes, &of_client);
        forget(&self.held_records, &of_client);
        forget(&self.held_bytes, &of_client);
        for kind in KindLabel::ALL {
            forget(&self.discarded, &[label, kind.as_str()]);
        }
        forget(&self.lost, &of_client);
        forget(&self.quarantined, &of_client);
        forget(&self.last_confirmed, &of_client);
    }
}

/// What a store can answer with.
fn errors() -> impl Iterator<Item = ErrorKind> {
    use ErrorKind::{
        Bind, Damaged, File, InvalidClientId, InvalidKey, InvalidOption, NotFound, NotOpen,
        Registration, Render,
    };
    ErrorKind::ALL.iter().copied().filter(|kind| {
        !matches!(
            kind,
            Bind | Damaged
                | File
                | InvalidClientId
                | InvalidKey
                | InvalidOption
                | NotFound
                | NotOpen
                | Registration
                | Render
        )
    })
}

/// What the persistences of one label have in common.
#[derive(Default)]
struct Shared {
    persistences: usize,
    down: usize,
}

/// The series of the store of one persistence, until it is dropped.
pub(crate) struct StoreSeries {
    families: Arc<Families>,
    label: String,
    is_down: bool,
    last: HealthSnapshot,
    up: IntGauge,
    changed: Gauge,
    reconnects: IntCounter,
    reconnect_failures: IntCounter,
    unconfirmed_records: IntGauge,
    unconfirmed_bytes: IntGauge,
    held_records: IntGauge,
    held_bytes: IntGauge,
    lost: IntCounter,
    quarantined: IntCounter,
    last_confirmed: Gauge,
}

impl StoreSeries {
    pub(super) fn new(families: Arc<Families>, label: &str) -> Self {
        let store = &families.store;
        let of_client = [label];
        let mut all = store.lock();
        // Under the lock, so that the end of another one does not take them away again.
        for error in errors() {
            store.errors.with_label_values(&[label, error.as_str()]);
        }
        for kind in KindLabel::ALL {
            store.discarded.with_label_values(&[label, kind.as_str()]);
        }
        let shared = all.entry(label.to_owned()).or_default();
        shared.persistences = shared.persistences.saturating_add(1);
        shared.down = shared.down.saturating_add(1);
        let (up, changed) = (
            store.up.with_label_values(&of_client),
            store.changed.with_label_values(&of_client),
        );
        if shared.persistences == 1 || up.get() == 1 {
            up.set(0);
            changed.set(seconds(SystemTime::now()));
        }
        drop(all);
        Self {
            label: label.to_owned(),
            is_down: true,
            last: HealthSnapshot::default(),
            up,
            changed,
            reconnects: store.reconnects.with_label_values(&of_client),
            reconnect_failures: store.reconnect_failures.with_label_values(&of_client),
            unconfirmed_records: store.unconfirmed_records.with_label_values(&of_client),
            unconfirmed_bytes: store.unconfirmed_bytes.with_label_values(&of_client),
            held_records: store.held_records.with_label_values(&of_client),
            held_bytes: store.held_bytes.with_label_values(&of_client),
            lost: store.lost.with_label_values(&of_client),
            quarantined: store.quarantined.with_label_values(&of_client),
            last_confirmed: store.last_confirmed.with_label_values(&of_client),
            families,
        }
    }

    fn tell(&mut self, event: &StoreEvent) {
        match event {
            StoreEvent::Opened { quarantined } => {
                self.set_down(false);
                self.quarantined.inc_by(count(*quarantined));
            }
            StoreEvent::Down { error } => {
                self.set_down(true);
                self.count_error(error.kind());
            }
            StoreEvent::StillDown { error, .. } => {
                self.reconnect_failures.inc();
                self.count_error(error.kind());
            }
            StoreEvent::Up { .. } => {
                self.set_down(false);
                self.reconnects.inc();
            }
            StoreEvent::Lost { records } => self.lost.inc_by(count(*records)),
            StoreEvent::Discarded { kind, records } => self
                .families
                .store
                .discarded
                .with_label_values(&[self.label.as_str(), kind])
                .inc_by(count(*records)),
            // It says too whether the store can be used: what told of that can have come before the
            // end of an earlier opening, or not have been told.
            StoreEvent::Status(status) => {
                self.set_down(!status.up);
                self.set(*status);
            }
            StoreEvent::Closed => {
                self.set_down(true);
                self.set(HealthSnapshot {
                    last_confirmed: self.last.last_confirmed,
                    ..HealthSnapshot::default()
                });
            }
            _ => {}
        }
    }

    fn count_error(&self, kind: ErrorKind) {
        let errors = &self.families.store.errors;
        errors
            .with_label_values(&[self.label.as_str(), kind.as_str()])
            .inc();
    }

    /// With another persistence under the same label, all must be up for it to be.
    fn set_down(&mut self, is_down: bool) {
        if self.is_down == is_down {
            return;
        }
        self.is_down = is_down;
        let mut all = self.families.store.lock();
        if let Some(shared) = all.get_mut(&self.label) {
            shared.down = if is_down {
                shared.down.saturating_add(1)
            } else {
                shared.down.saturating_sub(1)
            };
            self.show(shared);
        }
    }

    /// Under the lock of what is shared.
    fn show(&self, shared: &Shared) {
        let up = i64::from(shared.down == 0);
        if self.up.get() != up {
            self.up.set(up);
            self.changed.set(seconds(SystemTime::now()));
        }
    }

    /// What others under the same label have adds up.
    fn set(&mut self, status: HealthSnapshot) {
        for (gauge, before, now) in [
            (
                &self.unconfirmed_records,
                self.last.unconfirmed_records,
                status.unconfirmed_records,
            ),
            (
                &self.unconfirmed_bytes,
                self.last.unconfirmed_bytes,
                status.unconfirmed_bytes,
            ),
            (
                &self.held_records,
                self.last.held_records,
                status.held_records,
            ),
            (&self.held_bytes, self.last.held_bytes, status.held_bytes),
        ] {
            gauge.add(signed(now).saturating_sub(signed(before)));
        }
        if let Some(at) = status.last_confirmed {
            self.last_confirmed.set(seconds(at));
        }
        self.last = status;
    }
}

impl Drop for StoreSeries {
    fn drop(&mut self) {
        self.tell(&StoreEvent::Closed);
        let mut all = self.families.store.lock();
        let Some(shared) = all.get_mut(&self.label) else {
            return;
        };
        shared.persistences = shared.persistences.saturating_sub(1);
        shared.down = shared.down.saturating_sub(1);
        self.show(shared);
        if shared.persistences == 0 {
            all.remove(&self.label);
            self.families.store.forget(&self.label);
        }
    }
}

/// Brings the events of a persistence to the series of the label that it is measured under.
#[derive(Default)]
pub(crate) struct StoreWire(Mutex<Option<StoreSeries>>);

impl StoreWire {
    /// From now on, and until it is cut.
    pub(crate) fn connect(&self, series: StoreSeries) {
        *self.lock() = Some(series);
    }

    pub(crate) fn cut(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<StoreSeries>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreObserver for StoreWire {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if let Some(series) = &mut *self.lock() {
            series.tell(event);
        }
    }
}

/// For a persistence that is not measured by [`Persistence::instrument`](crate::Persistence::instrument),
/// which sees to it by itself. The series are there, under the client's id, while it is open.
impl StoreObserver for PersistenceMetrics {
    fn on_event(&self, client_id: &str, event: &StoreEvent) {
        let observed = &self.0.store.observed;
        let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(event, StoreEvent::Closed) {
            observed.remove(client_id);
        } else {
            observed
                .entry(client_id.to_owned())
                .or_insert_with(|| self.store(client_id))
                .tell(event);
        }
    }
}

fn count(records: usize) -> u64 {
    u64::try_from(records).unwrap_or(u64::MAX)
}

fn signed(amount: usize) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
