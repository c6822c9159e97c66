//! Keys and values of Paho's records, which name their message.
//!
//! The topic has the number of the message, so that a value of any length, an empty payload included, shows which message it carries.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{publish_command, subscribe_command, unsubscribe_command};

/// Shared between the model, the world and its snapshots.
pub type Value = Arc<[u8]>;

/// Kind of a record, in the order of Paho's stems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Command,
    SentPublish,
    SentPubrel,
    ReceivedPublish,
    Undelivered,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Command,
        Self::SentPublish,
        Self::SentPubrel,
        Self::ReceivedPublish,
        Self::Undelivered,
    ];

    /// Returns the value of the label `kind` of the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::SentPublish => "sent_publish",
            Self::SentPubrel => "sent_pubrel",
            Self::ReceivedPublish => "received_publish",
            Self::Undelivered => "undelivered",
        }
    }
}

/// Key of a record, as in `sc5-7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    pub v5: bool,
    pub number: u32,
}

impl Key {
    pub fn new(kind: Kind, v5: bool, number: u32) -> Self {
        Self { kind, v5, number }
    }

    /// Parses a key that Paho writes; `None` for any other field of the hash.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let dash = name.iter().position(|byte| *byte == b'-')?;
        let (stem, digits) = (&name[..dash], &name[dash + 1..]);
        let (kind, v5) = match stem {
            b"c" => (Kind::Command, false),
            b"c5" => (Kind::Command, true),
            b"s" => (Kind::SentPublish, false),
            b"s5" => (Kind::SentPublish, true),
            b"sc" => (Kind::SentPubrel, false),
            b"sc5" => (Kind::SentPubrel, true),
            b"r" => (Kind::ReceivedPublish, false),
            b"r5" => (Kind::ReceivedPublish, true),
            b"q" => (Kind::Undelivered, false),
            b"q5" => (Kind::Undelivered, true),
            _ => return None,
        };
        let is_canonical = digits.len() <= 6 && (digits == b"0" || digits.first() != Some(&b'0'));
        let number = str::from_utf8(digits).ok()?.parse().ok()?;
        is_canonical.then_some(Self { kind, v5, number })
    }

    pub fn other_version(self) -> Self {
        Self {
            v5: !self.v5,
            ..self
        }
    }

    pub fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    pub fn is_outbound(self) -> bool {
        matches!(self.kind, Kind::SentPublish | Kind::SentPubrel)
    }

    /// Returns true for records outside the session with the broker.
    pub fn is_queue_record(self) -> bool {
        matches!(self.kind, Kind::Command | Kind::Undelivered)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stem = match self.kind {
            Kind::Command => "c",
            Kind::SentPublish => "s",
            Kind::SentPubrel => "sc",
            Kind::ReceivedPublish => "r",
            Kind::Undelivered => "q",
        };
        let version = if self.v5 { "5" } else { "" };
        write!(f, "{stem}{version}-{}", self.number)
    }
}

/// PUBLISH packet in either direction, or what a command sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub qos: u8,
    /// Token of a command; 0 at QoS 0.
    pub packet_id: u16,
    pub topic: Topic,
    pub payload: Vec<u8>,
}

/// Topic, which says whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Message of the simulated program, numbered in the order of its publishes.
    Own(u32),
    /// Message to the program.
    Inbound(u32),
}

impl Topic {
    pub fn name(self) -> String {
        match self {
            Self::Own(number) => format!("m/{number}"),
            Self::Inbound(number) => format!("i/{number}"),
        }
    }

    fn parse(name: &[u8]) -> Option<Self> {
        let number = str::from_utf8(name.get(2..)?).ok()?.parse().ok()?;
        match &name[..2] {
            b"m/" => Some(Self::Own(number)),
            b"i/" => Some(Self::Inbound(number)),
            _ => None,
        }
    }
}

/// Payload of a message: every byte follows from the message, so that a changed one shows.
pub fn payload(number: u32, size: usize) -> Vec<u8> {
    vec![number.to_le_bytes()[0] ^ 0xa5; size]
}

/// Value of a `c` record that publishes.
pub fn command(v5: bool, publish: &Publish) -> Value {
    let mut value = publish_command(
        publish.packet_id.into(),
        publish.qos.into(),
        &publish.topic.name(),
        &publish.payload,
    );
    if v5 {
        value.push(0);
    }
    value.into()
}

