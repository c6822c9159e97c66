//! The log of a persistence.

use std::{
    io,
    sync::{Arc, Mutex},
};

use paho_mqtt::ClientPersistence;
use tracing::{Dispatch, subscriber::NoSubscriber};

use super::bench::{Bench, Content, SECOND, command, publish, queued};
use crate::{
    MemoryPersistence,
    error::ErrorKind,
    paho::to_abi,
    persistence::simulated::{Settings, Turn},
    store::SetAsideLimits,
};

/// Collects what a subscriber writes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `work` and returns what it logs at level INFO and above.
fn logged(work: impl FnOnce()) -> Vec<String> {
    // If there is one subscriber only, an event or span whose first use is on a thread without it is
    // disabled on all threads.
    let _second = Dispatch::new(NoSubscriber::default());
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().expect("no panic").clone();
    let text = String::from_utf8(bytes).expect("UTF-8");
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// Asserts that the log has these parts, one line each, in this order.
fn assert_logged(lines: &[String], parts: &[&str]) {
    assert_eq!(lines.len(), parts.len(), "{lines:#?}");
    for (line, part) in lines.iter().zip(parts) {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[test]
fn clean_opening_logs_one_line() {
    let lines = logged(|| drop(Bench::new(&Settings::default(), &[])));
    assert_logged(&lines, &["INFO persistence opened db.system"]);
}

#[test]
fn findings_of_opening_are_logged() {
    let mut content = Content::new(&[
        ("c-1", command(1, 1, b"readable")),
        ("s-1", b"unreadable".to_vec()),
        ("s-2", b"unreadable".to_vec()),
    ]);
    content.write_error = Some(ErrorKind::OutOfMemory);
    content.warning = Some(ErrorKind::Permission);
    content.durability_note = Some("survives it all");
    content.foreign = vec![b"foreign".to_vec()];
    let lines = logged(|| drop(Bench::with_content(&Settings::default(), content)));
    assert_logged(
        &lines,
        &[
            "WARN the store takes no writes: waiting messages can be sent",
            "WARN cannot use the store",
            "INFO persistence opened; survives it all",
            "WARN the hash has foreign entries",
            "; moved to the quarantine hash",
        ],
    );
    assert!(lines[2].contains("records=1"), "{lines:#?}");
    assert!(lines[3].contains("entries=1"), "{lines:#?}");
    assert!(
        lines[4].contains("records=2") && lines[4].contains("first=\"s-1 s-2\""),
        "{lines:#?}"
    );
}

#[test]
fn unmovable_records_are_logged() {
    let mut content = Content::new(&[("s-1", b"unreadable".to_vec())]);
    content.refuses_quarantine = Some(ErrorKind::Permission);
    let lines = logged(|| drop(Bench::with_content(&Settings::default(), content)));
    assert_logged(
        &lines,
        &["INFO persistence opened", "some could not be moved"],
    );
}

#[test]
fn missing_record_is_no_failure_in_log() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    let lines = logged(|| {
        bench.persistence.get("s-1").expect_err("missing");
        bench.persistence.get("no key").expect_err("invalid");
        bench.persistence.get("no key").expect_err("invalid");
    });
    assert_logged(&lines, &["WARN cannot read record \"no key\""]);
}

#[test]
fn outage_is_logged_once_per_reason() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    let lines = logged(|| {
        bench.content().is_down = Some(ErrorKind::Connection);
        bench.put("c-1", &command(1, 1, b"x"));
        bench.run(2 * SECOND);
        bench.content().is_down = Some(ErrorKind::Permission);
        bench.run(4 * SECOND);
        bench.content().is_down = None;
        bench.run(4 * SECOND);
    });
    assert_logged(
        &lines,
        &[
            "WARN scripted is unavailable; writes are kept in memory until it recovers",
            "WARN scripted is still unavailable, now because",
            "INFO scripted is available again and has confirmed all pending writes but those that it \
             refuses",
        ],
    );
    for (line, kind) in [(0, ErrorKind::Connection), (1, ErrorKind::Permission)] {
        let end = format!(": {}; {}", kind.meaning(), kind.advice());
        assert!(lines[line].contains(&end), "{lines:#?}");
    }
    assert!(
        lines[2].contains("outage_seconds=7.15 rewritten=1"),
        "{lines:#?}"
    );
}

#[test]
fn lost_session_is_logged_with_place_of_messages() {
    let record = ("s-7", publish(7, 1, b"x"));
    let mut bench = Bench::new(&Settings::default(), &[record]);
    let lines = logged(|| {
        bench.restore();
        // Paho connects.
        bench.remove("c-0");
        bench.persistence.keys().expect("listed");
        bench.remove("s-7");
        bench.run(SECOND);
    });
    assert_logged(
        &lines,
        &["WARN records were dropped that were not delivered"],
    );
    for part in [
        "reason=\"session_lost\"",
        "a client that Session has not started has to connect with clean_start(false)",
        "Unless dead letters are off, the messages are kept: mqtt-backlog discarded list CLIENT_ID",
    ] {
        assert!(lines[0].contains(part), "{lines:#?}");
    }
}

#[test]
fn buffer_warning_is_logged_once_per_outage() {
    let settings = Settings {
        buffer_warn_bytes: 100,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    let value = command(1, 1, &[b'x'; 78]);
    assert_eq!(value.len(), 100);
    let lines = logged(|| {
        bench.put("c-1", &value[..]);
        bench.run(2 * SECOND);
        bench.put("c-2", &value[..]);
        bench.run(4 * SECOND);
    });
    assert_logged(
        &lines,
        &[
            "WARN scripted is unavailable",
            "ERROR 100 B of records exist only in memory, since scripted is unavailable or",
        ],
    );
}

#[test]
fn other_data_and_losses_are_logged() {
    let bench = Bench::new(&Settings::default(), &[]);
    let lines = logged(|| {
        // Another program writes a record.
        let other = command(9, 1, b"of another");
        bench
            .content()
            .records
            .insert("c-9".to_owned(), other.clone());
        bench.run(2 * SECOND);
        bench.content().is_down = Some(ErrorKind::Connection);
        bench.run(2 * SECOND);
        bench.content().instance_id += 1;
        bench.content().is_down = None;
        bench.run(4 * SECOND);
    });
    assert_logged(
        &lines,
        &[
            "ERROR scripted has records that this client did not write",
            "WARN scripted is unavailable",
            "WARN scripted had records that this process has never known",
            "INFO scripted is available again",
        ],
    );
}

#[test]
fn refused_record_is_logged() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().largest_value = Some(100);
    let lines = logged(|| {
        bench.put("c-1", &command(1, 1, &[0; 200]));
        bench.run(SECOND / 2);
    });
    assert_logged(
        &lines,
        &[
            "WARN scripted is unavailable",
            "ERROR scripted refuses some records although it takes others; 222 B",
            "INFO scripted is available again",
        ],
    );
}

#[test]
fn client_created_for_other_version_is_logged_once() {
    let v5 = b"\x34\x08\x00\x01t\x00\x07\x00v5".to_vec();
    let records = [
        ("s5-7", v5.clone()),
        ("s5-8", [&v5[..6], b"\x08\x00v5"].concat()),
    ];
    let mut bench = Bench::new(&Settings::default(), &records);
    let lines = logged(|| {
        bench.restore();
        for _ in 0..2 {
            bench.get("s5-7");
            assert_eq!(bench.persistence.contains_key("sc-7"), to_abi(false));
        }
    });
    assert_logged(
        &lines,
        &["WARN found records of MQTT 5, but the client was created for MQTT 3.1.1"],
    );
}

#[test]
fn client_of_same_version_logs_no_mismatch() {
    let records = [("s-7", publish(7, 2, b"x")), ("c-1", command(1, 1, b"x"))];
    let mut bench = Bench::new(&Settings::default(), &records);
    let lines = logged(|| {
        bench.restore();
        bench.get("s-7");
        assert_eq!(bench.persistence.contains_key("sc-7"), to_abi(false));
        // After a command, Paho asks for no PUBREL.
        bench.get("c-1");
        assert_eq!(bench.persistence.contains_key("sc5-7"), to_abi(false));
        bench.remove("c-1");
        // A queued message may be of another version.
        bench.put("q-1", &queued(1));
        bench.remove("q5-1");
        bench.persistence.close().expect("closes");
    });
    assert_logged(&lines, &[]);
}

#[test]
fn restore_stopped_at_other_version_is_logged() {
    let v5 = b"\x34\x08\x00\x01t\x00\x07\x00v5".to_vec();
    let mut bench = Bench::new(&Settings::default(), &[("s5-7", v5)]);
    let lines = logged(|| {
        bench.persistence.keys().expect("listed");
        bench.get("s5-7");
        bench.persistence.close().expect("closes");
    });
    assert_logged(
        &lines,
        &["WARN found records of MQTT 5, but the client was created for"],
    );
}

#[test]
fn client_connecting_with_other_version_is_logged() {
    let mut bench = Bench::new(&Settings::default(), &[("c-1", command(1, 1, b"x"))]);
    let lines = logged(|| {
        bench.restore();
        bench.get("c-1");
        bench.remove("c5-1");
    });
    assert_logged(
        &lines,
        &["WARN found records of MQTT 3.1.1, but the client connects with MQTT 5"],
    );
}

#[test]
fn close_during_outage_is_logged() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    let lines = logged(|| {
        bench.put("c-1", &command(1, 1, b"x"));
        bench.persistence.close().expect_err("is down");
        bench.persistence.close().expect("is closed");
    });
    assert_logged(
        &lines,
        &[
            "WARN scripted is unavailable",
            "WARN cannot write 1 pending record before closing",
        ],
    );
}

