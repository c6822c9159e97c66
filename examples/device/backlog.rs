//! Number and age of the waiting messages, read from the metrics.

use std::ops::Add;

use paho_mqtt_redis::prometheus::{Registry, proto::MetricFamily};

/// Kinds of record that count as a message: one that waits to be sent, and one that is not yet acknowledged.
///
/// The PUBREL of QoS 2 has a record of its own, so counting it would count the message twice.
const WAITING: [&str; 2] = ["command", "sent_publish"];

/// Waiting messages.
pub struct Backlog {
    /// Number of messages.
    pub waiting: f64,
    /// Age of the oldest one, in seconds.
    pub oldest: f64,
}

impl Backlog {
    /// Reads the current metrics of `client`.
    pub fn read(registry: &Registry, client: &str) -> Self {
        let families = registry.gather();
        let waiting =
            gauges(&families, "mqtt_persistence_records", client, &WAITING).fold(0.0, f64::add);
        let oldest = gauges(
            &families,
            "mqtt_persistence_oldest_record_age_seconds",
            client,
            &WAITING,
        )
        .fold(0.0, f64::max);
        Self { waiting, oldest }
    }
}

/// Number of messages that were found in Redis at the start.
pub fn restored(registry: &Registry, client: &str) -> f64 {
    let families = registry.gather();
    gauges(
        &families,
        "mqtt_persistence_restored_records",
        client,
        &WAITING,
    )
    .fold(0.0, f64::add)
}

fn gauges<'a>(
    families: &'a [MetricFamily],
    name: &'a str,
    client: &'a str,
    kinds: &'a [&'a str],
) -> impl Iterator<Item = f64> + 'a {
    families
        .iter()
        .filter(move |family| family.name() == name)
        .flat_map(MetricFamily::get_metric)
        .filter(move |metric| {
            let has = |name: &str, wanted: &dyn Fn(&str) -> bool| {
                let mut labels = metric.get_label().iter();
                labels.any(|label| label.name() == name && wanted(label.value()))
            };
            has("client_id", &|id| id == client) && has("kind", &|kind| kinds.contains(&kind))
        })
        .map(|metric| metric.get_gauge().get_value())
}
