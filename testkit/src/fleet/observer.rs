//! Prometheus that watches a fleet.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, mem,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    agent::written,
    sums::{bytes_a_sample, size},
};
use crate::{
    Alertmanager, Prometheus,
    dashboard::{self, Dashboard, Query, array, fill, text},
    eventually, http_get, resident, rules, victoria_metrics,
};

/// Intervals of scrapes and of the evaluation of rules, as in `dashboards/provisioning/`.
pub const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
pub const EVALUATION_INTERVAL: Duration = Duration::from_secs(30);

/// Job of the devices.
pub const JOB: &str = "mqtt-devices";
/// Folder for the rules.
const RULES: &str = "rules";
/// Limit on bringing the samples of a store into their final form.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Prometheus,
    VictoriaMetrics,
}

/// Prometheus or `VictoriaMetrics` with the rules of `dashboards/`, all its times and theirs divided by a factor.
pub struct Observer {
    pub prometheus: Prometheus,
    /// With `VictoriaMetrics`, the program that evaluates the rules, and its Alertmanager.
    pub vmalert: Option<(Prometheus, Alertmanager)>,
    pub factor: u32,
    _dir: TempDir,
}

impl Observer {
    /// Starts a Prometheus whose targets come from an HTTP service.
    pub fn start(targets: &str, factor: u32) -> Self {
        Self::start_engine(Engine::Prometheus, targets, factor)
    }

    /// Does the same with one of the engines.
    pub fn start_engine(engine: Engine, targets: &str, factor: u32) -> Self {
        Self::adapted(engine, targets, factor, |_| ())
    }

    /// Does the same with a configuration that a function has adapted.
    pub fn adapted(
        engine: Engine,
        targets: &str,
        factor: u32,
        adapt: impl FnOnce(&mut Value),
    ) -> Self {
        let dir = TempDir::new().expect("a folder for Prometheus");
        let mut config = prepare(dir.path(), targets, factor);
        adapt(&mut config);
        let path = written(dir.path(), "prometheus.yml", &config);
        let (prometheus, vmalert) = match engine {
            Engine::Prometheus => {
                let flags = ["--web.enable-admin-api"];
                (Prometheus::with_flags(&path, &flags), None)
            }
            Engine::VictoriaMetrics => {
                let store = victoria_metrics::store(&path, factor);
                let alerts = dashboard::path("provisioning/alertmanager/alertmanager.yml");
                let alertmanager = Alertmanager::start(&alerts);
                let address = alertmanager.address();
                wait_for_series(&store);
                let vmalert =
                    victoria_metrics::alerts(&dir.path().join(RULES), &store, &address, factor);
                (store, Some((vmalert, alertmanager)))
            }
        };
        Self {
            prometheus,
            vmalert,
            factor,
            _dir: dir,
        }
    }

    /// Server that evaluates the rules.
    fn evaluator(&self) -> &Prometheus {
        let vmalert = self.vmalert.as_ref();
        vmalert.map_or(&self.prometheus, |(vmalert, _)| vmalert)
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
        let alerts = self.evaluator().get("alerts");
        let alerts = array(&alerts["data"]["alerts"]).iter();
        let firing = alerts
            .filter(|alert| alert["state"] == "firing" && alert["labels"]["scope"] == scope)
            .map(|alert| alert["labels"].clone());
        firing.collect()
    }

    /// Median and longest duration of an evaluation of all rules together, over this many.
    pub fn evaluation_times(&self, times: u32) -> (Duration, Duration) {
        if let Some((vmalert, _)) = &self.vmalert {
            // A rule's time in its API counts from the time for which the group is evaluated, so it includes those before it.
            thread::sleep(EVALUATION_INTERVAL / self.factor * times);
            return ["0.5", "1"]
                .map(|quantile| iteration_time(vmalert, quantile))
                .into();
        }
        let durations = (0..times).map(|_| {
            thread::sleep(EVALUATION_INTERVAL / self.factor);
            let groups = self.prometheus.get("rules");
            let groups = array(&groups["data"]["groups"]).iter();
            let rules = groups.flat_map(|group| array(&group["rules"]));
            let seconds = rules.map(|rule| rule["evaluationTime"].as_f64().expect("a time"));
            Duration::from_secs_f64(seconds.sum())
        });
        let durations: Vec<_> = durations.collect();
        let longest = durations.iter().max().copied();
        (median(durations), longest.expect("one"))
    }

