//! The commands of docs/monitoring.md install everything for Prometheus, Alertmanager and Grafana to find. `scripts/test --quick` skips
//! the tests with `prometheus` in their names, which need its Debian packages.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use testkit::{
    Prometheus,
    dashboard::{DASHBOARDS, array, text},
    eventually_queried,
    rules::load,
    serving::serve,
};

use super::page::{FLEET, MONITORING};

const BEFORE: &str = "# Contents from before.\n";

/// Runs a program, which must succeed, and returns its output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// A folder in which the commands of docs/monitoring.md were carried out as if it were the root of the system.
fn provisioned() -> TempDir {
    let root = tempfile::tempdir().expect("a folder");
    for folder in ["etc/prometheus", "etc/grafana/provisioning", "var/lib"] {
        fs::create_dir_all(root.path().join(folder)).expect("a folder");
    }
    provision(&root);
    root
}

fn provision(root: &TempDir) {
    let commands = MONITORING.between("```sh\nsudo install", "```");
    let root_path = root.path().to_str().expect("UTF-8");
    let commands = format!("install{commands}")
        .replace("sudo ", "")
        .replace(" /etc/", &format!(" {root_path}/etc/"))
        .replace(" /var/", &format!(" {root_path}/var/"));
    run(Command::new("bash")
        .args(["-e", "-c", &commands])
        .current_dir(testkit::repository()));
}

/// The commands of docs/fleet.md work on a system that has neither Prometheus nor its folder.
#[test]
fn commands_of_fleets_need_no_other_service() {
    let blocks = FLEET.0.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|rest| Some(rest.split_once("```")?.0));
    let blocks: Vec<_> = blocks
        .filter(|block| block.contains("sudo install") && block.contains("systemctl enable"))
        .collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["etc/default", "etc/systemd/system"] {
            fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        // The packages that a block is about have made theirs.
        if block.contains("prometheus-agent") {
            fs::create_dir(root.path().join("etc/prometheus")).expect("a folder");
        }
        let path = root.path().to_str().expect("UTF-8");
        let commands = block
            .replace("sudo ", "")
            .replace(" -g prometheus", "")
            .replace(" -g _victoria-metrics", "")
            .replace("remote-write.password /etc", "/dev/null /etc")
            .replace(" /etc/", &format!(" {path}/etc/"));
        let script = format!(
            "install() {{ command install \"$@\" || exit; }}\n\
             systemctl() {{ echo \"$*\"; [[ $1 != disable ]]; }}\n{commands}"
        );
        let log = run(Command::new("bash")
            .args(["-c", &script])
            .current_dir(testkit::repository()));
        assert!(log.contains("\nenable --now "), "{block}: {log}");
    }
}

