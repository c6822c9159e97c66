//! The keys that Paho gives its records, and what their names say.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    io::Write,
    ops::{Deref, Range},
};

/// What a record is, by the stem of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum RecordKind {
    /// `c`: a publish, subscribe or unsubscribe that waits to be processed.
    Command,
    /// `s`: a PUBLISH sent at QoS 1 or 2, not yet acknowledged.
    SentPublish,
    /// `sc`: the PUBREL sent for a QoS 2 PUBLISH.
    SentPubrel,
    /// `r`: an inbound QoS 2 PUBLISH, not yet released.
    ReceivedPublish,
    /// `q`: an inbound message, not yet handed to the application.
    Undelivered,
}

impl RecordKind {
    /// What it is called where people look.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::SentPublish => "sent_publish",
            Self::SentPubrel => "sent_pubrel",
            Self::ReceivedPublish => "received_publish",
            Self::Undelivered => "undelivered",
        }
    }

    /// The numbers that records of this kind can have.
    pub(crate) fn number_range(self) -> Range<u32> {
        match self {
            Self::Command | Self::Undelivered => 0..SEQUENCE_LIMIT,
            Self::SentPublish | Self::SentPubrel | Self::ReceivedPublish => 1..0x1_0000,
        }
    }
}

/// A key as Paho writes it: a stem, which tells the kind and the MQTT version, and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: RecordKind,
    /// Written by a client of MQTT 5, whose records carry properties.
    pub(crate) v5: bool,
    /// A sequence number or a packet id, by the kind.
    pub(crate) number: u32,
}

/// Paho's `PERSISTENCE_SEQNO_LIMIT`: sequence numbers go up to one less.
const SEQUENCE_LIMIT: u32 = 1_000_000;

impl Key {
    /// The key behind a name, or nothing where Paho would not have written that name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (stem, digits) = name.split_once('-')?;
        let (kind, v5) = match stem {
            "c" => (RecordKind::Command, false),
            "c5" => (RecordKind::Command, true),
            "s" => (RecordKind::SentPublish, false),
            "s5" => (RecordKind::SentPublish, true),
            "sc" => (RecordKind::SentPubrel, false),
            "sc5" => (RecordKind::SentPubrel, true),
            "r" => (RecordKind::ReceivedPublish, false),
            "r5" => (RecordKind::ReceivedPublish, true),
            "q" => (RecordKind::Undelivered, false),
            "q5" => (RecordKind::Undelivered, true),
            _ => return None,
        };
        let canonical = digits.bytes().all(|digit| digit.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'));
        let number = digits.parse().ok().filter(|_| canonical)?;
        kind.number_range()
            .contains(&number)
            .then_some(Self { kind, v5, number })
    }

    /// The key of the record that Paho means when it removes this one after it has read `read`.
    ///
    /// It reads a command under the key that the command has and removes it, sent, under that of
    /// the version that it is connected with: after a change of version these are two.
    fn as_last_read(self, read: Option<Self>) -> Self {
        match read {
            Some(read)
                if self.kind == RecordKind::Command
                    && read.kind == RecordKind::Command
                    && read.number == self.number =>
            {
                read
            }
            _ => self,
        }
    }

    /// The key of the record that Paho means when it removes this one: what waits in its queues it
    /// removes under the version that it has by then, whichever wrote it.
    pub(crate) fn resolve_removed_key(
        self,
        read: Option<Self>,
        is_live: impl Fn(Self) -> bool,
    ) -> Self {
        let key = self.as_last_read(read);
        let other = key.other_version();
        if key.is_queue_record() && !key.is_command_zero() && !is_live(key) && is_live(other) {
            return other;
        }
        key
    }

    /// A PUBLISH or PUBREL that was sent.
    pub(crate) fn is_outbound(self) -> bool {
        matches!(self.kind, RecordKind::SentPublish | RecordKind::SentPubrel)
    }

    /// What waits in one of Paho's queues, and is not part of the session with the broker.
    pub(crate) fn is_queue_record(self) -> bool {
        matches!(self.kind, RecordKind::Command | RecordKind::Undelivered)
    }

    /// The same record as a client of the other version writes it.
    pub(crate) fn other_version(self) -> Self {
        Self {
            v5: !self.v5,
            ..self
        }
    }

