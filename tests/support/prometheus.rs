//! A private Prometheus server, and the linter for metrics that comes with it.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    http::http_get,
    process::{Server, cannot_run, on_free_port},
};

/// A Prometheus server on a TCP port of 127.0.0.1 that scrapes often.
pub struct Prometheus {
    server: Server,
    port: u16,
    // After the server, so that the folder is removed when nothing writes to it any more.
    dir: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `targets`, each as `host:port`, five times a second under the job `device`.
    ///
    /// The first scrape is some five seconds after the start, since Prometheus collects its targets for that long.
    pub fn scraping(targets: &[&str]) -> Self {
        let dir = TempDir::new().expect("a folder for Prometheus");
        // Its configuration is YAML, of which JSON is a part.
        let config = json!({
            "global": { "scrape_interval": "200ms", "scrape_timeout": "200ms" },
            "scrape_configs": [{
                "job_name": "device",
                "static_configs": [{ "targets": targets }],
            }],
        });
        fs::write(dir.path().join("prometheus.yml"), config.to_string())
            .expect("Prometheus's configuration can be written");
        let (port, server) = on_free_port(|port| run(dir.path(), port));
        Self { server, port, dir }
    }

    /// Its own `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// The answer to a `PromQL` expression, as its HTTP interface gives it.
    pub fn query(&self, expression: &str) -> Value {
        let path = format!("/api/v1/query?query={}", percent_encoded(expression));
        let (status, _, body) = http_get(self.address(), &path);
        assert_eq!(status, 200, "the query {expression} was refused: {body}");
        serde_json::from_str(&body).expect("Prometheus answers in JSON")
    }

    /// The value of the first sample that a `PromQL` expression selects, if it selects any.
    pub fn value(&self, expression: &str) -> Option<f64> {
        self.query(expression)
            .pointer("/data/result/0/value/1")?
            .as_str()?
            .parse()
            .ok()
    }
}

/// Asks `promtool check metrics` about a page of metrics; what it finds fault with is the error.
pub fn promtool_check_metrics(text: &str) -> Result<(), String> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}", cannot_run("promtool", "prometheus", &error)));
    let mut stdin = child.stdin.take().expect("promtool's standard input");
    // promtool may end at the first line that it cannot read, and says why itself.
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

fn run(dir: &Path, port: u16) -> Result<Server, String> {
    let argument = |name: &str, file: &str| format!("--{name}={}", dir.join(file).display());
    let mut command = Command::new("prometheus");
    command
        .arg(argument("config.file", "prometheus.yml"))
        .arg(argument("storage.tsdb.path", "data"))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    Server::start(
        command,
        "prometheus",
        "Server is ready to receive web requests",
    )
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
