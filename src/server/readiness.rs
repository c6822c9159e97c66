//! Whether every client's store can be used.

use std::fmt::Write as _;

use prometheus::proto::{Metric, MetricFamily};

use super::response::Response;

const STORE_UP: &str = "mqtt_persistence_store_up";

/// 200 where each store is up, or there is none; 503 with the clients whose store is not.
pub(super) fn response(families: &[MetricFamily]) -> Response {
    let series = families
        .iter()
        .filter(|family| family.name() == STORE_UP)
        .flat_map(MetricFamily::get_metric);
    let mut text = String::new();
    for client in series.filter(|metric| !is_up(metric)).map(client_id) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "the store of the client {client:?} cannot be used");
    }
    if text.is_empty() {
        Response::text(200, "ready\n")
    } else {
        Response::text(503, text)
    }
}

/// The number is 1 or 0, and no other.
fn is_up(metric: &Metric) -> bool {
    metric.get_gauge().get_value() >= 1.0
}

fn client_id(metric: &Metric) -> &str {
    let mut labels = metric.get_label().iter();
    labels
        .find(|label| label.name() == "client_id")
        .map_or("", |label| label.value())
}
