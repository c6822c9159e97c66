//! Comparisons, repairs and reports when a store comes back.

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, Content, SECOND, command, publish, pubrel, queued};
use crate::{
    error::ErrorKind,
    persistence::simulated::Settings,
    store::{Durability, StoreEvent},
};

fn bench(cache_limit: usize, records: &[(&str, Vec<u8>)]) -> Bench {
    let settings = Settings {
        cache_limit,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, records);
    bench.persistence.keys().expect("listed");
    bench
}

/// Replaces `s-1` by a record of another instance.
fn put_other_data(bench: &mut Bench) {
    let mut content = bench.content();
    content.instance_id += 1;
    let other = publish(1, 2, b"other");
    content.records.insert("s-1".to_owned(), other);
}

fn lost(bench: &Bench) -> Vec<String> {
    let lost = |event: &StoreEvent| match event {
        StoreEvent::RecordLost { key } => Some(key.clone()),
        StoreEvent::Lost { records } => Some(records.to_string()),
        _ => None,
    };
    bench.events().iter().filter_map(lost).collect()
}

fn foreign(bench: &Bench) -> Vec<(usize, bool)> {
    let foreign = |event: &StoreEvent| match event {
        StoreEvent::ForeignRecords { records, removed } => Some((*records, *removed)),
        _ => None,
    };
    bench.events().iter().filter_map(foreign).collect()
}

#[test]
fn records_evicted_in_same_store_are_written_again() {
    let records = [("s-1", publish(1, 2, b"x")), ("s-2", publish(2, 2, b"y"))];
    let mut bench = bench(usize::MAX, &records);
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.content().records.remove("s-1");
    });
    assert_eq!(bench.stored()["s-1"], publish(1, 2, b"x"));
    let writes: Vec<String> = bench
        .trace()
        .into_iter()
        .filter(|line| line.contains("s-"))
        .collect();
    assert_eq!(writes, ["rewrite s-1"]);
    assert!(lost(&bench).is_empty());
    let rewritten = |event: &StoreEvent| matches!(event, StoreEvent::Up { rewritten: 1, .. });
    assert!(bench.events().iter().any(rewritten), "{:?}", bench.events());
}

#[test]
fn records_evicted_without_copy_are_lost() {
    let records = [("s-1", publish(1, 2, b"x")), ("s-2", publish(2, 2, b"y"))];
    let mut bench = bench(0, &records);
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.content().records.remove("s-1");
    });
    assert_eq!(lost(&bench), ["s-1", "1"]);
    assert_eq!(bench.persistence.keys().expect("listed"), ["s-2"]);
    assert_eq!(bench.persistence.health().snapshot().lost_records, 1);
}

#[test]
fn check_notices_evicted_record() {
    let bench = bench(0, &[("s-1", publish(1, 2, b"x"))]);
    bench.content().records.clear();
    bench.run(3 * SECOND);
    assert_eq!(lost(&bench), ["s-1", "1"]);
    let error = bench.persistence.health().last_error().expect("an outage");
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(
        error
            .to_string()
            .starts_with("cannot find all 1 records, only 0 are left"),
        "{error}"
    );
}

#[test]
fn check_counts_foreign_records_once() {
    let bench = bench(0, &[("s-1", publish(1, 2, b"x"))]);
    bench.content().foreign.push(b"other".to_vec());
    bench.run(3 * SECOND);
    assert_eq!(foreign(&bench), [(1, false)]);
    bench.content().foreign.push(b"another".to_vec());
    bench.run(3 * SECOND);
    assert_eq!(foreign(&bench), [(1, false), (1, false)]);
    assert!(bench.is_up());
}

#[test]
fn check_proves_nothing_while_writes_are_pending() {
    let settings = Settings {
        durability: Durability::Pipelined,
        ..Settings::default()
    };
    let mut bench = Bench::new(&settings, &[]);
    bench.content().largest_value = Some(100);
    bench.put("c-1", &command(1, 1, &[0; 200]));
    bench.run(10 * SECOND);
    assert!(bench.is_up());
    assert!(foreign(&bench).is_empty());
    let downs = |event: &&StoreEvent| matches!(event, StoreEvent::Down { .. });
    assert!(
        bench.events().iter().filter(downs).count() <= 1,
        "{:?}",
        bench.events()
    );
}

#[test]
fn unknown_record_in_same_store_stays_and_counts() {
    let mut bench = bench(0, &[("s-1", publish(1, 2, b"x"))]);
    for _ in 0..2 {
        bench.interrupt(ErrorKind::Connection, |bench| {
            bench
                .content()
                .records
                .insert("c-9".to_owned(), command(9, 1, b"x"));
        });
    }
    assert_eq!(foreign(&bench), [(1, false)]);
    assert_eq!(bench.stored_keys(), ["c-9", "s-1"]);
    bench.run(3 * SECOND);
    assert!(bench.is_up());
    assert_eq!(foreign(&bench).len(), 1);
}

#[test]
fn repeated_attempt_reports_unknown_records_once() {
    let mut bench = bench(0, &[("s-1", publish(1, 2, b"x"))]);
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("c-1", &command(1, 1, b"x"));
    bench.run(SECOND);
    {
        let mut content = bench.content();
        content
            .records
            .insert("c-9".to_owned(), command(9, 1, b"x"));
        content.is_down = None;
        content.fails_writes = Some(ErrorKind::Connection);
    }
    bench.run(20 * SECOND);
    assert!(!bench.is_up());
    assert_eq!(foreign(&bench), [(1, false)]);
}

