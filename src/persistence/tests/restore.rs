//! Restores that are incomplete, or larger than the cache.

use std::time::Duration;

use paho_mqtt::ClientPersistence;

use super::bench::{Bench, SECOND, assert_readable, command, publish, pubrel};
use crate::{error::ErrorKind, persistence::simulated::Settings, store::StoreEvent};

const SMALL_CACHE: Settings = Settings {
    durability: crate::store::Durability::Confirmed,
    replicas: 0,
    cache_limit: 0,
    buffer_warn_bytes: usize::MAX,
    max_buffered_messages: None,
    byte_budget: None,
    over_budget: crate::persistence::OverBudget::Keep,
    max_sends: 10,
    quarantines_poison: false,
    call_timeout: Duration::from_millis(250),
    open_timeout: Duration::from_secs(2),
    open_without_store: false,
    without_dead_letters: false,
    set_aside_limits: crate::store::SetAsideLimits::DEFAULT,
};

/// Ten waiting commands, of which Paho has read all but the first six.
fn half_restored(settings: &Settings) -> Bench {
    let names: Vec<String> = (1..=10).map(|number| format!("c-{number}")).collect();
    let records: Vec<(&str, Vec<u8>)> = names
        .iter()
        .zip(1..)
        .map(|(name, number)| (&**name, command(number, 1, name.as_bytes())))
        .collect();
    let mut bench = Bench::new(settings, &records);
    let keys = bench.persistence.keys().expect("listed");
    assert_eq!(keys.len(), 10);
    for number in 1..=4 {
        bench.get(&format!("c-{number}"));
    }
    bench
}

#[test]
fn messages_keep_order_after_half_a_restore() {
    let mut bench = half_restored(&Settings::default());
    // Paho counts on from the last command that it has read.
    let new: Vec<Vec<u8>> = (5..=20)
        .map(|number| command(number + 100, 1, b"new"))
        .collect();
    for (value, number) in new.iter().zip(5..) {
        bench.put(&format!("c-{number}"), value);
    }
    for (value, number) in new.iter().zip(5..) {
        assert_eq!(bench.get(&format!("c-{number}")), *value);
    }
    let bench = bench.crash();
    let mut stored: Vec<(u32, Vec<u8>)> = bench
        .stored()
        .into_iter()
        .map(|(key, value)| (key[2..].parse().expect("a number"), value))
        .collect();
    stored.sort();
    let values: Vec<Vec<u8>> = stored.into_iter().map(|(_, value)| value).collect();
    let old = (1..=10).map(|number| command(number, 1, format!("c-{number}").as_bytes()));
    let expected: Vec<Vec<u8>> = old.chain(new).collect();
    assert_eq!(values, expected);
}

#[test]
fn command_zero_with_other_number_outlives_connect() {
    let mut bench = half_restored(&SMALL_CACHE);
    bench.put("c-5", &command(105, 1, b"new"));
    let zero = command(106, 1, b"zero");
    bench.put("c-0", &zero);
    bench.put("c-1", &command(107, 1, b"evicts it"));
    bench.remove("c-0");
    assert_eq!(bench.get("c-0"), zero);
}

#[test]
fn half_a_restore_costs_later_calls_nothing() {
    let mut bench = half_restored(&SMALL_CACHE);
    let reads = bench.content().reads;
    for number in 5..=10 {
        bench.put(&format!("c-{number}"), &command(number + 100, 1, b"new"));
    }
    assert_eq!(bench.content().reads, reads);
    // Also during an outage, in which no value can be read.
    bench.content().is_down = Some(ErrorKind::Connection);
    for number in 11..=16 {
        bench.put(&format!("c-{number}"), &command(number + 100, 1, b"new"));
        bench.remove(&format!("c-{number}"));
    }
    bench.content().is_down = None;
    bench.run(3 * SECOND);
    assert_eq!(bench.stored().len(), 16, "{:?}", bench.stored_keys());
}

