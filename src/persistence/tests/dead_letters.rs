//! Records that Paho drops are set aside in one step with their removal.

use std::time::Duration;

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, SECOND, command, publish, pubrel, queued};
use crate::{
    error::ErrorKind,
    persistence::{DeadLetter, dead_letters::mark_published_again, simulated::Settings},
    store::{Place, SetAsideLimits, SetAsideLoss, StoreEvent},
};

const TICKS: Duration = Duration::from_millis(300);

fn bench(records: &[(&str, Vec<u8>)]) -> Bench {
    let bench = Bench::new(&Settings::default(), records);
    bench.trace();
    bench
}

/// A client that connects to a broker without its session, and discards what is listed.
fn lose_session(bench: &mut Bench, keys: &[&str]) {
    bench.remove("c-0");
    bench.persistence.keys().expect("lists");
    for key in keys {
        bench.remove(key);
    }
}

fn listed(bench: &Bench) -> Vec<DeadLetter> {
    bench.persistence.dead_letters().list().expect("lists")
}

fn keys_and_reasons(letters: &[DeadLetter]) -> Vec<(&str, &str)> {
    let of_letter = |letter| (DeadLetter::key(letter).unwrap_or("-"), letter.reason());
    letters.iter().map(of_letter).collect()
}

#[test]
fn lost_session_is_set_aside_in_one_step() {
    let mut bench = bench(&[]);
    for (id, qos) in [(1, 1), (2, 2), (3, 2)] {
        bench.put(&format!("s-{id}"), &publish(id, qos, b"x"));
    }
    bench.put("sc-3", &pubrel(3));
    bench.put("r-9", &publish(9, 2, b"x"));
    bench.run(TICKS);
    bench.trace();
    lose_session(&mut bench, &["s-3", "s-2", "s-1", "sc-3", "r-9"]);
    assert!(bench.trace().is_empty());
    let status = bench.persistence.health().snapshot();
    assert_eq!(status.discarded_records, 4);
    bench.run(TICKS);
    assert_eq!(
        bench.trace(),
        ["confirm !d:s-3 -s-3 -sc-3 | !d:s-2 -s-2 | !d:s-1 -s-1 | !d:r-9 -r-9"]
    );
    assert!(bench.stored_keys().is_empty());
    let letters = listed(&bench);
    assert_eq!(
        keys_and_reasons(&letters),
        ["s-1", "s-2", "s-3", "r-9"].map(|key| (key, "session_lost"))
    );
    let outbound: Vec<bool> = letters.iter().map(DeadLetter::is_outbound).collect();
    assert_eq!(outbound, [true, true, true, false]);
    let message = letters[1].to_message().expect("a message");
    assert_eq!((message.topic(), message.payload()), ("t", &b"x"[..]));
    assert_eq!(message.qos(), paho_mqtt::QoS::ExactlyOnce);
    assert!(letters[0].time().is_some());
    assert_eq!(letters[0].value(), publish(1, 1, b"x"));
}

#[test]
fn reused_key_takes_dropped_record_along() {
    let mut bench = bench(&[]);
    bench.put("s-1", &publish(1, 2, b"old"));
    bench.run(TICKS);
    lose_session(&mut bench, &["s-1"]);
    bench.put("c-1", &command(1, 2, b"new"));
    bench.get("c-1");
    bench.remove("c-1");
    bench.trace();
    bench.put("s-1", &publish(1, 2, b"new"));
    assert_eq!(bench.trace(), ["confirm !d:s-1 s-1 -c-1"]);
    assert_eq!(bench.stored()["s-1"], publish(1, 2, b"new"));
    let letters = listed(&bench);
    assert_eq!(letters[0].value(), publish(1, 2, b"old"));
}

#[test]
fn full_buffer_costs_no_exchange_per_message() {
    let mut bench = bench(&[]);
    for number in 1..=5 {
        bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
    }
    bench.trace();
    for number in 6..=8 {
        bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
        bench.remove(&format!("c-{}", number - 5));
    }
    assert_eq!(bench.trace(), ["confirm c-6", "confirm c-7", "confirm c-8"]);
    bench.run(TICKS);
    assert_eq!(
        bench.trace(),
        ["confirm !d:c-1 -c-1 | !d:c-2 -c-2 | !d:c-3 -c-3"]
    );
    let letters = listed(&bench);
    assert_eq!(
        keys_and_reasons(&letters),
        ["c-1", "c-2", "c-3"].map(|key| (key, "buffer_full"))
    );
}

