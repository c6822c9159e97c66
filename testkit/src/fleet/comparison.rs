//! `VictoriaMetrics` and Prometheus on the same devices, and the answers of both to every query of both boards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Fleet, Outages,
    observer::{Engine, JOB, Observer, SCRAPE_INTERVAL},
};
use crate::{
    Prometheus,
    dashboard::{Dashboard, Query, array, fill, text},
    eventually, eventually_queried, now, sent, status,
};

/// Job under which `VictoriaMetrics` has the samples that Prometheus wrote to it.
const WRITTEN: &str = "written";
/// Time after which both engines have what was scraped.
const SETTLED: f64 = 3.0;
/// Interval between two messages of a device.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(50);
const DEVICES: usize = 5;
/// Number of samples whose way into a query is measured.
const SAMPLES: u32 = 8;
const LIMIT: Duration = Duration::from_secs(60);

/// Labels with the numbers, by time in milliseconds.
type Series = BTreeMap<Labels, BTreeMap<i64, f64>>;
type Labels = BTreeMap<String, String>;

/// Both engines, each of which scrapes the devices and evaluates the rules. Prometheus writes its samples, and not what it records, to
/// the other one too. It changes the `le` of each bucket to the form of Prometheus 3.
pub struct Engines {
    pub prometheus: Observer,
    pub victoria: Observer,
    since: f64,
    factor: u32,
}

/// Differences between the answers to a query.
pub struct Compared {
    board: &'static str,
    pub query: Query,
    /// Series that only one engine has: Prometheus, and `VictoriaMetrics`.
    pub only: [BTreeSet<Labels>; 2],
    /// True if either has a result.
    has_results: bool,
    /// Number of values that both have.
    values: usize,
    /// Values that differ the most, as a share of the larger one, with their series.
    pub largest: Option<(f64, [f64; 2], Labels)>,
}

impl Engines {
    pub fn start(targets: &str, factor: u32, interval: Duration) -> Self {
        let scrape = |config: &mut Value| {
            for name in ["scrape_interval", "scrape_timeout"] {
                config["global"][name] = json!(format!("{}ms", interval.as_millis()));
            }
        };
        let victoria = Observer::adapted(Engine::VictoriaMetrics, targets, factor, scrape);
        let url = format!("http://{}/api/v1/write", victoria.prometheus.address());
        let since = now().floor();
        let prometheus = Observer::adapted(Engine::Prometheus, targets, factor, |config| {
            scrape(config);
            config["scrape_configs"][0]["metric_relabel_configs"] = json!([{
                "source_labels": ["le"],
                "regex": "([0-9]+)",
                "target_label": "le",
                "replacement": "$1.0",
            }]);
            config["remote_write"] = json!([{
                "url": url,
                "queue_config": { "batch_send_deadline": "100ms" },
                "write_relabel_configs": [
                    { "source_labels": ["__name__"], "regex": "up|mqtt_persistence_.*", "action": "keep" },
                    { "target_label": "job", "replacement": WRITTEN },
                ],
            }]);
        });
        Self {
            prometheus,
            victoria,
            since,
            factor,
        }
    }

    pub fn both(&self) -> [&Observer; 2] {
        [&self.prometheus, &self.victoria]
    }

    /// Compares the queries of a board. That of a device is asked about the whole run and the same samples. What the rules record is
    /// of samples that each engine has scraped itself, and is compared for the last moments.
    pub fn compare(&self, board: &'static str, rate_interval: Duration) -> Vec<Compared> {
        let is_of_device = board == "device";
        // In whole seconds: VictoriaMetrics rounds the milliseconds of a range down, and Prometheus to the nearest.
        let end = (now() - SETTLED).floor();
        let (last, job) = if is_of_device {
            (Duration::from_secs_f64(end - self.since), WRITTEN)
        } else {
            (SCRAPE_INTERVAL * 8 / self.factor, JOB)
        };
        let queries = Dashboard::load(board).queries().into_iter();
        // On the board of a device, this one alone shows the results of the rules.
        let queries = queries.filter(|query| !(is_of_device && query.of == "Alerts"));
        let compared = queries.map(|query| {
            let ask = |engine: &Observer, job| {
                self.ask(&engine.prometheus, &query, job, rate_interval, end, last)
            };
            let answers = [ask(&self.prometheus, JOB), ask(&self.victoria, job)];
            Compared::new(board, query, &answers)
        });
        compared.collect()
    }

