//! Outages of the link between an agent and the central store, and what arrives after them.

use std::{
    fmt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

use super::{
    Fleet,
    agent::{Agent, Kind, written},
    observer::SCRAPE_INTERVAL,
    sums::size,
};
use crate::{
    Prometheus,
    breaking::{Breaking, Direction},
    dashboard::array,
    eventually_queried, now, resident, victoria_metrics,
};

/// Limit on the arrival of samples. A vmagent waits for up to a minute between two attempts.
const LIMIT: Duration = Duration::from_secs(180);
/// Time that the first samples may take before an outage and after a restart.
const SETTLED: Duration = Duration::from_secs(3);
const HOUR: Duration = Duration::from_secs(3600);

/// Outage of a link.
#[derive(Clone, Copy)]
pub struct Outage {
    pub kind: Kind,
    pub length: Duration,
    /// Restarts the agent in the middle of the outage.
    pub restarts: bool,
    /// Divisor of the times after which the agent discards samples, and of its scrape interval.
    pub factor: u32,
}

/// Result of an outage.
pub struct Outcome {
    pub outage: Outage,
    /// Number of scrapes during the outage.
    pub scrapes: u64,
    /// Number of them whose samples have arrived.
    pub arrived: u64,
    /// Bytes that the agent kept at the end of the outage.
    kept: u64,
    resident: usize,
    /// Time between the end of the outage and the arrival of a later sample.
    caught_up: Duration,
}

/// Starts a store that scrapes nothing, with a folder for its configuration.
pub fn store(dir: &Path, factor: u32) -> Prometheus {
    let config = json!({ "scrape_configs": [] });
    victoria_metrics::store(&written(dir, "store.yml", &config), factor)
}

/// Times of the samples of the last half hour, in seconds.
pub fn moments(store: &Prometheus, selector: &str) -> Vec<f64> {
    let answer = store.query(&format!("{selector}[30m]"));
    let series = array(&answer["data"]["result"]);
    let samples = series.iter().flat_map(|series| array(&series["values"]));
    samples
        .map(|sample| sample[0].as_f64().expect("a time"))
        .collect()
}

impl Outage {
    /// Lets an agent scrape the port `device` and write to a store, and breaks the link between them.
    pub fn run(self, instance: &str, device: u16, store: &Prometheus) -> Outcome {
        let dir = TempDir::new().expect("a folder");
        let link = Breaking::start(store.port());
        let way = Breaking::start(device);
        let agent = Agent {
            kind: self.kind,
            dir: dir.path(),
            instance,
            interval: SCRAPE_INTERVAL / self.factor,
            device: &format!("127.0.0.1:{}", way.port()),
            central: link.port(),
            factor: self.factor,
        };
        let mut server = agent.start();
        let up = format!(r#"up{{via="remote_write",instance="{instance}"}}"#);
        eventually_queried(LIMIT, "samples arrive", || moments(store, &up).pop());
        thread::sleep(SETTLED);

        link.set(Some(Direction::ToServer));
        let (broken, before) = (now(), way.passed().0);
        if self.restarts {
            thread::sleep(self.length / 2);
            server.stop();
            server = agent.start();
            thread::sleep(self.length / 2);
        } else {
            thread::sleep(self.length);
        }
        let kept = size(server.data());
        let resident = resident(server.pid()).expect("it runs");
        let (restored, after) = (now(), way.passed().0);
        link.set(None);
        let since = Instant::now();
        // An agent sends its samples in their order.
        let moments = eventually_queried(LIMIT, "it catches up", || {
            let moments = moments(store, &up);
            let is_later = moments.iter().any(|moment| *moment > restored);
            is_later.then_some(moments)
        });
        let arrived = moments.iter();
        let arrived = arrived.filter(|moment| (broken..restored).contains(moment));
        Outcome {
            outage: self,
            scrapes: after - before,
            arrived: arrived.count() as u64,
            kept,
            resident,
            caught_up: since.elapsed(),
        }
    }
}

/// Heading of the table.
pub const HEADING: &str = "\
| agent | outage | scrapes in it | arrived | lost | kept at its end | resident | caught up after |
|---|---|--:|--:|--:|--:|--:|--:|";

/// Formats a row of the table as Markdown.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            outage,
            scrapes,
            arrived,
            kept,
            resident,
            caught_up,
        } = self;
        let hours = (outage.length * outage.factor).as_secs() / HOUR.as_secs();
        let restart = if outage.restarts { ", a restart" } else { "" };
        // A sample in transit at either end is no loss.
        let lost = scrapes.saturating_sub(arrived + 1);
        write!(
            f,
            "| {:?} | {hours} h{restart} | {scrapes} | {arrived} | {} % | {} kB | {} MB | {:.0} s |",
            outage.kind,
            100 * lost / scrapes.max(&1),
            kept / 1000,
            resident / 1_000_000,
            caught_up.as_secs_f64(),
        )
    }
}

/// Measures both agents in outages of some lengths, all at once, and prints the table.
pub fn print(factor: u32, hours: &[u32]) {
    let dir = TempDir::new().expect("a folder");
    let store = store(dir.path(), factor);
    let fleet = Fleet::start(1, true, Duration::from_secs(1));
    let device = fleet.addresses[0].port();
    let mut outages = Vec::new();
    for kind in [Kind::Prometheus, Kind::Vmagent] {
        let outage = |hours: u32, restarts| Outage {
            kind,
            length: HOUR * hours / factor,
            restarts,
            factor,
        };
        outages.extend(hours.iter().map(|hours| outage(*hours, false)));
        outages.push(outage(hours[0], true));
    }
    println!("{HEADING}");
    // A server dies with the thread that started it.
    thread::scope(|scope| {
        let running: Vec<_> = outages
            .iter()
            .enumerate()
            .map(|(number, outage)| {
                let store = &store;
                scope.spawn(move || outage.run(&format!("agent-{number}"), device, store))
            })
            .collect();
        for outcome in running {
            println!("{}", outcome.join().expect("no panic"));
        }
    });
}
