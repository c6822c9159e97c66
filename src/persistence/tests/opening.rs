//! Opening and closing, and what is repaired at an opening.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, SECOND, command, publish, pubrel, queued};
use crate::{
    MemoryPersistence,
    error::{Error, ErrorKind},
    persistence::simulated::Settings,
    store::StoreEvent,
};

fn closed(content: Content) -> Bench {
    Bench::closed(&Settings::default(), Arc::new(Mutex::new(content)))
}

fn kind(error: &paho_mqtt::Error) -> ErrorKind {
    Error::in_mqtt(error).expect("ours").kind()
}

#[test]
fn store_that_is_not_ready_is_retried() {
    for (fault, attempts) in [
        (ErrorKind::Connection, 41),
        (ErrorKind::Loading, 41),
        (ErrorKind::Busy, 41),
        (ErrorKind::InUse, 41),
        (ErrorKind::Timeout, 41),
        (ErrorKind::Authentication, 1),
    ] {
        let mut bench = closed(Content::default());
        bench.content().is_down = Some(fault);
        let error = bench
            .persistence
            .open("device", "broker")
            .expect_err("is down");
        assert_eq!(kind(&error), fault);
        assert_eq!(bench.content().attempts, attempts, "{fault:?}");
        let waited = if attempts == 1 { 0 } else { 2 };
        assert_eq!(bench.now(), Duration::from_secs(waited));
    }
}

#[test]
fn connection_lost_while_loading_is_made_again() {
    let mut content = Content::new(&[("c-1", command(1, 1, b"x"))]);
    content.fails_list = Some(ErrorKind::Connection);
    let mut bench = closed(content);
    bench.persistence.open("device", "broker").expect("opens");
    assert_eq!(bench.content().attempts, 2);
    assert_eq!(bench.persistence.keys().expect("listed"), ["c-1"]);
    let mut bench = closed(Content {
        fails_list: Some(ErrorKind::Timeout),
        ..Content::default()
    });
    let error = bench
        .persistence
        .open("device", "broker")
        .expect_err("fails");
    assert_eq!(kind(&error), ErrorKind::Timeout);
    assert_eq!(bench.content().attempts, 1);
}

#[test]
fn connect_is_for_closed_persistence_only() {
    let mut bench = closed(Content::default());
    let error = bench
        .persistence
        .connect("", "broker")
        .expect_err("no client id");
    assert_eq!(error.kind(), ErrorKind::InvalidClientId);
    bench
        .persistence
        .connect("device", "mqtt://broker")
        .expect("connects");
    bench.persistence.open("device", "broker").expect("opens");
    let error = bench
        .persistence
        .connect("device", "broker")
        .expect_err("is open");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    bench.content().is_down = Some(ErrorKind::Timeout);
    drop(bench.persistence.close());
    let error = bench
        .persistence
        .connect("device", "broker")
        .expect_err("is down");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let error = bench
        .persistence
        .open("", "broker")
        .expect_err("no client id");
    assert_eq!(kind(&error), ErrorKind::InvalidClientId);
}

#[test]
fn opening_again_closes_first() {
    let mut bench = Bench::new(&Settings::default(), &[("s-1", publish(1, 1, b"x"))]);
    bench.restore();
    bench.remove("c-0");
    bench.remove("s-1");
    bench.trace();
    bench.persistence.open("device", "other").expect("opens");
    assert_eq!(
        bench.trace(),
        ["confirm -s-1", "close", "connect device:other"]
    );
    bench.remove("c-0");
    drop(bench.trace());
}

#[test]
fn drop_flushes_and_closes() {
    let bench = Bench::new(&Settings::default(), &[("s-1", publish(1, 1, b"x"))]);
    let content = bench.shared_content();
    let mut bench = bench;
    bench.restore();
    bench.remove("c-0");
    bench.remove("s-1");
    content.lock().expect("no panic").take_trace();
    drop(bench);
    let trace = content.lock().expect("no panic").take_trace();
    assert_eq!(trace, ["confirm -s-1", "close"]);
}