#[test]
fn record_that_was_never_stored_is_set_aside() {
    let mut bench = bench(&[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("c-1", &command(1, 1, b"x"));
    bench.put("c-2", &command(2, 1, b"x"));
    bench.remove("c-1");
    let status = bench.persistence.health().snapshot();
    // Until the store is back, both exist only here.
    assert_eq!((status.held_records, status.discarded_records), (2, 1));
    let error = bench
        .persistence
        .dead_letters()
        .list()
        .expect_err("is down");
    assert_eq!(error.kind(), ErrorKind::Connection);
    bench.content().is_down = None;
    bench.run(10 * SECOND);
    assert!(bench.is_up());
    assert_eq!(bench.stored_keys(), ["c-2"]);
    assert_eq!(keys_and_reasons(&listed(&bench)), [("c-1", "buffer_full")]);
    assert_eq!(bench.persistence.health().snapshot().held_records, 0);
}

#[test]
fn outage_keeps_no_more_than_limits() {
    let settings = Settings {
        set_aside_limits: SetAsideLimits::default().records(2),
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    for number in 1..=9 {
        bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
        bench.remove(&format!("c-{number}"));
    }
    let status = bench.persistence.health().snapshot();
    assert_eq!((status.held_records, status.discarded_records), (2, 2));
    bench.content().is_down = None;
    bench.trace();
    bench.run(10 * SECOND);
    let rewritten = bench.trace();
    let writes: Vec<&String> = rewritten
        .iter()
        .filter(|line| line.starts_with("rewrite"))
        .collect();
    // Nothing is written for those that are gone, but for the one whose put may have arrived.
    assert_eq!(writes, ["rewrite -c-1 | !d:c-8 -c-8 | !d:c-9 -c-9"]);
    let lost: usize = bench
        .set_aside_losses()
        .iter()
        .map(|(_, records)| records)
        .sum();
    assert_eq!(lost, 7);
}

#[test]
fn oldest_is_removed_beyond_limit() {
    let settings = Settings {
        set_aside_limits: SetAsideLimits::default().records(1).age(60 * SECOND),
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    for number in 1..=2 {
        bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
        bench.remove(&format!("c-{number}"));
        bench.run(TICKS);
    }
    bench.run(TICKS);
    let names: Vec<String> = bench.content().discarded.keys().cloned().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(names[0].contains(":buffer_full:23:c-2:"), "{names:?}");
    bench.run(62 * SECOND);
    assert!(bench.content().discarded.is_empty());
    assert_eq!(
        bench.set_aside_losses(),
        [(SetAsideLoss::Number, 1), (SetAsideLoss::Age, 1)]
    );
}

#[test]
fn full_store_gives_copies_up_to_make_room() {
    let mut bench = bench(&[]);
    bench.put("s-1", &publish(1, 1, b"x"));
    bench.run(TICKS);
    bench.content().is_full = true;
    lose_session(&mut bench, &["s-1"]);
    bench.run(10 * SECOND);
    assert!(bench.stored_keys().is_empty());
    assert!(bench.content().discarded.is_empty());
    assert_eq!(bench.set_aside_losses(), [(SetAsideLoss::Refused, 1)]);
    assert_eq!(bench.persistence.health().snapshot().discarded_records, 0);
    bench.content().is_full = false;
    bench.run(10 * SECOND);
    assert!(bench.is_up());
}

#[test]
fn store_that_refuses_place_still_removes() {
    let mut bench = bench(&[]);
    bench.put("s-1", &publish(1, 1, b"x"));
    bench.run(TICKS);
    bench.content().refuses_quarantine = Some(ErrorKind::Permission);
    lose_session(&mut bench, &["s-1"]);
    bench.run(10 * SECOND);
    assert!(bench.is_up());
    assert!(bench.stored_keys().is_empty());
    assert_eq!(bench.set_aside_losses(), [(SetAsideLoss::Refused, 1)]);
}

#[test]
fn place_that_cannot_be_listed_is_left_alone() {
    let mut content = Content::new(&[("s-1", publish(1, 1, b"x"))]);
    content.refuses_places = Some(ErrorKind::Permission);
    let mut bench = Bench::with_content(&Settings::default(), content);
    bench.trace();
    lose_session(&mut bench, &["s-1"]);
    bench.run(TICKS);
    assert_eq!(bench.trace(), ["confirm -s-1"]);
    let error = bench
        .persistence
        .dead_letters()
        .list()
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(bench.is_up());
}

#[test]
fn nothing_is_set_aside_without_dead_letters() {
    let settings = Settings {
        without_dead_letters: true,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.put("s-1", &publish(1, 1, b"x"));
    bench.trace();
    lose_session(&mut bench, &["s-1"]);
    bench.run(TICKS);
    assert_eq!(bench.trace(), ["confirm -s-1"]);
    assert!(listed(&bench).is_empty());
}

#[test]
fn value_that_cannot_be_read_is_counted() {
    let settings = Settings {
        cache_limit: 0,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[("s-1", publish(1, 1, b"x"))]);
    bench.content().refuses_reads = Some(ErrorKind::Connection);
    lose_session(&mut bench, &["s-1"]);
    bench.content().refuses_reads = None;
    bench.run(10 * SECOND);
    assert!(bench.stored_keys().is_empty());
    assert!(bench.content().discarded.is_empty());
    assert_eq!(bench.set_aside_losses(), [(SetAsideLoss::Unreadable, 1)]);
}

#[test]
fn uncached_value_is_read_and_set_aside() {
    let settings = Settings {
        cache_limit: 0,
        ..Settings::default()
    };
    let records = [("s-1", publish(1, 1, b"x")), ("s-2", publish(2, 1, b"y"))];
    let mut bench = Bench::new(&settings, &records);
    lose_session(&mut bench, &["s-2", "s-1"]);
    bench.run(TICKS);
    let letters = listed(&bench);
    let values: Vec<&[u8]> = letters.iter().map(DeadLetter::value).collect();
    assert_eq!(values, [publish(1, 1, b"x"), publish(2, 1, b"y")]);
}

#[test]
fn record_published_again_moves_in_one_step() {
    let mut bench = bench(&[]);
    bench.put("c-1", &command(1, 1, b"x"));
    bench.remove("c-1");
    let letters = listed(&bench);
    bench.trace();
    let entry = (letters[0].place(), letters[0].name().to_owned());
    let shared = bench.persistence.shared();
    mark_published_again(&**shared, entry);
    bench.put("c-2", &command(2, 1, b"x"));
    assert_eq!(bench.trace(), ["confirm -!d:c-1 c-2"]);
    assert!(listed(&bench).is_empty());
    // Only the one put.
    bench.put("c-3", &command(2, 1, b"x"));
    assert_eq!(bench.trace(), ["confirm c-3"]);
}

#[test]
fn record_published_again_in_outage_moves_later() {
    let mut bench = bench(&[]);
    bench.put("c-1", &command(1, 0, b"x"));
    bench.remove("c-1");
    let letters = listed(&bench);
    bench.content().is_down = Some(ErrorKind::Connection);
    let entry = (letters[0].place(), letters[0].name().to_owned());
    mark_published_again(&**bench.persistence.shared(), entry);
    bench.put("c-2", &command(0, 0, b"x"));
    // Sent at QoS 0, so that no record of it is left to go with.
    bench.get("c-2");
    bench.remove("c-2");
    bench.content().is_down = None;
    bench.run(10 * SECOND);
    assert!(bench.is_up());
    assert!(bench.content().discarded.is_empty());
    assert!(bench.stored_keys().is_empty());
}

#[test]
fn record_published_again_is_not_listed_if_full() {
    let mut bench = bench(&[]);
    bench.put("c-1", &command(1, 1, b"x"));
    bench.remove("c-1");
    let letters = listed(&bench);
    // Full: it can be read, and takes no writes.
    bench.content().fails_writes = Some(ErrorKind::OutOfMemory);
    let entry = (letters[0].place(), letters[0].name().to_owned());
    mark_published_again(&**bench.persistence.shared(), entry);
    bench.put("c-2", &command(2, 1, b"x"));
    assert!(!bench.is_up());
    assert!(listed(&bench).is_empty());
    assert_eq!(bench.persistence.health().snapshot().discarded_records, 0);
    bench.content().fails_writes = None;
    bench.run(10 * SECOND);
    assert!(bench.content().discarded.is_empty());
    assert_eq!(bench.stored_keys(), ["c-2"]);
}

#[test]
fn record_is_removed_for_good() {
    let mut bench = bench(&[]);
    bench.put("c-1", &command(1, 1, b"x"));
    bench.remove("c-1");
    let letters = listed(&bench);
    let dead_letters = bench.persistence.dead_letters();
    dead_letters.remove(&letters[0]).expect("removed");
    assert!(listed(&bench).is_empty());
    assert!(bench.content().discarded.is_empty());
    bench.content().is_down = Some(ErrorKind::Connection);
    let error = dead_letters.remove(&letters[0]).expect_err("is down");
    assert_eq!(error.kind(), ErrorKind::Connection);
}

#[test]
fn entries_of_other_forms_are_listed_and_stay() {
    let mut content = Content::new(&[]);
    let names = ["s-1", "s-2:00000000000000ab", "note", "q-1"];
    for name in names {
        content
            .quarantine
            .insert(name.to_owned(), publish(1, 1, b"x"));
    }
    let settings = Settings {
        set_aside_limits: SetAsideLimits::default().records(0).bytes(0),
        ..Settings::default()
    };
    let bench = Bench::with_content(&settings, content);
    bench.run(5 * SECOND);
    let letters = listed(&bench);
    let mut found: Vec<_> = letters
        .iter()
        .map(|letter| (letter.name(), letter.key(), letter.to_message().is_some()))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("note", None, false),
            ("q-1", Some("q-1"), false),
            ("s-1", Some("s-1"), true),
            ("s-2:00000000000000ab", Some("s-2"), false),
        ]
    );
    assert!(letters.iter().all(|letter| {
        letter.place() == Place::Quarantine
            && letter.reason() == "unknown"
            && letter.time().is_none()
    }));
    assert_eq!(bench.persistence.health().snapshot().quarantined_records, 4);
    for letter in &letters {
        bench
            .persistence
            .dead_letters()
            .remove(letter)
            .expect("removed");
    }
    assert!(listed(&bench).is_empty());
}

#[test]
fn unreadable_record_does_not_replace_older_one() {
    let mut content = Content::new(&[("s-1", b"second".to_vec()), ("q-1", queued(1))]);
    content
        .quarantine
        .insert("s-1".to_owned(), b"first".to_vec());
    let bench = Bench::with_content(&Settings::default(), content);
    let letters = listed(&bench);
    let values: Vec<&[u8]> = letters.iter().map(DeadLetter::value).collect();
    assert_eq!(values, [&b"first"[..], b"second"]);
    assert_eq!(letters[1].reason(), "unreadable");
}

#[test]
fn repeated_attempt_at_quarantine_adds_nothing() {
    let mut content = Content::new(&[("s-1", b"unreadable".to_vec())]);
    let name = {
        let bench = Bench::with_content(
            &Settings::default(),
            Content::new(&[("s-1", b"unreadable".to_vec())]),
        );
        listed(&bench)[0].name().to_owned()
    };
    // A crash came between the copy and the remove, at another time.
    let name = name.replace("1700000000000:", "1600000000000:");
    content
        .quarantine
        .insert(name.clone(), b"unreadable".to_vec());
    let bench = Bench::with_content(&Settings::default(), content);
    let letters = listed(&bench);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].name(), name);
}

#[test]
fn emptied_store_is_noticed() {
    let mut bench = bench(&[]);
    bench.put("c-1", &command(1, 1, b"x"));
    bench.remove("c-1");
    bench.run(TICKS);
    bench.content().discarded.clear();
    bench.content().instance_id = 7;
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.run(2 * SECOND);
    bench.content().is_down = None;
    bench.run(10 * SECOND);
    assert_eq!(bench.set_aside_losses(), [(SetAsideLoss::Lost, 1)]);
    assert_eq!(bench.persistence.health().snapshot().discarded_records, 0);
}

#[test]
fn drop_with_foreign_record_in_way_is_set_aside() {
    let mut bench = bench(&[("c-1", command(1, 1, b"own"))]);
    bench.content().refuses_quarantine = Some(ErrorKind::Permission);
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.remove("c-1");
        let mut content = bench.content();
        content.instance_id += 1;
        let other = command(9, 1, b"other");
        content.records.insert("c-1".to_owned(), other);
    });
    assert!(bench.persistence.health().flush(SECOND).is_err());
    bench.content().refuses_quarantine = None;
    bench.run(20 * SECOND);
    bench.persistence.health().flush(SECOND).expect("flushes");
    let letters = listed(&bench);
    let expected = [("c-1", "buffer_full"), ("c-1", "foreign")];
    assert_eq!(keys_and_reasons(&letters), expected);
}

