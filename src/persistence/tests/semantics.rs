//! The meaning of Paho's calls: what each of them writes and removes.

use std::time::Duration;

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, command, publish, pubrel, queued};
use crate::{
    error::{Error, ErrorKind},
    paho::to_abi,
    persistence::simulated::Settings,
    store::StoreEvent,
};

const TICKS: Duration = Duration::from_millis(300);

fn bench(records: &[(&str, Vec<u8>)]) -> Bench {
    let bench = Bench::new(&Settings::default(), records);
    bench.trace();
    bench
}

/// A PUBLISH of MQTT 5.
fn publish_v5(packet_id: u16, qos: u8, payload: &[u8]) -> Vec<u8> {
    let rest = [&[0, 1, b't'][..], &packet_id.to_be_bytes(), b"\0", payload].concat();
    let length = u8::try_from(rest.len()).expect("short");
    [&[0x30 | qos << 1, length], &rest[..]].concat()
}

fn subscription() -> Vec<u8> {
    let numbers = [8, 7, 1].map(i32::to_ne_bytes).concat();
    [&numbers[..], b"t\0", &1_i32.to_ne_bytes()].concat()
}

fn keys(bench: &mut Bench) -> Vec<String> {
    bench.persistence.keys().expect("listed")
}

fn kind(error: &paho_mqtt::Error) -> ErrorKind {
    Error::in_mqtt(error).expect("ours").kind()
}

#[test]
fn command_is_withheld_until_its_publish() {
    let mut bench = bench(&[]);
    bench.put("c-1", &command(1, 2, b"x"));
    bench.get("c-1");
    bench.remove("c-1");
    assert_eq!(bench.trace(), ["confirm c-1"]);
    assert!(!bench.persistence.contains("c-1"));
    assert!(keys(&mut bench).is_empty());
    let error = bench.persistence.get("c-1").expect_err("removed");
    assert_eq!(kind(&error), ErrorKind::NotFound);
    // That of another message.
    bench.put("s-2", &publish(2, 2, b"other"));
    bench.put("r-1", &publish(1, 2, b"other"));
    bench.put("s-1", &publish(1, 2, b"x"));
    assert_eq!(bench.trace(), ["send s-2", "confirm r-1", "send s-1 -c-1"]);
}

#[test]
fn next_sent_command_releases_withheld_one() {
    let mut bench = bench(&[]);
    for number in 1..=2 {
        bench.put(&format!("c-{number}"), &command(number, 2, b"x"));
    }
    for number in 1..=2 {
        bench.get(&format!("c-{number}"));
        bench.remove(&format!("c-{number}"));
    }
    assert_eq!(bench.trace(), ["confirm c-1", "confirm c-2", "send -c-1"]);
    bench.persistence.close().expect("closes");
    assert_eq!(bench.trace(), ["send -c-2", "confirm", "close"]);
}

#[test]
fn reused_key_of_withheld_command_is_kept() {
    let mut bench = bench(&[]);
    bench.put("c-1", &command(1, 2, b"x"));
    bench.get("c-1");
    bench.remove("c-1");
    bench.put("c-1", &command(5, 2, b"new"));
    bench.put("s-1", &publish(1, 2, b"x"));
    bench.run(TICKS);
    assert_eq!(bench.stored_keys(), ["c-1", "s-1"]);
    assert_eq!(bench.get("c-1"), command(5, 2, b"new"));
}

#[test]
fn command_without_packet_id_is_removed_at_once() {
    let mut bench = bench(&[]);
    for value in [subscription(), command(0, 0, b"x")] {
        bench.put("c-1", &value);
        bench.get("c-1");
        bench.remove("c-1");
        assert_eq!(bench.trace(), ["confirm c-1", "send -c-1"]);
    }
    // Dropped, not sent.
    bench.put("c-1", &command(1, 2, b"x"));
    bench.remove("c-1");
    bench.run(TICKS);
    assert_eq!(bench.trace(), ["confirm c-1", "confirm !d:c-1 -c-1"]);
    // Listed in between, so it is discarded.
    bench.put("c-1", &command(1, 2, b"x"));
    bench.get("c-1");
    keys(&mut bench);
    bench.remove("c-1");
    bench.run(TICKS);
    assert_eq!(bench.trace(), ["confirm c-1", "confirm !d:c-1 -c-1"]);
}

