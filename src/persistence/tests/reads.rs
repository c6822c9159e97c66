//! Reads from the store, their batches, and the values that stay in memory.

use std::time::Duration;

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, SECOND, command, publish, queued};
use crate::{
    error::{Error, ErrorKind},
    persistence::simulated::Settings,
    store::Durability,
};

fn small_cache() -> Settings {
    Settings {
        cache_limit: 0,
        ..Settings::default()
    }
}

fn commands(numbers: impl IntoIterator<Item = i32>) -> Content {
    let mut content = Content::default();
    for number in numbers {
        let value = command(number, 1, &number.to_ne_bytes());
        content.records.insert(format!("c-{number}"), value);
    }
    content
}

/// A persistence that caches nothing, over these commands, and what Paho has listed.
fn opened(content: Content) -> Bench {
    let mut bench = Bench::with_content(&small_cache(), content);
    bench.persistence.keys().expect("listed");
    bench.content().take_trace();
    bench
}

#[test]
fn restore_reads_ahead_in_order_of_list() {
    let mut bench = opened(commands([1, 2, 3, 600, 601]));
    bench.get("c-601");
    assert_eq!(bench.trace(), ["read c-601 c-600"]);
    bench.get("c-600");
    assert!(bench.trace().is_empty());
    bench.get("c-3");
    assert_eq!(bench.trace(), ["read c-3 c-2 c-1"]);
    bench.get("c-2");
    bench.get("c-1");
    assert!(bench.trace().is_empty());
}

#[test]
fn sending_reads_ahead_in_order_of_sequence() {
    let mut bench = opened(commands([1, 2, 3]));
    bench.get("c-1");
    assert_eq!(bench.trace(), ["read c-1"]);
    bench.get("c-2");
    assert_eq!(bench.trace(), ["read c-2 c-3"]);
    bench.get("c-3");
    assert!(bench.trace().is_empty());
    // Read once, it is in the store only.
    bench.get("c-3");
    assert_eq!(bench.trace(), ["read c-3 c-2 c-1"]);
}

#[test]
fn read_after_other_kind_goes_in_order_of_kind() {
    let mut content = commands([1, 2, 3]);
    content
        .records
        .insert("s-9002".to_owned(), publish(9002, 2, b"x"));
    content
        .records
        .insert("s-9001".to_owned(), publish(9001, 2, b"x"));
    let mut bench = opened(content);
    bench.get("s-9002");
    bench.get("c-2");
    bench.get("s-9002");
    assert_eq!(
        bench.trace(),
        ["read s-9002 s-9001", "read c-2 c-3", "read s-9002 s-9001"]
    );
}

#[test]
fn next_batch_is_prefetched_in_sequential_read() {
    let mut bench = opened(commands(1..=1_300));
    for number in (1..=1_300).rev() {
        assert_eq!(
            bench.get(&format!("c-{number}")),
            command(number, 1, &number.to_ne_bytes())
        );
    }
    let trace = bench.trace();
    let shape: Vec<(&str, usize)> = trace
        .iter()
        .map(|line| {
            let mut words = line.split(' ');
            (words.next().expect("a verb"), words.count())
        })
        .collect();
    assert_eq!(
        shape,
        [
            ("read", 512),
            ("read", 512),
            ("prefetch", 276),
            ("read", 276)
        ]
    );
    assert_eq!(trace[2].replace("prefetch", "read"), trace[3]);
}

#[test]
fn write_between_reads_stops_prefetching() {
    let mut bench = opened(commands(1..=1_300));
    bench.get("c-1300");
    bench.put(
        "q-1",
        &crate::paho::Key::parse("q-1")
            .map(|_| queued(b'x'))
            .expect("a key"),
    );
    bench.get("c-700");
    let trace = bench.trace();
    assert!(
        trace.iter().all(|line| !line.starts_with("prefetch")),
        "{trace:?}"
    );
}