#[test]
fn values_of_other_store_are_compared_in_batches() {
    let names: Vec<String> = (1..=150).map(|number| format!("s-{number}")).collect();
    let records: Vec<(&str, Vec<u8>)> = names
        .iter()
        .zip(1..)
        .map(|(name, id)| (&**name, publish(id, 2, b"x")))
        .collect();
    let mut bench = bench(0, &records);
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.content().instance_id += 1;
    });
    let reads: Vec<usize> = bench
        .trace()
        .iter()
        .filter(|line| line.starts_with("read"))
        .map(|line| line.split(' ').count() - 1)
        .collect();
    assert_eq!(reads, [64, 64, 22]);
    assert!(lost(&bench).is_empty() && foreign(&bench).is_empty());
    assert_eq!(bench.stored().len(), 150);
}

#[test]
fn failed_comparison_starts_over() {
    let records = [("s-1", publish(1, 2, b"x"))];
    let mut bench = bench(0, &records);
    bench.replace_data(ErrorKind::Connection, |bench| {
        put_other_data(bench);
        bench.content().refuses_reads = Some(ErrorKind::Misconf);
    });
    assert!(!bench.is_up());
    bench.content().refuses_reads = None;
    bench.run(5 * SECOND);
    assert!(bench.is_up());
    assert_eq!(lost(&bench), ["s-1", "1"]);
    let quarantine: Vec<Vec<u8>> = bench.content().quarantine.values().cloned().collect();
    assert_eq!(quarantine, [publish(1, 2, b"other")]);
}

#[test]
fn quarantine_that_is_refused_leaves_records() {
    let mut bench = bench(0, &[("s-1", publish(1, 2, b"x"))]);
    bench.content().refuses_quarantine = Some(ErrorKind::Permission);
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.instance_id += 1;
        content
            .records
            .insert("c-9".to_owned(), command(9, 1, b"x"));
    });
    assert_eq!(bench.stored_keys(), ["c-9", "s-1"]);
    // Later it is known.
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.content().instance_id += 1;
    });
    bench.run(3 * SECOND);
    assert!(bench.is_up());
    assert!(lost(&bench).is_empty());
}

#[test]
fn unknown_record_in_the_way_waits_for_quarantine() {
    let mut bench = bench(usize::MAX, &[("s-1", publish(1, 2, b"x"))]);
    bench.content().refuses_quarantine = Some(ErrorKind::Permission);
    bench.interrupt(ErrorKind::Connection, put_other_data);
    assert_eq!(bench.stored()["s-1"], publish(1, 2, b"other"));
    assert_eq!(foreign(&bench), [(1, false)]);
    // Only that record exists in memory alone.
    bench.put("q-1", &queued(1));
    assert_eq!(bench.stored()["q-1"], queued(1));
    assert_eq!(bench.persistence.health().snapshot().held_records, 1);
    bench.content().refuses_quarantine = None;
    bench.run(20 * SECOND);
    assert_eq!(bench.persistence.health().snapshot().held_records, 0);
    assert_eq!(bench.stored()["s-1"], publish(1, 2, b"x"));
    assert_eq!(bench.content().quarantine.len(), 1);
}

#[test]
fn pending_write_wins_over_other_data() {
    let mut bench = bench(usize::MAX, &[("s-1", publish(1, 2, b"x"))]);
    bench.remove("c-0");
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.remove("s-1");
        bench.put("q-1", &queued(1));
        let mut content = bench.content();
        content.instance_id += 1;
        content.records.insert("q-1".to_owned(), queued(2));
    });
    assert_eq!(bench.stored_keys(), ["q-1"]);
    assert_eq!(bench.stored()["q-1"], queued(1));
    let quarantine: Vec<Vec<u8>> = bench.content().quarantine.values().cloned().collect();
    assert_eq!(quarantine, [queued(2)]);
    assert_eq!(foreign(&bench), [(1, true)]);
}

#[test]
fn full_store_gets_removes_before_puts() {
    let records = [("q-1", queued(1)), ("q-2", queued(2))];
    let mut bench = bench(usize::MAX, &records);
    bench.content().is_down = Some(ErrorKind::OutOfMemory);
    bench.put("q-3", &queued(3));
    bench.remove("q-1");
    bench.remove("q-2");
    bench.content().is_down = None;
    bench.content().largest_value = Some(0);
    bench.trace();
    bench.run(SECOND / 4);
    let writes: Vec<String> = bench
        .trace()
        .into_iter()
        .filter(|line| line.starts_with("rewrite"))
        .collect();
    assert_eq!(writes[..2], ["rewrite -q-1 -q-2", "rewrite q-3"]);
}