#[test]
fn acknowledged_publish_releases_withheld_command() {
    let mut bench = bench(&[]);
    bench.put("s-1", &publish(1, 2, b"x"));
    bench.put("c-1", &command(1, 2, b"x"));
    bench.get("c-1");
    bench.remove("c-1");
    bench.trace();
    bench.put("s-2", &publish(2, 2, b"x"));
    bench.remove("s-2");
    assert_eq!(bench.trace(), ["send s-2"]);
    bench.remove("s-1");
    assert_eq!(bench.trace(), ["send -c-1"]);
}

#[test]
fn each_kind_is_acknowledged_as_it_needs() {
    let mut bench = bench(&[]);
    bench.put("r-1", &publish(1, 2, b"x"));
    bench.put("q-1", &queued(1));
    bench.put("sc-1", &pubrel(1));
    assert_eq!(
        bench.trace(),
        ["confirm r-1", "confirm q-1", "confirm sc-1"]
    );
    // A PUBLISH without its command is sent again.
    bench.put("s-2", &publish(2, 1, b"x"));
    bench.put("s-3", &publish(3, 2, b"x"));
    assert_eq!(bench.trace(), ["send s-2", "send s-3"]);
    bench.remove("r-1");
    bench.remove("q-1");
    assert_eq!(bench.trace(), ["send -r-1", "send -q-1"]);
    bench.remove("sc-1");
    bench.remove("s-2");
    assert!(bench.trace().is_empty());
    // They go along with the next confirmed write.
    bench.put("r-1", &publish(1, 2, b"x"));
    assert_eq!(bench.trace(), ["confirm -sc-1 -s-2 | r-1"]);
    // Without a PUBREL it was rejected, so it is set aside in the same step.
    bench.remove("s-3");
    bench.run(TICKS);
    assert_eq!(bench.trace(), ["confirm !d:s-3 -s-3"]);
}

#[test]
fn publish_sent_again_is_compared() {
    let mut bench = bench(&[]);
    let packet = publish(7, 2, b"x");
    bench.put("s-7", &packet);
    let mut duplicate = packet.clone();
    duplicate[0] |= 8;
    bench.trace();
    bench.put("s-7", &duplicate);
    assert!(bench.trace().is_empty());
    for key in ["s-7", "s5-7"] {
        let error = bench
            .persistence
            .put(key, vec![&publish(7, 2, b"?")])
            .expect_err("damaged");
        assert_eq!(kind(&error), ErrorKind::Damaged);
    }
    assert_eq!(bench.damaged(), ["device s-7", "device s5-7"]);
    assert_eq!(bench.stored()["s-7"], packet);
    // In the other version, with the same content.
    bench.put("s5-7", &publish_v5(7, 2, b"x"));
    assert_eq!(bench.trace(), ["send s5-7 -s-7"]);
    assert_eq!(bench.damaged().len(), 2);
}

#[test]
fn publish_sent_again_survives_unreadable_copy() {
    let settings = Settings {
        cache_limit: 0,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[("s-7", publish(7, 2, b"x"))]);
    bench.restore();
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("s5-7", &publish_v5(7, 2, b"x"));
    bench.content().is_down = None;
    bench.run(Duration::from_secs(3));
    assert_eq!(bench.stored_keys(), ["s5-7"]);
}

