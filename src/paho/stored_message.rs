//! The message in a record, for a program that wants it back.

use super::{
    byte_reader::ByteReader,
    command::Command,
    key::{Key, RecordKind},
    properties::{PropertyValue, read_properties},
    validation::is_valid_record,
};
#[cfg(feature = "cli")]
use super::{command::encode_publish, properties::encode_properties};

/// A message as a record has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredMessage<'a> {
    pub(crate) topic: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) qos: u8,
    pub(crate) is_retained: bool,
    /// Identifiers and values, empty with MQTT 3.1.1.
    pub(crate) properties: Vec<(u8, PropertyValue<'a>)>,
}

impl<'a> StoredMessage<'a> {
    /// Reads the message in a record; returns `None` if there is none, or Paho could not read it.
    pub(crate) fn parse(key: Key, value: &'a [u8]) -> Option<Self> {
        if !is_valid_record(key, value) {
            return None;
        }
        match key.kind {
            RecordKind::Command => {
                let Command::Publish(_) = Command::parse(value, key.v5)? else {
                    return None;
                };
                Self::of_command(value, key.v5)
            }
            RecordKind::SentPublish | RecordKind::ReceivedPublish => Self::of_packet(value, key.v5),
            RecordKind::Undelivered => Self::of_queue(value, key.v5),
            RecordKind::SentPubrel => None,
        }
    }

    fn of_command(value: &'a [u8], v5: bool) -> Option<Self> {
        let mut reader = ByteReader::new(value);
        let (_type, _packet_id) = (reader.c_int()?, reader.c_int()?);
        let topic = reader.c_string()?;
        let length = usize::try_from(reader.c_int()?).ok()?;
        let payload = reader.take_bytes(length)?;
        Some(Self {
            topic,
            payload,
            qos: u8::try_from(reader.c_int()?).ok()?,
            is_retained: reader.c_int()? != 0,
            properties: properties_of(&mut reader, v5)?,
        })
    }

    fn of_packet(value: &'a [u8], v5: bool) -> Option<Self> {
        let mut reader = ByteReader::new(value);
        let header = reader.byte()?;
        let _length = reader.variable_int()?;
        let topic = reader.mqtt_string()?;
        let _packet_id = reader.u16_be()?;
        let properties = properties_of(&mut reader, v5)?;
        Some(Self {
            topic,
            payload: reader.remaining(),
            qos: (header >> 1) & 3,
            is_retained: header & 1 != 0,
            properties,
        })
    }

    fn of_queue(value: &'a [u8], v5: bool) -> Option<Self> {
        let mut reader = ByteReader::new(value);
        let length = usize::try_from(reader.c_int()?).ok()?;
        let payload = reader.take_bytes(length)?;
        let qos = u8::try_from(reader.c_int()?).ok()?;
        let is_retained = reader.c_int()? != 0;
        let (_duplicate, _packet_id) = (reader.c_int()?, reader.c_int()?);
        let topic = reader.c_string()?;
        let _topic_length = reader.c_int()?;
        Some(Self {
            topic,
            payload,
            qos,
            is_retained,
            properties: properties_of(&mut reader, v5)?,
        })
    }

    /// Returns the waiting command that publishes this message, without its topic alias, which belongs to
    /// one connection. `None` if there is only an alias in place of a topic.
    #[cfg(feature = "cli")]
    pub(crate) fn to_command(&self, v5: bool, packet_id: u16) -> Option<Vec<u8>> {
        const TOPIC_ALIAS: u8 = 35;
        let Self {
            topic,
            payload,
            qos,
            is_retained,
            properties,
        } = self;
        if topic.is_empty() || topic.contains(&0) {
            return None;
        }
        let mut command = encode_publish(topic, payload, *qos, *is_retained, packet_id)?;
        if v5 {
            let kept = properties.iter().filter(|(id, _)| *id != TOPIC_ALIAS);
            command.extend(encode_properties(kept)?);
        }
        Some(command)
    }
}

fn properties_of<'a>(
    reader: &mut ByteReader<'a>,
    v5: bool,
) -> Option<Vec<(u8, PropertyValue<'a>)>> {
    if v5 {
        read_properties(reader)
    } else {
        Some(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    /// One property of each type: payload format, expiry, content type, topic alias, user property.
    const PROPERTIES: &[u8] = b"\x15\x01\x01\x02\0\0\0\x3c\x03\0\x01j\x23\0\x05\x26\0\x01k\0\x01v";

    fn with_properties(v5: bool) -> &'static [u8] {
        if v5 { PROPERTIES } else { b"" }
    }

    fn expected(v5: bool) -> StoredMessage<'static> {
        let properties = vec![
            (1, PropertyValue::Byte(1)),
            (2, PropertyValue::FourByte(60)),
            (3, PropertyValue::Text(b"j")),
            (35, PropertyValue::TwoByte(5)),
            (38, PropertyValue::Pair(b"k", b"v")),
        ];
        StoredMessage {
            topic: b"a/b",
            payload: b"21.5",
            qos: 2,
            is_retained: true,
            properties: if v5 { properties } else { Vec::new() },
        }
    }

    #[test]
    fn message_of_each_kind_is_read() {
        let int = |value: i32| value.to_ne_bytes();
        for v5 in [false, true] {
            let properties = with_properties(v5);
            let command = [
                &int(3)[..],
                &int(7),
                b"a/b\0",
                &int(4),
                b"21.5",
                &int(2),
                &int(1),
                properties,
            ]
            .concat();
            let body = [b"\0\x03a/b\0\x07", properties, b"21.5"].concat();
            let length = u8::try_from(body.len()).expect("short");
            let packet = [&[0x35, length], &body[..]].concat();
            let queued = [
                &int(4)[..],
                b"21.5",
                &int(2),
                &int(1),
                &int(0),
                &int(7),
                b"a/b\0",
                &int(3),
                properties,
            ]
            .concat();
            let version = if v5 { "5" } else { "" };
            for (kind, value) in [
                ("c", &command),
                ("s", &packet),
                ("r", &packet),
                ("q", &queued),
            ] {
                let key = key(&format!("{kind}{version}-7"));
                assert_eq!(
                    StoredMessage::parse(key, value),
                    Some(expected(v5)),
                    "{key}"
                );
                assert_eq!(StoredMessage::parse(key, &value[1..]), None, "{key}");
            }
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn command_publishes_same_message() {
        for v5 in [false, true] {
            let mut message = expected(v5);
            let command = message.to_command(v5, 9).expect("a command");
            let key = key(if v5 { "c5-1" } else { "c-1" });
            assert_eq!(command.get(4..8), Some(&9_i32.to_ne_bytes()[..]));
            // The alias belongs to a connection that has ended.
            message.properties.retain(|(id, _)| *id != 35);
            assert_eq!(StoredMessage::parse(key, &command), Some(message));
        }
        for topic in [&b""[..], b"a\0b"] {
            let message = StoredMessage {
                topic,
                ..expected(true)
            };
            assert_eq!(message.to_command(true, 9), None);
        }
    }

    #[test]
    fn record_without_message_is_none() {
        for (name, value) in [
            ("sc-7", &b"\x62\x02\0\x07"[..]),
            ("s-7", b""),
            ("c-7", b"\0"),
        ] {
            assert_eq!(StoredMessage::parse(key(name), value), None, "{name}");
        }
    }
}