#[test]
fn refused_batch_is_halved() {
    let mut bench = bench(usize::MAX, &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    for number in 1..=9 {
        let length = if number == 2 { 300 } else { 3 };
        bench.put(
            &format!("q-{number}"),
            &command(number, 1, &vec![0; length]),
        );
    }
    bench.run(SECOND);
    bench.content().is_down = None;
    bench.content().largest_value = Some(200);
    bench.trace();
    bench.run(3 * SECOND);
    let sizes: Vec<usize> = bench
        .trace()
        .iter()
        .filter(|line| line.starts_with("rewrite"))
        .map(|line| line.matches("q-").count())
        .collect();
    // The smallest go first, and a batch that is taken doubles the next. At last the second one is alone.
    assert_eq!(sizes, [9, 4, 5, 2, 3, 1, 2, 1, 1]);
    assert!(bench.is_up());
}

#[test]
fn record_that_breaks_connection_is_tried_three_times() {
    let mut bench = bench(usize::MAX, &[]);
    bench.content().breaks_above = Some(200);
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("q-1", &command(1, 1, &[0; 300]));
    bench.run(SECOND);
    bench.content().is_down = None;
    bench.trace();
    bench.run(13 * SECOND / 2);
    let tries = bench
        .trace()
        .iter()
        .filter(|line| *line == "rewrite q-1")
        .count();
    assert_eq!(tries, 3);
    // All in one outage.
    let is_down = |event: &&StoreEvent| matches!(event, StoreEvent::Down { .. });
    assert_eq!(bench.events().iter().filter(is_down).count(), 1);
    assert!(bench.is_up());
}

#[test]
fn reads_of_relocation_recognize_moved_record() {
    let records = [("s-7", publish(7, 2, b"unread")), ("sc-7", pubrel(7))];
    let mut bench = bench(0, &records);
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("s-7", &publish(7, 2, b"new"));
    // The queued move is no loss, and the number is taken.
    assert!(bench.persistence.contains("s-65535") && bench.persistence.contains("sc-65535"));
    bench.persistence.get("s-65535").expect_err("not moved yet");
    bench.put("s-65535", &publish(65_535, 2, b"newer"));
    bench.content().is_down = None;
    bench.run(5 * SECOND);
    assert!(bench.is_up());
    let stored = bench.stored();
    assert_eq!(stored["s-7"], publish(7, 2, b"new"));
    assert_eq!(stored["s-65535"], publish(65_535, 2, b"newer"));
    assert_eq!(stored["s-65534"], publish(65_534, 2, b"unread"));
    assert_eq!(stored["sc-65534"], pubrel(65_534));
    assert!(lost(&bench).is_empty());
    let keys = bench.persistence.keys().expect("listed");
    for key in keys {
        bench.get(&key);
    }
}

#[test]
fn relocation_of_record_that_is_gone_reports_loss() {
    let mut bench = bench(0, &[("r-7", publish(7, 2, b"unread"))]);
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("r-7", &publish(7, 2, b"new"));
    bench.content().records.clear();
    bench.content().is_down = None;
    bench.run(5 * SECOND);
    assert_eq!(lost(&bench), ["r-65535", "1"]);
    assert_eq!(bench.stored_keys(), ["r-7"]);
    // It is noticed in the recovery, not by a later check.
    let is_down = |event: &&StoreEvent| matches!(event, StoreEvent::Down { .. });
    assert_eq!(bench.events().iter().filter(is_down).count(), 1);
}

#[test]
fn recovery_writes_batches_of_256_kib() {
    let mut bench = bench(usize::MAX, &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    // With 64 bytes of overhead, 242 of them are just above the limit.
    let value = command(1, 1, &[0; 1_000]);
    assert_eq!(value.len(), 1_022);
    for number in 1..=300 {
        bench.put(&format!("q-{number}"), &value);
    }
    bench.interrupt(ErrorKind::Connection, |_| ());
    let sizes: Vec<usize> = bench
        .trace()
        .iter()
        .filter(|line| line.starts_with("rewrite"))
        .map(|line| line.matches("q-").count())
        .collect();
    assert_eq!(sizes, [242, 58]);
}

#[test]
fn little_that_calls_add_ends_recovery() {
    let mut bench = bench(usize::MAX, &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("q-1", &queued(1));
    bench.run(SECOND);
    bench.content().is_down = None;
    bench.trace();
    let mut is_put = false;
    while !bench.is_up() {
        bench.turn_with(|bench| {
            let is_last_step = bench
                .content()
                .trace
                .last()
                .is_some_and(|line| line == "check");
            if is_last_step && !is_put {
                is_put = true;
                bench.put("q-2", &queued(2));
            }
        });
    }
    let trace = bench.trace();
    assert_eq!(
        trace[trace.len() - 3..],
        ["rewrite q-1", "check", "confirm q-2"]
    );
    bench.run(SECOND / 10);
    let rewritten = |event: &StoreEvent| matches!(event, StoreEvent::Up { rewritten: 2, .. });
    assert!(bench.events().iter().any(rewritten), "{:?}", bench.events());
}

#[test]
fn record_relocated_twice_is_lost_once() {
    let mut bench = bench(0, &[("r-7", publish(7, 2, b"unread"))]);
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("r-7", &publish(7, 2, b"new"));
    bench.put("r-65535", &publish(65_535, 2, b"newer"));
    bench.content().records.clear();
    bench.content().is_down = None;
    bench.run(5 * SECOND);
    assert_eq!(lost(&bench), ["r-65534", "1"]);
    assert_eq!(bench.stored_keys(), ["r-65535", "r-7"]);
    let is_down = |event: &&StoreEvent| matches!(event, StoreEvent::Down { .. });
    assert_eq!(bench.events().iter().filter(is_down).count(), 1);
}

#[test]
fn batch_that_times_out_is_halved_in_bytes() {
    let mut bench = bench(usize::MAX, &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    for number in 1..=60 {
        bench.put(&format!("q-{number}"), &command(1, 1, &[0; 10_000]));
    }
    bench.content().slow_above = Some(100_000);
    bench.run(SECOND);
    bench.content().is_down = None;
    bench.trace();
    bench.run(20 * SECOND);
    assert!(bench.is_up());
    let sizes: Vec<usize> = bench
        .trace()
        .iter()
        .filter(|line| line.starts_with("rewrite"))
        .map(|line| line.matches("q-").count())
        .collect();
    // 256 KiB, then 128, then 64, which grows until a batch times out again.
    assert_eq!(sizes, [26, 13, 6, 7, 8, 8, 9, 9, 10, 5, 5, 3]);
    assert_eq!(bench.stored().len(), 60);
}

#[test]
fn batch_grows_again_once_store_is_fast() {
    let mut bench = bench(usize::MAX, &[]);
    bench.content().is_down = Some(ErrorKind::Connection);
    for number in 1..=900 {
        bench.put(&format!("q-{number}"), &command(1, 1, &[0; 10_000]));
    }
    bench.content().slow_above = Some(15_000);
    bench.run(SECOND);
    bench.content().is_down = None;
    bench.trace();
    while bench.stored().is_empty() {
        bench.turn_with(|_| ());
    }
    let sizes = |bench: &Bench| -> Vec<usize> {
        let trace = bench.trace();
        let writes = trace.iter().filter(|line| line.starts_with("rewrite"));
        writes.map(|line| line.matches("q-").count()).collect()
    };
    assert_eq!(sizes(&bench), [26, 13, 6, 3, 1]);
    bench.content().slow_above = None;
    bench.run(20 * SECOND);
    assert!(bench.is_up());
    let sizes = sizes(&bench);
    assert_eq!((sizes[0], sizes.iter().max()), (2, Some(&26)), "{sizes:?}");
}

#[test]
fn own_leftovers_in_same_store_are_not_foreign() {
    // A record that the quarantine refused, and one that is removed meanwhile.
    let mut content = Content::new(&[("s-1", b"unreadable".to_vec()), ("q-1", queued(1))]);
    content.refuses_quarantine = Some(ErrorKind::Permission);
    let mut bench = Bench::with_content(&Settings::default(), content);
    bench.interrupt(ErrorKind::Connection, |bench| bench.remove("q-1"));
    bench.run(3 * SECOND);
    assert!(bench.is_up());
    assert!(foreign(&bench).is_empty() && lost(&bench).is_empty());
    assert_eq!(bench.stored_keys(), ["s-1"]);
}

#[test]
fn foreign_entries_are_still_known_after_comparison() {
    let mut content = Content::new(&[("q-1", queued(1))]);
    content.foreign = vec![b"other".to_vec()];
    let mut bench = Bench::with_content(&Settings::default(), content);
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.content().instance_id += 1;
    });
    bench.run(3 * SECOND);
    assert!(bench.is_up() && foreign(&bench).is_empty());
}

/// Begins an outage with a put that fills a batch.
fn begin_outage(bench: &mut Bench) {
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.put("q-5", &command(5, 1, &vec![0; 300_000]));
    bench.run(SECOND);
}

/// Brings back a store with another `q-1`, and recovers until an exchange that begins with this.
fn recover_until(bench: &mut Bench, other: Vec<u8>, instance_id: u32, exchange: &str) {
    {
        let mut content = bench.content();
        content.instance_id = instance_id;
        content.records.insert("q-1".to_owned(), other);
        content.is_down = None;
        content.trace.clear();
    }
    let is_done = |bench: &Bench| {
        let trace = &bench.content().trace;
        trace.last().is_some_and(|line| line.starts_with(exchange))
    };
    while !is_done(bench) {
        bench.turn_with(|_| ());
    }
}

#[test]
fn removed_pending_put_leaves_nothing_under_its_key() {
    for (other, exchange) in [(1, "read q-1"), (9, "read q-1"), (9, "rewrite !q:q-1")] {
        let mut bench = bench(usize::MAX, &[]);
        bench.put("q-1", &queued(1));
        bench.remove("q-1");
        bench.run(SECOND);
        begin_outage(&mut bench);
        bench.put("q-1", &queued(2));
        recover_until(&mut bench, queued(other), 1, exchange);
        bench.remove("q-1");
        bench.run(5 * SECOND);
        assert_eq!(bench.stored_keys(), ["q-5"], "{other} {exchange}");
        let is_quarantined = !bench.content().quarantine.is_empty();
        assert_eq!(is_quarantined, other == 9);
    }
}

#[test]
fn put_over_stale_record_leaves_nothing_if_removed() {
    let mut bench = bench(usize::MAX, &[]);
    bench.put("q-1", &queued(1));
    bench.remove("q-1");
    bench.run(SECOND);
    begin_outage(&mut bench);
    recover_until(&mut bench, queued(1), 1, "read q-1");
    bench.put("q-1", &queued(2));
    bench.turn_with(|_| ());
    bench.remove("q-1");
    bench.run(5 * SECOND);
    assert_eq!(bench.stored_keys(), ["q-5"]);
}

#[test]
fn new_put_spares_unknown_record_in_same_store() {
    for is_removed in [false, true] {
        let mut bench = bench(usize::MAX, &[]);
        begin_outage(&mut bench);
        bench.put("q-1", &queued(2));
        recover_until(&mut bench, queued(1), 0, "connect");
        bench.content().records.insert("q-9".to_owned(), queued(9));
        bench.turn_with(|_| ());
        if is_removed {
            bench.remove("q-1");
        }
        bench.run(5 * SECOND);
        assert!(bench.is_up());
        let stored = bench.stored();
        let own = (!is_removed).then(|| queued(2));
        assert_eq!(stored.get("q-1"), own.as_ref());
        // Only what is in the way is moved.
        assert_eq!(stored["q-9"], queued(9));
        let quarantine: Vec<Vec<u8>> = bench.content().quarantine.values().cloned().collect();
        assert_eq!(quarantine, [queued(1)]);
        assert!(
            foreign(&bench).contains(&(1, true)),
            "{:?}",
            foreign(&bench)
        );
    }
}

#[test]
fn removed_pending_put_reaches_equal_record() {
    let mut bench = bench(usize::MAX, &[]);
    begin_outage(&mut bench);
    bench.put("q-1", &queued(1));
    recover_until(&mut bench, queued(1), 1, "read q-1");
    bench.remove("q-1");
    bench.run(5 * SECOND);
    assert_eq!(bench.stored_keys(), ["q-5"]);
}

#[test]
fn full_quarantine_holds_up_only_what_it_blocks() {
    let records = [("q-1", queued(1)), ("q-2", queued(2))];
    let mut bench = bench(usize::MAX, &records);
    bench.content().refuses_quarantine = Some(ErrorKind::OutOfMemory);
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.put("q-3", &queued(3));
        bench.remove("q-2");
        let mut content = bench.content();
        content.instance_id += 1;
        content.records.insert("q-1".to_owned(), queued(9));
        content.records.insert("q-7".to_owned(), queued(7));
    });
    // What is unknown is neither removed nor written over.
    assert_eq!(bench.stored_keys(), ["q-1", "q-3", "q-7"]);
    assert_eq!(bench.stored()["q-1"], queued(9));
    bench.remove("q-1");
    bench.run(SECOND);
    assert_eq!(bench.stored()["q-1"], queued(9));
    bench.put("q-1", &queued(8));
    bench.content().refuses_quarantine = None;
    bench.run(5 * SECOND);
    assert!(bench.is_up());
    // A message that waits gets another number.
    assert_eq!(bench.stored_keys(), ["q-1", "q-3", "q-4", "q-7"]);
    assert_eq!(bench.get("q-1"), queued(8));
    assert_eq!(bench.stored()["q-4"], queued(8));
    assert!(lost(&bench).is_empty());
}

