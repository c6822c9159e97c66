//! Waits of calls for a store that is away, and the answers of a flush.

use std::time::Duration;

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, SECOND, command, publish};
use crate::{
    error::{Error, ErrorKind},
    persistence::{
        schedule::{TICK, Wait},
        shared::WorkerState,
        simulated::Settings,
    },
    store::{Durability, HealthState, StoreEvent},
};

const CALL_TIMEOUT: Duration = Duration::from_millis(250);

/// A persistence without a cache, over two commands that Paho has listed.
fn uncached() -> Bench {
    let settings = Settings {
        cache_limit: 0,
        ..Settings::default()
    };
    let records = [("c-1", command(1, 1, b"x")), ("c-2", command(2, 1, b"x"))];
    let mut bench = Bench::new(&settings, &records);
    bench.persistence.keys().expect("listed");
    bench
}

/// The time that passes during a call.
fn waited<T>(bench: &mut Bench, call: impl FnOnce(&mut Bench) -> T) -> (T, Duration) {
    let before = bench.now();
    let result = call(bench);
    let waited = bench.now().saturating_sub(before);
    (result, waited)
}

fn try_get(bench: &mut Bench, key: &str) -> Result<Vec<u8>, ErrorKind> {
    let result = bench.persistence.get(key);
    result.map_err(|error| Error::in_mqtt(&error).expect("ours").kind())
}

#[test]
fn one_call_waits_per_outage() {
    let mut bench = uncached();
    for _ in 0..2 {
        bench.content().is_down = Some(ErrorKind::Connection);
        let put = waited(&mut bench, |bench| bench.put("s-9", &publish(9, 2, b"x")));
        assert_eq!(put.1, Duration::ZERO);
        let missing = waited(&mut bench, |bench| try_get(bench, "c-9"));
        assert_eq!(missing, (Err(ErrorKind::NotFound), Duration::ZERO));
        let first = waited(&mut bench, |bench| try_get(bench, "c-1"));
        assert_eq!(first, (Err(ErrorKind::Connection), CALL_TIMEOUT));
        let second = waited(&mut bench, |bench| try_get(bench, "c-1"));
        assert_eq!(second, (Err(ErrorKind::Connection), Duration::ZERO));
        bench.content().is_down = None;
        bench.run(3 * SECOND);
        assert!(bench.is_up());
        bench.remove("s-9");
    }
}

#[test]
fn call_that_timed_out_has_waited() {
    let mut bench = uncached();
    bench.content().is_down = Some(ErrorKind::Timeout);
    let first = waited(&mut bench, |bench| try_get(bench, "c-1"));
    assert_eq!(first, (Err(ErrorKind::Timeout), Duration::ZERO));
}

#[test]
fn read_that_timed_out_in_full_store_has_waited() {
    for kind in [ErrorKind::OutOfMemory, ErrorKind::Misconf] {
        let mut bench = uncached();
        bench.content().fails_writes = Some(kind);
        bench.put("s-9", &publish(9, 2, b"x"));
        bench.put("c-9", &command(9, 2, b"x"));
        assert!(!bench.is_up());
        bench.content().refuses_reads = Some(ErrorKind::Timeout);
        for _ in 0..2 {
            let read = waited(&mut bench, |bench| try_get(bench, "c-1"));
            assert_eq!(read, (Err(ErrorKind::Timeout), Duration::ZERO), "{kind}");
        }
    }
}

#[test]
fn waiting_call_gets_value_of_recovered_store() {
    let mut bench = uncached();
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("s-9", &publish(9, 2, b"x"));
    // The worker recovers while the call waits.
    bench.content().is_down = None;
    let (value, waited) = waited(&mut bench, |bench| try_get(bench, "c-1"));
    assert_eq!(value, Ok(command(1, 1, b"x")));
    assert!(waited < CALL_TIMEOUT, "{waited:?}");
    assert!(bench.is_up());
}

