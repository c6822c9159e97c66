//! A persistence that kills its process, its Redis or both at a chosen call, and traces every call.

// The standard library has no safe way for a process to kill itself, or another one by its id.
#![allow(unsafe_code)]

use std::{fs::File, io::Write, sync::OnceLock};

use paho_mqtt::{ClientPersistence, Result};

use serde::{Deserialize, Serialize};

use super::{client::BoxedPersistence, program::report};

/// Processes that die at the point of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Victim {
    Program,
    /// The program and the Redis to which it writes, which the driver kills then.
    Board,
    /// That Redis alone.
    Redis,
}

/// Process id of the Redis that is killed in this run, in place of the program.
static REDIS: OnceLock<libc::pid_t> = OnceLock::new();

/// Reported by a program that lives on after its Redis was killed.
pub(super) const REDIS_KILLED: &str = "redis killed";

/// Makes [`strike`] kill the Redis with this process id, in place of the program.
pub(super) fn aim_at_redis(pid: u32) {
    let pid = libc::pid_t::try_from(pid).expect("a process id");
    REDIS.set(pid).expect("once per run");
}

/// Kills the program, or its Redis. Returns in the second case.
pub(super) fn strike() {
    let Some(redis) = REDIS.get() else {
        kill_self();
    };
    // SAFETY: kill touches no memory. The driver, whose child this is, has not waited for it.
    unsafe { libc::kill(*redis, libc::SIGKILL) };
    report(REDIS_KILLED);
}

/// Point of a run at which its victim is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kill {
    Never,
    /// Before its n-th call of the persistence.
    Before(usize),
    /// After it.
    After(usize),
    /// Within its n-th request to Redis, of which this many quarters get through.
    Cut {
        request: usize,
        quarters: usize,
    },
    /// At the n-th packet that reaches the broker.
    Packet(usize),
}

pub(super) struct Killing {
    inner: BoxedPersistence,
    kill: Kill,
    calls: usize,
    trace: File,
}

impl Killing {
    pub fn new(inner: BoxedPersistence, kill: Kill, trace: File) -> Self {
        Self {
            inner,
            kill,
            calls: 0,
            trace,
        }
    }

    fn around<T>(&mut self, call: &str, work: impl FnOnce(&mut BoxedPersistence) -> T) -> T {
        self.calls += 1;
        if self.kill == Kill::Before(self.calls) {
            strike();
        }
        writeln!(self.trace, "{} {call}", self.calls).expect("a trace");
        let answer = work(&mut self.inner);
        if self.kill == Kill::After(self.calls) {
            strike();
        }
        answer
    }
}

impl ClientPersistence for Killing {
    fn open(&mut self, client_id: &str, server_uri: &str) -> Result<()> {
        self.around("open", |inner| inner.open(client_id, server_uri))
    }

    fn close(&mut self) -> Result<()> {
        self.around("close", |inner| inner.close())
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> Result<()> {
        let call = format!("put {key} {}", name(&buffers.concat()));
        self.around(&call, |inner| inner.put(key, buffers))
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        self.around(&format!("get {key}"), |inner| inner.get(key))
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        self.around(&format!("remove {key}"), |inner| inner.remove(key))
    }

    fn keys(&mut self) -> Result<Vec<String>> {
        self.around("keys", |inner| inner.keys())
    }

    fn clear(&mut self) -> Result<()> {
        self.around("clear", |inner| inner.clear())
    }

    fn contains_key(&mut self, key: &str) -> bool {
        self.around(&format!("contains {key}"), |inner| inner.contains_key(key))
    }
}

/// Name of the message in a value, for the trace.
fn name(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == b'|').unwrap_or(0);
    let start = value[..end].iter().rposition(|&byte| byte == b'm');
    String::from_utf8_lossy(start.map_or(&[], |start| &value[start..end])).into_owned()
}

/// Ends this process without warning.
pub fn kill_self() -> ! {
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    // Other threads may run for another instant, this one must not.
    loop {
        std::thread::park();
    }
}
