//! Records of the other MQTT version are converted for a client that names its own.

use std::sync::{Arc, Mutex};

use paho_mqtt::{self as mqtt, ClientPersistence};

use super::bench::{Bench, Content, assert_readable, command, publish, pubrel, queued};
use crate::{error::ErrorKind, persistence::simulated::Settings};

const V5: u32 = mqtt::MQTT_VERSION_5;
const V3: u32 = mqtt::MQTT_VERSION_3_1_1;

fn closed(content: Content, version: u32) -> Bench {
    let mut bench = Bench::closed(&Settings::default(), Arc::new(Mutex::new(content)));
    bench.persistence = bench.persistence.mqtt_version(version);
    bench
}

fn opened(records: &[(&str, Vec<u8>)], version: u32) -> Bench {
    let mut bench = closed(Content::new(records), version);
    bench.persistence.open("device", "broker").expect("opens");
    bench
}

fn with_empty_properties(value: Vec<u8>) -> Vec<u8> {
    [value, b"\0".to_vec()].concat()
}

/// A PUBLISH of MQTT 5 without properties, whose payload is one byte.
fn publish_v5(packet_id: u16, qos: u8, payload: u8) -> Vec<u8> {
    publish(packet_id, qos, &[0, payload])
}

/// One record of each kind, for either version.
fn each_kind(v5: bool) -> Vec<(&'static str, Vec<u8>)> {
    if v5 {
        vec![
            ("c5-1", with_empty_properties(command(1, 1, b"x"))),
            ("s5-2", publish_v5(2, 2, b'x')),
            ("sc5-2", pubrel(2)),
            ("r5-3", publish_v5(3, 2, b'x')),
            ("q5-4", with_empty_properties(queued(b'x'))),
        ]
    } else {
        vec![
            ("c-1", command(1, 1, b"x")),
            ("s-2", publish(2, 2, b"x")),
            ("sc-2", pubrel(2)),
            ("r-3", publish(3, 2, b"x")),
            ("q-4", queued(b'x')),
        ]
    }
}

#[test]
fn records_are_converted_for_named_version() {
    for (version, v5) in [(V5, true), (V3, false)] {
        let mut bench = opened(&each_kind(!v5), version);
        let expected: Vec<(&str, Vec<u8>)> = each_kind(v5);
        for (key, value) in &expected {
            assert_eq!(bench.stored().get(*key), Some(value), "{key}");
        }
        assert_eq!(bench.stored().len(), expected.len());
        let keys: Vec<&str> = expected.iter().map(|(key, _)| *key).collect();
        let mut listed = bench.persistence.keys().expect("listed");
        listed.sort();
        let mut keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
        keys.sort();
        assert_eq!(listed, keys);
        for (key, value) in expected {
            assert_eq!(bench.get(key), value, "{key}");
        }
    }
}

#[test]
fn version_that_is_not_named_leaves_records() {
    let mut bench = Bench::new(&Settings::default(), &each_kind(true));
    assert_eq!(bench.restore().len(), 5);
    let keys = each_kind(true).into_iter().map(|(key, _)| key.to_owned());
    let mut keys: Vec<String> = keys.collect();
    keys.sort();
    assert_eq!(bench.stored_keys(), keys);
}

#[test]
fn connect_converts_before_client_is_created() {
    let mut bench = closed(Content::new(&each_kind(true)), V3);
    bench
        .persistence
        .connect("device", "broker")
        .expect("connects");
    assert!(bench.stored_keys().iter().all(|key| !key.contains('5')));
    let writes = |bench: &Bench| {
        let trace = bench.trace();
        let writes = trace.iter().filter(|line| line.starts_with("confirm"));
        writes.count()
    };
    assert_eq!(writes(&bench), 1);
    bench.persistence.open("device", "broker").expect("opens");
    assert_eq!(writes(&bench), 0);
}

