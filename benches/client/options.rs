//! Command line.

use std::path::PathBuf;

use lexopt::prelude::*;

use crate::{job::Version, section::Section};

/// Action that the command line selects.
pub enum Command {
    Run(Options),
    Help,
}

/// Options of the bench.
pub struct Options {
    pub sections: Vec<Section>,
    pub rounds: usize,
    pub quick: bool,
    pub version: Version,
    /// Set if client and servers run on different processors.
    pub pin: bool,
    /// Text that the name of a contender must contain.
    pub only: String,
    /// Folder for the charts of `throughput` and `flash`.
    pub charts: Option<PathBuf>,
}

pub const HELP: &str = "\
Measures a whole MQTT client with each way to keep its messages, and prints Markdown tables.

usage: scripts/bench [options] [section ...]

sections, default all:
  throughput    messages per second, while connected
  large         the same with 64 KiB and 1 MiB
  instrumented  effect of measuring every call on the throughput
  scraped       effect of ten scrapes per second on the throughput
  offline       messages per second while not connected, and after connecting
  restore       time to create a client with many waiting messages
  memory        resident memory with many waiting messages
  commands      processor time per message, and commands and bytes to Redis
  durability    messages per second and bytes to the disk with each durability
  flash         bytes per message that reach a disk
  growth        throughput by the number of waiting messages
  neighbor      messages per second while the Redis of another client in the process is down
  all           all sections

options:
  --rounds N    rounds, in each of which every contender has a turn (default 5, with --quick 2)
  --quick       few and short measurements, to check that it works
  --mqtt V      MQTT version: 5 (default) or 3.1.1
  --pin         client on the first processor, broker and Redis on the second: steadier, but slower
  --only TEXT   only contenders whose names contain TEXT, and the references of the ratios
  --charts FOLDER
                write the charts of the sections throughput and flash into this folder, as throughput.svg and flash.svg
  --help        print this help

Files are written below the folder for temporary files. Set TMPDIR to a folder on the disk to be measured.
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
            // cargo passes this to every bench.
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
