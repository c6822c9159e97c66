//! The readings and the ledger of those that were accepted.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    path::Path,
};

/// Makes readings up.
pub struct Readings {
    run: String,
    number: u64,
    payload: usize,
}

/// One reading.
pub struct Reading {
    /// The run and the number within it.
    pub id: String,
    /// The message.
    pub payload: String,
}

impl Readings {
    /// The first reading of a new run; messages are filled up to `payload` bytes.
    pub fn new(payload: usize) -> Self {
        // Clock and process id may be the same at every start of a device without a real-time clock.
        let random = RandomState::new().build_hasher().finish();
        Self {
            run: format!("{random:016x}"),
            number: 0,
            payload,
        }
    }

    /// The run's id.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Takes the next reading.
    pub fn take(&mut self) -> Reading {
        self.number += 1;
        let id = format!("{} {}", self.run, self.number);
        // A temperature that goes up from 15.0 to 25.0 and down again.
        let step = self.number % 200;
        let tenths = 150 + step.min(200 - step);
        let payload = format!("{id} {}.{} ", tenths / 10, tenths % 10);
        let payload = format!("{payload:.<width$}", width = self.payload);
        Reading { id, payload }
    }
}

/// A file that has a line for each reading that was accepted.
pub struct Ledger(File);

impl Ledger {
    /// Opens `path` for appending.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(file))
    }

    /// Writes a line, in one piece and unbuffered, so that it is there even if the program is killed right after.
    pub fn write(&mut self, reading: &Reading) -> io::Result<()> {
        self.0.write_all(format!("{}\n", reading.id).as_bytes())
    }
}