/// A crash after any write leaves each message once, and the next start converts the rest.
#[test]
fn interrupted_conversion_goes_on() {
    let records: Vec<(String, Vec<u8>)> = (1..=100)
        .map(|number: u16| {
            let value = command(number.into(), 1, &number.to_be_bytes());
            (format!("c5-{number}"), with_empty_properties(value))
        })
        .collect();
    let borrowed: Vec<(&str, Vec<u8>)> = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.clone()))
        .collect();
    let mut content = Content::new(&borrowed);
    content.snapshots = Some(Vec::new());
    let mut bench = closed(content, V3);
    bench.persistence.open("device", "broker").expect("opens");
    let snapshots = bench.content().snapshots.take().expect("taken");
    assert_eq!(snapshots.len(), 100);
    for (written, snapshot) in snapshots.into_iter().enumerate() {
        assert_eq!(snapshot.len(), 100, "{written}");
        let content = Content {
            records: snapshot,
            ..Content::default()
        };
        let mut bench = closed(content, V3);
        bench.persistence.open("device", "broker").expect("opens");
        assert_eq!(bench.restore().len(), 100, "{written}");
        assert_readable(&bench);
        for (number, (key, value)) in (1..).zip(&records) {
            let stored = bench.stored();
            assert_eq!(stored.get(key), None);
            let payload = stored.get(&format!("c-{number}")).expect("converted");
            assert_eq!(&with_empty_properties(payload.clone()), value);
        }
    }
}

#[test]
fn twin_of_record_is_removed() {
    for (version, kept) in [(V5, ["s5-2", "sc5-2"]), (V3, ["s-2", "sc-2"])] {
        let records = [
            ("s-2", publish(2, 2, b"x")),
            ("sc-2", pubrel(2)),
            ("s5-2", publish_v5(2, 2, b'x')),
            ("sc5-2", pubrel(2)),
        ];
        let bench = opened(&records, version);
        assert_eq!(bench.stored_keys(), kept);
        assert!(bench.content().quarantine.is_empty());
    }
}

/// The PUBREL of the message that is quarantined must not release the one that stays.
#[test]
fn other_message_with_same_packet_id_is_quarantined() {
    let records = [
        ("s-2", publish(2, 2, b"x")),
        ("s5-2", publish_v5(2, 2, b'y')),
        ("sc5-2", pubrel(2)),
    ];
    let bench = opened(&records, V3);
    assert_eq!(bench.stored_keys(), ["s-2"]);
    let content = bench.content();
    let quarantined: Vec<_> = content.quarantine.iter().collect();
    let [(name, value)] = &quarantined[..] else {
        panic!("{quarantined:?}")
    };
    assert!(name.contains(":other_version:"), "{name}");
    assert_eq!(**value, publish_v5(2, 2, b'y'));
}

#[test]
fn unsubscribe_without_form_is_quarantined() {
    let unsubscribe = [
        [10, 7, 1].map(i32::to_ne_bytes).concat(),
        b"a/#\0\0".to_vec(),
    ]
    .concat();
    let bench = opened(&[("c5-1", unsubscribe)], V3);
    assert!(bench.stored_keys().is_empty());
    assert_eq!(bench.content().quarantine.len(), 1);
}

#[test]
fn full_store_is_error_that_names_cure() {
    let mut content = Content::new(&each_kind(true));
    content.largest_value = Some(0);
    let mut bench = closed(content, V3);
    let error = bench.persistence.connect("device", "broker");
    let error = error.expect_err("is full");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let text = error.to_string();
    assert!(
        text.contains("convert the records of MQTT 5 to MQTT 3.1.1"),
        "{text}"
    );
    assert!(text.contains("start with MQTT 5"), "{text}");
    let mut keys: Vec<String> = each_kind(true)
        .into_iter()
        .map(|(key, _)| key.to_owned())
        .collect();
    keys.sort();
    assert_eq!(bench.stored_keys(), keys);
}

/// A message that has expired would never expire as one of 3.1.1.
#[test]
fn expired_message_is_dropped_and_not_converted() {
    let expiry = [
        b"\x05\x02".to_vec(),
        1_700_000_000_u32.to_be_bytes().to_vec(),
    ]
    .concat();
    let value = [command(1, 1, b"x"), expiry].concat();
    let mut bench = closed(Content::new(&[("c5-1", value)]), V3);
    bench.persistence.open("device", "broker").expect("opens");
    assert!(bench.stored_keys().is_empty());
    assert_eq!(bench.persistence.keys().expect("listed").len(), 0);
}
