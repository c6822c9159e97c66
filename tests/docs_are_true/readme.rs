//! README.md is short, and its features and its first program are those of the code.

use std::collections::BTreeMap;

use super::page::{README, code};

/// A longer README belongs into docs/.
const MAX_LINES: usize = 250;

#[test]
fn readme_has_at_most_250_lines() {
    let lines = README.0.lines().count();
    assert!(lines <= MAX_LINES, "{lines} lines");
}

#[test]
fn feature_table_matches_manifest() {
    let manifest = include_str!("../../Cargo.toml");
    let (_, features) = manifest.split_once("[features]\n").expect("features");
    let (features, _) = features.split_once("\n\n").expect("an end");
    let entries: BTreeMap<&str, &str> = features
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .collect();
    let described: BTreeMap<String, String> = README
        .table("## Features", "feature")
        .into_iter()
        .map(|row| (code(&row[0]).remove(0), row[1].clone()))
        .collect();
    let names: Vec<&str> = entries
        .keys()
        .copied()
        .filter(|name| *name != "default")
        .collect();
    assert_eq!(
        described.keys().map(String::as_str).collect::<Vec<_>>(),
        names
    );
    for (name, default) in &described {
        let is_default = entries["default"].contains(&format!("\"{name}\""));
        assert_eq!(default == "yes", is_default, "{name}");
    }
}
