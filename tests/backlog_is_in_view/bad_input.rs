//! Bad input gives one clear line each, and the exit code says so.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    time::Duration,
};

use redis::Commands;
use testkit::{
    LIMIT, RedisServer,
    certificates::make_certificate,
    child::tool,
    eventually,
    hostile::{Treatment, contents},
    publish_command,
    random::Random,
};

use crate::tool::{command, output, run};

const PASSWORD: &str = "Zq7xKv2w";

fn fill(redis: &RedisServer, hash: &str, messages: i32) {
    let records = (1..=messages).map(|number| {
        let id = number % 65_535 + 1;
        (format!("c-{number}"), publish_command(id, 1, "t", b"x"))
    });
    let records: Vec<(String, Vec<u8>)> = records.collect();
    for chunk in records.chunks(1_000) {
        let _: () = redis.connection().hset_multiple(hash, chunk).expect("HSET");
    }
}

#[test]
fn hostile_records_give_one_line_each() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut cases = Vec::new();
    for case in 0..150 {
        let contents = contents(&mut Random::of(case));
        let entries = contents.iter().map(|(field, (value, _))| (field, value));
        let entries: Vec<_> = entries.collect();
        let hash = format!("device-{case}:127.0.0.1:1");
        if !entries.is_empty() {
            let _: () = connection.hset_multiple(&hash, &entries).expect("HSET");
            cases.push((hash, contents));
        }
    }
    let listed = run(&redis, &["list", "--json"]).expect(0).objects();
    assert!(listed.len() > 100, "{}", listed.len());
    run(&redis, &["list"]).expect(0);
    run(&redis, &["check"]).expect(1);
    run(&redis, &["check", "--json"]).expect(1).objects();
    for (hash, contents) in cases {
        let shown = run(&redis, &["show", &hash, "--payload"]);
        let code = shown.code;
        assert!(matches!(code, Some(0 | 1)), "{hash}: {shown:?}");
        let shown = shown.expect(code.unwrap_or_default());
        let lines = shown.err.lines().count();
        // One line for all foreign entries, and one for each damaged record.
        let is = |treatment| {
            contents
                .values()
                .filter(move |(_, other)| *other == treatment)
        };
        let foreign = usize::from(is(Treatment::Foreign).count() > 0);
        assert!(lines >= foreign, "{hash}: {shown:?}");
        assert!(lines <= foreign + contents.len(), "{hash}: {shown:?}");
        assert_eq!(code == Some(1), lines > 0, "{hash}: {shown:?}");
        run(&redis, &["show", &hash, "--json", "--payload"]).objects();
    }
}

#[test]
fn control_characters_never_reach_terminal() {
    let redis = RedisServer::start();
    let hash = "device\x1b[2J:broker:1";
    let value = publish_command(7, 1, "a\x1b]0;x\x07\u{202e}", b"\x1b[31m\xff\r\n");
    let mut connection = redis.connection();
    let _: () = connection.hset(hash, "c-1", value).expect("HSET");
    let _: () = connection.hset(hash, "\x1bforeign", "x").expect("HSET");
    for arguments in [
        &["list"][..],
        &["show", hash, "--payload"],
        &["show", hash, "--payload=hex"],
        &["show", hash, "--json", "--payload"],
        &["check"],
        &["check", "--json"],
        &["watch", "--count", "1"],
        &["show", "another"],
    ] {
        let run = run(&redis, arguments);
        let code = run.code.expect("ends");
        let run = run.expect(code);
        assert!(
            !run.out.contains('\u{202e}') || arguments.contains(&"--json"),
            "{run:?}"
        );
    }
    let shown = run(&redis, &["show", hash, "--payload"]).expect(1);
    let topic = r"a\u{1b}]0;x\u{7}\u{202e}";
    assert!(shown.out.contains(topic), "{shown:?}");
    assert!(shown.out.contains(r"\u{1b}[31m\xff\r\n"), "{shown:?}");
    assert!(shown.err.contains(r"\u{1b}foreign"), "{shown:?}");
}