#[test]
fn quarantine_takes_what_it_has_room_for() {
    let mut bench = bench(usize::MAX, &[]);
    bench.content().largest_quarantined = Some(1_000);
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.instance_id += 1;
        for number in 1..=9 {
            let length = if number == 4 { 2_000 } else { 10 };
            let value = command(number, 1, &vec![0; length]);
            content.records.insert(format!("c-{number}"), value);
        }
    });
    assert_eq!(bench.stored_keys(), ["c-4"]);
    assert_eq!(bench.content().quarantine.len(), 8);
    assert_eq!(quarantined(&bench), 8);
}

#[test]
fn stale_record_goes_once_refused_put_is_taken() {
    let mut bench = bench(usize::MAX, &[]);
    bench.put("q-1", &queued(1));
    bench.remove("q-1");
    bench.run(SECOND);
    begin_outage(&mut bench);
    bench.content().largest_value = Some(1_000);
    recover_until(&mut bench, queued(1), 1, "check");
    bench.run(SECOND / 2);
    assert!(bench.is_up());
    // It might be the only copy of what is refused.
    assert_eq!(bench.stored_keys(), ["q-1"]);
    bench.content().largest_value = None;
    while !bench.stored().contains_key("q-5") {
        bench.run(SECOND / 100);
    }
    bench.run(2 * SECOND);
    assert_eq!(bench.stored_keys(), ["q-5"]);
}

