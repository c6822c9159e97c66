//! The page for people: the present contents of the registry, and a script that updates them.
//!
//! The script refreshes every element with `data-m`, the name of a metric, `data-k`, values of its label, and `data-f`,
//! a format, and hides one with `data-limit`, the name of a metric that is 0. This file renders the same elements first, so formats and names must be changed in both.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write as _},
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use crate::metrics::PREFIX;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// The content security policy: only the style and the script with these hashes, and requests to this server.
///
/// A hash per text instead of `unsafe-inline` keeps a client id with markup from running as a script.
pub(super) const SECURITY_POLICY: &str = "default-src 'none'; \
     style-src 'sha256-Tjc1UVpRX0hqCRLnTDzf/3k8a3y/6E75mm6VoNtALJs='; \
     script-src 'sha256-H1sbbpj30Ajxl3xc/z2NbaIXhVOHcZOofLEfZ0ZDR4o='; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Titles of the kinds of records. The script has the kinds in the same order.
const KIND_TITLES: [(&str, &str); 6] = [
    ("command", "waiting to be sent"),
    ("sent_publish", "sent, not acknowledged"),
    ("sent_pubrel", "PUBREL sent (QoS 2)"),
    ("received_publish", "received, not released"),
    ("undelivered", "not yet delivered"),
    ("other", "other"),
];

/// Titles of the reasons of drops.
const DROP_TITLES: [(&str, &str); 8] = [
    ("buffer_full", "buffer full"),
    ("session_lost", "session lost"),
    ("session_discarded", "session discarded"),
    ("not_restored", "not restored"),
    ("rejected", "rejected by the broker"),
    ("damaged", "damaged by Paho"),
    ("expired", "expired"),
    ("over_budget", "over the byte budget"),
];

/// The samples of one client.
#[derive(Default)]
struct ClientView<'a> {
    /// Sums by name, without the prefix, and label value.
    samples: BTreeMap<(String, &'a str), f64>,
    version: &'a str,
    store: &'a str,
}

/// Renders the page.
pub(super) fn page(families: &[MetricFamily], now: SystemTime) -> String {
    let now = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let mut page = String::with_capacity(32 * 1024);
    // Writing to a string does not fail.
    let _ = write_page(&mut page, &clients(families), now);
    page
}

/// Groups the samples of this crate by client id.
fn clients(families: &[MetricFamily]) -> BTreeMap<&str, ClientView<'_>> {
    let mut clients: BTreeMap<&str, ClientView> = BTreeMap::new();
    for family in families {
        let Some(name) = family.name().strip_prefix(PREFIX) else {
            continue;
        };
        for metric in family.get_metric() {
            let Some(id) = label(metric, &["client_id"]) else {
                continue;
            };
            let client = clients.entry(id).or_default();
            let label_value =
                label(metric, &["operation", "reason", "kind", "error"]).unwrap_or_default();
            let mut add = |name: String, value: f64| {
                *client.samples.entry((name, label_value)).or_default() += value;
            };
            match family.get_field_type() {
                MetricType::HISTOGRAM => {
                    let histogram = metric.get_histogram();
                    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^52")]
                    let count = histogram.get_sample_count() as f64;
                    add(format!("{name}_count"), count);
                    add(format!("{name}_sum"), histogram.get_sample_sum());
                }
                MetricType::COUNTER => add(name.to_owned(), metric.get_counter().get_value()),
                _ => add(name.to_owned(), metric.get_gauge().get_value()),
            }
            if name == "build_info" {
                client.version = label(metric, &["version"]).unwrap_or_default();
                client.store = label(metric, &["store"]).unwrap_or_default();
            }
        }
    }
    clients
}

/// Returns the value of the first of these labels that the metric has.
fn label<'a>(metric: &'a Metric, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| {
        let mut labels = metric.get_label().iter();
        labels
            .find(|label| label.name() == *name)
            .map(LabelPair::value)
    })
}