#[test]
fn closed_pipe_ends_quietly() {
    let redis = RedisServer::start();
    fill(&redis, "device:broker:1", 20_000);
    for arguments in [
        "list",
        "show device",
        "show device --json",
        "man",
        "completions bash",
    ] {
        let script = format!(r#""$TOOL" {arguments} | head -1; exit "${{PIPESTATUS[0]}}""#);
        let mut command = std::process::Command::new("bash");
        command
            .args(["-c", &script])
            .env("TOOL", tool())
            .env("MQTT_BACKLOG_URL", redis.url());
        let run = output(&mut command);
        assert_eq!(run.code, Some(0), "{arguments}: {run:?}");
        assert_eq!(run.err, "", "{arguments}");
        assert_eq!(run.out.lines().count(), 1, "{arguments}");
    }
}

#[test]
fn redis_that_ends_meanwhile_is_reported() {
    let mut redis = RedisServer::start();
    fill(&redis, "device:broker:1", 10);
    let mut child = command(&["watch", "--interval", "0.05"])
        .env("MQTT_BACKLOG_URL", redis.url())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut connection = redis.connection();
    eventually(LIMIT, "it has asked", || {
        let clients: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query(&mut connection)
            .expect("a list");
        (clients.lines().count() > 1).then_some(())
    });
    redis.kill();
    let status = child.wait().expect("ends");
    assert_eq!(status.code(), Some(3));
    let error = std::io::read_to_string(child.stderr.take().expect("piped")).expect("text");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("mqtt-backlog: cannot "), "{error}");
}

/// The pipe is full, so the program is in the middle of its work.
#[test]
fn redis_that_ends_during_show_is_reported() {
    const MESSAGES: i32 = 20_000;
    let mut redis = RedisServer::start();
    fill(&redis, "device:broker:1", MESSAGES);
    let mut child = command(&["show", "device"])
        .env("MQTT_BACKLOG_URL", redis.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.next().is_some());
    redis.kill();
    let shown = lines.count();
    assert!(i32::try_from(shown).expect("few") < MESSAGES, "{shown}");
    assert_eq!(child.wait().expect("ends").code(), Some(3));
    let error = std::io::read_to_string(child.stderr.take().expect("piped")).expect("text");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn redis_that_cannot_be_used_is_reported() {
    let redis = RedisServer::tcp_with(&["--requirepass", PASSWORD]);
    let mut paused = RedisServer::tcp();
    paused.pause();
    let port = redis.port();
    let wrong = format!("redis://:wrong{PASSWORD}@127.0.0.1:{port}/");
    for (url, reason) in [
        (redis.tcp_url(), "password"),
        (wrong, "password"),
        ("unix:///nowhere/redis.sock".to_owned(), "unix:///nowhere"),
        (paused.tcp_url(), "--timeout"),
    ] {
        for name in ["list", "check", "watch"] {
            let run = output(&mut command(&[name, "--url", &url, "--timeout", "1"])).expect(3);
            assert_eq!(run.err.lines().count(), 1, "{run:?}");
            assert!(run.err.contains(reason), "{reason}: {run:?}");
            assert!(!format!("{run:?}").contains(PASSWORD), "{run:?}");
        }
    }
    paused.resume();
    paused.kill();
    let file = redis.dir().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).expect("written");
    let file = file.to_str().expect("UTF-8");
    let arguments = ["list", "--url", &redis.tcp_url(), "--password-file", file];
    output(&mut command(&arguments)).expect(0);
}

#[test]
fn client_certificate_is_shown_to_redis() {
    let redis = RedisServer::start();
    let port = redis.listen_with_tls(true);
    make_certificate(redis.dir(), "trusted", "reader");
    let url = format!("rediss://127.0.0.1:{port}/");
    let files = ["trusted.crt", "reader.crt", "reader.key"].map(|name| redis.dir().join(name));
    let [authority, certificate, key] = files.each_ref().map(|file| file.to_str().expect("UTF-8"));
    let trusting = ["list", "--url", &url, "--redis-ca-file", authority];
    let shown = [
        "--client-certificate-file",
        certificate,
        "--client-key-file",
        key,
    ];
    output(&mut command(&[&trusting[..], &shown].concat())).expect(0);
    for arguments in [&trusting[..], &[&trusting[..], &shown[..2]].concat()] {
        let run = output(&mut command(arguments));
        assert_ne!(run.code, Some(0), "{run:?}");
        assert!(run.err.contains("client_certificate_file"), "{run:?}");
    }
}

