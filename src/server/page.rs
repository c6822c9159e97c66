//! The page for people, rendered from the contents of the registry.
//!
//! The script fetches the page again and swaps what differs. It adds what only a history has: curves, rates and recent
//! changes. Their numbers are data attributes of the page.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::{error::ErrorKind, metrics::PREFIX};

const PAGE: &str = include_str!("page/page.html");
const SECTION: &str = include_str!("page/section.html");
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

const EMPTY: &str = "<p>No client has opened its persistence yet.</p>";

const KIND_ROW: &str = r#"<tr>
<th scope="row"><svg class="key" aria-hidden="true"><rect class="k{index}" width="99" height="99"/></svg>{title}</th>
<td>{count records name}</td><td>{bytes record_bytes name}</td>
<td>{age oldest_record_age_seconds name}</td><td>{count restored_records name}</td></tr>"#;

const DROP_ROW: &str =
    r#"<tr><th scope="row">{words name}</th><td>{count dropped_records_total name}</td></tr>"#;

const CALL_ROW: &str = r#"<tr data-operation="{name}" data-count="{number calls name}" data-spent="{number spent name}">
<th scope="row">{name}</th><td>{count calls name}</td><td class="rate scripted" hidden>–</td>
<td class="mean">{mean calls name}</td><td>{count operation_errors_total name}</td></tr>"#;

/// The reason of a store that is down without an error.
const NO_ERROR: &str = "not open yet, or closed; if opening failed, the log has the reason";

/// Stands between the reasons of stores that share a label.
const NEXT_STORE: &str = ". Another store with this label: ";

const AWAY: &str =
    "away{for broker_changed_timestamp_seconds}{next broker_next_attempt_timestamp_seconds}";

/// The samples of one client.
#[derive(Default)]
pub(super) struct ClientView<'a> {
    /// Sums by name, without the prefix, and label value.
    samples: BTreeMap<(&'a str, &'a str), f64>,
    /// The version of this crate and the store, if they are known.
    build: String,
    /// The time of the device, in seconds since 1970.
    now: f64,
}

/// Groups the samples of this crate by client id.
pub(super) fn clients(
    families: &[MetricFamily],
    now: SystemTime,
) -> BTreeMap<&str, ClientView<'_>> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut clients: BTreeMap<&str, ClientView> = BTreeMap::new();
    for family in families {
        let Some(name) = family.name().strip_prefix(PREFIX) else {
            continue;
        };
        for metric in family.get_metric() {
            if let Some(id) = label(metric, &["client_id"]) {
                let client = clients.entry(id).or_default();
                client.now = now.as_secs_f64();
                client.add(name, family.get_field_type(), metric);
            }
        }
    }
    clients
}

/// Returns the value of the first of these labels that the metric has.
fn label<'a>(metric: &'a Metric, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| {
        let mut labels = metric.get_label().iter();
        let label = labels.find(|label| label.name() == *name)?;
        Some(label.value())
    })
}

impl<'a> ClientView<'a> {
    fn add(&mut self, name: &'a str, kind: MetricType, metric: &'a Metric) {
        let labels = label(metric, &["operation", "reason", "kind", "error"]);
        let mut add = |name, value| {
            let sample = self.samples.entry((name, labels.unwrap_or_default()));
            *sample.or_default() += value;
        };
        match (name, kind) {
            ("operation_duration_seconds", MetricType::HISTOGRAM) => {
                let histogram = metric.get_histogram();
                #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
                add("calls", histogram.get_sample_count() as f64);
                add("spent", histogram.get_sample_sum());
            }
            ("build_info", _) => {
                let label = |name| label(metric, &[name]).unwrap_or_default();
                self.build = format!(
                    "paho-mqtt-redis {}, store {}",
                    label("version"),
                    label("store")
                );
            }
            ("store_up", _) => add("stores_down", 1.0 - metric.get_gauge().get_value()),
            (_, MetricType::COUNTER) => add(name, metric.get_counter().get_value()),
            _ => add(name, metric.get_gauge().get_value()),
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.value("stores_down", None) > Some(0.0)
    }

    /// Returns " for" and the time since the store is up or down, if that is known.
    pub(super) fn store_since(&self) -> String {
        self.show("for", "store_changed_timestamp_seconds", None)
    }

    /// Returns why the store is down, and what to do; of each, if several stores share the label.
    pub(super) fn explanation(&self) -> String {
        let explanations = self.errors().map(|error| {
            let mut kinds = ErrorKind::ALL.iter();
            let kind = kinds.find(|kind| kind.as_str() == error);
            kind.map_or(error, |kind| kind.explanation())
        });
        let text = explanations.collect::<Vec<_>>().join(NEXT_STORE);
        if text.is_empty() {
            NO_ERROR.to_owned()
        } else {
            text
        }
    }

    /// Returns the kinds of the errors for which stores are down.
    fn errors(&self) -> impl Iterator<Item = &str> {
        self.series("store_down_info").map(|(error, _)| error)
    }

    /// Returns the label values of a metric, with its values.
    fn series<'s>(&'s self, name: &'s str) -> impl Iterator<Item = (&'s str, f64)> {
        let samples = self.samples.range((name, "")..);
        let samples = samples.take_while(move |((sample, _), _)| *sample == name);
        samples.map(|((_, label), value)| (*label, *value))
    }

