//! Records are exported byte for byte, and imported anywhere.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Output, Stdio},
};

use redis::Commands;
use serde_json::Value;
use testkit::{
    RedisServer,
    backlog::{self, Records, checked, expect, in_redis, into_redis, tool},
    hostile::{Treatment, contents},
    random::Random,
    record,
};

const NAME: &str = "device:broker:1883";

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn records<'a>(keys: impl IntoIterator<Item = &'a str>) -> Records {
    let keys = keys.into_iter();
    keys.map(|key| (key.to_owned(), record(key, key.as_bytes())))
        .collect()
}

/// Imports these lines from the standard input.
fn import(redis: &RedisServer, lines: &[u8], arguments: &[&str]) -> Output {
    let mut child = tool(redis, &["import"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut input = child.stdin.take().expect("a pipe");
    // It may end before it has read all.
    drop(input.write_all(lines));
    drop(input);
    child.wait_with_output().expect("it ends")
}

fn export(redis: &RedisServer, arguments: &[&str]) -> Vec<u8> {
    let output = tool(redis, &["export"]).args(arguments).output();
    output.expect("it runs").stdout
}

/// Limits the memory of Redis to what it uses now and this many bytes.
fn leave_room(redis: &RedisServer, bytes: usize) {
    let info: String = redis::cmd("INFO")
        .arg("memory")
        .query(&mut redis.connection())
        .expect("INFO");
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    let used: usize = used.and_then(|used| used.parse().ok()).expect("a number");
    redis.set_maxmemory(&(used + bytes).to_string());
}

/// Number of records with the payload of `c-1`.
fn copies(redis: &RedisServer, name: &str) -> usize {
    let values = in_redis(redis, name).into_values();
    values
        .filter(|value| value.ends_with(&record("c-1", b"c-1")[8..]))
        .count()
}

#[test]
fn hostile_hashes_are_the_same_after_import() {
    let (from, to) = (RedisServer::start(), RedisServer::start());
    for case in 0..40 {
        let mut random = Random::of(case);
        let hash = contents(&mut random);
        for (field, (value, _)) in &hash {
            let _: () = from.connection().hset(NAME, field, value).expect("HSET");
        }
        let lines = export(&from, &[NAME]);
        let output = import(&to, &lines, &[]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let there: Entries = to.connection().hgetall(NAME).expect("HGETALL");
        for (field, (value, treatment)) in &hash {
            let name = String::from_utf8_lossy(field);
            let is_same = there.get(field) == Some(value);
            let is_named = errors.contains(&format!("{name} is damaged"));
            let right = match treatment {
                Treatment::Stays => is_same,
                Treatment::Foreign => !there.contains_key(field),
                Treatment::Kept | Treatment::MayGo => is_same != is_named,
            };
            assert!(right, "case {case}: {name} {treatment:?} {errors}");
        }
        for redis in [&from, &to] {
            let _: () = redis.connection().del(NAME).expect("DEL");
        }
    }
}

#[test]
fn exported_line_has_bytes_and_content() {
    let redis = RedisServer::start();
    into_redis(&redis, NAME, &records(["c-2", "s-1", "sc-1"]));
    let (lines, _) = expect(&redis, 0, &["export", "device"]);
    let lines = lines.iter().map(|line| serde_json::from_str(line));
    let lines: Vec<Value> = lines.map(|line| line.expect("JSON")).collect();
    let keys: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["key"].as_str())
        .collect();
    assert_eq!(keys, ["s-1", "sc-1", "c-2"]);
    assert_eq!(lines[1]["value"], "YgIAAQ==");
    assert_eq!(lines[2]["client"], NAME);
    assert_eq!(lines[2]["place"], "records");
    assert_eq!(lines[2]["topics"], serde_json::json!(["t"]));
    let (some, _) = expect(&redis, 0, &["export", NAME, "--kind", "command"]);
    assert_eq!(some.len(), 1);
    let none = expect(&redis, 0, &["export", NAME, "--kind", "received_publish"]);
    let line = "mqtt-backlog: no such messages".to_owned();
    assert_eq!(none, (Vec::new(), vec![line]));
}

#[test]
fn import_finds_another_client_uri_and_prefix() {
    let redis = RedisServer::start();
    let all = records(["c-1", "c5-2", "q-1"]);
    into_redis(&redis, NAME, &all);
    let lines = export(&redis, &["device"]);
    for (arguments, name) in [
        (&["--client", "spare"][..], "spare:broker:1883"),
        (&["--server-uri", "ssl://new:8883"], "device:new:8883"),
        (
            &["--client", "a:b", "--server-uri", "new:8883"],
            "a:b:new:8883",
        ),
        (&["--key-prefix", "mqtt:"], "mqtt:device:broker:1883"),
    ] {
        checked(&import(&redis, &lines, arguments), 0);
        assert_eq!(in_redis(&redis, name), all, "{name}");
    }
    assert_eq!(in_redis(&redis, NAME), all);
    // Several clients cannot become one.
    into_redis(&redis, "other:broker:1883", &records(["c-1"]));
    let lines = export(&redis, &["--prefix", ""]);
    checked(
        &import(&redis, &lines, &["--client", "x", "--server-uri", "y"]),
        2,
    );
    assert_eq!(in_redis(&redis, "x:y"), Records::new());
}

#[test]
fn import_twice_changes_nothing() {
    let redis = RedisServer::start();
    let all = records(["c-1", "c-2", "s-1", "sc-1"]);
    into_redis(&redis, NAME, &all);
    let lines = export(&redis, &[NAME]);
    let _: () = redis
        .connection()
        .hdel(NAME, &["c-2", "s-1", "sc-1"])
        .expect("HDEL");
    for line in [
        "3 records put to device:broker:1883, 1 there already",
        "0 records put to device:broker:1883, 4 there already",
    ] {
        let (out, _) = checked(&import(&redis, &lines, &[]), 0);
        assert_eq!(out, [line]);
        assert_eq!(in_redis(&redis, NAME), all);
    }
}

#[test]
fn other_message_is_left_or_renumbered() {
    let redis = RedisServer::start();
    into_redis(&redis, NAME, &records(["c-1", "c-2", "s-1", "r-1"]));
    let lines = export(&redis, &[NAME]);
    let _: () = redis.connection().del(NAME).expect("DEL");
    let mut present = records(["c-1", "s5-1", "r5-1"]);
    present.insert("c-1".to_owned(), record("c-1", b"new"));
    into_redis(&redis, NAME, &present);

    let (out, mut err) = checked(&import(&redis, &lines, &[]), 1);
    assert_eq!(out, ["1 record put to device:broker:1883, 3 left out"]);
    err.sort();
    let line = |key: &str, reason: &str| {
        format!(
            "mqtt-backlog: {key} of device:broker:1883 is left out: another message has this {reason}"
        )
    };
    let expected = [
        line("c-1", "key; with --renumber it gets another one"),
        line("r-1", "packet id"),
        line("s-1", "packet id"),
    ];
    assert_eq!(err, expected);
    present.extend(records(["c-2"]));
    assert_eq!(in_redis(&redis, NAME), present);

    let (out, err) = checked(&import(&redis, &lines, &["--renumber"]), 1);
    assert_eq!(
        out,
        ["2 records put to device:broker:1883, 1 there already, 1 left out"]
    );
    assert_eq!(err, [line("r-1", "packet id")]);
    present.insert("c-999999".to_owned(), record("c-1", b"c-1"));
    present.insert("s-65535".to_owned(), record("s-65535", b"s-1"));
    assert_eq!(in_redis(&redis, NAME), present);

    // Something is left out still, so the same import may be run again.
    let (out, _) = checked(&import(&redis, &lines, &["--renumber"]), 1);
    assert_eq!(
        out,
        ["0 records put to device:broker:1883, 3 there already, 1 left out"]
    );
    assert_eq!(in_redis(&redis, NAME), present);
}

/// Begins to import these records with `--renumber` beside another message, which fails after the newest 32
/// are put; returns the lines.
fn half_import(redis: &RedisServer, present: &str, all: &mut Records) -> Vec<u8> {
    // Redis has no room for the oldest, which is the last to be put.
    all.insert("c-1".to_owned(), record("c-1", &vec![b'x'; 3_000_000]));
    into_redis(redis, NAME, all);
    let lines = export(redis, &[NAME]);
    let _: () = redis.connection().del(NAME).expect("DEL");
    into_redis(
        redis,
        NAME,
        &Records::from([(present.to_owned(), record(present, b"new"))]),
    );
    leave_room(redis, 1_500_000);
    checked(&import(redis, &lines, &["--renumber"]), 3);
    redis.set_maxmemory("0");
    assert_eq!(in_redis(redis, NAME).len(), 33);
    lines
}

#[test]
fn failed_import_goes_on_without_doubling() {
    let redis = RedisServer::start();
    let keys: Vec<String> = (1..=40).map(|number| format!("c-{number}")).collect();
    let mut all = records(keys.iter().map(String::as_str));
    let lines = half_import(&redis, "c-1", &mut all);
    let (out, _) = checked(&import(&redis, &lines, &["--renumber"]), 0);
    assert_eq!(
        out,
        ["8 records put to device:broker:1883, 32 there already"]
    );
    let there = in_redis(&redis, NAME);
    let expected = keys
        .iter()
        .zip(999_960..)
        .map(|(key, number)| (format!("c-{number}"), all[key].clone()));
    let other = ("c-1".to_owned(), record("c-1", b"new"));
    let expected: Records = expected.chain([other]).collect();
    assert!(there == expected, "{:?}", there.keys());
    let keys: Vec<String> = redis.connection().keys("*").expect("KEYS");
    assert_eq!(keys, [NAME]);
}

#[test]
fn import_of_clients_goes_on_without_doubling() {
    let redis = RedisServer::start();
    let other = "other:broker:1883";
    let all = records(["c-1", "c-2"]);
    into_redis(&redis, NAME, &all);
    into_redis(&redis, other, &all);
    let lines = export(&redis, &["--prefix", ""]);
    let present = Records::from([("c-1".to_owned(), record("c-1", b"new"))]);
    for name in [NAME, other] {
        let _: () = redis.connection().del(name).expect("DEL");
        into_redis(&redis, name, &present);
    }
    let mut persistence = paho_mqtt_redis::RedisPersistence::builder()
        .url(redis.url())
        .build()
        .expect("a valid URL");
    let opened = paho_mqtt::ClientPersistence::open(&mut persistence, "other", "broker:1883");
    opened.expect("opens");
    checked(&import(&redis, &lines, &["--renumber"]), 1);
    assert_eq!((copies(&redis, NAME), copies(&redis, other)), (1, 0));

    drop(persistence);
    let (out, _) = checked(&import(&redis, &lines, &["--renumber"]), 0);
    let expected = [
        "0 records put to device:broker:1883, 2 there already",
        "2 records put to other:broker:1883",
    ];
    assert_eq!(out, expected);
    assert_eq!((copies(&redis, NAME), copies(&redis, other)), (1, 1));
    // The notes are removed with the end.
    let mut keys: Vec<String> = redis.connection().keys("*").expect("KEYS");
    keys.sort();
    assert_eq!(keys, [NAME, other]);
}

#[test]
fn import_fails_for_set_aside_and_goes_on() {
    let redis = RedisServer::start();
    into_redis(&redis, NAME, &records(["c-1"]));
    let place = format!("{NAME}:discarded");
    let name = "1700000000123:session_lost:4:sc-7:00000000000000ab";
    let discarded = Records::from([(name.to_owned(), record("sc-7", b""))]);
    into_redis(&redis, &place, &discarded);
    let lines = export(&redis, &[NAME, "--discarded"]);
    let _: () = redis.connection().del(&[NAME, &place]).expect("DEL");
    let present = Records::from([("c-1".to_owned(), record("c-1", b"new"))]);
    into_redis(&redis, NAME, &present);
    let _: () = redis.connection().set(&place, "no hash").expect("SET");
    checked(&import(&redis, &lines, &["--renumber"]), 3);
    assert_eq!(copies(&redis, NAME), 1);

    let _: () = redis.connection().del(&place).expect("DEL");
    let (out, _) = checked(&import(&redis, &lines, &["--renumber"]), 0);
    assert_eq!(out, ["1 record put to device:broker:1883, 1 there already"]);
    assert_eq!(copies(&redis, NAME), 1);
    assert_eq!(in_redis(&redis, &place), discarded);
}

#[test]
fn purged_records_are_imported_again() {
    for arguments in [&["--number", "999968-999999"][..], &["--all"]] {
        let redis = RedisServer::start();
        let keys: Vec<String> = (1..=60).map(|number| format!("c-{number}")).collect();
        let mut all = records(keys.iter().map(String::as_str));
        let lines = half_import(&redis, "c-1", &mut all);
        let purge = [&["purge", NAME, "--yes"], arguments].concat();
        let (out, _) = expect(&redis, 0, &purge);
        let is_all = arguments == ["--all"];
        assert_eq!(
            out.last().map(String::as_str),
            Some(if is_all {
                "removed 33 messages"
            } else {
                "removed 32 messages"
            })
        );
        let hashes: Vec<String> = redis.connection().keys("*").expect("KEYS");
        assert_eq!(hashes.is_empty(), is_all, "{hashes:?}");
        let (out, _) = checked(&import(&redis, &lines, &["--renumber"]), 0);
        assert_eq!(out, ["60 records put to device:broker:1883"]);
        let there: Vec<Vec<u8>> = in_redis(&redis, NAME).into_values().collect();
        assert!(all.values().all(|value| there.contains(value)));
    }
}

#[test]
fn resumed_import_knows_its_own_records() {
    let redis = RedisServer::start();
    let keys: Vec<String> = (1..=60).map(|number| format!("c-{number}")).collect();
    let mut all = records(keys.iter().map(String::as_str));
    // Two equal messages, as two at QoS 0 are; the newer one becomes c-28.
    all.insert("c-28".to_owned(), all["c-48"].clone());
    let lines = half_import(&redis, "c-41", &mut all);
    assert_eq!(in_redis(&redis, NAME)["c-28"], all["c-48"]);
    let (out, _) = checked(&import(&redis, &lines, &["--renumber"]), 0);
    assert_eq!(
        out,
        ["28 records put to device:broker:1883, 32 there already"]
    );
    let there = in_redis(&redis, NAME);
    let same = there.values().filter(|value| **value == all["c-48"]);
    assert_eq!((there.len(), same.count()), (61, 2));
}

#[test]
fn set_aside_records_are_exported_by_option() {
    let redis = RedisServer::start();
    into_redis(&redis, NAME, &records(["c-1"]));
    let name = "1700000000123:session_lost:4:sc-7:00000000000000ab";
    let discarded = Records::from([(name.to_owned(), record("sc-7", b""))]);
    let quarantined = Records::from([("by hand".to_owned(), b"\xff".to_vec())]);
    into_redis(&redis, &format!("{NAME}:discarded"), &discarded);
    into_redis(&redis, &format!("{NAME}:quarantine"), &quarantined);
    let lines = export(&redis, &[NAME, "--quarantine", "--discarded"]);
    redis::cmd("FLUSHALL")
        .exec(&mut redis.connection())
        .expect("empty");
    for put in ["3 records put", "0 records put"] {
        let (out, _) = checked(&import(&redis, &lines, &[]), 0);
        assert!(out[0].starts_with(put), "{out:?}");
        assert_eq!(in_redis(&redis, &format!("{NAME}:discarded")), discarded);
        assert_eq!(in_redis(&redis, &format!("{NAME}:quarantine")), quarantined);
    }
}

#[test]
fn bad_lines_are_numbered_and_rest_is_imported() {
    let redis = RedisServer::start();
    into_redis(&redis, NAME, &records(["c-1"]));
    let line = String::from_utf8(export(&redis, &[NAME])).expect("UTF-8");
    let _: () = redis.connection().del(NAME).expect("DEL");
    let other = line.replace("\"c-1\"", "\"c-2\"");
    let lines = format!("{{\n\n{line}{line}{}\u{1b}[2J\n{other}", &line[..40]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &lines).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let (out, err) = expect(&redis, 1, &["import", path]);
    assert_eq!(out, ["2 records put to device:broker:1883"]);
    let starts = [
        "line 1: is no JSON",
        "line 4: c-1 is in an earlier line",
        "line 5: is no JSON",
    ];
    assert_eq!(err.len(), starts.len(), "{err:?}");
    for (line, start) in err.iter().zip(starts) {
        assert!(
            line.starts_with(&format!("mqtt-backlog: {start}")),
            "{line}"
        );
        assert!(!line.contains('\u{1b}'));
    }
    assert_eq!(in_redis(&redis, NAME).len(), 2);
    expect(&redis, 3, &["import", "/nowhere"]);
}

#[test]
fn import_beside_connected_program_changes_nothing() {
    let redis = RedisServer::start();
    into_redis(&redis, NAME, &records(["c-1"]));
    let lines = export(&redis, &[NAME]);
    let mut persistence = paho_mqtt_redis::RedisPersistence::builder()
        .url(redis.url())
        .build()
        .expect("a valid URL");
    let opened = paho_mqtt::ClientPersistence::open(&mut persistence, "spare", "broker:1883");
    opened.expect("opens");
    checked(&import(&redis, &lines, &["--client", "spare"]), 4);
    assert_eq!(in_redis(&redis, "spare:broker:1883"), Records::new());
    // It only reads.
    let output = backlog::run(&redis, &["export", NAME]);
    assert_eq!(output.stdout, lines);
}
