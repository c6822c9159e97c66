//! Driver's side of a started program.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{self, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use paho_mqtt_redis::Durability;
use serde::Serialize;
use tempfile::TempDir;

use super::{
    ClientKind, Id, Inbound, Kill, Ledger, Versions, Victim,
    inbound::End,
    program::{MARK, ORDERS, Orders, Script, cache_limit, exit},
};
use crate::{LIMIT, child::program, eventually, resident};

/// Reported by the C library if memory is freed twice, as Paho does with a PUBLISH whose write to the broker fails midway.
const FREED_TWICE: [&str; 3] = [
    "double free or corruption",
    "free(): ",
    "munmap_chunk(): invalid pointer",
];

/// Process that is killed when this is dropped. The programs also die with their driver.
pub(super) struct Child {
    process: process::Child,
    /// Standard input: a program that reads commands ends when it is closed.
    pub input: Option<ChildStdin>,
    accepted: Receiver<()>,
    answers: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    log: PathBuf,
    pub started: Instant,
}

impl Child {
    /// Starts a program with these orders, writes its standard error to `log`, and records the messages that it accepts.
    pub fn start(
        mut command: Command,
        orders: &impl Serialize,
        log: &Path,
        ledger: &Arc<Mutex<Ledger>>,
    ) -> Self {
        command
            .env(ORDERS, serde_json::to_string(orders).expect("JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log).expect("a file"));
        let mut process = command.spawn().expect("the program can be run");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (accept, accepted) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let ledger = Arc::clone(ledger);
        let reader = thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Some((_, words)) = line.split_once(MARK) else {
                    continue;
                };
                // Fails if nobody waits for either.
                if let Some(name) = words.strip_prefix("accepted ") {
                    let id = Id::named(name).expect("the name of a message");
                    ledger.lock().unwrap().accept(id);
                    let _ = accept.send(());
                } else {
                    let _ = answer.send(words.to_owned());
                }
            }
        });
        Self {
            input: process.stdin.take(),
            process,
            accepted,
            answers,
            reader: Some(reader),
            log: log.to_owned(),
            started: Instant::now(),
        }
    }

    /// Waits until this many more messages are accepted. Returns early if the program ends.
    pub fn await_accepted(&self, number: usize) {
        for _ in 0..number {
            match self.accepted.recv_timeout(LIMIT * 2) {
                Ok(()) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("no message is accepted"),
            }
        }
    }

    /// Sends a command that has no answer.
    pub fn send(&mut self, command: &str) {
        let input = self.input.as_mut().expect("open");
        // Fails if the program has ended, which is detected elsewhere.
        let _ = input.write_all(format!("{command}\n").as_bytes());
    }

    /// Sends a command and waits for the answer. Returns `None` if the program has ended.
    pub fn ask(&mut self, command: &str) -> Option<String> {
        self.send(command);
        self.answer(LIMIT * 3)
    }

    pub fn answer(&self, limit: Duration) -> Option<String> {
        self.answers.recv_timeout(limit).ok()
    }

    /// Waits for its end and for all its reports.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.process.wait().expect("a child can be waited for");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        status
    }

    /// Does the same, with a limit.
    #[track_caller]
    pub fn wait_for(&mut self, limit: Duration, condition: &str) -> ExitStatus {
        eventually(limit, condition, || self.has_ended().then_some(()));
        self.wait()
    }

    pub fn has_ended(&mut self) -> bool {
        let status = self.process.try_wait();
        status.expect("a child can be waited for").is_some()
    }

    pub fn kill(&mut self) -> ExitStatus {
        // Killing a process that has ended has no effect.
        drop(self.process.kill());
        self.wait()
    }

    /// Standard error so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("can be read")).into_owned()
    }

    /// Returns the reason why a program that stopped answering has ended, unless Paho caused it. Waits for its end.
    pub fn fault(&mut self) -> Option<String> {
        let started = Instant::now();
        while !self.has_ended() {
            if started.elapsed() > LIMIT / 4 {
                self.kill();
                return Some("could not write everything to Redis".to_owned());
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        let status = self.wait();
        let log = self.log();
        let freed_twice = status.signal() == Some(libc::SIGABRT)
            && !log.contains("panicked")
            && FREED_TWICE.iter().any(|words| log.contains(words));
        (status.code() != Some(exit::GIVEN_UP) && !freed_twice)
            .then(|| format!("ended with {status}: {log}"))
    }

    /// Resident memory in bytes, or `None` if it has ended.
    pub fn resident(&self) -> Option<usize> {
        resident(self.process.id())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Successive runs of a program that is killed.
pub(super) struct Runs {
    /// Folder for the files of all runs.
    pub folder: TempDir,
    pub ledger: Arc<Mutex<Ledger>>,
    pub ends: Vec<ExitStatus>,
    /// Orders of each run, except the number of the run and of the messages before it.
    pub orders: Orders,
}

impl Runs {
    /// Prepares the first run, with records in Redis.
    pub fn new(broker: &str, redis: &str, levels: (u32, u32)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let orders = Orders {
            client: ClientKind::chosen(),
            broker: broker.to_owned(),
            store: redis.to_owned(),
            records: redis.to_owned(),
            master: None,
            durability: Durability::default().to_string(),
            replicas: 0,
            cache_limit: cache_limit(),
            levels,
            kill: Kill::Never,
            victim: Victim::Program,
            // A busy machine must not count as a fault.
            operation_timeout: LIMIT,
            folder: folder.path().to_owned(),
            run: 0,
            published: 0,
            script: Script::Deterministic,
        };
        Self {
            folder,
            ledger: Arc::default(),
            ends: Vec::new(),
            orders,
        }
    }

    /// Starts the next run.
    pub fn start(&self, script: Script, kill: Kill) -> Child {
        let run = self.ends.len();
        let orders = Orders {
            script,
            kill,
            run,
            published: self.ledger.lock().unwrap().accepted(),
            ..self.orders.clone()
        };
        let log = orders.folder.join(format!("log-{run}"));
        Child::start(program("killed-program"), &orders, &log, &self.ledger)
    }

    /// Accounts for the messages to the program.
    pub fn inbound(
        &self,
        versions: Versions,
        kills: &[Kill],
        sent: &[String],
        discarded: &HashSet<String>,
    ) -> Inbound {
        let ends = self.ends.iter().enumerate().map(|(run, status)| End {
            kill: kills.get(run).copied().unwrap_or(Kill::Never),
            done: status.success(),
        });
        let ends: Vec<End> = ends.collect();
        Inbound::account(versions, self.folder.path(), &ends, sent, discarded)
    }
}

/// Returns true for a run that was killed and did not end by itself.
pub(super) fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGKILL)
}
