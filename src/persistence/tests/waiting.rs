//! The messages that wait, their limits, and the warning before one is reached.

use std::time::Duration;

use super::bench::{Bench, Content, SECOND, command, publish};
use crate::{
    error::ErrorKind,
    persistence::simulated::Settings,
    store::{HealthSnapshot, StoreEvent},
};

fn bench(records: &[(&str, Vec<u8>)]) -> Bench {
    let settings = Settings {
        max_buffered_messages: Some(5),
        byte_budget: Some(1000),
        ..Settings::default()
    };
    Bench::new(&settings, records)
}

fn snapshot(bench: &Bench) -> HealthSnapshot {
    bench.persistence.health().snapshot()
}

fn warnings(bench: &Bench) -> Vec<(usize, usize)> {
    let events = bench.events();
    let warnings = events.iter().filter_map(|event| match event {
        StoreEvent::NearlyFull {
            queued_messages,
            waiting_bytes,
        } => Some((*queued_messages, *waiting_bytes)),
        _ => None,
    });
    warnings.collect()
}

#[test]
fn message_waits_until_it_is_acknowledged() {
    let mut bench = bench(&[]);
    bench.run(100 * SECOND);
    let value = command(1, 1, b"x");
    bench.put("c-1", &value);
    let waiting = snapshot(&bench);
    assert_eq!((waiting.waiting_messages, waiting.queued_messages), (1, 1));
    assert_eq!(waiting.waiting_bytes, value.len());
    assert_eq!(waiting.limit_messages, Some(5));
    assert_eq!(waiting.limit_bytes, Some(1000));
    bench.run(10 * SECOND);
    let packet = publish(1, 1, b"x");
    bench.send("c-1", "s-1", &packet);
    bench.run(SECOND);
    let waiting = snapshot(&bench);
    assert_eq!((waiting.waiting_messages, waiting.queued_messages), (1, 0));
    assert_eq!(waiting.waiting_bytes, packet.len());
    // It has been waiting since it was published, not since it was sent.
    let age = waiting.oldest_waiting.expect("one waits");
    assert!((10 * SECOND..=12 * SECOND).contains(&age), "{age:?}");
    bench.remove("s-1");
    let waiting = snapshot(&bench);
    assert_eq!((waiting.waiting_messages, waiting.waiting_bytes), (0, 0));
    assert_eq!(waiting.oldest_waiting, None);
}

#[test]
fn restored_messages_wait_and_subscriptions_do_not() {
    let subscribe = [8_i32.to_ne_bytes(), [0; 4]].concat();
    let mut bench = bench(&[
        ("c-1", command(1, 1, b"x")),
        ("s-2", publish(2, 1, b"x")),
        ("r-3", publish(3, 2, b"x")),
    ]);
    bench.put("c-2", &subscribe);
    let waiting = snapshot(&bench);
    assert_eq!((waiting.waiting_messages, waiting.queued_messages), (2, 1));
}

#[test]
fn warning_comes_at_four_fifths_of_buffer() {
    let mut bench = bench(&[]);
    for number in 1..=3 {
        bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
    }
    bench.run(2 * SECOND);
    assert_eq!(warnings(&bench), []);
    bench.put("c-4", &command(4, 1, b"x"));
    bench.run(2 * SECOND);
    let bytes = 4 * command(1, 1, b"x").len();
    assert_eq!(warnings(&bench), [(4, bytes)]);
    bench.put("c-5", &command(5, 1, b"x"));
    bench.run(2 * SECOND);
    assert!(warnings(&bench).len() <= 1);
}

#[test]
fn message_beyond_limit_finds_no_room() {
    let mut bench = bench(&[]);
    let health = bench.persistence.health();
    assert!(health.check_room(1000).is_ok());
    let error = health.check_room(1001).expect_err("exceeds the budget");
    assert_eq!(error.kind(), ErrorKind::Full);
    for number in 1..=5 {
        bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
    }
    let error = health.check_room(1).expect_err("the buffer is full");
    let shown = error.to_string();
    assert!(
        shown.contains("5 messages wait (max_buffered_messages: 5)"),
        "{shown}"
    );
    // A closed persistence has nothing that waits.
    drop(bench);
    assert!(health.check_room(1).is_ok());
}

#[test]
fn age_counts_from_open_on_long_running_device() {
    const UPTIME: Duration = Duration::from_secs(100_000);
    let down = |is_down| Content {
        is_down,
        ..Content::new(&[("c-1", command(1, 1, b"x"))])
    };
    let settings = Settings {
        open_without_store: true,
        ..Settings::default()
    };
    for content in [down(None), down(Some(ErrorKind::Connection))] {
        let is_down = content.is_down.is_some();
        let mut bench = Bench::opened_at(&settings, content, UPTIME);
        if is_down {
            bench.put("c-1", &command(1, 1, b"y"));
        }
        bench.run(3 * SECOND);
        let age = snapshot(&bench).oldest_waiting.expect("one waits");
        assert!(age <= 4 * SECOND, "{age:?}");
    }
}
