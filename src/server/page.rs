//! The page for people.
//!
//! The script fetches the page again and swaps what differs. It adds what only a history has: curves, rates and recent
//! changes. Their numbers are data attributes of the page.

use std::time::SystemTime;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use prometheus::proto::MetricFamily;

use super::client_view::{ClientView, clients};
use crate::units::{self, duration};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// The content security policy: only the style and the script with these hashes, and requests to this server.
///
/// A hash per text instead of `unsafe-inline` keeps a client id with markup from running as a script.
pub(super) const SECURITY_POLICY: &str = "default-src 'none'; \
     style-src 'sha256-8CCICCVd/tEeQg6d0zSJuul9FWXwmD/785xrmzmb6B8='; \
     script-src 'sha256-vbtg8ZC0aJPBgFmPOl57YdzOLXKkNRMSrvgbLaPcfFs='; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Titles of the kinds of records.
const KIND_TITLES: [(&str, &str); 6] = [
    ("command", "waiting to be sent"),
    ("sent_publish", "sent, not acknowledged"),
    ("sent_pubrel", "PUBREL sent (QoS 2)"),
    ("received_publish", "received, not released"),
    ("undelivered", "not yet delivered"),
    ("other", "other"),
];

/// Stands for a value that is not known.
const UNKNOWN: &str = "–";

/// The column that the script fills in.
const PER_SECOND: &str = "per second";

