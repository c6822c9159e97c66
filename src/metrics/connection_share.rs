//! [`ConnectionShare`]: the share of one client in the series of its label's connections.

use std::{ops::Deref, sync::Arc, time::SystemTime};

use super::{
    clock::unix_seconds,
    share::{Share, SharedFamilies},
    table::{ConnectionFamilies, ConnectionSeries},
};

/// The share of one client in the connection series of its label.
pub(crate) struct ConnectionShare(Share<ConnectionFamilies>);

impl ConnectionShare {
    pub(super) fn new(shared: &Arc<SharedFamilies<ConnectionFamilies>>, label: &str) -> Self {
        Self(Share::new(shared, label))
    }

    /// Shows the connection. The label is up if all of its clients are.
    pub(crate) fn show(
        &self,
        is_connected: bool,
        since: SystemTime,
        next_attempt: Option<SystemTime>,
    ) {
        self.broker_next_attempt_timestamp_seconds
            .set(next_attempt.map_or(0.0, unix_seconds));
        self.0.set_up(is_connected, since);
    }
}

impl Deref for ConnectionShare {
    type Target = ConnectionSeries;

    fn deref(&self) -> &ConnectionSeries {
        &self.0.series
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use prometheus::Registry;

    use crate::metrics::PersistenceMetrics;

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
        let one = metrics.connection_share("id");
        assert_eq!(value(&registry, "broker_up"), Some(0.0));
        one.show(true, time(10), None);
        assert_eq!(value(&registry, "broker_up"), Some(1.0));
        let changed = "broker_changed_timestamp_seconds";
        assert_eq!(value(&registry, changed), Some(10.0));

        let other = metrics.connection_share("id");
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