#[test]
fn new_record_replaces_leftovers_of_its_number() {
    let mut bench = bench(&[]);
    for key in ["sc-7", "r-7"] {
        let value = if key == "r-7" {
            publish(7, 2, b"x")
        } else {
            pubrel(7)
        };
        bench.put(key, &value);
    }
    bench.put("sc5-7", &pubrel(7));
    bench.put("r5-7", &publish_v5(7, 2, b"x"));
    assert_eq!(bench.stored_keys(), ["r5-7", "sc5-7"]);
    // A stale PUBREL of a reused packet id.
    bench.put("s-7", &publish(7, 2, b"x"));
    bench.run(TICKS);
    assert_eq!(bench.stored_keys(), ["r5-7", "s-7"]);
    // Messages in the queues have no other version.
    bench.put("c-7", &command(1, 2, b"x"));
    bench.put("c5-7", &[&command(2, 2, b"x")[..], b"\0"].concat());
    assert_eq!(bench.stored_keys(), ["c-7", "c5-7", "r5-7", "s-7"]);
}

#[test]
fn pubrel_is_removed_with_its_publish() {
    let mut bench = bench(&[]);
    bench.put("s-7", &publish(7, 2, b"x"));
    bench.put("sc5-7", &pubrel(7));
    bench.remove("sc5-7");
    assert!(!bench.persistence.contains("s-7"));
    bench.put("s-8", &publish(8, 2, b"x"));
    bench.put("sc-8", &pubrel(8));
    bench.remove("s-8");
    assert!(bench.persistence.contains("sc-8") && !bench.persistence.contains("s-8"));
    bench.run(TICKS);
    assert_eq!(bench.stored_keys(), ["sc-8"]);
}

#[test]
fn packet_of_other_version_is_there_for_paho() {
    let mut bench = bench(&[]);
    bench.put("s-7", &publish(7, 2, b"x"));
    bench.put("sc5-8", &pubrel(8));
    bench.put("r-9", &publish(9, 2, b"x"));
    for (key, is_present, is_stored) in [
        ("s-7", true, true),
        ("s5-7", true, false),
        ("sc-8", true, false),
        ("s-8", false, false),
        ("r-9", true, true),
        ("r5-9", false, false),
        ("no key", false, false),
    ] {
        assert_eq!(
            bench.persistence.contains_key(key),
            to_abi(is_present),
            "{key}"
        );
        assert_eq!(bench.persistence.contains(key), is_stored, "{key}");
    }
}

/// A session that was found at open.
fn session() -> Bench {
    bench(&[
        ("s-7", publish(7, 2, b"x")),
        ("sc-7", pubrel(7)),
        ("sc-8", pubrel(8)),
        ("r-9", publish(9, 2, b"x")),
        ("c-1", command(1, 1, b"x")),
    ])
}

#[test]
fn session_is_kept_until_paho_connects() {
    let mut bench = session();
    bench.restore();
    for key in ["s-7", "sc-7", "sc-8", "r-9"] {
        bench.remove(key);
    }
    bench.run(TICKS);
    // A PUBREL without its PUBLISH is of no use.
    assert_eq!(bench.stored_keys(), ["c-1", "r-9", "s-7", "sc-7"]);
    bench.remove("c-0");
    for key in ["s-7", "sc-7", "r-9"] {
        bench.remove(key);
    }
    bench.run(TICKS);
    assert_eq!(bench.stored_keys(), ["c-1"]);
}

#[test]
fn sending_command_zero_does_not_end_session() {
    let mut bench = session();
    bench.put("c-0", &command(2, 1, b"x"));
    bench.get("c-0");
    bench.remove("c-0");
    bench.remove("s-7");
    bench.run(TICKS);
    assert!(bench.stored_keys().contains(&"s-7".to_owned()));
}

