//! Message as Paho hands it to its persistence, and the calls for it.

use std::hint::black_box;

use paho_mqtt::{ClientPersistence, Result};
use testkit::{TOPIC, publish_packet, record};

const PAYLOAD: [u8; 100] = [b'x'; 100];

/// Records of one message with MQTT 5.
pub struct Message {
    command_key: String,
    command: Vec<u8>,
    sent_key: String,
    sent: Vec<u8>,
    pubrel_key: String,
    pubrel: Vec<u8>,
    /// Keys of MQTT 3.1.1 that Paho removes at a PUBACK or PUBCOMP too, and which never exist.
    absent_keys: [String; 2],
    calls: &'static [Call],
}

impl Message {
    /// Creates the message at QoS 1 with this number and packet id, from 1 on.
    pub fn new(number: u16) -> Self {
        let command_key = format!("c5-{number}");
        let sent_key = format!("s5-{number}");
        let pubrel_key = format!("sc5-{number}");
        Self {
            command: record(&command_key, &PAYLOAD),
            command_key,
            sent: publish_packet(&sent_key, 1, &PAYLOAD),
            sent_key,
            pubrel: record(&pubrel_key, &[]),
            pubrel_key,
            absent_keys: [format!("s-{number}"), format!("sc-{number}")],
            calls: &Call::CYCLE,
        }
    }

    /// Creates the message at QoS 2. Its command differs from that at QoS 1 in a number that no persistence reads.
    pub fn exactly_once(number: u16) -> Self {
        let message = Self::new(number);
        Self {
            sent: publish_packet(&message.sent_key, 2, &PAYLOAD),
            calls: &Call::EXACTLY_ONCE,
            ..message
        }
    }

    /// Calls for the message, in order.
    pub fn calls(&self) -> &'static [Call] {
        self.calls
    }
}

/// Call that Paho makes for a message.
#[derive(Clone, Copy)]
pub enum Call {
    PutCommand,
    GetCommand,
    RemoveCommand,
    PutSent,
    PutPubrel,
    RemoveSent,
    RemovePubrel,
    RemoveAbsent(usize),
}

impl Call {
    /// All calls at QoS 1 in order: four at the publish, four at the PUBACK. There is no PUBREL to be removed.
    pub const CYCLE: [Self; 8] = [
        Self::PutCommand,
        Self::GetCommand,
        Self::RemoveCommand,
        Self::PutSent,
        Self::RemoveSent,
        Self::RemovePubrel,
        Self::RemoveAbsent(0),
        Self::RemoveAbsent(1),
    ];

    /// All calls at QoS 2 in order: four at the publish, one at the PUBREC, four at the PUBCOMP.
    const EXACTLY_ONCE: [Self; 9] = [
        Self::PutCommand,
        Self::GetCommand,
        Self::RemoveCommand,
        Self::PutSent,
        Self::PutPubrel,
        Self::RemoveSent,
        Self::RemovePubrel,
        Self::RemoveAbsent(0),
        Self::RemoveAbsent(1),
    ];

    /// Row of the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::PutCommand => "put `c`",
            Self::GetCommand => "get `c`",
            Self::RemoveCommand => "remove `c`",
            Self::PutSent => "put `s`",
            Self::RemoveSent => "remove `s`",
            Self::PutPubrel => "put `sc`",
            Self::RemovePubrel | Self::RemoveAbsent(_) => "remove a missing record",
        }
    }

    /// Buffers that Paho passes, which cost the caller an allocation.
    pub fn buffers(self, message: &Message) -> Vec<&[u8]> {
        match self {
            Self::PutCommand => split(
                &message.command,
                &[4, 4, TOPIC.len() + 1, 4, PAYLOAD.len(), 4, 4, 1],
            ),
            Self::PutSent => split(&message.sent, &[2, 2, TOPIC.len(), 2, 1, PAYLOAD.len()]),
            Self::PutPubrel => vec![&message.pubrel],
            _ => Vec::new(),
        }
    }

    pub fn make(
        self,
        persistence: &mut dyn ClientPersistence,
        message: &Message,
        buffers: Vec<&[u8]>,
    ) -> Result<()> {
        match self {
            Self::PutCommand => persistence.put(&message.command_key, buffers),
            Self::GetCommand => persistence
                .get(&message.command_key)
                .map(|value| drop(black_box(value))),
            Self::RemoveCommand => persistence.remove(&message.command_key),
            Self::PutSent => persistence.put(&message.sent_key, buffers),
            Self::PutPubrel => persistence.put(&message.pubrel_key, buffers),
            Self::RemoveSent => persistence.remove(&message.sent_key),
            Self::RemovePubrel => persistence.remove(&message.pubrel_key),
            Self::RemoveAbsent(index) => persistence.remove(&message.absent_keys[index]),
        }
    }
}

/// Splits a value into parts of these lengths, which Paho C passes separately.
fn split<'a>(value: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = value;
    let mut parts = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let (part, after) = rest.split_at(length);
        parts.push(part);
        rest = after;
    }
    assert!(rest.is_empty(), "the lengths are not those of the value");
    parts
}
