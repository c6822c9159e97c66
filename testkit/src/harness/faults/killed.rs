//! Program that is killed while a fault lasts, and its successor.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{Fault, LONG, MESSAGES, Report, site::Site};
use crate::{
    LIMIT, Mosquitto, Subscriber, eventually,
    harness::{
        Id, Kill,
        child::{Child, Runs},
        messages::{CLIENT, TOPIC},
        program::{Script, exit, records},
    },
};

pub fn run(fault: &Fault) -> Report {
    let mut site = Site::start(fault);
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 2);
    let mut runs = Runs::new(&broker.url(), &site.url(), (5, 5));
    runs.orders.operation_timeout = Duration::from_millis(250);
    let ledger = Arc::clone(&runs.ledger);
    let mut program = start(&runs);
    program.await_accepted(MESSAGES);

    let covered: HashSet<Id> = ledger.lock().unwrap().ids().collect();
    (fault.begin)(&mut site);
    thread::sleep(fault.lasts.min(LONG / 2));
    runs.ends.push(program.kill());
    (fault.end)(&mut site);
    // Redis has read the dead program's requests once its connection is gone.
    eventually(LIMIT, "the program's connection is gone", || {
        let mut list = redis::cmd("CLIENT");
        let list: String = list
            .arg("LIST")
            .query(&mut site.redis().connection())
            .ok()?;
        (!list.contains(" name=paho-mqtt-redis:")).then_some(())
    });
    let stored = stored(&mut site, &broker);

    loop {
        let status = start(&runs).wait_for(LIMIT * 2, "the successor ends");
        runs.ends.push(status);
        // If a write fails midway, Paho frees messages that it has yet to send, and the program must restart.
        if status.code() != Some(exit::GIVEN_UP) {
            assert!(status.success(), "the successor ended with {status}");
            break;
        }
    }

    let is_covered = |id: &Id| fault.keeps && covered.contains(id);
    let mut ledger = ledger.lock().unwrap();
    ledger.collect_all(&subscriber, LIMIT, is_covered);
    let balance = ledger.balance();
    let [_, lost1, lost2] = balance.lost;
    let (lost, uncovered): (Vec<Id>, Vec<Id>) =
        lost1.into_iter().chain(lost2).partition(is_covered);
    let is_known = |id: &Id| !fault.keeps || is_behind(&stored, &id.payload());
    let twice = balance.repeated[2].iter().map(|(id, _)| *id);
    let (twice_uncovered, twice): (Vec<Id>, Vec<Id>) = twice.partition(is_known);
    let names = |ids: Vec<Id>| ids.iter().map(Id::to_string).collect();
    Report {
        published: ledger.accepted(),
        lost: names(lost),
        uncovered: uncovered.len(),
        twice: names(twice),
        twice_uncovered: twice_uncovered.len(),
        altered: balance.altered.len() + balance.prefixed.len(),
        remaining: records(&mut site.redis().connection(), CLIENT, &broker.url()).len(),
        connected: true,
        ..Report::default()
    }
}

/// Starts a run: the first one publishes until it is killed, the others end once every message has completed.
fn start(runs: &Runs) -> Child {
    let script = Script::Random {
        seed: 1,
        inbound: false,
        is_last: !runs.ends.is_empty(),
    };
    runs.start(script, Kill::Never)
}

/// Records in Redis.
fn stored(site: &mut Site, broker: &Mosquitto) -> HashMap<String, Vec<u8>> {
    redis::cmd("HGETALL")
        .arg(format!("{CLIENT}:127.0.0.1:{}", broker.port()))
        .query(&mut site.redis().connection())
        .expect("HGETALL")
}

/// Returns true for a message whose record in Redis is outdated: it waits although it was sent, or counts as sent although the broker
/// had answered.
fn is_behind(stored: &HashMap<String, Vec<u8>>, text: &str) -> bool {
    let contains = |value: &[u8]| {
        value
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    let key = stored
        .iter()
        .find_map(|(key, value)| contains(value).then_some(key));
    match key.and_then(|key| key.split_once('-')) {
        Some(("c5", _)) => true,
        Some(("s5", number)) => !stored.contains_key(&format!("sc5-{number}")),
        _ => false,
    }
}
