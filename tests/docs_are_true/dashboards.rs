//! The dashboards keep the rules of Grafana's dashboard linter and our own, and read known series only.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use testkit::{
    dashboard::{Dashboard, array, text},
    promql::{Selector, selectors},
    rules::{recorded, registered, yaml},
};

const SCHEMA_VERSION: u32 = 42;
const BOTH_MATCHERS: &str = r#"job=~"$job", instance=~"$instance""#;
/// The rules of Grafana's linter from which a panel can be excused.
const RULES: [&str; 2] = [INSTANCE, COUNTER];
const INSTANCE: &str = "target-instance-rule";
const COUNTER: &str = "target-counter-agg-rule";
/// The only counter that has its value when the series begins.
const COUNTED_AT_OPEN: &str = "mqtt_persistence_store_quarantined_records_total";
/// Series that Prometheus itself adds.
const OF_PROMETHEUS: [&str; 3] = ["up", "ALERTS", "ALERTS_FOR_STATE"];

/// The faults of a dashboard.
fn complaints(board: &Dashboard) -> Vec<String> {
    let json = &board.json;
    let mut wrong = Vec::new();
    let mut expect = |holds: bool, complaint: &str| {
        if !holds {
            wrong.push(complaint.to_owned());
        }
    };
    let uid = format!("mqtt-persistence-{}", board.file);
    expect(json["uid"] == uid.as_str(), "not its uid");
    expect(!text(&json["title"]).is_empty(), "no title");
    expect(
        text(&json["description"]).contains('?') || board.file == "device",
        "no description",
    );
    expect(json["editable"] == false, "it can be edited");
    expect(json["schemaVersion"] == SCHEMA_VERSION, "another schema");
    expect(
        json.get("__inputs").is_none(),
        "__inputs, which provisioning does not resolve",
    );
    expect(json.get("id").is_none(), "an id of one Grafana");
    wrong.extend(wrong_variables(board));
    wrong.extend(wrong_layout(board));
    wrong.extend(wrong_links(board));
    for panel in board.panels() {
        let title = text(&panel["title"]);
        wrong.extend(wrong_panel(panel).map(|complaint| format!("{title}: {complaint}")));
    }
    for panel in board
        .panels()
        .iter()
        .filter(|panel| panel["type"] == "table")
    {
        let title = text(&panel["title"]);
        wrong.extend(wrong_table(panel).map(|complaint| format!("{title}: {complaint}")));
    }
    let exceptions = RULES.map(|rule| (rule, excused(rule)));
    for query in board.queries() {
        let panel = (text(&json["title"]).to_owned(), query.of.clone());
        let excuses: Vec<&str> = exceptions
            .iter()
            .filter(|(_, panels)| panels.contains(&panel))
            .map(|(rule, _)| *rule)
            .collect();
        let complaints = wrong_query(&query.expression, &excuses);
        wrong.extend(complaints.map(|complaint| format!("{}: {complaint}", query.of)));
    }
    wrong
}

fn wrong_variables(board: &Dashboard) -> Vec<String> {
    let mut wrong = Vec::new();
    let variable = |name: &str| {
        board
            .variables()
            .iter()
            .find(|variable| variable["name"] == name)
    };
    let source = variable("datasource").cloned().unwrap_or_default();
    if source["type"] != "datasource"
        || source["query"] != "prometheus"
        || source["label"] != "Data source"
    {
        wrong.push("no variable for the data source".to_owned());
    }
    for (name, label) in [("job", "Job"), ("instance", "Instance")] {
        let variable = variable(name).cloned().unwrap_or_default();
        if variable["label"] != label {
            wrong.push(format!("no variable {name}, or not called {label}"));
        }
    }
    for variable in board
        .variables()
        .iter()
        .filter(|variable| variable["type"] == "query")
    {
        let holds = variable["multi"] == true
            && variable["includeAll"] == true
            && variable["allValue"] == ".+"
            && variable["refresh"] == 2
            && is_templated(&variable["datasource"]);
        if !holds {
            wrong.push(format!(
                "the variable {} is not as it should be",
                variable["name"]
            ));
        }
    }
    wrong
}

fn is_templated(source: &Value) -> bool {
    source["type"] == "prometheus" && source["uid"] == "${datasource}"
}

/// Panels have ids of their own and stand beside each other, in 24 columns.
fn wrong_layout(board: &Dashboard) -> Vec<String> {
    let mut wrong = Vec::new();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in array(&board.json["panels"]) {
        let title = text(&panel["title"]);
        if !ids.insert(panel["id"].as_u64()) {
            wrong.push(format!("{title}: an id for the second time"));
        }
        let [x, y, width, height] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap_or_default());
        if width == 0 || height == 0 || x + width > 24 {
            wrong.push(format!("{title}: no place"));
        }
        for column in x..x + width {
            for line in y..y + height {
                if !cells.insert((column, line)) {
                    wrong.push(format!("{title}: lies over another panel"));
                    return wrong;
                }
            }
        }
    }
    wrong
}

