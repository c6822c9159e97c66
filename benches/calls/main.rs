//! Measures single calls of a persistence, plain and instrumented, and prints Markdown tables.
//!
//! `cargo bench -p testkit --bench calls` runs it, with a private Redis. `-- --quick` only checks that it works.

mod allocations;
mod contender;
mod message;
mod nothing;
mod span;
mod timing;

use std::env;
use testkit::{statistics, table};

use allocations::Counting;
use contender::{Measured, Pair};
use message::{Call, Message};
use testkit::RedisServer;
use testkit::statistics::Series;
use testkit::table::{spread, two_places, whole};
use timing::{CONTAINS, CYCLE, Cost, KEYS, Round};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    // cargo passes `--bench` to every bench.
    let quick = env::args().any(|argument| argument == "--quick");
    let (rounds, cycles) = if quick { (2, 50) } else { (9, 1_000) };
    let redis = RedisServer::tcp();
    let messages: Vec<Message> = (1..=cycles).map(Message::new).collect();

    println!(
        "Medians of {rounds} rounds of {cycles} messages of 100 B, with the range of the rounds in parentheses. Allocations are \
         those of the calling thread, a call."
    );
    span::run(rounds);
    let mut pairs = contender::all(&redis);
    allocations(&mut pairs, &messages, cycles);
    calls(&mut pairs, &messages, rounds);
    drop(pairs);
    redis::cmd("FLUSHALL")
        .exec(&mut redis.connection())
        .expect("Redis answers");
    let waiting: &[u16] = if quick {
        &[0, 500]
    } else {
        &[0, 1_000, 10_000, 60_000]
    };
    growth(&redis, &messages, waiting, rounds);
}

/// Prints the allocations per message, once the persistences have grown to their size.
fn allocations(pairs: &mut [Pair], at_least_once: &[Message], cycles: u16) {
    let exactly_once: Vec<Message> = (1..=cycles).map(Message::exactly_once).collect();
    let mut rows = Vec::new();
    for pair in pairs {
        let mut row = vec![pair.name.clone()];
        for persistence in [&mut pair.plain, &mut pair.instrumented] {
            for messages in [at_least_once, &exactly_once] {
                timing::cycle(persistence.as_mut(), messages);
                let cost = timing::cycle(persistence.as_mut(), messages);
                row.push(two_places(cost.allocations));
            }
        }
        rows.push(row);
    }
    let columns = ["", "QoS 1", "QoS 2", "instrumented: QoS 1", "QoS 2"];
    let about = "Of all calls for a message. The value of each record is one, and so is the copy that `get` returns.";
    table::print(
        "Allocations per message",
        about,
        &columns.map(str::to_owned),
        &rows,
    );
}

/// Prints one table per persistence.
fn calls(pairs: &mut [Pair], messages: &[Message], rounds: usize) {
    let clock = timing::clock();
    let mut results: Vec<[Vec<Round>; 2]> = pairs.iter().map(|_| Default::default()).collect();
    // The first round warms up and does not count.
    for number in 0..=rounds {
        for (pair, result) in pairs.iter_mut().zip(&mut results) {
            for (persistence, rounds) in [&mut pair.plain, &mut pair.instrumented]
                .into_iter()
                .zip(result)
            {
                let round = timing::round(persistence.as_mut(), messages, clock);
                if number > 0 {
                    rounds.push(round);
                }
            }
        }
    }
    for (pair, [plain, instrumented]) in pairs.iter().zip(&results) {
        let mut names: Vec<&str> = Call::CYCLE.iter().map(|call| call.name()).collect();
        names.dedup();
        names.extend([CYCLE, CONTAINS, KEYS]);
        let row = |name: &str| {
            let times =
                [plain, instrumented].map(|rounds| series(rounds, name, |cost| cost.nanoseconds));
            let allocations =
                [plain, instrumented].map(|rounds| series(rounds, name, |cost| cost.allocations));
            let added = difference(&times[1], &times[0]);
            vec![
                name.to_owned(),
                spread(&times[0], whole),
                table::median(&allocations[0], two_places),
                spread(&times[1], whole),
                table::median(&allocations[1], two_places),
                spread(&added, whole),
            ]
        };
        let rows: Vec<Vec<String>> = names.into_iter().map(row).collect();
        let columns = [
            "call",
            "ns",
            "allocations",
            "instrumented: ns",
            "allocations",
            "added: ns",
        ];
        table::print(&pair.name, "", &columns.map(str::to_owned), &rows);
    }
}

/// Prints how the cost of a message grows with the number of waiting ones.
fn growth(redis: &RedisServer, messages: &[Message], waiting: &[u16], rounds: usize) {
    let mut pairs = contender::all(redis);
    let first = u16::try_from(messages.len() + 1).expect("not that many");
    let mut next = first;
    let mut rows: Vec<Vec<String>> = pairs.iter().map(|pair| vec![pair.name.clone()]).collect();
    let mut columns = vec!["ns".to_owned()];
    for &number in waiting {
        columns.push(whole(number.into()));
        let more: Vec<Message> = (next..first + number).map(Message::new).collect();
        next = first + number;
        for (pair, row) in pairs.iter_mut().zip(&mut rows) {
            timing::wait(pair.plain.as_mut(), &more);
            row.push(spread(&cycles(&mut pair.plain, messages, rounds), whole));
        }
    }
    let about = "The eight calls of a message at QoS 1, plain, while this many others wait.";
    table::print("Growth", about, &columns, &rows);
}

fn cycles(persistence: &mut Measured, messages: &[Message], rounds: usize) -> Series {
    let mut round = || timing::cycle(persistence.as_mut(), messages).nanoseconds;
    round();
    Series((0..rounds).map(|_| Some(round())).collect())
}

fn series(rounds: &[Round], name: &str, field: fn(&Cost) -> f64) -> Series {
    Series(
        rounds
            .iter()
            .map(|round| round.get(name).map(field))
            .collect(),
    )
}

/// Differences within each round.
fn difference(this: &Series, other: &Series) -> Series {
    let pairs = this.0.iter().zip(&other.0);
    Series(
        pairs
            .map(|(this, other)| Some((*this)? - (*other)?))
            .collect(),
    )
}
