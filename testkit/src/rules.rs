//! Model of the Prometheus rules, and copies of them with shorter times.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
    sync::{Arc, LazyLock},
};

use paho_mqtt_redis::{
    Error, ErrorKind, MemoryPersistence, PersistenceMetrics, Session, StoreEvent, StoreObserver,
    prometheus::{
        Registry,
        proto::{MetricFamily, MetricType},
    },
};
use serde_json::Value;

use super::dashboard::{array, read, text};

/// Files of rules below `dashboards/`.
pub const FILES: [&str; 2] = [
    "rules/mqtt-persistence.recording.yml",
    "rules/mqtt-persistence.alerts.yml",
];

/// File with the alerts of a Prometheus above those of regions, which stand alone.
pub const REGION_ALERTS: &str = "provisioning/federation/mqtt-regions.yml";

/// Rules of all files, as Prometheus reads them.
pub fn load() -> &'static [Value] {
    static RULES: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let mut rules = Vec::new();
        for file in FILES {
            for group in array(&yaml(file)["groups"]) {
                rules.extend(array(&group["rules"]).iter().cloned());
            }
        }
        assert!(!rules.is_empty(), "no rules");
        rules
    });
    &RULES
}

/// Alerts; one name can have several severities.
pub fn alerts() -> impl Iterator<Item = &'static Value> {
    load().iter().filter(|rule| rule["alert"].is_string())
}

/// Alerts of a Prometheus above those of regions.
pub fn region_alerts() -> &'static [Value] {
    static ALERTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
        let groups = yaml(REGION_ALERTS);
        let groups = array(&groups["groups"]).iter();
        let rules = groups.flat_map(|group| array(&group["rules"]));
        rules.cloned().collect()
    });
    &ALERTS
}

/// Names of the recorded series.
pub fn recorded() -> &'static BTreeSet<String> {
    static NAMES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let names = load().iter().filter_map(|rule| rule["record"].as_str());
        names.map(str::to_owned).collect()
    });
    &NAMES
}

/// Parses a YAML file below `dashboards/`.
pub fn yaml(file: &str) -> Value {
    serde_norway::from_str(&read(file)).unwrap_or_else(|error| panic!("dashboards/{file}: {error}"))
}

/// Families that the code registers for one client, with the lean profile or the full one.
pub fn families(is_lean: bool) -> &'static [MetricFamily] {
    static FULL: LazyLock<Vec<MetricFamily>> = LazyLock::new(|| gather(false));
    static LEAN: LazyLock<Vec<MetricFamily>> = LazyLock::new(|| gather(true));
    if is_lean { &LEAN } else { &FULL }
}

fn gather(is_lean: bool) -> Vec<MetricFamily> {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::builder();
    let metrics = if is_lean { metrics.lean() } else { metrics };
    let metrics = metrics.register(&registry).expect("registers");
    // An address of no broker: it has every series all the same.
    let client = Session::new("id", "mqtt://127.0.0.1:1")
        .persistence(MemoryPersistence::new())
        .metrics(&metrics)
        .start()
        .expect("starts");
    let mut families = registry.gather();
    let names: BTreeSet<String> = families.iter().map(|it| it.name().to_owned()).collect();
    // A family may have series only during an outage. A counter that has some then is in the other profile from the start.
    let error = Error::new(ErrorKind::Connection, "connect");
    metrics.on_event("in an outage", &StoreEvent::down(Arc::new(error)));
    let in_outage = registry.gather().into_iter();
    families.extend(in_outage.filter(|family| {
        family.get_field_type() == MetricType::GAUGE && !names.contains(family.name())
    }));
    drop(client);
    families
}

/// Names of the series that the code registers, each with the name of its family.
pub fn registered() -> &'static BTreeMap<String, String> {
    static NAMES: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
        let mut names = BTreeMap::new();
        for family in families(false) {
            let name = family.name();
            let suffixes: &[&str] = match family.get_field_type() {
                MetricType::HISTOGRAM => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            for suffix in suffixes {
                names.insert(format!("{name}{suffix}"), name.to_owned());
            }
        }
        names
    });
    &NAMES
}

/// Copies the rules into `folder` with all times divided by `factor`, as `scripts/shorten-rules` does.
pub fn shorten(factor: u32, folder: &Path) {
    let script = crate::repository().join("scripts/shorten-rules");
    let output = Command::new(script)
        .arg(factor.to_string())
        .arg(folder)
        .output()
        .expect("scripts/shorten-rules runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Name of an alert or of a recorded series.
pub fn name(rule: &Value) -> &str {
    match &rule["alert"] {
        Value::Null => text(&rule["record"]),
        alert => text(alert),
    }
}
