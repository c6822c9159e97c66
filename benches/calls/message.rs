//! Message at QoS 1 as Paho hands it to its persistence, and the calls for it.

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
    /// Keys that Paho removes at a PUBACK beside the PUBLISH, and which never exist.
    absent_keys: [String; 3],
}

impl Message {
    /// Creates the message with this number and packet id, from 1 on.
    pub fn new(number: u16) -> Self {
        let command_key = format!("c5-{number}");
        let sent_key = format!("s5-{number}");
        Self {
            command: record(&command_key, &PAYLOAD),
            command_key,
            sent: publish_packet(&sent_key, 1, &PAYLOAD),
            sent_key,
            absent_keys: [
                format!("sc5-{number}"),
                format!("s-{number}"),
                format!("sc-{number}"),
            ],
        }
    }
}

/// Call that Paho makes for a message.
#[derive(Clone, Copy)]
pub enum Call {
    PutCommand,
    GetCommand,
    RemoveCommand,
    PutSent,
    RemoveSent,
    RemoveAbsent(usize),
}

impl Call {
    /// All calls in order: five at the publish, four at the PUBACK.
    pub const CYCLE: [Self; 8] = [
        Self::PutCommand,
        Self::GetCommand,
        Self::RemoveCommand,
        Self::PutSent,
        Self::RemoveSent,
        Self::RemoveAbsent(0),
        Self::RemoveAbsent(1),
        Self::RemoveAbsent(2),
    ];

    /// Row of the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::PutCommand => "put `c`",
            Self::GetCommand => "get `c`",
            Self::RemoveCommand => "remove `c`",
            Self::PutSent => "put `s`",
            Self::RemoveSent => "remove `s`",
            Self::RemoveAbsent(_) => "remove a missing record",
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
            Self::RemoveSent => persistence.remove(&message.sent_key),
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
