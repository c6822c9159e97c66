//! The keys of Paho's records: kind, MQTT version and number.

use std::{
    cmp::Ordering,
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    io::Write,
    ops::{Deref, Range},
};

/// The kind of a record, which the stem of its key encodes. Later versions may add kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RecordKind {
    /// `c`: a publish, subscribe or unsubscribe command waiting to be sent.
    Command,
    /// `s`: a PUBLISH sent at QoS 1 or 2, not yet acknowledged.
    SentPublish,
    /// `sc`: the PUBREL sent for a QoS 2 PUBLISH.
    SentPubrel,
    /// `r`: an inbound QoS 2 PUBLISH, not yet released by a PUBREL.
    ReceivedPublish,
    /// `q`: an inbound message, not yet handed to the application.
    Undelivered,
}

impl RecordKind {
    /// Every kind, in the order in which Paho takes them up after a start.
    pub const ALL: &'static [Self] = &[
        Self::SentPublish,
        Self::SentPubrel,
        Self::Command,
        Self::ReceivedPublish,
        Self::Undelivered,
    ];

    /// Returns the value of the label `kind` of the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::SentPublish => "sent_publish",
            Self::SentPubrel => "sent_pubrel",
            Self::ReceivedPublish => "received_publish",
            Self::Undelivered => "undelivered",
        }
    }

    /// Returns the numbers that records of this kind can have: sequence numbers, or packet ids.
    pub(crate) fn number_range(self) -> Range<u32> {
        match self {
            Self::Command | Self::Undelivered => 0..SEQUENCE_LIMIT,
            Self::SentPublish | Self::SentPubrel | Self::ReceivedPublish => 1..0x1_0000,
        }
    }
}

/// A key as Paho writes it: a stem for kind and MQTT version, and a number, as in `sc5-7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub(crate) kind: RecordKind,
    /// The record is in the form of MQTT 5, which has properties.
    pub(crate) v5: bool,
    /// A sequence number or a packet id, depending on the kind.
    pub(crate) number: u32,
}

/// Returns the name of a version of MQTT: `3.1.1` or `5`.
pub(crate) fn version_name(v5: bool) -> &'static str {
    if v5 { "5" } else { "3.1.1" }
}

/// Paho's `PERSISTENCE_SEQNO_LIMIT`, which sequence numbers stay below.
const SEQUENCE_LIMIT: u32 = 1_000_000;

/// The digits of the highest number.
const MAX_DIGITS: usize = 6;

#[cfg(feature = "cli")]
impl Key {
    /// Parses a name; returns `None` if Paho does not write such a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::parse(name)
    }

    /// Returns the sequence number or packet id.
    #[must_use]
    pub fn number(self) -> u32 {
        self.number
    }

    /// Returns the version of MQTT: `3.1.1` or `5`.
    #[must_use]
    pub fn version(self) -> &'static str {
        version_name(self.v5)
    }

    /// Returns the kind of the record.
    #[must_use]
    pub fn kind(self) -> RecordKind {
        self.kind
    }
}

