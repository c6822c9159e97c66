//! [`ConnectionSeries`]: the series of one client's connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::{Gauge, IntCounter, IntGauge};

use super::{catalog::MetricCatalog, connection_catalog::LabelConnections};

/// The share of one client in the connection series of its label.
///
/// Removes the series when the last share of the label is dropped.
pub(crate) struct ConnectionSeries {
    catalog: Arc<MetricCatalog>,
    label: String,
    is_connected: AtomicBool,
    up: IntGauge,
    changed: Gauge,
    next_attempt: Gauge,
    pub(crate) connections: IntCounter,
    pub(crate) failed_attempts: IntCounter,
    pub(crate) refused: IntCounter,
}

impl ConnectionSeries {
    pub(super) fn new(catalog: &Arc<MetricCatalog>, label: &str) -> Self {
        let metrics = &catalog.connection;
        let of_client = [label];
        // Under the lock, so that the last share of another client does not remove them again.
        let mut by_label = metrics.lock();
        let connections = by_label.entry(label.to_owned()).or_default();
        connections.clients = connections.clients.saturating_add(1);
        let series = Self {
            label: label.to_owned(),
            is_connected: AtomicBool::new(false),
            up: metrics.up.with_label_values(&of_client),
            changed: metrics.changed.with_label_values(&of_client),
            next_attempt: metrics.next_attempt.with_label_values(&of_client),
            connections: metrics.connections.with_label_values(&of_client),
            failed_attempts: metrics.failed_attempts.with_label_values(&of_client),
            refused: metrics.refused.with_label_values(&of_client),
            catalog: Arc::clone(catalog),
        };
        if connections.clients == 1 || series.up.get() == 1 {
            series.up.set(0);
            series.changed.set(unix_seconds(SystemTime::now()));
        }
        drop(by_label);
        series
    }

    /// Shows the connection. The label is up if all of its clients are.
    pub(crate) fn show(
        &self,
        is_connected: bool,
        since: SystemTime,
        next_attempt: Option<SystemTime>,
    ) {
        let mut by_label = self.catalog.connection.lock();
        self.next_attempt
            .set(next_attempt.map_or(0.0, unix_seconds));
        if self.is_connected.swap(is_connected, Ordering::Relaxed) == is_connected {
            return;
        }
        let Some(connections) = by_label.get_mut(&self.label) else {
            return;
        };
        connections.connected = if is_connected {
            connections.connected.saturating_add(1)
        } else {
            connections.connected.saturating_sub(1)
        };
        self.publish_up(connections, since);
    }

    /// Publishes `broker_up` of the label. The caller holds the lock, so that `changed` matches `up`.
    fn publish_up(&self, connections: &LabelConnections, since: SystemTime) {
        let up = i64::from(connections.connected == connections.clients);
        if self.up.get() != up {
            self.up.set(up);
            self.changed.set(unix_seconds(since));
        }
    }
}

impl Drop for ConnectionSeries {
    fn drop(&mut self) {
        self.show(false, SystemTime::now(), None);
        let mut by_label = self.catalog.connection.lock();
        let Some(connections) = by_label.get_mut(&self.label) else {
            return;
        };
        connections.clients = connections.clients.saturating_sub(1);
        if connections.clients == 0 {
            by_label.remove(&self.label);
            self.catalog
                .connection
                .remove_connection_series(&self.label);
        } else {
            self.publish_up(connections, SystemTime::now());
        }
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::Registry;

    use crate::metrics::persistence_metrics::PersistenceMetrics;

    use super::*;

    /// Returns the value of a series of the client `id`.
    fn value(registry: &Registry, name: &str) -> Option<f64> {
        let text = crate::metrics::render(registry).expect("renders");
        let start = format!("mqtt_persistence_{name}{{client_id=\"id\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.map(|value| value.parse().expect("a number"))
    }

    #[test]
    fn clients_of_one_label_share_series() {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).expect("registers");
        let time = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let one = metrics.connection_series("id");
        assert_eq!(value(&registry, "broker_up"), Some(0.0));
        one.show(true, time(10), None);
        assert_eq!(value(&registry, "broker_up"), Some(1.0));
        let changed = "broker_changed_timestamp_seconds";
        assert_eq!(value(&registry, changed), Some(10.0));

        let other = metrics.connection_series("id");
        assert_eq!(value(&registry, "broker_up"), Some(0.0));
        other.show(true, time(20), None);
        assert_eq!(value(&registry, "broker_up"), Some(1.0));
        one.show(false, time(30), Some(time(31)));
        assert_eq!(value(&registry, "broker_up"), Some(0.0));
        assert_eq!(value(&registry, changed), Some(30.0));
        let next = "broker_next_attempt_timestamp_seconds";
        assert_eq!(value(&registry, next), Some(31.0));

        drop(one);
        assert_eq!(value(&registry, "broker_up"), Some(1.0));
        drop(other);
        assert_eq!(value(&registry, "broker_up"), None);
        assert_eq!(value(&registry, "refused_messages_total"), None);
    }
}
