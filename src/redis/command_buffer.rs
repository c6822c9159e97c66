//! Commands in the wire format of Redis.

/// A sequence of encoded commands, in a buffer that is reused for each exchange.
#[derive(Default)]
pub(super) struct CommandBuffer {
    bytes: Vec<u8>,
    count: usize,
}

/// The capacity that `clear` keeps, so that one large value does not occupy memory forever.
const MAX_KEPT_BYTES: usize = 64 * 1024;

impl CommandBuffer {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_KEPT_BYTES);
        self.count = 0;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of commands, which is the number of replies that they get.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Appends a command of binary parts.
    pub(super) fn push(&mut self, parts: &[&[u8]]) {
        self.begin(parts.len());
        for part in parts {
            self.push_part(part);
        }
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

    #[test]
    fn commands_are_packed_as_by_redis_crate() {
        let mut commands = CommandBuffer::default();
        commands.push(&[b"HSET", b"hash", b"c-1", b"\r\n\0"]);
        commands.push_words(&["MULTI"]);
        let mut expected = ::redis::cmd("HSET")
            .arg("hash")
            .arg("c-1")
            .arg(b"\r\n\0")
            .get_packed_command();
        expected.extend(::redis::cmd("MULTI").get_packed_command());
        assert_eq!(commands.bytes(), expected);
        assert_eq!(commands.count(), 2);
    }
}
