//! Measured cost of a device, and the extrapolated cost of fleets.

#![expect(
    clippy::cast_precision_loss,
    reason = "what is counted is far below 2^52"
)]

use std::{
    fmt, fs,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    thread,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;

use super::{
    Fleet,
    agent::{Agent, Kind, written},
    observer::{Observer, SCRAPE_INTERVAL},
};
use crate::{Prometheus, breaking::Breaking, eventually, http_get, resident};

/// Number of devices with which the size of a sample on the disk is measured.
const DEVICES: usize = 20;
/// Number of scrapes in two hours, the length of a block.
const SCRAPES: u32 = 480;
const FACTOR: u32 = 30;
/// Number of messages in that time, one per second.
const PAUSE: Duration = Duration::from_nanos(1_000_000_000 / FACTOR as u64);
const LIMIT: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Sizes of fleets.
const FLEETS: [u64; 3] = [100, 10_000, 1_000_000];

/// Cost of one scrape of one device, in bytes except for the number of series.
pub struct Sizes {
    is_lean: bool,
    series: f64,
    text: usize,
    compressed: usize,
    scraped: f64,
    pushed: f64,
    log: f64,
    agent: usize,
    sample: f64,
}

/// Number of scrapes and pushes in a measurement, and bytes of both and of the agent's log.
struct Counts {
    scrapes: f64,
    scraped: f64,
    pushes: f64,
    pushed: f64,
    log: f64,
}

pub fn measure(is_lean: bool) -> Sizes {
    let fleet = Fleet::start(DEVICES, is_lean, PAUSE);
    let observer = Observer::start(&fleet.targets, FACTOR);
    let interval = SCRAPE_INTERVAL / FACTOR;
    let device = fleet.addresses[0];
    let way = Breaking::start(device.port());
    let dir = TempDir::new().expect("a folder");
    let central = {
        let interval = format!("{}ms", interval.as_millis());
        let config = json!({
            "global": { "scrape_interval": interval, "scrape_timeout": interval },
            "scrape_configs": [{
                "job_name": "mqtt-devices",
                "static_configs": [{ "targets": [format!("127.0.0.1:{}", way.port())] }],
            }],
        });
        let config = written(dir.path(), "central.yml", &config);
        Prometheus::with_flags(&config, &["--web.enable-remote-write-receiver"])
    };
    let link = Breaking::start(central.port());
    let agent = Agent {
        kind: Kind::Prometheus,
        dir: dir.path(),
        instance: "example-device",
        interval,
        device: &device.to_string(),
        central: link.port(),
        factor: 1,
    };
    let agent = agent.start();
    let pushes = || {
        let count = r#"sum(count_over_time(up{via="remote_write"}[1h]))"#;
        central.value(count)
    };
    eventually(LIMIT, "the agent pushes", &pushes);
    let count = || Counts {
        scrapes: way.passed().0 as f64,
        scraped: way.passed().1 as f64,
        pushes: pushes().expect("it pushes"),
        pushed: link.passed().1 as f64,
        log: size(agent.data()) as f64,
    };
    let before = count();
    thread::sleep(interval * SCRAPES);
    let after = count();
    let pushes = after.pushes - before.pushes;
    let (_, _, text) = http_get(device, "/metrics");
    let series = "avg(scrape_samples_scraped)";
    Sizes {
        is_lean,
        series: observer.prometheus.value(series).expect("a scrape"),
        text: text.len(),
        compressed: compressed(device),
        scraped: (after.scraped - before.scraped) / (after.scrapes - before.scrapes),
        pushed: (after.pushed - before.pushed) / pushes,
        log: (after.log - before.log) / pushes,
        agent: resident(agent.pid()).expect("it runs"),
        sample: bytes_a_sample(&observer.prometheus),
    }
}

/// Length of the body for a client that accepts gzip.
fn compressed(device: impl ToSocketAddrs) -> usize {
    let mut stream = TcpStream::connect(device).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let request = b"GET /metrics HTTP/1.1\r\nHost: device\r\nAccept-Encoding: gzip\r\n\r\n";
    stream.write_all(request).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
    answer.len() - head.expect("a head") - 4
}

/// Bytes per sample on the disk of a Prometheus, index included, after writing a block with the samples in its memory.
pub fn bytes_a_sample(prometheus: &Prometheus) -> f64 {
    let mut stream = TcpStream::connect(prometheus.address()).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let request = "POST /api/v1/admin/tsdb/snapshot HTTP/1.0\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.contains(" 200 "), "{answer}");
    let snapshots = prometheus.data().join("snapshots");
    let samples: u64 = files(&snapshots)
        .iter()
        .filter(|(name, _)| name.ends_with("meta.json"))
        .map(|(name, _)| {
            let meta = fs::read_to_string(name).expect("a block");
            let meta: serde_json::Value = serde_json::from_str(&meta).expect("JSON");
            meta["stats"]["numSamples"].as_u64().expect("a number")
        })
        .sum();
    size(&snapshots) as f64 / samples as f64
}

/// Bytes of all files below a folder.
pub fn size(folder: &Path) -> u64 {
    files(folder).iter().map(|(_, size)| size).sum()
}

/// All files below a folder with their sizes; files that disappear meanwhile are skipped.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(about) if about.is_dir() => found.extend(files(&path)),
            Ok(about) => found.push((path.display().to_string(), about.len())),
            Err(_) => {}
        }
    }
    found
}

