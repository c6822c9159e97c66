//! Commands in the wire format of Redis.

use std::io::{self, IoSlice, Write};

/// A sequence of encoded commands. Large values are not copied: they are written from where they are.
#[derive(Default)]
pub(super) struct CommandBuffer<'v> {
    /// Everything but the large values.
    bytes: Vec<u8>,
    /// The large values, each with the number of bytes in front of it.
    large: Vec<(usize, &'v [u8])>,
    count: usize,
}

/// The capacity that a buffer keeps, so that it does not occupy much memory forever.
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// The length from which a value is large: copying fewer bytes costs less than a longer list of slices.
const LARGE: usize = 8 * 1024;

impl<'v> CommandBuffer<'v> {
    /// Returns an empty sequence that uses the memory of an earlier one.
    pub(super) fn reusing(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.shrink_to(MAX_KEPT_BYTES);
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// Returns the memory, for another sequence.
    pub(super) fn into_memory(self) -> Vec<u8> {
        self.bytes
    }

    /// The encoded commands, if no value is large.
    pub(super) fn bytes(&self) -> &[u8] {
        debug_assert!(self.large.is_empty(), "large values are missing");
        &self.bytes
    }

    /// The number of commands, which is the number of replies that they get.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Writes all commands.
    pub(super) fn write_to(&self, stream: &mut impl Write) -> io::Result<()> {
        if self.large.is_empty() {
            return stream.write_all(&self.bytes);
        }
        let slices = self.large.len().saturating_mul(2).saturating_add(1);
        let mut slices = Vec::with_capacity(slices);
        let (mut rest, mut begin) = (self.bytes.as_slice(), 0);
        for (end, value) in &self.large {
            let (small, others) = rest.split_at(end.saturating_sub(begin));
            slices.extend([IoSlice::new(small), IoSlice::new(value)]);
            (rest, begin) = (others, *end);
        }
        slices.push(IoSlice::new(rest));
        let mut slices = slices.as_mut_slice();
        while !slices.is_empty() {
            match stream.write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut slices, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Appends a command of words, and of a key and its value.
    pub(super) fn push_record(&mut self, words: &[&str], key: &str, value: &'v [u8]) {
        self.begin(words.len().saturating_add(2));
        for word in words.iter().chain([&key]) {
            self.push_part(word.as_bytes());
        }
        if value.len() < LARGE {
            self.push_part(value);
            return;
        }
        self.push_length(b'$', value.len());
        self.large.push((self.bytes.len(), value));
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Appends a command of words.
    pub(super) fn push_words(&mut self, words: &[&str]) {
        self.begin(words.len());
        for word in words {
            self.push_part(word.as_bytes());
        }
    }

    /// Appends a command of words, followed by a list of arguments.
    pub(super) fn push_list<'a>(
        &mut self,
        words: &[&str],
        arguments: impl Iterator<Item = &'a str> + Clone,
    ) {
        self.begin(words.len().saturating_add(arguments.clone().count()));
        for word in words {
            self.push_part(word.as_bytes());
        }
        for argument in arguments {
            self.push_part(argument.as_bytes());
        }
    }

    /// Begins a command; the caller appends this many parts.
    fn begin(&mut self, parts: usize) {
        self.count = self.count.saturating_add(1);
        self.push_length(b'*', parts);
    }

    fn push_part(&mut self, part: &[u8]) {
        self.push_length(b'$', part.len());
        self.bytes.extend_from_slice(part);
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn push_length(&mut self, mark: u8, length: usize) {
        self.bytes.push(mark);
        let mut digits = itoa::Buffer::new();
        self.bytes
            .extend_from_slice(digits.format(length).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the command for a record as the redis crate packs it.
    fn packed(key: &str, value: &[u8]) -> Vec<u8> {
        let mut command = ::redis::cmd("HSET");
        let command = command.arg("hash").arg(key).arg(value);
        command.get_packed_command()
    }

    #[test]
    fn commands_are_packed_as_by_redis_crate() {
        let values = [b"\r\n\0".to_vec(), vec![b'x'; LARGE - 1]];
        let mut commands = CommandBuffer::default();
        let mut expected = Vec::new();
        for value in &values {
            commands.push_record(&["HSET", "hash"], "c-1", value);
            expected.extend(packed("c-1", value));
        }
        commands.push_words(&["MULTI"]);
        expected.extend(::redis::cmd("MULTI").get_packed_command());
        assert_eq!(commands.bytes(), expected);
        assert_eq!(commands.count(), 3);
    }

    /// Writer that takes few bytes at a time, from one slice.
    struct Slow(Vec<u8>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(1000);
            self.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn large_values_are_written_in_order_uncopied() {
        let values = [LARGE, 1, LARGE + 1, 1 << 20, LARGE].map(|length| vec![b'x'; length]);
        for last in ["EXEC", ""] {
            let mut commands = CommandBuffer::default();
            let mut expected = Vec::new();
            for value in &values {
                commands.push_record(&["HSET", "hash"], "s-1", value);
                expected.extend(packed("s-1", value));
            }
            if !last.is_empty() {
                commands.push_words(&[last]);
                expected.extend(::redis::cmd(last).get_packed_command());
            }
            let mut slow = Slow(Vec::new());
            commands.write_to(&mut slow).expect("takes all");
            assert!(slow.0 == expected, "after {last:?}");
            let memory = commands.into_memory();
            assert!(memory.len() < LARGE, "{} bytes", memory.len());
        }
    }
}
