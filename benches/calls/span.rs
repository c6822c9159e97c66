//! Cost of a span without an interested subscriber.

use std::{hint::black_box, io, time::Instant};

use tracing::{Level, field::Empty, span, subscriber};

use crate::{statistics::Series, table};

const SPANS: u32 = 200_000;

pub fn run(rounds: usize) {
    let nobody: Vec<f64> = (0..rounds).map(|_| nanoseconds()).collect();
    // A subscriber that would record the spans of calls, but for its filter at INFO.
    let uninterested = tracing_subscriber::fmt()
        .with_max_level(Level::INFO)
        .with_writer(io::sink)
        .finish();
    let left_out: Vec<f64> = subscriber::with_default(uninterested, || {
        (0..rounds).map(|_| nanoseconds()).collect()
    });
    let row = |name: &str, numbers: Vec<f64>| {
        let series = Series(numbers.into_iter().map(Some).collect());
        vec![name.to_owned(), table::spread(&series, table::two_places)]
    };
    table::print(
        "A disabled span",
        "Created, entered and given the outcome, with the fields that `Instrumented` sets.",
        &["subscriber", "ns"].map(str::to_owned),
        &[row("none", nobody), row("at INFO", left_out)],
    );
}

/// Cost of one span, without the loop around it.
fn nanoseconds() -> f64 {
    let time = |work: fn(u32)| {
        let started = Instant::now();
        for number in 0..SPANS {
            work(black_box(number));
        }
        started.elapsed().as_secs_f64() * 1e9 / f64::from(SPANS)
    };
    let loop_alone = time(|number| {
        black_box(number);
    });
    time(disabled) - loop_alone
}

/// Creates a span with the fields of `Instrumented`.
fn disabled(number: u32) {
    let (store, client_id, key, bytes) =
        black_box(("redis", "device-1", "c5-1", i64::from(number)));
    let (address, port, database) = black_box((Some("127.0.0.1"), Some(6379_i64), Some("0")));
    let span = span!(
        target: "paho_mqtt_redis",
        Level::DEBUG,
        "persistence_call",
        "db.system.name" = store,
        "db.operation.name" = "put",
        "messaging.client.id" = client_id,
        "record.key" = key,
        "record.kind" = "command",
        "record.bytes" = bytes,
        outcome = Empty,
        "error.type" = Empty,
        "server.address" = address,
        "server.port" = port,
        "db.namespace" = database,
        "otel.name" = %format_args!("put {address:?}"),
        "otel.kind" = "client",
        "otel.status_code" = Empty,
        "otel.status_description" = Empty,
    )
    .entered();
    span.record("outcome", "ok");
}
