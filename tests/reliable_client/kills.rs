//! A program with the client is killed at any time, and every message that it had accepted arrives.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{self, BufRead, BufReader, Write},
    process::Stdio,
    time::Duration,
};

use testkit::{LIMIT, child::ignored_test, eventually, random::Random};

use super::world::{CLIENT, World, message};
use paho_mqtt_redis::{OnBrokenWrite, Session};

/// Runs as a separate program, which the environment configures; returns at once if it does not.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    let variable = |name: &str| env::var(name).expect("a variable");
    let Ok(run) = env::var("RUN") else {
        return;
    };
    let client = Session::new(CLIENT, variable("BROKER"))
        .redis(|redis| redis.url(variable("REDIS")).open_timeout(LIMIT))
        .backoff(Duration::from_millis(20), Duration::from_millis(100))
        .start()
        .expect("starts");
    for number in 0.. {
        let payload = format!("{run} {number}");
        drop(client.publish(message(&payload)).expect("accepted"));
        // A single write, since a kill may come at any time.
        let line = format!("accepted {payload}\n");
        io::stdout()
            .write_all(line.as_bytes())
            .expect("the test reads");
    }
}

/// Starts the program, kills it after it has accepted this many messages, and returns all that it has.
fn killed_after(world: &World, run: usize, accepted: usize) -> Vec<String> {
    let mut child = ignored_test(module_path!(), "child")
        .env("RUN", run.to_string())
        .env("BROKER", world.broker.url())
        .env("REDIS", world.redis.url())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test can be run once more");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut lines = Vec::new();
    let mut read = || {
        let mut line = String::new();
        output.read_line(&mut line).expect("text");
        line
    };
    loop {
        let line = read();
        if let Some((_, payload)) = line.split_once("accepted ")
            && line.ends_with('\n')
        {
            lines.push(payload.trim_end().to_owned());
        }
        if lines.len() == accepted {
            child.kill().expect("it runs");
        }
        if line.is_empty() {
            break;
        }
    }
    let ended = child.wait().expect("it ends");
    // A broker that goes away may break a write off, and the client then ends the program.
    let has_given_up = ended.code() == Some(OnBrokenWrite::EXIT_CODE);
    assert!(
        lines.len() >= accepted || has_given_up,
        "{ended}: {lines:?}"
    );
    lines
}

#[test]
fn killed_client_loses_nothing_and_repeats_nothing() {
    let mut world = World::start();
    let mut random = Random::of(1);
    let mut accepted = BTreeSet::new();
    for run in 0..8 {
        // The second run of four meets a broker that is away.
        match run % 4 {
            1 => world.broker.stop(),
            2 => world.broker.restart(),
            _ => {}
        }
        accepted.extend(killed_after(&world, run, 1 + random.below(200)));
    }
    let client = world.session().start().expect("starts");
    let stopped = client.stop(LIMIT).expect("stops");
    assert_eq!(stopped.pending, 0);
    let arrived = eventually(LIMIT, "all messages arrive", || {
        let arrived: Vec<String> = world.arrived(accepted.len());
        let set: BTreeSet<String> = arrived.iter().cloned().collect();
        accepted.is_subset(&set).then_some(arrived)
    });
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for payload in &arrived {
        *counts.entry(payload).or_default() += 1;
    }
    counts.retain(|_, times| *times > 1);
    assert_eq!(counts, BTreeMap::new());
    // Each kill may have hidden the report of one message.
    assert!(arrived.len() <= accepted.len() + 8);
}