#[test]
fn refused_quarantine_keeps_what_was_stale() {
    let mut bench = bench(usize::MAX, &[]);
    bench.put("q-1", &queued(1));
    bench.remove("q-1");
    bench.run(SECOND);
    begin_outage(&mut bench);
    recover_until(&mut bench, queued(1), 1, "read q-1");
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.run(SECOND);
    {
        let mut content = bench.content();
        content.instance_id += 1;
        content.records.insert("q-1".to_owned(), queued(9));
        content.refuses_quarantine = Some(ErrorKind::Permission);
        content.is_down = None;
    }
    bench.run(5 * SECOND);
    assert!(bench.is_up());
    assert_eq!(bench.stored()["q-1"], queued(9));
}

#[test]
fn slow_link_gets_smaller_quarantine_batches() {
    let mut bench = bench(usize::MAX, &[]);
    bench.replace_data(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.instance_id += 1;
        content.slow_above = Some(10_000);
        for number in 1..=30 {
            let value = command(number, 1, &[0; 1_000]);
            content.records.insert(format!("c-{number}"), value);
        }
    });
    bench.run(20 * SECOND);
    assert!(bench.is_up());
    assert_eq!(bench.content().quarantine.len(), 30);
    assert_eq!(quarantined(&bench), 30);
    let is_lost = |event: &StoreEvent| matches!(event, StoreEvent::SetAsideLost { .. });
    assert!(!bench.events().iter().any(is_lost));
}

