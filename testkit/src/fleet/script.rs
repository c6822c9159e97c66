//! Driver of `scripts/fleet`: a fleet with outages, the load on its Prometheus, and a check of the alerts.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use super::{
    Fleet,
    observer::{EVALUATION_INTERVAL, Engine, Observer, SCRAPE_INTERVAL, median, panels, timed},
};
use crate::eventually;

/// Number of evaluations of the rules, and of queries of each panel.
const TIMES: u32 = 21;
/// Interval between two messages of a device.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(1);
/// Number of messages above which a backlog can count as growing.
const MANY: u32 = 100;
/// Period that the boards show by default.
const SHOWN: Duration = Duration::from_secs(3600);

pub struct Plan {
    pub engine: Engine,
    pub devices: usize,
    pub is_lean: bool,
    pub factor: u32,
}

/// Measured load.
pub struct Outcome {
    engine: Engine,
    devices: usize,
    is_lean: bool,
    series: u64,
    samples_a_scrape: f64,
    scraped: Duration,
    evaluation: Duration,
    longest_evaluation: Duration,
    /// Time and name of the slowest panel.
    slowest: (Duration, String),
    /// Time of all panels together.
    all: Duration,
    resident: usize,
    disk: u64,
    a_sample: f64,
}

/// Runs a plan and reports each step.
pub fn run(plan: &Plan, mut report: impl FnMut(&str)) -> Outcome {
    let fleet = Fleet::start(plan.devices, plan.is_lean, MESSAGE_INTERVAL);
    let observer = Observer::start_engine(plan.engine, &fleet.targets, plan.factor);
    let prometheus = &observer.prometheus;
    let shorter = |time: Duration| time / plan.factor;
    // The longest step is an alert with a hold time of half an hour, after the messages that it needs, whose times are not divided.
    let limit =
        shorter(Duration::from_secs(3600)) + MANY * MESSAGE_INTERVAL + Duration::from_secs(60);
    let started = Instant::now();
    eventually(limit, "all devices are scraped", || {
        let up = prometheus.value("sum(up)")?;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let all = plan.devices as f64;
        (up >= all).then_some(())
    });
    report(&format!("{} devices are scraped", plan.devices));

    let outages = fleet.begin_outages(1);
    eventually(limit, "alerts fire for the affected devices", || {
        let devices = observer.of_devices();
        let right = devices.get("MqttPersistenceStoreDown") == Some(&outages.stores)
            && devices.get("MqttPersistenceBacklogOld") == Some(&outages.links)
            && devices.get("MqttPersistenceBacklogGrowing") == Some(&outages.links);
        let fleet = observer.of_fleet();
        let of_fleet = ["FleetStoresFailing", "FleetBacklogOld"];
        let right = right
            && of_fleet
                .iter()
                .all(|name| fleet.contains(&format!("MqttPersistence{name}")));
        right.then_some(())
    });
    for name in observer.of_devices().into_values().flatten() {
        let is_affected = outages.stores.contains(&name) || outages.links.contains(&name);
        assert!(is_affected, "an alert about {name}, which is healthy");
    }
    report(&format!(
        "alerts fire for {} stores that are down and {} backlogs, and for no other device",
        outages.stores.len(),
        outages.links.len()
    ));

    // Waits until the boards are full.
    thread::sleep(shorter(SHOWN).saturating_sub(started.elapsed()));
    let outcome = measure(plan, &observer, started.elapsed().min(shorter(SHOWN)));

    fleet.end_outages();
    eventually(limit, "the alerts resolve", || {
        (observer.of_devices().is_empty() && observer.of_fleet().is_empty()).then_some(())
    });
    report("all alerts have resolved");
    outcome
}

fn measure(plan: &Plan, observer: &Observer, last: Duration) -> Outcome {
    let prometheus = &observer.prometheus;
    let (evaluation, longest_evaluation) = observer.evaluation_times(TIMES);
    let mut slowest = (Duration::ZERO, String::new());
    let mut all = Duration::ZERO;
    for (panel, queries) in panels() {
        let times = (0..TIMES).map(|_| timed(|| observer.ask(&queries, last)).0);
        let time = median(times.collect());
        all += time;
        if time > slowest.0 {
            slowest = (time, panel);
        }
    }
    let resident = observer.resident();
    let series = observer.series();
    let (disk, a_sample) = observer.disk();
    Outcome {
        engine: plan.engine,
        devices: plan.devices,
        is_lean: plan.is_lean,
        series,
        samples_a_scrape: prometheus
            .value("avg(scrape_samples_scraped)")
            .expect("a scrape"),
        scraped: Duration::from_secs_f64(
            prometheus
                .value("avg(scrape_duration_seconds)")
                .expect("a scrape"),
        ),
        evaluation,
        longest_evaluation,
        slowest,
        all,
        resident,
        disk,
        a_sample,
    }
}

/// Heading of the table.
pub const HEADING: &str = "\
| engine | devices | profile | series of each | series in all | samples/s | a scrape | rules, median | rules, longest | of their interval | \
slowest panel, median | which | all panels | resident | on disk | a sample |
|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|";

/// Formats a row of the table as Markdown.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            engine,
            devices,
            is_lean,
            series,
            samples_a_scrape,
            scraped,
            evaluation,
            longest_evaluation,
            slowest: (slowest, panel),
            all,
            resident,
            disk,
            a_sample,
        } = self;
        let profile = if *is_lean { "lean" } else { "full" };
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let a_second = samples_a_scrape * *devices as f64 / SCRAPE_INTERVAL.as_secs_f64();
        let milliseconds = |time: &Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
        let share = longest_evaluation.as_secs_f64() / EVALUATION_INTERVAL.as_secs_f64();
        write!(
            f,
            "| {engine:?} | {devices} | {profile} | {samples_a_scrape:.0} | {series} | {a_second:.0} | {} | {} | {} | {:.2} % | {} | {panel} | {} | {} MB | {} MB | {a_sample:.2} B |",
            milliseconds(scraped),
            milliseconds(evaluation),
            milliseconds(longest_evaluation),
            share * 100.0,
            milliseconds(slowest),
            milliseconds(all),
            resident / 1_000_000,
            disk / 1_000_000,
        )
    }
}

/// Runs one plan per word, a number of devices with an optional `:full` for the full profile, and prints the table.
///
/// Returns false if a word is not a plan.
pub fn print(engine: Engine, factor: u32, words: &[&str]) -> bool {
    let plan = |word: &&str| {
        let (number, is_lean) = match word.strip_suffix(":full") {
            Some(number) => (number, false),
            None => (*word, true),
        };
        Some(Plan {
            engine,
            devices: number.parse().ok()?,
            is_lean,
            factor,
        })
    };
    let Some(plans) = words.iter().map(plan).collect::<Option<Vec<Plan>>>() else {
        return false;
    };
    let mut rows = Vec::new();
    for (word, plan) in words.iter().zip(plans) {
        rows.push(run(&plan, |line| println!("{word}: {line}")));
    }
    println!("\n{HEADING}");
    for row in rows {
        println!("{row}");
    }
    true
}
