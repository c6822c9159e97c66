//! `purge` removes what is selected, after a question, and nothing else.

use std::{
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use redis::Commands;
use serde_json::json;
use testkit::{RedisServer, child::tool, publish_command};

use crate::{
    stored::{
        CLIENT, NAME, connected_program, everything, fill, keys, kill_while, put, records,
        run_after_kill, set_aside, store,
    },
    tool::{command, objects, run},
};

#[test]
fn selected_messages_are_removed_whole() {
    let redis = RedisServer::start();
    for (arguments, left) in [
        (
            &["--kind", "sent_pubrel"][..],
            "c-1 c-2 c-9 foreign q-3 r-4 s-8",
        ),
        (&["--number", "2-7"], "c-1 c-9 foreign s-8"),
        (
            &["--topic", "other/+"],
            "c-1 c-2 foreign q-3 r-4 s-7 s-8 sc-7",
        ),
        (&["--limit", "1"], "c-1 c-2 c-9 foreign q-3 r-4 s-8"),
        (&["--all"], "foreign"),
    ] {
        store(
            &redis,
            NAME,
            &["c-1", "c-2", "s-7", "sc-7", "s-8", "r-4", "q-3"],
        );
        put(
            &redis,
            NAME,
            "c-9",
            &publish_command(9, 1, "other/topic", b"x"),
        );
        put(&redis, NAME, "foreign", b"x");
        let purged = run(&redis, &[&["purge", CLIENT, "--yes"], arguments].concat()).expect(0);
        assert_eq!(
            keys(&redis, NAME).join(" "),
            left,
            "{arguments:?} {purged:?}"
        );
    }
    // Another client keeps what it has.
    store(&redis, "device-2:broker:1883", &["c-1"]);
    store(&redis, NAME, &["c-1"]);
    run(&redis, &["purge", CLIENT, "--all", "--yes"]).expect(0);
    assert_eq!(keys(&redis, "device-2:broker:1883"), ["c-1"]);
    run(&redis, &["purge", "--prefix", "device", "--all", "--yes"]).expect(0);
    assert!(keys(&redis, "device-2:broker:1883").is_empty());
}

#[test]
fn purge_says_what_it_would_remove() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1", "s-7", "sc-7", "c5-12"]);
    let bytes: usize = records(&redis, NAME).values().map(Vec::len).sum();
    let before = everything(&redis);
    let dry = run(&redis, &["purge", CLIENT, "--all", "--dry-run"]).expect(0);
    assert!(
        dry.out
            .starts_with("device:broker:1883: 3 messages in 4 records,"),
        "{dry:?}"
    );
    assert!(dry.out.contains("first  s-7+sc-7  sent  t"), "{dry:?}");
    assert!(dry.out.contains("last   c5-12  publish  t"), "{dry:?}");
    assert_eq!(everything(&redis), before);
    let [object] = &objects(&redis, &["purge", CLIENT, "--all", "--yes"])[..] else {
        panic!("one object");
    };
    assert_eq!(object["messages"], json!(3));
    assert_eq!(object["bytes"], json!(bytes));
    assert_eq!(object["removed"], json!(3));
    assert!(everything(&redis).is_empty());
}

#[test]
fn purge_without_condition_or_answer_does_nothing() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1"]);
    let before = everything(&redis);
    run(&redis, &["purge", CLIENT, "--yes"]).expect(2);
    run(
        &redis,
        &["purge", CLIENT, "--all", "--number", "1", "--yes"],
    )
    .expect(2);
    run(&redis, &["purge", CLIENT, "--all"]).expect(5);
    run(&redis, &["purge", CLIENT, "--all", "--json"]).expect(5);
    assert_eq!(everything(&redis), before);
    // Nothing to ask about.
    run(&redis, &["purge", CLIENT, "--number", "9"]).expect(0);
}

