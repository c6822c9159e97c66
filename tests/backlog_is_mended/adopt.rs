//! `adopt` moves the backlog to the server URI that the client has now.

use redis::Commands;
use testkit::{RedisServer, record};

use crate::{
    stored::{
        CLIENT, NAME, connected_program, everything, keys, kill_while, put, records,
        run_after_kill, store,
    },
    tool::{objects, run},
};

const NEW: &str = "device:new:1883";

#[test]
fn backlog_moves_in_front_of_present_one() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1", "c-2", "s-7", "sc-7", "r-3"]);
    let before = everything(&redis);
    let [plan] = &objects(&redis, &["adopt", CLIENT, "tcp://new:1883", "--dry-run"])[..] else {
        panic!("one object");
    };
    assert_eq!(plan["to"], NEW);
    assert_eq!(
        (plan["messages"].as_u64(), plan["records"].as_u64()),
        (Some(4), Some(5))
    );
    assert_eq!(
        (plan["renumbered"].as_u64(), plan["moved_records"].as_u64()),
        (Some(0), None)
    );
    assert_eq!(everything(&redis), before);
    store(&redis, NEW, &["c-1"]);
    let moved = run(&redis, &["adopt", NAME, "tcp://new:1883"]).expect(0);
    let expected = format!("moved 5 records from {NAME} to {NEW}\n");
    assert!(moved.out.starts_with(&expected), "{moved:?}");
    assert!(keys(&redis, NAME).is_empty());
    assert_eq!(
        keys(&redis, NEW),
        ["c-1", "c-999998", "c-999999", "r-3", "s-7", "sc-7"]
    );
    assert_eq!(records(&redis, NEW)["c-999998"], record("c-1", b"c-1"));
    let shown = objects(&redis, &["show", CLIENT, "--kind", "command"]);
    let keys: Vec<&str> = shown.iter().filter_map(|row| row["key"].as_str()).collect();
    assert_eq!(keys, ["c-999998", "c-999999", "c-1"]);
    // There is nothing any more.
    run(&redis, &["adopt", NAME, "tcp://new:1883"]).expect(2);
}

#[test]
fn what_cannot_move_stays_and_is_named() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1", "r-3"]);
    put(&redis, NAME, "c-2", b"damaged");
    put(&redis, NAME, "foreign", b"x");
    store(&redis, NEW, &["r-3"]);
    for arguments in [&["--dry-run"][..], &[]] {
        let arguments = [&["adopt", NAME, "new:1883"], arguments].concat();
        let moved = run(&redis, &arguments).expect(1);
        for line in [
            "c-2 stays: Paho",
            "r-3 stays: its packet id",
            "1 foreign entries stay",
        ] {
            assert!(moved.err.contains(line), "{line}: {moved:?}");
        }
    }
    assert_eq!(keys(&redis, NAME), ["c-2", "foreign", "r-3"]);
    assert_eq!(keys(&redis, NEW), ["c-1", "r-3"]);
}

#[test]
fn program_connected_with_either_is_in_the_way() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1"]);
    let before = everything(&redis);
    for uri in ["broker:1883", "new:1883"] {
        let program = connected_program(&redis, uri);
        run(&redis, &["adopt", NAME, "new:1883"]).expect(4);
        assert_eq!(everything(&redis), before);
        drop(program);
    }
    run(&redis, &["adopt", NAME, "new:1883"]).expect(0);
    assert_eq!(keys(&redis, NEW), ["c-1"]);
    run(&redis, &["adopt", NEW, "tcp://new:1883"]).expect(2);
}

#[test]
fn killed_adoption_keeps_both_parts_in_order() {
    const MESSAGES: usize = 10_000;
    let redis = RedisServer::start();
    let mut pipe = redis::pipe();
    for number in 1..=MESSAGES {
        let key = format!("c-{number}");
        pipe.hset(NAME, &key, record(&key, key.as_bytes())).ignore();
    }
    pipe.exec(&mut redis.connection()).expect("HSET");
    store(&redis, NEW, &["c-20000"]);
    let adopt = ["adopt", NAME, "tcp://new:1883"];
    let mut connection = redis.connection();
    let mut count = || -> usize { connection.hlen(NAME).expect("HLEN") };
    let cut = (0..20).any(|_| {
        let before = count();
        let was_killed = before > 0 && kill_while(&redis, &adopt, || count() < before);
        assert_eq!(keys(&redis, NEW).len() + count(), MESSAGES + 1);
        was_killed && count() > 0
    });
    assert!(cut, "none was killed in the middle");
    run_after_kill(&redis, &adopt);
    let shown = objects(&redis, &["show", CLIENT]);
    // The packet id of each is its first number.
    let numbers = shown.iter().filter_map(|row| row["packet_id"].as_u64());
    assert!(numbers.eq((1..=10_000).chain([20_000])));
}

#[test]
fn server_uri_without_scheme_and_port_is_refused() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1"]);
    let before = everything(&redis);
    for uri in ["new", "http://new:1883", "mqtt://", "new:port", "a b:1883"] {
        let refused = run(&redis, &["adopt", NAME, uri]).expect(2);
        assert!(
            refused.err.contains("as in tcp://broker:1883"),
            "{refused:?}"
        );
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("UTF-8");
        let refused = run(
            &redis,
            &["import", path, "--client", "x", "--server-uri", uri],
        );
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(
            refused.err.contains("as in tcp://broker:1883"),
            "{refused:?}"
        );
    }
    assert_eq!(everything(&redis), before);
    // Paho needs one of the two.
    for uri in [
        "mqtt://other",
        "new:1883",
        "ws://new:80/mqtt",
        "[::1]:1883",
        "unix:///run/broker",
    ] {
        run(&redis, &["adopt", NAME, uri, "--dry-run"]).expect(0);
    }
}
