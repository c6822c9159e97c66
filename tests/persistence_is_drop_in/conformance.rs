//! Behaviors that every persistence shares, instrumented or not.

// Only the callbacks of the C library show concurrent calls and the answer of `contains_key` as Paho receives it.
#![allow(unsafe_code)]

use std::{
    collections::BTreeSet,
    ffi::{CString, c_char, c_void},
    thread,
};

use paho_mqtt::UserPersistence;
use paho_mqtt_redis::{Error, ErrorKind};
use testkit::{publish_command_of, record, subscribe_command};

use crate::backend::{self, Backend, ID, Opened, URI};

/// Defines a test per backend and behavior: `conformance::<backend>::<behavior>`.
macro_rules! conformance {
    (backends: $($backend:ident)*; behaviors: $behaviors:tt) => {
        $(conformance!(@module $backend $behaviors);)*
    };
    (@module $backend:ident { $($behavior:ident)* }) => {
        mod $backend {
            $(
                #[test]
                fn $behavior() {
                    super::$behavior(&super::backend::$backend());
                }
            )*
        }
    };
}

conformance! {
    backends:
        memory
        redis_tcp
        redis_unix
        instrumented_memory
        instrumented_redis_tcp
        instrumented_redis_unix;
    behaviors: {
        values_are_returned_unchanged
        missing_record_is_not_found
        keys_lists_existing_records
        records_outlive_persistence_object
        clients_have_separate_records
        calls_before_open_and_after_close_fail
        key_unknown_to_paho_is_refused
        contains_key_reports_existing_record
        acknowledged_publish_leaves_no_record
        command_put_again_stays
        read_command_is_removed_by_key_of_other_version
        command_zero_survives_connect
        command_removed_after_listing_is_gone
        resent_publish_keeps_first_value
        contains_key_covers_both_versions
        put_replaces_same_message_of_other_version
        put_keeps_other_message_of_other_version
        unread_record_is_removed_by_key_of_other_version
        publish_is_removed_with_its_pubrel
        unconnected_client_deletes_nothing
        put_keeps_unread_record_in_order
        put_relocates_unread_record
        wrapped_commands_keep_their_order
        unreadable_records_are_not_listed
        overlapping_calls_are_safe
    }
}

fn kind<T>(result: paho_mqtt::Result<T>) -> Option<ErrorKind> {
    Error::in_mqtt(&result.err()?).map(Error::kind)
}

fn keys(persistence: &mut Opened) -> BTreeSet<String> {
    let list = persistence.keys().expect("lists");
    let set: BTreeSet<_> = list.iter().cloned().collect();
    assert_eq!(set.len(), list.len(), "a key is listed twice: {list:?}");
    set
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn values_are_returned_unchanged(backend: &Backend) {
    let mut persistence = backend.opened();
    let every_byte: Vec<u8> = (0..=255).collect();
    let large = vec![0xa5; 1 << 20];
    let values: [&[&[u8]]; 6] = [
        &[b"one part"],
        &[b"many", b"", b" ", b"parts", &every_byte],
        &[],
        &[b""],
        &[b"\xff\0\r\n$-1\r\n"],
        &[&large, b"end"],
    ];
    for (number, value) in (1..).zip(values) {
        let key = format!("c5-{number}");
        persistence.put(&key, value.to_vec()).expect("puts");
        assert_eq!(
            persistence.get(&key).expect("gets"),
            value.concat(),
            "{key}"
        );
    }
    persistence
        .put("c5-1", vec![b"another"])
        .expect("puts over");
    assert_eq!(persistence.get("c5-1").expect("gets"), b"another");
}

fn missing_record_is_not_found(backend: &Backend) {
    let mut persistence = backend.opened();
    assert_eq!(kind(persistence.get("s-1")), Some(ErrorKind::NotFound));
    persistence.remove("s-1").expect("removing nothing is fine");
    persistence.put("s-1", vec![b"x"]).expect("puts");
    persistence.remove("s-1").expect("removes");
    assert_eq!(kind(persistence.get("s-1")), Some(ErrorKind::NotFound));
    persistence.remove("c-0").expect("removing nothing is fine");
}

fn keys_lists_existing_records(backend: &Backend) {
    let mut persistence = backend.opened();
    assert_eq!(keys(&mut persistence), set(&[]));
    let all = [
        "c-0",
        "c5-999999",
        "s-1",
        "s5-65535",
        "sc-1",
        "sc5-2",
        "r-1",
        "r5-2",
        "q-1",
        "q5-1",
    ];
    for key in all {
        persistence
            .put(key, vec![&record(key, b"x")])
            .expect("puts");
    }
    assert_eq!(keys(&mut persistence), set(&all));
    persistence.remove("sc-1").expect("removes");
    assert!(!keys(&mut persistence).contains("sc-1"));
    persistence.clear().expect("clears");
    assert_eq!(keys(&mut persistence), set(&[]));
}

fn records_outlive_persistence_object(backend: &Backend) {
    let mut persistence = backend.opened();
    let value = record("s5-7", b"stays");
    persistence.put("s5-7", vec![&value]).expect("puts");
    persistence.close().expect("closes");
    drop(persistence);
    let mut again = backend.create();
    again.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut again), set(&["s5-7"]));
    assert_eq!(again.get("s5-7").expect("gets"), value);
    drop(again);
    let mut without_close = backend.create();
    without_close.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut without_close), set(&["s5-7"]));
}

