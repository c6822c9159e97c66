//! The rules for Prometheus read known series only, each alert is tested and has its runbook, and the documents name no other
//! metric. `fleet_is_watched` has promtool run the unit tests of the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use paho_mqtt_redis::prometheus::proto::MetricFamily;
use serde_json::Value;
use testkit::{
    dashboard::{Dashboard, array, path, read, text},
    promql::{Selector, selectors},
    rules::{FILES, alerts, families, load, name, recorded, registered, yaml},
};

use super::page::documents;

const ALERT_TESTS: &str = "rules/tests/mqtt-persistence.alerts.test.yml";
/// Series of others that rules read: of Prometheus itself, of `node_exporter` and of `redis_exporter`.
const OTHERS: [&str; 4] = [
    "up",
    "node_textfile_mtime_seconds",
    "redis_key_size",
    "redis_up",
];
const GRAFANA: &str = "https://grafana.example/d/mqtt-persistence-";
const RUNBOOKS: &str = "https://runbooks.example/mqtt-persistence.md#";

/// The series that are registered by the code, or recorded by a rule.
fn known() -> BTreeSet<String> {
    registered().keys().chain(recorded()).cloned().collect()
}

/// The series that rules or boards read.
fn used() -> BTreeSet<String> {
    let rules = load().iter().map(|rule| text(&rule["expr"]).to_owned());
    let boards = Dashboard::all();
    let queries = boards
        .iter()
        .flat_map(Dashboard::queries)
        .map(|query| query.expression);
    let expressions: Vec<String> = rules.chain(queries).collect();
    expressions
        .iter()
        .flat_map(|expression| selectors(expression))
        .map(|selector| selector.metric)
        .collect()
}

/// The names in a text that look like ours and are neither a series, nor a family, nor a prefix `like_*`, nor a group of rules.
fn unknown_names(text: &str) -> BTreeSet<String> {
    let known = known();
    let families: BTreeSet<&str> = registered().values().map(String::as_str).collect();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text
        .split(|c: char| !is_part(c))
        .map(|word| word.trim_matches(':'));
    let ours = words.filter(|word| word.contains("mqtt_persistence_"));
    ours.filter(|word| {
        let is_group =
            word.starts_with("mqtt_persistence_") && text.contains(&format!("name: {word}"));
        !(known.contains(*word)
            || families.contains(word)
            || *word == "mqtt_persistence_"
            || is_group)
    })
    .map(str::to_owned)
    .collect()
}

#[test]
fn rules_read_known_series_only() {
    let known = known();
    for rule in load() {
        for selector in selectors(text(&rule["expr"])) {
            let metric = &selector.metric;
            assert!(
                known.contains(metric) || OTHERS.contains(&metric.as_str()),
                "{}: {metric}",
                name(rule)
            );
        }
    }
}

#[test]
fn every_recorded_series_is_read() {
    let used = used();
    let unread: Vec<&String> = recorded()
        .iter()
        .filter(|series| !used.contains(*series))
        .collect();
    assert_eq!(unread, [""; 0]);
}

#[test]
fn recorded_series_are_named_level_metric_operations() {
    for series in recorded() {
        let parts: Vec<&str> = series.split(':').collect();
        assert_eq!(parts.len(), 3, "{series}");
        assert!(
            parts[0].starts_with("instance") || parts[0].starts_with("job"),
            "{series}"
        );
        assert!(
            parts[1].starts_with("mqtt_persistence_") && !parts[1].ends_with("_total"),
            "{series}"
        );
    }
}

#[test]
fn documents_and_rules_name_known_metrics_only() {
    let mut texts = documents();
    for file in &FILES[..2] {
        texts.push(((*file).to_owned(), read(file)));
    }
    for (file, text) in texts {
        assert_eq!(unknown_names(&text), BTreeSet::new(), "{file}");
    }
}

