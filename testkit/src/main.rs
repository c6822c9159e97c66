//! Tables for people, and the programs that the drivers and tests start.

use std::{env, fs, path::Path, process::ExitCode};

use testkit::harness::{crash_table, failovers, faults, random_kills, run_killed, soak};
use testkit::{
    backlog, charts,
    fleet::{self, observer::Engine},
    simulator,
};

const USAGE: &str = "\
usage: testkit crash-table [PART]            a program or its Redis is killed at every point, in the rows that contain PART
       testkit crash-random [ROUNDS [SEED]]  a program is killed at random instants, ROUNDS (100) times in each row
       testkit faults                        a program publishes during every fault of Redis
       testkit failovers [KILLS [SEED]]      masters are killed KILLS (20) times, without replicas(1) and with it
       testkit soak [MINUTES [SEED]]         many clients publish while one thing after the other fails, for MINUTES (20)
       testkit simulate [--seeds N] [--steps N] [--first-seed N] [--seed N] [--shrink] [--go-on] [--faults LIST]
                                             a program, its store and a broker are simulated with every fault
       testkit backlog-migration [MESSAGES [KILLS]]
                                             MESSAGES (60000) move between Paho's files and Redis, with KILLS (100)
       testkit fleet ENGINE FACTOR DEVICES[:full]..
                                             fleets under one prometheus or victoria-metrics, with all times divided by FACTOR
       testkit fleet-comparison FACTOR       the answers of Prometheus and VictoriaMetrics to the queries of the boards
       testkit fleet-outages FACTOR HOURS..  agents behind a link that is down for HOURS, divided by FACTOR
       testkit fleet-sums                    the cost of a device on the wire and on disk
       testkit draw-charts DOCUMENT FOLDER   the charts of a document, drawn from its tables

All but the last print Markdown, and the first five fail if a promise is broken. The programs that these and the tests start take their orders
from the variable ORDERS: backlog-client, killed-program, fault-program, soak-program.";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let is_clean = match arguments[..] {
        ["crash-table"] => Some(crash_table::print("")),
        ["crash-table", part] => Some(crash_table::print(part)),
        ["crash-random", ref numbers @ ..] => two(numbers, (100, 1))
            .and_then(|(rounds, seed)| Some((usize::try_from(rounds).ok()?, seed)))
            .map(|(rounds, seed)| random_kills::print(rounds, seed)),
        ["faults"] => Some(faults::print()),
        ["failovers", ref numbers @ ..] => two(numbers, (20, 1))
            .and_then(|(kills, seed)| Some((usize::try_from(kills).ok()?, seed)))
            .map(|(kills, seed)| failovers::print(kills, seed)),
        ["soak", ref numbers @ ..] => {
            two(numbers, (20, 1)).map(|(minutes, seed)| soak::print(minutes, seed))
        }
        ["fleet", engine, factor, ref devices @ ..] if !devices.is_empty() => {
            let engine = match engine {
                "prometheus" => Some(Engine::Prometheus),
                "victoria-metrics" => Some(Engine::VictoriaMetrics),
                _ => None,
            };
            let factor = positive(factor);
            engine.zip(factor).and_then(|(engine, factor)| {
                fleet::script::print(engine, factor, devices).then_some(true)
            })
        }
        ["fleet-comparison", factor] => positive(factor).map(|factor| {
            fleet::comparison::print(factor);
            true
        }),
        ["fleet-outages", factor, ref hours @ ..] if !hours.is_empty() => {
            let hours = hours.iter().map(|hours| positive(hours));
            let hours: Option<Vec<u32>> = hours.collect();
            positive(factor).zip(hours).map(|(factor, hours)| {
                fleet::outages::print(factor, &hours);
                true
            })
        }
        ["backlog-migration", ref numbers @ ..] => {
            two(numbers, (60_000, 100)).and_then(|numbers| {
                let [messages, kills] = <[u64; 2]>::from(numbers).map(usize::try_from);
                Some(backlog::migration::print(messages.ok()?, kills.ok()?))
            })
        }
        ["simulate", ref arguments @ ..] => {
            simulator::Orders::parse(arguments).map(|orders| simulator::print(&orders))
        }
        ["fleet-sums"] => {
            fleet::sums::print();
            Some(true)
        }
        ["draw-charts", document, folder] => {
            draw(document, folder);
            Some(true)
        }
        ["backlog-client"] => backlog::client::run_program(),
        ["killed-program"] => run_killed(),
        ["fault-program"] => faults::run_program(),
        ["soak-program"] => soak::run_program(),
        _ => None,
    };
    match is_clean {
        Some(true) => ExitCode::SUCCESS,
        Some(false) => ExitCode::FAILURE,
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn positive(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number > 0)
}

/// Parses up to two numbers, with defaults.
fn two(arguments: &[&str], defaults: (u64, u64)) -> Option<(u64, u64)> {
    let number = |place: usize, default| match arguments.get(place) {
        Some(text) => text.parse().ok(),
        None => Some(default),
    };
    let numbers = (number(0, defaults.0)?, number(1, defaults.1)?);
    (arguments.len() <= 2).then_some(numbers)
}

/// Draws the charts of a document from its tables into a folder.
fn draw(document: &str, folder: &str) {
    let document = fs::read_to_string(document).expect("a document with the tables of the bench");
    for (name, chart) in charts::of_document(&document) {
        charts::write(Path::new(folder), name, &chart).expect("a folder that can be written");
    }
}
