//! Measures a whole client with each way to keep its messages, and prints Markdown tables.
//!
//! `scripts/bench` runs it. Every measurement is a process of its own, so that none inherits memory or threads of another one. The
//! contenders take turns, so that other load of the machine affects them alike.

mod child;
mod client;
mod contender;
mod io_count;
mod job;
mod machine;
mod neighbor;
mod options;
mod rounds;
mod section;
mod sink;
mod stage;

use std::{
    env,
    process::{self, ExitCode},
};
use testkit::{statistics, table};

use options::{Command, HELP};
use rounds::Bench;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == child::FLAG) {
        arguments.remove(0);
        child::run(&arguments);
    }
    if let [first, address] = &arguments[..]
        && first == contender::SCRAPER
    {
        contender::scrape(address);
    }
    match options::parse(arguments) {
        Ok(Command::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Command::Run(options)) => {
            let mut bench = Bench::new(options);
            println!("{}", machine::description(&bench));
            section::run(&mut bench);
            bench.exit_code()
        }
        Err(message) => {
            eprintln!("bench: {message}\n\n{HELP}");
            process::exit(2);
        }
    }
}
