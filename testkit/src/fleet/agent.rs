//! Agent of a device, with the configuration from `dashboards/provisioning/`.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Prometheus, rules::yaml};

/// Password for the central Prometheus.
pub const PASSWORD: &str = "U*U";

/// Starts an agent that scrapes `device` and writes to the port `central` of this machine, with a configuration adapted for tests.
pub fn start(dir: &TempDir, interval: Duration, device: &str, central: u16) -> Prometheus {
    let mut config = yaml("provisioning/agent/prometheus-agent.yml");
    let interval = format!("{}ms", interval.as_millis());
    config["global"]["scrape_interval"] = json!(interval);
    config["global"]["scrape_timeout"] = json!(interval);
    config["scrape_configs"][0]["static_configs"][0]["targets"] = json!([device]);
    let write = &mut config["remote_write"][0];
    write["url"] = json!(format!("http://127.0.0.1:{central}/api/v1/write"));
    let password = dir.path().join("password");
    fs::write(&password, PASSWORD).expect("can be written");
    write["basic_auth"]["password_file"] = json!(password);
    // The configured half minute is long for a test. Samples are sent at once, as with longer scrape intervals.
    write["queue_config"]["max_backoff"] = json!("1s");
    write["queue_config"]["batch_send_deadline"] = json!("100ms");
    Prometheus::agent(&written(dir, "agent.yml", &config))
}

/// Writes a configuration as JSON, which is valid YAML.
pub fn written(dir: &TempDir, name: &str, config: &Value) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, config.to_string()).expect("can be written");
    path
}