/// The boards lead to one another, with the time and the variables kept, and a row of a table to its device.
fn wrong_links(board: &Dashboard) -> Vec<String> {
    let mut wrong = Vec::new();
    let other = if board.file == "fleet" {
        "device"
    } else {
        "fleet"
    };
    let target = format!("/d/mqtt-persistence-{other}");
    let leads_there = |link: &Value| {
        link["url"] == target.as_str() && link["keepTime"] == true && link["includeVars"] == true
    };
    if !array(&board.json["links"]).iter().any(leads_there) {
        wrong.push(format!("no link to {target}"));
    }
    let mut to_device = 0;
    for panel in board.panels() {
        for link in data_links(panel) {
            let url = text(&link["url"]);
            to_device += usize::from(url.starts_with("/d/mqtt-persistence-device?"));
            for part in [
                "${datasource:queryparam}",
                "var-job=",
                "var-instance=",
                "${__url_time_range}",
            ] {
                if !url.contains(part) {
                    wrong.push(format!("{}: a link without {part}", panel["title"]));
                }
            }
        }
    }
    if board.file == "fleet" && to_device < 4 {
        wrong.push("the tables do not lead to the devices".to_owned());
    }
    wrong
}

fn data_links(panel: &Value) -> Vec<Value> {
    let config = &panel["fieldConfig"];
    let mut links = array(&config["defaults"]["links"]).to_vec();
    for property in array(&config["overrides"])
        .iter()
        .flat_map(|over| array(&over["properties"]))
    {
        if property["id"] == "links" {
            links.extend_from_slice(array(&property["value"]));
        }
    }
    links
}

fn wrong_panel(panel: &Value) -> impl Iterator<Item = &'static str> {
    let targets = array(&panel["targets"]);
    [
        (text(&panel["title"]).is_empty(), "no title"),
        (
            !text(&panel["description"]).contains('?'),
            "a description that says no question",
        ),
        (
            text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(),
            "no unit",
        ),
        (
            !is_templated(&panel["datasource"]),
            "not the data source of the variable",
        ),
        (targets.is_empty(), "no query"),
        (
            !targets
                .iter()
                .all(|target| is_templated(&target["datasource"])),
            "a query of another data source",
        ),
    ]
    .into_iter()
    .filter_map(|(wrong, complaint)| wrong.then_some(complaint))
}

/// Grafana would format names that look like numbers by the unit of a table, and it drops overrides of columns that are not
/// there without a word.
fn wrong_table(panel: &Value) -> impl Iterator<Item = String> {
    let config = &panel["fieldConfig"];
    let mut wrong = Vec::new();
    if config["defaults"]["unit"] != "string" {
        wrong.push("its unit is for every column, names included".to_owned());
    }
    let organized = array(&panel["transformations"])
        .iter()
        .find(|step| step["id"] == "organize");
    let renamed = organized.map(|step| &step["options"]["renameByName"]);
    let columns: Vec<&str> = renamed
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|names| names.values().map(text))
        .collect();
    for over in array(&config["overrides"]) {
        let column = text(&over["matcher"]["options"]);
        if !columns.contains(&column) {
            wrong.push(format!("no column {column}"));
        }
    }
    let labels: Vec<&String> = renamed
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|names| names.keys())
        .collect();
    for link in data_links(panel) {
        for part in text(&link["url"]).split("${__data.fields.").skip(1) {
            let label = part.split(':').next().unwrap_or_default();
            if !labels.iter().any(|name| *name == label) {
                wrong.push(format!("no label {label} for its link"));
            }
        }
    }
    wrong.into_iter()
}

/// The faults of a query, without those of the rules among the `excuses`.
fn wrong_query(expression: &str, excuses: &[&str]) -> impl Iterator<Item = String> {
    let mut wrong = Vec::new();
    for selector in selectors(expression) {
        let complaint = |fault: &str| format!("{}: {fault}", selector.metric);
        if !is_known(&selector) {
            wrong.push(complaint("there is no such series"));
        }
        let matchers = if excuses.contains(&INSTANCE) {
            r#"job=~"$job""#
        } else {
            BOTH_MATCHERS
        };
        if !selector.matchers.contains(matchers) {
            wrong.push(complaint(&format!("no {matchers}")));
        }
        let function = selector.function.as_deref().unwrap_or_default();
        let rate = ["rate", "irate", "increase"].contains(&function);
        match selector.range.as_deref() {
            None | Some("$__rate_interval") => {}
            Some("$__range") if !rate => {}
            Some(other) => wrong.push(complaint(&format!(
                "[{other}] is right for one time range only"
            ))),
        }
        if selector.metric.ends_with("_total") && !rate && !excuses.contains(&COUNTER) {
            wrong.push(complaint("a counter without rate"));
        }
        if has_integer_bound(&selector.matchers) {
            wrong.push(complaint("Prometheus 3 writes 1.0 for this le"));
        }
    }
    wrong.into_iter()
}