/// Runs the program on a terminal, and types an answer.
fn typed(redis: &RedisServer, arguments: &str, answer: &str) -> (Option<i32>, String) {
    let mut script = Command::new("script");
    let line = format!("{} {arguments}", tool().display());
    let mut script = script
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("MQTT_BACKLOG_URL", redis.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("`script` of util-linux runs");
    let mut input = script.stdin.take().expect("a pipe");
    input.write_all(answer.as_bytes()).expect("is read");
    let output = script.wait_with_output().expect("ends");
    drop(input);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text)
}

#[test]
fn answer_on_terminal_decides() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1"]);
    let (code, text) = typed(&redis, "purge device --all", "n\n");
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("Remove them for good? [y/N]"), "{text}");
    assert_eq!(keys(&redis, NAME), ["c-1"]);
    let (code, text) = typed(&redis, "purge device --all", "y\n");
    assert_eq!(code, Some(0), "{text}");
    assert!(keys(&redis, NAME).is_empty());
}

#[test]
fn expired_messages_are_selected() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c5-1"]);
    let expiring = |time: u32| {
        let mut command = publish_command(3, 1, "t", b"x");
        command.extend(b"\x05\x02");
        command.extend(time.to_be_bytes());
        command
    };
    put(&redis, NAME, "c5-2", &expiring(1_700_000_000));
    put(&redis, NAME, "c5-3", &expiring(4_200_000_000));
    run(&redis, &["purge", CLIENT, "--expired", "--yes"]).expect(0);
    assert_eq!(keys(&redis, NAME), ["c5-1", "c5-3"]);
}

#[test]
fn connected_program_is_never_changed() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1", "s-7"]);
    set_aside(
        &redis,
        "discarded",
        "c-5",
        &testkit::record("c-5", b"x"),
        "buffer_full",
        Duration::ZERO,
    );
    let program = connected_program(&redis, "broker:1883");
    let before = everything(&redis);
    for arguments in [
        &["purge", CLIENT, "--all", "--yes"][..],
        &["discarded", "put-back", CLIENT, "--all"],
        &["discarded", "publish-again", CLIENT, "--all"],
        &["discarded", "delete", CLIENT, "--all", "--yes"],
        &["adopt", CLIENT, "tcp://other:1883"],
        &["drain", CLIENT, "--to", "mqtt://127.0.0.1:1"],
    ] {
        let refused = run(&redis, arguments).expect(4);
        assert!(refused.err.contains("another program uses"), "{refused:?}");
        assert_eq!(everything(&redis), before, "{arguments:?}");
    }
    // Of several clients the others are done.
    store(&redis, "device-2:broker:1883", &["c-1"]);
    run(&redis, &["purge", "--prefix", "device", "--all", "--yes"]).expect(1);
    assert_eq!(everything(&redis), before);
    for arguments in [
        &["discarded", "list", CLIENT][..],
        &["discarded", "show", CLIENT],
        &["purge", CLIENT, "--help"],
    ] {
        run(&redis, arguments).expect(0);
    }
    drop(program);
    run(&redis, &["purge", CLIENT, "--all", "--yes"]).expect(0);
    assert!(keys(&redis, NAME).is_empty());
}

#[test]
fn dry_run_of_connected_client_only_reads() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1", "s-7"]);
    let _program = connected_program(&redis, "broker:1883");
    let before = everything(&redis);
    let dry = run(&redis, &["purge", CLIENT, "--all", "--dry-run"]).expect(0);
    assert!(dry.out.contains("2 messages in 2 records"), "{dry:?}");
    assert_eq!(everything(&redis), before);
}

/// Runs the program to its end with an output that nobody reads.
fn code_without_reader(redis: &RedisServer, arguments: &[&str]) -> Option<i32> {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = command(arguments);
    command.env("MQTT_BACKLOG_URL", redis.url()).stdout(writer);
    command.status().expect("runs").code()
}

