//! Time to create a client for which messages wait.

use super::offline::load_size;
use crate::{
    contender::{Contender, DIRECT, Store, TMPFS},
    job::{Load, Work},
    rounds::{Bench, Results},
    sink::Sink,
    table::{self, ratio, spread, three_places, whole},
};

const PAYLOAD: usize = 1024;
const SENT: &str = "sent and not acknowledged";

pub fn run(bench: &mut Bench) {
    let quick = bench.options.quick;
    let numbers: &[usize] = if quick { &[1_000] } else { &[30_000, 60_000] };
    let contenders = bench
        .contenders(|contender| contender.outlives_the_process() && !contender.is_instrumented());
    let sink = Sink::start();
    for &messages in numbers {
        let results = measure(bench, &contenders, &sink, Work::Fill, messages);
        print("not sent yet", messages, &results);
    }
    // With Paho's own files, restoring takes the square of their number: 1,000 take a second, 30,000 would take a quarter of
    // an hour.
    let (few, many) = (1_000, numbers[0]);
    let results = measure(bench, &contenders, &sink, Work::Leave, few);
    print(SENT, few, &results);
    if many > few {
        let contenders =
            bench.contenders(|contender| contender.uses_redis() && !contender.is_instrumented());
        let results = measure(bench, &contenders, &sink, Work::Leave, many);
        print(SENT, many, &results);
    }
}

/// Fills each contender once. A created client adds one message, so that the restored ones can be counted.
fn measure(
    bench: &mut Bench,
    contenders: &[Contender],
    sink: &Sink,
    work: Work,
    messages: usize,
) -> Results {
    let title = format!("restore of {messages}");
    let load = Load::of(messages, 1, PAYLOAD);
    let mut filled: Vec<Filled> = Vec::new();
    // Each turn is long enough to be steady.
    let rounds = bench.options.rounds.div_ceil(2);
    bench.alternate_with(contenders, rounds, &title, |bench, contender| {
        let broker = Some(sink.url());
        // Contenders in Redis share their records.
        let place = |filled: &&mut Filled| match contender.store {
            Store::Files(_) => filled.by == contender.name,
            _ => filled.in_redis,
        };
        let found = filled.iter_mut().find(place);
        let filled = if let Some(found) = found {
            found
        } else {
            bench.stage.clear(contender);
            let client_id = bench.new_client();
            bench.run_as(contender, &client_id, work, load, broker.clone())?;
            filled.push(Filled {
                by: contender.name.clone(),
                in_redis: contender.uses_redis(),
                client_id,
                messages,
            });
            filled.last_mut().expect("just pushed")
        };
        bench.expect_records(contender, filled.messages)?;
        let measured = bench.run_as(contender, &filled.client_id, Work::Create, load, broker)?;
        filled.messages += 1;
        bench.expect_records(contender, filled.messages)?;
        Ok(measured)
    })
}

/// State of the waiting messages.
struct Filled {
    by: String,
    in_redis: bool,
    client_id: String,
    messages: usize,
}

fn print(state: &str, messages: usize, results: &Results) {
    let [direct, tmpfs] =
        [DIRECT, TMPFS].map(|name| results.series(name, |measured| measured.seconds));
    let rows: Vec<Vec<String>> = results
        .rows(|measured| measured.seconds)
        .map(|(contender, series)| {
            vec![
                contender.name.clone(),
                spread(&series, three_places),
                ratio(&series, direct.as_ref()),
                ratio(&series, tmpfs.as_ref()),
            ]
        })
        .collect();
    table::print(
        &format!(
            "Creating a client with {} messages of 1 KiB, {state}",
            whole(load_size(messages))
        ),
        "From the call until the client is there, in seconds: less is better.",
        &["", "seconds", "× direct", "× files on tmpfs"].map(str::to_owned),
        &rows,
    );
}