fn is_known(selector: &Selector) -> bool {
    let name = &selector.metric;
    OF_PROMETHEUS.contains(&name.as_str())
        || recorded().contains(name)
        || registered().contains_key(name)
}

fn has_integer_bound(matchers: &str) -> bool {
    matchers.split("le=").skip(1).any(|bound| {
        let bound = bound.trim_start_matches('~').trim_start_matches('"');
        bound
            .split('"')
            .next()
            .is_some_and(|bound| !bound.is_empty() && bound.chars().all(|c| c.is_ascii_digit()))
    })
}

/// The panels, each with its board, that a rule is not for.
fn excused(rule: &str) -> BTreeSet<(String, String)> {
    let rule = &yaml(".lint")["exclusions"][rule];
    assert!(
        !text(&rule["reason"]).is_empty(),
        "an exception without a reason"
    );
    let entries = array(&rule["entries"]).iter();
    entries
        .map(|entry| {
            (
                text(&entry["dashboard"]).to_owned(),
                text(&entry["panel"]).to_owned(),
            )
        })
        .collect()
}

/// A board with something changed in it.
fn changed(file: &'static str, pointer: &str, value: Value) -> Dashboard {
    let mut board = Dashboard::load(file);
    *board
        .json
        .pointer_mut(pointer)
        .unwrap_or_else(|| panic!("no {pointer}")) = value;
    board
}

/// The JSON pointer to the query of a panel.
fn pointer(board: &Dashboard, title: &str) -> String {
    let position = array(&board.json["panels"])
        .iter()
        .position(|panel| panel["title"] == title);
    format!(
        "/panels/{}/targets/0/expr",
        position.unwrap_or_else(|| panic!("no panel {title}"))
    )
}

#[test]
fn dashboards_pass_linter() {
    for board in Dashboard::all() {
        assert_eq!(complaints(&board), [""; 0], "{}", board.file);
    }
}

#[test]
fn every_registered_metric_is_on_device_board() {
    let board = Dashboard::load("device");
    let queries = board.queries();
    let read: BTreeSet<String> = queries
        .iter()
        .flat_map(|query| selectors(&query.expression))
        .map(|selector| selector.metric)
        .collect();
    let shown: BTreeSet<&String> = registered()
        .iter()
        .filter(|(series, _)| read.contains(*series))
        .map(|(_, family)| family)
        .collect();
    let all: BTreeSet<&String> = registered().values().collect();
    assert_eq!(shown, all);
}

#[test]
fn fleet_board_reads_recorded_series_only() {
    for query in Dashboard::load("fleet").queries() {
        for selector in selectors(&query.expression) {
            assert!(
                selector.metric.contains(':') || selector.metric.starts_with("ALERTS"),
                "{}: {}",
                query.of,
                selector.metric
            );
        }
    }
}