#[test]
fn readable_store_is_waited_for_during_step() {
    let mut bench = uncached();
    bench.content().fails_writes = Some(ErrorKind::OutOfMemory);
    bench.put("s-9", &publish(9, 2, b"x"));
    bench.run(TICK * 2);
    let mut values = Vec::new();
    while values.is_empty() {
        bench.turn_with(|bench| {
            // The worker has the store, so the value cannot be read now.
            let (value, waited) = waited(bench, |bench| try_get(bench, "c-1"));
            values.push((value.is_ok(), waited));
        });
    }
    assert_eq!(values[0], (false, CALL_TIMEOUT));
    // No call has waited for the end of the outage yet, and the store is back: it is read at once.
    let after = waited(&mut bench, |bench| try_get(bench, "c-1"));
    assert_eq!(after, (Ok(command(1, 1, b"x")), Duration::ZERO));
}

#[test]
fn close_waits_once_per_outage() {
    for has_waited in [false, true] {
        let mut bench = uncached();
        bench.content().is_down = Some(ErrorKind::Connection);
        bench.put("s-9", &publish(9, 2, b"x"));
        if has_waited {
            try_get(&mut bench, "c-1").expect_err("is down");
        }
        let (closed, waited) = waited(&mut bench, |bench| bench.persistence.close());
        assert!(closed.is_err());
        assert_eq!(
            waited,
            if has_waited {
                Duration::ZERO
            } else {
                CALL_TIMEOUT
            }
        );
        bench.persistence.close().expect("is closed");
    }
}

#[test]
fn close_during_step_waits_for_store() {
    let mut bench = uncached();
    bench.content().is_down = Some(ErrorKind::Timeout);
    bench.put("s-9", &publish(9, 2, b"x"));
    let mut times = Vec::new();
    while times.is_empty() {
        bench.turn_with(|bench| {
            let (closed, waited) = waited(bench, |bench| bench.persistence.close());
            times.push((closed.is_err(), waited));
            let opened = bench.persistence.open("device", "broker");
            if times.len() == 1 {
                let error = opened.expect_err("the worker has the store");
                assert_eq!(
                    Error::in_mqtt(&error).expect("ours").kind(),
                    ErrorKind::Timeout
                );
            }
        });
    }
    assert_eq!(times[0], (true, CALL_TIMEOUT));
    bench.content().is_down = None;
    bench.persistence.open("device", "broker").expect("opens");
}

#[test]
fn flush_confirms_what_is_deferred() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.put("s-1", &publish(1, 1, b"x"));
    bench.remove("s-1");
    bench.trace();
    bench.persistence.health().flush(SECOND).expect("flushes");
    assert_eq!(bench.trace(), ["confirm -s-1", "check"]);
    assert_eq!(bench.now(), Duration::ZERO);
    bench.persistence.health().flush(SECOND).expect("flushes");
    assert_eq!(bench.trace(), ["check"]);
}

#[test]
fn flush_in_outage_waits_for_its_timeout() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    let health = bench.persistence.health();
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("c-1", &command(1, 1, b"x"));
    let (flushed, time) = waited(&mut bench, |_| health.flush(3 * SECOND));
    let error = flushed.expect_err("is down");
    assert_eq!((error.kind(), time), (ErrorKind::Connection, 3 * SECOND));
    assert_eq!(
        error.to_string(),
        "cannot flush the store: the store is unavailable; pending writes are kept in memory"
    );
    assert_eq!(
        health.last_error().map(|error| error.kind()),
        Some(ErrorKind::Connection)
    );
    bench.content().is_down = None;
    let (flushed, time) = waited(&mut bench, |_| health.flush(30 * SECOND));
    flushed.expect("recovers");
    assert!(time < 3 * SECOND, "{time:?}");
    assert_eq!(bench.stored_keys(), ["c-1"]);
}

