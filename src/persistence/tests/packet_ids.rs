//! No two messages share a packet id after a start.

use std::{collections::BTreeSet, time::Duration};

use super::bench::{Bench, command, publish};
use crate::{paho::Command, persistence::simulated::Settings};

fn token(value: &[u8]) -> u32 {
    let parsed = Command::parse(value, false).and_then(Command::packet_id);
    parsed.expect("a publish command")
}

fn unique_tokens(cache_limit: usize) {
    let settings = Settings {
        cache_limit,
        ..Settings::default()
    };
    let records = [
        ("c-1", command(5, 2, b"got an id that is in flight")),
        ("c-2", command(6, 2, b"the first with this id")),
        ("c-3", command(6, 1, b"the second with this id")),
        ("c-4", command(1, 1, b"keeps its id")),
        ("s-5", publish(5, 2, b"in flight")),
    ];
    let mut bench = Bench::new(&settings, &records);
    bench.restore();
    let tokens: Vec<u32> = (1..=4)
        .map(|number| token(&bench.get(&format!("c-{number}"))))
        .collect();
    assert_eq!((tokens[1], tokens[3]), (6, 1));
    let all: BTreeSet<u32> = tokens.iter().copied().chain([5]).collect();
    assert_eq!(all.len(), 5, "{tokens:?}");
    assert_eq!(bench.get("s-5"), publish(5, 2, b"in flight"));
    bench.run(Duration::from_secs(1));
    // The next start finds the same ids.
    let stored = bench.stored();
    let stored: Vec<u32> = (1..=4)
        .map(|number| token(&stored[&format!("c-{number}")]))
        .collect();
    assert_eq!(stored, tokens);
}

#[test]
fn shared_packet_id_is_replaced_at_open() {
    unique_tokens(usize::MAX);
}

#[test]
fn shared_packet_id_beyond_cache_is_replaced() {
    unique_tokens(0);
}
