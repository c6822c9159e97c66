//! Effect of an outage of the Redis of another client in the process on the messages per second.

use super::throughput::rate;
use crate::{
    contender::{Store, Transport},
    job::{Load, Work},
    rounds::Bench,
    table::{self, spread, three_places, whole},
};
use testkit::RedisServer;

const WORKS: [(Work, &str); 2] = [(Work::Publish, "up"), (Work::PublishBesideOutage, "down")];

pub fn run(bench: &mut Bench) {
    let quick = bench.options.quick;
    let load = Load::lasting(if quick { 100 } else { 1_000 });
    let contenders = bench.contenders(|contender| {
        !contender.is_instrumented() && matches!(contender.store, Store::Ours(Transport::Unix, _))
    });
    let rounds = bench.options.rounds * 2;
    let mut redis = RedisServer::start();
    let mut rows = Vec::new();
    for contender in contenders {
        let pair = WORKS.map(|(_, name)| contender.renamed(name));
        let title = format!("{} beside another client", contender.name);
        let results = bench.alternate_with(&pair, rounds, &title, |bench, turn| {
            let work = WORKS.iter().find(|(_, name)| *name == turn.name);
            let (work, _) = *work.expect("one of them");
            redis.restart();
            bench.run_beside(&contender, &redis.url(), work, load)
        });
        let [up, down] = WORKS.map(|(_, name)| results.series(name, rate).unwrap_or_default());
        rows.push(vec![
            contender.name.clone(),
            spread(&up, whole),
            spread(&down, whole),
            spread(&down.ratios(&up), three_places),
        ]);
    }
    let columns = [
        "",
        "the other Redis answers: messages/s",
        "it does not: messages/s",
        "ratio",
    ]
    .map(str::to_owned);
    let about = format!(
        "QoS 1, 100 B, 100 in flight, beside a client of the same process that publishes 1,000 messages per second and has a Redis \
         of its own; {rounds} rounds."
    );
    table::print(
        "While the Redis of another client is down",
        &about,
        &columns,
        &rows,
    );
}
