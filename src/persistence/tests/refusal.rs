//! A store that refuses one record and takes others.

use std::time::Duration;

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, SECOND, command, publish};
use crate::{
    error::{Error, ErrorKind},
    persistence::simulated::Settings,
    store::{Durability, StoreEvent},
};

fn small(number: u8) -> Vec<u8> {
    command(number.into(), 1, &[number])
}

fn large() -> Vec<u8> {
    command(100, 1, &[0; 8_000])
}

#[test]
fn refused_record_does_not_hold_up_others() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().largest_value = Some(1_000);
    bench.put("c-1", &large());
    for number in 2..=11 {
        bench.put(&format!("c-{number}"), &small(number));
    }
    bench.run(3 * SECOND);
    assert_eq!(bench.stored().len(), 10, "{:?}", bench.stored_keys());
    let health = bench.persistence.health().snapshot();
    assert!(health.up);
    assert_eq!((health.held_records, health.held_bytes), (1, large().len()));
    assert_eq!(health.unconfirmed_records, 0);
    let refused = |event: &StoreEvent| matches!(event, StoreEvent::Refused { records: 1, error, .. } if error.kind() == ErrorKind::OutOfMemory);
    assert!(bench.events().iter().any(refused), "{:?}", bench.events());
    // A record that comes now is stored at once.
    bench.put("c-12", &small(12));
    assert!(bench.stored().contains_key("c-12"));
    bench.content().largest_value = None;
    bench.run(120 * SECOND);
    assert_eq!(bench.stored()["c-1"], large());
    assert_eq!(bench.persistence.health().snapshot().held_records, 0);
}

#[test]
fn removing_refused_record_leaves_nothing() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().largest_value = Some(1_000);
    bench.put("c-1", &large());
    bench.run(3 * SECOND);
    assert_eq!(bench.get("c-1"), large());
    bench.remove("c-1");
    bench.remove("c-1");
    bench.put("c-2", &small(2));
    bench.send("c-2", "s-2", &publish(2, 1, &[2]));
    bench.run(120 * SECOND);
    assert_eq!(bench.stored_keys(), ["s-2"]);
    let health = bench.persistence.health().snapshot();
    assert!(health.up);
    assert_eq!((health.held_records, health.unconfirmed_records), (0, 0));
}

#[test]
fn publish_of_refused_command_is_confirmed() {
    for qos in [1, 2] {
        let mut bench = Bench::new(&Settings::default(), &[]);
        bench.content().largest_value = Some(1_000);
        bench.put("c-1", &command(1, qos.into(), &[0; 8_000]));
        bench.run(3 * SECOND);
        assert!(bench.is_up() && bench.stored_keys().is_empty());
        bench.content().largest_value = None;
        bench.trace();
        // Until now no crash would find the message.
        bench.send("c-1", "s-1", &publish(1, qos, &[0; 8_000]));
        assert_eq!(bench.trace(), ["confirm s-1 -c-1"], "{qos}");
    }
}

#[test]
fn refused_relocation_keeps_unread_publish() {
    for qos in [1, 2] {
        let unread = publish(7, 2, &[0; 8_000]);
        let mut bench = Bench::new(&Settings::default(), &[("s-7", unread.clone())]);
        bench.persistence.keys().expect("listed");
        bench.put("c-1", &command(7, qos, b"new"));
        bench.content().largest_value = Some(1_000);
        let packet = publish(7, u8::try_from(qos).expect("small"), b"new");
        bench.send("c-1", "s-7", &packet);
        bench.put("q-1", &super::bench::queued(1));
        bench.run(3 * SECOND);
        assert!(bench.is_up());
        // Its number stays taken until the store has the copy under another one.
        assert_eq!(bench.stored_keys(), ["c-1", "q-1", "s-7"]);
        assert_eq!(bench.stored()["s-7"], unread);
        // The broker has acknowledged the new message.
        bench.remove("s-7");
        bench.put("q-2", &super::bench::queued(2));
        bench.run(3 * SECOND);
        assert_eq!(bench.stored()["s-7"], unread);
        bench.content().largest_value = None;
        bench.run(120 * SECOND);
        assert_eq!(bench.stored_keys(), ["q-1", "q-2", "s-65535"]);
    }
}

