//! Messages in flight that are sent on one connection after the other.

use super::bench::{Bench, Content, SECOND, command, publish, pubrel};
use crate::{
    error::ErrorKind,
    persistence::simulated::Settings,
    store::{Place, StoreEvent},
};

fn settings(max_sends: u32, quarantines_poison: bool) -> Settings {
    Settings {
        max_sends,
        quarantines_poison,
        ..Settings::default()
    }
}

/// Makes the calls of a connect: what is in flight is sent again.
fn connect(bench: &mut Bench, in_flight: &[(&str, Vec<u8>)]) {
    bench.remove("c-0");
    for (key, value) in in_flight {
        bench.put(key, value);
    }
}

/// Starts again, restores and connects.
fn restart(bench: Bench, in_flight: &[(&str, Vec<u8>)]) -> Bench {
    let mut bench = bench.crash();
    bench.restore();
    connect(&mut bench, in_flight);
    bench.run(SECOND);
    bench
}

fn suspected(bench: &Bench) -> Vec<(String, u32)> {
    let suspected = bench.events().into_iter().filter_map(|event| match event {
        StoreEvent::PoisonSuspect { key, connections } => Some((key, connections)),
        _ => None,
    });
    suspected.collect()
}

fn suspects(bench: &Bench) -> usize {
    bench.persistence.health().snapshot().poison_suspects
}

/// Two messages in flight.
fn both() -> [(&'static str, Vec<u8>); 2] {
    [("s-1", publish(1, 1, b"a")), ("s-2", publish(2, 2, b"b"))]
}

/// A new persistence that has sent both once.
fn sent(settings: &Settings) -> Bench {
    let mut bench = Bench::new(settings, &[]);
    bench.remove("c-0");
    for (number, (key, packet)) in (1..).zip(both()) {
        let name = format!("c-{number}");
        bench.put(&name, &command(number, number, b"x"));
        bench.send(&name, key, &packet);
    }
    bench.run(SECOND);
    bench
}

#[test]
fn sends_are_counted_across_restarts() {
    let mut bench = sent(&settings(3, false));
    connect(&mut bench, &both());
    bench.run(SECOND);
    assert_eq!((suspects(&bench), suspected(&bench)), (0, vec![]));
    let bench = restart(bench, &both());
    assert_eq!((suspects(&bench), suspected(&bench)), (0, vec![]));
    let bench = restart(bench, &both());
    let expected = ["s-1", "s-2"].map(|key| (key.to_owned(), 4));
    assert_eq!((suspects(&bench), suspected(&bench)), (2, expected.into()));
    // It is reported once, and the gauge stays.
    let mut bench = restart(bench, &both());
    assert_eq!((suspects(&bench), suspected(&bench)), (2, vec![]));
    for key in ["s-1", "s-2"] {
        bench.remove(key);
    }
    assert_eq!(suspects(&bench), 0);
    bench.run(SECOND);
    assert_eq!(bench.content().send_counts, None);
    assert!(bench.stored().is_empty());
}

#[test]
fn connection_costs_one_write_and_only_with_repeats() {
    let mut bench = sent(&Settings::default());
    assert_eq!(bench.content().send_counts, None);
    bench.trace();
    connect(&mut bench, &both());
    assert_eq!(bench.trace(), ["sends"]);
    // Paho repeats what another client's connection made it repeat, or its retry interval.
    for (key, packet) in both() {
        bench.put(key, &packet);
    }
    bench.put("c-3", &command(3, 1, b"x"));
    bench.send("c-3", "s-3", &publish(3, 1, b"x"));
    for key in ["s-3", "s-2", "s-1"] {
        bench.remove(key);
    }
    bench.run(SECOND);
    let trace = bench.trace();
    let writes = trace.iter().filter(|line| *line == "sends");
    assert_eq!(writes.count(), 1, "{trace:?}");
    assert_eq!(bench.content().send_counts, None);
}

#[test]
fn first_suspect_is_quarantined_at_open() {
    let mut bench = sent(&settings(2, true));
    connect(&mut bench, &both());
    let bench = restart(bench, &both());
    assert_eq!(suspects(&bench), 2);
    let bench = restart(bench, &both()[1..]);
    assert_eq!(bench.stored_keys(), ["s-2"]);
    let letters = bench.persistence.dead_letters().list().expect("lists");
    let found: Vec<_> = letters
        .iter()
        .map(|letter| (letter.place(), letter.reason(), letter.key()))
        .collect();
    assert_eq!(found, [(Place::Quarantine, "poison", Some("s-1"))]);
    let is_opened = |event: &StoreEvent| matches!(event, StoreEvent::Opened { quarantined: 1 });
    assert!(bench.events().iter().any(is_opened));
    assert_eq!(suspects(&bench), 1);
}

#[test]
fn released_message_is_no_suspect() {
    let mut bench = sent(&settings(1, true));
    bench.put("sc-2", &pubrel(2));
    connect(&mut bench, &both()[..1]);
    bench.run(SECOND);
    assert_eq!(suspected(&bench), [("s-1".to_owned(), 2)]);
    let bench = bench.crash();
    assert_eq!(bench.stored_keys(), ["s-2", "sc-2"]);
}

#[test]
fn nothing_is_counted_without_limit() {
    let mut bench = sent(&settings(u32::MAX, true));
    bench.trace();
    connect(&mut bench, &both());
    bench.run(SECOND / 2);
    assert!(!bench.trace().contains(&"sends".to_owned()));
}

#[test]
fn store_without_room_for_counts_stays_up() {
    let mut bench = sent(&settings(2, false));
    bench.content().is_full = true;
    connect(&mut bench, &both());
    assert!(bench.is_up());
    connect(&mut bench, &both());
    assert_eq!((suspects(&bench), bench.is_up()), (2, true));
}

#[test]
fn counts_of_outage_are_saved_after_it() {
    let mut bench = sent(&settings(2, false));
    bench.interrupt(ErrorKind::Connection, |bench| {
        connect(bench, &both());
        assert_eq!(bench.content().send_counts, None);
    });
    let counts = bench.content().send_counts.clone().expect("saved");
    assert_eq!(String::from_utf8(counts).expect("text").lines().count(), 2);
}

#[test]
fn store_that_refuses_counts_can_be_opened() {
    let content = Content {
        refuses_places: Some(ErrorKind::Permission),
        ..Content::new(&both())
    };
    let mut bench = Bench::with_content(&settings(1, true), content);
    bench.restore();
    connect(&mut bench, &both());
    assert_eq!(suspects(&bench), 2);
}

/// A program that dies as soon as it has sent a message finds that it had sent it.
#[test]
fn message_that_ends_program_at_once_is_counted() {
    let mut bench = Bench::new(&settings(2, false), &[]);
    bench.put("c-1", &command(1, 1, b"x"));
    let packet = publish(1, 1, b"x");
    let mut bench = bench.crash();
    for _ in 0..3 {
        let keys = bench.restore();
        bench.remove("c-0");
        if keys == ["c-1"] {
            bench.send("c-1", "s-1", &packet);
        } else {
            bench.put("s-1", &packet);
        }
        bench = bench.crash();
    }
    assert_eq!(bench.stored_keys(), ["s-1"]);
    assert_eq!(suspects(&bench), 1);
}
