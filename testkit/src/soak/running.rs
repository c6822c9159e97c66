//! A program that runs, as its driver sees it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdin, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{account::Account, program::Orders};
use crate::{LIMIT, child::program, kills::exit, resident};

/// What the C library says when memory is freed twice, which Paho does with a PUBLISH whose write to the broker is broken off.
const FREED_TWICE: [&str; 2] = ["double free or corruption", "free(): "];

/// The C library keeps what was given back for each thread, of which there are many here, so that they grow for minutes; what is
/// looked for is what the program itself keeps.
const NO_CACHES: &str = "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1";

pub struct Running {
    child: Child,
    input: ChildStdin,
    answers: Receiver<String>,
    reader: Option<JoinHandle<()>>,
    complaints: Option<JoinHandle<String>>,
    pub started: Instant,
}

impl Running {
    pub fn start(orders: &Orders, account: &Arc<Mutex<Account>>) -> Self {
        let (variable, value) = orders.variable();
        let mut child = program("soak-program")
            .env(variable, value)
            .env("GLIBC_TUNABLES", NO_CACHES)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be run");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, answers) = mpsc::channel();
        let account = Arc::clone(account);
        let reader = thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let Some((_, words)) = line.split_once("soak ") else {
                    continue;
                };
                let accepted = words
                    .strip_prefix("accepted ")
                    .and_then(|rest| rest.split_once(' '));
                if let Some((client, number)) = accepted {
                    let numbers = (
                        client.parse().expect("a number"),
                        number.parse().expect("a number"),
                    );
                    account.lock().unwrap().accept(numbers.0, numbers.1);
                } else {
                    drop(tell.send(words.to_owned()));
                }
            }
        });
        let mut errors = child.stderr.take().expect("piped");
        let complaints = thread::spawn(move || {
            let mut said = Vec::new();
            errors.read_to_end(&mut said).expect("can be read");
            String::from_utf8_lossy(&said).into_owned()
        });
        Self {
            complaints: Some(complaints),
            input: child.stdin.take().expect("piped"),
            child,
            answers,
            reader: Some(reader),
            started: Instant::now(),
        }
    }

    /// Says a word that is not answered.
    pub fn tell(&mut self, word: &str) {
        // One that has ended by itself hears nothing, which is seen elsewhere.
        let _ = self.input.write_all(format!("{word}\n").as_bytes());
    }

    /// Says a word and waits for the answer; there is none where it has ended.
    pub fn ask(&mut self, word: &str) -> Option<String> {
        self.tell(word);
        self.answers.recv_timeout(LIMIT * 3).ok()
    }

    /// What is wrong with its end, where Paho did not bring it about. It has ended or is about to: it says nothing more a
    /// moment before.
    pub fn end_soon(&mut self) -> Option<String> {
        let started = Instant::now();
        while started.elapsed() < LIMIT / 4 {
            if self.child.try_wait().expect("can be waited for").is_some() {
                return self.fault();
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        drop(self.child.kill());
        Some("could not write everything to Redis".to_owned())
    }

    /// Why it ended, unless it gave up as it has to, or was ended by the C library as Paho had freed something twice.
    fn fault(&mut self) -> Option<String> {
        let status = self.wait();
        let complaints = self.complaints.take().map(JoinHandle::join);
        let complaints = complaints.and_then(Result::ok).unwrap_or_default();
        let freed_twice = status.signal() == Some(libc::SIGABRT)
            && !complaints.contains("panicked")
            && FREED_TWICE.iter().any(|words| complaints.contains(words));
        (status.code() != Some(exit::GIVEN_UP) && !freed_twice)
            .then(|| format!("ended with {status}: {complaints}"))
    }

    /// Waits for its end, and for everything that it said.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("can be waited for");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        status
    }

    pub fn kill(&mut self) -> ExitStatus {
        // It may have ended.
        drop(self.child.kill());
        self.wait()
    }

    /// Its resident memory and what of it the program has asked for, in bytes; none where it has ended.
    pub fn memory(&mut self) -> Option<(usize, usize)> {
        let allocated = self.ask("memory")?;
        let allocated = allocated.strip_prefix("memory ")?.parse().ok()?;
        Some((resident(self.child.id())?, allocated))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
