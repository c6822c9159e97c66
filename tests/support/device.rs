//! The device example as a process of its own, which can be killed.

use std::{env, fs, io::ErrorKind, path::PathBuf, process::Command};

use tempfile::TempDir;

use super::{LIMIT, Server, eventually};

/// A folder in which a device keeps its ledger over restarts, and the options that all its runs have.
pub struct Device {
    folder: TempDir,
    options: Vec<String>,
}

impl Device {
    /// A device that has not been started yet.
    pub fn new(broker: &str, redis: &str, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = folder.path().join("ledger");
        let own = [
            "--broker",
            broker,
            "--redis",
            redis,
            "--ledger",
            ledger.to_str().expect("UTF-8"),
        ];
        let options = own
            .iter()
            .chain(options)
            .map(|option| (*option).to_owned())
            .collect();
        Self { folder, options }
    }

    /// Starts a run and waits until it has connected to Redis and restored what was there.
    pub fn start(&self, options: &[&str]) -> Server {
        let mut command = Command::new(example());
        command.args(&self.options).args(options);
        Server::start(command, "device", "restored").unwrap_or_else(|log| panic!("{log}"))
    }

    /// The ids of the readings that were accepted so far, complete lines only.
    pub fn accepted(&self) -> Vec<String> {
        let ledger = match fs::read_to_string(self.folder.path().join("ledger")) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            ledger => ledger.expect("a ledger"),
        };
        let complete = ledger.rfind('\n').map_or("", |end| &ledger[..end]);
        complete.lines().map(str::to_owned).collect()
    }

    /// Waits until this many more readings have been accepted than before.
    pub fn wait_accepted(&self, more: usize) {
        let before = self.accepted().len();
        eventually(LIMIT, "the device accepts readings", || {
            (self.accepted().len() >= before + more).then_some(())
        });
    }
}

/// The id of the reading in a payload: what its ledger has.
pub fn id(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload);
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// The program that cargo built next to the tests.
fn example() -> PathBuf {
    let test = env::current_exe().expect("the test's own path");
    let target = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("a target folder");
    let example = target.join("examples/device");
    assert!(
        example.exists(),
        "{} is missing: `cargo test` builds it, and so does `cargo build --example device --features server`",
        example.display()
    );
    example
}
