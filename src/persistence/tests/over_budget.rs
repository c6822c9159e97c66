//! Waiting messages that exceed the byte budget when a client is created.

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, SECOND, command, publish};
use crate::{
    error::ErrorKind,
    paho::RecordKind,
    persistence::{DeadLetter, OverBudget, simulated::Settings},
    store::{SetAsideLimits, SetAsideLoss, StoreEvent},
};

/// The length of each record below.
const LENGTH: usize = 30;

fn settings(budget: usize) -> Settings {
    Settings {
        byte_budget: Some(budget),
        over_budget: OverBudget::DropOldest,
        ..Settings::default()
    }
}

/// A message in flight, and five that wait, with their QoS.
fn content() -> Content {
    let waiting = [(1, 2), (2, 1), (3, 0), (4, 1), (5, 0)];
    let waiting = waiting.map(|(number, qos)| {
        let id = if qos == 0 { 0 } else { number };
        (format!("c-{number}"), command(id, qos, &[b'x'; 8]))
    });
    let in_flight = ("s-9".to_owned(), publish(9, 1, &[b'x'; 23]));
    let content = Content {
        records: waiting.into_iter().chain([in_flight]).collect(),
        ..Content::default()
    };
    assert!(content.records.values().all(|value| value.len() == LENGTH));
    content
}

/// Opens, makes the first call, and lets the worker run.
fn opened(settings: &Settings, content: Content) -> Bench {
    let mut bench = Bench::with_content(settings, content);
    bench.persistence.keys().expect("listed");
    bench.run(SECOND);
    bench
}

fn dropped(bench: &Bench) -> usize {
    let events = bench.events().into_iter().map(|event| match event {
        StoreEvent::Dropped {
            kind: RecordKind::Command,
            reason,
            records,
        } if reason.as_str() == "over_budget" => records,
        _ => 0,
    });
    events.sum()
}

/// The keys of the dead letters, by key.
fn letters(bench: &Bench) -> Vec<String> {
    let listed = bench.persistence.dead_letters().list().expect("lists");
    assert!(listed.iter().all(|letter| letter.reason() == "over_budget"));
    let keys = listed.iter().filter_map(DeadLetter::key);
    let mut keys: Vec<String> = keys.map(str::to_owned).collect();
    keys.sort();
    keys
}

#[test]
fn what_exceeds_budget_is_a_dead_letter() {
    let mut bench = Bench::with_content(&settings(3 * LENGTH), content());
    assert_eq!(
        bench.persistence.keys().expect("listed"),
        ["c-4", "c-1", "s-9"]
    );
    assert_eq!(bench.stored_keys(), ["c-1", "c-4", "s-9"]);
    bench.run(SECOND);
    assert_eq!(
        (dropped(&bench), letters(&bench)),
        (3, names("c-2 c-3 c-5"))
    );
    let status = bench.persistence.health().snapshot();
    assert_eq!(status.waiting_bytes, 3 * LENGTH);
    assert_eq!(status.discarded_records, 3);
    assert_eq!(bench.set_aside_losses(), []);
}

fn names(names: &str) -> Vec<String> {
    names.split(' ').map(str::to_owned).collect()
}

#[test]
fn nothing_is_dropped_unless_program_wants_it() {
    let keep = Settings {
        over_budget: OverBudget::Keep,
        ..settings(1)
    };
    let enough = settings(6 * LENGTH);
    for settings in [keep, enough] {
        let bench = opened(&settings, content());
        assert_eq!((dropped(&bench), bench.stored().len()), (0, 6));
    }
}

#[test]
fn dead_letters_keep_their_bounds_over_budget() {
    let limited = |limits, loss| {
        let settings = Settings {
            set_aside_limits: limits,
            ..settings(LENGTH)
        };
        let bench = opened(&settings, content());
        // Those that were dropped last are left.
        assert_eq!(letters(&bench), names("c-1 c-4"), "{limits:?}");
        assert_eq!(
            (dropped(&bench), bench.set_aside_losses()),
            (5, vec![(loss, 3)])
        );
        assert_eq!(bench.stored_keys(), ["s-9"]);
    };
    let limits = SetAsideLimits::default();
    limited(limits.records(2), SetAsideLoss::Number);
    limited(limits.bytes(2 * LENGTH), SetAsideLoss::Bytes);
    let settings = Settings {
        without_dead_letters: true,
        ..settings(LENGTH)
    };
    let bench = opened(&settings, content());
    assert_eq!((dropped(&bench), bench.set_aside_losses()), (5, vec![]));
    assert!(bench.content().discarded.is_empty());
}

#[test]
fn full_store_drops_over_budget_without_copies() {
    let content = Content {
        is_full: true,
        ..content()
    };
    let bench = opened(&settings(3 * LENGTH), content);
    assert_eq!(bench.stored_keys(), ["c-1", "c-4", "s-9"]);
    let refused = vec![(SetAsideLoss::Refused, 3)];
    assert_eq!((dropped(&bench), bench.set_aside_losses()), (3, refused));
}

#[test]
fn messages_stay_if_store_refuses_their_removal() {
    let content = Content {
        fails_writes: Some(ErrorKind::ReadOnly),
        ..content()
    };
    let bench = opened(&settings(LENGTH), content);
    assert_eq!(bench.stored().len(), 6);
    let waiting = bench.persistence.health().snapshot().waiting_messages;
    assert_eq!(
        (waiting, dropped(&bench), bench.set_aside_losses()),
        (6, 0, vec![])
    );
}
