//! [`StoreSeries`]: the `store_` series of one persistence, updated from its `StoreEvent`s.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{Gauge, IntCounter, IntGauge};

use super::{
    catalog::MetricCatalog,
    store_catalog::{LabelStores, store_error_kinds},
};
use crate::{
    error::ErrorKind,
    persistence::StoreObserver,
    store::{HealthSnapshot, StoreEvent},
};

/// The share of one persistence in the store series of its label.
///
/// Removes the series when the last share of the label is dropped.
pub(crate) struct StoreSeries {
    catalog: Arc<MetricCatalog>,
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
    waiting_bytes: IntGauge,
    queued_messages: IntGauge,
    limit_messages: IntGauge,
    limit_bytes: IntGauge,
    earlier_records: IntGauge,
    poison_suspects: IntGauge,
    lost: IntCounter,
    quarantined: IntCounter,
    last_confirmed: Gauge,
}

impl StoreSeries {
    pub(super) fn new(catalog: Arc<MetricCatalog>, label: &str) -> Self {
        let store = &catalog.store;
        let of_client = [label];
        let mut by_label = store.lock();
        // Under the lock, so that the last share of another persistence does not remove them again.
        for error in store_error_kinds() {
            store.errors.with_label_values(&[label, error.as_str()]);
        }
        store.set_aside.create_series(label);
        let stores = by_label.entry(label.to_owned()).or_default();
        stores.persistences = stores.persistences.saturating_add(1);
        stores.down = stores.down.saturating_add(1);
        let (up, changed) = (
            store.up.with_label_values(&of_client),
            store.changed.with_label_values(&of_client),
        );
        // A store counts as down until its first event. `changed` moves only with `up`.
        if stores.persistences == 1 || up.get() == 1 {
            up.set(0);
            changed.set(unix_seconds(SystemTime::now()));
        }
        drop(by_label);
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
            waiting_bytes: store.waiting_bytes.with_label_values(&of_client),
            queued_messages: store.queued_messages.with_label_values(&of_client),
            limit_messages: store.limit_messages.with_label_values(&of_client),
            limit_bytes: store.limit_bytes.with_label_values(&of_client),
            earlier_records: store.earlier_records.with_label_values(&of_client),
            poison_suspects: store.poison_suspects.with_label_values(&of_client),
            lost: store.lost.with_label_values(&of_client),
            quarantined: store.quarantined.with_label_values(&of_client),
            last_confirmed: store.last_confirmed.with_label_values(&of_client),
            catalog,
        }
    }

    /// Updates the series from an event.
    pub(super) fn apply(&mut self, event: &StoreEvent) {
        self.catalog.store.set_aside.count(&self.label, event);
        match event {
            StoreEvent::Opened { quarantined } => {
                self.set_down(false);
                self.quarantined.inc_by(to_counter(*quarantined));
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
            StoreEvent::ForeignRecords {
                records,
                removed: true,
            } => self.quarantined.inc_by(to_counter(*records)),
            StoreEvent::Lost { records } => self.lost.inc_by(to_counter(*records)),
            // The status has `up` too: an earlier `Up` or `Down` may have been dropped, or have come
            // before the end of the previous opening.
            StoreEvent::Status(status) => {
                self.set_down(!status.up);
                self.set_status(*status);
            }
            StoreEvent::Closed => {
                self.set_down(true);
                // A closed store has nothing held; the time of the last confirmation stays true.
                self.set_status(HealthSnapshot {
                    last_confirmed: self.last.last_confirmed,
                    ..HealthSnapshot::default()
                });
            }
            _ => {}
        }
    }

    fn count_error(&self, kind: ErrorKind) {
        let errors = &self.catalog.store.errors;
        errors
            .with_label_values(&[self.label.as_str(), kind.as_str()])
            .inc();
    }

    /// Sets the state of this persistence. The label is up if all of its persistences are.
    fn set_down(&mut self, is_down: bool) {
        if self.is_down == is_down {
            return;
        }
        self.is_down = is_down;
        let mut by_label = self.catalog.store.lock();
        if let Some(stores) = by_label.get_mut(&self.label) {
            stores.down = if is_down {
                stores.down.saturating_add(1)
            } else {
                stores.down.saturating_sub(1)
            };
            self.publish_up(stores);
        }
    }

    /// Publishes `store_up` of the label. The caller holds the lock, so that `changed` matches `up`.
    fn publish_up(&self, stores: &LabelStores) {
        let up = i64::from(stores.down == 0);
        if self.up.get() != up {
            self.up.set(up);
            self.changed.set(unix_seconds(SystemTime::now()));
        }
    }

    /// Adds the difference to the last status, so that the persistences of a label add up.
    fn set_status(&mut self, status: HealthSnapshot) {
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
            (
                &self.waiting_bytes,
                self.last.waiting_bytes,
                status.waiting_bytes,
            ),
            (
                &self.queued_messages,
                self.last.queued_messages,
                status.queued_messages,
            ),
            (
                &self.limit_messages,
                self.last.limit_messages.unwrap_or_default(),
                status.limit_messages.unwrap_or_default(),
            ),
            (
                &self.limit_bytes,
                self.last.limit_bytes.unwrap_or_default(),
                status.limit_bytes.unwrap_or_default(),
            ),
            (
                &self.earlier_records,
                self.last.earlier_records,
                status.earlier_records,
            ),
            (
                &self.poison_suspects,
                self.last.poison_suspects,
                status.poison_suspects,
            ),
        ] {
            gauge.add(to_gauge(now).saturating_sub(to_gauge(before)));
        }
        let set_aside = &self.catalog.store.set_aside;
        set_aside.set_status(&self.label, &self.last, &status);
        if let Some(at) = status.last_confirmed {
            self.last_confirmed.set(unix_seconds(at));
        }
        self.last = status;
    }
}

impl Drop for StoreSeries {
    fn drop(&mut self) {
        self.apply(&StoreEvent::Closed);
        let mut by_label = self.catalog.store.lock();
        let Some(stores) = by_label.get_mut(&self.label) else {
            return;
        };
        stores.persistences = stores.persistences.saturating_sub(1);
        stores.down = stores.down.saturating_sub(1);
        self.publish_up(stores);
        if stores.persistences == 0 {
            by_label.remove(&self.label);
            self.catalog.store.remove_store_series(&self.label);
        }
    }
}

/// An observer that passes the events of a persistence to the series of its label.
///
/// It is empty before the first open, when the label is not known yet, and after a detach.
#[derive(Default)]
pub(crate) struct StoreMetricsObserver(Mutex<Option<StoreSeries>>);

impl StoreMetricsObserver {
    /// Directs events to these series, until the next `attach` or `detach`.
    pub(crate) fn attach(&self, series: StoreSeries) {
        *self.lock() = Some(series);
    }

    /// Drops the series; later events are ignored.
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

fn to_counter(records: usize) -> u64 {
    u64::try_from(records).unwrap_or(u64::MAX)
}

fn to_gauge(amount: usize) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