/// Bounds of the quarantine and of the dead letters in a test.
fn limited(records: usize) -> Settings {
    Settings {
        set_aside_limits: SetAsideLimits {
            records,
            ..SetAsideLimits::default()
        },
        ..Settings::default()
    }
}

#[test]
fn refused_removal_from_place_keeps_store_up() {
    for kind in [
        ErrorKind::Permission,
        ErrorKind::WrongType,
        ErrorKind::Server,
    ] {
        let mut bench = Bench::new(&limited(1), &[]);
        bench.content().refuses_removals = Some(kind);
        for number in 1..=2 {
            bench.put(&format!("c-{number}"), &command(number, 1, b"x"));
            bench.remove(&format!("c-{number}"));
            bench.run(TICKS);
        }
        bench.interrupt(ErrorKind::Connection, |_| {});
        bench.put("c-3", &command(3, 1, b"x"));
        assert_eq!(bench.stored_keys(), ["c-3"]);
        // Beside the one that is to go.
        let letters = listed(&bench);
        assert_eq!(letters.len(), 1);
        let removed = bench.persistence.dead_letters().remove(&letters[0]);
        assert_eq!(removed.expect_err("refused").kind(), kind);
        bench.run(5 * SECOND);
        assert!(bench.is_up());
        // What is there counts again with the next list.
        bench.content().refuses_removals = None;
        assert_eq!(listed(&bench).len(), 1);
        bench.run(TICKS);
        assert_eq!(bench.content().discarded.len(), 1);
    }
}

