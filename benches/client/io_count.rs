//! What a process writes to disks.

use std::fs;

/// What Linux counts of a process in `/proc/PID/io`, in bytes.
///
/// A write to a file counts when it makes a page of the page cache dirty, in whole pages, and not when the page reaches the disk:
/// many small appends to one page count once, unless it was written out and so became clean in between. So what it counts depends
/// on how often the file is synchronised: with Redis's `appendfsync always` each wait for the disk makes the next append dirty a
/// page again. A page that is dropped with its file before it was written out is counted as withdrawn; whether it was is a matter
/// of how long the file lives, about 5 to 30 seconds by default. Files on a tmpfs count for nothing, and neither does what the
/// file system adds (inodes, folders, its journal), which only the disk itself knows.
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
        let text = text.expect("Linux tells what a process of the same user writes");
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