#[test]
fn missing_right_is_named() {
    let redis = RedisServer::start();
    let all = "+type +hset +hmget +hdel +hkeys +hlen +hstrlen +multi +exec +discard +info \
               +client|reply +client|setname +client|list +client|kill +scan";
    fill(&redis, "mqtt:device:broker:1", 3);
    for (missing, arguments, code, named) in [
        ("+scan", &["list"][..], 3, "scan"),
        ("+hkeys", &["list"], 3, "hkeys"),
        ("+hstrlen", &["list"], 3, "hstrlen"),
        ("+hmget", &["show", "device"], 3, "hmget"),
        ("+info", &["check"], 1, "+info"),
        ("+client|kill", &["check"], 1, "+client|kill"),
        ("+hdel", &["check"], 1, "hdel"),
        // The owner is not known, and everything else is.
        ("+client|list", &["list"], 0, ""),
        ("+hdel", &["show", "device"], 0, ""),
    ] {
        let rights = all.replace(missing, "");
        let mut acl = redis::cmd("ACL");
        acl.arg("SETUSER").arg("reader");
        acl.arg(&["reset", "on", ">secret", "~mqtt:*", "-@all"]);
        acl.arg(rights.split_whitespace().collect::<Vec<_>>());
        acl.exec(&mut redis.connection()).expect("ACL SETUSER");
        let url = format!("{}?user=reader&pass=secret", redis.url());
        let arguments = [arguments, &["--url", &url, "--key-prefix", "mqtt:"]].concat();
        let run = output(&mut command(&arguments)).expect(code);
        assert!(
            format!("{}{}", run.out, run.err).contains(named),
            "{missing}: {run:?}"
        );
        assert!(run.err.lines().count() <= 1, "{run:?}");
    }
}

/// Number of calls of a command of Redis.
fn calls(redis: &RedisServer, command: &str) -> usize {
    let mut info = redis::cmd("INFO");
    let info = info.arg("commandstats").query(&mut redis.connection());
    let info: String = info.expect("INFO");
    let prefix = format!("cmdstat_{command}:calls=");
    let mut counts = info.lines().filter_map(|line| line.strip_prefix(&prefix));
    let count = counts.next().and_then(|count| count.split(',').next());
    count.map_or(0, |count| count.parse().expect("a number"))
}

#[test]
fn large_hash_of_others_is_never_listed() {
    let redis = RedisServer::start();
    let fields: Vec<(String, &str)> = (0..5_000).map(|field| (format!("f{field}"), "x")).collect();
    for hash in ["cache:users", "cache:users:quarantine"] {
        let _: () = redis
            .connection()
            .hset_multiple(hash, &fields)
            .expect("HSET");
    }
    for arguments in [&["list"][..], &["check"], &["watch", "--count", "1"]] {
        run(&redis, arguments).expect(0);
    }
    run(&redis, &["show", "cache"]).expect(2);
    run(&redis, &["show", "cash"]).expect(2);
    assert_eq!(calls(&redis, "hkeys"), 0);
    // A large hash of records is found, also without the right to look into it first.
    fill(&redis, "device:broker:1", 5_000);
    let listed = run(&redis, &["list", "--json"]).expect(0).objects();
    assert_eq!(listed[0]["waiting"], 5_000);
    let mut acl = redis::cmd("ACL");
    acl.arg(&[
        "SETUSER",
        "reader",
        "on",
        ">p",
        "~*",
        "+@all",
        "-hrandfield",
    ]);
    acl.exec(&mut redis.connection()).expect("ACL SETUSER");
    let url = format!("{}?user=reader&pass=p", redis.url());
    let listed = output(&mut command(&["list", "--json", "--url", &url]));
    let listed = listed.expect(0).objects();
    let device = listed.iter().find(|row| row["client"] == "device:broker:1");
    assert_eq!(device.expect("is found")["waiting"], 5_000);
}