fn clients_have_separate_records(backend: &Backend) {
    let mut one = backend.opened();
    let value = record("c-1", b"of one");
    one.put("c-1", vec![&value]).expect("puts");
    for (id, uri) in [("device-2", URI), (ID, "127.0.0.1:1884"), ("device", URI)] {
        let mut other = backend.create();
        other.open(id, uri).expect("opens");
        assert_eq!(keys(&mut other), set(&[]), "{id} {uri}");
        let another = record("c-1", b"of another");
        other.put("c-1", vec![&another]).expect("puts");
        other.clear().expect("clears");
    }
    assert_eq!(one.get("c-1").expect("gets"), value);
}

fn calls_before_open_and_after_close_fail(backend: &Backend) {
    let not_open = |persistence: &mut Opened| {
        let expected = Some(ErrorKind::NotOpen);
        assert_eq!(kind(persistence.put("c-1", vec![b"x"])), expected);
        assert_eq!(kind(persistence.get("c-1")), expected);
        assert_eq!(kind(persistence.remove("c-1")), expected);
        assert_eq!(kind(persistence.keys()), expected);
        assert_eq!(kind(persistence.clear()), expected);
        assert_ne!(contains_for_paho(persistence, "c-1"), 0);
    };
    let mut persistence = backend.create();
    not_open(&mut persistence);
    persistence
        .close()
        .expect("closing a closed persistence is fine");
    assert_eq!(
        kind(persistence.open("", URI)),
        Some(ErrorKind::InvalidClientId)
    );
    persistence.open(ID, URI).expect("opens");
    persistence.close().expect("closes");
    not_open(&mut persistence);
}

fn key_unknown_to_paho_is_refused(backend: &Backend) {
    let mut persistence = backend.opened();
    for key in ["", "x-1", "c", "c-1\0", "s-0", "c-1000000", "foreign"] {
        let expected = Some(ErrorKind::InvalidKey);
        assert_eq!(kind(persistence.put(key, vec![b"x"])), expected, "{key:?}");
        assert_eq!(kind(persistence.get(key)), expected, "{key:?}");
        assert_eq!(kind(persistence.remove(key)), expected, "{key:?}");
    }
    assert_eq!(keys(&mut persistence), set(&[]));
}

/// Answer to the C library that asks for a key: 0 if the record exists.
fn contains_for_paho(persistence: &mut Opened, key: &str) -> i32 {
    let key = CString::new(key).expect("no NUL");
    // SAFETY: the callback takes its handle for the address of such a box and reads the key.
    unsafe {
        UserPersistence::on_contains_key(
            (&raw mut *persistence).cast::<c_void>(),
            key.as_ptr().cast_mut(),
        )
    }
}

