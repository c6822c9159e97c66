//! Prometheus that watches a fleet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::agent::written;
use crate::{
    Prometheus,
    dashboard::{Dashboard, Query, array, fill, text},
    rules,
};

/// Intervals of scrapes and of the evaluation of rules, as in `dashboards/provisioning/`.
pub const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
pub const EVALUATION_INTERVAL: Duration = Duration::from_secs(30);

/// Prometheus with the rules of `dashboards/`, all its times and theirs divided by a factor.
pub struct Observer {
    pub prometheus: Prometheus,
    pub factor: u32,
    _dir: TempDir,
}

impl Observer {
    /// Starts one whose targets come from an HTTP service.
    pub fn start(targets: &str, factor: u32) -> Self {
        let dir = TempDir::new().expect("a folder for Prometheus");
        let rules = dir.path().join("rules");
        fs::create_dir(&rules).expect("a folder for rules");
        rules::shorten(factor, &rules);
        let shorter = |time: Duration| format!("{}ms", (time / factor).as_millis());
        let config = json!({
            "global": {
                "scrape_interval": shorter(SCRAPE_INTERVAL),
                "scrape_timeout": shorter(SCRAPE_INTERVAL),
                "evaluation_interval": shorter(EVALUATION_INTERVAL),
            },
            "rule_files": ["rules/*.yml"],
            "scrape_configs": [{
                "job_name": "mqtt-devices",
                "http_sd_configs": [{ "url": targets }],
            }],
        });
        let path = written(&dir, "prometheus.yml", &config);
        Self {
            prometheus: Prometheus::with_flags(&path, &["--web.enable-admin-api"]),
            factor,
            _dir: dir,
        }
    }

    /// Firing alerts about single devices, with the devices.
    pub fn of_devices(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut devices = BTreeMap::<String, BTreeSet<String>>::new();
        for alert in self.firing("device") {
            let [name, instance] = ["alertname", "instance"].map(|label| text(&alert[label]));
            let of_name = devices.entry(name.to_owned()).or_default();
            of_name.insert(instance.to_owned());
        }
        devices
    }

    /// Firing alerts about the fleet.
    pub fn of_fleet(&self) -> BTreeSet<String> {
        let alerts = self.firing("fleet").into_iter();
        alerts
            .map(|alert| text(&alert["alertname"]).to_owned())
            .collect()
    }

    fn firing(&self, scope: &str) -> Vec<Value> {
        let expression = format!(r#"ALERTS{{alertstate="firing",scope="{scope}"}}"#);
        let answer = self.prometheus.query(&expression);
        let series = array(&answer["data"]["result"]).iter();
        series.map(|series| series["metric"].clone()).collect()
    }

    /// Duration of the last evaluation of all groups of rules together.
    pub fn evaluation_time(&self) -> Duration {
        let groups = self.prometheus.get("rules");
        let groups = array(&groups["data"]["groups"]).iter();
        let seconds = groups.map(|group| group["evaluationTime"].as_f64().expect("a time"));
        Duration::from_secs_f64(seconds.sum())
    }

    /// Runs the queries of a panel of the fleet board over the last period, and returns the answers.
    pub fn ask(&self, queries: &[Query], last: Duration) -> Vec<Value> {
        let range = format!("{}ms", last.as_millis());
        let interval = format!("{}ms", (SCRAPE_INTERVAL / self.factor * 4).as_millis());
        let answers = queries.iter().map(|query| {
            let expression = fill(&query.expression, &[], &interval, &range);
            if query.instant {
                self.prometheus.query(&expression)
            } else {
                let step = SCRAPE_INTERVAL / self.factor;
                self.prometheus.query_range(&expression, last, step)
            }
        });
        answers.collect()
    }
}

/// Queries of the fleet board, by panel.
pub fn panels() -> BTreeMap<String, Vec<Query>> {
    let mut panels = BTreeMap::<String, Vec<Query>>::new();
    for query in Dashboard::load("fleet").queries() {
        panels.entry(query.of.clone()).or_default().push(query);
    }
    panels
}

/// Measures the duration of a function.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let done = work();
    (started.elapsed(), done)
}

pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
