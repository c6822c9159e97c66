//! The lists of the README match the code: metrics, options, features, errors, rights and the Redis configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    ErrorKind, MetricsServer, RedisPersistence,
    prometheus::{
        Registry,
        proto::{LabelPair, Metric, MetricFamily, MetricType},
    },
};
use testkit::{RedisServer, log::Log, publish_command, rules::families};

const README: &str = include_str!("../../README.md");

/// The rows of the table that has this first column's title, behind the given text, as trimmed cells.
fn table(behind: &str, title: &str) -> Vec<Vec<String>> {
    let (_, rest) = README
        .split_once(behind)
        .unwrap_or_else(|| panic!("no {behind:?}"));
    let header = format!("| {title} |");
    let lines = rest
        .lines()
        .skip_while(|line| !line.starts_with(&header))
        .skip(2);
    let rows: Vec<Vec<String>> = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect();
    assert!(!rows.is_empty(), "no table {title:?} behind {behind:?}");
    rows
}

fn code(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn first_column(behind: &str, title: &str) -> Vec<String> {
    table(behind, title)
        .iter()
        .flat_map(|row| code(&row[0]))
        .collect()
}

#[test]
fn metrics_table_matches_registered_metrics() {
    let registered: BTreeMap<String, (String, Vec<String>)> = families(false)
        .iter()
        .map(|family| {
            let kind = match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::GAUGE => "gauge",
                MetricType::HISTOGRAM => "histogram",
                other => panic!("{other:?}"),
            };
            let labels = family.get_metric()[0]
                .get_label()
                .iter()
                .map(LabelPair::name);
            let mut labels: Vec<_> = labels
                .filter(|name| *name != "client_id")
                .map(str::to_owned)
                .collect();
            labels.sort();
            (family.name().to_owned(), (kind.to_owned(), labels))
        })
        .collect();
    let described = table("## Metrics", "name").into_iter().map(|row| {
        let mut labels = code(&row[2]);
        labels.sort();
        (code(&row[0]).remove(0), (row[1].clone(), labels))
    });
    assert_eq!(described.collect::<BTreeMap<_, _>>(), registered);
}

#[test]
fn lean_profile_table_matches_its_series() {
    // Some begin with the first error.
    let mut present: BTreeSet<String> = families(true)
        .iter()
        .map(|family| family.name().to_owned())
        .collect();
    present.insert("mqtt_persistence_store_errors_total".to_owned());
    let rows = table("### A fleet of thousands", "series");
    let described = rows.iter().map(|row| code(&row[0]).remove(0));
    assert_eq!(described.collect::<BTreeSet<_>>(), present);
    for row in rows {
        let name = code(&row[0]).remove(0);
        let Some(family) = families(true).iter().find(|family| family.name() == name) else {
            continue;
        };
        let labels = family.get_metric().iter().flat_map(Metric::get_label);
        let values = labels
            .filter(|pair| ["kind", "operation", "error"].contains(&pair.name()))
            .map(|pair| pair.value().to_owned());
        let values: BTreeSet<String> = values.collect();
        assert_eq!(
            code(&row[1]).into_iter().collect::<BTreeSet<_>>(),
            values,
            "{name}"
        );
    }
}

#[test]
fn label_values_match_text() {
    for (label, introduction) in [("operation", "`operation` is "), ("kind", "`kind` is ")] {
        let mut values: Vec<&str> = families(false)
            .iter()
            .flat_map(MetricFamily::get_metric)
            .flat_map(Metric::get_label)
            .filter(|pair| pair.name() == label)
            .map(LabelPair::value)
            .collect();
        values.sort_unstable();
        values.dedup();
        let (_, text) = README.split_once(introduction).expect(introduction);
        let sentence = text.split(". ").next().expect("a sentence");
        let mut named = code(sentence);
        named.sort();
        named.dedup();
        assert_eq!(named, values, "{label}");
    }
}

#[test]
fn server_limits_match_table() {
    let defaults = format!("{:?}", MetricsServer::builder(Registry::new()));
    let limits = table("`MetricsServer::builder(registry)`", "option");
    for row in limits.iter().filter(|row| row[1] != "none") {
        let value = row[1].replace("8 KiB", "8192").replace("5 s", "5s");
        let expected = format!("{}: {value}", code(&row[0]).remove(0));
        assert!(defaults.contains(&expected), "{expected} in {defaults}");
    }
}

#[test]
fn error_table_matches_error_kinds() {
    let kinds: Vec<_> = ErrorKind::ALL
        .iter()
        .map(|kind| kind.as_str().to_owned())
        .collect();
    assert_eq!(first_column("## Metrics", "error"), kinds);
}

