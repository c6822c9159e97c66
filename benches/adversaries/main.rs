//! What the endpoint takes, and what becomes of scrapes, while somebody attacks it; and the same of `tiny_http`'s own accept loop.
//!
//! `scripts/adversaries` runs it. Each server is a process of its own, new for each adversary. The exit status is 1 if ours is not
//! what docs/endpoint.md promises.

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
Attacks the endpoint and tiny_http's own accept loop, and prints a Markdown table.

usage: scripts/adversaries [options] [adversary ...]

options:
  --seconds N   how long each attack lasts (default 8)
  --list        the names of the adversaries
  --help        this text
";

/// How long it may take until everything is as before.
const RECOVERY: Duration = Duration::from_secs(5);

/// What is promised of ours.
const MOST_CONNECTIONS: usize = 16;
const MOST_MEMORY: f64 = 4.0 * 1024.0 * 1024.0;
/// What an allocator keeps of what it had.
const LEFT_BEHIND: f64 = 1024.0 * 1024.0;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == child::FLAG) {
        child::run(arguments.get(1).map_or("", String::as_str));
    }
    // cargo says so to every bench.
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
            other => usage(&format!("there is no {other:?}")),
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

/// What one adversary did to one server.
struct Outcome {
    idle: Load,
    most: Load,
    during: Scrapes,
    after: Scrapes,
    left: Load,
}

fn run(attack: &Attack, kind: Kind, lasting: Duration) -> Outcome {
    let mut child = Child::start(kind);
    let address = child.address();
    // What a server takes once, it has taken then.
    scrape_for(address, Duration::from_millis(500));
    thread::sleep(Duration::from_secs(1));
    let idle = Load::of(child.pid());
    let observer = Observer::start(child.pid());
    let is_over = AtomicBool::new(false);
    child.tell(attack.before);
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
        // It is under way before it is measured.
        thread::sleep(Duration::from_millis(500));
        let during = scrape_for(address, lasting);
        is_over.store(true, Ordering::Relaxed);
        during
    });
    let most = observer.stop();
    child.tell(attack.after);
    thread::sleep(RECOVERY);
    let left = Load::of(child.pid());
    let after = scrape_for(address, Duration::from_secs(1));
    Outcome {
        idle,
        most,
        during,
        after,
        left,
    }
}

impl Outcome {
    fn row(&self, attack: &Attack, kind: Kind) -> Vec<String> {
        let Self {
            idle,
            most,
            during,
            after,
            left,
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
                left.threads.cast_signed() - idle.threads.cast_signed(),
                more(left),
                left.connections.cast_signed() - idle.connections.cast_signed()
            ),
        ]
    }

    /// In what it is not as promised.
    fn faults(&self, name: &str) -> Vec<String> {
        let Self {
            idle,
            most,
            during,
            after,
            left,
        } = self;
        let connections = most.connections.saturating_sub(idle.connections);
        let checks = [
            (most.threads == idle.threads, "more threads"),
            // One more while it is being refused.
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
            (left.threads == idle.threads, "threads are left"),
            (left.connections == idle.connections, "connections are left"),
            (left.memory - idle.memory <= LEFT_BEHIND, "memory is left"),
        ];
        checks
            .iter()
            .filter(|(is_kept, _)| !is_kept)
            .map(|(_, fault)| format!("{name}: {fault}"))
            .collect()
    }
}

/// The table as far as it is known before the first attack: each row follows when it is measured.
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
        "The most of each while an attack lasts, which is {seconds} s, and of the scrapes meanwhile, twenty a second. Connections are \
         those that the server has accepted; one more is there for a moment while it is refused."
    );
    table::print("Adversaries", &about, &columns, &[]);
}
