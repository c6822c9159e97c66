//! Opening without the store, which comes back later with records of an earlier run or without.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, SECOND, assert_readable, command, publish, pubrel, queued};
use crate::{
    error::{Error, ErrorKind},
    persistence::simulated::Settings,
    store::StoreEvent,
};

fn settings() -> Settings {
    Settings {
        open_without_store: true,
        ..Settings::default()
    }
}

/// Opens while the store is unreachable, which has these records.
fn opened_without(records: &[(&str, Vec<u8>)]) -> Bench {
    let content = Content {
        is_down: Some(ErrorKind::Connection),
        ..Content::new(records)
    };
    Bench::with_content(&settings(), content)
}

type Records = Vec<(String, Vec<u8>)>;

/// Brings the store back.
fn come_back(bench: &Bench) {
    bench.content().is_down = None;
    bench.run(5 * SECOND);
    assert!(bench.is_up(), "{:?}", bench.events().last());
}

fn earlier_records(bench: &Bench) -> Vec<usize> {
    let events = bench.events().into_iter();
    let counts = events.filter_map(|event| match event {
        StoreEvent::EarlierRecords { records } => Some(records),
        _ => None,
    });
    counts.collect()
}

/// The stored commands in the order of their numbers.
fn commands(bench: &Bench) -> Vec<Vec<u8>> {
    let stored = bench.stored().into_iter();
    let numbered = stored.filter_map(|(key, value)| {
        let number: u32 = key.strip_prefix("c-")?.parse().ok()?;
        Some((number, value))
    });
    numbered.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// Commands `c-1` and so on, which differ from those of another run in their payload.
fn run_of(run: &str, numbers: std::ops::RangeInclusive<i32>) -> Records {
    let commands = numbers.map(|number| {
        let payload = format!("{run}{number}");
        (
            format!("c-{number}"),
            command(number, 1, payload.as_bytes()),
        )
    });
    commands.collect()
}

fn borrowed(records: &[(String, Vec<u8>)]) -> Vec<(&str, Vec<u8>)> {
    let records = records.iter();
    records
        .map(|(key, value)| (&**key, value.clone()))
        .collect()
}

#[test]
fn only_unreachable_store_may_be_missing_at_open() {
    for (fault, opens) in [
        (ErrorKind::Connection, true),
        (ErrorKind::Timeout, true),
        (ErrorKind::Loading, true),
        (ErrorKind::Busy, true),
        (ErrorKind::InUse, false),
        (ErrorKind::Authentication, false),
        (ErrorKind::Permission, false),
        (ErrorKind::WrongType, false),
    ] {
        let content = Content {
            is_down: Some(fault),
            ..Content::default()
        };
        let mut bench = Bench::closed(&settings(), Arc::new(Mutex::new(content)));
        let opened = bench.persistence.open("device", "broker");
        if let Err(error) = &opened {
            assert_eq!(Error::in_mqtt(error).expect("ours").kind(), fault);
        }
        assert_eq!(opened.is_ok(), opens, "{fault:?}");
        let connected = bench.persistence.connect("device", "broker");
        assert!(connected.is_err(), "{fault:?}");
    }
}

#[test]
fn missing_store_at_open_is_outage_from_start() {
    let mut bench = opened_without(&[]);
    assert!(bench.persistence.keys().expect("listed").is_empty());
    bench.put("c-1", &command(1, 1, b"x"));
    bench.run(SECOND);
    let health = bench.persistence.health();
    let snapshot = health.snapshot();
    assert_eq!((snapshot.up, snapshot.held_records), (false, 1));
    assert_eq!(snapshot.last_confirmed, None);
    let error = health.last_error().expect("an outage");
    assert_eq!(error.kind(), ErrorKind::Connection);
    let events = bench.events();
    assert!(
        matches!(
            &events[..2],
            [
                StoreEvent::Opened { quarantined: 0 },
                StoreEvent::Down { .. }
            ]
        ),
        "{events:?}"
    );
    assert_eq!(bench.get("c-1"), command(1, 1, b"x"));
    come_back(&bench);
    assert_eq!(bench.stored_keys(), ["c-1"]);
    assert!(earlier_records(&bench).is_empty());
    assert!(health.snapshot().last_confirmed.is_some());
}

#[test]
fn commands_of_this_run_go_behind_earlier_ones() {
    let (earlier, new) = (run_of("old", 1..=20), run_of("new", 1..=50));
    let mut bench = opened_without(&borrowed(&earlier));
    for (key, value) in &new {
        bench.put(key, value);
    }
    come_back(&bench);
    assert_eq!(earlier_records(&bench), [20]);
    assert_eq!(bench.persistence.health().snapshot().earlier_records, 20);
    assert!(bench.content().quarantine.is_empty());
    let all: Vec<_> = earlier.iter().chain(&new).cloned().collect();
    let values: Vec<Vec<u8>> = all.into_iter().map(|(_, value)| value).collect();
    assert_eq!(commands(&bench), values);

    // Paho knows those of this run, under its own names.
    assert_eq!(bench.persistence.keys().expect("listed").len(), 50);
    for (key, value) in &new {
        assert_eq!(&bench.get(key), value);
    }
    bench.put("c-51", &command(51, 1, b"later"));
    bench.get("c-1");
    bench.remove("c-1");
    bench.put("s-1", &publish(1, 1, b"new1"));
    bench.run(SECOND);
    let mut expected = values;
    expected.remove(20);
    expected.push(command(51, 1, b"later"));
    assert_eq!(commands(&bench), expected);

    // The next start restores all in order; messages that share a packet id get others.
    let mut bench = bench.crash();
    assert_eq!(bench.restore().len(), 71);
    assert_eq!(bench.persistence.health().snapshot().earlier_records, 0);
}

#[test]
fn commands_behind_wrapped_earlier_ones_stay_in_order() {
    let mut bench = opened_without(&[
        ("c-999999", command(1, 1, b"a")),
        ("c-0", command(2, 1, b"b")),
        ("c-1", command(3, 1, b"c")),
        ("q-4", queued(4)),
    ]);
    bench.put("c-1", &command(1, 1, b"d"));
    bench.put("q-4", &queued(5));
    come_back(&bench);
    let stored = bench.stored();
    assert_eq!(stored["c-1"], command(3, 1, b"c"));
    assert_eq!(stored["c-2"], command(1, 1, b"d"));
    assert_eq!((&stored["q-4"], &stored["q-5"]), (&queued(4), &queued(5)));
    // Paho removes command 0 whenever it connects.
    bench.remove("c-0");
    bench.remove("q-4");
    bench.run(SECOND);
    assert_eq!(
        bench.stored_keys(),
        ["c-0", "c-1", "c-2", "c-999999", "q-4"]
    );
}

#[test]
fn packet_id_in_use_moves_earlier_message() {
    let mut bench = opened_without(&[
        ("s-1", publish(1, 2, b"old1")),
        ("sc-1", pubrel(1)),
        ("s-2", publish(2, 1, b"old2")),
        ("sc-3", pubrel(3)),
        ("s-65535", publish(65_535, 1, b"old4")),
        ("r-9", publish(9, 2, b"old9")),
        ("r-8", publish(8, 2, b"old8")),
    ]);
    bench.put("c-1", &command(1, 2, b"new1"));
    bench.send("c-1", "s-1", &publish(1, 2, b"new1"));
    bench.put("r-9", &publish(9, 2, b"new9"));
    come_back(&bench);
    assert_eq!(earlier_records(&bench), [5]);
    let stored = bench.stored();
    let keys: Vec<&str> = stored.keys().map(String::as_str).collect();
    let expected = ["r-8", "r-9", "s-1", "s-2", "s-65534", "s-65535", "sc-3"];
    assert_eq!(keys, expected);
    assert_eq!(stored["s-1"], publish(1, 2, b"new1"));
    // Without its PUBREL, which would release nothing under another id.
    assert_eq!(stored["s-65534"], publish(65_534, 2, b"old1"));
    assert_eq!(stored["r-9"], publish(9, 2, b"new9"));
    let quarantine: Vec<_> = bench.content().quarantine.values().cloned().collect();
    assert_eq!(quarantine, [publish(9, 2, b"old9")]);
    assert_readable(&bench);

    // The acknowledgment of this run's message removes that one alone.
    bench.put("sc-1", &pubrel(1));
    for key in ["s5-1", "sc5-1", "s-1", "sc-1"] {
        bench.remove(key);
    }
    // Paho uses the ids of those that it does not know.
    bench.put("c-2", &command(2, 1, b"new2"));
    bench.send("c-2", "s-2", &publish(2, 1, b"new2"));
    bench.put("c-3", &command(3, 2, b"new3"));
    bench.send("c-3", "s-3", &publish(3, 2, b"new3"));
    bench.run(SECOND);
    let stored = bench.stored();
    let keys: Vec<&str> = stored.keys().map(String::as_str).collect();
    let expected = ["r-8", "r-9", "s-2", "s-3", "s-65533", "s-65534", "s-65535"];
    assert_eq!(keys, expected);
    assert_eq!(stored["s-65533"], publish(65_533, 1, b"old2"));
    assert_eq!(stored["s-2"], publish(2, 1, b"new2"));
    // No metric but their own counts earlier records, under any key.
    let is_relocated = |event: &StoreEvent| matches!(event, StoreEvent::RecordRelocated { .. });
    assert!(!bench.events().iter().any(is_relocated));
}

#[test]
fn discarded_session_leaves_earlier_records() {
    let mut bench = opened_without(&[
        ("s-7", publish(7, 1, b"old")),
        ("c-1", command(1, 1, b"old")),
    ]);
    come_back(&bench);
    bench.put("c-1", &command(1, 1, b"new"));
    bench.send("c-1", "s-1", &publish(1, 1, b"new"));
    bench.remove("c-0");
    let listed = bench.persistence.keys().expect("listed");
    assert_eq!(listed, ["s-1"]);
    for key in ["s-7", "s-1", "c-1"] {
        bench.remove(key);
        assert!(!bench.persistence.contains(key));
    }
    bench.run(SECOND);
    assert_eq!(bench.stored_keys(), ["c-1", "s-7"]);
    assert!(bench.persistence.get("s-7").is_err());
}

#[test]
fn earlier_record_that_paho_cannot_read_is_quarantined() {
    let mut bench = opened_without(&[("c-1", b"garbage".to_vec()), ("s-2", b"garbage".to_vec())]);
    bench.content().foreign.push(b"note".to_vec());
    bench.put("c-1", &command(1, 1, b"new"));
    come_back(&bench);
    assert_eq!(bench.content().quarantine.len(), 2);
    assert_eq!(bench.stored_keys(), ["c-2"]);
    assert_eq!(bench.get("c-1"), command(1, 1, b"new"));
    bench.run(5 * SECOND);
    assert!(bench.is_up());
    assert!(earlier_records(&bench).is_empty());
}

#[test]
fn message_taken_up_during_load_keeps_its_one_record() {
    let earlier = run_of("old", 1..=3);
    let mut bench = opened_without(&borrowed(&earlier));
    bench.put("c-1", &command(1, 2, b"new"));
    bench.get("c-1");
    // Paho is between the two calls when the store comes back.
    bench.remove("c-1");
    come_back(&bench);
    assert_eq!(bench.stored_keys(), ["c-1", "c-2", "c-3", "c-4"]);
    bench.put("s-1", &publish(1, 2, b"new"));
    bench.run(SECOND);
    assert_eq!(bench.stored_keys(), ["c-1", "c-2", "c-3", "s-1"]);
}

/// Records of the earlier run, and their payloads.
fn mixed() -> (Records, Vec<Vec<u8>>) {
    let mut earlier = run_of("old", 1..=100);
    earlier.push(("s-1".to_owned(), publish(1, 2, b"old in flight")));
    earlier.push(("s-5".to_owned(), publish(5, 1, b"old too")));
    let payloads = (1..=100).map(|number| format!("old{number}").into_bytes());
    let in_flight = [b"old in flight".to_vec(), b"old too".to_vec()];
    (earlier, payloads.chain(in_flight).collect())
}

/// The number of stored records that end with each of these payloads; a command has 8 bytes behind it.
fn copies(bench: &Bench, payloads: &[Vec<u8>]) -> Vec<usize> {
    let stored = bench.stored();
    let has_payload = |value: &[u8], payload: &[u8]| {
        value.ends_with(payload) || {
            let end = value.len().saturating_sub(8);
            value[..end].ends_with(
                &[
                    b"\0",
                    &i32::try_from(payload.len()).expect("short").to_ne_bytes()[..],
                    payload,
                ]
                .concat(),
            )
        }
    };
    let copies = |payload: &Vec<u8>| {
        let values = stored.values();
        values.filter(|value| has_payload(value, payload)).count()
    };
    payloads.iter().map(copies).collect()
}

#[test]
fn crash_at_each_step_of_load_keeps_earlier_records() {
    let (earlier, payloads) = mixed();
    let mut is_finished = false;
    for steps in 0..60 {
        let mut bench = opened_without(&borrowed(&earlier));
        bench.put("c-1", &command(1, 2, b"new in flight"));
        bench.send("c-1", "s-1", &publish(1, 2, b"new in flight"));
        bench.put("c-2", &command(2, 1, b"new waits"));
        bench.content().is_down = None;
        for _ in 0..steps {
            bench.turn_with(|_| {});
        }
        is_finished = bench.is_up();
        let bench = bench.crash();
        let found = copies(&bench, &payloads);
        assert_eq!(found, vec![1; payloads.len()], "after {steps} steps");
        let new = copies(&bench, &[b"new in flight".to_vec(), b"new waits".to_vec()]);
        assert!(new.iter().all(|copies| *copies <= 1), "{new:?}");
        assert!(!is_finished || new == [1, 1]);
    }
    assert!(is_finished);
}

#[test]
fn load_that_breaks_off_is_made_again() {
    let (earlier, payloads) = mixed();
    for steps in 0..12 {
        for fault in [
            ErrorKind::Connection,
            ErrorKind::Loading,
            ErrorKind::Timeout,
        ] {
            let mut bench = opened_without(&borrowed(&earlier));
            bench.put("c-1", &command(1, 2, b"new in flight"));
            bench.send("c-1", "s-1", &publish(1, 2, b"new in flight"));
            bench.put("c-2", &command(2, 1, b"new waits"));
            bench.content().is_down = None;
            for _ in 0..steps {
                bench.turn_with(|_| {});
            }
            bench.content().is_down = Some(fault);
            bench.put("c-3", &command(3, 1, b"new later"));
            bench.run(3 * SECOND);
            come_back(&bench);
            let new = ["new in flight", "new waits", "new later"];
            let new = new.map(|payload| payload.as_bytes().to_vec());
            let all = [payloads.as_slice(), &new].concat();
            assert_eq!(
                copies(&bench, &all),
                vec![1; all.len()],
                "{steps} {fault:?}"
            );
            assert!(bench.content().quarantine.is_empty());
            assert_eq!(bench.stored().len(), all.len());
            let last = commands(&bench);
            assert!(last.ends_with(&[command(2, 1, b"new waits"), command(3, 1, b"new later")]));
        }
    }
}

#[test]
fn later_outage_knows_earlier_records() {
    let mut bench = opened_without(&borrowed(&run_of("old", 1..=20)));
    bench.put("c-1", &command(1, 1, b"new"));
    come_back(&bench);
    let before = bench.stored();
    // It comes back empty, and gets those of the earlier run again too.
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.records.clear();
        content.instance_id += 1;
    });
    assert_eq!(bench.stored(), before);
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.content().instance_id += 1;
    });
    assert_eq!(bench.stored(), before);
    assert!(bench.content().quarantine.is_empty());
    assert_eq!(earlier_records(&bench), [20]);
}