fn write_page(
    page: &mut String,
    clients: &BTreeMap<&str, ClientView<'_>>,
    now: f64,
) -> fmt::Result {
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>MQTT persistence</title><style>{STYLE}</style></head>\n\
         <body data-now=\"{now:.3}\"><header><h1>MQTT persistence</h1>\
         <nav aria-label=\"Links\"><a href=\"/metrics\">Metrics</a> · <a href=\"/-/ready\">Ready?</a></nav>\
         <span class=\"dim\" id=\"live\" hidden>updates every 2 s</span>\
         <noscript><span class=\"dim\">snapshot at page load</span></noscript></header>\n\
         <main><p class=\"alert\" id=\"notice\" role=\"alert\" hidden></p>"
    )?;
    if clients.is_empty() {
        page.push_str("<p>No client has opened its persistence yet.</p>");
    }
    for (id, client) in clients {
        write_client(page, id, client, now)?;
    }
    write!(
        page,
        "</main>\n<footer>paho-mqtt-redis {}</footer><script>{SCRIPT}</script></body></html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn write_client(page: &mut String, id: &str, client: &ClientView<'_>, now: f64) -> fmt::Result {
    let up = client.get("store_up", &[]);
    let (class, state) = match up {
        Some(up) if up >= 1.0 => ("state up", "Store up"),
        Some(_) => ("state down", "Store down"),
        None => ("state", "Measured"),
    };
    let cell = |name, labels, format| client.cell(name, labels, format, now);
    write!(
        page,
        "\n<section data-client=\"{id}\" data-has-store=\"{}\" aria-label=\"{id}\">\
         <div class=\"top\"><h2>{id}</h2><p class=\"{class}\" role=\"status\" aria-live=\"polite\">{state}</p>",
        up.is_some(),
        id = Escaped(id),
    )?;
    if up.is_some() {
        let since = cell("store_changed_timestamp_seconds", "", 'e');
        write!(page, "<span class=\"dim\">for <span{since}</span></span>")?;
    }
    write!(
        page,
        "<span class=\"dim\">{} {}</span></div><dl>",
        Escaped(client.store),
        Escaped(client.version)
    )?;
    for (title, cell) in [
        ("Messages waiting", cell("waiting_messages", "", 'n')),
        ("Delivered", cell("delivered_messages_total", "", 'n')),
        ("Dropped", cell("dropped_records_total", "", 'n')),
        ("Oldest", cell("oldest_record_age_seconds", "", 's')),
        ("Bytes waiting", cell("record_bytes", "", 'b')),
        ("Only in memory", cell("store_held_records", "", 'n')),
        ("Unconfirmed", cell("store_unconfirmed_records", "", 'n')),
        (
            "Last confirmed",
            cell("store_last_confirmed_timestamp_seconds", "", 'a'),
        ),
        ("Call errors", cell("operation_errors_total", "", 'n')),
        ("Lost", cell("store_lost_records_total", "", 'n')),
        (
            "Quarantined",
            cell("store_quarantined_records_total", "", 'n'),
        ),
        ("Restored", cell("restored_records", "", 'n')),
        ("Restore time", cell("restore_duration_seconds", "", 's')),
    ] {
        write!(page, "<div><dt>{title}</dt><dd{cell}</dd></div>")?;
    }
    write_fill(page, client, now)?;
    write_broker(page, client, now)?;
    let (calls, spent) = (
        client.get("operation_duration_seconds_count", &[]),
        client.get("operation_duration_seconds_sum", &[]),
    );
    write!(
        page,
        "<div><dt>Calls/s</dt><dd class=\"calls\">–</dd></div>\
         <div><dt>Mean latency</dt><dd class=\"latency\">{}</dd></div></dl>",
        mean(spent, calls)
    )?;
    write_charts(page)?;
    write_tables(page, client, now)?;
    page.push_str("<div><h3>Recent changes</h3><ol>");
    for (title, name) in [
        (state, "store_changed_timestamp_seconds"),
        ("Opened", "opened_timestamp_seconds"),
    ] {
        if client.get(name, &[]).is_some() {
            let class = if title == state { "state-word" } else { "" };
            let title = title.to_lowercase();
            let at = cell(name, "", 'a');
            write!(
                page,
                "<li><span class=\"{class}\">{title}</span>, <span{at}</span></li>"
            )?;
        }
    }
    page.push_str("</ol></div></section>");
    Ok(())
}

