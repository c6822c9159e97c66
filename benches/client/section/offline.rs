//! Client that publishes while not connected, then connects.

use super::throughput::rate;
use crate::{
    contender::{DIRECT, NONE},
    job::{Load, Measured, Work},
    rounds::Bench,
    table::{self, ratio, size, spread, whole},
};

pub fn run(bench: &mut Bench) {
    let quick = bench.options.quick;
    let messages = if quick { 500 } else { 3_000 };
    let payloads: &[usize] = if quick { &[100] } else { &[100, 1024] };
    let contenders = bench.contenders(|contender| !contender.is_instrumented());
    for &payload in payloads {
        let title = format!("offline, {}", size(payload));
        let load = Load::of(messages, 1, payload);
        let results = bench.alternate(
            &contenders,
            bench.options.rounds,
            &title,
            Work::FillAndSend,
            load,
        );
        let mut rows: Vec<Vec<String>> = contenders
            .iter()
            .map(|contender| vec![contender.name.clone()])
            .collect();
        for field in [rate, sending_rate] {
            let [none, direct] = [NONE, DIRECT].map(|name| results.series(name, field));
            for ((_, series), row) in results.rows(field).zip(&mut rows) {
                row.extend([
                    spread(&series, whole),
                    ratio(&series, direct.as_ref()),
                    ratio(&series, none.as_ref()),
                ]);
            }
        }
        let columns = [
            "",
            "accepted: messages/s",
            "× direct",
            "× none",
            "then sent: messages/s",
            "× direct",
            "× none",
        ];
        table::print(
            &format!("Offline, {}", size(payload)),
            &format!(
                "{} messages at QoS 1 are published without a connection; the second rate is from connecting until all are \
                 acknowledged.",
                whole(load_size(messages))
            ),
            &columns.map(str::to_owned),
            &rows,
        );
    }
}

/// Messages per second after connecting.
pub fn sending_rate(measured: &Measured) -> f64 {
    measured.messages / measured.sending
}

#[expect(
    clippy::cast_precision_loss,
    reason = "there are not that many messages"
)]
pub fn load_size(messages: usize) -> f64 {
    messages as f64
}