#[test]
fn dropped_records_are_counted_with_reason() {
    let mut bench = session();
    keys(&mut bench);
    bench.remove("c-1");
    bench.remove("c-0");
    keys(&mut bench);
    for key in ["s-7", "r-9"] {
        bench.remove(key);
    }
    // After any other call, a remove is an acknowledgment.
    bench.put("s-20", &publish(20, 1, b"x"));
    bench.remove("s-20");
    keys(&mut bench);
    bench.persistence.contains_key("sc-7");
    bench.remove("sc-7");
    keys(&mut bench);
    bench.get("sc-8");
    bench.remove("sc-8");
    bench.run(TICKS);
    let dropped: Vec<(&str, &str, usize)> = bench
        .events()
        .iter()
        .filter_map(|event| match event {
            StoreEvent::Dropped {
                kind,
                reason,
                records,
            } => Some((kind.as_str(), reason.as_str(), *records)),
            _ => None,
        })
        .collect();
    let expected = [
        ("command", "not_restored", 1),
        ("sent_publish", "session_lost", 1),
        ("received_publish", "session_lost", 1),
    ];
    assert_eq!(dropped, expected);
}

#[test]
fn publish_under_zero_survives_connect() {
    let mut bench = bench(&[]);
    bench.put("c-0", &command(1, 1, b"x"));
    bench.remove("c-0");
    assert_eq!(bench.stored_keys(), ["c-0"]);
    bench.put("c-0", &subscription());
    bench.remove("c-0");
    assert!(bench.stored_keys().is_empty());
}