#[test]
fn closed_pipe_stops_no_change() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1"]);
    let letter = testkit::record("c-5", b"x");
    let age = Duration::ZERO;
    set_aside(&redis, "discarded", "c-5", &letter, "buffer_full", age);
    let code = |arguments: &[&str]| code_without_reader(&redis, arguments);
    assert_eq!(code(&["purge", CLIENT, "--all"]), Some(5));
    assert_eq!(code(&["discarded", "delete", CLIENT, "--all"]), Some(5));
    assert_eq!(code(&["purge", CLIENT, "--all", "--yes"]), Some(0));
    assert!(keys(&redis, NAME).is_empty());
    assert_eq!(
        code(&["discarded", "delete", CLIENT, "--all", "--yes"]),
        Some(0)
    );
    assert!(everything(&redis).is_empty());
    // A command that only reads needs its reader.
    assert_eq!(code(&["list"]), Some(0));
}

#[test]
fn longer_client_id_is_never_purged() {
    let redis = RedisServer::start();
    store(&redis, "device:1:broker:1883", &["c-1"]);
    let before = everything(&redis);
    let unknown = run(&redis, &["purge", CLIENT, "--all", "--yes"]).expect(2);
    assert!(unknown.err.contains("device:1:broker:1883"), "{unknown:?}");
    assert_eq!(everything(&redis), before);
    run(&redis, &["purge", "device:1", "--all", "--yes"]).expect(0);
    assert!(everything(&redis).is_empty());
}

#[test]
fn full_redis_is_purged() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1", "s-7", "sc-7"]);
    fill(&redis);
    run(&redis, &["purge", CLIENT, "--all", "--yes"]).expect(0);
    assert!(keys(&redis, NAME).is_empty());
}

#[test]
fn stopped_redis_is_a_clear_line() {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1"]);
    redis.pause();
    let stopped = run(
        &redis,
        &["--timeout", "0.3", "purge", CLIENT, "--all", "--yes"],
    )
    .expect(3);
    assert_eq!(stopped.err.lines().count(), 1, "{stopped:?}");
    redis.resume();
    assert_eq!(keys(&redis, NAME), ["c-1"]);
}

#[test]
fn user_without_right_to_lock_changes_nothing() {
    let redis = RedisServer::tcp();
    store(&redis, NAME, &["c-1"]);
    let mut acl = redis::cmd("ACL");
    let acl = acl.arg(&["SETUSER", "weak", "on", ">p", "~*", "+@all", "-client"]);
    acl.exec(&mut redis.connection()).expect("ACL");
    let url = redis.tcp_url().replace("redis://", "redis://weak:p@");
    let refused = crate::tool::output(
        command(&["purge", CLIENT, "--all", "--yes"]).env("MQTT_BACKLOG_URL", url),
    );
    let refused = refused.expect(3);
    assert!(refused.err.contains("+client|setname"), "{refused:?}");
    assert!(!refused.err.contains(":p@"), "{refused:?}");
    assert_eq!(keys(&redis, NAME), ["c-1"]);
}

/// Number of messages, each a PUBLISH and its PUBREL.
const MESSAGES: u16 = 20_000;

#[test]
fn killed_purge_leaves_whole_messages() {
    let redis = RedisServer::start();
    let mut pipe = redis::pipe();
    for id in 1..=MESSAGES {
        for key in [format!("s-{id}"), format!("sc-{id}")] {
            pipe.hset(NAME, &key, testkit::record(&key, b"x")).ignore();
        }
    }
    pipe.exec(&mut redis.connection()).expect("HSET");
    let total = 2 * usize::from(MESSAGES);
    let mut connection = redis.connection();
    let mut count = || -> usize { connection.hlen(NAME).expect("HLEN") };
    let purge = ["purge", CLIENT, "--all", "--yes"];
    let cut = (0..20).any(|_| {
        let before = count();
        let was_killed = before > 0 && kill_while(&redis, &purge, || count() < before);
        let left = keys(&redis, NAME);
        let of_kind = |kind: &str| {
            let numbers = left.iter().filter_map(|key| key.strip_prefix(kind));
            numbers.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of_kind("s-"), of_kind("sc-"));
        was_killed && !left.is_empty() && left.len() < total
    });
    assert!(cut, "no purge was killed in the middle");
    run_after_kill(&redis, &purge);
    assert_eq!(count(), 0);
}
