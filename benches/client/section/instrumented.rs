//! Effect of measuring every call on the messages per second.

use super::throughput::rate;
use crate::{
    contender::Store,
    job::{Load, Measured, Work},
    rounds::Bench,
    table::{self, spread, three_places, two_places, whole},
};

/// Many rounds, since the difference is smaller than that between two rounds.
const TIMES: usize = 4;

pub fn run(bench: &mut Bench) {
    let quick = bench.options.quick;
    let load = Load::lasting(if quick { 50 } else { 200 });
    let contenders = bench.contenders(|contender| {
        matches!(contender.store, Store::Memory | Store::Ours(..)) && !contender.is_scraped()
    });
    let rounds = bench.options.rounds * TIMES;
    let results = bench.alternate(&contenders, rounds, "instrumented", Work::Publish, load);
    let mut rows = Vec::new();
    for (contender, series) in results
        .rows(rate)
        .filter(|(contender, _)| !contender.is_instrumented())
    {
        let name = format!("{}, instrumented", contender.name);
        let Some(instrumented) = results.series(&name, rate) else {
            continue;
        };
        let [plain_busy, instrumented_busy] = [contender.name.clone(), name]
            .map(|name| results.series(&name, busy).unwrap_or_default());
        rows.push(vec![
            contender.name.clone(),
            spread(&series, whole),
            spread(&instrumented, whole),
            spread(&instrumented.ratios(&series), three_places),
            spread(&plain_busy, two_places),
            spread(&instrumented_busy, two_places),
        ]);
    }
    let columns = [
        "",
        "plain: messages/s",
        "instrumented: messages/s",
        "× plain",
        "plain: CPU µs",
        "instrumented: CPU µs",
    ]
    .map(str::to_owned);
    let about = format!(
        "QoS 1, 100 B, 100 in flight; {rounds} rounds. The processor time per message of all threads of the client is \
         steadier than the messages per second if the machine is busy."
    );
    table::print("What instrumenting costs", &about, &columns, &rows);
}

/// Microseconds of processor time per message.
pub fn busy(measured: &Measured) -> f64 {
    measured.busy * 1e6 / measured.messages
}