    /// Result of a query up to `end` for the devices of a job, without the job.
    fn ask(
        &self,
        engine: &Prometheus,
        query: &Query,
        job: &str,
        rate_interval: Duration,
        end: f64,
        last: Duration,
    ) -> Series {
        let [range, interval] = [last, rate_interval].map(|time| format!("{}ms", time.as_millis()));
        let expression = fill(&query.expression, &[("job", &[job])], &interval, &range);
        let answer = if query.instant {
            engine.query_at(&expression, end)
        } else {
            engine.query_range_to(&expression, end, last, SCRAPE_INTERVAL * 4 / self.factor)
        };
        let mut found = Series::new();
        for series in array(&answer["data"]["result"]) {
            let mut labels: Labels =
                serde_json::from_value(series["metric"].clone()).expect("labels");
            labels.remove("job");
            let samples = array(&series["values"]).iter().chain(series.get("value"));
            let samples = samples.filter_map(|sample| {
                let number: f64 = text(&sample[1]).parse().expect("a number");
                #[expect(clippy::cast_possible_truncation, reason = "a time")]
                let time = (sample[0].as_f64().expect("a time") * 1000.0).round() as i64;
                // The quantile of no observations, which VictoriaMetrics omits.
                (!number.is_nan()).then_some((time, number))
            });
            let samples: BTreeMap<_, _> = samples.collect();
            if !samples.is_empty() {
                found.insert(labels, samples);
            }
        }
        found
    }
}

impl Compared {
    fn new(board: &'static str, query: Query, [one, other]: &[Series; 2]) -> Self {
        let only = |one: &Series, other: &Series| {
            let names = one.keys().filter(|labels| !other.contains_key(*labels));
            names.cloned().collect()
        };
        let mut values = 0;
        let mut largest: Option<(f64, [f64; 2], Labels)> = None;
        for (labels, samples) in one {
            for (time, number) in samples {
                let Some(second) = other.get(labels).and_then(|samples| samples.get(time)) else {
                    continue;
                };
                values += 1;
                let larger = number.abs().max(second.abs());
                let share = if larger == 0.0 {
                    0.0
                } else {
                    (number - second).abs() / larger
                };
                if largest.as_ref().is_none_or(|(most, ..)| share > *most) {
                    largest = Some((share, [*number, *second], labels.clone()));
                }
            }
        }
        Self {
            board,
            only: [only(one, other), only(other, one)],
            query,
            has_results: !(one.is_empty() && other.is_empty()),
            values,
            largest,
        }
    }

    /// Returns true if both have the same series, and numbers of the same times that differ by at most this share of the larger one.
    /// Returns false if there is nothing to compare.
    pub fn is_within(&self, share: f64) -> bool {
        let within = |(largest, ..): &(f64, _, _)| *largest <= share;
        self.only.iter().all(BTreeSet::is_empty) && self.largest.as_ref().is_some_and(within)
    }

    /// Returns true if neither has a result.
    pub fn is_empty(&self) -> bool {
        !self.has_results
    }
}

impl fmt::Debug for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            board,
            query,
            only,
            values,
            largest,
            ..
        } = self;
        let of = &query.of;
        write!(f, "{board}, {of}: only {only:?}, of {values}: {largest:?}")
    }
}

/// Row of the table of differences.
impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [prometheus, victoria] = self.only.each_ref().map(BTreeSet::len);
        let (share, [one, other], _) = self.largest.clone().unwrap_or_default();
        write!(
            f,
            "| {} | {} | {prometheus} | {victoria} | {} | {:.2} % | {one} | {other} |",
            self.board,
            self.query.of,
            self.values,
            share * 100.0
        )
    }
}

