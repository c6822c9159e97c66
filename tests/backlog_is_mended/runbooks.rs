//! Every command line that the documentation shows does what it says. The runbooks are followed in `runbook_faults`.

use std::{fs, time::Duration};

use testkit::{RedisServer, record, repository};

use crate::{
    stored::{CLIENT, NAME, keys, records, set_aside, store},
    tool::{command, output},
};

/// Pages whose blocks of shell commands are run, each block on records of its own.
const PAGES: [&str; 2] = ["docs/redis.md", "docs/dead-letters.md"];

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

#[test]
fn each_command_of_the_pages_works() {
    let mut count = 0;
    for page in PAGES {
        for block in blocks(page) {
            let redis = device();
            for line in block {
                // The names of this test in place of those of the page.
                let words = line.replace("CLIENT_ID", CLIENT);
                let words: Vec<&str> = words.split_whitespace().skip(1).collect();
                let ran = output(command(&words).env("MQTT_BACKLOG_URL", redis.url()));
                // Some of the records of this device cannot be handled.
                assert!(matches!(ran.code, Some(0 | 1)), "{page}: {line}: {ran:?}");
                for text in [&ran.out, &ran.err] {
                    assert!(!text.contains("no such"), "{page}: {line}: {ran:?}");
                }
                assert_effect(&redis, &words);
                count += 1;
            }
        }
    }
    assert!(count >= 5, "only {count} commands");
}

/// Asserts that a command that changes records has changed them.
fn assert_effect(redis: &RedisServer, words: &[&str]) {
    match words {
        ["quarantine", "put-back", ..] => {
            assert!(records(redis, NAME).contains_key("c-9"));
        }
        ["discarded", "publish-again", ..] => {
            let discarded = keys(redis, &format!("{NAME}:discarded"));
            assert!(!discarded.iter().any(|name| name.contains("session_lost")));
        }
        _ => {}
    }
}

#[test]
fn pages_send_nobody_to_commands_of_redis() {
    for page in PAGES.into_iter().chain(["dashboards/runbooks.md"]) {
        let text = fs::read_to_string(repository().join(page)).expect("a page");
        for command in ["HKEYS", "HDEL", "HLEN", "HGET", "EVAL"] {
            assert!(!text.contains(command), "{page} has {command}");
        }
    }
}
