//! [`StoreCatalog`]: the `store_` metrics with their names, help and labels.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts};

use super::{removal::remove_series, set_aside_catalog::SetAsideCatalog};
use crate::error::ErrorKind;

/// The metrics of what only the store knows, which `StoreEvent`s feed.
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
    pub(super) waiting_bytes: IntGaugeVec,
    pub(super) queued_messages: IntGaugeVec,
    pub(super) limit_messages: IntGaugeVec,
    pub(super) limit_bytes: IntGaugeVec,
    pub(super) earlier_records: IntGaugeVec,
    pub(super) poison_suspects: IntGaugeVec,
    pub(super) lost: IntCounterVec,
    pub(super) quarantined: IntCounterVec,
    pub(super) last_confirmed: GaugeVec,
    pub(super) set_aside: SetAsideCatalog,
    by_label: Mutex<HashMap<String, LabelStores>>,
}

impl StoreCatalog {
    pub(super) fn new(opts: impl Fn(&str, &str) -> Opts) -> prometheus::Result<Self> {
        let of_client = &["client_id"];
        let counter = |name, help| IntCounterVec::new(opts(name, help), of_client);
        let gauge = |name, help| IntGaugeVec::new(opts(name, help), of_client);
        Ok(Self {
            up: gauge("store_up", "Store is available (1) or unavailable (0)")?,
            changed: GaugeVec::new(
                opts(
                    "store_changed_timestamp_seconds",
                    "Unix time of the last change of store_up, by the device's clock",
                ),
                of_client,
            )?,
            reconnects: counter(
                "store_reconnects_total",
                "Recoveries of the store after an outage",
            )?,
            reconnect_failures: counter(
                "store_reconnect_failures_total",
                "Failed recovery attempts",
            )?,
            errors: IntCounterVec::new(
                opts(
                    "store_errors_total",
                    "Store errors that were not passed to Paho",
                ),
                &["client_id", "error"],
            )?,
            unconfirmed_records: gauge(
                "store_unconfirmed_records",
                "Records sent but not yet confirmed",
            )?,
            unconfirmed_bytes: gauge(
                "store_unconfirmed_bytes",
                "Size of records sent but not yet confirmed, in bytes",
            )?,
            held_records: gauge(
                "store_held_records",
                "Records only in memory because the store is unavailable or refuses them",
            )?,
            held_bytes: gauge(
                "store_held_bytes",
                "Size of records only in memory because the store is unavailable or refuses them, in bytes",
            )?,
            waiting_bytes: gauge(
                "store_waiting_bytes",
                "Size of the records of all waiting messages, in bytes",
            )?,
            queued_messages: gauge(
                "store_queued_messages",
                "Waiting messages that Paho has not sent yet",
            )?,
            limit_messages: gauge(
                "store_limit_messages",
                "Messages that Paho buffers at most; 0 if not set",
            )?,
            limit_bytes: gauge(
                "store_limit_bytes",
                "Limit of store_waiting_bytes, in bytes; 0 if not set",
            )?,
            earlier_records: gauge(
                "store_earlier_records",
                "Records of an earlier run that wait for the next start",
            )?,
            poison_suspects: gauge(
                "store_poison_suspects",
                "Messages in flight that were sent on more connections than max_sends",
            )?,
            lost: counter(
                "store_lost_records_total",
                "Records lost by the store without a copy in memory",
            )?,
            quarantined: counter(
                "store_quarantined_records_total",
                "Records quarantined: unreadable at open, or unknown when the store came back",
            )?,
            last_confirmed: GaugeVec::new(
                opts(
                    "store_last_confirmed_timestamp_seconds",
                    "Unix time at which the store last had every record, by the device's clock",
                ),
                of_client,
            )?,
            set_aside: SetAsideCatalog::new(&opts)?,
            by_label: Mutex::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<String, LabelStores>> {
        // The counts are plain integers, which no panic leaves half written.
        self.by_label.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes every store series of the label. The caller holds the lock.
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
        remove_series(&self.waiting_bytes, &of_client);
        remove_series(&self.queued_messages, &of_client);
        remove_series(&self.limit_messages, &of_client);
        remove_series(&self.limit_bytes, &of_client);
        remove_series(&self.earlier_records, &of_client);
        remove_series(&self.poison_suspects, &of_client);
        remove_series(&self.lost, &of_client);
        remove_series(&self.quarantined, &of_client);
        remove_series(&self.last_confirmed, &of_client);
        self.set_aside.remove_set_aside_series(label);
    }
}

/// Returns the kinds of error that a store can return, so that no series exists that can never move.
pub(super) fn store_error_kinds() -> impl Iterator<Item = ErrorKind> {
    use ErrorKind::{
        Bind, Broker, Damaged, File, Full, InvalidClientId, InvalidKey, InvalidOption, NotFound,
        NotOpen, Registration, Render,
    };
    ErrorKind::ALL.iter().copied().filter(|kind| {
        !matches!(
            kind,
            Bind | Broker
                | Damaged
                | File
                | Full
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

/// The numbers of persistences that share one label, and of those whose store is down.
#[derive(Default)]
pub(super) struct LabelStores {
    pub(super) persistences: usize,
    pub(super) down: usize,
}