#[test]
fn renamed_metric_in_document_is_reported() {
    let text = "`mqtt_persistence_records` and job:mqtt_persistence_records:total";
    let expected = BTreeSet::from(["job:mqtt_persistence_records:total".to_owned()]);
    assert_eq!(unknown_names(text), expected);
}

#[test]
fn each_alert_has_labels_summary_board_and_runbook() {
    for alert in alerts() {
        let (name, labels, annotations) = (name(alert), &alert["labels"], &alert["annotations"]);
        assert!(name.starts_with("MqttPersistence"), "{name}");
        assert!(
            ["warning", "critical"].contains(&text(&labels["severity"])),
            "{name}"
        );
        assert!(
            ["store", "backlog", "target", "application", "records"]
                .contains(&text(&labels["problem"])),
            "{name}"
        );
        let fleet = name.contains("Fleet") || name.ends_with("Absent");
        assert_eq!(
            labels["scope"],
            if fleet { "fleet" } else { "device" },
            "{name}"
        );
        assert!(!text(&annotations["summary"]).is_empty(), "{name}");
        assert!(!text(&annotations["description"]).is_empty(), "{name}");
        let board = if fleet { "fleet" } else { "device" };
        let dashboard = text(&annotations["dashboard_url"]);
        assert!(
            dashboard.starts_with(&format!("{GRAFANA}{board}")),
            "{name}"
        );
        assert_eq!(
            annotations["runbook_url"],
            format!("{RUNBOOKS}{}", name.to_lowercase()),
            "{name}"
        );
    }
}

#[test]
fn runbook_sections_and_alerts_match() {
    let runbooks = read("runbooks.md");
    let mut sections = BTreeSet::new();
    for section in runbooks.split("\n### ").skip(1) {
        let name = section.lines().next().unwrap_or_default();
        for part in ["**Means.** ", "**Check.** ", "**Do.** "] {
            assert!(section.contains(part), "{name}: no {part}");
        }
        assert!(sections.insert(name.to_owned()), "{name}: twice");
    }
    let alerts: BTreeSet<String> = alerts().map(|alert| name(alert).to_owned()).collect();
    assert_eq!(sections, alerts);
    for anchor in runbooks.split("](#").skip(1) {
        let anchor = anchor.split(')').next().unwrap_or_default();
        assert!(
            alerts.iter().any(|alert| alert.to_lowercase() == anchor),
            "{anchor}"
        );
    }
}

#[test]
fn panels_named_in_runbooks_are_on_some_board() {
    let boards = Dashboard::all();
    let mut titles: Vec<String> = boards
        .iter()
        .map(|board| text(&board.json["title"]).to_owned())
        .collect();
    for board in &boards {
        titles.extend(
            board
                .panels()
                .iter()
                .map(|panel| text(&panel["title"]).to_owned()),
        );
    }
    let runbooks = read("runbooks.md");
    // Between single stars, and not in code: *Calls under way*.
    let prose: String = runbooks.split('`').step_by(2).collect();
    let named = prose
        .replace("**", "")
        .split('*')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect::<Vec<_>>();
    assert!(named.len() > 10);
    for panel in named {
        let panel = panel.replace('\n', " ");
        let elsewhere = ["Waiting", "Status, Targets", "Metrics"].contains(&panel.as_str());
        assert!(
            elsewhere || titles.iter().any(|title| title.starts_with(&panel)),
            "no panel {panel}"
        );
    }
}

/// For each alert, whether it is tested firing and whether it is tested quiet, by its severity if it has two.
fn tested(tests: &Value) -> BTreeMap<String, (bool, bool)> {
    let mut tested: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for test in array(&tests["tests"]) {
        for case in array(&test["alert_rule_test"]) {
            let (name, expected) = (text(&case["alertname"]), array(&case["exp_alerts"]));
            for alert in alerts().filter(|alert| testkit::rules::name(alert) == name) {
                let severity = &alert["labels"]["severity"];
                let fires = expected
                    .iter()
                    .any(|one| &one["exp_labels"]["severity"] == severity);
                let entry = tested.entry(format!("{name} {severity}")).or_default();
                entry.0 |= fires;
                entry.1 |= !fires;
            }
        }
    }
    tested
}

