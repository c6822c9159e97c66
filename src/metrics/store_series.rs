//! The metrics of what only the store knows, which it tells as events.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{Gauge, IntCounter, IntGauge};

use super::{
    catalog::MetricCatalog,
    labels::KindLabel,
    store_catalog::{LabelStores, store_error_kinds},
};
use crate::{
    error::ErrorKind,
    persistence::StoreObserver,
    store::{HealthSnapshot, StoreEvent},
};

/// The series of the store of one persistence, until it is dropped.
pub(crate) struct StoreSeries {
    families: Arc<MetricCatalog>,
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
    pub(super) fn new(families: Arc<MetricCatalog>, label: &str) -> Self {
        let store = &families.store;
        let of_client = [label];
        let mut all = store.lock();
        // Under the lock, so that the end of another one does not take them away again.
        for error in store_error_kinds() {
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

    pub(super) fn apply(&mut self, event: &StoreEvent) {
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
    fn show(&self, shared: &LabelStores) {
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
        self.apply(&StoreEvent::Closed);
        let mut all = self.families.store.lock();
        let Some(shared) = all.get_mut(&self.label) else {
            return;
        };
        shared.persistences = shared.persistences.saturating_sub(1);
        shared.down = shared.down.saturating_sub(1);
        self.show(shared);
        if shared.persistences == 0 {
            all.remove(&self.label);
            self.families.store.remove_store_series(&self.label);
        }
    }
}

/// Brings the events of a persistence to the series of the label that it is measured under.
#[derive(Default)]
pub(crate) struct StoreMetricsObserver(Mutex<Option<StoreSeries>>);

impl StoreMetricsObserver {
    /// From now on, and until it is cut.
    pub(crate) fn attach(&self, series: StoreSeries) {
        *self.lock() = Some(series);
    }

    pub(crate) fn detach(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<StoreSeries>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreObserver for StoreMetricsObserver {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if let Some(series) = &mut *self.lock() {
            series.apply(event);
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