#[test]
fn unread_record_outlives_new_one_of_its_key() {
    let mut bench = half_restored(&Settings::default());
    for number in 5..=10 {
        let key = format!("c-{number}");
        bench.put(&key, &command(number + 100, 1, b"new"));
        bench.send(
            &key,
            &format!("s-{}", number + 100),
            &publish(u16::try_from(number + 100).expect("small"), 1, b"new"),
        );
        // Paho removes each command once; a second remove must not meet the unread record.
        bench.remove(&key);
    }
    bench.run(SECOND);
    let keys = bench.stored_keys();
    for number in 1..=10 {
        assert!(keys.contains(&format!("c-{number}")), "{keys:?}");
    }
    let visible = bench.persistence.keys().expect("listed");
    assert_eq!(visible.len(), keys.len(), "{visible:?}");
}

#[test]
fn set_aside_record_is_reported_with_its_size() {
    let mut bench = half_restored(&Settings::default());
    bench.put("c-5", &command(105, 1, b"new"));
    bench.run(SECOND);
    let size = command(5, 1, b"c-5").len();
    let is_reported = |event: &StoreEvent| matches!(event, StoreEvent::RecordRelocated { bytes, .. } if *bytes == size);
    assert!(
        bench.events().iter().any(is_reported),
        "{:?}",
        bench.events()
    );
}

#[test]
fn unread_publish_of_other_version_is_kept() {
    // A 3.1.1 client stops its restore at a record of MQTT 5, and reuses the packet id.
    let v5 = b"\x34\x08\x00\x01t\x00\x07\x00v5".to_vec();
    let mut bench = Bench::new(&Settings::default(), &[("s5-7", v5.clone())]);
    bench.persistence.keys().expect("listed");
    bench.put("c-1", &command(7, 1, b"new"));
    bench.send("c-1", "s-7", &publish(7, 1, b"new"));
    bench.run(SECOND);
    let stored = bench.stored();
    assert_eq!(stored["s-7"], publish(7, 1, b"new"));
    let is_old = |value: &&Vec<u8>| value.ends_with(b"v5");
    assert_eq!(
        stored.values().filter(is_old).count(),
        1,
        "{:?}",
        bench.stored_keys()
    );
    assert_readable(&bench);
}

fn in_flight(count: u16) -> Vec<(String, Vec<u8>)> {
    (1..=count)
        .flat_map(|id| {
            let payload = [b'x'; 500];
            [
                (format!("s-{id}"), publish(id, 2, &payload)),
                (format!("sc-{id}"), pubrel(id)),
            ]
        })
        .collect()
}

#[test]
fn restore_beyond_cache_takes_few_exchanges() {
    let commands = (1..=2_000).map(|number| {
        (
            format!("c-{number}"),
            command(1_000 + number, 1, &[b'y'; 500]),
        )
    });
    let records: Vec<(String, Vec<u8>)> = in_flight(2_000).into_iter().chain(commands).collect();
    let records: Vec<(&str, Vec<u8>)> = records
        .iter()
        .map(|(key, value)| (&**key, value.clone()))
        .collect();
    let mut bench = Bench::new(&SMALL_CACHE, &records);
    let before = bench.content().reads;
    bench.restore();
    let reads = bench.content().reads - before;
    assert!(reads <= 40, "{reads} reads for 6,000 records");
    let cached = bench.worker.cached_bytes();
    assert!(cached <= 512 * 1024, "{cached} bytes in memory");
}

#[test]
fn reconnect_beyond_cache_reads_nothing() {
    let records = in_flight(300);
    let records: Vec<(&str, Vec<u8>)> = records
        .iter()
        .map(|(key, value)| (&**key, value.clone()))
        .collect();
    let mut bench = Bench::new(&SMALL_CACHE, &records);
    bench.restore();
    bench.remove("c-0");
    let before = bench.content().reads;
    let cached = bench.worker.cached_bytes();
    for (key, value) in &records {
        // Paho sets the DUP flag of what it sends again.
        let mut value = value.clone();
        if key.starts_with("s-") {
            value[0] |= 0x08;
        }
        bench.put(key, &value);
    }
    assert_eq!(bench.content().reads, before);
    assert!(
        bench.worker.cached_bytes() <= cached.max(1_000),
        "{}",
        bench.worker.cached_bytes()
    );
    // A damaged copy is still noticed.
    let mut damaged = records[0].1.clone();
    *damaged.last_mut().expect("a payload") = b'?';
    bench
        .persistence
        .put(records[0].0, vec![&damaged])
        .expect_err("damaged");
    assert_eq!(bench.stored()[records[0].0], records[0].1);
}
