//! A program that is killed at every point, and the account of what became of its messages.

mod case;
mod child;
mod cut;
mod files;
mod inbound;
mod killing;
mod row;

use std::{fs, io, path::Path};

pub use case::{Outcome, Versions};
pub(super) use child::append;
pub use child::connect_options;
pub use child::run as run_child;
pub(super) use inbound::{End, Inbound, payload as inbound_payload};
pub(super) use killing::Killing;
pub use killing::kill_self;
pub use row::{Crash, Row, Store, Tally};

/// Where the program is killed in one of its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    Never,
    /// Before its n-th call of the persistence.
    Before(usize),
    /// After it.
    After(usize),
    /// When Redis gets its n-th request, of which so many quarters get through.
    Cut {
        request: usize,
        quarters: usize,
    },
    /// When the broker gets its n-th packet.
    Packet(usize),
}

/// How many messages it publishes, a third of them at each QoS.
const MESSAGES: usize = 24;

/// A payload that tells whether it is whole.
pub(super) fn payload(number: usize, run: usize) -> String {
    format!("m{number}-r{run}|{}|", "x".repeat(10 + number % 500))
}

/// Whether it is a payload as the program publishes them.
pub(super) fn is_whole(text: &str) -> bool {
    let numbers = text
        .strip_prefix('m')
        .and_then(|rest| rest.split('|').next())
        .and_then(|id| id.split_once("-r"));
    let Some((number, run)) = numbers else {
        return false;
    };
    let (Ok(number), Ok(run)) = (number.parse(), run.parse()) else {
        return false;
    };
    payload(number, run) == text
}

/// The QoS of a payload.
pub(super) fn qos(text: &str) -> usize {
    let digits = text.trim_start_matches('m').split('-').next();
    digits
        .and_then(|digits| digits.parse::<usize>().ok())
        .unwrap_or(0)
        % 3
}

/// The complete lines of a file that may not be there.
pub(super) fn lines(path: &Path) -> Vec<String> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        bytes => String::from_utf8_lossy(&bytes.expect("can be read")).into_owned(),
    };
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().map(str::to_owned).collect()
}