#[test]
fn stale_records_beyond_one_step_are_not_foreign() {
    const RECORDS: usize = 2_500;
    let mut bench = bench(usize::MAX, &[]);
    let keys: Vec<String> = (1..=RECORDS).map(|number| format!("c-{number}")).collect();
    for key in &keys {
        bench.put(key, &command(1, 1, b"x"));
        bench.remove(key);
    }
    bench.run(SECOND);
    begin_outage(&mut bench);
    {
        let mut content = bench.content();
        content.largest_value = Some(1_000);
        let older = keys.iter().map(|key| (key.clone(), command(1, 1, b"x")));
        content.records.extend(older);
        content.instance_id += 1;
        content.is_down = None;
    }
    bench.run(5 * SECOND);
    assert!(bench.is_up());
    assert_eq!(bench.stored().len(), RECORDS);
    bench.content().largest_value = None;
    bench.trace();
    bench.run(20 * SECOND);
    assert_eq!(bench.stored_keys(), ["q-5"]);
    assert!(foreign(&bench).is_empty(), "{:?}", foreign(&bench));
    let is_down = |event: &&StoreEvent| matches!(event, StoreEvent::Down { .. });
    assert_eq!(bench.events().iter().filter(is_down).count(), 1);
    // Calls wait meanwhile, so no write may take longer than theirs.
    let trace = bench.trace();
    assert!(!trace.iter().any(|line| line.starts_with("rewrite")));
}

#[test]
fn interrupted_quarantine_in_same_store_moves_no_more() {
    // The connection, or only the right to read, is lost while what is in the way is compared.
    for (exchange, kind) in [
        ("rewrite !q:q-1", ErrorKind::Connection),
        ("list", ErrorKind::Connection),
        ("list", ErrorKind::Misconf),
    ] {
        let mut bench = bench(usize::MAX, &[]);
        begin_outage(&mut bench);
        bench.put("q-1", &queued(2));
        {
            let mut content = bench.content();
            content.records.insert("q-1".to_owned(), queued(1));
            content.records.insert("q-9".to_owned(), queued(9));
            content.is_down = None;
            if exchange == "list" {
                content.refuses_reads = Some(kind);
            } else {
                content.loses_reply = Some(kind);
            }
        }
        bench.run(SECOND);
        assert!(!bench.is_up() || exchange != "list");
        bench.content().refuses_reads = None;
        bench.run(5 * SECOND);
        assert!(bench.is_up());
        assert_eq!(bench.stored()["q-1"], queued(2));
        assert_eq!(bench.stored()["q-9"], queued(9), "{exchange} {kind:?}");
        let quarantine: Vec<Vec<u8>> = bench.content().quarantine.values().cloned().collect();
        assert_eq!(quarantine, [queued(1)]);
        assert_eq!(quarantined(&bench), 1);
    }
}

/// Number of records that were reported as quarantined.
fn quarantined(bench: &Bench) -> usize {
    let removed = foreign(bench).into_iter().filter(|(_, removed)| *removed);
    removed.map(|(records, _)| records).sum()
}

#[test]
fn interrupted_comparison_counts_each_record_once() {
    let mut bench = bench(0, &[("s-1", publish(1, 2, b"x"))]);
    begin_outage(&mut bench);
    put_other_data(&mut bench);
    {
        let mut content = bench.content();
        for number in 11..=90 {
            let key = format!("c-{number}");
            content.records.insert(key, command(number, 1, b"x"));
        }
        content.is_down = None;
    }
    while bench.content().quarantine.is_empty() {
        bench.turn_with(|_| ());
    }
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.run(SECOND);
    bench.content().is_down = None;
    // All are compared, and none is removed or replaced yet.
    let is_removing = |bench: &Bench| {
        let trace = &bench.content().trace;
        trace.iter().any(|line| line.starts_with("rewrite -"))
    };
    while !is_removing(&bench) {
        let is_moved = bench.content().quarantine.len() == 81;
        bench.content().fails_writes = is_moved.then_some(ErrorKind::InUse);
        bench.turn_with(|_| ());
    }
    {
        let mut content = bench.content();
        content.fails_writes = None;
        content
            .records
            .insert("c-99".to_owned(), command(99, 1, b"x"));
    }
    bench.run(10 * SECOND);
    assert!(bench.is_up());
    assert_eq!(bench.content().quarantine.len(), 82);
    assert_eq!(quarantined(&bench), 82);
    assert_eq!(lost(&bench), ["s-1", "1"]);
}

#[test]
fn put_spares_foreign_record_in_same_store() {
    let mut bench = bench(usize::MAX, &[]);
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        for key in ["s-1", "s-2", "s-3"] {
            content
                .records
                .insert(key.to_owned(), publish(7, 2, b"other"));
        }
        content.records.insert("q-1".to_owned(), queued(9));
    });
    assert_eq!(foreign(&bench), [(4, false)]);
    bench.put("q-1", &queued(1));
    bench.put("s-1", &publish(1, 2, b"own"));
    bench.put("sc-1", &pubrel(1));
    // One that is gone before the other record is moved, and one that is sent from a command.
    bench.put("s-2", &publish(2, 1, b"own"));
    bench.remove("s-2");
    bench.put("c-9", &command(3, 2, b"own"));
    bench.send("c-9", "s-3", &publish(3, 2, b"own"));
    for key in ["s-1", "s-2", "s-3"] {
        assert_eq!(bench.stored()[key], publish(7, 2, b"other"));
    }
    assert!(bench.stored().contains_key("c-9"));
    bench.run(5 * SECOND);
    assert_eq!(
        bench.stored_keys(),
        ["q-1", "q-2", "s-1", "s-2", "s-3", "sc-1"]
    );
    assert_eq!(bench.stored()["q-1"], queued(9));
    assert_eq!(bench.stored()["s-1"], publish(1, 2, b"own"));
    assert_eq!(bench.stored()["s-2"], publish(7, 2, b"other"));
    assert_eq!(bench.stored()["s-3"], publish(3, 2, b"own"));
    assert_eq!(bench.content().quarantine.len(), 2);
    assert_eq!(quarantined(&bench), 2);
    // The check counts them all, so nothing seems lost.
    let is_down = |event: &&StoreEvent| matches!(event, StoreEvent::Down { .. });
    assert_eq!(bench.events().iter().filter(is_down).count(), 1);
    assert_eq!(foreign(&bench)[1..], [(1, true), (1, true)]);
}

