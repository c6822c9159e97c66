//! Programs that are killed at chosen points or at random, exposed to faults of Redis or soaked, and one ledger for all.
//!
//! The drivers share payloads that name themselves, the ledger of accepted and arrived messages, the process of a started program,
//! and the parts of such a program. The drivers are `crash_table`, `random_kills`, `faults` and
//! `soak`; each has its program in `program.rs`, which `main.rs` runs.

mod child;
mod client;
pub mod crash_table;
mod cut;
pub mod failovers;
pub mod faults;
mod files;
mod inbound;
mod killing;
mod ledger;
mod messages;
mod program;
pub mod random_kills;
pub mod soak;

use std::{fs, io, path::Path};

pub use client::{BoxedPersistence, ClientKind};
pub use cut::cut_request;
pub use inbound::Inbound;
pub use killing::{Kill, Victim, kill_self};
pub use ledger::{Balance, Ledger};
pub use messages::{Id, Versions};
pub(crate) use program::{ORDERS, orders};
pub use program::{connect_options, run_killed, session};

/// Complete lines of a file; empty if there is no such file.
fn lines(path: &Path) -> Vec<String> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        bytes => String::from_utf8_lossy(&bytes.expect("can be read")).into_owned(),
    };
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().map(str::to_owned).collect()
}
