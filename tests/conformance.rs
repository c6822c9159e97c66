//! Every persistence, measured or not, gives Paho the same answers.

#![cfg(all(feature = "redis", feature = "metrics"))]
// Paho calls through C, from several threads at once, which only its callbacks can show.
#![allow(unsafe_code)]

mod support;

use std::{
    collections::BTreeSet,
    ffi::{CString, c_char, c_void},
    thread,
};

use paho_mqtt::{ClientPersistence, UserPersistence};
use paho_mqtt_redis::{
    Error, ErrorKind, Instrumented, MemoryPersistence, PersistenceMetrics, RedisPersistence,
    prometheus::Registry,
};
use support::{RedisServer, publish_command};

type Boxed = Box<dyn ClientPersistence + Send>;

/// Makes persistences that have the same store, none of them open.
type Make<'a> = &'a dyn Fn() -> Boxed;

const ID: &str = "device-1";
const URI: &str = "127.0.0.1:1883";

fn suite(make: Make<'_>) {
    values_come_back_as_they_were_given(make);
    what_is_not_there_is_missed(make);
    keys_are_those_that_are_there(make);
    records_outlive_the_object(make);
    clients_are_apart(make);
    before_open_and_after_close_there_is_an_error(make);
    a_key_that_paho_does_not_write_is_refused(make);
    paho_hears_whether_a_key_is_there(make);
    publishes_leave_nothing_behind(make);
    a_command_that_is_put_again_stays(make);
    a_command_is_removed_under_the_key_of_the_other_version(make);
    a_message_with_number_zero_survives_a_connect(make);
    what_is_dropped_after_a_list_is_not_held(make);
    a_publish_that_is_sent_again_stays_what_it_was(make);
    calls_may_overlap(make);
}

fn opened(make: Make<'_>) -> Boxed {
    let mut persistence = make();
    persistence.open(ID, URI).expect("opens");
    persistence.clear().expect("clears");
    persistence
}

fn kind<T>(result: paho_mqtt::Result<T>) -> Option<ErrorKind> {
    Error::in_mqtt(&result.err()?).map(Error::kind)
}

fn keys(persistence: &mut Boxed) -> BTreeSet<String> {
    let list = persistence.keys().expect("lists");
    let set: BTreeSet<_> = list.iter().cloned().collect();
    assert_eq!(set.len(), list.len(), "a key is listed twice: {list:?}");
    set
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn values_come_back_as_they_were_given(make: Make<'_>) {
    let mut persistence = opened(make);
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

fn what_is_not_there_is_missed(make: Make<'_>) {
    let mut persistence = opened(make);
    assert_eq!(kind(persistence.get("s-1")), Some(ErrorKind::NotFound));
    persistence.remove("s-1").expect("removing nothing is fine");
    persistence.put("s-1", vec![b"x"]).expect("puts");
    persistence.remove("s-1").expect("removes");
    assert_eq!(kind(persistence.get("s-1")), Some(ErrorKind::NotFound));
    persistence.remove("c-0").expect("removing nothing is fine");
}

fn keys_are_those_that_are_there(make: Make<'_>) {
    let mut persistence = opened(make);
    assert_eq!(keys(&mut persistence), set(&[]));
    let all = [
        "c-0",
        "c5-999999",
        "s-1",
        "s5-65535",
        "sc-1",
        "sc5-2",
        "r-1",
        "r5-1",
        "q-1",
        "q5-1",
    ];
    for key in all {
        persistence.put(key, vec![key.as_bytes()]).expect("puts");
    }
    assert_eq!(keys(&mut persistence), set(&all));
    persistence.remove("sc-1").expect("removes");
    assert!(!keys(&mut persistence).contains("sc-1"));
    persistence.clear().expect("clears");
    assert_eq!(keys(&mut persistence), set(&[]));
}

fn records_outlive_the_object(make: Make<'_>) {
    let mut persistence = opened(make);
    persistence.put("s5-7", vec![b"stays"]).expect("puts");
    persistence.close().expect("closes");
    drop(persistence);
    let mut again = make();
    again.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut again), set(&["s5-7"]));
    assert_eq!(again.get("s5-7").expect("gets"), b"stays");
    drop(again);
    let mut without_close = make();
    without_close.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut without_close), set(&["s5-7"]));
}