#[test]
fn refused_bytes_raise_buffer_warning() {
    let settings = Settings {
        buffer_warn_bytes: large().len(),
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.content().largest_value = Some(1_000);
    bench.put("c-1", &large());
    bench.run(3 * SECOND);
    assert!(bench.is_up());
    let events = bench.events();
    let bytes = events.iter().filter_map(|event| match event {
        StoreEvent::BufferWarning { bytes } => Some(*bytes),
        _ => None,
    });
    assert_eq!(bytes.collect::<Vec<_>>(), [large().len()]);
}

#[test]
fn close_names_cause_and_consequence() {
    let closed = |fault: fn(&mut Content), calls: fn(&mut Bench)| {
        let mut bench = Bench::new(&Settings::default(), &[("c-9", small(9))]);
        fault(&mut bench.content());
        calls(&mut bench);
        let error = bench.persistence.close().expect_err("not flushed");
        Error::in_mqtt(&error).expect("ours").to_string()
    };
    assert_eq!(
        closed(
            |content| content.breaks_above = Some(1_000),
            |bench| {
                bench.put("c-1", &large());
                bench.run(5 * SECOND);
                assert!(bench.is_up());
            }
        ),
        "cannot write 1 pending record before closing: the store refuses it, so it is lost with \
         this process"
    );
    let is_down = |content: &mut Content| content.is_down = Some(ErrorKind::Connection);
    // Read and removed, as a command that is sent.
    let remove = |bench: &mut Bench| {
        bench.get("c-9");
        bench.remove("c-9");
    };
    let flush = |bench: &mut Bench| {
        let flushed = bench.persistence.health().flush(Duration::ZERO);
        flushed.expect_err("is down");
    };
    assert_eq!(
        closed(is_down, |bench| bench.put("c-1", &small(1))),
        "cannot write 1 pending record before closing: the store is unavailable, so it is lost with \
         this process"
    );
    assert_eq!(
        closed(is_down, remove),
        "cannot write the pending removes before closing: the store is unavailable, so acknowledged \
         messages may be sent again"
    );
    assert_eq!(
        closed(is_down, flush),
        "cannot check the store before closing: the store is unavailable; no write is pending"
    );
    let is_full = |content: &mut Content| {
        content.is_full = true;
        content.fails_writes = Some(ErrorKind::OutOfMemory);
    };
    assert_eq!(
        closed(is_full, |bench| {
            bench.put("c-1", &small(1));
            bench.put("c-2", &small(2));
        }),
        "cannot write 2 pending records before closing: the store refuses them, so they are lost \
         with this process"
    );
    assert_eq!(
        closed(is_full, remove),
        "cannot write the pending removes before closing: the store refuses them, so acknowledged \
         messages may be sent again"
    );
    assert_eq!(
        closed(is_full, flush),
        "cannot check the store before closing: the store refuses writes; no write is pending"
    );
}

#[test]
fn full_store_stays_down_until_it_has_room() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().largest_value = Some(0);
    bench.content().is_full = true;
    for number in 1..=20 {
        bench.put(&format!("c-{number}"), &small(number));
    }
    bench.run(5 * SECOND);
    assert!(!bench.is_up());
    assert!(bench.stored().is_empty());
    bench.content().largest_value = None;
    bench.content().is_full = false;
    bench.run(5 * SECOND);
    assert!(bench.is_up());
    assert_eq!(bench.stored().len(), 20);
}

#[test]
fn record_that_breaks_connection_is_left_behind() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().breaks_above = Some(1_000);
    bench.put("c-1", &large());
    for number in 2..=11 {
        bench.put(&format!("c-{number}"), &small(number));
    }
    bench.run(30 * SECOND);
    assert_eq!(bench.stored().len(), 10, "{:?}", bench.stored_keys());
    assert!(bench.is_up());
    assert_eq!(bench.persistence.health().snapshot().held_records, 1);
}

#[test]
fn recovery_writes_little_while_calls_wait() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    let value = command(1, 1, &[0; 10_000]);
    for number in 1..=300 {
        bench.put(&format!("c-{number}"), &value);
    }
    bench.run(SECOND);
    bench.content().is_down = None;
    let mut number = 301;
    while !bench.is_up() {
        bench.turn_with(|bench| {
            for _ in 0..10 {
                if number <= 600 {
                    bench.put(&format!("c-{number}"), &value);
                    number += 1;
                }
            }
        });
    }
    assert_eq!(bench.stored().len(), number - 1);
    let largest = bench.content().largest_confirm;
    assert!(largest <= 256 * 1024, "{largest} bytes");
}

/// Writes one record into a full store and kills the program before the next tick.
fn refused_and_killed(durability: Durability) -> (bool, Vec<String>) {
    let settings = Settings {
        durability,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.content().largest_value = Some(0);
    bench.content().is_full = true;
    bench.put("c-1", &small(1));
    (bench.is_up(), bench.crash().stored_keys())
}

#[test]
fn refused_pipelined_write_dies_unseen_with_program() {
    // Nothing has answered yet, so nobody knows.
    let (is_up, stored) = refused_and_killed(Durability::Pipelined);
    assert!(is_up && stored.is_empty());
    let (is_up, stored) = refused_and_killed(Durability::Confirmed);
    assert!(!is_up && stored.is_empty());
}

#[test]
fn refused_record_holds_last_confirmation() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.content().largest_value = Some(1_000);
    bench.put("c-1", &large());
    bench.run(3 * SECOND);
    let last_confirmed = |bench: &Bench| bench.persistence.health().snapshot().last_confirmed;
    let before = last_confirmed(&bench);
    bench.run(10 * SECOND);
    assert_eq!(last_confirmed(&bench), before);
    bench.put("c-2", &small(2));
    assert!(last_confirmed(&bench) > before);
}
