//! Measures the cost of a scrape, with one client and with many, and prints a Markdown table.
//!
//! `cargo bench -p testkit --bench scrape` runs it. `-- --quick` only checks that it works.

mod allocations;

use std::{
    env,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Instant,
};
use testkit::table;

use allocations::Counting;
use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    Instrumented, MemoryPersistence, MetricsServer, PersistenceMetrics, prometheus::Registry,
    render,
};
use testkit::statistics::Series;
use testkit::table::{spread, two_places, whole};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Way to get the metrics; returns their length in bytes.
type Way<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>) -> usize);

fn main() {
    // cargo passes `--bench` to every bench.
    let quick = env::args().any(|argument| argument == "--quick");
    let rounds = if quick { 3 } else { 200 };
    let mut rows = Vec::new();
    for clients in [1, 50] {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).expect("a new registry");
        let opened: Vec<_> = (0..clients)
            .map(|number| {
                let mut persistence: Instrumented<MemoryPersistence> =
                    MemoryPersistence::new().instrument(&metrics);
                persistence
                    .open(&format!("device-{number}"), "broker")
                    .expect("it opens");
                persistence
            })
            .collect();
        let server = MetricsServer::bind("127.0.0.1:0", registry.clone()).expect("a port");
        let address = server.local_addr().unwrap();
        let ways: [Way; 4] = [
            ("`render`", &|_| render(&registry).expect("metrics").len()),
            ("`/metrics`", &|answer| {
                get(address, "/metrics", "identity", answer)
            }),
            ("`/metrics`, gzip", &|answer| {
                get(address, "/metrics", "gzip", answer)
            }),
            ("the page, gzip", &|answer| {
                get(address, "/", "gzip", answer)
            }),
        ];
        for (name, way) in ways {
            rows.push(measure(clients, name, way, rounds));
        }
        drop(opened);
    }
    let columns = ["clients", "", "ms", "bytes", "allocations", "KiB allocated"].map(str::to_owned);
    let about = format!(
        "Medians of {rounds} with the range. Allocations of all threads, including the scraper's; the allocated memory is not in use all \
         at the same time."
    );
    table::print("A scrape", &about, &columns, &rows);
}

fn measure(
    clients: usize,
    name: &str,
    way: &dyn Fn(&mut Vec<u8>) -> usize,
    rounds: usize,
) -> Vec<String> {
    let mut times = Series::default();
    let mut numbers = Series::default();
    let mut amounts = Series::default();
    let mut answer = Vec::with_capacity(4 << 20);
    let mut bytes = way(&mut answer);
    for _ in 0..rounds {
        let before = allocations::all();
        let started = Instant::now();
        bytes = way(&mut answer);
        times.0.push(Some(started.elapsed().as_secs_f64() * 1e3));
        let after = allocations::all();
        numbers.0.push(Some(float(after.0 - before.0)));
        amounts.0.push(Some(float(after.1 - before.1) / 1024.0));
    }
    vec![
        clients.to_string(),
        name.to_owned(),
        spread(&times, two_places),
        whole(float(bytes)),
        table::median(&numbers, whole),
        table::median(&amounts, whole),
    ]
}

/// Encodes into an existing buffer, whose allocation does not belong to the scrape.
fn get(address: SocketAddr, path: &str, coding: &str, answer: &mut Vec<u8>) -> usize {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: device\r\nAccept-Encoding: {coding}\r\n\r\n"
    )
    .expect("sent");
    answer.clear();
    stream.read_to_end(answer).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}");
    answer.len()
}

#[expect(clippy::cast_precision_loss, reason = "there are not that many")]
fn float(number: usize) -> f64 {
    number as f64
}
