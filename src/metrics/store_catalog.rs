//! The `store_` metrics: name, help and labels.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};

use super::{client_table::remove_series, labels::KindLabel};
use crate::error::ErrorKind;

/// Every metric whose name starts with `store_`.
pub(super) struct StoreCatalog {
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
    shared: Mutex<HashMap<String, LabelStores>>,
}

impl StoreCatalog {
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
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<String, LabelStores>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remove_store_series(&self, label: &str) {
        let of_client = [label];
        remove_series(&self.up, &of_client);
        remove_series(&self.changed, &of_client);
        remove_series(&self.reconnects, &of_client);
        remove_series(&self.reconnect_failures, &of_client);
        for error in store_error_kinds() {
            remove_series(&self.errors, &[label, error.as_str()]);
        }
        remove_series(&self.unconfirmed_records, &of_client);
        remove_series(&self.unconfirmed_bytes, &of_client);
        remove_series(&self.held_records, &of_client);
        remove_series(&self.held_bytes, &of_client);
        for kind in KindLabel::ALL {
            remove_series(&self.discarded, &[label, kind.as_str()]);
        }
        remove_series(&self.lost, &of_client);
        remove_series(&self.quarantined, &of_client);
        remove_series(&self.last_confirmed, &of_client);
    }
}

/// What a store can answer with.
pub(super) fn store_error_kinds() -> impl Iterator<Item = ErrorKind> {
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
pub(super) struct LabelStores {
    pub(super) persistences: usize,
    pub(super) down: usize,
}