fn clients_are_apart(make: Make<'_>) {
    let mut one = opened(make);
    one.put("c-1", vec![b"of one"]).expect("puts");
    for (id, uri) in [("device-2", URI), (ID, "127.0.0.1:1884"), ("device", URI)] {
        let mut other = make();
        other.open(id, uri).expect("opens");
        assert_eq!(keys(&mut other), set(&[]), "{id} {uri}");
        other.put("c-1", vec![b"of another"]).expect("puts");
        other.clear().expect("clears");
    }
    assert_eq!(one.get("c-1").expect("gets"), b"of one");
}

fn before_open_and_after_close_there_is_an_error(make: Make<'_>) {
    let not_open = |persistence: &mut Boxed| {
        let expected = Some(ErrorKind::NotOpen);
        assert_eq!(kind(persistence.put("c-1", vec![b"x"])), expected);
        assert_eq!(kind(persistence.get("c-1")), expected);
        assert_eq!(kind(persistence.remove("c-1")), expected);
        assert_eq!(kind(persistence.keys()), expected);
        assert_eq!(kind(persistence.clear()), expected);
        assert_ne!(heard(persistence, "c-1"), 0);
    };
    let mut persistence = make();
    not_open(&mut persistence);
    persistence
        .close()
        .expect("closing what is not open is fine");
    assert_eq!(
        kind(persistence.open("", URI)),
        Some(ErrorKind::InvalidClientId)
    );
    persistence.open(ID, URI).expect("opens");
    persistence.close().expect("closes");
    not_open(&mut persistence);
}

fn a_key_that_paho_does_not_write_is_refused(make: Make<'_>) {
    let mut persistence = opened(make);
    for key in ["", "x-1", "c", "c-1\0", "s-0", "c-1000000", "foreign"] {
        let expected = Some(ErrorKind::InvalidKey);
        assert_eq!(kind(persistence.put(key, vec![b"x"])), expected, "{key:?}");
        assert_eq!(kind(persistence.get(key)), expected, "{key:?}");
        assert_eq!(kind(persistence.remove(key)), expected, "{key:?}");
    }
    assert_eq!(keys(&mut persistence), set(&[]));
}

/// What the C library is told when it asks whether a key is there: 0 is yes.
fn heard(persistence: &mut Boxed, key: &str) -> i32 {
    let key = CString::new(key).expect("no NUL");
    // SAFETY: the callback takes its handle for the address of such a box and reads the key.
    unsafe {
        UserPersistence::on_contains_key(
            (&raw mut *persistence).cast::<c_void>(),
            key.as_ptr().cast_mut(),
        )
    }
}

fn paho_hears_whether_a_key_is_there(make: Make<'_>) {
    let mut persistence = opened(make);
    assert_ne!(heard(&mut persistence, "sc-1"), 0);
    persistence.put("sc-1", vec![b"PUBREL"]).expect("puts");
    assert_eq!(heard(&mut persistence, "sc-1"), 0);
    assert_ne!(heard(&mut persistence, "sc-2"), 0);
    persistence.remove("sc-1").expect("removes");
    assert_ne!(heard(&mut persistence, "sc-1"), 0);
}

fn command(packet_id: i32, qos: i32) -> Vec<u8> {
    publish_command(packet_id, qos, "topic", b"payload")
}

fn publishes_leave_nothing_behind(make: Make<'_>) {
    let mut persistence = opened(make);
    for (number, qos) in [(1, 0), (2, 1), (3, 2), (4, 1), (5, 0), (6, 2)] {
        let c = format!("c5-{number}");
        let (s, sc) = (format!("s5-{number}"), format!("sc5-{number}"));
        let value = command(number, qos);
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
    let mut again = make();
    again.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut again), set(&[]));
}

fn a_command_that_is_put_again_stays(make: Make<'_>) {
    let mut persistence = opened(make);
    persistence.put("c-1", vec![&command(9, 1)]).expect("puts");
    persistence.get("c-1").expect("gets");
    persistence.remove("c-1").expect("removes");
    persistence
        .put("c-1", vec![&command(10, 1)])
        .expect("puts again");
    persistence.put("s-9", vec![b"PUBLISH"]).expect("puts");
    persistence.close().expect("closes");
    let mut again = make();
    again.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut again), set(&["c-1", "s-9"]));
}

