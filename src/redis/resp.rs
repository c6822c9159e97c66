//! Reads RESP arrays of bulk strings, which are most of the bytes that Redis sends.
//!
//! It reads in large pieces, and a large value directly into the allocation that the caller keeps.

use std::io::{self, Read};

use super::exchange_error::{ExchangeError, error_reply};

/// The size of the buffer, which is read at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// The most memory that is allocated for a value before its bytes arrive, whatever length the server
/// announces.
const MAX_PREALLOCATION: usize = 1024 * 1024;
/// The longest line, which is a length or an error.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// A buffer of bytes that have been received and not been parsed.
///
/// It belongs to one exchange: bytes left at its end are an error.
pub(super) struct RespReader {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl RespReader {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads the header of an array, and returns how many values follow.
    pub(super) fn array_length(&mut self, from: &mut impl Read) -> Result<usize, ExchangeError> {
        match self.read_line(from)? {
            (b'*', line) => parse_length(line).ok_or_else(not_an_array),
            (b'-', line) => Err(error_reply(&String::from_utf8_lossy(line))),
            _ => Err(not_an_array()),
        }
    }

    /// Reads a simple string, such as `OK`.
    pub(super) fn simple_ok(&mut self, from: &mut impl Read) -> Result<(), ExchangeError> {
        match self.read_line(from)? {
            (b'+', _) => Ok(()),
            (b'-', line) => Err(error_reply(&String::from_utf8_lossy(line))),
            _ => Err(ExchangeError::protocol("expected OK")),
        }
    }

    /// Reads a bulk string, which is `None` for a missing field.
    pub(super) fn bulk_string(
        &mut self,
        from: &mut impl Read,
    ) -> Result<Option<Vec<u8>>, ExchangeError> {
        let length = match self.read_line(from)? {
            (b'$', b"-1") => return Ok(None),
            (b'$', line) => parse_length(line).ok_or_else(not_a_string)?,
            _ => return Err(not_a_string()),
        };
        let mut value = Vec::with_capacity(length.min(MAX_PREALLOCATION));
        let buffered = self.buffered();
        value.extend_from_slice(buffered.get(..length).unwrap_or(buffered));
        self.start = self.start.saturating_add(value.len());
        // The rest bypasses the buffer.
        let missing = length.saturating_sub(value.len());
        if missing > 0 {
            let missing = u64::try_from(missing).unwrap_or(u64::MAX);
            from.by_ref().take(missing).read_to_end(&mut value)?;
            if value.len() < length {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        match self.read_line(from)? {
            (b'\r', b"") => Ok(Some(value)),
            _ => Err(not_a_string()),
        }
    }

    fn buffered(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads a line, and returns its first byte, which is the type of the reply, and the rest.
    ///
    /// The line break after a bulk string is read as an empty line; its first byte is `\r`.
    fn read_line(&mut self, from: &mut impl Read) -> Result<(u8, &[u8]), ExchangeError> {
        let length = loop {
            let buffered = self.buffered();
            if let Some(end) = buffered.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            if buffered.len() > MAX_LINE_BYTES {
                return Err(ExchangeError::protocol("line too long"));
            }
            self.fill(from)?;
        };
        let start = self.start;
        let end = start.saturating_add(length);
        self.start = end.saturating_add(1);
        let line = self.bytes.get(start..end).unwrap_or_default();
        match line {
            [b'\r'] => Ok((b'\r', b"")),
            [mark, line @ .., b'\r'] => Ok((*mark, line)),
            _ => Err(ExchangeError::protocol("expected CRLF")),
        }
    }

    /// Receives more bytes, after moving the buffered ones to the front.
    fn fill(&mut self, from: &mut impl Read) -> Result<(), ExchangeError> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end = self.end.saturating_sub(self.start);
        self.start = 0;
        let room = self.bytes.get_mut(self.end..).unwrap_or_default();
        match from.read(room)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => {
                self.end = self.end.saturating_add(read);
                Ok(())
            }
        }
    }
}

fn parse_length(line: &[u8]) -> Option<usize> {
    str::from_utf8(line).ok()?.parse().ok()
}

fn not_an_array() -> ExchangeError {
    ExchangeError::protocol("expected an array")
}

fn not_a_string() -> ExchangeError {
    ExchangeError::protocol("expected a bulk string")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A reader that returns at most this many bytes at a time.
    struct ChunkedReader<'a>(&'a [u8], usize);

    impl Read for ChunkedReader<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(buffer.len());
            let (chunk, rest) = self.0.split_at(most.min(self.0.len()));
            buffer[..chunk.len()].copy_from_slice(chunk);
            self.0 = rest;
            Ok(chunk.len())
        }
    }

    fn read(bytes: &[u8], at_a_time: usize) -> Result<Vec<Option<Vec<u8>>>, ExchangeError> {
        let mut from = ChunkedReader(bytes, at_a_time);
        let mut reader = RespReader::new();
        let count = reader.array_length(&mut from)?;
        let values: Result<Vec<_>, _> = (0..count).map(|_| reader.bulk_string(&mut from)).collect();
        if let Ok(values) = &values {
            assert!(reader.is_empty(), "{} values", values.len());
        }
        values
    }

    #[test]
    fn values_are_read_from_pieces_of_any_size() {
        let large = vec![b'\n'; 3 * BUFFER_BYTES];
        let reply = [
            b"*4\r\n$3\r\na\r\n\r\n$-1\r\n$0\r\n\r\n$196608\r\n",
            &large[..],
            b"\r\n",
        ]
        .concat();
        let expected = [Some(b"a\r\n".to_vec()), None, Some(Vec::new()), Some(large)];
        for at_a_time in [1, 2, 3, 7, 4096, BUFFER_BYTES, usize::MAX] {
            let values = read(&reply, at_a_time).unwrap_or_else(|_| panic!("{at_a_time}"));
            assert!(values == expected, "{at_a_time}");
        }
    }

    #[test]
    fn malformed_reply_is_error_and_never_value() {
        for (reply, expected) in [
            (&b"-NOPERM no\r\n"[..], ErrorKind::Permission),
            (b"-OOM full\r\n", ErrorKind::OutOfMemory),
            (b"$1\r\na\r\n", ErrorKind::Protocol),
            (b"*x\r\n", ErrorKind::Protocol),
            (b"*-1\r\n", ErrorKind::Protocol),
            (b"*1\n", ErrorKind::Protocol),
            (b"*1\r\n:1\r\n", ErrorKind::Protocol),
            (b"*1\r\n$-2\r\n", ErrorKind::Protocol),
            (b"*1\r\n$1\r\nab\r\n", ErrorKind::Protocol),
            (b"*1\r\n$99999999999999999999\r\n", ErrorKind::Protocol),
            (b"*1\r\n$9999999999999999\r\nab", ErrorKind::Connection),
            (b"*1\r\n$3\r\na", ErrorKind::Connection),
            (b"*1\r\n", ErrorKind::Connection),
            (b"*", ErrorKind::Connection),
            (b"", ErrorKind::Connection),
            (&[b'*'; 2 * MAX_LINE_BYTES], ErrorKind::Protocol),
        ] {
            for at_a_time in [1, usize::MAX] {
                let failure = read(reply, at_a_time).expect_err("an invalid reply");
                let kind = failure.into_error(|| "read".to_owned()).kind();
                assert_eq!(kind, expected, "{}", String::from_utf8_lossy(reply));
            }
        }
    }
}
