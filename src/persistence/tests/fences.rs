//! Fences, which confirm sent and deferred writes.

use super::bench::{Bench, command, publish};
use crate::{error::ErrorKind, persistence::simulated::Settings, store::Durability};

fn pipelined() -> Bench {
    let settings = Settings {
        durability: Durability::Pipelined,
        ..Settings::default()
    };
    let bench = Bench::new(&settings, &[]);
    bench.trace();
    bench
}

/// The numbers, from 1, of the exchanges that waited.
fn confirmed(bench: &Bench) -> Vec<usize> {
    let trace = bench.trace();
    let confirmed = trace
        .iter()
        .zip(1..)
        .filter(|(line, _)| line.starts_with("confirm"));
    confirmed.map(|(_, number)| number).collect()
}

#[test]
fn every_256th_send_is_confirmed() {
    let mut bench = pipelined();
    for number in 1..=600 {
        bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
    }
    assert_eq!(confirmed(&bench), [256, 512]);
}

#[test]
fn sends_of_256_kib_are_confirmed() {
    let mut bench = pipelined();
    let value = command(1, 1, &vec![0; 64 * 1024 - 22]);
    assert_eq!(value.len(), 64 * 1024);
    for number in 1..=9 {
        bench.put(&format!("c-{number}"), &value);
    }
    assert_eq!(confirmed(&bench), [4, 8]);
}

/// The calls of a message in each direction at QoS 2, with `Confirmed`.
fn trace_of_qos_2(replicas: u32) -> Vec<String> {
    let settings = Settings {
        replicas,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.put("c-1", &command(1, 1, b"x"));
    bench.get("c-1");
    bench.remove("c-1");
    bench.trace();
    bench.put("s-1", &publish(1, 2, b"x"));
    bench.put("r-1", &publish(1, 2, b"y"));
    bench.remove("r-1");
    bench.trace()
}

#[test]
fn each_send_is_confirmed_with_replicas() {
    let waits = |trace: Vec<String>| -> Vec<bool> {
        let waits = trace.iter().map(|line| line.starts_with("confirm"));
        waits.collect()
    };
    assert_eq!(waits(trace_of_qos_2(0)), [false, true, false]);
    assert_eq!(waits(trace_of_qos_2(1)), [true, true, true]);
}

#[test]
fn fence_takes_deferred_removes_along() {
    let mut bench = pipelined();
    bench.put("s-1", &publish(1, 1, b"x"));
    bench.remove("s-1");
    // With `Pipelined`, too, a remove goes before a new message, which may reuse its packet id.
    bench.put("c-1", &command(1, 1, b"x"));
    assert_eq!(bench.trace(), ["send s-1", "send -s-1 | c-1"]);
}

#[test]
fn lost_unanswered_write_is_repeated() {
    let mut bench = pipelined();
    bench.put("c-1", &command(1, 1, b"x"));
    bench.put("c-2", &command(1, 1, b"x"));
    bench.content().records.remove("c-1");
    bench.run(std::time::Duration::from_secs(1));
    let error = bench.persistence.health().last_error().expect("an outage");
    assert_eq!(error.kind(), ErrorKind::Unconfirmed);
    assert_eq!(bench.stored_keys(), ["c-1", "c-2"]);
}

/// Sends this many messages at QoS 1 whose PUBLISH is deferred; returns the number of the first
/// that was not.
fn first_flush(bench: &mut Bench, count: u16, payload: &[u8]) -> Option<u16> {
    for number in 1..=count {
        let key = format!("c-{number}");
        bench.put(&key, &command(number.into(), 1, payload));
        bench.trace();
        bench.send(&key, &format!("s-{number}"), &publish(number, 1, payload));
        if !bench.trace().is_empty() {
            return Some(number);
        }
    }
    None
}

#[test]
fn deferred_writes_are_flushed_at_their_limits() {
    // A PUBLISH and the remove of its command are two of 1,024 writes.
    let mut bench = Bench::new(&Settings::default(), &[]);
    assert_eq!(first_flush(&mut bench, 2_000, b"x"), Some(512));
    // 256 KiB, with 7 bytes in front of each payload and a header of 4.
    let mut bench = Bench::new(&Settings::default(), &[]);
    assert_eq!(
        first_flush(&mut bench, 2_000, &vec![0; 32 * 1024 - 9]),
        Some(8)
    );
    assert_eq!(publish(1, 1, &vec![0; 32 * 1024 - 9]).len(), 32 * 1024);
}

#[test]
fn deferred_removes_are_flushed_at_their_limit() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    for number in 1..=1_100_u16 {
        bench.put(&format!("s-{number}"), &publish(number, 2, b"x"));
    }
    bench.trace();
    for number in 1..=1_100_u16 {
        bench.remove(&format!("s-{number}"));
        let is_flushed = !bench.trace().is_empty();
        assert_eq!(is_flushed, number == 1_024, "{number}");
    }
}

#[test]
fn fence_counts_from_last_confirmation() {
    let mut bench = pipelined();
    for number in 1..=255 {
        bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
    }
    bench
        .persistence
        .health()
        .flush(std::time::Duration::ZERO)
        .expect("flushes");
    bench.trace();
    for number in 256..=511 {
        bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
    }
    assert_eq!(confirmed(&bench), [256]);
}