#[test]
fn each_linter_exception_is_needed_by_its_panel() {
    let exceptions = RULES.map(|rule| excused(rule).into_iter().map(move |panel| (rule, panel)));
    for (rule, (board, panel)) in exceptions.into_iter().flatten() {
        let boards = Dashboard::all();
        let board = boards
            .iter()
            .find(|one| one.json["title"] == board.as_str())
            .unwrap_or_else(|| panic!("no board {board}"));
        let queries = board.queries();
        let own: Vec<_> = queries.iter().filter(|query| query.of == panel).collect();
        assert!(!own.is_empty(), "no panel {panel}");
        for query in own {
            let complaints: Vec<_> = wrong_query(&query.expression, &[]).collect();
            assert_ne!(complaints, [""; 0], "{panel} needs no exception");
            let mut selectors = selectors(&query.expression).into_iter();
            let holds = match rule {
                INSTANCE => selectors.any(|selector| {
                    selector.metric.starts_with("job")
                        || selector.matchers.contains(r#"scope="fleet""#)
                }),
                _ => selectors.all(|selector| selector.metric == COUNTED_AT_OPEN),
            };
            assert!(holds, "{panel} could do without");
        }
    }
}

#[test]
fn linter_reports_renamed_metric() {
    let board = Dashboard::load("device");
    let at = pointer(&board, "Calls under way");
    let expression = text(board.json.pointer(&at).expect("a query")).to_owned();
    let renamed = expression.replace("operations_in_progress", "calls_in_progress");
    assert_ne!(renamed, expression);
    assert_eq!(
        complaints(&changed("device", &at, json!(renamed))),
        ["Calls under way: mqtt_persistence_calls_in_progress: there is no such series"]
    );
}

#[test]
fn linter_reports_missing_matcher() {
    let board = Dashboard::load("device");
    let at = pointer(&board, "Records by kind");
    let expression = text(board.json.pointer(&at).expect("a query"));
    let missing = expression.replace(r#"instance=~"$instance", "#, "");
    assert_ne!(missing, expression);
    assert_eq!(
        complaints(&changed("device", &at, json!(missing))),
        [format!(
            "Records by kind: mqtt_persistence_records: no {BOTH_MATCHERS}"
        )]
    );
}

#[test]
fn linter_reports_each_fault_of_board() {
    for (pointer, value, complaint) in [
        ("/editable", json!(true), "it can be edited"),
        ("/uid", json!("another"), "not its uid"),
        ("/schemaVersion", json!(36), "another schema"),
        (
            "/panels/0/description",
            json!("Devices."),
            "Devices: a description that says no question",
        ),
        ("/panels/0/title", json!(""), ": no title"),
        (
            "/panels/0/fieldConfig/defaults/unit",
            json!(""),
            "Devices: no unit",
        ),
        (
            "/panels/0/datasource/uid",
            json!("prometheus"),
            "Devices: not the data source of the variable",
        ),
        ("/panels/0/targets", json!([]), "Devices: no query"),
        (
            "/panels/0/targets/0/expr",
            json!("count(up)"),
            r#"Devices: up: no job=~"$job""#,
        ),
        (
            "/panels/1/gridPos/x",
            json!(1),
            "Not reachable: lies over another panel",
        ),
        (
            "/panels/1/id",
            json!(1),
            "Not reachable: an id for the second time",
        ),
        (
            "/links/0/keepTime",
            json!(false),
            "no link to /d/mqtt-persistence-device",
        ),
        (
            "/panels/6/fieldConfig/defaults/unit",
            json!("short"),
            "Alerts: its unit is for every column, names included",
        ),
        (
            "/panels/6/fieldConfig/overrides/0/matcher/options",
            json!("Value"),
            "Alerts: no column Value",
        ),
        (
            "/templating/list/0/label",
            json!("Source"),
            "no variable for the data source",
        ),
        (
            "/templating/list/1/label",
            json!("Jobs"),
            "no variable job, or not called Job",
        ),
        (
            "/templating/list/1/refresh",
            json!(1),
            "the variable \"job\" is not as it should be",
        ),
    ] {
        let wrong = complaints(&changed("fleet", pointer, value));
        assert!(
            wrong.iter().any(|one| one == complaint),
            "{pointer}: {wrong:?}"
        );
    }
}

#[test]
fn linter_reports_each_fault_of_query() {
    let wrong = |expression: &str| wrong_query(expression, &[]).collect::<Vec<_>>().join("; ");
    let errors = format!("mqtt_persistence_operation_errors_total{{{BOTH_MATCHERS}}}");
    let bucket = "mqtt_persistence_operation_duration_seconds_bucket";
    assert_eq!(wrong(&format!("sum(rate({errors}[$__rate_interval]))")), "");
    assert!(wrong(&format!("sum(rate({errors}[5m]))")).contains("one time range only"));
    assert!(wrong(&errors).contains("a counter without rate"));
    assert!(
        wrong(&format!("deriv({errors}[$__rate_interval])")).contains("a counter without rate")
    );
    assert!(wrong(&format!("{bucket}{{le=\"1\", {BOTH_MATCHERS}}}")).contains("1.0"));
    assert_eq!(
        wrong(&format!("{bucket}{{le=\"+Inf\", {BOTH_MATCHERS}}}")),
        ""
    );
}

#[test]
fn selectors_are_found_anywhere_in_expression() {
    let found = |expression: &str| {
        let selectors = selectors(expression).into_iter();
        selectors
            .map(|s| (s.metric, s.matchers, s.range, s.function))
            .collect::<Vec<_>>()
    };
    let one = |metric: &str, matchers: &str, range: Option<&str>, function: Option<&str>| {
        (
            metric.to_owned(),
            matchers.to_owned(),
            range.map(str::to_owned),
            function.map(str::to_owned),
        )
    };
    assert_eq!(
        found(
            r#"sum by (job, le) (rate(a:b{x="up{", y=~"z"}[5m])) / on (job) group_left () c_total > bool 1e3 * 60"#
        ),
        [
            one("a:b", r#"x="up{", y=~"z""#, Some("5m"), Some("rate")),
            one("c_total", "", None, None)
        ]
    );
    assert_eq!(
        found(
            "histogram_quantile(0.99, d) unless e offset 30m and absent( f ) != g offset $__range + h"
        ),
        [
            one("d", "", None, None),
            one("e", "", None, None),
            one("f", "", None, Some("absent")),
            one("g", "", None, None),
            one("h", "", None, None)
        ]
    );
}