#[test]
fn busy_store_removes_from_place_later() {
    let mut bench = bench(&[]);
    bench.put("c-1", &command(1, 1, b"x"));
    bench.remove("c-1");
    let letters = listed(&bench);
    bench.content().refuses_removals = Some(ErrorKind::Busy);
    let removed = bench.persistence.dead_letters().remove(&letters[0]);
    assert_eq!(removed.expect_err("is busy").kind(), ErrorKind::Busy);
    bench.content().refuses_removals = None;
    bench.run(5 * SECOND);
    assert!(bench.is_up());
    assert!(bench.content().discarded.is_empty());
}

#[test]
fn lowered_limit_removes_in_batches() {
    const STORED: usize = 3_000;
    let mut content = Content::default();
    for number in 1..=STORED {
        let name = format!("1700000000000:session_lost:1:c-{number}:0123456789abcdef");
        content.discarded.insert(name, b"x".to_vec());
    }
    let bench = Bench::with_content(&limited(10), content);
    bench.run(10 * SECOND);
    assert_eq!(bench.content().discarded.len(), 10);
    let trace = bench.trace();
    let removals = trace.iter().map(|line| line.matches("-!").count());
    assert!(removals.max() <= Some(256));
    assert!(bench.is_up());
}

#[test]
fn large_records_are_read_in_small_batches() {
    let mut bench = bench(&[]);
    for number in 1..=8 {
        bench.put(
            &format!("c-{number}"),
            &command(number, 1, &vec![0; 50_000]),
        );
        bench.remove(&format!("c-{number}"));
    }
    assert_eq!(listed(&bench).len(), 8);
    let largest = bench.content().largest_set_aside_read;
    assert!(largest < 150_000, "{largest}");
}

