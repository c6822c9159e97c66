//! The response to `/-/ready`: readiness of every client's store.

use std::fmt::Write as _;

use prometheus::proto::{Metric, MetricFamily};

use super::response::Response;

const STORE_UP: &str = "mqtt_persistence_store_up";

/// Returns 200 if every store is up or none is observed, else 503 and the clients of the others.
pub(super) fn readiness_response(families: &[MetricFamily]) -> Response {
    let series = families
        .iter()
        .filter(|family| family.name() == STORE_UP)
        .flat_map(MetricFamily::get_metric);
    let mut text = String::new();
    for client in series.filter(|metric| !is_up(metric)).map(client_id) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "store of client {client:?} is unavailable");
    }
    if text.is_empty() {
        Response::text(200, "ready\n")
    } else {
        Response::text(503, text)
    }
}

/// Interprets the gauge, which is either 1 or 0.
fn is_up(metric: &Metric) -> bool {
    metric.get_gauge().get_value() >= 1.0
}

fn client_id(metric: &Metric) -> &str {
    let mut labels = metric.get_label().iter();
    labels
        .find(|label| label.name() == "client_id")
        .map_or("", |label| label.value())
}