impl Key {
    /// Parses a name; returns `None` if Paho does not write such a name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        // Cheaper than a search for the dash, and every call parses its key.
        let (kind, rest) = match name.as_bytes() {
            [b'c', rest @ ..] => (RecordKind::Command, rest),
            [b's', b'c', rest @ ..] => (RecordKind::SentPubrel, rest),
            [b's', rest @ ..] => (RecordKind::SentPublish, rest),
            [b'r', rest @ ..] => (RecordKind::ReceivedPublish, rest),
            [b'q', rest @ ..] => (RecordKind::Undelivered, rest),
            _ => return None,
        };
        let (v5, digits) = match rest {
            [b'-', digits @ ..] => (false, digits),
            [b'5', b'-', digits @ ..] => (true, digits),
            _ => return None,
        };
        if matches!(digits, [] | [b'0', _, ..]) || digits.len() > MAX_DIGITS {
            return None;
        }
        let number = digits.iter().try_fold(0_u32, |number, digit| {
            let digit = digit.wrapping_sub(b'0');
            // This many digits never wrap.
            (digit < 10).then(|| number.wrapping_mul(10).wrapping_add(digit.into()))
        })?;
        kind.number_range()
            .contains(&number)
            .then_some(Self { kind, v5, number })
    }

    /// Returns `last_read` if it is the same command as this key, possibly in the other MQTT version.
    ///
    /// Paho reads a command under its stored key. Once sent, it removes the command under the key of the
    /// version that it is connected with. After a change of version these two differ.
    fn as_last_read(self, last_read: Option<Self>) -> Self {
        match last_read {
            Some(last_read)
                if self.kind == RecordKind::Command
                    && last_read.kind == RecordKind::Command
                    && last_read.number == self.number =>
            {
                last_read
            }
            _ => self,
        }
    }

    /// Returns the stored key of the record that Paho removes with this key.
    ///
    /// Paho removes commands and queued messages under the version that it is connected with, whichever
    /// version wrote them.
    pub(crate) fn resolve_removed_key(
        self,
        last_read: Option<Self>,
        is_live: impl Fn(Self) -> bool,
    ) -> Self {
        let key = self.as_last_read(last_read);
        let other = key.other_version();
        // `c-0` is removed at each connect and stands for no record, so it must not reach `c5-0`.
        if key.is_queue_record() && !key.is_command_zero() && !is_live(key) && is_live(other) {
            return other;
        }
        key
    }

    /// Returns whether the record is a PUBLISH or PUBREL that was sent.
    pub(crate) fn is_outbound(self) -> bool {
        matches!(self.kind, RecordKind::SentPublish | RecordKind::SentPubrel)
    }

    /// Returns whether the record waits in one of Paho's queues, outside the session with the broker.
    pub(crate) fn is_queue_record(self) -> bool {
        matches!(self.kind, RecordKind::Command | RecordKind::Undelivered)
    }

    /// Returns the key under which a client of the other MQTT version writes this record.
    pub(crate) fn other_version(self) -> Self {
        Self {
            v5: !self.v5,
            ..self
        }
    }

    /// Returns all keys that records of the same message in flight may have, this key included.
    pub(crate) fn message_keys(self) -> impl Iterator<Item = Self> {
        let kinds: &[RecordKind] = match self.kind {
            RecordKind::SentPublish | RecordKind::SentPubrel => {
                &[RecordKind::SentPublish, RecordKind::SentPubrel]
            }
            RecordKind::Command => &[RecordKind::Command],
            RecordKind::Undelivered => &[RecordKind::Undelivered],
            RecordKind::ReceivedPublish => &[RecordKind::ReceivedPublish],
        };
        // After a change of version a message in flight may have records of both.
        let versions = if self.is_queue_record() { 1 } else { 2 };
        let keys = kinds.iter().map(move |kind| self.with_kind(*kind));
        keys.flat_map(move |key| [key, key.other_version()].into_iter().take(versions))
    }

    /// Returns the keys whose records a put of this key replaces: the same message in the other
    /// version, and leftovers of an earlier message with the same packet id.
    pub(crate) fn replaced_keys(self) -> impl Iterator<Item = Self> {
        let other = self.other_version();
        let pubrels = [self, other].map(|key| key.with_kind(RecordKind::SentPubrel));
        let is_publish = self.kind == RecordKind::SentPublish;
        let others = (!self.is_queue_record()).then_some(other);
        others
            .into_iter()
            .chain(pubrels.into_iter().filter(move |_| is_publish))
    }

    pub(crate) fn with_kind(self, kind: RecordKind) -> Self {
        Self { kind, ..self }
    }

    /// Returns whether Paho removes this key at each connect.
    ///
    /// A connect command is never stored and has the number 0, but Paho removes it like others.
    pub(crate) fn is_command_zero(self) -> bool {
        self.kind == RecordKind::Command && self.number == 0
    }

    /// Packs kind and version into a number.
    fn packed_stem(self) -> u64 {
        (self.kind as u64) << 1 | u64::from(self.v5)
    }

    /// Packs the whole key into one number. Every start sorts all keys several times, and numbers are
    /// compared without a branch.
    fn packed(self) -> u64 {
        self.packed_stem() << 32 | u64::from(self.number)
    }

    /// Returns a number that sorts keys by kind, and those of a kind from the highest number to the lowest.
    pub(crate) fn descending(self) -> u64 {
        (self.kind as u64) << 33 | u64::from(!self.number) << 1 | u64::from(self.v5)
    }

    /// Returns a number that sorts keys by number, and a PUBLISH before its PUBREL.
    pub(super) fn by_number(self) -> u64 {
        u64::from(self.number) << 32 | self.packed_stem()
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

/// A map with a cheap hash, since every call of Paho looks its key up.
pub(crate) type KeyMap<T> = HashMap<Key, T, BuildHasherDefault<KeyHasher>>;

/// Hashes the whole key as one `u64`, for [`KeyHasher`].
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.packed());
    }
}

/// By kind, then by version, then by number.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.packed().cmp(&other.packed())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A multiplicative hash of one `u64`.
///
/// It does not resist chosen keys and need not: Paho chooses sequence numbers, and a packet id of the
/// broker has 16 bits.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio. `HashMap` uses the highest and the lowest bits.
        let product = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
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

/// The text of a key, without an allocation.
#[derive(Clone, Copy)]
pub(crate) struct KeyName {
    bytes: [u8; MAX_KEY_LENGTH],
    length: usize,
}

/// The length of `sc5-65535` and `c5-999999`.
const MAX_KEY_LENGTH: usize = 9;