fn a_command_is_removed_under_the_key_of_the_other_version(make: Make<'_>) {
    let subscribe = [&8_i32.to_ne_bytes()[..], &7_i32.to_ne_bytes(), b"..."].concat();
    for (read, removed) in [("c-5", "c5-5"), ("c5-5", "c-5")] {
        for value in [command(7, 0), command(7, 1), subscribe.clone()] {
            let mut persistence = opened(make);
            persistence.put(read, vec![&value]).expect("puts");
            persistence.get(read).expect("gets");
            persistence.remove(removed).expect("removes");
            persistence.put("s-7", vec![b"PUBLISH"]).expect("puts");
            assert_eq!(keys(&mut persistence), set(&["s-7"]));
            drop(persistence);
            let mut again = make();
            again.open(ID, URI).expect("opens");
            assert_eq!(keys(&mut again), set(&["s-7"]), "{read} {removed}");
        }
    }
}

fn a_message_with_number_zero_survives_a_connect(make: Make<'_>) {
    let mut persistence = opened(make);
    let value = command(7, 1);
    persistence.put("c5-0", vec![&value]).expect("puts");
    persistence.remove("c5-0").expect("what each connect does");
    assert_eq!(persistence.get("c5-0").expect("is still there"), value);
    persistence.remove("c5-0").expect("is sent");
    persistence.put("s5-7", vec![b"PUBLISH"]).expect("puts");
    assert_eq!(keys(&mut persistence), set(&["s5-7"]));
}

/// A client that does not restore messages lists them and removes each; one that comes after must find none.
fn what_is_dropped_after_a_list_is_not_held(make: Make<'_>) {
    let mut persistence = opened(make);
    persistence.put("c-1", vec![&command(7, 1)]).expect("puts");
    persistence.get("c-1").expect("gets");
    persistence.keys().expect("lists");
    persistence.remove("c-1").expect("removes");
    let mut witness = make();
    witness.open(ID, URI).expect("opens");
    assert_eq!(keys(&mut witness), set(&[]));
}

fn a_publish_that_is_sent_again_stays_what_it_was(make: Make<'_>) {
    let mut persistence = opened(make);
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
    persistence.put("c5-1", vec![&command(7, 1)]).expect("puts");
    persistence.get("c5-1").expect("gets");
    persistence.remove("c5-1").expect("removes");
    persistence
        .put("s5-7", vec![b"\x32 a third"])
        .expect("puts");
    assert_eq!(persistence.get("s5-7").expect("gets"), b"\x32 a third");
    assert_eq!(keys(&mut persistence), set(&["s5-7"]));
}

/// The address of a persistence, as C holds it.
#[derive(Clone, Copy)]
struct Handle(*mut c_void);

// SAFETY: this is what the test is about: Paho's calls may come from two threads at once.
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

fn calls_may_overlap(make: Make<'_>) {
    let mut persistence = opened(make);
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

fn redis(url: &str) -> RedisPersistence {
    RedisPersistence::builder()
        .url(url)
        .build()
        .expect("a valid URL")
}

fn metrics() -> PersistenceMetrics {
    PersistenceMetrics::register(&Registry::new()).expect("registers")
}

#[test]
fn memory() {
    let memory = MemoryPersistence::new();
    suite(&|| Box::new(memory.clone()));
}

#[test]
fn redis_over_tcp() {
    let server = RedisServer::tcp();
    suite(&|| Box::new(redis(&server.tcp_url())));
}

#[test]
fn redis_over_a_unix_socket() {
    let server = RedisServer::start();
    suite(&|| Box::new(redis(&server.url())));
}

#[test]
fn instrumented_memory() {
    let (memory, metrics) = (MemoryPersistence::new(), metrics());
    suite(&|| Box::new(memory.clone().instrument(&metrics)));
}

#[test]
fn instrumented_redis_over_tcp() {
    let (server, metrics) = (RedisServer::tcp(), metrics());
    suite(&|| Box::new(redis(&server.tcp_url()).instrument(&metrics)));
}

#[test]
fn instrumented_redis_over_a_unix_socket() {
    let (server, metrics) = (RedisServer::start(), metrics());
    suite(&|| Box::new(Instrumented::new(redis(&server.url()), &metrics)));
}
