//! Dependence of the cost of a message on the number of waiting ones.

use super::{
    offline::{load_size, sending_rate},
    throughput::rate,
};
use crate::{
    contender::Contender,
    job::{Load, Work},
    rounds::{Bench, Results},
    table::{self, spread, whole},
};

pub fn run(bench: &mut Bench) {
    let numbers: &[usize] = if bench.options.quick {
        &[500, 1_000]
    } else {
        &[1_000, 10_000, 60_000]
    };
    let contenders = bench.contenders(Contender::stands_for_others);
    // Each turn is long enough to be steady.
    let rounds = bench.options.rounds.div_ceil(5);
    let cells: Vec<Results> = numbers
        .iter()
        .map(|&messages| {
            let title = format!("growth, {messages} waiting");
            bench.alternate(
                &contenders,
                rounds,
                &title,
                Work::FillAndSend,
                Load::of(messages, 1, 100),
            )
        })
        .collect();
    for (title, about, field) in [
        (
            "Messages a second, not connected, until so many wait",
            "QoS 1, 100 B; every message is published without a connection.",
            rate as crate::rounds::Field,
        ),
        (
            "Messages a second when so many that wait are sent",
            "QoS 1, 100 B; from connecting until the last is acknowledged.",
            sending_rate,
        ),
    ] {
        let mut columns = vec![String::new()];
        columns.extend(numbers.iter().map(|&messages| whole(load_size(messages))));
        let mut rows: Vec<Vec<String>> = contenders
            .iter()
            .map(|contender| vec![contender.name.clone()])
            .collect();
        for cell in &cells {
            for ((_, series), row) in cell.rows(field).zip(&mut rows) {
                row.push(spread(&series, whole));
            }
        }
        table::print(title, about, &columns, &rows);
    }
}
