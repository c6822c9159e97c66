//! Reads replies in the protocol of Redis (RESP 2), with a bound on each.
//!
//! A reply to a control command is framed here, within bounds, and the `redis` crate decodes the frame:
//! its parser bounds neither lines nor bytes, and takes the longer per byte the longer a line is. Values of
//! records and keys do not pass through it. They are read in large pieces, and a large value directly
//! into the allocation that the caller keeps.

use std::io::{self, Read};

use ::redis::{Value, parse_redis_value};

use super::exchange_error::{ExchangeError, error_reply};

/// The size of the buffer, which is read at once, and while many values arrive: each read costs the kernel
/// several microseconds, of which an acknowledgment to the server is a part.
const BUFFER_BYTES: usize = 16 * 1024;
const LARGE_BUFFER_BYTES: usize = 64 * 1024;
/// The part of a value for which memory and time are granted before a byte of it has arrived, whatever
/// length the server announces.
const MAX_ADVANCE: usize = 1024 * 1024;
/// The longest line, which is a length or an error.
const MAX_LINE_BYTES: usize = 4 * 1024;
/// The longest value: the largest packet of MQTT, and as much as its topic and properties can need once
/// more in the form in which Paho stores a message that has not been sent.
const MAX_VALUE_BYTES: usize = 268_435_455 + 1024 * 1024;

/// The most bytes and values of a reply to a command that does not read values or list keys: `CLIENT
/// LIST` with ten thousand clients and long names. Any other needs a thousandth of it, unless a record
/// that was removed is still there. Decoding them takes up to four times as much memory.
const MAX_REPLY_BYTES: usize = 8 * 1024 * 1024;
/// The most arrays within one another. Only `EXEC` returns an array of other replies.
const MAX_DEPTH: usize = 4;

/// A stream of replies, on which every exchange has a deadline.
pub(super) trait ReplyStream: Read {
    /// Grants the exchange the time that this many bytes of a value may take.
    fn allow_bytes(&mut self, bytes: usize);
}

/// A buffer of bytes that have been received and not been parsed.
///
/// Bytes left at the end of an exchange are an error.
pub(super) struct RespReader {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl RespReader {
    pub(super) fn new() -> Self {
        Self::with_size(BUFFER_BYTES)
    }

