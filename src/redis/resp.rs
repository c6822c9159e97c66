//! Reads lists of strings, in which most bytes of answers are: in large pieces, and each value straight to
//! where it stays.

use std::io::{self, Read};

use super::exchange_error::{ExchangeError, answered};

/// How much is read at a time.
const PIECE: usize = 64 * 1024;
/// What a value may take before its bytes are there, whatever its length is said to be.
const UNSEEN: usize = 1024 * 1024;
/// The longest line: a number, or the words of an error.
const LINE: usize = 4 * 1024;

/// What has been read and not been looked at.
pub(super) struct RespReader {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl RespReader {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; PIECE].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// How many values follow.
    pub(super) fn list(&mut self, from: &mut impl Read) -> Result<usize, ExchangeError> {
        match self.line(from)? {
            (b'*', line) => number(line).ok_or_else(no_list),
            (b'-', line) => Err(answered(&String::from_utf8_lossy(line))),
            _ => Err(no_list()),
        }
    }

    /// The word that says that something is done.
    pub(super) fn done(&mut self, from: &mut impl Read) -> Result<(), ExchangeError> {
        match self.line(from)? {
            (b'+', _) => Ok(()),
            (b'-', line) => Err(answered(&String::from_utf8_lossy(line))),
            _ => Err(ExchangeError::protocol(
                "something else than OK was answered",
            )),
        }
    }

    /// The next value of a list, if there is one.
    pub(super) fn value(&mut self, from: &mut impl Read) -> Result<Option<Vec<u8>>, ExchangeError> {
        let length = match self.line(from)? {
            (b'$', b"-1") => return Ok(None),
            (b'$', line) => number(line).ok_or_else(no_value)?,
            _ => return Err(no_value()),
        };
        let mut value = Vec::with_capacity(length.min(UNSEEN));
        let there = self.unread();
        value.extend_from_slice(there.get(..length).unwrap_or(there));
        self.start = self.start.saturating_add(value.len());
        let missing = length.saturating_sub(value.len());
        if missing > 0 {
            let missing = u64::try_from(missing).unwrap_or(u64::MAX);
            from.by_ref().take(missing).read_to_end(&mut value)?;
            if value.len() < length {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        match self.line(from)? {
            (b'\r', b"") => Ok(Some(value)),
            _ => Err(no_value()),
        }
    }

    fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// The mark that a line starts with, and the rest of it; what ends a value is a line of its own.
    fn line(&mut self, from: &mut impl Read) -> Result<(u8, &[u8]), ExchangeError> {
        let length = loop {
            let unread = self.unread();
            if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            if unread.len() > LINE {
                return Err(ExchangeError::protocol(
                    "a line that does not end was answered",
                ));
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
            _ => Err(ExchangeError::protocol(
                "something that is no line was answered",
            )),
        }
    }

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

fn number(line: &[u8]) -> Option<usize> {
    str::from_utf8(line).ok()?.parse().ok()
}

fn no_list() -> ExchangeError {
    ExchangeError::protocol("something else than a list was answered")
}

fn no_value() -> ExchangeError {
    ExchangeError::protocol("something else than a string was answered")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// Gives so many bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.min(buffer.len());
            let (now, later) = self.0.split_at(most.min(self.0.len()));
            buffer[..now.len()].copy_from_slice(now);
            self.0 = later;
            Ok(now.len())
        }
    }

    fn read(bytes: &[u8], at_a_time: usize) -> Result<Vec<Option<Vec<u8>>>, ExchangeError> {
        let mut from = Slow(bytes, at_a_time);
        let mut bulk = RespReader::new();
        let count = bulk.list(&mut from)?;
        let values: Result<Vec<_>, _> = (0..count).map(|_| bulk.value(&mut from)).collect();
        if let Ok(values) = &values {
            assert!(bulk.is_empty(), "{} values", values.len());
        }
        values
    }

    #[test]
    fn values_are_read_from_pieces_of_any_size() {
        let large = vec![b'\n'; 3 * PIECE];
        let answer = [
            b"*4\r\n$3\r\na\r\n\r\n$-1\r\n$0\r\n\r\n$196608\r\n",
            &large[..],
            b"\r\n",
        ]
        .concat();
        let expected = [Some(b"a\r\n".to_vec()), None, Some(Vec::new()), Some(large)];
        for at_a_time in [1, 2, 3, 7, 4096, PIECE, usize::MAX] {
            let values = read(&answer, at_a_time).unwrap_or_else(|_| panic!("{at_a_time}"));
            assert!(values == expected, "{at_a_time}");
        }
    }

    #[test]
    fn malformed_reply_is_error_and_never_value() {
        for (answer, expected) in [
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
            (&[b'*'; 2 * LINE], ErrorKind::Protocol),
        ] {
            for at_a_time in [1, usize::MAX] {
                let failure = read(answer, at_a_time).expect_err("no answer");
                let kind = failure.into_error(|| "read".to_owned()).kind();
                assert_eq!(kind, expected, "{}", String::from_utf8_lossy(answer));
            }
        }
    }
}
