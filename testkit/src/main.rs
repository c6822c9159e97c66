//! The programs that tests start, kill and soak, each in a process of its own.

use std::{env, process::ExitCode};

use testkit::{crash, faults, kills, soak};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("crash-program") => crash::run_child(),
        Some("kill-program") => kills::run_program(),
        Some("fault-program") => faults::run_ordered(),
        Some("soak-program") => soak::run_program(),
        _ => {
            eprintln!("usage: testkit crash-program|kill-program|fault-program|soak-program");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