#[test]
fn each_alert_has_firing_and_quiet_test_case() {
    let tested = tested(&yaml(ALERT_TESTS));
    for alert in alerts() {
        let name = format!("{} {}", name(alert), alert["labels"]["severity"]);
        assert_eq!(tested.get(&name), Some(&(true, true)), "{name}");
    }
}

#[test]
fn shortened_rules_keep_no_original_time() {
    let folder = tempfile::tempdir().expect("a folder");
    testkit::rules::shorten(100, folder.path());
    for file in FILES {
        let shorter = folder.path().join(path(file).file_name().expect("a name"));
        let shorter = fs::read_to_string(shorter).expect("a copy");
        for line in shorter.lines() {
            let is_long = ["m]", "h]", "d]"].iter().any(|end| line.contains(end));
            let times = ["for: ", "interval: "];
            let holds = times.iter().any(|time| line.trim_start().starts_with(time));
            let holds = holds && !line.ends_with("ms");
            let offset = line.split_once(" offset ").map(|(_, rest)| rest);
            let offset = offset.and_then(|rest| rest.split([' ', ')']).next());
            let looks_back = offset.is_some_and(|time| !time.ends_with("ms"));
            let ages =
                line.contains("age_seconds") && line.contains(" > ") && !line.contains("/ 100");
            assert!(!(is_long || holds || looks_back || ages), "{file}: {line}");
        }
    }
}

/// The labels of the series of a profile that a selector could match.
fn selected(selector: &Selector, is_lean: bool) -> BTreeSet<BTreeMap<String, String>> {
    let families = families(is_lean);
    let suffixes = ["_bucket", "_sum", "_count", ""];
    let name = &selector.metric;
    let families = families.iter().filter(|family| {
        let mut suffixes = suffixes.iter();
        suffixes.any(|suffix| name.strip_suffix(suffix) == Some(family.name()))
    });
    let series = families.flat_map(MetricFamily::get_metric).map(|metric| {
        let labels = metric.get_label().iter();
        let labels = labels.map(|pair| (pair.name().to_owned(), pair.value().to_owned()));
        labels.collect::<BTreeMap<_, _>>()
    });
    series
        .filter(|labels| matches(&selector.matchers, labels))
        .collect()
}

/// Returns true if the lean profile has a series that a selector could match.
pub fn lean_has(selector: &Selector) -> bool {
    !selected(selector, true).is_empty()
}

/// Returns true if a selector with these matchers takes a series with these labels; labels that are not ours match.
fn matches(matchers: &str, labels: &BTreeMap<String, String>) -> bool {
    matchers.split(", ").all(|matcher| {
        let Some((label, value)) = matcher.split_once('=') else {
            return true;
        };
        let values = value.trim_start_matches('~').trim_matches('"');
        match labels.get(label.trim()) {
            Some(own) if !values.starts_with('$') => values.split('|').any(|value| value == *own),
            _ => true,
        }
    })
}

#[test]
fn lean_profile_has_series_that_rules_read() {
    const EXCEPT: [&str; 4] = [
        // The rules know that these may begin later.
        "mqtt_persistence_operation_errors_total",
        "mqtt_persistence_store_errors_total",
        "mqtt_persistence_dropped_records_total",
        // The series of puts suffices to see that calls end.
        "mqtt_persistence_operation_duration_seconds_count",
    ];
    for rule in load() {
        for selector in selectors(text(&rule["expr"])) {
            let [full, lean] = [false, true].map(|is_lean| selected(&selector, is_lean));
            let is_except = EXCEPT.contains(&&*selector.metric);
            assert!(
                is_except || lean == full,
                "{}: {selector:?} has {lean:?} of {full:?}",
                name(rule)
            );
        }
    }
}