fn contains_key_reports_existing_record(backend: &Backend) {
    let mut persistence = backend.opened();
    assert_ne!(contains_for_paho(&mut persistence, "sc-1"), 0);
    persistence.put("sc-1", vec![b"PUBREL"]).expect("puts");
    assert_eq!(contains_for_paho(&mut persistence, "sc-1"), 0);
    assert_ne!(contains_for_paho(&mut persistence, "sc-2"), 0);
    persistence.remove("sc-1").expect("removes");
    assert_ne!(contains_for_paho(&mut persistence, "sc-1"), 0);
}

fn acknowledged_publish_leaves_no_record(backend: &Backend) {
    let mut persistence = backend.opened();
    for (number, qos) in [(1, 0), (2, 1), (3, 2), (4, 1), (5, 0), (6, 2)] {
        let c = format!("c5-{number}");
        let (s, sc) = (format!("s5-{number}"), format!("sc5-{number}"));
        let value = publish_command_of(&c, number, qos);
        persistence.put(&c, vec![&value]).expect("puts");
        assert_eq!(persistence.get(&c).expect("gets"), value);
        persistence.remove(&c).expect("removes");
        assert!(
            !keys(&mut persistence).contains(&c),
            "removed is removed, sent or not"
        );
        assert_eq!(kind(persistence.get(&c)), Some(ErrorKind::NotFound));
        if qos > 0 {
            persistence.put(&s, vec![b"PUBLISH"]).expect("puts");
            assert!(keys(&mut persistence).contains(&s));
        }
        if qos > 1 {
            persistence.put(&sc, vec![b"PUBREL"]).expect("puts");
        }
        for key in [&s, &sc, &format!("s-{number}"), &format!("sc-{number}")] {
            persistence.remove(key).expect("removes");
        }
        assert_eq!(keys(&mut persistence), set(&[]));
    }
    persistence.close().expect("closes");
    let mut again = backend.create();
    again.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut again), set(&[]));
}

fn command_put_again_stays(backend: &Backend) {
    let mut persistence = backend.opened();
    persistence
        .put("c-1", vec![&publish_command_of("c-1", 9, 1)])
        .expect("puts");
    persistence.get("c-1").expect("gets");
    persistence.remove("c-1").expect("removes");
    persistence
        .put("c-1", vec![&publish_command_of("c-1", 10, 1)])
        .expect("puts again");
    persistence
        .put("s-9", vec![&record("s-9", b"payload")])
        .expect("puts");
    persistence.close().expect("closes");
    let mut again = backend.create();
    again.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut again), set(&["c-1", "s-9"]));
}

fn read_command_is_removed_by_key_of_other_version(backend: &Backend) {
    let subscribe = subscribe_command(7, "commands");
    for (read, removed) in [("c-5", "c5-5"), ("c5-5", "c-5")] {
        for value in [
            publish_command_of(read, 7, 0),
            publish_command_of(read, 7, 1),
            subscribe.clone(),
        ] {
            let mut persistence = backend.opened();
            persistence.put(read, vec![&value]).expect("puts");
            persistence.get(read).expect("gets");
            persistence.remove(removed).expect("removes");
            persistence
                .put("s-7", vec![&record("s-7", b"payload")])
                .expect("puts");
            assert_eq!(keys(&mut persistence), set(&["s-7"]));
            drop(persistence);
            let mut again = backend.create();
            again.open(ID, URI).expect("opens");
            assert_eq!(keys(&mut again), set(&["s-7"]), "{read} {removed}");
        }
    }
}

fn command_zero_survives_connect(backend: &Backend) {
    let mut persistence = backend.opened();
    let value = publish_command_of("c5-0", 7, 1);
    persistence.put("c5-0", vec![&value]).expect("puts");
    persistence.remove("c5-0").expect("what each connect does");
    assert_eq!(persistence.get("c5-0").expect("is still there"), value);
    persistence.remove("c5-0").expect("is sent");
    persistence.put("s5-7", vec![b"PUBLISH"]).expect("puts");
    assert_eq!(keys(&mut persistence), set(&["s5-7"]));
}