#[test]
fn packet_waits_for_unmovable_record_in_its_way() {
    let mut content = Content::new(&[("s-1", b"unreadable".to_vec())]);
    content.refuses_quarantine = Some(ErrorKind::Permission);
    let mut bench = Bench::with_content(&Settings::default(), content);
    bench.put("s-1", &publish(1, 2, b"own"));
    bench.put("s-2", &publish(2, 2, b"own"));
    bench.run(2 * SECOND);
    assert_eq!(bench.stored()["s-1"], b"unreadable");
    assert_eq!(bench.stored()["s-2"], publish(2, 2, b"own"));
    assert!(bench.is_up());
    assert_eq!(bench.persistence.health().snapshot().held_records, 1);
    // Also through an outage in which nothing is compared.
    bench.content().fails_writes = Some(ErrorKind::Misconf);
    bench.put("q-1", &queued(1));
    bench.run(SECOND);
    assert!(!bench.is_up());
    bench.content().fails_writes = None;
    bench.run(3 * SECOND);
    assert!(bench.is_up());
    assert_eq!(bench.stored()["s-1"], b"unreadable");
    bench.persistence.close().expect_err("one is not written");
    bench.content().refuses_quarantine = None;
    let mut bench = bench.crash();
    assert_eq!(bench.stored_keys(), ["q-1", "s-2"]);
    bench.put("s-1", &publish(1, 2, b"own"));
    assert_eq!(bench.stored()["s-1"], publish(1, 2, b"own"));
}

#[test]
fn altered_record_is_quarantined_before_put() {
    for is_prefetched in [false, true] {
        let records = [("s-1", publish(1, 2, b"x")), ("s-2", publish(2, 2, b"y"))];
        let mut bench = bench(0, &records);
        bench
            .content()
            .records
            .insert("s-1".to_owned(), publish(1, 2, b"other"));
        if is_prefetched {
            bench.get("s-2");
        }
        bench.persistence.get("s-1").expect_err("altered");
        bench.put("s-1", &publish(1, 2, b"own"));
        assert_eq!(bench.stored()["s-1"], publish(1, 2, b"other"));
        bench.run(5 * SECOND);
        assert_eq!(bench.stored()["s-1"], publish(1, 2, b"own"));
        assert_eq!(bench.content().quarantine.len(), 1);
        assert_eq!(lost(&bench), ["s-1", "1"]);
        assert_eq!(foreign(&bench), [(1, false), (1, true)]);
    }
}

#[test]
fn store_without_copy_gets_another_one() {
    let mut bench = bench(usize::MAX, &[]);
    begin_outage(&mut bench);
    recover_until(&mut bench, queued(9), 1, "rewrite !q:q-1");
    bench.content().is_down = Some(ErrorKind::Connection);
    bench.run(SECOND);
    {
        let mut content = bench.content();
        content.instance_id += 1;
        content.quarantine.clear();
        content.is_down = None;
    }
    bench.run(5 * SECOND);
    assert_eq!(bench.stored_keys(), ["q-5"]);
    assert_eq!(bench.content().quarantine.len(), 1);
}

#[test]
fn flush_tries_refused_message_once() {
    let mut bench = bench(usize::MAX, &[]);
    bench.interrupt(ErrorKind::Connection, |bench| {
        let other = publish(7, 2, b"other");
        bench.content().records.insert("s-1".to_owned(), other);
        bench.content().refuses_quarantine = Some(ErrorKind::OutOfMemory);
    });
    bench.put("s-1", &publish(1, 2, b"own"));
    bench.trace();
    let flushed = bench.persistence.health().flush(SECOND);
    let error = flushed.expect_err("it is in the way");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let trace = bench.trace();
    let attempts = trace.iter().filter(|line| line.contains("!q:s-1"));
    assert!((1..=3).contains(&attempts.count()), "{trace:?}");
}

