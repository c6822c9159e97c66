//! Model of the Grafana dashboards, and the way in which Grafana fills in their variables.

use std::{fs, path::PathBuf};

use serde_json::Value;

/// File names of the dashboards.
pub const DASHBOARDS: [&str; 2] = ["fleet", "device"];

/// Path of a file below `dashboards/`.
pub fn path(file: &str) -> PathBuf {
    crate::repository().join("dashboards").join(file)
}

/// Text of a file below `dashboards/`.
pub fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("dashboards/{file}: {error}"))
}

/// Dashboard.
pub struct Dashboard {
    pub file: &'static str,
    pub json: Value,
}

/// Query of a panel or an annotation.
pub struct Query {
    /// Title of the panel, or name of the annotation.
    pub of: String,
    pub expression: String,
    /// Set if the query returns only the last value instead of the whole range.
    pub instant: bool,
}

impl Dashboard {
    /// Reads a dashboard.
    pub fn load(file: &'static str) -> Self {
        let text = read(&format!("{file}.json"));
        let json =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}.json: {error}"));
        Self { file, json }
    }

    /// Reads all dashboards.
    pub fn all() -> Vec<Self> {
        DASHBOARDS.map(Self::load).into()
    }

    /// Panels, without the row headings.
    pub fn panels(&self) -> Vec<&Value> {
        let panels = array(&self.json["panels"]).iter();
        panels.filter(|panel| panel["type"] != "row").collect()
    }

    /// Queries of the panels and annotations.
    pub fn queries(&self) -> Vec<Query> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in array(&panel["targets"]) {
                queries.push(query(&panel["title"], target));
            }
        }
        for annotation in array(&self.json["annotations"]["list"]) {
            queries.push(query(&annotation["name"], &annotation["target"]));
        }
        queries
    }

    /// Variables.
    pub fn variables(&self) -> &[Value] {
        array(&self.json["templating"]["list"])
    }
}

fn query(of: &Value, target: &Value) -> Query {
    Query {
        of: text(of).to_owned(),
        expression: text(&target["expr"]).to_owned(),
        instant: target["instant"] == true,
    }
}

/// Elements of an array; empty if it is missing.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Text of a string; empty if it is missing.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Fills in the variables as Grafana's Prometheus data source does: 'All' is the variable's own value for that; selected values
/// are escaped for a regular expression within a string of `PromQL`, and several are alternatives.
pub fn fill(
    expression: &str,
    selected: &[(&str, &[&str])],
    rate_interval: &str,
    range: &str,
) -> String {
    let mut filled = expression
        .replace("$__rate_interval", rate_interval)
        .replace("$__range", range);
    for name in ["job", "instance", "client_id"] {
        let value = selected.iter().find(|(variable, _)| *variable == name);
        let value = match value {
            None => ".+".to_owned(),
            Some((_, [value])) => escaped(value),
            Some((_, values)) => {
                let values: Vec<String> = values.iter().map(|value| escaped(value)).collect();
                format!("({})", values.join("|"))
            }
        };
        filled = filled.replace(&format!("\"${name}\""), &format!("\"{value}\""));
    }
    assert!(!filled.contains('$'), "unknown variable in {filled}");
    filled
}

fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for c in value.chars() {
        match c {
            '\\' => escaped.push_str("\\\\\\\\"),
            '$' | '^' | '*' | '{' | '}' | '[' | ']' | '\'' | '+' | '?' | '.' | '(' | ')' | '|' => {
                escaped.push_str("\\\\");
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}