/// A client that does not restore messages lists them and removes each; its successor must find none.
fn command_removed_after_listing_is_gone(backend: &Backend) {
    let mut persistence = backend.opened();
    persistence
        .put("c-1", vec![&publish_command_of("c-1", 7, 1)])
        .expect("puts");
    persistence.get("c-1").expect("gets");
    persistence.keys().expect("lists");
    persistence.remove("c-1").expect("removes");
    drop(persistence);
    let mut successor = backend.create();
    successor.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut successor), set(&[]));
}

fn resent_publish_keeps_first_value(backend: &Backend) {
    let mut persistence = backend.opened();
    let (first, again, garbage) = (
        b"\x34 the message",
        b"\x3c the message",
        b"\x3c\0\0e message",
    );
    persistence.put("s5-7", vec![first]).expect("puts");
    persistence
        .put("s5-7", vec![&again[..3], &again[3..]])
        .expect("is the same message");
    assert_eq!(
        kind(persistence.put("s5-7", vec![garbage])),
        Some(ErrorKind::Damaged)
    );
    assert_eq!(
        kind(persistence.put("s5-7", vec![&first[..5]])),
        Some(ErrorKind::Damaged)
    );
    assert_eq!(persistence.get("s5-7").expect("gets"), first);
    // Another message may have its number once it is acknowledged, and even if its removal failed.
    persistence.remove("s5-7").expect("removes");
    persistence
        .put("s5-7", vec![b"\x32 another"])
        .expect("puts");
    persistence
        .put("c5-1", vec![&publish_command_of("c5-1", 7, 1)])
        .expect("puts");
    persistence.get("c5-1").expect("gets");
    persistence.remove("c5-1").expect("removes");
    persistence
        .put("s5-7", vec![b"\x32 a third"])
        .expect("puts");
    assert_eq!(persistence.get("s5-7").expect("gets"), b"\x32 a third");
    assert_eq!(keys(&mut persistence), set(&["s5-7"]));
}

/// A message may be stored under the key of either MQTT version, and Paho asks with either.
fn contains_key_covers_both_versions(backend: &Backend) {
    let mut persistence = backend.opened();
    for key in ["s-1", "sc5-2"] {
        persistence
            .put(key, vec![&record(key, b"x")])
            .expect("puts");
    }
    for (key, there) in [
        ("s-1", true),
        ("s5-1", true),
        ("sc-2", true),
        ("sc5-1", false),
        ("s5-2", false),
    ] {
        assert_eq!(
            contains_for_paho(&mut persistence, key) == 0,
            there,
            "{key}"
        );
    }
}

fn put_replaces_same_message_of_other_version(backend: &Backend) {
    for (before, put) in [
        (&["s-1"][..], "s5-1"),
        (&["s5-1"], "s-1"),
        (&["sc-1", "sc5-1"], "s5-1"),
        (&["sc-1"], "sc5-1"),
        (&["r-1"], "r5-1"),
    ] {
        let mut persistence = backend.opened();
        for key in before {
            persistence
                .put(key, vec![&record(key, b"x")])
                .expect("puts");
        }
        persistence
            .put(put, vec![&record(put, b"x")])
            .expect("puts");
        assert_eq!(keys(&mut persistence), set(&[put]), "{before:?} {put}");
        drop(persistence);
        let mut again = backend.create();
        again.open(ID, URI).expect("opens");
        assert_eq!(keys(&mut again), set(&[put]), "{before:?} {put}");
        again.clear().expect("clears");
    }
}

fn put_keeps_other_message_of_other_version(backend: &Backend) {
    let mut persistence = backend.opened();
    let first = record("s-1", b"first");
    persistence.put("s-1", vec![&first]).expect("puts");
    let damaged = persistence.put("s5-1", vec![&record("s5-1", b"garbage")]);
    assert_eq!(kind(damaged), Some(ErrorKind::Damaged));
    assert_eq!(persistence.get("s-1").expect("is still there"), first);
}