    /// The keys under which Paho may have what is of one message in flight, this one included.
    pub(crate) fn message_keys(self) -> impl Iterator<Item = Self> {
        let kinds: &[RecordKind] = match self.kind {
            RecordKind::SentPublish | RecordKind::SentPubrel => {
                &[RecordKind::SentPublish, RecordKind::SentPubrel]
            }
            RecordKind::Command => &[RecordKind::Command],
            RecordKind::Undelivered => &[RecordKind::Undelivered],
            RecordKind::ReceivedPublish => &[RecordKind::ReceivedPublish],
        };
        let versions = if self.is_queue_record() { 1 } else { 2 };
        let keys = kinds.iter().map(move |kind| self.with_kind(*kind));
        keys.flat_map(move |key| [key, key.other_version()].into_iter().take(versions))
    }

    pub(crate) fn with_kind(self, kind: RecordKind) -> Self {
        Self { kind, ..self }
    }

    /// What Paho removes when it connects, since a connect has no number.
    pub(crate) fn is_command_zero(self) -> bool {
        self.kind == RecordKind::Command && self.number == 0
    }

    fn stem(self) -> &'static str {
        match (self.kind, self.v5) {
            (RecordKind::Command, false) => "c",
            (RecordKind::Command, true) => "c5",
            (RecordKind::SentPublish, false) => "s",
            (RecordKind::SentPublish, true) => "s5",
            (RecordKind::SentPubrel, false) => "sc",
            (RecordKind::SentPubrel, true) => "sc5",
            (RecordKind::ReceivedPublish, false) => "r",
            (RecordKind::ReceivedPublish, true) => "r5",
            (RecordKind::Undelivered, false) => "q",
            (RecordKind::Undelivered, true) => "q5",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.stem(), self.number)
    }
}

/// What is looked up at every call.
pub(crate) type KeyMap<T> = HashMap<Key, T, BuildHasherDefault<KeyHasher>>;

/// A key is one number.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let stem = (self.kind as u32) << 1 | u32::from(self.v5);
        state.write_u64(u64::from(stem) << 32 | u64::from(self.number));
    }
}

/// Spreads the number of a key, which nobody from outside can choose.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio. A map looks at the highest bits and at the lowest.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ spread >> 32;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 << 8 ^ u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A key as text, on the stack.
#[derive(Clone, Copy)]
pub(crate) struct KeyName {
    bytes: [u8; MAX_KEY_LENGTH],
    length: usize,
}

/// Of `sc5-65535` and `c5-999999`.
const MAX_KEY_LENGTH: usize = 9;

impl Key {
    pub(crate) fn to_name(self) -> KeyName {
        let mut bytes = [0; MAX_KEY_LENGTH];
        let mut rest = &mut bytes[..];
        let mut number = itoa::Buffer::new();
        for part in [self.stem(), "-", number.format(self.number)] {
            // Every key has room, by the numbers that its kind can have.
            let written = rest.write(part.as_bytes());
            debug_assert!(
                written.is_ok_and(|written| written == part.len()),
                "{self} is too long"
            );
        }
        let length = MAX_KEY_LENGTH.saturating_sub(rest.len());
        KeyName { bytes, length }
    }
}

impl Deref for KeyName {
    type Target = str;

    fn deref(&self) -> &str {
        let written = self.bytes.get(..self.length).unwrap_or_default();
        str::from_utf8(written).unwrap_or_default()
    }
}

/// Works with the names of these keys, in their order.
pub(crate) fn with_key_names<T>(keys: &[Key], work: impl FnOnce(&[&str]) -> T) -> T {
    let names: Vec<KeyName> = keys.iter().map(|key| key.to_name()).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    work(&names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_round_trips() {
        for name in [
            "c-0",
            "c5-999999",
            "s-1",
            "s5-65535",
            "sc-7",
            "sc5-7",
            "r-1",
            "r5-9",
            "q-1",
            "q5-0",
        ] {
            let key = Key::parse(name).expect(name);
            assert_eq!(key.to_string(), name);
            assert_eq!(&*key.to_name(), name);
        }
    }

    #[test]
    fn key_not_written_by_paho_is_rejected() {
        for name in [
            "",
            "-",
            "c",
            "c-",
            "-1",
            "c-1000000",
            "c-01",
            "c-+1",
            "c--1",
            "c-1 ",
            "s-0",
            "s-65536",
            "sc5-0",
            "x-1",
            "C-1",
            "c5",
            "foreign",
            "c-1\0",
            "c-99999999999999999999",
        ] {
            assert_eq!(Key::parse(name), None, "{name:?}");
        }
    }
}