    fn with_size(size: usize) -> Self {
        Self {
            bytes: vec![0; size].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads more at once from now on, or no longer, unless bytes are in the buffer.
    pub(super) fn set_large(&mut self, is_large: bool) {
        let size = if is_large {
            LARGE_BUFFER_BYTES
        } else {
            BUFFER_BYTES
        };
        if self.is_empty() && self.bytes.len() != size {
            *self = Self::with_size(size);
        }
    }

    /// Reads one reply, and returns an error reply as an error.
    ///
    /// An error within an array is a value.
    pub(super) fn reply(&mut self, from: &mut impl Read) -> Result<Value, ExchangeError> {
        let (mark, line) = self.read_line(from)?;
        if let Some(value) = short_value(mark, line) {
            return Ok(value);
        }
        // The frame begins with this line.
        let length = line.len().saturating_add(b":\r\n".len());
        self.start = self.start.saturating_sub(length);
        let mut frame = Vec::new();
        self.frame_reply(from, &mut frame, &mut { MAX_REPLY_BYTES }, MAX_DEPTH)?;
        match parse_redis_value(&frame)? {
            Value::ServerError(error) => Err(error.into()),
            value => Ok(value),
        }
    }

    /// Appends the bytes of one reply to the frame, of which at most this much memory is left, with at
    /// most this many arrays within one another.
    fn frame_reply(
        &mut self,
        from: &mut impl Read,
        frame: &mut Vec<u8>,
        left: &mut usize,
        depth: usize,
    ) -> Result<(), ExchangeError> {
        let (mark, line) = self.read_line(from)?;
        // The decoder takes only UTF-8, but an error may quote the bytes of a command.
        let text = String::from_utf8_lossy(line);
        let cost = text.len().saturating_add(size_of::<Value>());
        *left = left.checked_sub(cost).ok_or_else(too_long)?;
        frame.push(mark);
        frame.extend_from_slice(text.as_bytes());
        frame.extend_from_slice(b"\r\n");
        match mark {
            b'+' | b'-' | b':' => Ok(()),
            b'$' | b'*' if line == b"-1" => Ok(()),
            b'$' => {
                let length = parse_length(line).ok_or_else(not_a_string)?;
                *left = left.checked_sub(length).ok_or_else(too_long)?;
                let value = self.rest_of_string(from, length, |_, _| ())?;
                frame.extend_from_slice(&value);
                frame.extend_from_slice(b"\r\n");
                Ok(())
            }
            b'*' => {
                let count = parse_length(line).ok_or_else(not_an_array)?;
                let depth = depth.checked_sub(1).ok_or_else(too_long)?;
                for _ in 0..count {
                    self.frame_reply(from, frame, left, depth)?;
                }
                Ok(())
            }
            _ => Err(ExchangeError::protocol("unknown type of reply")),
        }
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

    /// Reads the value of a record, which is `None` for a missing one.
    ///
    /// The exchange may take longer by the time that the value may take: one that a slow network
    /// carried to Redis must not be too large to be read again.
    pub(super) fn value(
        &mut self,
        from: &mut impl ReplyStream,
    ) -> Result<Option<Vec<u8>>, ExchangeError> {
        self.bulk_string(from, MAX_VALUE_BYTES, ReplyStream::allow_bytes)
    }

    /// Reads a string of at most this many bytes, within the time that the exchange has.
    pub(super) fn string(
        &mut self,
        from: &mut impl Read,
        most: usize,
    ) -> Result<Vec<u8>, ExchangeError> {
        let string = self.bulk_string(from, most, |_, _| ())?;
        Ok(string.unwrap_or_default())
    }

    /// Reads a bulk string of at most this many bytes.
    fn bulk_string<S: Read>(
        &mut self,
        from: &mut S,
        most: usize,
        allow: impl Fn(&mut S, usize),
    ) -> Result<Option<Vec<u8>>, ExchangeError> {
        let length = match self.read_line(from)? {
            (b'$', b"-1") => return Ok(None),
            (b'$', line) => parse_length(line).ok_or_else(not_a_string)?,
            _ => return Err(not_a_string()),
        };
        if length > most {
            return Err(too_long());
        }
        self.rest_of_string(from, length, allow).map(Some)
    }

    /// Reads a bulk string after its header, and calls `allow` before each part that has not arrived
    /// yet.
    fn rest_of_string<S: Read>(
        &mut self,
        from: &mut S,
        length: usize,
        allow: impl Fn(&mut S, usize),
    ) -> Result<Vec<u8>, ExchangeError> {
        let mut value = Vec::with_capacity(length.min(MAX_ADVANCE));
        let buffered = self.buffered();
        value.extend_from_slice(buffered.get(..length).unwrap_or(buffered));
        self.start = self.start.saturating_add(value.len());
        // A large rest bypasses the buffer. Memory and time grow with what has arrived, up to twice that.
        while value.len() < length {
            let missing = length.saturating_sub(value.len());
            let part = missing.min(value.len().max(MAX_ADVANCE));
            value.reserve_exact(part);
            allow(from, part);
            if part < self.bytes.len() {
                // The values behind it arrive in the same read: one more for the end of each small value that the
                // buffer cuts would double their number.
                while self.buffered().len() < part {
                    self.fill(from)?;
                }
                value.extend_from_slice(self.buffered().get(..part).unwrap_or_default());
                self.start = self.start.saturating_add(part);
                continue;
            }
            let limit = u64::try_from(part).unwrap_or(u64::MAX);
            if from.by_ref().take(limit).read_to_end(&mut value)? < part {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        match self.read_line(from)? {
            (b'\r', b"") => Ok(value),
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

/// Returns the value of most replies to a write, for which the decoder would allocate a buffer of 8 KiB.
fn short_value(mark: u8, line: &[u8]) -> Option<Value> {
    match (mark, line) {
        (b'+', b"OK") => Some(Value::Okay),
        (b':', number) => Some(Value::Int(str::from_utf8(number).ok()?.parse().ok()?)),
        _ => None,
    }
}

fn parse_length(line: &[u8]) -> Option<usize> {
    str::from_utf8(line).ok()?.parse().ok()
}

fn not_an_array() -> ExchangeError {
    ExchangeError::protocol("expected an array")
}

fn too_long() -> ExchangeError {
    ExchangeError::protocol("reply too long")
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

    /// Counts the bytes that it is asked to allow.
    struct AllowingReader<'a>(ChunkedReader<'a>, usize);

    impl Read for AllowingReader<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl ReplyStream for AllowingReader<'_> {
        fn allow_bytes(&mut self, bytes: usize) {
            self.1 += bytes;
        }
    }

    fn read(bytes: &[u8], at_a_time: usize) -> Result<Vec<Option<Vec<u8>>>, ExchangeError> {
        let mut from = AllowingReader(ChunkedReader(bytes, at_a_time), 0);
        let mut reader = RespReader::new();
        let count = reader.array_length(&mut from)?;
        let values: Result<Vec<_>, _> = (0..count).map(|_| reader.value(&mut from)).collect();
        if let Ok(values) = &values {
            assert!(reader.is_empty(), "{} values", values.len());
        }
        values
    }

    #[test]
    fn values_are_read_from_pieces_of_any_size() {
        let large = vec![b'\n'; 3 * BUFFER_BYTES];
        let header = format!("${}\r\n", large.len());
        let reply = [
            b"*4\r\n$3\r\na\r\n\r\n$-1\r\n$0\r\n\r\n",
            header.as_bytes(),
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

    /// Counts its reads.
    struct CountingReader<'a>(ChunkedReader<'a>, usize);

    impl Read for CountingReader<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            self.0.read(buffer)
        }
    }

    impl ReplyStream for CountingReader<'_> {
        fn allow_bytes(&mut self, _: usize) {}
    }

    #[test]
    fn small_values_take_one_read_per_buffer() {
        let value = [b"$1000\r\n", &[b'x'; 1000][..], b"\r\n"].concat();
        let count = 500;
        let reply = value.repeat(count);
        let reads = |is_large| {
            let mut from = CountingReader(ChunkedReader(&reply, usize::MAX), 0);
            let mut reader = RespReader::new();
            reader.set_large(is_large);
            for _ in 0..count {
                let value = reader.value(&mut from).ok().flatten();
                assert_eq!(value.map(|value| value.len()), Some(1000));
                // Is ignored while bytes are in the buffer.
                reader.set_large(is_large == reader.is_empty());
            }
            from.1
        };
        assert_eq!(reads(false), reply.len().div_ceil(BUFFER_BYTES));
        assert_eq!(reads(true), reply.len().div_ceil(LARGE_BUFFER_BYTES));
    }

    /// Neither doubles what was announced, and neither is granted for bytes that may never come.
    #[test]
    fn memory_and_time_grow_with_bytes_that_arrive() {
        let mib = 1024 * 1024;
        let (length, arrived) = (20 * mib + 1, 5 * mib);
        let header = format!("${length}\r\n");
        let reply = [header.as_bytes(), &vec![b'x'; length], b"\r\n"].concat();
        let mut from = AllowingReader(ChunkedReader(&reply, usize::MAX), 0);
        let value = RespReader::new().value(&mut from).ok().flatten();
        let value = value.expect("complete");
        assert_eq!(value.len(), length);
        assert!(value.capacity() < length + 64, "{}", value.capacity());
        // Without what had arrived together with the header.
        assert!(
            (length - BUFFER_BYTES..length).contains(&from.1),
            "{}",
            from.1
        );

        let part = &reply[..arrived];
        let mut from = AllowingReader(ChunkedReader(part, usize::MAX), 0);
        assert!(RespReader::new().value(&mut from).is_err());
        assert!(from.1 <= 2 * arrived, "{}", from.1);

        let mut from = AllowingReader(ChunkedReader(&reply, usize::MAX), 0);
        let key = RespReader::new().string(&mut from, length);
        assert_eq!(key.map(|key| key.len()).ok(), Some(length));
        assert_eq!(from.1, 0);
        let mut from = ChunkedReader(&reply, usize::MAX);
        assert!(RespReader::new().string(&mut from, length - 1).is_err());
    }

    fn reply(bytes: &[u8], at_a_time: usize) -> Result<Value, ErrorKind> {
        let mut from = ChunkedReader(bytes, at_a_time);
        let reply = RespReader::new().reply(&mut from);
        reply.map_err(|error| error.into_error(|| "read".to_owned()).kind())
    }

    #[test]
    fn reply_of_any_type_is_read() {
        let bytes =
            b"*7\r\n*-1\r\n+OK\r\n-OOM full\r\n:-7\r\n$-1\r\n$2\r\n\r\n\r\n*1\r\n$0\r\n\r\n";
        let expected = Value::Array(vec![
            Value::Nil,
            Value::Okay,
            parse_redis_value(b"-OOM full\r\n").expect("an error reply"),
            Value::Int(-7),
            Value::Nil,
            Value::BulkString(b"\r\n".to_vec()),
            Value::Array(vec![Value::BulkString(Vec::new())]),
        ]);
        for at_a_time in [1, 2, 7, usize::MAX] {
            assert_eq!(reply(bytes, at_a_time).as_ref(), Ok(&expected));
            let error = reply(b"-OOM full\r\n", at_a_time);
            assert_eq!(error, Err(ErrorKind::OutOfMemory));
        }
    }

    #[test]
    fn error_that_quotes_binary_argument_is_error_reply() {
        let error = reply(b"-NOPERM \xFF\xC3\r\n", usize::MAX);
        assert_eq!(error, Err(ErrorKind::Permission));
    }

    #[test]
    fn reply_beyond_its_bounds_is_malformed() {
        for (first, again) in [
            (&b"+"[..], &b"x"[..]),
            (b"-ERR ", b"x"),
            (b":", b"1"),
            (b"$9000000\r\n", b"x"),
            (b"$-2\r\n", b"x"),
            (b"*9000000\r\n", b":1\r\n"),
            (b"*9000000\r\n", b"$0\r\n\r\n"),
            (b"", b"*1\r\n"),
            (b"*-2\r\n", b"x"),
            (b":x\r\n", b"x"),
            (b"HTTP/1.1 400 Bad Request\r\n", b"x"),
        ] {
            let bytes = [first, &again.repeat(10_000_000 / again.len())].concat();
            let shown = String::from_utf8_lossy(first);
            assert_eq!(
                reply(&bytes, usize::MAX),
                Err(ErrorKind::Protocol),
                "{shown}"
            );
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
            (b"*1\r\n$9999999999999999\r\nab", ErrorKind::Protocol),
            (b"*1\r\n$269484032\r\nab", ErrorKind::Protocol),
            (b"*1\r\n$269484031\r\nab", ErrorKind::Connection),
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
