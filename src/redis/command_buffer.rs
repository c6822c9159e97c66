//! Commands in the form that Redis reads.

/// Commands behind one another, in a buffer that is used again and again.
#[derive(Default)]
pub(super) struct CommandBuffer {
    bytes: Vec<u8>,
    count: usize,
}

/// A buffer that a large value has made larger than this is not kept.
const KEPT: usize = 64 * 1024;

impl CommandBuffer {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.count = 0;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many commands these are, and so how many answers there will be.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn add(&mut self, parts: &[&[u8]]) {
        self.start(parts.len());
        for part in parts {
            self.part(part);
        }
    }

    /// The same for words.
    pub(super) fn say(&mut self, words: &[&str]) {
        self.start(words.len());
        for word in words {
            self.part(word.as_bytes());
        }
    }

    /// The same for words, and a list of more of them.
    pub(super) fn list<'a>(&mut self, words: &[&str], list: impl Iterator<Item = &'a str> + Clone) {
        self.start(words.len().saturating_add(list.clone().count()));
        for word in words {
            self.part(word.as_bytes());
        }
        for word in list {
            self.part(word.as_bytes());
        }
    }

    /// Starts a command of so many parts, which follow.
    pub(super) fn start(&mut self, parts: usize) {
        self.count = self.count.saturating_add(1);
        self.number(b'*', parts);
    }

    pub(super) fn part(&mut self, part: &[u8]) {
        self.number(b'$', part.len());
        self.bytes.extend_from_slice(part);
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn number(&mut self, mark: u8, number: usize) {
        self.bytes.push(mark);
        let mut digits = itoa::Buffer::new();
        self.bytes
            .extend_from_slice(digits.format(number).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_packed_as_by_redis_crate() {
        let mut commands = CommandBuffer::default();
        commands.add(&[b"HSET", b"hash", b"c-1", b"\r\n\0"]);
        commands.say(&["MULTI"]);
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