    /// Returns the value of a metric, of one label value or all.
    fn value(&self, name: &str, label: Option<&str>) -> Option<f64> {
        let series = self.series(name);
        let series = series.filter(|(value, _)| label.is_none_or(|label| label == *value));
        let values = series.map(|(_, value)| value);
        // Ages do not add up.
        if name == "oldest_record_age_seconds" {
            values.reduce(f64::max)
        } else {
            values.reduce(|sum, value| sum + value)
        }
    }

    /// Fills a template: `{name}` becomes that value, escaped, `{html name}` the value as it is, `{words name}` the
    /// value with spaces for underscores, and `{format metric}` or `{format metric label}` a metric, of all label
    /// values or the one with that name.
    fn fill(&self, template: &str, values: &[(&str, &str)]) -> String {
        let value = |name: &str| {
            let value = values.iter().find(|(key, _)| *key == name);
            value.map_or("", |(_, value)| *value)
        };
        let mut parts = template.split('{');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (placeholder, rest) = part.split_once('}').unwrap_or((part, ""));
            let mut words = placeholder.split(' ');
            text += &match (words.next().unwrap_or_default(), words.next(), words.next()) {
                (name, None, _) => escape(value(name)),
                ("html", Some(name), _) => value(name).to_owned(),
                ("words", Some(name), _) => escape(&value(name).replace('_', " ")),
                (format, Some(metric), label) => self.show(format, metric, label.map(value)),
            };
            text += rest;
        }
        text
    }

    fn show(&self, format: &str, name: &str, label: Option<&str>) -> String {
        let value = self.value(name, label);
        match (format, value) {
            ("number", _) => value.unwrap_or_default().to_string(),
            ("shown", _) if value > Some(0.0) => String::new(),
            ("shown", _) => "hidden".to_owned(),
            // The script gives a mean as many places.
            ("mean", Some(calls)) if calls > 0.0 => {
                let spent = self.value("spent", label).unwrap_or_default();
                format!("{:.3}", spent / calls * 1e3)
            }
            ("for", Some(at)) if at > 0.0 => format!(" for {}", format_duration(self.now - at)),
            ("next", Some(at)) if at > 0.0 => {
                format!(", next attempt in {}", format_duration(at - self.now))
            }
            ("for" | "next", _) => String::new(),
            ("mean", _) | (_, None) => "–".to_owned(),
            ("count", Some(number)) => format_count(number),
            ("bytes", Some(number)) => format_bytes(number),
            ("ago", Some(at)) if at <= 0.0 => "not yet".to_owned(),
            ("ago", Some(at)) => format!("{} ago", format_duration(self.now - at)),
            (_, Some(age)) if age <= 0.0 => "–".to_owned(),
            (_, Some(age)) => format_duration(age),
        }
    }

    /// Fills a template for each of these names, with their titles.
    fn rows<'n>(
        &self,
        template: &str,
        names: impl IntoIterator<Item = (&'n str, &'n str)>,
    ) -> String {
        let rows = names.into_iter().enumerate().map(|(index, (name, title))| {
            let index = index.to_string();
            let values = [("index", &*index), ("name", name), ("title", title)];
            self.fill(template, &values)
        });
        rows.collect()
    }

    /// Fills a template for each label value of a metric.
    fn series_rows(&self, template: &str, metric: &str) -> String {
        self.rows(template, self.series(metric).map(|(name, _)| (name, "")))
    }

    fn section(&self, id: &str) -> String {
        let (mut error, mut reason) = (String::new(), String::new());
        let (class, state) = match self.value("stores_down", None) {
            None => ("", "Measured"),
            Some(_) if self.is_down() => {
                reason = self.explanation();
                for (index, kind) in self.errors().enumerate() {
                    error += if index == 0 { ": " } else { ", " };
                    error += kind;
                }
                ("down", "Store down")
            }
            Some(_) => ("up", "Store up"),
        };
        let broker_up = self.value("broker_up", None);
        let broker = match broker_up {
            None => "not known",
            Some(up) if up > 0.0 => "connected{for broker_changed_timestamp_seconds}",
            Some(_) => AWAY,
        };
        let bad = |is_bad: bool| if is_bad { "bad" } else { "" };
        let is_at_risk = self.is_down() || self.value("store_held_bytes", None) > Some(0.0);
        self.fill(
            SECTION,
            &[
                ("id", id),
                ("class", class),
                ("state", state),
                ("error", &error),
                ("reason", &reason),
                ("build", &self.build),
                ("broker", &self.fill(broker, &[])),
                ("away", bad(broker_up == Some(0.0))),
                ("down", bad(self.is_down())),
                ("at_risk", bad(is_at_risk)),
                (
                    "records",
                    self.rows("{number records name} ", KIND_TITLES).trim_end(),
                ),
                ("kinds", &self.rows(KIND_ROW, KIND_TITLES)),
                (
                    "drops",
                    &self.series_rows(DROP_ROW, "dropped_records_total"),
                ),
                ("calls", &self.series_rows(CALL_ROW, "calls")),
            ],
        )
    }
}

