//! [`StoreShare`]: the share of one persistence in the `store_` series of its label, updated from its `StoreEvent`s.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use prometheus::IntGauge;

use super::{
    clock::unix_seconds,
    family::HeldInfo,
    share::{Share, SharedFamilies},
    table::StoreFamilies,
};
use crate::{
    error::ErrorKind,
    persistence::StoreObserver,
    store::{
        HealthSnapshot,
        Place::{Discarded, Quarantine},
        StoreEvent,
    },
};

/// A number of a status that a gauge shows.
type Amount = fn(&HealthSnapshot) -> usize;

/// The share of one persistence in the store series of its label.
pub(crate) struct StoreShare {
    share: Share<StoreFamilies>,
    down_info: Option<HeldInfo>,
    last: HealthSnapshot,
}

impl StoreShare {
    pub(super) fn new(shared: &Arc<SharedFamilies<StoreFamilies>>, label: &str) -> Self {
        Self {
            share: Share::new(shared, label),
            down_info: None,
            last: HealthSnapshot::default(),
        }
    }

    /// Updates the series from an event.
    pub(super) fn apply(&mut self, event: &StoreEvent) {
        let series = &self.share.series;
        match event {
            StoreEvent::Opened { quarantined } => {
                let quarantined = to_counter(*quarantined);
                series.store_quarantined_records_total.inc_by(quarantined);
                self.set_up(true);
            }
            StoreEvent::Down { error } => {
                self.set_up(false);
                self.count_error(error.kind());
            }
            StoreEvent::StillDown { error, .. } => {
                series.store_reconnect_failures_total.inc();
                self.count_error(error.kind());
            }
            StoreEvent::Up { .. } => {
                series.store_reconnects_total.inc();
                self.set_up(true);
            }
            StoreEvent::ForeignRecords {
                records,
                removed: true,
            } => {
                let records = to_counter(*records);
                series.store_quarantined_records_total.inc_by(records);
            }
            StoreEvent::Lost { records } => {
                let records = to_counter(*records);
                series.store_lost_records_total.inc_by(records);
            }
            StoreEvent::SetAside { place, records } => {
                series
                    .store_set_asides_total
                    .of(*place)
                    .inc_by(to_counter(*records));
            }
            StoreEvent::SetAsideLost {
                place,
                reason,
                records,
            } => {
                let losses = &series.store_set_aside_losses_total;
                if let Some(losses) = losses.get((*place, *reason)) {
                    losses.inc_by(to_counter(*records));
                }
            }
            // The status has `up` too: an earlier `Up` or `Down` may have been dropped, or have come
            // before the end of the previous opening.
            StoreEvent::Status(status) => {
                self.set_up(status.up);
                self.set_status(*status);
            }
            StoreEvent::Closed => {
                self.set_up(false);
                self.down_info = None;
                // A closed store has nothing held; the time of the last confirmation stays true.
                self.set_status(HealthSnapshot {
                    last_confirmed: self.last.last_confirmed,
                    ..HealthSnapshot::default()
                });
            }
            _ => {}
        }
    }

    /// Counts an error. A custom store may return a kind that no store of this crate returns.
    fn count_error(&mut self, kind: ErrorKind) {
        // An earlier opening may report late that it is down.
        if !self.share.is_up() {
            self.down_info = Some(self.share.series.store_down_info.hold(&kind));
        }
        let errors = &self.share.series.store_errors_total;
        if let Some(errors) = errors.get(kind).or_else(|| errors.get(ErrorKind::Other)) {
            errors.inc();
        }
    }

    /// Sets the state of this persistence. The label is up if all of its persistences are.
    fn set_up(&mut self, is_up: bool) {
        self.down_info.take_if(|_| is_up);
        self.share.set_up(is_up, SystemTime::now());
    }

    /// Adds the difference to the last status, so that the persistences of a label add up.
    fn set_status(&mut self, status: HealthSnapshot) {
        let series = &self.share.series;
        let gauges: [(&IntGauge, Amount); 14] = [
            (&series.store_unconfirmed_records, |of| {
                of.unconfirmed_records
            }),
            (&series.store_unconfirmed_bytes, |of| of.unconfirmed_bytes),
            (&series.store_held_records, |of| of.held_records),
            (&series.store_held_bytes, |of| of.held_bytes),
            (&series.store_waiting_bytes, |of| of.waiting_bytes),
            (&series.store_queued_messages, |of| of.queued_messages),
            (&series.store_limit_messages, |of| {
                of.limit_messages.unwrap_or_default()
            }),
            (&series.store_limit_bytes, |of| {
                of.limit_bytes.unwrap_or_default()
            }),
            (&series.store_earlier_records, |of| of.earlier_records),
            (&series.store_poison_suspects, |of| of.poison_suspects),
            (series.store_set_aside_records.of(Quarantine), |of| {
                of.quarantined_records
            }),
            (series.store_set_aside_bytes.of(Quarantine), |of| {
                of.quarantined_bytes
            }),
            (series.store_set_aside_records.of(Discarded), |of| {
                of.discarded_records
            }),
            (series.store_set_aside_bytes.of(Discarded), |of| {
                of.discarded_bytes
            }),
        ];
        for (gauge, amount) in gauges {
            let change = to_gauge(amount(&status)).saturating_sub(to_gauge(amount(&self.last)));
            gauge.add(change);
        }
        if let Some(at) = status.last_confirmed {
            let confirmed = &series.store_last_confirmed_timestamp_seconds;
            confirmed.set(unix_seconds(at));
        }
        self.last = status;
    }
}

impl Drop for StoreShare {
    fn drop(&mut self) {
        self.apply(&StoreEvent::Closed);
    }
}

/// An observer that passes the events of a persistence to the series of its label.
///
/// It is empty before the first open, when the label is not known yet, and after a detach.
#[derive(Default)]
pub(crate) struct StoreMetricsObserver(Mutex<Option<StoreShare>>);

impl StoreMetricsObserver {
    /// Directs events to these series, until the next `attach` or `detach`.
    pub(crate) fn attach(&self, share: StoreShare) {
        *self.lock() = Some(share);
    }

    /// Drops the series; later events are ignored.
    pub(crate) fn detach(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<StoreShare>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreObserver for StoreMetricsObserver {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        if let Some(share) = &mut *self.lock() {
            share.apply(event);
        }
    }
}

fn to_counter(records: usize) -> u64 {
    u64::try_from(records).unwrap_or(u64::MAX)
}

fn to_gauge(amount: usize) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
