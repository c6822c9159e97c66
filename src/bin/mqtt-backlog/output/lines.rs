//! The standard output, line by line.

use std::{
    fmt,
    io::{self, BufWriter, Write},
};

use serde_json::Value;

use super::escape::escape_json;
use crate::exit::Failure;

/// The standard output.
pub struct Output {
    writer: BufWriter<Box<dyn Write>>,
    is_json: bool,
    needs_reader: bool,
}

impl Output {
    pub fn new(is_json: bool) -> Self {
        Self::to(Box::new(io::stdout()), is_json)
    }

    fn to(writer: Box<dyn Write>, is_json: bool) -> Self {
        Self {
            writer: BufWriter::new(writer),
            is_json,
            needs_reader: true,
        }
    }

    /// Returns true if the output is for programs.
    pub fn is_json(&self) -> bool {
        self.is_json
    }

    /// Writes a line, whose text has been escaped.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        let written = writeln!(self.writer, "{text}");
        self.check(written)
    }

    /// Writes an object on a line of its own.
    pub fn json(&mut self, object: &Value) -> Result<(), Failure> {
        // Characters that serde leaves as they are occur within strings only.
        self.line(&escape_json(&object.to_string()))
    }

    /// Goes on if the pipe closes: a command that changes records does its work without a reader.
    pub fn outlive_reader(&mut self) {
        self.needs_reader = false;
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.writer.write_all(bytes);
        self.check(written)
    }

    pub fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.writer.flush();
        self.check(flushed)
    }

    fn check(&self, written: io::Result<()>) -> Result<(), Failure> {
        match written.map_err(Failure::from) {
            Err(Failure::ClosedPipe) if !self.needs_reader => Ok(()),
            written => written,
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("is_json", &self.is_json)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use serde_json::json;

    use super::*;

    struct ClosedPipe;

    impl Write for ClosedPipe {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Kept(Sender<Vec<u8>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).expect("is received");
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn change_goes_on_without_reader() {
        let mut out = Output::to(Box::new(ClosedPipe), false);
        out.line("x").expect("is kept");
        assert!(matches!(out.flush(), Err(Failure::ClosedPipe)));
        out.outlive_reader();
        out.flush().expect("goes on");
        for _ in 0..10_000 {
            out.line("longer than the buffer, together")
                .expect("goes on");
        }
        out.flush().expect("goes on");
    }

    #[test]
    fn json_has_no_hidden_characters() {
        let (sender, written) = channel();
        let mut out = Output::to(Box::new(Kept(sender)), true);
        let text = "\u{1b}\u{7f}\u{9b}31m\u{202e}\u{feff}\u{e0041}ä\\\" \u{1f600}";
        let object = json!({text: text});
        out.json(&object).expect("is written");
        out.flush().expect("is written");
        drop(out);
        let line = String::from_utf8(written.iter().flatten().collect()).expect("UTF-8");
        assert_eq!(crate::output::printable(line.trim_end()), line.trim_end());
        assert!(
            line.contains("\u{e4}") && line.contains('\u{1f600}'),
            "{line}"
        );
        let parsed: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(parsed, object);
    }
}
