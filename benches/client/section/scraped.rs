//! Effect of ten scrapes per second on the messages per second.

use super::{instrumented::busy, throughput::rate};
use crate::{
    contender::Contender,
    job::{Load, Work},
    rounds::Bench,
    table::{self, spread, three_places, two_places, whole},
};

/// Many rounds, since the difference is smaller than that between two rounds.
const TIMES: usize = 4;

pub fn run(bench: &mut Bench) {
    let quick = bench.options.quick;
    // At least ten scrapes.
    let load = Load::lasting(if quick { 200 } else { 1_000 });
    let mut contenders = bench.contenders(Contender::is_instrumented);
    // The contenders for ratios have no counterpart here.
    contenders.retain(Contender::is_instrumented);
    let rounds = bench.options.rounds * TIMES;
    let results = bench.alternate(&contenders, rounds, "scraped", Work::Publish, load);
    let mut rows = Vec::new();
    for (contender, series) in results.rows(rate) {
        let name = format!("{}, scraped", contender.name);
        let Some(scraped) = results.series(&name, rate) else {
            continue;
        };
        let [busy, scraped_busy] = [contender.name.clone(), name]
            .map(|name| results.series(&name, busy).unwrap_or_default());
        rows.push(vec![
            contender.name.clone(),
            spread(&series, whole),
            spread(&scraped, whole),
            spread(&scraped.ratios(&series), three_places),
            spread(&busy, two_places),
            spread(&scraped_busy, two_places),
            table::median(&scraped_busy.ratios(&busy), three_places),
        ]);
    }
    let columns = [
        "",
        "messages/s",
        "scraped: messages/s",
        "× not scraped",
        "CPU µs",
        "scraped: CPU µs",
        "× not scraped",
    ]
    .map(str::to_owned);
    let about = format!(
        "QoS 1, 100 B, 100 in flight; {rounds} rounds. The scraper is a process of its own on the same machine. The processor time per message of all threads of the client is steadier than the messages per second."
    );
    table::print(
        "What being scraped ten times a second costs",
        &about,
        &columns,
        &rows,
    );
}
