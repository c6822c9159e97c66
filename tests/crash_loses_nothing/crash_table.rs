//! The program is killed at every point of its life, and what it had accepted arrives all the same.

use std::env;

use testkit::crash::{Crash, Row, Store, Tally, Versions};

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let redis = |(tcp, pipelined)| Store::Redis { tcp, pipelined };
    let ways = [(false, false), (false, true), (true, false), (true, true)];
    for store in ways.map(redis).into_iter().chain([Store::Files]) {
        for versions in [Versions::V5, Versions::V3, Versions::Default3] {
            for forgets in [false, true] {
                for crash in [Crash::Call, Crash::Twice, Crash::Request, Crash::Packet] {
                    if store != Store::Files || crash != Crash::Request {
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
        "| store | MQTT | session | killed | points | lost, QoS 0 | lost, QoS 1 | lost, QoS 2 | discarded | twice, QoS 2 | altered | a byte in front | inbound lost | inbound twice | lost by Paho | twice by Paho | given up | trouble |"
    );
    println!("|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
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
            prefixed,
            inbound_lost,
            inbound_twice,
            inbound_by_paho: [paho_lost, paho_twice],
            given_up,
            trouble,
            stories,
        } = row.run(stride, usize::MAX);
        println!(
            "| {row} | {points} | {lost0} | {lost1} | {lost2} | {discarded} | {twice} | {altered} | {prefixed} | {inbound_lost} | {inbound_twice} | {paho_lost} | {paho_twice} | {given_up} | {trouble} |"
        );
        for (about, story) in stories.iter().take(number("CRASH_STORIES").unwrap_or(0)) {
            eprintln!("{row}: {about}\n{story}");
        }
    }
}

/// What is not as it should be, and why nothing is done about it here.
struct Known {
    versions: &'static [Versions],
    /// What the account of a case is to start with.
    about: &'static str,
    /// Where it is in Paho C 1.3.16.
    #[expect(dead_code, reason = "it is there to be read")]
    why: &'static str,
}

/// Every cell of the table that is not zero and yet not ours, in one place.
const KNOWN: [Known; 1] = [Known {
    versions: &[Versions::Default3],
    about: "a byte in front",
    why: "MQTTPersistence_restorePackets gives a restored 3.1.1 PUBLISH the version of the client at its creation \
          (publish->MQTTVersion = c->MQTTVersion), so that it is sent with an empty list of MQTT 5 properties",
}];

/// What is wrong with a case that is not known: the parts of what it is about, each of one kind.
fn unknown(row: Row, about: &str) -> bool {
    about.split("; ").any(|part| {
        !KNOWN
            .iter()
            .any(|known| known.versions.contains(&row.versions) && part.starts_with(known.about))
    })
}

/// Some points of every row; scripts/crash-table tries them all.
#[test]
fn what_was_accepted_arrives_wherever_the_program_is_killed() {
    for row in rows() {
        let is_tried = match row.store {
            Store::Redis {
                tcp: false,
                pipelined: false,
            } => true,
            Store::Redis { .. } => row.versions == Versions::V5 && !row.forgets,
            Store::Files => false,
        };
        if !is_tried {
            continue;
        }
        let stride = match row.crash {
            Crash::Call => 13,
            Crash::Twice => 41,
            Crash::Request => 23,
            Crash::Packet => 2,
        };
        let tally = row.run(stride, 40);
        assert!(tally.points >= 20, "{row}: {} points only", tally.points);
        for (about, story) in tally.stories {
            assert!(!unknown(row, &about), "{row}: {about}\n{story}");
        }
    }
}