#[test]
fn connect_asks_no_store_about_command_zero() {
    let settings = Settings {
        cache_limit: 0,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    for key in ["c-0", "c-1"] {
        bench.put(key, &command(1, 1, b"x"));
    }
    bench.trace();
    bench.remove("c-0");
    assert!(bench.trace().is_empty());
    assert!(bench.persistence.contains("c-0"));
}

#[test]
fn lost_command_zero_is_reported_by_get() {
    let settings = Settings {
        cache_limit: 0,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    for key in ["c-0", "c-1"] {
        bench.put(key, &command(1, 1, b"x"));
    }
    bench.content().records.remove("c-0");
    bench.remove("c-0");
    let error = bench.persistence.get("c-0").expect_err("is lost");
    assert_eq!(kind(&error), ErrorKind::Lost);
    assert!(!bench.persistence.contains("c-0"));
}

#[test]
fn clear_removes_everything_in_steps() {
    let mut content = Content::default();
    for number in 1..=600 {
        let value = command(number, 1, b"x");
        content.records.insert(format!("c-{number}"), value);
    }
    let mut bench = Bench::with_content(&Settings::default(), content);
    bench.get("c-1");
    bench.remove("c-1");
    bench.trace();
    bench.persistence.clear().expect("clears");
    assert!(bench.stored_keys().is_empty() && keys(&mut bench).is_empty());
    let sizes: Vec<usize> = bench
        .trace()
        .iter()
        .map(|line| line.split(' ').filter(|word| word.starts_with('-')).count())
        .collect();
    assert_eq!(sizes, [1, 256, 256, 87, 0]);
}

#[test]
fn unread_packet_moves_to_free_number() {
    let mut bench = bench(&[
        ("s-7", publish(7, 2, b"unread")),
        ("sc-7", pubrel(7)),
        ("r-7", publish(7, 2, b"unread")),
        ("s5-65535", publish_v5(65_535, 2, b"x")),
        ("sc-65534", pubrel(65_534)),
    ]);
    keys(&mut bench);
    bench.put("c-1", &command(7, 2, b"new"));
    bench.send("c-1", "s-7", &publish(7, 2, b"new"));
    bench.put("r-7", &publish(7, 2, b"new"));
    let stored = bench.stored();
    assert_eq!(stored["s-65533"], publish(65_533, 2, b"unread"));
    assert_eq!(stored["sc-65533"], pubrel(65_533));
    assert_eq!(stored["r-65535"], publish(65_535, 2, b"unread"));
    assert_eq!(stored["s-7"], publish(7, 2, b"new"));
    assert_eq!(stored["r-7"], publish(7, 2, b"new"));
    assert!(!stored.contains_key("sc-7"));
    // A moved record is unread, and moves again.
    bench.put("r-65535", &publish(65_535, 2, b"newer"));
    assert_eq!(bench.stored()["r-65534"], publish(65_534, 2, b"unread"));
}

#[test]
fn unread_pubrel_moves_alone() {
    let mut bench = bench(&[("sc-7", pubrel(7)), ("s-7", publish(7, 2, b"x"))]);
    keys(&mut bench);
    bench.get("s-7");
    bench.put("sc-7", &pubrel(7));
    assert_eq!(bench.stored_keys(), ["s-7", "sc-65535", "sc-7"]);
}

#[test]
fn calls_fail_while_not_open() {
    let mut bench = bench(&[]);
    bench.persistence.close().expect("closes");
    let persistence = &mut bench.persistence;
    for error in [
        persistence.put("c-1", vec![b"x"]).expect_err("closed"),
        persistence.put("no key", vec![b"x"]).expect_err("closed"),
        persistence.get("c-1").expect_err("closed"),
        persistence.remove("c-1").expect_err("closed"),
        persistence.keys().expect_err("closed"),
        persistence.clear().expect_err("closed"),
    ] {
        assert_eq!(kind(&error), ErrorKind::NotOpen);
    }
    assert!(!persistence.contains("c-1"));
    assert_eq!(persistence.contains_key("c-1"), to_abi(false));
}

#[test]
fn invalid_key_is_refused() {
    let mut bench = bench(&[]);
    let persistence = &mut bench.persistence;
    for error in [
        persistence.put("no key", vec![b"x"]).expect_err("invalid"),
        persistence.get("no key").expect_err("invalid"),
        persistence.remove("no key").expect_err("invalid"),
    ] {
        assert_eq!(kind(&error), ErrorKind::InvalidKey);
    }
    persistence.remove("c-1").expect("missing is fine");
}

#[test]
fn inbound_messages_are_renumbered_alone() {
    let mut bench = bench(&[
        ("q-1", queued(1)),
        ("q-2", queued(2)),
        ("c-5", command(5, 1, b"x")),
    ]);
    keys(&mut bench);
    bench.put("q-1", &queued(3));
    // Paho means a record of its own, which it does not have.
    bench.remove("q-2");
    assert_eq!(bench.stored()["q-2"], queued(2));
    bench.put("q-2", &queued(4));
    assert_eq!(bench.stored()["q-3"], queued(3));
    assert_eq!(bench.stored()["q-4"], queued(4));
    assert_eq!(bench.get("q-1"), queued(3));
    // Written again, it stays where it is.
    bench.put("q-1", &queued(5));
    assert_eq!(bench.stored()["q-3"], queued(5));
    bench.put("c-1", &command(1, 1, b"x"));
    assert_eq!(
        bench.stored_keys(),
        ["c-1", "c-5", "q-1", "q-2", "q-3", "q-4"]
    );
    // What Paho discards after a list is the unread record of this name.
    assert_eq!(
        keys(&mut bench),
        ["c-5", "c-1", "q-2", "q5-2", "q-1", "q5-1"]
    );
    bench.remove("q5-1");
    bench.run(TICKS);
    assert!(!bench.stored_keys().contains(&"q-1".to_owned()));
    bench.remove("q-1");
    bench.run(TICKS);
    assert!(!bench.stored_keys().contains(&"q-3".to_owned()));
}

#[test]
fn numbers_go_on_from_one_behind_last() {
    let last = [
        ("c-999998", command(1, 1, b"a")),
        ("c-999999", command(2, 1, b"b")),
    ];
    let mut bench = bench(&last);
    keys(&mut bench);
    let v5 = [&command(5, 1, b"e")[..], b"\0"].concat();
    bench.put("c5-1", &v5);
    bench.put("c-999999", &command(3, 1, b"c"));
    bench.put("c-3", &command(4, 1, b"d"));
    let stored = bench.stored();
    // A number is free if neither version uses it.
    assert_eq!(stored["c5-1"], v5);
    assert_eq!(stored["c-2"], command(3, 1, b"c"));
    assert_eq!(stored["c-3"], command(4, 1, b"d"));
    assert_eq!(stored["c-999999"], command(2, 1, b"b"));
    assert_eq!(bench.get("c-999999"), command(3, 1, b"c"));
}
