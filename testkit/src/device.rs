//! The device example as a process of its own, which can be killed.

use std::{
    fs,
    io::ErrorKind,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{LIMIT, Server, child::example};

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
        self.run("info", options)
    }

    /// The same, with a filter for its log.
    pub fn start_with_log(&self, filter: &str) -> Server {
        self.run(filter, &[])
    }

    fn run(&self, log: &str, options: &[&str]) -> Server {
        let mut command = Command::new(example("device"));
        command
            .args(&self.options)
            .args(options)
            .env("RUST_LOG", log);
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

    /// Waits until the run has accepted this many more readings than were accepted before.
    #[track_caller]
    pub fn wait_accepted(&self, run: &mut Server, more: usize) {
        let all = self.accepted().len() + more;
        self.wait_accepted_in_all(run, all);
    }

    /// The same, until this many readings have been accepted since the device is there.
    #[track_caller]
    pub fn wait_accepted_in_all(&self, run: &mut Server, all: usize) {
        let what = format!("{all} readings are accepted");
        self.supervise(run, &[], &what, |_| self.accepted().len() >= all);
    }

    /// Waits until a device whose broker has gone knows, and has ended, and been started again, if a write was broken off by that.
    #[track_caller]
    pub fn wait_cut_off(&self, run: &mut Server, options: &[&str]) {
        self.supervise(run, options, "the broker is gone", |log| {
            // One that is about to end says so too, and that a message has failed, which it may find out after a line without that.
            let lines = log
                .lines()
                .rev()
                .filter(|line| line.starts_with("published "));
            let down = lines.take_while(|line| line.contains(", broker down"));
            down.filter(|line| !line.contains(", failed ")).count() > 1
        });
    }

    /// Waits for something that the device does, or says in its log.
    ///
    /// A device gives up where Paho would send damaged messages: as a supervisor would, it is started again then, with these
    /// options.
    #[track_caller]
    fn supervise(
        &self,
        run: &mut Server,
        options: &[&str],
        what: &str,
        mut is_done: impl FnMut(&str) -> bool,
    ) {
        let started = Instant::now();
        while !is_done(&run.log()) {
            if run.has_ended() {
                let log = run.log();
                assert!(
                    log.contains("a write to the broker was broken off"),
                    "{log}"
                );
                *run = self.start(options);
            }
            assert!(
                started.elapsed() < LIMIT,
                "not within {LIMIT:?}: {what}; the device's log:\n{}",
                run.log()
            );
            thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// Where a device serves its metrics, as it says itself: `host:port`.
pub fn address(run: &Server) -> String {
    let log = run.log();
    let address = log.lines().find_map(|line| {
        line.strip_prefix("metrics at http://")?
            .strip_suffix("/metrics")
    });
    address
        .unwrap_or_else(|| panic!("no address in {log}"))
        .to_owned()
}

/// The id of the reading in a payload: what its ledger has.
pub fn id(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload);
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
