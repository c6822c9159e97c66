//! docs/opentelemetry.md quotes the example, and the configuration of the collector scrapes what the agent scrapes.
//!
//! No collector runs here: no package has one.

use std::{collections::BTreeSet, fs, process::Command};

use serde_json::Value;
use testkit::{
    dashboard::{array, text},
    rules::yaml,
};

use super::page::OPENTELEMETRY;

fn collector() -> Value {
    yaml("provisioning/opentelemetry/otelcol.yml")
}

#[test]
fn opentelemetry_page_quotes_example() {
    let example = include_str!("../../examples/opentelemetry.rs");
    let blocks: Vec<&str> = OPENTELEMETRY
        .0
        .split("```rust,ignore\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("```")?.0))
        .collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        assert!(example.contains(block), "not in the example: {block}");
    }
}

#[test]
fn collector_scrapes_job_of_agent() {
    let collector = collector();
    let config = &collector["receivers"]["prometheus"]["config"];
    let agent = yaml("provisioning/agent/prometheus-agent.yml");
    assert_eq!(config["scrape_configs"], agent["scrape_configs"]);
    assert_eq!(
        config["global"]["scrape_interval"],
        agent["global"]["scrape_interval"]
    );
    let writer = &collector["exporters"]["prometheus_remote_write"];
    assert_eq!(
        writer["external_labels"],
        agent["global"]["external_labels"]
    );
    assert_eq!(writer["endpoint"], agent["remote_write"][0]["url"]);
}

/// The receiver reads its configuration with the code of Prometheus.
#[test]
fn prometheus_accepts_configuration_of_receiver() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("prometheus.yml");
    let config = collector()["receivers"]["prometheus"]["config"].to_string();
    fs::write(&path, config).expect("written");
    let check = Command::new("promtool")
        .args(["check", "config"])
        .arg(&path)
        .output();
    let check = check.expect("promtool runs");
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn pipelines_use_each_component_of_collector() {
    let collector = collector();
    let pipelines = collector["service"]["pipelines"].as_object();
    let pipelines: Vec<&Value> = pipelines.expect("pipelines").values().collect();
    for kind in ["receivers", "processors", "exporters"] {
        let configured = collector[kind].as_object().expect(kind).keys();
        let configured: BTreeSet<&str> = configured.map(String::as_str).collect();
        let used = pipelines.iter().flat_map(|pipeline| array(&pipeline[kind]));
        assert_eq!(
            used.map(text).collect::<BTreeSet<_>>(),
            configured,
            "{kind}"
        );
    }
}
