//! Readings, and the ledger of those that were accepted.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    iter,
    path::Path,
};

/// Generates readings.
pub struct Readings {
    pub run: String,
    number: u64,
    payload: usize,
}

impl Readings {
    /// Starts a new run, whose messages are padded to `payload` bytes.
    pub fn new(payload: u32) -> Self {
        // Clock and process id may be the same at every start of a device without a real-time clock.
        let random = RandomState::new().build_hasher().finish();
        Self {
            run: format!("{random:016x}"),
            number: 0,
            payload: payload as usize,
        }
    }

    /// Takes the id and the text of the next reading: a temperature that goes up from 15.0 to 25.0 and down again.
    pub fn take(&mut self) -> (String, String) {
        self.number += 1;
        let id = format!("{} {}", self.run, self.number);
        let step = self.number % 200;
        let tenths = 150 + step.min(200 - step);
        let mut payload = format!("{id} {}.{} ", tenths / 10, tenths % 10);
        // A width in a format has a limit of 65,535.
        let missing = self.payload.saturating_sub(payload.len());
        payload.extend(iter::repeat_n('.', missing));
        (id, payload)
    }
}

/// File with a line for each accepted reading.
pub struct Ledger(File);

impl Ledger {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(file))
    }

    /// Writes a line with a single unbuffered write, so that it survives a kill right after.
    pub fn write(&mut self, id: &str) -> io::Result<()> {
        self.0.write_all(format!("{id}\n").as_bytes())
    }
}