/// Writes how much of each limit is used. A limit that is not set is 0 and hidden; the script shows it once it is set.
fn write_fill(page: &mut String, client: &ClientView<'_>, now: f64) -> fmt::Result {
    for (title, fill, limit, format) in [
        (
            "Not sent yet",
            "store_queued_messages",
            "store_limit_messages",
            'n',
        ),
        (
            "Byte budget",
            "store_waiting_bytes",
            "store_limit_bytes",
            'b',
        ),
    ] {
        let is_set = client.get(limit, &[]).is_some_and(|limit| limit > 0.0);
        let hidden = if is_set { "" } else { " hidden" };
        let cell = |name| client.cell(name, "", format, now);
        write!(
            page,
            "<div data-limit=\"{limit}\"{hidden}><dt>{title}</dt>\
             <dd><span{}</span> of <span{}</span></dd></div>",
            cell(fill),
            cell(limit)
        )?;
    }
    Ok(())
}

/// Writes the state of the connection, which `Client` alone reports. A part whose metric is 0 is hidden.
fn write_broker(page: &mut String, client: &ClientView<'_>, now: f64) -> fmt::Result {
    for (title, shown_by, value, format) in [
        (
            "Broker connected for",
            "broker_up",
            "broker_changed_timestamp_seconds",
            'e',
        ),
        (
            "Broker away, next attempt",
            "broker_next_attempt_timestamp_seconds",
            "broker_next_attempt_timestamp_seconds",
            'u',
        ),
        (
            "Refused at a limit",
            "refused_messages_total",
            "refused_messages_total",
            'n',
        ),
    ] {
        let is_shown = client.get(shown_by, &[]).is_some_and(|value| value > 0.0);
        let hidden = if is_shown { "" } else { " hidden" };
        let cell = client.cell(value, "", format, now);
        write!(
            page,
            "<div data-limit=\"{shown_by}\"{hidden}><dt>{title}</dt><dd{cell}</dd></div>"
        )?;
    }
    Ok(())
}

fn write_tables(page: &mut String, client: &ClientView<'_>, now: f64) -> fmt::Result {
    let cell = |name, labels, format| client.cell(name, labels, format, now);
    page.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Waiting records\"><table><caption>Waiting records</caption><thead><tr><th scope=\"col\">kind</th>\
         <th scope=\"col\">records</th><th scope=\"col\">bytes</th><th scope=\"col\">oldest</th>\
         <th scope=\"col\">restored</th></tr></thead><tbody>",
    );
    for (index, (kind, title)) in KIND_TITLES.into_iter().enumerate() {
        write!(
            page,
            "<tr><th scope=\"row\"><svg class=\"key\" aria-hidden=\"true\"><rect class=\"k{index}\" width=\"99\" height=\"99\"/></svg>{title}</th>\
             <td{}</td><td{}</td><td{}</td><td{}</td></tr>",
            cell("records", kind, 'n'),
            cell("record_bytes", kind, 'b'),
            cell("oldest_record_age_seconds", kind, 's'),
            cell("restored_records", kind, 'n')
        )?;
    }
    page.push_str("</tbody></table></div>");
    page.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Dropped records\"><table><caption>Dropped records</caption><thead><tr>\
         <th scope=\"col\">reason</th><th scope=\"col\">records</th></tr></thead><tbody>",
    );
    for (reason, title) in DROP_TITLES {
        let records = cell("dropped_records_total", reason, 'n');
        write!(
            page,
            "<tr><th scope=\"row\">{title}</th><td{records}</td></tr>"
        )?;
    }
    page.push_str("</tbody></table></div>");
    page.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"Calls\"><table><caption>Calls</caption><thead><tr><th scope=\"col\">operation</th>\
         <th scope=\"col\">calls</th><th scope=\"col\">per second</th><th scope=\"col\">mean latency</th>\
         <th scope=\"col\">errors</th></tr></thead><tbody>",
    );
    for (name, operation) in client.samples.keys() {
        if name != "operation_duration_seconds_count" {
            continue;
        }
        let only = &[*operation][..];
        write!(
            page,
            "<tr data-operation=\"{name}\"><th scope=\"row\">{name}</th><td{}</td>\
             <td class=\"rate\">–</td><td class=\"mean\">{}</td><td{}</td></tr>",
            cell("operation_duration_seconds_count", operation, 'n'),
            mean(
                client.get("operation_duration_seconds_sum", only),
                client.get("operation_duration_seconds_count", only)
            ),
            cell("operation_errors_total", operation, 'n'),
            name = Escaped(operation),
        )?;
    }
    page.push_str("</tbody></table></div>");
    Ok(())
}

