//! The standard output, line by line.

use std::{
    fmt,
    io::{self, BufWriter, Stdout, Write},
};

use serde_json::Value;

use crate::exit::Failure;

/// The standard output.
pub struct Output {
    writer: BufWriter<Stdout>,
    is_json: bool,
}

impl Output {
    pub fn new(is_json: bool) -> Self {
        Self {
            writer: BufWriter::new(io::stdout()),
            is_json,
        }
    }

    /// Returns true if the output is for programs.
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// Writes a line, whose text has been escaped.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.writer, "{text}")?)
    }

    /// Writes an object on a line of its own.
    pub fn json(&mut self, object: &Value) -> Result<(), Failure> {
        self.line(&object.to_string())
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.writer.write_all(bytes)?)
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.writer.flush()?)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("is_json", &self.is_json)
            .finish_non_exhaustive()
    }
}
