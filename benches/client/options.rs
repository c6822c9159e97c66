//! The command line.

use std::path::PathBuf;

use lexopt::prelude::*;

use crate::{job::Version, section::Section};

/// What the command line asks for.
pub enum Command {
    Run(Options),
    Help,
}

/// How the measuring is done.
pub struct Options {
    pub sections: Vec<Section>,
    pub rounds: usize,
    pub quick: bool,
    pub version: Version,
    /// Whether client and servers are kept apart.
    pub pin: bool,
    /// What the name of a contender is to contain.
    pub only: String,
    /// The folder for the charts of `throughput` and `flash`.
    pub charts: Option<PathBuf>,
}

pub const HELP: &str = "\
Measures a whole MQTT client with each way to keep its messages, and prints Markdown tables.

usage: scripts/bench [options] [section ...]

sections, all of them by default:
  throughput    messages a second, while connected
  instrumented  what measuring every call costs of it
  scraped       what being scraped ten times a second costs of it
  offline       messages a second while not connected, and when they are sent at last
  restore       time to create a client with many messages waiting
  memory        resident memory with many messages waiting
  commands      commands and bytes to Redis for a message, and the processor time that it takes
  flash         bytes that reach a disk for a message
  growth        how the speed changes with the number of messages that wait
  neighbour     messages a second while the Redis of another client in the process is down
  all           all of them

options:
  --rounds N    how often every contender has its turn (default 5, with --quick 2)
  --quick       few and short measurements: to see that it works
  --mqtt V      the version of MQTT: 5 (default) or 3.1.1
  --pin         the client on the first processor, broker and Redis on the second: steadier, and slower
  --only TEXT   only contenders whose names contain it, and those that they are compared with
  --charts FOLDER
                write the charts of the sections throughput and flash into this folder, as throughput.svg and flash.svg
  --help        this text

Files are written below the folder for temporary files: set TMPDIR to a folder on the disk to be measured.
";

pub fn parse(arguments: Vec<String>) -> Result<Command, String> {
    let mut sections = Vec::new();
    let mut rounds = None;
    let mut quick = false;
    let mut version = Version::V5;
    let mut pin = false;
    let mut only = String::new();
    let mut charts = None;
    let mut parser = lexopt::Parser::from_args(arguments);
    let words = |error: lexopt::Error| error.to_string();
    while let Some(argument) = parser.next().map_err(words)? {
        match argument {
            Long("rounds") => {
                let number: usize = parser
                    .value()
                    .and_then(|value| value.parse())
                    .map_err(words)?;
                rounds = Some(number.max(1));
            }
            Long("quick") => quick = true,
            Long("pin") => pin = true,
            Long("mqtt") => {
                let value = parser.value().and_then(ValueExt::string).map_err(words)?;
                version = Version::parse(&value).ok_or("--mqtt takes 5 or 3.1.1")?;
            }
            Long("only") => {
                only = parser.value().and_then(ValueExt::string).map_err(words)?;
            }
            Long("charts") => {
                charts = Some(PathBuf::from(parser.value().map_err(words)?));
            }
            // cargo says so to every bench.
            Long("bench") => {}
            Short('h') | Long("help") => return Ok(Command::Help),
            Value(value) => {
                let name = value.string().map_err(words)?;
                sections.extend(Section::named(&name).ok_or(format!("no section {name:?}"))?);
            }
            other => return Err(words(other.unexpected())),
        }
    }
    if sections.is_empty() {
        sections.extend(Section::ALL);
    }
    Ok(Command::Run(Options {
        sections,
        rounds: rounds.unwrap_or(if quick { 2 } else { 5 }),
        quick,
        version,
        pin,
        only,
        charts,
    }))
}
