//! Private Prometheus server, and the linter for metrics that comes with it.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    http::http_get_with,
    process::{Server, cannot_run, on_free_port},
    rules,
};

/// Part of the line that Prometheus logs when it has started.
pub(crate) const READY: &str = "Server is ready to receive web requests";
/// Time between two scrapes.
const SCRAPE_INTERVAL: &str = "250ms";
/// Time between two evaluations of the rules: twice the scrape interval, as in `dashboards/provisioning/`.
const EVALUATION_INTERVAL: &str = "500ms";

/// Prometheus on a TCP port of 127.0.0.1, or another server with its HTTP API.
pub struct Prometheus {
    server: Server,
    port: u16,
    /// Additional header lines of a request.
    lines: String,
    data: PathBuf,
    // Dropped after the server, so that nothing writes to the folder when it is removed.
    _dir: Option<TempDir>,
}

impl Prometheus {
    /// Starts one that scrapes `targets`, each as `host:port`, four times a second under the job `device`.
    ///
    /// The first scrape is about five seconds after the start, since Prometheus collects its targets for that long.
    pub fn scraping(targets: &[&str]) -> Self {
        Self::start(TempDir::new().expect("a folder"), targets, &[])
    }

    /// Does the same with the rules of `dashboards/`, their times divided by `factor`, and sends alerts to the given Alertmanager.
    pub fn with_rules(targets: &[&str], factor: u32, alertmanager: &str) -> Self {
        let dir = TempDir::new().expect("a folder for Prometheus");
        let rules = dir.path().join("rules");
        fs::create_dir(&rules).expect("a folder for rules");
        rules::shorten(factor, &rules);
        Self::start(dir, targets, &[alertmanager])
    }

    fn start(dir: TempDir, targets: &[&str], alertmanagers: &[&str]) -> Self {
        // JSON is valid YAML.
        let config = json!({
            "global": {
                "scrape_interval": SCRAPE_INTERVAL,
                "scrape_timeout": SCRAPE_INTERVAL,
                "evaluation_interval": EVALUATION_INTERVAL,
            },
            "rule_files": ["rules/*.yml"],
            "alerting": { "alertmanagers": [{ "static_configs": [{ "targets": alertmanagers }] }] },
            "scrape_configs": [{
                "job_name": "device",
                "static_configs": [{ "targets": targets }],
            }],
        });
        let path = dir.path().join("prometheus.yml");
        fs::write(&path, config.to_string()).expect("Prometheus's configuration can be written");
        Self::run(dir, &path, &[])
    }

    /// Starts one with a configuration file.
    pub fn configured(config: &Path) -> Self {
        Self::with_flags(config, &[])
    }

    /// Does the same with additional command-line options.
    pub fn with_flags(config: &Path, flags: &[&str]) -> Self {
        let dir = TempDir::new().expect("a folder for Prometheus");
        Self::run(dir, config, flags)
    }

    fn run(dir: TempDir, config: &Path, flags: &[&str]) -> Self {
        let data = dir.path().join("data");
        let path = data.clone();
        Self::launch("prometheus", READY, data, Some(dir), |port| {
            let mut command = Command::new("prometheus");
            command
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .arg(format!("--storage.tsdb.path={}", path.display()))
                .args(flags)
                // With little data, garbage collection would take much of its time.
                .env("GOGC", "400");
            command
        })
    }

    /// Starts a server of a Debian `package` on a free port, and waits until it logs `ready`.
    pub(crate) fn launch(
        package: &str,
        ready: &str,
        data: PathBuf,
        dir: Option<TempDir>,
        command: impl Fn(u16) -> Command,
    ) -> Self {
        let (port, server) = on_free_port(|port| Server::start(command(port), package, ready));
        // VictoriaMetrics reports that it is ready before it listens.
        super::eventually(super::LIMIT, "the server listens", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self {
            server,
            port,
            lines: String::new(),
            data,
            _dir: dir,
        }
    }

    /// Sends these credentials with each request.
    pub fn authorized(mut self, credentials: &str) -> Self {
        self.lines = format!("Authorization: {credentials}\r\n");
        self
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Folder of its data.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Stops it with SIGTERM.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Log so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Answer of the HTTP API to a `PromQL` expression.
    pub fn query(&self, expression: &str) -> Value {
        self.get(&format!("query?query={}", percent_encoded(expression)))
    }

    /// Does the same at a time in seconds, without the cache of `VictoriaMetrics`.
    pub fn query_at(&self, expression: &str, time: f64) -> Value {
        let expression = percent_encoded(expression);
        self.get(&format!("query?query={expression}&time={time}&nocache=1"))
    }

    /// Does the same for each `step` of the last period.
    pub fn query_range(&self, expression: &str, last: Duration, step: Duration) -> Value {
        self.query_range_to(expression, now(), last, step)
    }

    /// Does the same for a period that ends at a time in seconds. With its cache, `VictoriaMetrics` would round the times of 50 points
    /// and more to multiples of the step.
    pub fn query_range_to(
        &self,
        expression: &str,
        end: f64,
        last: Duration,
        step: Duration,
    ) -> Value {
        self.get(&format!(
            "query_range?query={}&start={}&end={}&step={}&nocache=1",
            percent_encoded(expression),
            end - last.as_secs_f64(),
            end,
            step.as_secs_f64()
        ))
    }

    /// Values of a label in the series that a selector matches.
    pub fn label_values(&self, label: &str, selector: &str) -> Vec<String> {
        let path = format!(
            "label/{label}/values?match%5B%5D={}",
            percent_encoded(selector)
        );
        serde_json::from_value(self.get(&path)["data"].take()).expect("texts")
    }

    /// Answer of the HTTP API.
    pub fn get(&self, path: &str) -> Value {
        let answer = http_get_with(self.address(), &format!("/api/v1/{path}"), &self.lines);
        let (status, _, body) = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(status, 200, "{path} was refused: {body}");
        serde_json::from_str(&body).expect("Prometheus answers in JSON")
    }

    /// Value of the first sample that a `PromQL` expression selects, if any.
    pub fn value(&self, expression: &str) -> Option<f64> {
        self.query(expression)
            .pointer("/data/result/0/value/1")?
            .as_str()?
            .parse()
            .ok()
    }
}

/// Time in seconds, as Prometheus counts them.
pub fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock").as_secs_f64()
}

/// Runs `promtool check metrics` on a page of metrics. The error is its output.
pub fn promtool_check_metrics(text: &str) -> Result<(), String> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}", cannot_run("promtool", "prometheus", &error)));
    let mut stdin = child.stdin.take().expect("promtool's standard input");
    // Fails if promtool ends at an invalid line, which its output explains.
    let _ = stdin.write_all(text.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("promtool ends");
    if output.status.success() && output.stdout.is_empty() && output.stderr.is_empty() {
        return Ok(());
    }
    Err(format!(
        "promtool check metrics: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes any text");
        }
    }
    encoded
}