/// Writes the empty charts, hidden until the script draws them.
fn write_charts(page: &mut String) -> fmt::Result {
    let figure = |class, title| {
        format!(
            "<figure class=\"{class}\" data-title=\"{title}\"><figcaption><b>{title}</b>\
             <span class=\"dim max\"></span></figcaption>\
             <svg viewBox=\"0 0 300 80\" preserveAspectRatio=\"none\" role=\"img\"></svg></figure>"
        )
    };
    write!(
        page,
        "<div class=\"charts\" hidden>{}<div class=\"small\">{}{}</div></div>",
        figure("records", "Records waiting, by kind"),
        figure("bytes", "Bytes waiting"),
        figure("age", "Age of the oldest")
    )
}

fn mean(sum: Option<f64>, count: Option<f64>) -> String {
    match (sum, count) {
        (Some(sum), Some(count)) if count > 0.0 => format_duration(sum / count),
        _ => "–".to_owned(),
    }
}

impl ClientView<'_> {
    fn cell<'a>(
        &'a self,
        name: &'a str,
        labels: &'a str,
        format: char,
        now: f64,
    ) -> MetricCell<'a> {
        MetricCell {
            client: self,
            name,
            labels,
            format,
            now,
        }
    }

    /// Returns the sum of a metric over these label values, or over all if there are none.
    fn get(&self, name: &str, labels: &[&str]) -> Option<f64> {
        self.samples_for(name, labels)
            .reduce(|sum, value| sum + value)
    }

    fn samples_for(&self, name: &str, labels: &[&str]) -> impl Iterator<Item = f64> {
        self.samples
            .iter()
            .filter(move |((sample, label), _)| {
                sample == name && (labels.is_empty() || labels.contains(label))
            })
            .map(|(_, value)| *value)
    }
}

/// An element's attributes for the script, and its text: everything behind the name of the tag.
struct MetricCell<'a> {
    client: &'a ClientView<'a>,
    name: &'a str,
    /// Label values separated by spaces; empty for all.
    labels: &'a str,
    /// `n` count, `b` bytes, `s` age, `a` time ago, `e` time elapsed, `u` time until then.
    format: char,
    now: f64,
}

impl Display for MetricCell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<&str> = self.labels.split_whitespace().collect();
        let samples = self.client.samples_for(self.name, &labels);
        // The oldest of several ages; ages do not add up.
        let value = if self.format == 's' {
            samples.reduce(f64::max)
        } else {
            samples.reduce(|sum, value| sum + value)
        };
        write!(f, " data-m=\"{}\" data-f=\"{}\"", self.name, self.format)?;
        if !self.labels.is_empty() {
            write!(f, " data-k=\"{}\"", Escaped(self.labels))?;
        }
        let text = match (self.format, value) {
            (_, None) => "–".to_owned(),
            ('n', Some(value)) => format_count(value),
            ('b', Some(value)) => format_bytes(value),
            ('s', Some(age)) if age <= 0.0 => "–".to_owned(),
            ('a', Some(at)) if at <= 0.0 => "not yet".to_owned(),
            ('a', Some(at)) if self.now - at < 1.0 => "now".to_owned(),
            ('a', Some(at)) => format!("{} ago", format_duration(self.now - at)),
            ('u', Some(at)) if at - self.now < 0.5 => "now".to_owned(),
            ('u', Some(at)) => format!("in {}", format_duration(at - self.now)),
            ('e', Some(at)) => format_duration((self.now - at).max(0.0)),
            (_, Some(value)) => format_duration(value),
        };
        write!(f, ">{text}")
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
    const UNITS: [&str; 3] = ["KiB", "MiB", "GiB"];
    if number < 1024.0 {
        return format!("{} B", format_count(number));
    }
    let mut number = number / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        if number >= 1024.0 {
            number /= 1024.0;
            unit = larger;
        }
    }
    format!("{number:.1} {unit}")
}

