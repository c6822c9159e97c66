//! promtool accepts the rules for Prometheus, their unit tests pass, and fail once a rule is changed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    dashboard::{array, path, read, text},
    rules::{FILES, yaml},
};

const RECORDING_TESTS: &str = "rules/tests/mqtt-persistence.recording.test.yml";
const ALERT_TESTS: &str = "rules/tests/mqtt-persistence.alerts.test.yml";
const DAY_TESTS: &str = "rules/tests/mqtt-persistence.days.test.yml";

/// Runs promtool and returns its output, as an error if it fails.
fn promtool(arguments: &[&str], files: &[PathBuf]) -> Result<String, String> {
    let output = Command::new("promtool")
        .args(arguments)
        .args(files)
        // Garbage collection would take a quarter of its time.
        .env("GOGC", "400")
        .output()
        .expect("promtool runs");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

/// Names of the YAML files in a folder below `dashboards/`, with the folder.
fn files(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(path(folder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| format!("{folder}/{}", name.to_string_lossy()))
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "yml"))
        .collect()
}

#[test]
fn rule_files_pass_promtool_check() {
    assert_eq!(files("rules"), FILES.map(str::to_owned).into());
    promtool(&["check", "rules"], &FILES.map(path)).expect("valid rules");
    // Each of these has a test of its own below, so that they run in parallel.
    let run = [RECORDING_TESTS, ALERT_TESTS, DAY_TESTS];
    assert_eq!(files("rules/tests"), run.map(str::to_owned).into());
}

#[track_caller]
fn pass(tests: &str) {
    let output = promtool(&["test", "rules"], &[path(tests)]).expect("the unit tests pass");
    assert!(output.contains("SUCCESS"), "{output}");
}

#[test]
fn recording_rules_pass_unit_tests() {
    pass(RECORDING_TESTS);
}

#[test]
fn alerts_pass_unit_tests() {
    pass(ALERT_TESTS);
}

#[test]
fn alert_over_days_passes_unit_tests() {
    pass(DAY_TESTS);
}

/// Copy of the rules, with some of the unit tests of one file.
struct Copy {
    folder: TempDir,
    tests: PathBuf,
}

impl Copy {
    fn new(file: &str, tests: &Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let tests_path = folder.path().join(file);
        fs::create_dir_all(tests_path.parent().expect("a folder")).expect("a folder");
        for copied in FILES {
            fs::write(folder.path().join(copied), read(copied)).expect("written");
        }
        // JSON is valid YAML.
        fs::write(&tests_path, tests.to_string()).expect("written");
        Self {
            folder,
            tests: tests_path,
        }
    }

    fn change(&self, file: &str, from: &str, to: &str) {
        let path = self.folder.path().join(file);
        let rules = fs::read_to_string(&path).expect("rules");
        assert!(rules.contains(from), "{file}: no {from}");
        fs::write(path, rules.replace(from, to)).expect("written");
    }

    fn run(&self) -> Result<String, String> {
        promtool(&["test", "rules"], std::slice::from_ref(&self.tests))
    }
}

#[test]
fn changed_recording_rule_fails_its_unit_tests() {
    let copy = Copy::new(RECORDING_TESTS, &yaml(RECORDING_TESTS));
    copy.change(FILES[0], "sent_publish", "sent_pubrel");
    let failure = copy.run().expect_err("the change is noticed");
    assert!(
        failure.contains("mqtt_persistence_waiting_age_seconds:max"),
        "{failure}"
    );
}

/// Runs only the first group of tests in which each of these alerts fires: the whole file takes many times as long.
#[test]
fn changed_alerts_fail_their_unit_tests() {
    const CHANGED: [&str; 2] = [
        "MqttPersistenceBacklogGrowing",
        "MqttPersistenceCallsFailing",
    ];
    let mut tests = yaml(ALERT_TESTS);
    let fires = |group: &Value, name: &str| {
        let mut cases = array(&group["alert_rule_test"]).iter();
        cases.any(|case| text(&case["alertname"]) == name && !array(&case["exp_alerts"]).is_empty())
    };
    let groups = array(&tests["tests"]);
    let groups = CHANGED.map(|name| {
        let group = groups.iter().find(|group| fires(group, name));
        group
            .unwrap_or_else(|| panic!("{name} fires in no test"))
            .clone()
    });
    tests["tests"] = json!(groups);
    let copy = Copy::new(ALERT_TESTS, &tests);
    copy.run().expect("the unit tests pass before the change");
    copy.change(FILES[1], "for: 30m", "for: 1m");
    let (from, to) = ("operation_errors_total", "operation_failures_total");
    copy.change(FILES[1], from, to);
    let failure = copy.run().expect_err("the changes are noticed");
    for name in CHANGED {
        assert!(
            failure.contains(&format!("alertname: {name},")),
            "{name}: {failure}"
        );
    }
}