/// The methods of a builder that set something, from its source.
fn setters(source: &str) -> Vec<String> {
    source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub fn ")?.split_once("(mut self"))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[test]
fn option_tables_match_builder_methods() {
    for (builder, source) in [
        (
            "`RedisPersistence::builder()`",
            include_str!("../../src/redis/builder.rs"),
        ),
        (
            "`PersistenceMetrics::builder()`",
            include_str!("../../src/metrics/builder.rs"),
        ),
        (
            "`MetricsServer::builder(registry)`",
            include_str!("../../src/server/builder.rs"),
        ),
    ] {
        assert_eq!(
            first_column(builder, "option"),
            setters(source),
            "{builder}"
        );
    }
}

#[test]
fn redis_option_defaults_match_table() {
    let defaults = format!("{:?}", RedisPersistence::builder());
    for row in table("`RedisPersistence::builder()`", "option") {
        let option = code(&row[0]).remove(0);
        let Some(default) = code(&row[1]).pop() else {
            assert_eq!(row[1], "none", "{option}");
            continue;
        };
        let plain = format!("{option}: {default}");
        let quoted = format!("{option}: \"{default}\"");
        assert!(
            defaults.contains(&plain) || defaults.contains(&quoted),
            "{plain} in {defaults}"
        );
    }
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
    let described: BTreeMap<String, String> = table("## Features", "feature")
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

/// The line of rights, as the arguments of `ACL SETUSER`, and its password.
fn rights() -> (Vec<String>, String) {
    let line = README
        .lines()
        .find(|line| line.starts_with("user mqtt on"))
        .expect("an ACL line");
    let words: Vec<String> = line.split(' ').skip(1).map(str::to_owned).collect();
    let password = words
        .iter()
        .find_map(|word| word.strip_prefix('>'))
        .expect("a password");
    (words.clone(), password.to_owned())
}

/// Everything that a persistence does, as the user with these rights.
fn everything(redis: &RedisServer, rights: &[String], password: &str) -> paho_mqtt::Result<()> {
    let mut raw = redis.connection();
    redis::cmd("ACL")
        .arg("DELUSER")
        .arg("mqtt")
        .exec(&mut raw)
        .expect("ACL DELUSER");
    redis::cmd("ACL")
        .arg("SETUSER")
        .arg(rights)
        .exec(&mut raw)
        .expect("ACL SETUSER");
    let url = format!("{}?user=mqtt&pass={password}", redis.url());
    let mut persistence = RedisPersistence::builder()
        .url(url)
        .key_prefix("mqtt:")
        .build()?;
    persistence.connect("device-1", "mqtt://127.0.0.1:1883")?;
    persistence.open("device-1", "127.0.0.1:1883")?;
    persistence.put("c-1", vec![&publish_command(7, 1, "topic", b"")])?;
    persistence.get("c-1")?;
    persistence.remove("c-1")?;
    persistence.put("s-7", vec![b"PUBLISH"])?;
    persistence.keys()?;
    persistence.remove("s-7")?;
    persistence.put("q-1", vec![b"x"])?;
    persistence.put("q-2", vec![b"x"])?;
    persistence.clear()?;
    persistence.close()
}

#[test]
fn acl_rights_are_sufficient_and_minimal() {
    let redis = RedisServer::start();
    let (all, password) = rights();
    let lacks_something = |rights: &[String]| {
        let log = Log::default();
        let done = log.during(|| everything(&redis, rights, &password));
        // The persistence works without some rights, and logs the consequence.
        done.is_err() || log.text().contains("docs/redis.md has the ACL line")
    };
    assert!(!lacks_something(&all), "these rights are not enough");
    everything(&redis, &all, &password).expect("these rights are enough");
    let commands: Vec<_> = all.iter().filter(|word| word.starts_with('+')).collect();
    assert!(commands.len() >= 5, "{commands:?}");
    for right in commands {
        let fewer: Vec<String> = all.iter().filter(|word| *word != right).cloned().collect();
        assert!(lacks_something(&fewer), "{right} is not needed");
    }
}

/// The first text of the README between these two.
fn between(start: &str, end: &str) -> &'static str {
    let (_, rest) = README.split_once(start).expect(start);
    rest.split_once(end).expect(end).0
}

#[test]
fn acl_file_admits_documented_url_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users.acl");
    let users = between("```text\nuser", "```");
    fs::write(&file, format!("user{users}")).expect("a file");
    let redis = RedisServer::with(&["--aclfile", file.to_str().expect("UTF-8")]);
    let socket = redis.socket().display().to_string();
    let user = between(".url(\"unix:///run/redis/redis.sock?", "\")");
    for (user, prefix, enters) in [
        (user, "mqtt:", true),
        (user, "", false),
        ("", "mqtt:", false),
    ] {
        let mut persistence = RedisPersistence::builder()
            .url(format!("unix://{socket}?{user}"))
            .key_prefix(prefix)
            .build()
            .expect("valid");
        let connected = persistence.connect("device-1", "mqtt://127.0.0.1:1883");
        assert_eq!(connected.is_ok(), enters, "{user} {prefix}: {connected:?}");
    }
}

#[test]
fn redis_configuration_works_with_documented_settings() {
    let conf = testkit::repository().join("examples/redis.conf");
    let redis = RedisServer::configured(&conf);
    let mut raw = redis.connection();
    for (option, value) in [
        ("maxmemory-policy", "noeviction"),
        ("appendonly", "no"),
        ("save", ""),
        ("port", "0"),
    ] {
        let pair: Vec<String> = redis::cmd("CONFIG")
            .arg("GET")
            .arg(option)
            .query(&mut raw)
            .expect("CONFIG GET");
        assert_eq!(pair, [option, value]);
    }
    let mode = fs::metadata(redis.socket())
        .expect("a socket")
        .permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o770
    );
    let mut persistence = RedisPersistence::builder()
        .url(redis.url())
        .build()
        .expect("valid");
    persistence
        .connect("device-1", "mqtt://127.0.0.1:1883")
        .expect("connects");
}