#[test]
fn failed_prefetch_is_outage() {
    let mut bench = opened(commands(1..=1_300));
    bench.get("c-1300");
    bench.content().breaks_prefetch = true;
    bench.get("c-700");
    assert!(!bench.is_up());
}

#[test]
fn slow_read_is_made_in_smaller_batches() {
    let mut content = commands(1..=150);
    content.largest_read = Some(40);
    let mut bench = Bench::with_content(&small_cache(), content);
    // At open each read of 64 values was halved.
    let sizes = |bench: &Bench| -> Vec<usize> {
        let trace = bench.trace();
        let reads = trace.iter().filter(|line| line.starts_with("read"));
        reads.map(|line| line.split(' ').count() - 1).collect()
    };
    assert_eq!(sizes(&bench), [64, 64, 32, 32, 64, 32, 32, 22]);
    let keys = bench.persistence.keys().expect("listed");
    assert_eq!(keys.len(), 150);
    bench.content().largest_read = None;
    for number in 1..=150 {
        assert_eq!(
            bench.get(&format!("c-{number}")),
            command(number, 1, &number.to_ne_bytes())
        );
    }
}

#[test]
fn value_too_slow_alone_fails_opening() {
    let mut content = commands(1..=3);
    content.largest_read = Some(0);
    let content = std::sync::Arc::new(std::sync::Mutex::new(content));
    let mut bench = Bench::closed(&small_cache(), content);
    let error = bench
        .persistence
        .open("device", "broker")
        .expect_err("times out");
    assert_eq!(
        Error::in_mqtt(&error).expect("ours").kind(),
        ErrorKind::Timeout
    );
    assert_eq!(bench.trace().last().map(String::as_str), Some("close"));
}

#[test]
fn value_is_readable_in_full_store_only() {
    for (kind, is_readable) in [
        (ErrorKind::OutOfMemory, true),
        (ErrorKind::Misconf, true),
        (ErrorKind::ReadOnly, false),
    ] {
        let mut bench = opened(commands([1, 2]));
        bench.content().fails_writes = Some(kind);
        bench.put("q-1", &queued(b'x'));
        assert!(!bench.is_up());
        let read = bench.persistence.get("c-1");
        assert_eq!(read.is_ok(), is_readable, "{kind:?}");
    }
}

#[test]
fn value_in_lost_store_is_unavailable() {
    let mut bench = opened(commands([1, 2]));
    bench.content().is_down = Some(ErrorKind::Connection);
    let error = bench.persistence.get("c-1").expect_err("is down");
    let error = Error::in_mqtt(&error).expect("ours");
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert_eq!(
        error.to_string(),
        "cannot read record c-1: its value is only in the store, which is unavailable"
    );
    assert!(std::error::Error::source(error).is_some());
}

#[test]
fn damaged_value_in_store_never_reaches_paho() {
    let mut bench = opened(commands([1, 2]));
    bench
        .content()
        .records
        .insert("c-1".to_owned(), b"damaged".to_vec());
    let error = bench.persistence.get("c-1").expect_err("damaged");
    assert_eq!(
        Error::in_mqtt(&error).expect("ours").kind(),
        ErrorKind::Lost
    );
    assert_eq!(bench.persistence.keys().expect("listed"), ["c-2"]);
}

#[test]
fn altered_value_in_store_never_reaches_paho() {
    let mut bench = opened(commands([1, 2, 3]));
    let altered = command(7, 1, b"other");
    for key in ["c-1", "c-2"] {
        let records = &mut bench.content().records;
        records.insert(key.to_owned(), altered.clone());
    }
    assert_eq!(bench.get("c-3"), command(3, 1, &3_i32.to_ne_bytes()));
    // One is read ahead, the other one alone.
    assert_eq!(bench.trace(), ["read c-3 c-2 c-1"]);
    for key in ["c-2", "c-1"] {
        let error = bench.persistence.get(key).expect_err("altered");
        let error = Error::in_mqtt(&error).expect("ours");
        assert_eq!(error.kind(), ErrorKind::Lost);
    }
    assert_eq!(bench.persistence.health().snapshot().lost_records, 2);
    // It is not Paho's, so it stays.
    assert_eq!(bench.stored()["c-1"], altered);
}