#[test]
fn drop_before_load_spares_earlier_record_of_its_key() {
    for cache_limit in [0, 1024] {
        let content = Content {
            is_down: Some(ErrorKind::Connection),
            ..Content::new(&[
                ("c-1", command(1, 1, b"old")),
                ("s-3", publish(3, 1, b"old")),
            ])
        };
        let settings = Settings {
            cache_limit,
            ..settings()
        };
        let mut bench = Bench::with_content(&settings, content);
        // Paho drops both before the store has them: its buffer is full, and the session is lost.
        bench.put("c-1", &command(1, 1, b"new"));
        bench.remove("c-1");
        bench.put("c-2", &command(3, 1, b"new"));
        bench.send("c-2", "s-3", &publish(3, 1, b"new"));
        bench.remove("c-0");
        bench.persistence.keys().expect("listed");
        bench.remove("s-3");
        come_back(&bench);
        bench.run(5 * SECOND);
        assert_eq!(earlier_records(&bench), [2]);
        let values: Vec<_> = bench.stored().into_values().collect();
        let earlier = [command(1, 1, b"old"), publish(65_535, 1, b"old")];
        assert_eq!(values, earlier, "{cache_limit}");
        assert_eq!(bench.content().discarded.len(), 2);
        assert_eq!(bench.persistence.health().snapshot().lost_records, 0);
        // Its name is free again.
        bench.put("c-1", &command(1, 1, b"next"));
        assert_eq!(bench.get("c-1"), command(1, 1, b"next"));
        assert_eq!(commands(&bench).len(), 2);
    }
}

