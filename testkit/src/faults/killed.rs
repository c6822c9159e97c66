//! A program that is killed while a fault lasts, and its successor.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    path::Path,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use paho_mqtt as mqtt;

use super::{Fault, LONG, MESSAGES, Report, arrivals::Arrivals, run::records, site::Site};
use crate::{
    LIMIT, Mosquitto, Subscriber,
    child::program,
    crash::{lines, qos},
    eventually,
    kills::{self, CLIENT, Orders, TOPIC},
};

pub fn run(fault: &Fault) -> Report {
    let mut site = Site::start(fault);
    let broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker.url(), TOPIC, 2);
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = folder.path().join("ledger");
    let mut program = start(&site, &broker, folder.path(), 0);
    eventually(LIMIT, "messages are accepted", || {
        (lines(&ledger).len() >= MESSAGES).then_some(())
    });

    let covered: HashSet<String> = lines(&ledger).into_iter().collect();
    (fault.begin)(&mut site);
    thread::sleep(fault.lasts.min(LONG / 2));
    program.kill().expect("it runs");
    program.wait().expect("it ends");
    (fault.end)(&mut site);
    // What Redis has not read of the dead program's is read when that one's connection is gone.
    eventually(LIMIT, "the program's connection is gone", || {
        let mut list = redis::cmd("CLIENT");
        let list: String = list
            .arg("LIST")
            .query(&mut site.redis().connection())
            .ok()?;
        (!list.contains(" name=paho-mqtt-redis:")).then_some(())
    });
    let stored = stored(&mut site, &broker);

    for run in 1.. {
        let mut successor = start(&site, &broker, folder.path(), run);
        let status = eventually(LIMIT * 2, "the successor ends", || {
            successor.try_wait().expect("can be waited for")
        });
        // Paho frees what it is yet to send where a write is broken off, and then the program has to start again.
        if status.code() != Some(kills::exit::GIVEN_UP) {
            assert!(status.success(), "the successor ended with {status}");
            break;
        }
    }

    let accepted = lines(&ledger);
    let certain: Vec<String> = accepted
        .iter()
        .filter(|text| qos(text) > 0)
        .cloned()
        .collect();
    let is_covered = |text: &String| fault.keeps && covered.contains(text);
    let expected = certain.iter().filter(|text| is_covered(text));
    let expected: Vec<String> = expected.cloned().collect();
    let arrivals = Arrivals::of(&expected, &subscriber, LIMIT);
    let (lost, uncovered): (Vec<_>, Vec<_>) =
        arrivals.missing(&certain).into_iter().partition(is_covered);
    let is_known = |text: &String| !fault.keeps || is_behind(&stored, text);
    let (twice_uncovered, twice): (Vec<_>, Vec<_>) =
        arrivals.twice().into_iter().partition(is_known);
    Report {
        published: accepted.len(),
        lost,
        uncovered: uncovered.len(),
        twice,
        twice_uncovered: twice_uncovered.len(),
        altered: arrivals.altered(),
        left: records(&mut site, CLIENT, &broker),
        connected: true,
        ..Report::default()
    }
}

/// The first run publishes until it is killed, and the others end when everything is through.
fn start(site: &Site, broker: &Mosquitto, folder: &Path, run: usize) -> Child {
    let orders = Orders {
        broker: broker.url(),
        redis: site.url(),
        version: mqtt::MQTT_VERSION_5,
        folder: folder.to_owned(),
        run,
        seed: 1,
        last: run > 0,
        inbound: false,
        patience: Duration::from_millis(250),
    };
    let log = File::create(folder.join(format!("log-{run}"))).expect("a file");
    program("kill-program")
        .envs(orders.variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the program can be run")
}

/// The records in Redis.
fn stored(site: &mut Site, broker: &Mosquitto) -> HashMap<String, Vec<u8>> {
    redis::cmd("HGETALL")
        .arg(format!("{CLIENT}:127.0.0.1:{}", broker.port()))
        .query(&mut site.redis().connection())
        .expect("HGETALL")
}

/// Whether Redis could not be told what had become of a message: it is there as one that waits although it was sent, or as one that
/// was sent although the broker had answered.
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