impl Key {
    /// Returns the text of the key.
    pub(crate) fn to_name(self) -> KeyName {
        let mut bytes = [0; MAX_KEY_LENGTH];
        let mut rest = &mut bytes[..];
        let mut number = itoa::Buffer::new();
        for part in [self.stem(), "-", number.format(self.number)] {
            // `number_range` bounds the digits, so every key fits.
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

/// Passes the names of these keys to `work`, in the same order.
pub(crate) fn with_key_names<T>(keys: &[Key], work: impl FnOnce(&[&str]) -> T) -> T {
    let names: Vec<KeyName> = keys.iter().map(|key| key.to_name()).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    work(&names)
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BTreeSet};

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
            "c-4294967297",
            "c-99999999999999999999",
            "c55-1",
        ] {
            assert_eq!(Key::parse(name), None, "{name:?}");
        }
    }

    fn key(name: &str) -> Key {
        Key::parse(name).expect(name)
    }

    #[test]
    fn packed_key_sorts_like_its_parts() {
        let numbers = [0, 1, 2, 65_535, 999_999];
        let keys = RecordKind::ALL.iter().flat_map(|kind| {
            let versions = [true, false].into_iter();
            versions.flat_map(move |v5| {
                let kind = *kind;
                numbers.map(|number| Key { kind, v5, number })
            })
        });
        let keys: Vec<Key> = keys.collect();
        for (one, other) in keys
            .iter()
            .flat_map(|one| keys.iter().map(move |other| (one, other)))
        {
            let parts = |key: &Key| (key.kind, key.v5, key.number);
            assert_eq!(one.cmp(other), parts(one).cmp(&parts(other)));
            let parts = |key: &Key| (key.kind, Reverse(key.number), key.v5);
            let order = one.descending().cmp(&other.descending());
            assert_eq!(order, parts(one).cmp(&parts(other)));
            let parts = |key: &Key| (key.number, key.kind, key.v5);
            let order = one.by_number().cmp(&other.by_number());
            assert_eq!(order, parts(one).cmp(&parts(other)));
        }
    }

    #[test]
    fn kind_has_its_label() {
        for (name, label) in [
            ("c-1", "command"),
            ("s-1", "sent_publish"),
            ("sc5-1", "sent_pubrel"),
            ("r-1", "received_publish"),
            ("q5-1", "undelivered"),
        ] {
            assert_eq!(key(name).kind.as_str(), label);
        }
    }

    #[test]
    fn message_in_flight_has_keys_of_both_versions() {
        for (name, expected) in [
            ("c-7", &["c-7"][..]),
            ("c5-7", &["c5-7"]),
            ("q5-7", &["q5-7"]),
            ("r5-7", &["r5-7", "r-7"]),
            ("s-7", &["s-7", "s5-7", "sc-7", "sc5-7"]),
            ("sc5-7", &["s5-7", "s-7", "sc5-7", "sc-7"]),
        ] {
            let names: Vec<String> = key(name)
                .message_keys()
                .map(|key| key.to_string())
                .collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn removed_key_resolves_to_stored_version() {
        for (removed, last_read, live, expected) in [
            ("c-1", None, &["c-1"][..], "c-1"),
            ("c-1", None, &["c5-1"], "c5-1"),
            ("c-1", None, &["c-1", "c5-1"], "c-1"),
            ("c-1", None, &[], "c-1"),
            ("q5-1", None, &["q-1"], "q-1"),
            ("s-1", None, &["s5-1"], "s-1"),
            ("c-0", None, &["c5-0"], "c-0"),
            // The command that Paho has just read, in the version in which it is stored.
            ("c-0", Some("c5-0"), &["c5-0"], "c5-0"),
            ("c-1", Some("c5-1"), &["c-1", "c5-1"], "c5-1"),
            ("c-1", Some("c5-2"), &["c-1", "c5-2"], "c-1"),
            ("q-1", Some("c5-1"), &["q-1", "c5-1"], "q-1"),
            ("c-1", Some("q5-1"), &["c-1", "q5-1"], "c-1"),
        ] {
            let live: Vec<Key> = live.iter().map(|name| key(name)).collect();
            let resolved =
                key(removed).resolve_removed_key(last_read.map(key), |key| live.contains(&key));
            assert_eq!(resolved, key(expected), "{removed} {last_read:?} {live:?}");
        }
    }

    #[test]
    fn hash_depends_on_each_part_of_key() {
        let hash = |name| {
            let mut hasher = KeyHasher::default();
            key(name).hash(&mut hasher);
            hasher.finish()
        };
        let names = [
            "c-1", "c5-1", "c-2", "s-1", "s5-1", "sc-1", "r-1", "q-1", "q5-1",
        ];
        let different: BTreeSet<u64> = names.into_iter().map(hash).collect();
        assert_eq!(different.len(), names.len());
        // The names of quarantined records contain it, so it must not change.
        assert_eq!(hash("sc5-7"), 14_985_939_397_624_571_112);
        let mut hasher = KeyHasher::default();
        hasher.write(b"ab");
        assert_eq!(hasher.finish(), 4_025_691_537_637_690_645);
    }
}