#[test]
fn lost_earlier_record_has_no_name_of_paho() {
    let content = Content {
        is_down: Some(ErrorKind::Connection),
        ..Content::new(&[("c-1", command(1, 1, b"old"))])
    };
    let settings = Settings {
        cache_limit: 0,
        ..settings()
    };
    let mut bench = Bench::with_content(&settings, content);
    bench.put("c-1", &command(1, 1, b"new"));
    come_back(&bench);
    assert_eq!(bench.stored_keys(), ["c-1", "c-2"]);
    bench.content().records.remove("c-1");
    bench.run(5 * SECOND);
    let health = bench.persistence.health().snapshot();
    assert_eq!((health.lost_records, health.earlier_records), (1, 0));
    // Paho has a record of this name, which is not lost.
    let is_named = |event: &StoreEvent| matches!(event, StoreEvent::RecordLost { .. });
    assert!(!bench.events().iter().any(is_named));
    assert_eq!(bench.get("c-1"), command(1, 1, b"new"));
}

#[test]
fn both_versions_of_earlier_message_get_one_id() {
    let mut bench = opened_without(&[
        ("s-1", publish(1, 1, b"old")),
        ("s5-1", publish(1, 1, b"\0old")),
    ]);
    bench.put("s-1", &publish(1, 1, b"new"));
    come_back(&bench);
    assert_eq!(bench.stored_keys(), ["s-1", "s-65535", "s5-65535"]);
}