fn yaml(path: &Path) -> Value {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_norway::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn prometheus_loads_provisioned_rules_and_targets() {
    let root = provisioned();
    let config = root.path().join("etc/prometheus/prometheus.yml");
    run(Command::new("promtool")
        .args(["check", "config"])
        .arg(&config));

    let prometheus = Prometheus::configured(&config);
    let groups = prometheus.get("rules");
    let groups = array(&groups["data"]["groups"]).iter();
    let rules: usize = groups.map(|group| array(&group["rules"]).len()).sum();
    assert_eq!(rules, load().len());
    let instance = eventually_queried(Duration::from_secs(30), "there is a target", || {
        let targets = prometheus.get("targets");
        let target = array(&targets["data"]["activeTargets"]).first()?;
        Some(text(&target["labels"]["instance"]).to_owned())
    });
    assert_eq!(instance, "example-device");
}

#[test]
fn prometheus_takes_targets_from_http_service() {
    let root = provisioned();
    let config = root.path().join("etc/prometheus/prometheus.yml");
    let list = r#"[{"targets": ["127.0.0.1:1"], "labels": {"instance": "from the service"}}]"#;
    let service = serve("application/json", || list.to_owned());
    let text = fs::read_to_string(&config).expect("the configuration");
    let text = text
        .replace("    # http_sd_configs:", "    http_sd_configs:")
        .replace(
            "    #   - url: http://127.0.0.1:9465/targets",
            &format!("      - url: http://{service}/targets"),
        );
    fs::write(&config, text).expect("can be written");
    let prometheus = Prometheus::configured(&config);
    eventually_queried(Duration::from_secs(30), "its target is there", || {
        let targets = prometheus.get("targets");
        let mut targets = array(&targets["data"]["activeTargets"]).iter();
        targets
            .any(|target| target["labels"]["instance"] == "from the service")
            .then_some(())
    });
}

/// Options of a file that a program does not know, and warnings of systemd if it is a unit.
fn faults_of_options(file: &Path, program: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if file.extension().is_some_and(|end| end == "service") {
        let warnings = run(Command::new("systemd-analyze").arg("verify").arg(file));
        faults.extend(warnings.lines().map(str::to_owned));
    }
    let help = Command::new(program).arg("--help").output();
    let help = help.unwrap_or_else(|error| panic!("{program}: {error}"));
    let help = String::from_utf8_lossy(&[help.stdout, help.stderr].concat()).into_owned();
    let name = |word: &str| {
        let name = word.strip_prefix('-')?.trim_start_matches('-');
        name.split(['=', '"']).next().map(str::to_owned)
    };
    let known: BTreeSet<String> = help.split_whitespace().filter_map(name).collect();
    let text = fs::read_to_string(file).expect("a file");
    let lines = text.lines();
    let lines = lines.filter(|line| !line.starts_with('#') && !line.starts_with("ExecReload="));
    let words = lines.flat_map(str::split_whitespace);
    let options = words.filter_map(|word| name(word.trim_start_matches("ARGS=\"")));
    faults.extend(options.filter(|option| !known.contains(option)));
    faults
}

#[test]
fn prometheus_agent_takes_its_config_and_unit() {
    let folder = testkit::repository().join("dashboards/provisioning/agent");
    run(Command::new("promtool")
        .args(["check", "config", "--agent", "--syntax-only"])
        .arg(folder.join("prometheus-agent.yml")));
    let unit = folder.join("prometheus-agent.service");
    assert_eq!(faults_of_options(&unit, "prometheus"), [""; 0]);
    // A program that lacks the options is noticed.
    assert!(faults_of_options(&unit, "promtool").contains(&"storage.agent.path".to_owned()));
}

#[test]
fn prometheus_successors_take_their_configs_and_units() {
    let folder = testkit::repository().join("dashboards/provisioning");
    for (file, program) in [
        ("agent/vmagent.service", "vmagent"),
        ("victoria-metrics/vmalert.service", "vmalert"),
        (
            "victoria-metrics/victoria-metrics.default",
            "victoria-metrics",
        ),
    ] {
        let faults = faults_of_options(&folder.join(file), program);
        assert_eq!(faults, [""; 0], "{file}");
    }
    let option = |name: &str, file: &str| format!("-{name}={}", folder.join(file).display());
    run(Command::new("vmagent")
        .args(["-dryRun", "-remoteWrite.url=http://127.0.0.1:1"])
        .arg(option("promscrape.config", "agent/vmagent.yml"))
        .arg(option(
            "remoteWrite.relabelConfig",
            "agent/vmagent-relabel.yml",
        )));
    run(Command::new("vmalert")
        .arg("-dryRun")
        .arg(option("rule", "../rules/mqtt-persistence.*.yml")));
    run(Command::new("promtool")
        .args(["check", "config", "--syntax-only"])
        .arg(folder.join("federation/prometheus.yml")));
    run(Command::new("promtool")
        .args(["check", "rules"])
        .arg(folder.join("federation/mqtt-regions.yml")));
}

#[test]
fn prometheus_alertmanager_takes_its_config() {
    let root = provisioned();
    let config = root.path().join("etc/prometheus/alertmanager.yml");
    run(Command::new("amtool").arg("check-config").arg(config));
}

#[test]
fn grafana_provisioning_names_boards_and_data_source() {
    let root = provisioned();
    let provisioning = root.path().join("etc/grafana/provisioning");
    let provider = yaml(&provisioning.join("dashboards/mqtt-persistence.yml"));
    assert_eq!(provider["apiVersion"], 1);
    let provider = &provider["providers"][0];
    assert_eq!(provider["type"], "file");
    let boards = text(&provider["options"]["path"]).trim_start_matches('/');
    for board in DASHBOARDS {
        assert!(
            root.path()
                .join(boards)
                .join(format!("{board}.json"))
                .exists()
        );
    }

    let sources = yaml(&provisioning.join("datasources/mqtt-persistence.yml"));
    assert_eq!(sources["apiVersion"], 1);
    let source = &array(&sources["datasources"])[0];
    assert_eq!(source["type"], "prometheus");
    // $__rate_interval is four times this.
    let config = yaml(&root.path().join("etc/prometheus/prometheus.yml"));
    assert_eq!(
        source["jsonData"]["timeInterval"],
        config["global"]["scrape_interval"]
    );
}

#[test]
fn existing_files_survive_repeated_provisioning() {
    let root = provisioned();
    let folder = root.path().join("etc/prometheus");
    let own = [
        "prometheus.yml",
        "alertmanager.yml",
        "targets/mqtt-devices.yml",
    ];
    for file in own {
        fs::write(folder.join(file), BEFORE).expect("a file");
    }
    provision(&root);
    provision(&root);
    for kept in ["prometheus.yml.~1~", "alertmanager.yml.~1~", own[2]] {
        assert_eq!(
            fs::read_to_string(folder.join(kept)).expect("a copy"),
            BEFORE,
            "{kept}"
        );
    }
    let config = fs::read_to_string(folder.join(own[0])).expect("a file");
    assert!(config.contains("mqtt-devices"));
}