/// Paho removes delivered and discarded messages under the key of its current version.
fn unread_record_is_removed_by_key_of_other_version(backend: &Backend) {
    for (stored, removed) in [("q-5", "q5-5"), ("q5-5", "q-5"), ("c-5", "c5-5")] {
        let mut persistence = backend.opened();
        persistence
            .put(stored, vec![&record(stored, b"x")])
            .expect("puts");
        persistence.remove(removed).expect("removes");
        assert_eq!(keys(&mut persistence), set(&[]), "{stored}");
    }
}

/// Paho removes the PUBREL before a PUBLISH of the other version, and may be killed in between.
fn publish_is_removed_with_its_pubrel(backend: &Backend) {
    for (publish, pubrel) in [("s-7", "sc5-7"), ("s5-7", "sc-7"), ("s-7", "sc-7")] {
        let mut persistence = backend.opened();
        for key in [publish, pubrel] {
            persistence
                .put(key, vec![&record(key, b"x")])
                .expect("puts");
        }
        persistence.remove(pubrel).expect("removes");
        drop(persistence);
        let mut again = backend.create();
        again.open(ID, URI).expect("opens");
        assert_eq!(keys(&mut again), set(&[]), "{publish} {pubrel}");
    }
}

/// Paho removes its session when a client is dropped that never connected, or could not be created.
fn unconnected_client_deletes_nothing(backend: &Backend) {
    let mut persistence = backend.opened();
    let session = ["s-1", "sc-1", "r-3"];
    for key in session {
        persistence
            .put(key, vec![&record(key, b"x")])
            .expect("puts");
    }
    persistence
        .put("sc-9", vec![&record("sc-9", b"")])
        .expect("puts");
    drop(persistence);

    let mut never_connected = backend.create();
    never_connected.open(ID, URI).expect("opens");
    for key in keys(&mut never_connected) {
        never_connected.get(&key).expect("gets");
    }
    for key in ["sc-9", "s-1", "sc-1", "r-3"] {
        never_connected.remove(key).expect("answers");
    }
    // A PUBREL without its PUBLISH is useless.
    assert_eq!(keys(&mut never_connected), set(&session));
    drop(never_connected);

    let mut connected = backend.create();
    connected.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut connected), set(&session));
    connected.remove("c5-0").expect("what each connect does");
    for key in session {
        connected.remove(key).expect("removes");
    }
    assert_eq!(keys(&mut connected), set(&[]));
}

/// Paho gives a new message the number of a command that it could not read when the client was created.
fn put_keeps_unread_record_in_order(backend: &Backend) {
    for (key, aside, behind) in [("c5-1", "c-1", "c5-2"), ("q-1", "q5-1", "q-2")] {
        let mut persistence = backend.opened();
        let (before, new) = (record(key, b"before"), record(key, b"new"));
        persistence.put(key, vec![&before]).expect("puts");
        drop(persistence);
        let mut again = backend.create();
        again.open(ID, URI).expect("opens");
        again.keys().expect("lists");
        again.put(key, vec![&new]).expect("puts");
        assert_eq!(keys(&mut again), set(&[key, aside]));
        assert_eq!(again.get(key).expect("gets"), new);
        assert_eq!(again.get(aside).expect("gets"), before);
        drop(again);
        // The next start finds both, the older one first.
        let mut again = backend.create();
        again.open(ID, URI).expect("opens");
        assert_eq!(keys(&mut again), set(&[key, behind]));
        assert_eq!(again.get(key).expect("gets"), before);
        let moved = again.get(behind).expect("gets");
        assert!(moved.ends_with(&new[8..]), "{moved:?}");
        again.clear().expect("clears");
    }
}

