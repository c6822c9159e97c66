//! Messages of MQTT 5 with an expiry that wait, or wait too long.

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, SECOND};
use crate::{
    error::ErrorKind, paho::RecordKind, persistence::simulated::Settings, store::StoreEvent,
};

/// A publish command of MQTT 5 that expires after this many seconds.
fn command(packet_id: i32, expiry: u32) -> Vec<u8> {
    let fields = [3, packet_id].map(i32::to_ne_bytes).concat();
    let [length, qos, retained] = [1, 1, 0].map(i32::to_ne_bytes);
    let properties = [&b"\x05\x02"[..], &expiry.to_be_bytes()].concat();
    [
        &fields,
        &b"t\0"[..],
        &length,
        b"x",
        &qos,
        &retained,
        &properties,
    ]
    .concat()
}

/// The time at which the clock of a bench starts, in seconds.
const START: u32 = 1_700_000_000;

/// A store with a message that has expired, and one that lives for another hour.
fn content() -> Content {
    let records = [
        ("c5-1", command(1, START)),
        ("c5-2", command(2, START + 3600)),
    ];
    let records = records.map(|(key, value)| (key.to_owned(), value));
    Content {
        records: records.into(),
        ..Content::default()
    }
}

fn expired(bench: &Bench) -> usize {
    let events = bench.events();
    let expired = events.iter().filter_map(|event| match event {
        StoreEvent::Dropped {
            kind: RecordKind::Command,
            reason,
            records,
        } if reason.as_str() == "expired" => Some(*records),
        _ => None,
    });
    expired.sum()
}

#[test]
fn remaining_interval_goes_out() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.put("c5-1", &command(1, 60));
    bench.run(20 * SECOND);
    let read = bench.get("c5-1");
    assert_eq!(read, command(1, 40));
    // Paho reads it once more when it sends it.
    bench.run(100 * SECOND);
    assert_eq!(bench.get("c5-1"), command(1, 1));
}

#[test]
fn expired_message_is_dropped_at_open() {
    let mut bench = Bench::with_content(&Settings::default(), content());
    assert_eq!(bench.persistence.keys().expect("listed"), ["c5-2"]);
    assert_eq!(bench.stored_keys(), ["c5-2"]);
    bench.run(SECOND);
    assert_eq!(expired(&bench), 1);
    let waiting = bench.persistence.health().snapshot().waiting_messages;
    assert_eq!(waiting, 1);
}

#[test]
fn stored_message_has_time_of_its_expiry() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.put("c5-1", &command(1, 60));
    let now = START + u32::try_from(bench.now().as_secs()).expect("short");
    assert_eq!(bench.stored()["c5-1"], command(1, now + 60));
}

#[test]
fn expired_message_is_restored_if_store_refuses() {
    let content = Content {
        fails_writes: Some(ErrorKind::Misconf),
        ..content()
    };
    let mut bench = Bench::with_content(&Settings::default(), content);
    assert_eq!(bench.get("c5-1"), command(1, 1));
    assert_eq!(expired(&bench), 0);
}

#[test]
fn expired_message_is_counted_if_reply_is_lost() {
    let content = Content {
        loses_reply: Some(ErrorKind::Connection),
        ..content()
    };
    let bench = Bench::with_content(&Settings::default(), content);
    bench.run(2 * SECOND);
    assert_eq!(bench.stored_keys(), ["c5-2"]);
    assert_eq!(expired(&bench), 1);
    // Also if the client is created without the store then.
    let settings = Settings {
        open_without_store: true,
        ..Settings::default()
    };
    let content = Content {
        loses_reply: Some(ErrorKind::Timeout),
        ..self::content()
    };
    let bench = Bench::with_content(&settings, content);
    bench.run(5 * SECOND);
    assert_eq!(bench.stored_keys(), ["c5-2"]);
    assert_eq!(expired(&bench), 1);
    assert_eq!(bench.persistence.health().snapshot().earlier_records, 1);
}
