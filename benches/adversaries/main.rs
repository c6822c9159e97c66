//! Measures resources and scrapes of the endpoint under attack, and the same for `tiny_http`'s accept loop.
//!
//! `scripts/adversaries` runs it. Each server is a process of its own, new for each adversary. The exit status is 1 if ours breaks
//! a promise of docs/endpoint.md.

mod attack;
mod child;
mod observed;
mod scrapes;

use std::{
    env,
    process::{self, ExitCode},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use testkit::{random::Random, table};

use attack::Attack;
use child::{Child, Kind};
use observed::{Load, Observer};
use scrapes::{Scrapes, scrape_for};

const HELP: &str = "\
Attacks the endpoint and tiny_http's accept loop, and prints a Markdown table.

usage: scripts/adversaries [options] [adversary ...]

options:
  --seconds N   duration of each attack (default 8)
  --list        print the names of the adversaries
  --help        print this help
";

/// Time after which everything must be as before the attack.
const RECOVERY: Duration = Duration::from_secs(5);

/// Promised limits of our endpoint.
const MOST_CONNECTIONS: usize = 16;
const MOST_MEMORY: f64 = 4.0 * 1024.0 * 1024.0;
/// Allowance for freed memory that the allocator keeps, in an arena for each of several threads.
const RETAINED_MEMORY: f64 = 2.0 * 1024.0 * 1024.0;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == child::FLAG) {
        child::run(arguments.get(1).map_or("", String::as_str));
    }
    // cargo passes this to every bench.
    arguments.retain(|argument| argument != "--bench");
    let mut seconds = 8;
    let mut names = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => match arguments.next().and_then(|value| value.parse().ok()) {
                Some(number) => seconds = number,
                None => usage("--seconds takes a whole number"),
            },
            "--list" => {
                for attack in attack::ALL {
                    println!("{}", attack.name);
                }
                return ExitCode::SUCCESS;
            }
            "--help" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            name if attack::ALL.iter().any(|attack| attack.name == name) => {
                names.push(argument);
            }
            other => usage(&format!("unknown adversary or option {other:?}")),
        }
    }
    child::allow_many_files();
    let mut faults = Vec::new();
    print_head(seconds);
    for attack in attack::ALL {
        if names.is_empty() || names.iter().any(|name| name == attack.name) {
            for kind in [Kind::Ours, Kind::TinyHttp] {
                eprintln!("{}: {}", attack.name, kind.name());
                let outcome = run(attack, kind, Duration::from_secs(seconds));
                if kind == Kind::Ours {
                    faults.extend(outcome.faults(attack.name));
                }
                println!("| {} |", outcome.row(attack, kind).join(" | "));
            }
        }
    }
    for fault in &faults {
        eprintln!("adversaries: {fault}");
    }
    if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn usage(message: &str) -> ! {
    eprintln!("adversaries: {message}\n\n{HELP}");
    process::exit(2);
}

/// Effect of one adversary on one server.
struct Outcome {
    idle: Load,
    most: Load,
    during: Scrapes,
    after: Scrapes,
    recovered: Load,
}

fn run(attack: &Attack, kind: Kind, lasting: Duration) -> Outcome {
    let mut child = Child::start(kind);
    let address = child.address();
    // Warms up, so that one-time allocations do not count.
    scrape_for(address, Duration::from_millis(500));
    thread::sleep(Duration::from_secs(1));
    let idle = Load::of(child.pid());
    let observer = Observer::start(child.pid());
    let is_over = AtomicBool::new(false);
    child.send(attack.before);
    let during = thread::scope(|scope| {
        for number in 0..attack.threads {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut random = Random::of(number);
                while !is_over.load(Ordering::Relaxed) {
                    (attack.run)(address, is_over, &mut random);
                }
            });
        }
        // The attack starts before the measurement.
        thread::sleep(Duration::from_millis(500));
        let during = scrape_for(address, lasting);
        is_over.store(true, Ordering::Relaxed);
        during
    });
    let most = observer.stop();
    child.send(attack.after);
    thread::sleep(RECOVERY);
    let recovered = Load::of(child.pid());
    let after = scrape_for(address, Duration::from_secs(1));
    Outcome {
        idle,
        most,
        during,
        after,
        recovered,
    }
}

impl Outcome {
    fn row(&self, attack: &Attack, kind: Kind) -> Vec<String> {
        let Self {
            idle,
            most,
            during,
            after,
            recovered,
        } = self;
        let more = |load: &Load| format!("{:+.1} MB", (load.memory - idle.memory) / 1e6);
        vec![
            attack.about.to_owned(),
            kind.name().to_owned(),
            format!("{} ({})", most.threads, idle.threads),
            more(most),
            most.connections
                .saturating_sub(idle.connections)
                .to_string(),
            during.tried().to_string(),
            during.answered().to_string(),
            during.refused.to_string(),
            during.p99(),
            format!("{} of {}", after.answered(), after.tried()),
            format!(
                "{:+}, {}, {:+}",
                recovered.threads.cast_signed() - idle.threads.cast_signed(),
                more(recovered),
                recovered.connections.cast_signed() - idle.connections.cast_signed()
            ),
        ]
    }

    /// Broken promises.
    fn faults(&self, name: &str) -> Vec<String> {
        let Self {
            idle,
            most,
            during,
            after,
            recovered,
        } = self;
        let connections = most.connections.saturating_sub(idle.connections);
        let checks = [
            // One more is ending when the next one begins.
            (
                most.threads <= idle.threads + MOST_CONNECTIONS + 1,
                "more than 16 additional threads",
            ),
            // One more is open while it is being refused.
            (
                connections <= MOST_CONNECTIONS + 1,
                "more than 16 connections",
            ),
            (most.memory - idle.memory <= MOST_MEMORY, "more than 4 MB"),
            (
                during.answered() * 2 >= during.tried(),
                "half of the scrapes fail",
            ),
            (
                after.answered() == after.tried(),
                "a scrape fails afterwards",
            ),
            (recovered.threads == idle.threads, "threads remain"),
            (
                recovered.connections == idle.connections,
                "connections remain",
            ),
            (
                recovered.memory - idle.memory <= RETAINED_MEMORY,
                "memory remains in use",
            ),
        ];
        checks
            .iter()
            .filter(|(is_kept, _)| !is_kept)
            .map(|(_, fault)| format!("{name}: {fault}"))
            .collect()
    }
}

/// Prints the head of the table; each row follows when it is measured.
fn print_head(seconds: u64) {
    let columns = [
        "adversary",
        "server",
        "threads (idle)",
        "memory above idle",
        "connections",
        "scrapes tried",
        "answered within 1 s",
        "refused at once",
        "p99",
        "5 s after: answered",
        "5 s after: threads, memory, connections",
    ]
    .map(str::to_owned);
    let about = format!(
        "Maximum of each during an attack of {seconds} s, and the scrapes meanwhile, twenty per second. Connections are those that \
         the server has accepted; one more is open for a moment while it is refused."
    );
    table::print("Adversaries", &about, &columns, &[]);
}
