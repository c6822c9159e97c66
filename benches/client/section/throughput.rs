//! Messages per second of a connected client.

use std::time::Duration;

use crate::{
    contender::{Contender, DIRECT},
    job::{Load, Work},
    rounds::{Bench, Results},
    statistics::Series,
    table::{self, ratio, size, spread, two_places, whole},
};
use testkit::charts::{self, Bars};

pub fn run(bench: &mut Bench) {
    let payloads: &[usize] = if bench.options.quick {
        &[100]
    } else {
        &[100, 1024]
    };
    let contenders = bench.contenders(|contender| !contender.is_instrumented());
    let mut bars: Vec<Bars> = contenders
        .iter()
        .map(|contender| Bars {
            label: contender.name.clone(),
            values: Vec::new(),
        })
        .collect();
    for qos in [1, 2, 0] {
        for in_flight in [100, 1] {
            let cells = measure(bench, &contenders, payloads, (qos, in_flight));
            if in_flight == 100 && charts::QUALITIES.contains(&qos) {
                // The smallest payload comes first.
                for (bars, (_, series)) in bars.iter_mut().zip(cells[0].rows(rate)) {
                    bars.values.push(series.median());
                }
            }
        }
    }
    bench.draw(charts::THROUGHPUT, &charts::throughput(bars));
}

/// Values that are large enough for copies to count.
pub fn run_large(bench: &mut Bench) {
    let contenders = bench.contenders(|contender| !contender.is_instrumented());
    for qos in [1, 2, 0] {
        measure(bench, &contenders, &[64 * 1024, 1024 * 1024], (qos, 10));
    }
}

/// Measures every contender with each payload, and prints the table.
fn measure(
    bench: &mut Bench,
    contenders: &[Contender],
    payloads: &[usize],
    (qos, in_flight): (i32, usize),
) -> Vec<Results> {
    let milliseconds = if bench.options.quick { 50 } else { 1_000 };
    let cells: Vec<Results> = payloads
        .iter()
        .map(|&payload| {
            let title = format!("QoS {qos}, {in_flight} in flight, {}", size(payload));
            let load = Load {
                qos,
                payload,
                in_flight,
                messages: usize::MAX,
                lasting: Duration::from_millis(milliseconds),
            };
            let rounds = bench.options.rounds;
            bench.alternate(contenders, rounds, &title, Work::Publish, load)
        })
        .collect();
    print(qos, in_flight, payloads, &cells);
    cells
}

fn print(qos: i32, in_flight: usize, payloads: &[usize], cells: &[Results]) {
    let mut columns = vec![String::new()];
    for &payload in payloads {
        columns.push(format!("{}: messages/s", size(payload)));
        columns.push("× limit".to_owned());
        columns.push("× direct".to_owned());
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut noisy = Vec::new();
    for (cell, &payload) in cells.iter().zip(payloads) {
        let direct = cell.series(DIRECT, rate);
        for (index, (contender, series)) in cell.rows(rate).enumerate() {
            if index == rows.len() {
                rows.push(vec![contender.name.clone()]);
            }
            let limit = contender.limit().and_then(|name| cell.series(&name, rate));
            let ratios = limit.map(|limit| series.ratios(&limit));
            if ratios.as_ref().is_some_and(is_noisy) {
                noisy.push(format!("{} with {}", contender.name, size(payload)));
            }
            rows[index].extend([
                spread(&series, whole),
                ratios.map_or("–".to_owned(), |ratios| spread(&ratios, two_places)),
                ratio(&series, direct.as_ref()),
            ]);
        }
    }
    table::print(
        &format!("QoS {qos}, {in_flight} in flight"),
        "",
        &columns,
        &rows,
    );
    if !noisy.is_empty() {
        println!(
            "\nThe machine was too noisy to conclude about: {}.",
            noisy.join("; ")
        );
    }
}

/// Returns true if the ratios of the rounds differ so much that their median says little.
fn is_noisy(ratios: &Series) -> bool {
    const MOST: f64 = 1.3;
    ratios.range().is_none_or(|(low, high)| high > low * MOST)
}

/// Messages per second.
pub fn rate(measured: &crate::job::Measured) -> f64 {
    measured.messages / measured.seconds
}
