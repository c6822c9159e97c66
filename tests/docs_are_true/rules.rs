//! The rules for Prometheus read known series only, each alert is tested and has its runbook, and the documents name no other
//! metric. `fleet_is_watched` has promtool run the unit tests of the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use paho_mqtt_redis::prometheus::proto::{LabelPair, Metric, MetricFamily};
use serde_json::Value;
use testkit::{
    dashboard::{Dashboard, array, path, read, text},
    promql::{Selector, selectors},
    rules::{FILES, alerts, families, load, name, recorded, region_alerts, registered, yaml},
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
const STORE_ERRORS: &str = "mqtt_persistence_store_errors_total";
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

/// Prometheus 3 writes the `le` of a bucket in another form.
#[test]
fn no_rule_or_board_selects_buckets_by_le() {
    let boards = Dashboard::all();
    let queries = boards.iter().flat_map(Dashboard::queries);
    let queries = queries.map(|query| query.expression);
    let variables = boards.iter().flat_map(Dashboard::variables);
    let variables = variables.map(|variable| text(&variable["query"]).to_owned());
    let rules = load().iter().map(|rule| text(&rule["expr"]).to_owned());
    let mut buckets = 0;
    for expression in queries.chain(variables).chain(rules) {
        for selector in selectors(&expression) {
            buckets += usize::from(selector.metric.ends_with("_bucket"));
            let matchers = selector.matchers.split([',', ' ']);
            let mut labels = matchers.map(|matcher| matcher.split(['=', '!']).next());
            assert!(!labels.any(|label| label == Some("le")), "{expression}");
        }
    }
    assert!(buckets > 0);
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
    for alert in alerts().chain(region_alerts()) {
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
        let is_of_jobs = name.contains("Fleet");
        let fleet = is_of_jobs
            || ["Absent", "RegionDown"]
                .iter()
                .any(|end| name.ends_with(end));
        assert_eq!(
            labels["scope"],
            if fleet { "fleet" } else { "device" },
            "{name}"
        );
        assert!(!text(&annotations["summary"]).is_empty(), "{name}");
        let description = text(&annotations["description"]);
        assert!(description.contains("First:"), "{name}: no first action");
        let (summary, place) = (
            text(&annotations["summary"]),
            if is_of_jobs { "job" } else { "instance" },
        );
        let names_place = summary.contains(&format!("$labels.{place}"));
        assert!(names_place || name.ends_with("Absent"), "{name}: {summary}");
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
fn backlog_of_one_device_only_warns() {
    for alert in alerts().filter(|alert| alert["labels"]["problem"] == "backlog") {
        let is_fleet = alert["labels"]["scope"] == "fleet";
        let severity = if is_fleet { "critical" } else { "warning" };
        assert_eq!(alert["labels"]["severity"], severity, "{}", name(alert));
    }
}

#[test]
fn alert_that_asks_for_restart_is_not_suppressed() {
    let inhibited = &yaml("provisioning/alertmanager/alertmanager.yml")["inhibit_rules"];
    for rule in array(inhibited) {
        let of_device = array(&rule["equal"]).len() == 3;
        let targets = rule["target_matchers"].to_string();
        for alert in [
            "RecordsDamaged",
            "PutsFailing",
            "CallStuck",
            "UndeliveredOld",
        ] {
            assert!(!(of_device && targets.contains(alert)), "{rule}");
        }
    }
}

/// The sections of the runbooks, by the alert.
fn sections(runbooks: &str) -> BTreeMap<&str, &str> {
    let sections = runbooks.split("\n### ").skip(1);
    sections
        .map(|section| section.split_once('\n').expect("a title and a text"))
        .collect()
}

#[test]
fn runbook_sections_and_alerts_match() {
    let runbooks = read("runbooks.md");
    let sections = sections(&runbooks);
    let alerts: BTreeSet<&str> = alerts().chain(region_alerts()).map(name).collect();
    assert_eq!(sections.keys().copied().collect::<BTreeSet<_>>(), alerts);
    for (name, section) in sections {
        let box_lines: Vec<&str> = section.trim().lines().take(4).collect();
        let begins = [
            "> - **Data at risk?** ",
            "> - **Restart safe?** ",
            "> - **Urgent?** ",
            "",
        ];
        for (line, begin) in box_lines.iter().zip(begins) {
            assert!(line.starts_with(begin), "{name}: {line}");
        }
        assert_eq!(box_lines[3], "", "{name}: more than a box");
        assert!(
            box_lines[1].contains("(#which-alert-comes-first)"),
            "{name}: no order"
        );
        let times = ["Minutes", "Hours", "Next day"];
        let is_time = times
            .iter()
            .any(|time| box_lines[2].contains(&format!("** {time}")));
        assert!(is_time, "{name}: {}", box_lines[2]);
        for part in ["\n1. ", "\n| you see | you do |\n"] {
            assert!(section.contains(part), "{name}: no {part}");
        }
    }
}

#[test]
fn runbooks_have_a_line_for_each_error_of_a_store() {
    let runbooks = read("runbooks.md");
    let (_, table) = runbooks
        .split_once("\n| error | you see | you do |\n")
        .expect("a table");
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let kinds: Vec<&str> = rows
        .map(|row| row.split('`').nth(1).expect("a kind"))
        .collect();
    let family = families(false)
        .iter()
        .find(|family| family.name() == STORE_ERRORS);
    let series = family.expect("errors of the store").get_metric().iter();
    let labels = series.flat_map(Metric::get_label);
    let known = labels
        .filter(|label| label.name() == "error")
        .map(LabelPair::value);
    assert_eq!(
        kinds.iter().copied().collect::<BTreeSet<_>>(),
        known.collect()
    );
    for alert in alerts().filter(|alert| alert["labels"]["problem"] == "store") {
        let section = sections(&runbooks)[name(alert)];
        assert!(
            section.contains("(#errors-of-the-store)"),
            "{}",
            name(alert)
        );
    }
}

#[test]
fn paragraphs_of_runbooks_are_short() {
    for paragraph in read("runbooks.md").split("\n\n") {
        let is_prose = !paragraph
            .trim_start()
            .starts_with(['|', '>', '`', '-', '#']);
        let is_prose = is_prose && !paragraph.contains("```");
        let lines = paragraph.trim().lines();
        let is_long = lines.clone().count() > 3 || lines.clone().any(|line| line.len() > 160);
        assert!(!(is_prose && is_long), "{paragraph}");
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