    /// Number of series.
    pub fn series(&self) -> u64 {
        series(&self.prometheus)
    }

    /// Resident memory, with that of the program that evaluates the rules.
    pub fn resident(&self) -> usize {
        let vmalert = self.vmalert.as_ref().map(|(vmalert, _)| vmalert);
        let servers = [Some(&self.prometheus), vmalert].into_iter().flatten();
        servers
            .map(|server| resident(server.pid()).expect("it runs"))
            .sum()
    }

    /// Bytes of all its files, and bytes per sample once the samples have their final form, index included.
    pub fn disk(&self) -> (u64, f64) {
        let before = size(self.prometheus.data());
        let a_sample = match self.vmalert {
            None => bytes_a_sample(&self.prometheus),
            Some(_) => merged_bytes_a_sample(&self.prometheus),
        };
        (before, a_sample)
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

fn series(server: &Prometheus) -> u64 {
    let status = server.get("status/tsdb");
    let data = &status["data"];
    let series = data["headStats"]["numSeries"].as_u64();
    series
        .or(data["totalSeries"].as_u64())
        .expect("a number of series")
}

/// Waits until a `VictoriaMetrics` has the series of all devices. A rule that is evaluated before would be late: to a query that had
/// no result the store gives the same answer for up to 10 s.
fn wait_for_series(store: &Prometheus) {
    let mut last = 0;
    eventually(LIMIT, "the number of series is constant", || {
        thread::sleep(Duration::from_secs(1));
        let before = mem::replace(&mut last, series(store));
        (last > 0 && last == before).then_some(())
    });
}

/// Copies the rules into a folder, and returns the configuration of a Prometheus in it whose targets come from an HTTP service.
pub fn prepare(dir: &Path, targets: &str, factor: u32) -> Value {
    let rules = dir.join(RULES);
    fs::create_dir(&rules).expect("a folder for rules");
    rules::shorten(factor, &rules);
    let shorter = |time: Duration| format!("{}ms", (time / factor).as_millis());
    json!({
        "global": {
            "scrape_interval": shorter(SCRAPE_INTERVAL),
            "scrape_timeout": shorter(SCRAPE_INTERVAL),
            "evaluation_interval": shorter(EVALUATION_INTERVAL),
        },
        "rule_files": [format!("{RULES}/*.yml")],
        "scrape_configs": [{
            "job_name": JOB,
            "http_sd_configs": [{ "url": targets }],
        }],
    })
}

/// Sum over the groups of a quantile of the durations of their evaluations, of the last minutes.
fn iteration_time(vmalert: &Prometheus, quantile: &str) -> Duration {
    let quantile = format!("quantile=\"{quantile}\"");
    let seconds = sum_of_lines(vmalert, |line| {
        line.starts_with("vmalert_iteration_duration_seconds{") && line.contains(&quantile)
    });
    Duration::from_secs_f64(seconds)
}

/// Sum of some of the samples that a server has about itself.
fn sum_of_lines(server: &Prometheus, is_summed: impl Fn(&str) -> bool) -> f64 {
    let (_, _, page) = http_get(server.address(), "/metrics");
    let lines = page.lines().filter(|line| is_summed(line));
    let numbers = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    numbers.sum()
}

/// Merges the samples of a `VictoriaMetrics` and returns the bytes per sample on its disk.
fn merged_bytes_a_sample(store: &Prometheus) -> f64 {
    for path in ["/internal/force_flush", "/internal/force_merge"] {
        assert_eq!(http_get(store.address(), path).0, 200, "{path}");
    }
    let sum = |metric: &str| sum_of_lines(store, |line| line.starts_with(metric));
    eventually(LIMIT, "its samples are merged", || {
        (sum("vm_active_force_merges") == 0.0).then_some(())
    });
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let bytes = ["data", "indexdb"].map(|folder| size(&store.data().join(folder)) as f64);
    bytes.iter().sum::<f64>() / sum("vm_rows{type=\"storage/")
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
