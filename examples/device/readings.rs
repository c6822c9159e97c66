//! Readings, and the ledger of those that were accepted.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    path::Path,
};

/// Generates readings.
pub struct Readings {
    run: String,
    number: u64,
    payload: usize,
}

/// One reading.
pub struct Reading {
    /// Run id and number within the run.
    pub id: String,
    /// Text of the message.
    pub payload: String,
}

impl Readings {
    /// Starts a new run, whose messages are padded to `payload` bytes.
    pub fn new(payload: usize) -> Self {
        // Clock and process id may be the same at every start of a device without a real-time clock.
        let random = RandomState::new().build_hasher().finish();
        Self {
            run: format!("{random:016x}"),
            number: 0,
            payload,
        }
    }

    /// Id of the run.
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

/// File with a line for each accepted reading.
pub struct Ledger(File);

impl Ledger {
    /// Opens `path` for appending.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(file))
    }

    /// Writes a line with a single unbuffered write, so that it survives a kill right after.
    pub fn write(&mut self, reading: &Reading) -> io::Result<()> {
        self.0.write_all(format!("{}\n", reading.id).as_bytes())
    }
}
