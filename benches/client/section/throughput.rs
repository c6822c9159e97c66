//! Messages per second of a connected client.

use std::time::Duration;

use crate::{
    contender::{DIRECT, NONE},
    job::{Load, Work},
    rounds::{Bench, Results},
    table::{self, ratio, size, spread, whole},
};
use testkit::charts::{self, Bars};

pub fn run(bench: &mut Bench) {
    let quick = bench.options.quick;
    let payloads: &[usize] = if quick {
        &[100]
    } else {
        &[100, 1024, 64 * 1024]
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
            let cells: Vec<Results> = payloads
                .iter()
                .map(|&payload| {
                    let title = format!("QoS {qos}, {in_flight} in flight, {}", size(payload));
                    let load = Load {
                        qos,
                        payload,
                        in_flight,
                        messages: usize::MAX,
                        lasting: Duration::from_millis(if quick { 50 } else { 1_000 }),
                    };
                    bench.alternate(
                        &contenders,
                        bench.options.rounds,
                        &title,
                        Work::Publish,
                        load,
                    )
                })
                .collect();
            print(qos, in_flight, payloads, &cells);
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

fn print(qos: i32, in_flight: usize, payloads: &[usize], cells: &[Results]) {
    let mut columns = vec![String::new()];
    for &payload in payloads {
        columns.push(format!("{}: messages/s", size(payload)));
        columns.push("× direct".to_owned());
        columns.push("× none".to_owned());
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for cell in cells {
        let [none, direct] = [NONE, DIRECT].map(|name| cell.series(name, rate));
        for (index, (contender, series)) in cell.rows(rate).enumerate() {
            if index == rows.len() {
                rows.push(vec![contender.name.clone()]);
            }
            rows[index].extend([
                spread(&series, whole),
                ratio(&series, direct.as_ref()),
                ratio(&series, none.as_ref()),
            ]);
        }
    }
    table::print(
        &format!("QoS {qos}, {in_flight} in flight"),
        "",
        &columns,
        &rows,
    );
}

/// Messages per second.
pub fn rate(measured: &crate::job::Measured) -> f64 {
    measured.messages / measured.seconds
}