#[test]
fn user_of_one_client_has_no_problem() {
    let redis = RedisServer::start();
    fill(&redis, "mqtt:device-1:broker:1", 3);
    fill(&redis, "mqtt:device-2:broker:1", 3);
    let mut acl = redis::cmd("ACL");
    acl.arg(&["SETUSER", "one", "on", ">p", "~mqtt:device-1:*", "+@all"]);
    acl.exec(&mut redis.connection()).expect("ACL SETUSER");
    let url = format!("{}?user=one&pass=p", redis.url());
    let all = ["--url", &url, "--key-prefix", "mqtt:"];
    for arguments in [
        &["check", "device-1"][..],
        &["check"],
        &["check", "device-1", "--redis-only"],
    ] {
        let checked = output(&mut command(&[arguments, &all].concat()));
        // Redis has no AOF and no limit here, which is no problem of rights.
        assert!(!checked.out.contains("no permission"), "{checked:?}");
        checked.expect(0);
    }
}

#[test]
fn message_that_moves_during_export_is_named() {
    let redis = RedisServer::start();
    let hash = "device:broker:1";
    fill(&redis, hash, 20_000);
    let mut child = command(&["export", "device"])
        .env("MQTT_BACKLOG_URL", redis.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    lines.next().expect("a line").expect("UTF-8");
    // It waits for a reader in the middle, while the program sends.
    let _: () = redis.connection().hdel(hash, "c-19999").expect("HDEL");
    let sent = publish_command(9, 1, "t", b"x");
    let _: () = redis.connection().hset(hash, "s-9", sent).expect("HSET");
    let rest = lines.count();
    let ended = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((rest, ended.status.code()), (19_998, Some(1)), "{errors}");
    assert!(
        errors.contains("1 record of device:broker:1 changed meanwhile"),
        "{errors}"
    );
    let quiet = run(&redis, &["export", "device"]).expect(0);
    assert_eq!(quiet.out.lines().count(), 20_000);
}

#[test]
fn unknown_or_ambiguous_client_is_usage() {
    let redis = RedisServer::start();
    for hash in ["device-1:broker:1", "device-1:old:1", "device-2:broker:1"] {
        fill(&redis, hash, 1);
    }
    let mut connection = redis.connection();
    let _: () = connection.set("text:of:others", "x").expect("SET");
    let _: () = connection
        .hset("hash:of:others", "field", "x")
        .expect("HSET");
    for (client, named) in [
        ("device-1", &["device-1:broker:1", "device-1:old:1"][..]),
        ("device-3", &["device-2:broker:1"]),
        ("text", &["device-1:old:1"]),
    ] {
        let run = run(&redis, &["show", client]).expect(2);
        assert_eq!(run.err.lines().count(), 1, "{run:?}");
        for name in named {
            assert!(run.err.contains(name), "{run:?}");
        }
        assert!(!run.err.contains("others"), "{run:?}");
    }
    run(&redis, &["show", "device-1:mqtt://old:1"]).expect(0);
    // A hash of another program is looked at if it is asked for by its name.
    run(&redis, &["show", "hash:of:others"]).expect(1);
    for arguments in [
        &["show"][..],
        &["show", "device-2", "--topic", "a#"],
        &["show", "device-2", "--number", "5-1"],
        &["list", "--url", "http://host"],
        &["nothing"],
        &[],
    ] {
        run(&redis, arguments).expect(2);
    }
    // Nothing is there at all.
    let empty = RedisServer::start();
    let shown = run(&empty, &["show", "device"]).expect(2);
    assert!(shown.err.contains("--key-prefix"), "{shown:?}");
    run(&empty, &["list"]).expect(0);
    run(&empty, &["check"]).expect(0);
}

/// A connection of a program that is stopped is idle.
#[test]
fn stopped_owner_is_silent() {
    let redis = RedisServer::start();
    fill(&redis, "device:broker:1", 1);
    let mut connection = redis.connection();
    redis::cmd("CLIENT")
        .arg(&[
            "SETNAME",
            "paho-mqtt-redis:0/device:broker:1:00000000000000ab:1",
        ])
        .exec(&mut connection)
        .expect("CLIENT SETNAME");
    let owner = || {
        let listed = run(&redis, &["list", "--json"]).expect(0).objects();
        listed[0]["owner"].as_str().map(str::to_owned)
    };
    assert_eq!(owner().as_deref(), Some("connected"));
    eventually(LIMIT + Duration::from_secs(5), "it is silent", || {
        (owner().as_deref() == Some("silent")).then_some(())
    });
    drop(connection);
}