#[test]
fn publish_with_dup_flag_is_read_unaltered() {
    let sent = publish(9, 1, b"x");
    let mut bench = opened(Content::new(&[("s-9", sent.clone())]));
    let mut again = sent.clone();
    again[0] |= 0x08;
    bench
        .content()
        .records
        .insert("s-9".to_owned(), again.clone());
    assert_eq!(bench.get("s-9"), again);
}

#[test]
fn readable_record_is_not_lost_with_others() {
    let mut bench = opened(commands([1, 2]));
    bench.content().records.remove("c-2");
    // It checks the store, which begins an outage.
    let flushed = bench.persistence.health().flush(Duration::ZERO);
    assert_eq!(flushed.expect_err("one is lost").kind(), ErrorKind::Lost);
    bench.content().is_down = Some(ErrorKind::Connection);
    let error = bench.persistence.get("c-1").expect_err("not read now");
    let error = Error::in_mqtt(&error).expect("ours");
    assert_eq!(error.kind(), ErrorKind::Connection);
    bench.content().is_down = None;
    bench.run(3 * SECOND);
    bench.get("c-1");
}

#[test]
fn values_read_ahead_make_room_for_next() {
    let mut bench = opened(commands(1..=1_100));
    let one = command(1, 1, &[0; 4]).len();
    bench.get("c-1100");
    assert_eq!(bench.worker.cached_bytes(), 511 * one);
    bench.get("c-500");
    assert_eq!(bench.worker.cached_bytes(), 499 * one);
}

#[test]
fn last_put_stays_in_memory_until_next() {
    let mut bench = Bench::new(&small_cache(), &[]);
    let value = command(1, 1, b"first");
    bench.put("c-1", &value);
    assert_eq!(bench.worker.cached_bytes(), value.len());
    bench.content().take_trace();
    bench.put("c-2", &value);
    assert_eq!(bench.worker.cached_bytes(), value.len());
    assert_eq!(bench.get("c-2"), value);
    assert_eq!(bench.worker.cached_bytes(), 0);
    assert_eq!(bench.trace(), ["confirm c-2"]);
    assert_eq!(bench.get("c-1"), value);
    assert_eq!(bench.trace(), ["read c-1"]);
    bench.put("c-2", &value);
    bench.put("c-2", &value);
    assert_eq!(bench.worker.cached_bytes(), value.len());
}

#[test]
fn pending_value_stays_in_memory() {
    let settings = Settings {
        durability: Durability::Pipelined,
        ..small_cache()
    };
    let mut bench = Bench::new(&settings, &[]);
    let value = command(1, 1, b"first");
    for number in 1..=3 {
        bench.put(&format!("c-{number}"), &value);
    }
    assert_eq!(bench.trace()[1..], ["send c-1", "send c-2", "send c-3"]);
    assert_eq!(bench.worker.cached_bytes(), 3 * value.len());
    assert_eq!(bench.get("c-1"), value);
    assert_eq!(bench.worker.cached_bytes(), 3 * value.len());
    bench.run(crate::persistence::schedule::TICK * 2);
    assert_eq!(bench.worker.cached_bytes(), value.len());
}

#[test]
fn only_timeout_splits_read() {
    let mut content = commands(1..=3);
    content.refuses_reads = Some(ErrorKind::Misconf);
    let content = std::sync::Arc::new(std::sync::Mutex::new(content));
    let mut bench = Bench::closed(&small_cache(), content);
    bench
        .persistence
        .open("device", "broker")
        .expect_err("cannot be read");
    assert_eq!(bench.content().reads, 1);
    let mut bench = opened(commands(1..=3));
    bench.content().refuses_reads = Some(ErrorKind::Timeout);
    bench.persistence.get("c-3").expect_err("times out");
    assert_eq!(bench.trace(), ["read c-3 c-2 c-1"]);
}