/// A quarantine with an older record, beside which there is room for none.
fn full_quarantine() -> Content {
    let name = "1699999999999:foreign:1:q-7:0123456789abcdef".to_owned();
    let mut content = Content::default();
    content.quarantine.insert(name, b"x".to_vec());
    content
}

#[test]
fn refused_copy_evicts_nothing_and_counts_as_none() {
    let mut bench = Bench::with_content(&limited(1), full_quarantine());
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.refuses_quarantine = Some(ErrorKind::Permission);
        content.instance_id += 1;
        let other = publish(1, 2, b"other");
        content.records.insert("s-1".to_owned(), other);
    });
    // Each retry is refused, too.
    bench.put("s-1", &publish(1, 2, b"own"));
    bench.run(20 * SECOND);
    assert_eq!(bench.content().quarantine.len(), 1);
    let status = bench.persistence.health().snapshot();
    assert_eq!(status.quarantined_records, 1);
    let is_counted = |event: &StoreEvent| {
        matches!(
            event,
            StoreEvent::SetAside { .. } | StoreEvent::SetAsideLost { .. }
        )
    };
    let counted = bench.events().into_iter().find(is_counted);
    assert!(counted.is_none(), "{counted:?}");
}

#[test]
fn refused_copy_leaves_equal_one_in_count() {
    let settings = Settings::default();
    let foreign = publish(1, 2, b"other");
    let mut bench = Bench::new(&settings, &[]);
    let come_again = |bench: &mut Bench| {
        let mut content = bench.content();
        content.instance_id += 1;
        content.records.insert("s-1".to_owned(), foreign.clone());
    };
    bench.interrupt(ErrorKind::Connection, come_again);
    bench.run(SECOND);
    assert!(bench.stored_keys().is_empty());
    bench.content().refuses_quarantine = Some(ErrorKind::Permission);
    bench.interrupt(ErrorKind::Connection, come_again);
    bench.run(10 * SECOND);
    let status = bench.persistence.health().snapshot();
    assert_eq!(status.quarantined_records, 1);
    assert_eq!(bench.content().quarantine.len(), 1);
    // The copy is there, so none is needed.
    assert!(bench.stored_keys().is_empty());
}
