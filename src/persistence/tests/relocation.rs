//! Unread packets whose packet ids Paho reuses.

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, SECOND, publish};
use crate::{error::ErrorKind, persistence::simulated::Settings, store::StoreEvent};

const OLD: [&[u8]; 2] = [b"before 1", b"before 2"];

/// A persistence with the packets 1 and 2 of an earlier run, listed by Paho and not read, in an outage.
fn unread() -> Bench {
    let settings = Settings {
        cache_limit: 0,
        ..Settings::default()
    };
    let records = [
        ("s-1", publish(1, 2, OLD[0])),
        ("s-2", publish(2, 2, OLD[1])),
    ];
    let mut bench = Bench::new(&settings, &records);
    bench.persistence.keys().expect("lists");
    bench.content().snapshots = Some(Vec::new());
    bench.content().is_down = Some(ErrorKind::Connection);
    bench
}

fn put(bench: &mut Bench, packet_id: u16, payload: &[u8]) {
    bench.put(&format!("s-{packet_id}"), &publish(packet_id, 2, payload));
}

fn recover(bench: &Bench) {
    bench.content().is_down = None;
    bench.run(5 * SECOND);
    assert!(bench.is_up());
}

fn lost_records(bench: &Bench) -> u64 {
    bench.persistence.health().snapshot().lost_records
}

/// Asserts that each old packet was there once after each write, and that these are there with it now.
fn check(bench: &Bench, new: &[&[u8]]) {
    assert_eq!(lost_records(bench), 0);
    let count = |values: &[&Vec<u8>], payload: &[u8]| {
        values
            .iter()
            .filter(|value| value.ends_with(payload))
            .count()
    };
    let snapshots = bench.content().snapshots.take().expect("taken");
    for records in &snapshots {
        let values: Vec<&Vec<u8>> = records.values().collect();
        assert_eq!(
            OLD.map(|payload| count(&values, payload)),
            [1, 1],
            "{snapshots:?}"
        );
    }
    let stored = bench.stored();
    let values: Vec<&Vec<u8>> = stored.values().collect();
    assert_eq!(values.len(), OLD.len() + new.len(), "{stored:?}");
    assert!(
        new.iter().all(|payload| count(&values, payload) == 1),
        "{stored:?}"
    );
}

#[test]
fn lost_record_is_reported_by_its_new_key() {
    let mut bench = unread();
    bench.content().is_down = None;
    bench.run(5 * SECOND);
    bench.content().records.remove("s-1");
    put(&mut bench, 1, b"new");
    bench.run(SECOND);
    let keys = bench.events().into_iter().filter_map(|event| match event {
        StoreEvent::RecordRelocated { key, .. } => Some(format!("relocated {key}")),
        StoreEvent::RecordLost { key } => Some(format!("lost {key}")),
        _ => None,
    });
    // The old key is that of a record which is not lost.
    assert_eq!(
        keys.collect::<Vec<_>>(),
        ["relocated s-65535", "lost s-65535"]
    );
}

#[test]
fn relocated_record_exists_once_at_each_step() {
    let mut bench = unread();
    put(&mut bench, 1, b"behind 1");
    put(&mut bench, 2, b"behind 2");
    bench.content().loses_reply = Some(ErrorKind::Connection);
    recover(&bench);
    check(&bench, &[b"behind 1", b"behind 2"]);
}

#[test]
fn put_at_any_step_relocates_record_in_its_way() {
    for position in 0.. {
        let mut bench = unread();
        put(&mut bench, 1, b"behind 1");
        bench.content().is_down = None;
        let mut calls = 0;
        while !bench.is_up() {
            bench.turn_with(|bench| {
                if calls == position {
                    put(bench, 2, b"behind 2");
                }
                calls += 1;
            });
        }
        if calls <= position {
            assert!(position > 8, "{position}");
            break;
        }
        bench.run(5 * SECOND);
        check(&bench, &[b"behind 1", b"behind 2"]);
    }
}

#[test]
fn put_at_target_of_lost_record_is_kept() {
    let mut bench = unread();
    // `s-1` is to be relocated to the highest packet id, which the third put takes.
    let ids = [1, 2, u16::MAX];
    for id in ids {
        put(&mut bench, id, b"behind");
    }
    bench.content().records.clear();
    recover(&bench);
    assert_eq!(lost_records(&bench), 2);
    assert_eq!(bench.stored().len(), 3);
    for id in ids {
        assert_eq!(bench.get(&format!("s-{id}")), publish(id, 2, b"behind"));
    }
}

#[test]
fn record_not_yet_relocated_is_not_reported_lost() {
    let mut bench = unread();
    put(&mut bench, 1, b"behind 1");
    bench.content().largest_value = Some(0);
    bench.content().is_down = None;
    bench.run(5 * SECOND);
    // The record can be read, and not be moved.
    assert!(!bench.is_up());
    put(&mut bench, 3, b"behind 3");
    bench.content().largest_value = None;
    recover(&bench);
    check(&bench, &[b"behind 1", b"behind 3"]);
}

#[test]
fn full_store_removes_first_but_no_unmoved_record() {
    let mut bench = unread();
    put(&mut bench, 1, b"behind 1");
    // Paho has tried to connect, so it means what it removes.
    for key in ["c-0", "s-1", "s-2"] {
        bench.remove(key);
    }
    bench.content().largest_value = Some(0);
    bench.content().is_down = None;
    bench.run(5 * SECOND);
    assert_eq!(bench.stored_keys(), ["s-1"]);
    assert_eq!(bench.stored()["s-1"], publish(1, 2, OLD[0]));
    bench.content().largest_value = None;
    recover(&bench);
    assert_eq!(bench.persistence.keys().expect("lists"), ["s-65535"]);
    assert_eq!(bench.get("s-65535"), publish(u16::MAX, 2, OLD[0]));
}

#[test]
fn put_replaces_lost_record_that_was_removed() {
    let mut bench = unread();
    put(&mut bench, 1, b"behind 1");
    // Paho has tried to connect, so it means what it removes.
    for key in ["c-0", "s-65535"] {
        bench.remove(key);
    }
    put(&mut bench, u16::MAX, b"behind 2");
    bench.content().records.remove("s-1");
    recover(&bench);
    assert_eq!(lost_records(&bench), 0);
    assert_eq!(bench.stored_keys(), ["s-1", "s-2", "s-65535"]);
    let expected = publish(u16::MAX, 2, b"behind 2");
    assert_eq!(bench.get("s-65535"), expected);
}
