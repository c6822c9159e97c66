//! [`ConnectionCatalog`]: the metrics of the connection to the broker, for [`Client`](crate::Client).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, core::Collector};

use super::removal::remove_series;

/// The metrics of what only the client knows.
pub(super) struct ConnectionCatalog {
    pub(super) up: IntGaugeVec,
    pub(super) changed: GaugeVec,
    pub(super) next_attempt: GaugeVec,
    pub(super) connections: IntCounterVec,
    pub(super) failed_attempts: IntCounterVec,
    pub(super) refused: IntCounterVec,
    by_label: Mutex<HashMap<String, LabelConnections>>,
}

/// The numbers of clients that share one label, and of those that are connected.
#[derive(Default)]
pub(super) struct LabelConnections {
    pub(super) clients: usize,
    pub(super) connected: usize,
}

impl ConnectionCatalog {
    pub(super) fn new(opts: impl Fn(&str, &str) -> Opts) -> prometheus::Result<Self> {
        let of_client = &["client_id"];
        let counter = |name, help| IntCounterVec::new(opts(name, help), of_client);
        let gauge = |name, help| GaugeVec::new(opts(name, help), of_client);
        Ok(Self {
            up: IntGaugeVec::new(
                opts(
                    "broker_up",
                    "Client is connected to the broker (1) or not (0)",
                ),
                of_client,
            )?,
            changed: gauge(
                "broker_changed_timestamp_seconds",
                "Unix time of the last change of broker_up, by the device's clock",
            )?,
            next_attempt: gauge(
                "broker_next_attempt_timestamp_seconds",
                "Unix time of the next attempt to connect, by the device's clock; 0 if none is waited for",
            )?,
            connections: counter("broker_connections_total", "Connections that were made")?,
            failed_attempts: counter(
                "broker_failed_attempts_total",
                "Attempts to connect that failed",
            )?,
            refused: counter(
                "refused_messages_total",
                "Messages that publish refused at a limit",
            )?,
            by_label: Mutex::default(),
        })
    }

    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 6] {
        [
            Box::new(self.up.clone()),
            Box::new(self.changed.clone()),
            Box::new(self.next_attempt.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.failed_attempts.clone()),
            Box::new(self.refused.clone()),
        ]
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<String, LabelConnections>> {
        // The counts are plain integers, which no panic leaves half written.
        self.by_label.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes every series of the label. The caller holds the lock.
    pub(super) fn remove_connection_series(&self, label: &str) {
        let of_client = [label];
        remove_series(&self.up, &of_client);
        remove_series(&self.changed, &of_client);
        remove_series(&self.next_attempt, &of_client);
        remove_series(&self.connections, &of_client);
        remove_series(&self.failed_attempts, &of_client);
        remove_series(&self.refused, &of_client);
    }
}