/// Times from the beginning of the outages until each alert fires for all affected devices, and until the link is the suspect of each
/// backlog. One for each engine.
fn delays(engines: &Engines, outages: &Outages) -> BTreeMap<String, [Duration; 2]> {
    let of_devices = [
        ("StoreDown", &outages.stores),
        ("BacklogOld", &outages.links),
        ("BacklogGrowing", &outages.links),
    ];
    let suspect = r#"group by (instance) (instance_client_id_suspect:mqtt_persistence_backlog:group{suspect="link"})"#;
    let started = Instant::now();
    let limit = Duration::from_secs(3600) / engines.factor + LIMIT;
    let mut delays = BTreeMap::<String, [Option<Duration>; 2]>::new();
    eventually_queried(limit, "all alerts fire on both engines", || {
        for (index, observer) in engines.both().into_iter().enumerate() {
            let devices = observer.of_devices();
            let fleet = observer.of_fleet();
            let mut note = |name: &str, is_there: bool| {
                let times = delays.entry(name.to_owned()).or_default();
                if is_there && times[index].is_none() {
                    times[index] = Some(started.elapsed());
                }
            };
            for (name, expected) in of_devices {
                let found = devices.get(&format!("MqttPersistence{name}"));
                note(name, found == Some(expected));
            }
            for name in ["FleetStoresFailing", "FleetBacklogOld"] {
                note(name, fleet.contains(&format!("MqttPersistence{name}")));
            }
            let answer = observer.prometheus.query(suspect);
            let found = array(&answer["data"]["result"]).iter();
            let found = found.map(|series| text(&series["metric"]["instance"]).to_owned());
            let found: BTreeSet<String> = found.collect();
            note("the suspect", found == outages.links);
        }
        let mut times = delays.values().flatten();
        times.all(Option::is_some).then_some(())
    });
    let delays = delays.into_iter();
    delays
        .map(|(name, times)| (name, times.map(|time| time.expect("all are there"))))
        .collect()
}

/// Writes a sample of now to a `VictoriaMetrics`.
pub fn write_sample(store: &Prometheus, series: &str, value: u32) {
    let body = format!("{series} {value}\n");
    let head = format!(
        "POST /api/v1/import/prometheus HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let address = store.address().parse().expect("an address");
    let answer = sent(address, (head + &body).as_bytes());
    assert_eq!(status(&answer), "204", "{answer}");
}

/// Longest times until a query returns a sample: of a known series, and of a new one.
fn ways(store: &Prometheus) -> [Duration; 2] {
    let way = |series: &str, value: u32| {
        write_sample(store, series, value);
        let started = Instant::now();
        eventually(LIMIT, "a query returns the sample", || {
            let answer = store.query_at(series, now());
            let found = text(&answer["data"]["result"][0]["value"][1]) == value.to_string();
            found.then_some(())
        });
        let way = started.elapsed();
        // The next one begins at another moment of the store's own intervals.
        thread::sleep(Duration::from_millis(130));
        way
    };
    let known = (0..SAMPLES).map(|value| way("a_sample", value)).skip(1);
    let known = known.max();
    let new = (0..SAMPLES).map(|number| way(&format!("a_sample_{number}"), 1));
    [known, new.max()].map(|longest| longest.expect("some"))
}

/// Runs devices under both engines, and prints what differs.
pub fn print(factor: u32) {
    let fleet = Fleet::start(DEVICES, false, MESSAGE_INTERVAL);
    let engines = Engines::start(&fleet.targets, factor, SCRAPE_INTERVAL / factor);
    for engine in engines.both() {
        eventually_queried(LIMIT, "all devices are scraped", || {
            let all = format!("job:mqtt_persistence_devices:count{{job=\"{JOB}\"}} == {DEVICES}");
            engine.prometheus.value(&all)
        });
    }
    let outages = fleet.begin_outages(7);
    println!("| after the outage began | Prometheus | VictoriaMetrics | difference |");
    println!("|---|--:|--:|--:|");
    for (name, times) in delays(&engines, &outages) {
        let [one, other] = times.map(|time| time.as_secs_f64() * f64::from(factor));
        println!(
            "| {name} | {one:.0} s | {other:.0} s | {:.0} s |",
            other - one
        );
    }

    let [known, new] = ways(&engines.victoria.prometheus);
    println!(
        "\nA sample of a known series is found after {:.1} s at most, of a new one after {:.1} s, of {SAMPLES} each.",
        known.as_secs_f64(),
        new.as_secs_f64()
    );

    println!(
        "\n| board | panel | only in Prometheus | only in VictoriaMetrics | values in both | largest difference | Prometheus | VictoriaMetrics |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|");
    let mut same = 0;
    for board in ["device", "fleet"] {
        for compared in engines.compare(board, SCRAPE_INTERVAL * 4 / factor) {
            if compared.is_within(1e-9) {
                same += 1;
            } else {
                println!("{compared}");
            }
        }
    }
    println!("\n{same} other queries have the same series and the same numbers.");
}
