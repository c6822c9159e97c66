//! [`SetAsideCatalog`]: the metrics of what is set aside.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, core::Collector};

use super::removal::remove_series;
use crate::store::{HealthSnapshot, Place, SetAsideLoss, StoreEvent};

/// The metrics of the quarantine and of what Paho dropped.
pub(super) struct SetAsideCatalog {
    records: IntGaugeVec,
    bytes: IntGaugeVec,
    added: IntCounterVec,
    lost: IntCounterVec,
}

impl SetAsideCatalog {
    pub(super) fn new(opts: impl Fn(&str, &str) -> Opts) -> prometheus::Result<Self> {
        let of_place = &["client_id", "place"];
        Ok(Self {
            records: IntGaugeVec::new(
                opts("store_set_aside_records", "Records that are set aside"),
                of_place,
            )?,
            bytes: IntGaugeVec::new(
                opts(
                    "store_set_aside_bytes",
                    "Size of records that are set aside, in bytes",
                ),
                of_place,
            )?,
            added: IntCounterVec::new(
                opts("store_set_asides_total", "Records that were set aside"),
                of_place,
            )?,
            lost: IntCounterVec::new(
                opts(
                    "store_set_aside_losses_total",
                    "Records that were set aside, or were to be, and are gone",
                ),
                &["client_id", "place", "reason"],
            )?,
        })
    }

    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 4] {
        [
            Box::new(self.records.clone()),
            Box::new(self.bytes.clone()),
            Box::new(self.added.clone()),
            Box::new(self.lost.clone()),
        ]
    }

    /// Creates the series of a label, at zero.
    pub(super) fn create_series(&self, label: &str) {
        for place in Place::BOTH {
            let of_place = [label, place.as_str()];
            self.records.with_label_values(&of_place);
            self.bytes.with_label_values(&of_place);
            self.added.with_label_values(&of_place);
        }
        for (place, reason) in possible_losses() {
            let labels = [label, place.as_str(), reason.as_str()];
            self.lost.with_label_values(&labels);
        }
    }

    /// Removes the series of a label.
    pub(super) fn remove_set_aside_series(&self, label: &str) {
        for place in Place::BOTH {
            let of_place = [label, place.as_str()];
            remove_series(&self.records, &of_place);
            remove_series(&self.bytes, &of_place);
            remove_series(&self.added, &of_place);
        }
        for (place, reason) in possible_losses() {
            remove_series(&self.lost, &[label, place.as_str(), reason.as_str()]);
        }
    }

    /// Counts an event of the label, if it is one of these metrics.
    pub(super) fn count(&self, label: &str, event: &StoreEvent) {
        match event {
            StoreEvent::SetAside { place, records } => {
                let added = self.added.with_label_values(&[label, place.as_str()]);
                added.inc_by(u64::try_from(*records).unwrap_or(u64::MAX));
            }
            StoreEvent::SetAsideLost {
                place,
                reason,
                records,
            } => {
                let labels = [label, place.as_str(), reason.as_str()];
                let lost = self.lost.with_label_values(&labels);
                lost.inc_by(u64::try_from(*records).unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }

    /// Adds the difference to the last status, so that the persistences of a label add up.
    pub(super) fn set_status(&self, label: &str, last: &HealthSnapshot, status: &HealthSnapshot) {
        for place in Place::BOTH {
            let totals = |status: &HealthSnapshot| match place {
                Place::Quarantine => [status.quarantined_records, status.quarantined_bytes],
                Place::Discarded => [status.discarded_records, status.discarded_bytes],
            };
            let (before, now) = (totals(last), totals(status));
            if before == now {
                continue;
            }
            for ((gauge, before), now) in [&self.records, &self.bytes]
                .into_iter()
                .zip(before)
                .zip(now)
            {
                let gauge = gauge.with_label_values(&[label, place.as_str()]);
                let to_gauge = |amount| i64::try_from(amount).unwrap_or(i64::MAX);
                gauge.add(to_gauge(now).saturating_sub(to_gauge(before)));
            }
        }
    }
}

/// Returns the pairs that can occur, so that no series exists that can never move.
fn possible_losses() -> impl Iterator<Item = (Place, SetAsideLoss)> {
    let pairs = Place::BOTH.into_iter().flat_map(|place| {
        let reasons = SetAsideLoss::ALL.iter();
        reasons.map(move |reason| (place, *reason))
    });
    pairs.filter(|pair| *pair != (Place::Quarantine, SetAsideLoss::Unreadable))
}
