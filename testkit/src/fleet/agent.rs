//! Agents of a device, with the configuration from `dashboards/provisioning/`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{Prometheus, dashboard, prometheus::READY, rules::yaml, unit::Unit, victoria_metrics};

/// Password for the central store.
pub const PASSWORD: &str = "U*U";
/// Default of `--storage.agent.wal-truncate-frequency`.
const TRUNCATION: Duration = Duration::from_secs(2 * 3600);
/// Default of `--storage.remote.flush-deadline`.
const FLUSH: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Prometheus,
    Vmagent,
}

/// Agent that scrapes `device` and writes to the port `central` of this machine.
pub struct Agent<'a> {
    pub kind: Kind,
    /// Folder for its configuration and for the samples that it keeps. A second agent started with it continues the first.
    pub dir: &'a Path,
    pub instance: &'a str,
    pub interval: Duration,
    pub device: &'a str,
    pub central: u16,
    /// Divisor of the times after which it discards samples.
    pub factor: u32,
}

impl Agent<'_> {
    pub fn start(&self) -> Prometheus {
        let password = self.dir.join("password");
        fs::write(&password, PASSWORD).expect("can be written");
        match self.kind {
            Kind::Prometheus => self.prometheus(&password),
            Kind::Vmagent => self.vmagent(&password),
        }
    }

    fn prometheus(&self, password: &Path) -> Prometheus {
        let mut config = self.config("provisioning/agent/prometheus-agent.yml");
        let write = &mut config["remote_write"][0];
        write["url"] = json!(self.url());
        write["basic_auth"]["password_file"] = json!(password);
        // The configured half minute is long for a test. Samples are sent at once, as with longer scrape intervals.
        write["queue_config"]["max_backoff"] = json!("1s");
        write["queue_config"]["batch_send_deadline"] = json!("100ms");
        let data = self.dir.join("data");
        let [truncation, flush] = [TRUNCATION, FLUSH].map(|time| (time / self.factor).as_millis());
        let unit = Unit::read("agent/prometheus-agent.service")
            .set(
                "--config.file",
                written(self.dir, "agent.yml", &config).display(),
            )
            .set("--storage.agent.path", data.display())
            .divide("--storage.agent.retention.max-time", self.factor)
            .with(&format!(
                "--storage.agent.wal-truncate-frequency={truncation}ms"
            ))
            .with(&format!("--storage.remote.flush-deadline={flush}ms"));
        Prometheus::launch("prometheus", READY, data, None, |port| {
            let unit = unit.clone();
            let address = format_args!("127.0.0.1:{port}");
            let mut command = unit
                .set("--web.listen-address", address)
                .command("prometheus");
            command.env("GOGC", "400");
            command
        })
    }

    fn vmagent(&self, password: &Path) -> Prometheus {
        let config = self.config("provisioning/agent/vmagent.yml");
        let relabel = dashboard::path("provisioning/agent/vmagent-relabel.yml");
        let data = self.dir.join("data");
        let unit = Unit::read("agent/vmagent.service")
            .set(
                "-promscrape.config",
                written(self.dir, "agent.yml", &config).display(),
            )
            .set("-remoteWrite.relabelConfig", relabel.display())
            .set("-remoteWrite.url", self.url())
            .set("-remoteWrite.basicAuth.passwordFile", password.display())
            .set("-remoteWrite.tmpDataPath", data.display());
        let ready = "started vmagent in";
        Prometheus::launch(victoria_metrics::PACKAGE, ready, data, None, |port| {
            let unit = unit.clone();
            unit.set("-httpListenAddr", format_args!("127.0.0.1:{port}"))
                .command("vmagent")
        })
    }

    fn config(&self, file: &str) -> Value {
        let mut config = yaml(file);
        let interval = format!("{}ms", self.interval.as_millis());
        config["global"]["scrape_interval"] = json!(interval);
        config["global"]["scrape_timeout"] = json!(interval);
        let target = &mut config["scrape_configs"][0]["static_configs"][0];
        target["targets"] = json!([self.device]);
        target["labels"]["instance"] = json!(self.instance);
        config
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/api/v1/write", self.central)
    }
}

/// Writes a configuration as JSON, which is valid YAML.
pub fn written(dir: &Path, name: &str, config: &Value) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, config.to_string()).expect("can be written");
    path
}
