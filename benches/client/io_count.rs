//! Bytes that a process writes to disks.

use std::fs;

/// Bytes that Linux counts for a process in `/proc/PID/io`.
///
/// A write to a file counts when it makes a page of the page cache dirty, in whole pages, and not when the page reaches the disk:
/// many small appends to one page count once, unless it was written out and so became clean in between. So the count depends
/// on how often the file is synchronized: with Redis's `appendfsync always` each wait for the disk makes the next append dirty a
/// page again. A page that is dropped with its file before it was written out is counted as withdrawn; that depends
/// on the lifetime of the file, about 5 to 30 seconds by default. Files on a tmpfs do not count, and neither do inodes, folders
/// and the journal of the file system, which only the counters of the disk include.
#[derive(Clone, Copy, Default)]
pub struct IoCount {
    pub written: f64,
    pub withdrawn: f64,
}

impl IoCount {
    pub fn of_this_process() -> Self {
        Self::read("self")
    }

    pub fn of(pid: u32) -> Self {
        Self::read(&pid.to_string())
    }

    fn read(process: &str) -> Self {
        let text = fs::read_to_string(format!("/proc/{process}/io"));
        let text = text.expect("/proc/PID/io of a process of the same user");
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse().ok())
                .expect("a number")
        };
        Self {
            written: number("write_bytes:"),
            withdrawn: number("cancelled_write_bytes:"),
        }
    }

    pub fn since(self, before: &Self) -> Self {
        Self {
            written: self.written - before.written,
            withdrawn: self.withdrawn - before.withdrawn,
        }
    }
}