/// Renders the page.
pub(super) fn page(families: &[MetricFamily], now: SystemTime) -> String {
    let clients = clients(families, now);
    let is_any_down = clients.values().any(ClientView::is_down);
    let sections = clients.iter().map(|(id, client)| client.section(id));
    let values = [
        ("state", if is_any_down { "Store down – " } else { "" }),
        ("style", STYLE),
        ("script", SCRIPT),
        ("version", env!("CARGO_PKG_VERSION")),
        ("sections", &sections.collect::<String>()),
        ("empty", if clients.is_empty() { EMPTY } else { "" }),
    ];
    ClientView::default().fill(PAGE, &values)
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

/// Groups digits by narrow no-break spaces.
fn format_count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let remaining = digits.len().saturating_sub(index);
        if index > 0 && remaining.is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn format_bytes(number: f64) -> String {
    match number {
        _ if number < 1024.0 => format!("{} B", format_count(number)),
        _ if number < 1024.0 * 1024.0 => format!("{:.1} KiB", number / 1024.0),
        _ if number < 1024.0 * 1024.0 * 1024.0 => format!("{:.1} MiB", number / 1024.0 / 1024.0),
        _ => format!("{:.1} GiB", number / 1024.0 / 1024.0 / 1024.0),
    }
}

fn format_duration(seconds: f64) -> String {
    match seconds.max(0.0) {
        seconds if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7_200.0 => format!("{:.0} min", (seconds / 60.0).floor()),
        seconds if seconds < 172_800.0 => format!("{:.0} h", (seconds / 3_600.0).floor()),
        seconds => format!("{:.0} d", (seconds / 86_400.0).floor()),
    }
}

/// Escapes a text for elements and quoted attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (text, expected) in [
            (format_count(999.0), "999"),
            (format_count(1_234_567.0), "1\u{202f}234\u{202f}567"),
            (format_bytes(1_023.0), "1\u{202f}023 B"),
            (format_bytes(1_536.0), "1.5 KiB"),
            (format_bytes(3e13), "27939.7 GiB"),
            (format_duration(-1.0), "0.0 ms"),
            (format_duration(0.001_23), "1.2 ms"),
            (format_duration(0.25), "250 ms"),
            (format_duration(2.5), "2.5 s"),
            (format_duration(61.0), "61 s"),
            (format_duration(150.0), "2 min"),
            (format_duration(7_300.0), "2 h"),
            (format_duration(200_000.0), "2 d"),
        ] {
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn placeholders_are_filled_and_escaped() {
        let client = ClientView::default();
        let values = [("a", "<b class=\"x\">'&'</b>"), ("b", "{a}")];
        assert_eq!(
            client.fill("{a} {html a} {b} {count none} {", &values),
            "&lt;b class=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/b&gt; <b class=\"x\">'&'</b> {a} – "
        );
    }
}