/// Records of another program that have the packet id of `s-1`.
fn records_with_its_packet_id() -> [(&'static str, Vec<u8>); 3] {
    let other = publish(1, 2, b"other");
    [("sc-1", pubrel(1)), ("sc5-1", pubrel(1)), ("s5-1", other)]
}

#[test]
fn foreign_record_with_its_packet_id_holds_up_publish() {
    for (key, value) in records_with_its_packet_id() {
        let mut bench = bench(usize::MAX, &[]);
        bench.interrupt(ErrorKind::Connection, |bench| {
            let records = &mut bench.content().records;
            records.insert(key.to_owned(), value.clone());
        });
        assert_eq!(foreign(&bench), [(1, false)]);
        bench.put("c-1", &command(1, 2, b"own"));
        bench.send("c-1", "s-1", &publish(1, 2, b"own"));
        // A crash finds the message as a command: Paho would take the two for one message in flight.
        assert_eq!(bench.stored_keys(), ["c-1", key]);
        bench.run(5 * SECOND);
        assert_eq!(bench.stored_keys(), ["s-1"]);
        assert_eq!(bench.content().quarantine.len(), 1);
        assert_eq!(foreign(&bench)[1..], [(1, true)]);
        assert!(bench.is_up() && lost(&bench).is_empty());
    }
}

#[test]
fn unknown_record_beside_stored_publish_is_moved() {
    for (key, value) in records_with_its_packet_id() {
        let mut bench = bench(usize::MAX, &[]);
        bench.put("c-1", &command(1, 2, b"own"));
        bench.send("c-1", "s-1", &publish(1, 2, b"own"));
        bench.run(SECOND);
        bench.interrupt(ErrorKind::Connection, |bench| {
            let records = &mut bench.content().records;
            records.insert(key.to_owned(), value.clone());
        });
        assert_eq!(bench.stored_keys(), ["s-1"]);
        assert_eq!(bench.content().quarantine.len(), 1);
        assert_eq!(bench.stored()["s-1"], publish(1, 2, b"own"));
        assert_eq!(foreign(&bench), [(1, true)]);
    }
}

#[test]
fn acknowledged_message_leaves_despite_foreign_pubrel() {
    let mut bench = bench(usize::MAX, &[]);
    bench.put("c-1", &command(1, 2, b"own"));
    bench.send("c-1", "s-1", &publish(1, 2, b"own"));
    bench.run(SECOND);
    bench.content().refuses_quarantine = Some(ErrorKind::Permission);
    bench.interrupt(ErrorKind::Connection, |bench| {
        let records = &mut bench.content().records;
        records.insert("sc5-1".to_owned(), pubrel(1));
    });
    assert_eq!(bench.stored_keys(), ["s-1", "sc5-1"]);
    bench.remove("s-1");
    bench.run(SECOND);
    assert_eq!(bench.stored_keys(), ["sc5-1"]);
    assert_eq!(bench.content().quarantine.len(), 0);
}

#[test]
fn record_that_comes_again_is_quarantined_again() {
    let mut bench = bench(usize::MAX, &[]);
    let other = publish(1, 2, b"other");
    bench.interrupt(ErrorKind::Connection, |bench| {
        let records = &mut bench.content().records;
        records.insert("s-1".to_owned(), other.clone());
    });
    bench.put("s-1", &publish(1, 2, b"own"));
    bench.run(5 * SECOND);
    let dead_letters = bench.persistence.dead_letters();
    let letters = dead_letters.list().expect("listed");
    assert_eq!(letters.len(), 1);
    dead_letters.remove(&letters[0]).expect("removed");
    bench.remove("s-1");
    bench.run(SECOND);
    // The other program writes it again, while a put of ours is pending.
    bench.interrupt(ErrorKind::Connection, |bench| {
        bench.put("s-1", &publish(1, 2, b"own again"));
        let records = &mut bench.content().records;
        records.insert("s-1".to_owned(), other.clone());
    });
    assert_eq!(bench.stored()["s-1"], publish(1, 2, b"own again"));
    assert_eq!(bench.content().quarantine.len(), 1);
}

#[test]
fn worker_makes_few_exchanges_per_turn() {
    let mut bench = bench(usize::MAX, &[]);
    bench.interrupt(ErrorKind::Connection, |bench| {
        let records = &mut bench.content().records;
        records.insert("s-1".to_owned(), publish(1, 2, b"other"));
    });
    bench.content().largest_value = Some(1_000);
    bench.put("s-1", &publish(1, 2, b"own"));
    bench.put("q-2", &command(2, 1, &[0; 2_000]));
    bench.run(SECOND / 2);
    bench.content().largest_value = None;
    let end = bench.now() + 10 * SECOND;
    let mut number = 100;
    while bench.now() < end {
        number += 1;
        bench.put(&format!("q-{number}"), &queued(1));
        bench.remove(&format!("q-{number}"));
        bench.trace();
        bench.turn_with(|_| ());
        // One wait of a call is an exchange too, so the worker must not add many.
        let trace = bench.trace();
        assert!(trace.len() <= 2, "{trace:?}");
    }
    assert_eq!(bench.stored_keys(), ["q-2", "s-1"]);
}

#[test]
fn older_record_is_kept_if_another_one_is_lost() {
    let mut bench = bench(0, &[("s-1", publish(1, 2, b"x"))]);
    let value = command(2, 2, b"older");
    bench.put("c-2", &value);
    bench.send("c-2", "s-2", &publish(2, 2, b"older"));
    bench.remove("s-2");
    bench.run(SECOND);
    // It may be the older state of the one that is lost.
    bench.interrupt(ErrorKind::Connection, |bench| {
        let mut content = bench.content();
        content.instance_id += 1;
        content.records = [("c-2".to_owned(), value.clone())].into();
    });
    assert_eq!(lost(&bench), ["s-1", "1"]);
    assert!(bench.stored_keys().is_empty());
    let quarantine: Vec<Vec<u8>> = bench.content().quarantine.values().cloned().collect();
    assert_eq!(quarantine, [value]);
}