/// Formats both tables as Markdown: the measurements and the sums.
pub struct Sums(pub Vec<Sizes>);

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| profile | series | text | compressed | scraped, on the wire | pushed, on the wire | the agent's log | the agent in memory | a sample on disk |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|"
        )?;
        for sizes in &self.0 {
            writeln!(
                f,
                "| {} | {:.0} | {} B | {} B | {:.0} B | {:.0} B | {:.0} B | {} MB | {:.2} B |",
                sizes.profile(),
                sizes.series,
                sizes.text,
                sizes.compressed,
                sizes.scraped,
                sizes.pushed,
                sizes.log,
                sizes.agent / 1_000_000,
                sizes.sample,
            )?;
        }
        writeln!(
            f,
            "\n| devices | profile | series | samples/s | scraped, a day on the wire | pushed, a day on the wire | a day on disk |\n\
             |--:|---|--:|--:|--:|--:|--:|"
        )?;
        let scrapes = DAY.as_secs_f64() / SCRAPE_INTERVAL.as_secs_f64();
        for devices in FLEETS {
            for sizes in &self.0 {
                let all = devices as f64;
                let samples = all * sizes.series * scrapes;
                writeln!(
                    f,
                    "| {devices} | {} | {:.0} | {:.0} | {} | {} | {} |",
                    sizes.profile(),
                    all * sizes.series,
                    samples / DAY.as_secs_f64(),
                    readable(all * scrapes * sizes.scraped),
                    readable(all * scrapes * sizes.pushed),
                    readable(samples * sizes.sample),
                )?;
            }
        }
        Ok(())
    }
}

impl Sizes {
    fn profile(&self) -> &'static str {
        if self.is_lean { "lean" } else { "full" }
    }
}

fn readable(bytes: f64) -> String {
    let mut bytes = bytes;
    for unit in ["B", "kB", "MB", "GB"] {
        if bytes < 1000.0 {
            let places = usize::from(bytes < 10.0);
            return format!("{bytes:.places$} {unit}");
        }
        bytes /= 1000.0;
    }
    format!("{bytes:.1} TB")
}

/// Measures both profiles and prints the sums.
pub fn print() {
    let profiles = [true, false].map(|is_lean| thread::spawn(move || measure(is_lean)));
    let sizes = profiles.map(|measuring| measuring.join().expect("no panic"));
    print!("{}", Sums(sizes.into()));
}