#[test]
fn connect_warns_of_store_without_room() {
    let content = Content {
        write_error: Some(ErrorKind::OutOfMemory),
        ..Content::default()
    };
    let mut bench = Bench::closed(&Settings::default(), Arc::new(Mutex::new(content)));
    let lines = logged(|| {
        let connected = bench.persistence.connect("device", "tcp://broker");
        connected.expect("connects");
    });
    assert_logged(&lines, &["WARN the store takes no writes"]);
    assert_eq!(bench.trace(), ["connect device:broker"]);
}

#[test]
fn losses_are_logged_under_their_reasons() {
    let settings = Settings {
        set_aside_limits: SetAsideLimits {
            records: 1,
            bytes: 100,
            ..SetAsideLimits::default()
        },
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.run(SECOND);
    let lines = logged(|| {
        for number in 1..=5 {
            bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
            bench.remove(&format!("c-{number}"));
            bench.run(SECOND / 4);
        }
        for number in 6..=8 {
            bench.put(&format!("c-{number}"), &command(number, 1, &[0; 200]));
            bench.remove(&format!("c-{number}"));
            bench.run(SECOND / 4);
        }
        bench.run(SECOND);
        bench.persistence.close().expect("closes");
        assert!(matches!(bench.worker.turn(), Turn::Done));
    });
    let losses = lines.iter().filter(|line| line.contains("are gone"));
    let count = |line: &String| {
        let reason = if line.contains("reason=\"number\"") {
            "number"
        } else {
            "bytes"
        };
        let records = line.split("records=").nth(1).expect("a count");
        let records: u64 = records
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number");
        (reason, records)
    };
    let losses: Vec<_> = losses.map(count).collect();
    assert_eq!(
        losses,
        [("number", 1), ("number", 3), ("bytes", 1), ("bytes", 2)],
        "{lines:#?}"
    );
}

#[test]
fn backlog_under_other_uri_is_logged_at_connect() {
    let mut persistence = MemoryPersistence::new();
    persistence.open("device", "old:1883").expect("opens");
    let value = command(1, 1, b"x");
    persistence.put("c-1", vec![&value]).expect("put");
    persistence.close().expect("closes");
    for (server_uri, expected) in [
        ("tcp://old:1883", &[][..]),
        (
            "tcp://new:1883",
            &["WARN this client id has records under another server URI"],
        ),
    ] {
        let lines = logged(|| drop(persistence.connect("device", server_uri)));
        assert_logged(&lines, expected);
        assert!(lines.iter().all(|line| line.contains("old:1883 (1)")));
    }
}
