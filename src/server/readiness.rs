//! The response to `/-/ready`: readiness of every client's store.

use std::time::SystemTime;

use prometheus::proto::MetricFamily;

use super::{client_view::clients, response::Response};

/// Returns 200 if every store is up or none is observed, else 503 and why the others are down.
pub(super) fn readiness_response(families: &[MetricFamily]) -> Response {
    let clients = clients(families, SystemTime::now());
    let down = clients.iter().filter(|(_, client)| client.is_down());
    let lines = down.map(|(id, client)| {
        let since = client.for_time_since("store_changed");
        let reason = client.explanation();
        format!("store of client {id:?} is down{since}: {reason}\n")
    });
    let text: String = lines.collect();
    if text.is_empty() {
        Response::text(200, "ready\n")
    } else {
        Response::text(503, text)
    }
}
