//! The program is killed at every point of its life, and what it had accepted arrives all the same.

#![cfg(feature = "redis")]

mod support;

use std::env;

use support::crash::{self, Crash, Row, Store, Tally, Versions};

/// The program that the tests run and kill; by itself it does nothing.
#[test]
#[ignore = "the other tests run it"]
fn the_program() {
    crash::run_child();
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for store in [Store::Redis, Store::Files] {
        for versions in [Versions::V5, Versions::V3, Versions::Default3] {
            for forgets in [false, true] {
                for crash in [Crash::Call, Crash::Twice, Crash::Request, Crash::Packet] {
                    if store == Store::Redis || crash != Crash::Request {
                        rows.push(Row {
                            store,
                            versions,
                            forgets,
                            crash,
                        });
                    }
                }
            }
        }
    }
    rows
}

#[test]
#[ignore = "it takes long: scripts/crash-table runs it"]
fn table() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let stride = number("CRASH_STRIDE").unwrap_or(1);
    let only = env::var("CRASH_ROWS").unwrap_or_default();
    println!(
        "| store | MQTT | session | killed | points | lost, QoS 0 | lost, QoS 1 | lost, QoS 2 | discarded | twice, QoS 2 | altered | trouble |"
    );
    println!("|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    for row in rows() {
        if !row.to_string().contains(&only) {
            continue;
        }
        let stride = if row.crash == Crash::Twice {
            stride * 5
        } else {
            stride
        };
        let Tally {
            points,
            lost: [lost0, lost1, lost2],
            discarded,
            twice,
            altered,
            trouble,
            stories,
        } = row.run(stride, usize::MAX);
        println!(
            "| {row} | {points} | {lost0} | {lost1} | {lost2} | {discarded} | {twice} | {altered} | {trouble} |"
        );
        for (about, story) in stories.iter().take(number("CRASH_STORIES").unwrap_or(0)) {
            eprintln!("{row}: {about}\n{story}");
        }
    }
}