#[test]
fn flush_names_refusal_of_record() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().largest_value = Some(100);
    bench.put("c-1", &command(1, 1, &[0; 200]));
    bench.run(SECOND);
    let health = bench.persistence.health();
    let (flushed, time) = waited(&mut bench, |_| health.flush(SECOND));
    let error = flushed.expect_err("is refused");
    assert_eq!((error.kind(), time), (ErrorKind::OutOfMemory, SECOND));
    assert_eq!(
        error.to_string(),
        "cannot flush the store: the store refuses some records; they are kept in memory"
    );
    let closed = bench.persistence.close().expect_err("is refused");
    assert_eq!(
        Error::in_mqtt(&closed).expect("ours").kind(),
        ErrorKind::OutOfMemory
    );
}

#[test]
fn flush_notices_loss_of_confirmed_record() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.put("c-1", &command(1, 1, b"x"));
    bench.content().records.clear();
    bench.persistence.health().flush(SECOND).expect("flushes");
    assert_eq!(bench.stored_keys(), ["c-1"]);
}

#[test]
fn pending_write_is_confirmed_at_next_tick() {
    let settings = Settings {
        durability: Durability::Pipelined,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.trace();
    bench.put("c-1", &command(1, 1, b"x"));
    let health = bench.persistence.health();
    let snapshot = health.snapshot();
    assert_eq!(
        (snapshot.unconfirmed_records, snapshot.held_records),
        (1, 0)
    );
    assert_eq!(snapshot.unconfirmed_bytes, command(1, 1, b"x").len());
    bench.run(TICK.saturating_sub(Duration::from_nanos(1)));
    assert_eq!(bench.trace(), ["send c-1"]);
    bench.run(Duration::from_nanos(2));
    assert_eq!(bench.trace(), ["confirm"]);
    assert_eq!(health.snapshot().unconfirmed_records, 0);
    let confirmed = health.snapshot().last_confirmed.expect("confirmed");
    let since_open = confirmed
        .duration_since(std::time::UNIX_EPOCH)
        .expect("later");
    assert_eq!(since_open, 1_700_000_000 * SECOND + TICK);
}

#[test]
fn idle_store_is_checked_each_second() {
    let bench = Bench::new(&Settings::default(), &[]);
    bench.trace();
    bench.run(Duration::from_millis(5_500));
    assert_eq!(bench.trace(), ["check"; 5]);
    assert!(bench.persistence.health().last_error().is_none());
}

#[test]
fn status_shows_what_is_held() {
    let settings = Settings {
        buffer_warn_bytes: 60,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    let value = command(1, 1, b"12345678");
    assert_eq!(value.len(), 30);
    bench.put("c-1", &value);
    bench.run(SECOND);
    let warnings = |bench: &Bench| -> Vec<usize> {
        let events = bench.events();
        let bytes = events.iter().filter_map(|event| match event {
            StoreEvent::BufferWarning { bytes } => Some(*bytes),
            _ => None,
        });
        bytes.collect()
    };
    assert!(warnings(&bench).is_empty());
    bench.put("c-2", &value);
    bench.run(SECOND);
    bench.put("c-3", &value);
    bench.run(4 * SECOND);
    assert_eq!(warnings(&bench), [60]);
    let held = |bench: &Bench| {
        let events = bench.events();
        let last = events.iter().rev().find_map(|event| match event {
            StoreEvent::Status(status) => Some(*status),
            _ => None,
        });
        let last = last.expect("a status");
        (
            last.up,
            last.held_records,
            last.held_bytes,
            last.unconfirmed_records,
        )
    };
    assert_eq!(held(&bench), (false, 3, 90, 0));
    let statuses = |bench: &Bench| {
        let events = bench.events();
        events
            .iter()
            .filter(|event| matches!(event, StoreEvent::Status(_)))
            .count()
    };
    let before = statuses(&bench);
    bench.run(10 * SECOND);
    // Twice per second, less what an attempt puts off.
    let reported = statuses(&bench) - before;
    assert!((15..=20).contains(&reported), "{reported}");
    bench.content().is_down = None;
    bench.run(3 * SECOND);
    assert_eq!(held(&bench), (true, 0, 0, 0));
    bench.content().is_down = Some(ErrorKind::Connection);
    for key in ["c-4", "c-5"] {
        bench.put(key, &value);
    }
    bench.run(SECOND);
    assert_eq!(warnings(&bench), [60, 60]);
}

#[test]
fn attempts_back_off_to_two_seconds() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("c-1", &command(1, 1, b"x"));
    let mut times = Vec::new();
    let mut attempts = bench.content().attempts;
    while times.len() < 9 {
        bench.turn_with(|_| ());
        let now = bench.content().attempts;
        if now > attempts {
            times.push(bench.now().as_millis());
            attempts = now;
        }
    }
    let waits: Vec<u128> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(times[0], 0);
    assert_eq!(waits, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
}

#[test]
fn call_in_outage_makes_no_exchange() {
    let mut bench = uncached();
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("s-9", &publish(9, 2, b"x"));
    bench.run(SECOND);
    bench.content().is_down = None;
    bench.trace();
    bench.put("s-10", &publish(10, 2, b"x"));
    bench.put("c-3", &command(11, 2, b"x"));
    bench.remove("c-3");
    assert!(bench.trace().is_empty());
    // Neither does the call in which the outage begins, after its first failure.
    let mut bench = uncached();
    bench.content().fails_writes = Some(ErrorKind::Connection);
    bench.trace();
    bench.persistence.clear().expect("kept in memory");
    assert_eq!(bench.trace(), ["send -c-1 -c-2"]);
}

#[test]
fn call_wakes_worker_that_would_be_late() {
    let at = 3 * SECOND;
    let settings = Settings {
        durability: Durability::Pipelined,
        ..Settings::default()
    };
    // Whether the store is down before the call and in it, what the worker does, and whether the
    // call writes.
    for (was_down, is_down, worker, writes, is_woken) in [
        (
            false,
            false,
            WorkerState::Waiting(Wait::Idle(at)),
            true,
            true,
        ),
        (
            false,
            false,
            WorkerState::Waiting(Wait::Idle(at)),
            false,
            false,
        ),
        (
            false,
            false,
            WorkerState::Waiting(Wait::Ticking(at)),
            true,
            false,
        ),
        (
            false,
            true,
            WorkerState::Waiting(Wait::Ticking(at)),
            true,
            true,
        ),
        (
            false,
            true,
            WorkerState::Waiting(Wait::Idle(at)),
            true,
            true,
        ),
        (
            true,
            true,
            WorkerState::Waiting(Wait::Backoff(at)),
            true,
            false,
        ),
        (false, false, WorkerState::Absent, true, false),
    ] {
        let mut bench = Bench::new(&settings, &[]);
        if was_down {
            bench.content().is_down = Some(ErrorKind::Connection);
            bench.put("s-9", &publish(9, 2, b"x"));
        }
        bench.content().is_down = is_down.then_some(ErrorKind::Connection);
        bench.persistence.shared().lock().worker = worker;
        if writes {
            bench.put("c-1", &command(1, 1, b"x"));
        } else {
            bench.persistence.keys().expect("listed");
        }
        let expected = if is_woken { WorkerState::Busy } else { worker };
        assert_eq!(
            bench.persistence.shared().lock().worker,
            expected,
            "{worker:?}"
        );
    }
}

#[test]
fn closed_persistence_is_not_reported_as_down() {
    let mut bench = uncached();
    let health = bench.persistence.health();
    let state = || health.snapshot().state();
    assert_eq!(state(), HealthState::Up);
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("s-9", &publish(9, 2, b"x"));
    assert_eq!(state(), HealthState::Down);
    bench.content().is_down = None;
    bench.run(3 * SECOND);
    assert_eq!(state(), HealthState::Up);
    bench.persistence.close().expect("closes");
    assert_eq!(state(), HealthState::Closed);
    assert_eq!(state().to_string(), "closed");
}