#[test]
fn unreadable_record_is_copied_before_its_remove() {
    let records = [
        ("s-1", b"unreadable".to_vec()),
        ("c-1", command(1, 1, b"x")),
    ];
    let mut bench = Bench::new(&Settings::default(), &records);
    let trace = bench.trace();
    let writes: Vec<&str> = trace
        .iter()
        .map(String::as_str)
        .filter(|line| line.starts_with("confirm"))
        .collect();
    assert_eq!(writes, ["confirm !q:s-1", "confirm -s-1"]);
    let quarantine: Vec<_> = bench.content().quarantine.clone().into_iter().collect();
    let [(name, value)] = &quarantine[..] else {
        panic!("{quarantine:?}");
    };
    assert!(
        name.starts_with("1700000000000:unreadable:10:s-1:"),
        "{name}"
    );
    assert_eq!(value, b"unreadable");
    assert_eq!(bench.persistence.keys().expect("listed"), ["c-1"]);
    bench.run(Duration::from_secs(2));
    let is_counted = |event: &StoreEvent| matches!(event, StoreEvent::Opened { quarantined: 1 });
    assert!(bench.events().iter().any(is_counted));
    assert!(bench.is_up());
}

#[test]
fn record_that_cannot_be_quarantined_stays() {
    for fault in [
        ErrorKind::Misconf,
        ErrorKind::OutOfMemory,
        ErrorKind::Permission,
        ErrorKind::ReadOnly,
        ErrorKind::Server,
        ErrorKind::WrongType,
    ] {
        let mut content = Content::new(&[("s-1", b"unreadable".to_vec())]);
        content.refuses_quarantine = Some(fault);
        let mut bench = Bench::with_content(&Settings::default(), content);
        assert_eq!(bench.stored_keys(), ["s-1"]);
        assert!(bench.persistence.keys().expect("listed").is_empty());
        // It counts as foreign, so nothing is missing or new.
        bench.run(Duration::from_secs(3));
        assert!(bench.is_up());
        assert_eq!(bench.events().len(), 3, "{:?}", bench.events());
    }
    let mut content = Content::new(&[("s-1", b"unreadable".to_vec())]);
    content.refuses_quarantine = Some(ErrorKind::Timeout);
    let mut bench = closed(content);
    let error = bench
        .persistence
        .open("device", "broker")
        .expect_err("fails");
    assert_eq!(kind(&error), ErrorKind::Timeout);
    assert_eq!(bench.stored_keys(), ["s-1"]);
}

#[test]
fn publish_in_both_versions_is_kept_once() {
    let v5 = b"\x34\x07\x00\x01t\x00\x07\x00x".to_vec();
    for (payload, expected) in [
        (b"x", &["s5-7", "sc-7", "sc5-7"][..]),
        (b"y", &["s-7", "s5-7", "sc-7", "sc5-7"]),
    ] {
        let records = [
            ("s-7", publish(7, 2, payload)),
            ("s5-7", v5.clone()),
            ("sc-7", pubrel(7)),
            ("sc5-7", pubrel(7)),
        ];
        let mut bench = Bench::new(&Settings::default(), &records);
        assert_eq!(bench.stored_keys(), expected);
        assert_eq!(
            bench.persistence.keys().expect("listed").len(),
            expected.len()
        );
    }
}

/// Content whose commands wrapped: 999,999 is followed by 5, 6 and 7.
fn wrapped() -> Content {
    let numbers = [999_999, 5, 6, 7];
    let records = numbers.iter().zip(1..).map(|(number, id)| {
        let value = command(id, 1, &id.to_ne_bytes());
        (format!("c-{number}"), value)
    });
    Content {
        records: records.collect(),
        ..Content::default()
    }
}

#[test]
fn wrapped_commands_are_named_without_write() {
    let mut bench = Bench::with_content(&Settings::default(), wrapped());
    let stored = bench.stored();
    let named = ["c-4", "c-3", "c-2", "c-1"];
    assert_eq!(bench.persistence.keys().expect("listed"), named);
    for (name, stored_key) in named.iter().zip(["c-7", "c-6", "c-5", "c-999999"]) {
        assert_eq!(bench.get(name), stored[stored_key]);
    }
    // Paho counts on from the highest name, and the store from the last record.
    let new = command(9, 1, b"new");
    bench.put("c-5", &command(8, 1, b"new"));
    bench.put("c-6", &new);
    assert_eq!(bench.get("c-6"), new);
    bench.run(Duration::from_secs(1));
    let keys = ["c-5", "c-6", "c-7", "c-8", "c-9", "c-999999"];
    assert_eq!(bench.stored_keys(), keys);
    let writes: Vec<String> = bench
        .trace()
        .into_iter()
        .filter(|line| line.starts_with("confirm") || line.starts_with("send"))
        .collect();
    assert_eq!(writes, ["confirm c-8", "confirm c-9"]);
    // The next start finds the same order.
    let mut bench = bench.crash();
    let keys = bench.persistence.keys().expect("listed");
    assert_eq!(keys, ["c-6", "c-5", "c-4", "c-3", "c-2", "c-1"]);
    assert_eq!(bench.get("c-1"), stored["c-999999"]);
    assert_eq!(bench.get("c-6"), new);
}

