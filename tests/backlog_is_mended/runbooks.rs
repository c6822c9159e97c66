//! Every command line that the runbooks and the documentation show does what they say.

use std::{fs, path::Path, time::Duration};

use redis::Commands;
use testkit::{RedisServer, broker::Broker, publish_command, record, repository};

use crate::{
    stored::{CLIENT, NAME, keys, put, records, set_aside, store},
    tool::{Run, command, output},
};

/// Pages whose blocks of shell commands are run, each block on records of its own.
const PAGES: [&str; 3] = [
    "dashboards/runbooks.md",
    "docs/redis.md",
    "docs/dead-letters.md",
];

/// The command lines of each block of shell commands, without comments.
fn blocks(page: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(repository().join(page)).expect("a page");
    let blocks = text.split("```sh\n").skip(1).map(|rest| {
        let block = rest.split("```").next().unwrap_or_default();
        let lines = block.lines().map(|line| {
            let line = line.split(" #").next().unwrap_or_default();
            line.trim().to_owned()
        });
        let lines = lines.filter(|line| line.starts_with("mqtt-backlog "));
        lines.collect::<Vec<String>>()
    });
    blocks.filter(|block| !block.is_empty()).collect()
}

/// A device with a backlog, of which some is set aside.
fn device() -> RedisServer {
    let redis = RedisServer::start();
    store(&redis, NAME, &["c-1", "s-7", "sc-7", "r-3"]);
    put(&redis, NAME, "c-41", &publish_command(41, 1, "t", b"stuck"));
    for place in ["quarantine", "discarded"] {
        for (key, reason) in [
            ("c-1", "foreign"),
            ("s-8", "session_lost"),
            ("c-9", "foreign"),
        ] {
            let value = record(key, key.as_bytes());
            set_aside(&redis, place, key, &value, reason, Duration::from_secs(60));
        }
        set_aside(&redis, place, "c-5", b"x", "unreadable", Duration::ZERO);
    }
    redis
}

/// Runs a command line with the names of this test in place of those of the page, and files in `folder`.
fn run_line(redis: &RedisServer, broker: &Broker, folder: &Path, line: &str) -> Run {
    let line = line.replace("mqtt://BROKER:1883", &broker.url());
    let line = line.replace("CLIENT_ID:OLD_BROKER:1883", NAME);
    let line = line.replace("CLIENT_ID", CLIENT);
    let (line, file) = match line.split_once(" >") {
        Some((line, file)) => (line.to_owned(), Some(folder.join(file))),
        None => (line, None),
    };
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    assert!(!line.contains(['>', '|', '<', '\'', '"', '$']), "{line}");
    let mut command = command(&words);
    command
        .current_dir(folder)
        .env("MQTT_BACKLOG_URL", redis.url());
    let ran = output(&mut command);
    if let Some(file) = file {
        fs::write(file, &ran.out).expect("writes");
    }
    ran
}

#[test]
fn each_command_of_the_pages_works() {
    let mut count = 0;
    for page in PAGES {
        let folder = tempfile::tempdir().expect("a folder");
        let mut copied = None;
        for block in blocks(page) {
            let (redis, broker) = (device(), Broker::start());
            // A block that goes on with a copy comes to a device that has lost the record.
            if copied.is_some() && block[0].contains(" import ") {
                let _: () = redis.connection().hdel(NAME, "c-41").expect("HDEL");
            }
            for line in block {
                let ran = run_line(&redis, &broker, folder.path(), &line);
                if line.contains(" export ") {
                    copied = Some(records(&redis, NAME)["c-41"].clone());
                }
                // Some of the records of this device cannot be handled.
                assert!(matches!(ran.code, Some(0 | 1)), "{page}: {line}: {ran:?}");
                for text in [&ran.out, &ran.err] {
                    assert!(!text.contains("no such"), "{page}: {line}: {ran:?}");
                }
                assert_effect(&redis, &broker, &line);
                if line.contains(" import ") {
                    assert_eq!(records(&redis, NAME).get("c-41"), copied.as_ref());
                }
                count += 1;
            }
        }
    }
    assert!(count >= 15, "only {count} commands");
}

/// Asserts that a command that changes records has changed them.
fn assert_effect(redis: &RedisServer, broker: &Broker, line: &str) {
    let present = records(redis, NAME);
    let quarantine = keys(redis, &format!("{NAME}:quarantine"));
    let discarded = keys(redis, &format!("{NAME}:discarded"));
    let words: Vec<&str> = line.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    let waits = |payload: &[u8]| {
        let mut commands = present.iter().filter(|(key, _)| key.starts_with("c-"));
        commands.any(|(_, value)| value.windows(payload.len()).any(|part| part == payload))
    };
    match words[1..] {
        ["purge", ..] => assert!(!present.contains_key("c-41")),
        ["quarantine", "put-back", ..] if has("foreign") => assert!(present.contains_key("c-9")),
        ["quarantine", "publish-again", ..] => {
            assert!(!quarantine.iter().any(|name| name.contains("foreign")));
        }
        ["quarantine", "delete", ..] => assert!(quarantine.is_empty(), "{quarantine:?}"),
        ["discarded", "publish-again", ..] => {
            assert!(!discarded.iter().any(|name| name.contains("session_lost")));
            assert!(waits(b"s-8"));
        }
        ["adopt", ..] if !has("--dry-run") => assert!(present.is_empty(), "{present:?}"),
        ["drain", ..] => {
            assert!(
                !present.keys().any(|key| key.starts_with('c')),
                "{present:?}"
            );
            assert_eq!(broker.accepted().len(), 2);
        }
        _ => {}
    }
}

#[test]
fn pages_send_nobody_to_commands_of_redis() {
    for page in PAGES {
        let text = fs::read_to_string(repository().join(page)).expect("a page");
        for command in ["HKEYS", "HDEL", "HLEN", "HGET", "EVAL"] {
            assert!(!text.contains(command), "{page} has {command}");
        }
    }
}
