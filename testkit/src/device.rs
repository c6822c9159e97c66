//! Device example as a separate process, which can be killed.

use std::{fs, io::ErrorKind};

use tempfile::TempDir;

use super::{LIMIT, Server, child, poll};

/// Ledger of a device over restarts, and the options of all its runs.
pub struct Device {
    folder: TempDir,
    options: Vec<String>,
}

impl Device {
    /// Creates a device that has not been started yet.
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

    /// Starts a run and waits until it has connected to Redis and restored its messages.
    pub fn start(&self, options: &[&str]) -> Server {
        self.run("info", options)
    }

    /// Starts a run with a filter for its log.
    pub fn start_with_log(&self, filter: &str) -> Server {
        self.run(filter, &[])
    }

    fn run(&self, log: &str, options: &[&str]) -> Server {
        let mut command = child::command(child::example("device"));
        command
            .args(&self.options)
            .args(options)
            .env("RUST_LOG", log);
        Server::start(command, "device", "restored").unwrap_or_else(|log| panic!("{log}"))
    }

    /// Returns the ids of the readings accepted so far, from complete lines only.
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

    /// Waits until the device has accepted this many readings in all its runs.
    #[track_caller]
    pub fn wait_accepted_in_all(&self, run: &mut Server, all: usize) {
        let expected = format!("{all} readings are accepted");
        self.supervise(run, &[], &expected, |_| self.accepted().len() >= all);
    }

    /// Waits until the device has noticed the loss of its broker, and restarts it if that broke a write.
    #[track_caller]
    pub fn wait_cut_off(&self, run: &mut Server, options: &[&str]) {
        self.supervise(run, options, "the broker is gone", |log| {
            // A device that is about to exit reports the loss as a failed message, which may follow a line without one.
            let lines = log
                .lines()
                .rev()
                .filter(|line| line.starts_with("published "));
            let down = lines.take_while(|line| line.contains(", broker down"));
            down.filter(|line| !line.contains(", failed ")).count() > 1
        });
    }

    /// Waits for a condition on the device or its log, and restarts it with these options whenever it exits.
    ///
    /// The device exits if Paho would otherwise send damaged messages, and relies on a supervisor.
    #[track_caller]
    fn supervise(
        &self,
        run: &mut Server,
        options: &[&str],
        expected: &str,
        mut is_done: impl FnMut(&str) -> bool,
    ) {
        let done = poll(LIMIT, || {
            let is_done = is_done(&run.log());
            if !is_done && run.has_ended() {
                let log = run.log();
                assert!(log.contains("a write to the broker failed midway"), "{log}");
                *run = self.start(options);
            }
            is_done.then_some(())
        });
        assert!(
            done.is_some(),
            "not within {LIMIT:?}: {expected}; the device's log:\n{}",
            run.log()
        );
    }
}

/// Address at which a device serves its metrics, from its log: `host:port`.
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

/// Id of the reading in a payload, as the ledger has it.
pub fn id(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload);
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