#[test]
fn full_store_with_wrapped_commands_loses_nothing() {
    let content = Content {
        fails_writes: Some(ErrorKind::OutOfMemory),
        ..wrapped()
    };
    let mut bench = Bench::with_content(&Settings::default(), content);
    let before = bench.stored();
    bench.restore();
    let new = command(9, 1, b"new");
    bench.put("c-5", &new);
    assert_eq!(bench.get("c-1"), before["c-999999"]);
    bench.content().fails_writes = None;
    bench.run(Duration::from_secs(5));
    let stored = bench.stored();
    assert_eq!(stored["c-8"], new);
    for (key, value) in before {
        assert_eq!(stored[&key], value, "{key}");
    }
}

#[test]
fn command_zero_found_at_open_outlives_connect() {
    let value = command(1, 1, b"x");
    let mut bench = Bench::new(&Settings::default(), &[("c-0", value.clone())]);
    assert_eq!(bench.restore(), ["c-1"]);
    bench.remove("c-0");
    assert_eq!(bench.get("c-1"), value);
    bench.remove("c-1");
    bench.put("s-1", &publish(1, 1, b"x"));
    bench.run(Duration::from_secs(1));
    assert_eq!(bench.stored_keys(), ["s-1"]);
}

#[test]
fn wrapped_inbound_messages_are_named_in_order() {
    let records = [("q-999999", queued(1)), ("q-0", queued(2))];
    let mut bench = Bench::new(&Settings::default(), &records);
    assert_eq!(bench.restore(), ["q-2", "q-1"]);
    assert_eq!(bench.get("q-1"), queued(1));
    bench.put("q-3", &queued(3));
    bench.remove("q-1");
    assert_eq!(bench.stored_keys(), ["q-0", "q-1"]);
}

#[test]
fn named_put_spares_withheld_command() {
    let mut bench = Bench::with_content(&Settings::default(), wrapped());
    bench.restore();
    let before = bench.stored();
    // Stored as `c-7`, until its PUBLISH is put.
    bench.get("c-4");
    bench.remove("c-4");
    for name in ["c-5", "c-6", "c-7"] {
        bench.put(name, &command(9, 1, name.as_bytes()));
    }
    assert_eq!(bench.get("c-7"), command(9, 1, b"c-7"));
    assert_eq!(bench.stored()["c-7"], before["c-7"]);
}

#[test]
fn clone_in_memory_shares_records_and_is_closed() {
    let mut first = MemoryPersistence::new();
    first.open("device", "broker").expect("opens");
    let value = command(1, 1, b"x");
    first.put("c-1", vec![&value]).expect("put");
    let mut second = first.clone();
    assert!(second.keys().is_err());
    first.close().expect("closes");
    second.open("device", "broker").expect("opens");
    assert_eq!(second.get("c-1").expect("present"), value);
    assert!(MemoryPersistence::default().clone().keys().is_err());
}

#[test]
fn health_of_closed_persistence_is_empty() {
    let bench = closed(Content::default());
    let health = bench.persistence.health();
    assert_eq!(health.snapshot(), crate::HealthSnapshot::default());
    assert!(health.last_error().is_none());
    let error = health.flush(Duration::ZERO).expect_err("is closed");
    assert_eq!(error.kind(), ErrorKind::NotOpen);
}

#[test]
fn unreadable_record_is_counted_if_load_fails() {
    let settings = Settings {
        open_without_store: true,
        ..Settings::default()
    };
    // The second attempt finds it copied or moved, or there is none.
    for (kind, is_moved) in [
        (ErrorKind::Connection, false),
        (ErrorKind::Connection, true),
        (ErrorKind::Timeout, true),
    ] {
        let mut content = Content::new(&[("s-1", b"unreadable".to_vec())]);
        content.loses_reply = Some(kind).filter(|_| !is_moved);
        content.loses_reply_to_remove = Some(kind).filter(|_| is_moved);
        let bench = Bench::with_content(&settings, content);
        bench.run(5 * SECOND);
        assert!(bench.is_up() && bench.stored_keys().is_empty());
        assert_eq!(bench.content().quarantine.len(), 1);
        let events = bench.events();
        let opened = |event: &StoreEvent| matches!(event, StoreEvent::Opened { quarantined: 1 });
        assert!(events.iter().any(opened), "{kind:?} {is_moved}");
        let is_set_aside = |event: &&StoreEvent| matches!(event, StoreEvent::SetAside { .. });
        let set_aside = events.iter().filter(is_set_aside).count();
        assert_eq!(set_aside, 1, "{kind:?} {is_moved}");
    }
}