/// Paho reuses the packet id of a record that it could not read when the client was created.
fn put_relocates_unread_record(backend: &Backend) {
    let (key, moved) = ("s-1", "s-65535");
    let mut persistence = backend.opened();
    let new = record(key, b"new");
    persistence
        .put(key, vec![&record(key, b"before")])
        .expect("puts");
    drop(persistence);
    let mut again = backend.create();
    again.open(ID, URI).expect("opens");
    again.keys().expect("lists");
    again.put(key, vec![&new]).expect("puts");
    for _ in 0..2 {
        assert_eq!(keys(&mut again), set(&[key, moved]));
        assert_eq!(again.get(key).expect("gets"), new);
        // A packet contains its number.
        assert_eq!(again.get(moved).expect("gets"), record(moved, b"before"));
        drop(again);
        again = backend.create();
        again.open(ID, URI).expect("opens");
    }
}

fn wrapped_commands_keep_their_order(backend: &Backend) {
    let mut persistence = backend.opened();
    let numbers = [999_998, 999_999, 0, 1, 2];
    // Each with a packet id of its own.
    let value = |number: i32| publish_command_of("c5-1", number % 1_000 + 1, 1);
    for number in numbers {
        let key = format!("c5-{number}");
        persistence.put(&key, vec![&value(number)]).expect("puts");
    }
    drop(persistence);
    let mut again = backend.create();
    again.open(ID, URI).expect("opens");
    let mut found: Vec<u32> = again
        .keys()
        .expect("lists")
        .iter()
        .map(|key| key[3..].parse().expect("a number"))
        .collect();
    found.sort_unstable();
    assert_eq!(found.len(), numbers.len());
    for (number, place) in numbers.iter().zip(&found) {
        let found = again.get(&format!("c5-{place}")).expect("gets");
        assert_eq!(found, value(*number));
    }
    // Paho gives the next command the number after the highest, which must be free.
    assert!(found.last().is_some_and(|last| *last < 999_999));
}

fn unreadable_records_are_not_listed(backend: &Backend) {
    let mut persistence = backend.opened();
    for key in [
        "c-1", "c5-2", "s-3", "s5-4", "sc-5", "r-6", "r5-7", "q-8", "q5-9",
    ] {
        persistence.put(key, vec![b"\x32\xff"]).expect("puts");
    }
    persistence
        .put("s-1", vec![&record("s-1", b"x")])
        .expect("puts");
    drop(persistence);
    for _ in 0..2 {
        let mut again = backend.create();
        again.open(ID, URI).expect("opens");
        assert_eq!(keys(&mut again), set(&["s-1"]));
    }
}

/// Address of a persistence, as the C library keeps it.
#[derive(Clone, Copy)]
struct Handle(*mut c_void);

// SAFETY: `Persistence` accepts concurrent calls of Paho, which this test checks.
unsafe impl Send for Handle {}

impl Handle {
    fn call(self, key: &str, call: impl FnOnce(*mut c_void, *mut c_char) -> i32) {
        let name = CString::new(key).expect("no NUL");
        assert_eq!(call(self.0, name.as_ptr().cast_mut()), 0, "{key}");
    }

    fn put(self, key: &str, value: &mut [u8]) {
        let mut buffer = value.as_mut_ptr().cast::<c_char>();
        let mut length = i32::try_from(value.len()).expect("short");
        // SAFETY: one buffer and its length, both alive, and a key that ends in NUL.
        self.call(key, |handle, key| unsafe {
            UserPersistence::on_put(handle, key, 1, &raw mut buffer, &raw mut length)
        });
    }

    fn remove(self, key: &str) {
        // SAFETY: a key that ends in NUL.
        self.call(key, |handle, key| unsafe {
            UserPersistence::on_remove(handle, key)
        });
    }
}

fn overlapping_calls_are_safe(backend: &Backend) {
    let mut persistence = backend.opened();
    let handle = Handle((&raw mut persistence).cast());
    thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                let handle = { handle };
                for number in 0..100 {
                    let key = format!("c-{}", u32::from(thread) * 1_000 + number);
                    handle.put(&key, &mut [thread; 50]);
                    if number % 2 == 0 {
                        handle.remove(&key);
                    }
                }
            });
        }
    });
    assert_eq!(keys(&mut persistence).len(), 200);
    assert_eq!(persistence.get("c-3099").expect("gets"), [3; 50]);
}