/// Value of a `c` record that subscribes.
pub fn subscription(v5: bool, token: u16) -> Value {
    let mut value = subscribe_command(token.into(), "i/#");
    if v5 {
        value.extend_from_slice(b"MQSO\0\0\0\0\0\0\0\0\0");
    }
    value.into()
}

/// Value of a `c` record that unsubscribes.
pub fn unsubscription(v5: bool, token: u16) -> Value {
    let mut value = unsubscribe_command(token.into(), "i/#");
    if v5 {
        value.push(0);
    }
    value.into()
}

/// Buffers of a PUBLISH as Paho passes them to `put`: the fixed header, and the rest.
pub fn packet(v5: bool, is_dup: bool, publish: &Publish) -> (Vec<u8>, Vec<u8>) {
    let topic = publish.topic.name();
    let length = u16::try_from(topic.len()).expect("a short topic");
    let mut body = Vec::with_capacity(topic.len() + publish.payload.len() + 5);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(topic.as_bytes());
    body.extend_from_slice(&publish.packet_id.to_be_bytes());
    if v5 {
        body.push(0);
    }
    body.extend_from_slice(&publish.payload);
    let mut header = vec![0x30 | u8::from(is_dup) << 3 | publish.qos << 1];
    let mut rest = body.len();
    loop {
        let digit = u8::try_from(rest % 128).expect("seven bits");
        rest /= 128;
        header.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    (header, body)
}

/// Value of a PUBREL.
pub fn pubrel(packet_id: u16) -> Vec<u8> {
    [b"\x62\x02", &packet_id.to_be_bytes()[..]].concat()
}

/// Value of a `q` record.
pub fn undelivered(v5: bool, publish: &Publish) -> Value {
    let int = |value: usize| i32::try_from(value).expect("short").to_ne_bytes();
    let topic = publish.topic.name();
    let flags = [
        usize::from(publish.qos),
        0,
        0,
        usize::from(publish.packet_id),
    ];
    let mut value = [
        &int(publish.payload.len())[..],
        &publish.payload,
        &flags.map(int).concat(),
        topic.as_bytes(),
        b"\0",
        &int(topic.len()),
    ]
    .concat();
    if v5 {
        value.push(0);
    }
    value.into()
}

/// Parses the value of a `c` record that publishes.
pub fn parse_command(value: &[u8]) -> Option<Publish> {
    let int = |at: usize| {
        let bytes = value.get(at..at + 4)?.try_into().ok()?;
        Some(i32::from_ne_bytes(bytes))
    };
    if int(0)? != 3 {
        return None;
    }
    let end = 8 + value.get(8..)?.iter().position(|byte| *byte == 0)?;
    let length = usize::try_from(int(end + 1)?).ok()?;
    let payload = value.get(end + 5..end + 5 + length)?;
    Some(Publish {
        qos: u8::try_from(int(end + 5 + length)?).ok()?,
        packet_id: u16::try_from(int(4)?).ok()?,
        topic: Topic::parse(&value[8..end])?,
        payload: payload.to_vec(),
    })
}

/// Token of a command, whatever it is.
pub fn token(value: &[u8]) -> Option<u16> {
    let bytes = value.get(4..8)?.try_into().ok()?;
    u16::try_from(i32::from_ne_bytes(bytes)).ok()
}

/// Offset of the topic's length in a PUBLISH packet.
fn body_offset(value: &[u8]) -> Option<usize> {
    let digits = value.get(1..)?.iter().position(|byte| byte & 0x80 == 0)?;
    Some(digits + 2)
}

/// Parses a PUBLISH packet.
pub fn parse_packet(v5: bool, value: &[u8]) -> Option<Publish> {
    let offset = body_offset(value)?;
    let length = usize::from(u16::from_be_bytes(
        value.get(offset..offset + 2)?.try_into().ok()?,
    ));
    let after = offset + 2 + length;
    let packet_id = u16::from_be_bytes(value.get(after..after + 2)?.try_into().ok()?);
    Some(Publish {
        qos: value[0] >> 1 & 3,
        packet_id,
        topic: Topic::parse(&value[offset + 2..after])?,
        payload: value.get(after + 2 + usize::from(v5)..)?.to_vec(),
    })
}

/// Number of the own message that a record carries.
///
/// Reads only the topic, since it runs for each change of each record.
pub fn message_of(key: Key, value: &[u8]) -> Option<u32> {
    let topic = match key.kind {
        Kind::Command => {
            if value.get(..4)? != 3_i32.to_ne_bytes() {
                return None;
            }
            let end = value.get(8..)?.iter().position(|byte| *byte == 0)?;
            value.get(8..8 + end)?
        }
        Kind::SentPublish => {
            let offset = body_offset(value)?;
            let length = u16::from_be_bytes(value.get(offset..offset + 2)?.try_into().ok()?);
            value.get(offset + 2..offset + 2 + usize::from(length))?
        }
        Kind::SentPubrel | Kind::ReceivedPublish | Kind::Undelivered => return None,
    };
    match Topic::parse(topic) {
        Some(Topic::Own(number)) => Some(number),
        _ => None,
    }
}

/// Returns true if a record has this value, but for the DUP flag of a PUBLISH.
pub fn has_value(stored: &BTreeMap<Key, Value>, key: Key, value: &[u8]) -> bool {
    let stored = stored.get(&key);
    stored.is_some_and(|stored| is_same(key, stored, value))
}

/// Compares two values of a record, but for the DUP flag of a PUBLISH: Paho sets it when it sends one again.
pub fn is_same(key: Key, first: &[u8], second: &[u8]) -> bool {
    const DUP: u8 = 8;
    if key.kind == Kind::Command && token(first).is_some_and(|id| id > 0) {
        // The persistence gives a command another packet id if it shares its own.
        return first.len() == second.len()
            && first[..4] == second[..4]
            && first[8..] == second[8..];
    }
    if key.kind != Kind::SentPublish {
        return first == second;
    }
    match (first, second) {
        ([first, first_rest @ ..], [second, second_rest @ ..]) => {
            (first ^ second) & !DUP == 0 && first_rest == second_rest
        }
        _ => first == second,
    }
}

/// Hash of a record, to remember records without their values.
pub fn fingerprint(key: Key, value: &[u8]) -> u64 {
    // The number of a queue record is only a name.
    let number = if key.is_queue_record() { 0 } else { key.number };
    let seed = u64::from(number) << 8 | u64::from(key.v5) << 4 | key.kind as u64;
    let mut hash = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ value.len() as u64;
    let mix =
        |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    // The middle of a payload repeats one byte, so both ends are enough.
    let mut ends = value[..value.len().min(96)].to_vec();
    ends.extend(&value[ends.len().max(value.len().saturating_sub(32))..]);
    match (key.kind, &mut ends[..]) {
        // Without the DUP flag.
        (Kind::SentPublish, [first, ..]) => *first &= !8,
        // Without the packet id, which the persistence may change.
        (Kind::Command, [_, _, _, _, id @ ..]) if token(value).is_some_and(|id| id > 0) => {
            id.iter_mut().take(4).for_each(|byte| *byte = 0);
        }
        _ => {}
    }
    for chunk in ends.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash, u64::from_le_bytes(word));
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_parsed_back_and_name_their_message() {
        for (v5, size) in [(false, 0), (true, 0), (false, 200), (true, 40_000)] {
            let publish = Publish {
                qos: 2,
                packet_id: 513,
                topic: Topic::Own(77),
                payload: payload(77, size),
            };
            let stored = command(v5, &publish);
            assert_eq!(parse_command(&stored).as_ref(), Some(&publish));
            assert_eq!(token(&stored), Some(513));
            let key = Key::new(Kind::Command, v5, 1);
            assert_eq!(message_of(key, &stored), Some(77));

            let (header, body) = packet(v5, true, &publish);
            let stored = [header, body].concat();
            assert_eq!(parse_packet(v5, &stored).as_ref(), Some(&publish));
            let key = Key::new(Kind::SentPublish, v5, 513);
            assert_eq!(message_of(key, &stored), Some(77));
        }
    }

    #[test]
    fn keys_are_parsed_back() {
        for kind in Kind::ALL {
            for v5 in [false, true] {
                for number in [0, 7, 65_535] {
                    let key = Key::new(kind, v5, number);
                    assert_eq!(Key::parse(key.to_string().as_bytes()), Some(key));
                }
            }
        }
        for name in [&b"x-1"[..], b"c-01", b"c5", b"c-", b"c--1", b"s-1 "] {
            assert_eq!(Key::parse(name), None, "{name:?}");
        }
    }
}