/// Renders the page.
pub(super) fn page(families: &[MetricFamily], now: SystemTime) -> String {
    let clients = clients(families, now);
    let is_any_down = clients.values().any(ClientView::is_down);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                title { @if is_any_down { "Store down – " } "MQTT persistence" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "MQTT persistence" }
                    nav aria-label="Links" { a href="/metrics" { "Metrics" } " · " a href="/-/ready" { "Ready?" } }
                    span #live .dim hidden { "updates every 2 s" }
                    noscript { span .dim { "snapshot at page load" } }
                }
                p #notice .alert role="alert" hidden {}
                main {
                    @if clients.is_empty() { p { "No client has opened its persistence yet." } }
                    @for (id, client) in &clients { (section(id, client)) }
                }
                footer { "paho-mqtt-redis " (env!("CARGO_PKG_VERSION")) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn section(id: &str, client: &ClientView<'_>) -> Markup {
    let (class, state) = match client.value("stores_down") {
        None => ("", "Measured"),
        Some(_) if client.is_down() => ("down", "Store down"),
        Some(_) => ("up", "Store up"),
    };
    let errors = client.errors().join(", ");
    let separator = if errors.is_empty() { "" } else { ": " };
    let [changed, opened] = ["store_changed", "opened"].map(|event| client.time_since(event));
    html! {
        section class=(class) aria-label=(id) data-client=(id) data-state={ (state) (separator) (errors) }
            data-opened=(number(client.value("opened_timestamp_seconds"))) {
            div .top {
                h2 { (id) }
                p .state role="status" aria-live="polite" { (state) }
                span .dim { @if let Some(time) = changed { "for " (duration(time)) } }
                span .dim { (client.build) }
                p .reason role="status" aria-live="polite" { @if client.is_down() { (client.explanation()) } }
            }
            (tiles(client))
            (figures(client))
            (kinds(client))
            (drops(client))
            (calls(client))
            div {
                h3 { "Recent changes" }
                ol {
                    @if let Some(time) = changed { li { (state) ", " (duration(time)) " ago" } }
                    @if let Some(time) = opened { li { "Opened, " (duration(time)) " ago" } }
                }
            }
        }
    }
}

fn tiles(client: &ClientView<'_>) -> Markup {
    let value = |name| client.value(name);
    let is_set = |name| client.value(name) > Some(0.0);
    let bad = |is_bad| if is_bad { "bad" } else { "" };
    let is_at_risk = client.is_down() || is_set("store_held_bytes");
    let held = [
        count(value("store_held_records")),
        bytes(value("store_held_bytes")),
    ];
    let confirmed = client.time_since("store_last_confirmed");
    let confirmed = confirmed.map_or("not yet".to_owned(), |time| {
        format!("{} ago", duration(time))
    });
    let broker_up = value("broker_up");
    html! {
        dl {
            (tile("", "Messages waiting", &count(value("waiting_messages"))))
            (tile(bad(is_at_risk), "Only in memory", &format!("{} ({})", held[0], held[1])))
            (tile(bad(is_at_risk), "Last confirmed", &confirmed))
            (tile(bad(client.is_down()), "Store errors", &count(value("store_errors_total"))))
            (tile(if broker_up == Some(0.0) { "words bad" } else { "words" }, "Broker", &broker(client)))
            (tile("", "Oldest", &age(value("oldest_record_age_seconds"))))
            (tile("", "Bytes waiting", &bytes(value("record_bytes"))))
            @if is_set("store_limit_messages") {
                (tile("", "Not sent yet", &of(count, value("store_queued_messages"), value("store_limit_messages"))))
            }
            @if is_set("store_limit_bytes") {
                (tile("", "Byte budget", &of(bytes, value("store_waiting_bytes"), value("store_limit_bytes"))))
            }
            @if is_set("refused_messages_total") {
                (tile("", "Refused at a limit", &count(value("refused_messages_total"))))
            }
            (tile("", "Unconfirmed", &count(value("store_unconfirmed_records"))))
            (tile("", "Delivered", &count(value("delivered_messages_total"))))
            (tile("", "Dropped", &count(value("dropped_records_total"))))
            (tile("", "Lost", &count(value("store_lost_records_total"))))
            (tile("", "Quarantined", &count(value("store_quarantined_records_total"))))
            (tile("", "Restored", &count(value("restored_records"))))
            (tile("", "Restore time", &age(value("restore_duration_seconds"))))
            (tile("", "Call errors", &count(value("operation_errors_total"))))
            div .scripted hidden { dt { "Calls/s" } dd .calls { "–" } }
            div {
                dt { "Mean latency" }
                dd { span .latency { (mean_ms(value("calls"), value("spent"))) } " ms" }
            }
        }
    }
}

fn tile(class: &str, title: &str, value: &str) -> Markup {
    html! { div class=(class) { dt { (title) } dd { (value) } } }
}

fn broker(client: &ClientView<'_>) -> String {
    let since = client.for_time_since("broker_changed");
    match (
        client.value("broker_up"),
        client.time_since("broker_next_attempt"),
    ) {
        (None, _) => "not known".to_owned(),
        (Some(up), _) if up > 0.0 => format!("connected{since}"),
        (Some(_), None) => format!("away{since}"),
        (Some(_), Some(time)) => format!("away{since}, next attempt in {}", duration(-time)),
    }
}

/// The script draws the curves.
fn figures(client: &ClientView<'_>) -> Markup {
    let value = |name| client.value(name);
    let records = KIND_TITLES.map(|(kind, _)| number(client.value_of("records", kind)));
    let age_name = "oldest_record_age_seconds";
    html! {
        div .charts .scripted hidden {
            (figure("Records waiting, by kind", &records.join(" "), &count(value("records"))))
            div .small {
                (figure("Bytes waiting", &number(value("record_bytes")), &bytes(value("record_bytes"))))
                (figure("Age of the oldest", &number(value(age_name)), &age(value(age_name))))
            }
        }
    }
}

fn figure(title: &str, values: &str, text: &str) -> Markup {
    html! {
        figure data-title=(title) data-values=(values) data-text=(text) {
            figcaption { b { (title) } span .dim .max {} }
            svg viewBox="0 0 300 80" preserveAspectRatio="none" role="img" {}
        }
    }
}

fn kinds(client: &ClientView<'_>) -> Markup {
    let head = ["kind", "records", "bytes", "oldest", "restored"];
    table(
        "Waiting records",
        &head,
        &html! {
            @for (index, (kind, title)) in KIND_TITLES.iter().enumerate() {
                @let value = |name| client.value_of(name, kind);
                tr {
                    th scope="row" {
                        svg .key aria-hidden="true" { rect class={ "k" (index) } width="99" height="99" {} }
                        (title)
                    }
                    td { (count(value("records"))) }
                    td { (bytes(value("record_bytes"))) }
                    td { (age(value("oldest_record_age_seconds"))) }
                    td { (count(value("restored_records"))) }
                }
            }
        },
    )
}

fn drops(client: &ClientView<'_>) -> Markup {
    table(
        "Dropped records",
        &["reason", "records"],
        &html! {
            @for (reason, records) in client.series("dropped_records_total") {
                tr { th scope="row" { (reason.replace('_', " ")) } td { (count(Some(records))) } }
            }
        },
    )
}

fn calls(client: &ClientView<'_>) -> Markup {
    let head = ["operation", "calls", PER_SECOND, "mean ms", "errors"];
    table(
        "Calls",
        &head,
        &html! {
            @for (operation, calls) in client.series("calls") {
                @let spent = client.value_of("spent", operation);
                tr data-operation=(operation) data-count=(calls) data-spent=(number(spent)) {
                    th scope="row" { (operation) }
                    td { (count(Some(calls))) }
                    td .rate .scripted hidden { "–" }
                    td .mean { (mean_ms(Some(calls), spent)) }
                    td { (count(client.value_of("operation_errors_total", operation))) }
                }
            }
        },
    )
}

fn table(caption: &str, head: &[&str], rows: &Markup) -> Markup {
    html! {
        div .scroll tabindex="0" role="group" aria-label=(caption) {
            table {
                caption { (caption) }
                thead {
                    tr { @for title in head {
                        th scope="col" class=[(*title == PER_SECOND).then_some("scripted")] hidden[*title == PER_SECOND] { (title) }
                    } }
                }
                tbody { (rows) }
            }
        }
    }
}

fn number(value: Option<f64>) -> String {
    value.unwrap_or_default().to_string()
}

fn count(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.to_owned(), units::count)
}

fn bytes(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.to_owned(), units::bytes)
}

fn age(value: Option<f64>) -> String {
    let age = value.filter(|age| *age > 0.0);
    age.map_or(UNKNOWN.to_owned(), duration)
}

fn of(format: fn(Option<f64>) -> String, value: Option<f64>, limit: Option<f64>) -> String {
    format!("{} of {}", format(value), format(limit))
}

/// The script gives a mean as many places.
fn mean_ms(calls: Option<f64>, spent: Option<f64>) -> String {
    match (calls, spent) {
        (Some(calls), Some(spent)) if calls > 0.0 => format!("{:.3}", spent / calls * 1e3),
        _ => UNKNOWN.to_owned(),
    }
}

/// Returns what to do for the person whom the server does not let in, by the schemes in its challenge.
pub(super) fn unauthorized(challenge: &str) -> &'static str {
    match (challenge.contains("Basic"), challenge.contains("Bearer")) {
        (true, true) => {
            "401 Unauthorized\nSend a user and password, as a browser does, or a token.\n"
        }
        (true, false) => "401 Unauthorized\nSend a user and password, as a browser does.\n",
        (false, _) => {
            "401 Unauthorized\nSend a token: curl -H 'Authorization: Bearer TOKEN'.\n\
             A browser cannot: it needs a user and password, which basic_auth of the server sets.\n"
        }
    }
}
