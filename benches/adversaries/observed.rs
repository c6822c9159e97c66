//! Resources of a process, from `/proc`.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

#[derive(Clone, Copy, Default)]
pub struct Load {
    pub threads: usize,
    /// Resident memory in bytes.
    pub memory: f64,
    /// Open sockets, including the listening one.
    pub connections: usize,
}

impl Load {
    /// Reads the current values, zero if the process has ended.
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let sockets = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        let is_socket = |link: &fs::DirEntry| {
            fs::read_link(link.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        Self {
            threads: field(&status, "Threads:"),
            memory: kilobytes(&status, "VmRSS:"),
            connections: sockets.filter(is_socket).count(),
        }
    }
}

fn field(status: &str, name: &str) -> usize {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value
        .and_then(|value| value.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "no process takes that much")]
fn kilobytes(status: &str, name: &str) -> f64 {
    field(status, name) as f64 * 1024.0
}

/// Samples a process and keeps the maximum of each value.
pub struct Observer {
    is_over: Arc<AtomicBool>,
    pid: u32,
    thread: JoinHandle<Load>,
}

impl Observer {
    pub fn start(pid: u32) -> Self {
        // Resets the peak of the memory.
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the peak can be reset");
        let is_over = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut most = Load::default();
            while !has_ended.load(Ordering::Relaxed) {
                let now = Load::of(pid);
                most.threads = most.threads.max(now.threads);
                most.connections = most.connections.max(now.connections);
                thread::sleep(Duration::from_millis(20));
            }
            most
        });
        Self {
            is_over,
            pid,
            thread,
        }
    }

    pub fn stop(self) -> Load {
        let Self {
            is_over,
            pid,
            thread,
        } = self;
        is_over.store(true, Ordering::Relaxed);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        Load {
            memory: kilobytes(&status, "VmHWM:"),
            ..thread.join().expect("no panic")
        }
    }
}