fn format_duration(seconds: f64) -> String {
    match seconds {
        _ if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        _ if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        _ if seconds < 120.0 => format!("{seconds:.0} s"),
        _ if seconds < 7_200.0 => format!("{:.0} min", (seconds / 60.0).floor()),
        _ if seconds < 172_800.0 => format!("{:.0} h", (seconds / 3_600.0).floor()),
        _ => format!("{:.0} d", (seconds / 86_400.0).floor()),
    }
}

/// Text escaped for elements and quoted attributes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_match_script() {
        for (number, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1_234.0, "1\u{202f}234"),
            (1_234_567.0, "1\u{202f}234\u{202f}567"),
        ] {
            assert_eq!(format_count(number), text);
        }
        for (number, text) in [
            (0.0, "0 B"),
            (1_023.0, "1\u{202f}023 B"),
            (1_536.0, "1.5 KiB"),
            (5.0 * 1024.0 * 1024.0, "5.0 MiB"),
            (3e13, "27939.7 GiB"),
        ] {
            assert_eq!(format_bytes(number), text);
        }
        for (seconds, text) in [
            (0.000_012, "12 µs"),
            (0.001_23, "1.2 ms"),
            (0.25, "250 ms"),
            (2.5, "2.5 s"),
            (61.0, "61 s"),
            (150.0, "2 min"),
            (7_300.0, "2 h"),
            (200_000.0, "2 d"),
        ] {
            assert_eq!(format_duration(seconds), text);
        }
    }

    #[test]
    fn limit_is_hidden_unless_set() {
        let registry = prometheus::Registry::new();
        for (name, value) in [
            ("store_queued_messages", 8),
            ("store_limit_messages", 10),
            ("store_waiting_bytes", 2048),
            ("store_limit_bytes", 0),
        ] {
            let opts = prometheus::Opts::new(format!("{PREFIX}{name}"), "help");
            let gauge = prometheus::IntGauge::with_opts(opts.const_label("client_id", "a"));
            let gauge = gauge.expect("valid");
            gauge.set(value);
            registry.register(Box::new(gauge)).expect("new");
        }
        let page = page(&registry.gather(), SystemTime::now());
        for part in [
            "<div data-limit=\"store_limit_messages\"><dt>Not sent yet</dt><dd><span \
             data-m=\"store_queued_messages\" data-f=\"n\">8</span> of <span \
             data-m=\"store_limit_messages\" data-f=\"n\">10</span></dd></div>",
            "<div data-limit=\"store_limit_bytes\" hidden><dt>Byte budget</dt>",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }

    #[test]
    fn broker_is_shown_by_its_state() {
        let now = UNIX_EPOCH + std::time::Duration::from_secs(1_000);
        let connected = "<div data-limit=\"broker_up\"><dt>Broker connected for</dt>\
             <dd data-m=\"broker_changed_timestamp_seconds\" data-f=\"e\">40 s</dd></div>";
        let next = "<div data-limit=\"broker_next_attempt_timestamp_seconds\"><dt>Broker away, next attempt</dt>\
             <dd data-m=\"broker_next_attempt_timestamp_seconds\" data-f=\"u\">in 12 s</dd></div>";
        for (up, next_attempt, shown, hidden) in
            [(1, 0, connected, next), (0, 1_012, next, connected)]
        {
            let registry = prometheus::Registry::new();
            for (name, value) in [
                ("broker_up", up),
                ("broker_changed_timestamp_seconds", 960),
                ("broker_next_attempt_timestamp_seconds", next_attempt),
            ] {
                let opts = prometheus::Opts::new(format!("{PREFIX}{name}"), "help");
                let gauge = prometheus::IntGauge::with_opts(opts.const_label("client_id", "a"));
                let gauge = gauge.expect("valid");
                gauge.set(value);
                registry.register(Box::new(gauge)).expect("new");
            }
            let page = page(&registry.gather(), now);
            assert!(page.contains(shown), "{shown} in {page}");
            assert!(!page.contains(hidden), "{hidden} in {page}");
        }
    }

    #[test]
    fn html_is_escaped() {
        assert_eq!(
            Escaped("<b class=\"x\">'&'</b>").to_string(),
            "&lt;b class=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/b&gt;"
        );
    }
}
