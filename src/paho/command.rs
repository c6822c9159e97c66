//! Stored commands, as `MQTTAsync_persistCommand` of Paho C writes them.

use super::{byte_reader::ByteReader, properties};

// MQTT's packet types, by which Paho marks its commands.
const PUBLISH: i32 = 3;
const SUBSCRIBE: i32 = 8;
const UNSUBSCRIBE: i32 = 10;

/// Size in bytes of C's `MQTTSubscribe_options`: four `char`, an `int`, three `char` and padding.
const SUBSCRIBE_OPTIONS_SIZE: usize = 12;

/// `MQTTSubscribe_options_initializer`, with which a subscription is as with MQTT 3.1.1.
const DEFAULT_SUBSCRIBE_OPTIONS: &[u8; SUBSCRIBE_OPTIONS_SIZE] = b"MQSO\0\0\0\0\0\0\0\0";

/// A command waiting to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// A PUBLISH, with its packet id at QoS 1 and 2.
    Publish(Option<u32>),
    /// A SUBSCRIBE or UNSUBSCRIBE.
    Subscription,
}

impl Command {
    /// Parses a command; returns `None` if Paho cannot, or would read beyond the end of the value.
    pub(crate) fn parse(value: &[u8], v5: bool) -> Option<Self> {
        let mut reader = ByteReader::new(value);
        let kind = reader.c_int()?;
        // The packet id, if the command has one.
        let token = reader.c_int()?;
        let command = match kind {
            PUBLISH => parse_publish(&mut reader, token)?,
            SUBSCRIBE => {
                for _ in 0..topic_count(&mut reader)? {
                    reader.c_string()?;
                    (0..=2).contains(&reader.c_int()?).then_some(())?;
                    if v5 {
                        reader.take_bytes(SUBSCRIBE_OPTIONS_SIZE)?;
                    }
                }
                Self::Subscription
            }
            // With MQTT 3.1.1 nothing follows the last topic. Paho 1.3.16 then misses its NUL, fails to
            // read the record, and never removes it.
            UNSUBSCRIBE if v5 => {
                for _ in 0..topic_count(&mut reader)? {
                    reader.c_string()?;
                }
                Self::Subscription
            }
            _ => return None,
        };
        if v5 {
            properties::skip_properties(&mut reader)?;
        }
        reader.is_empty().then_some(command)
    }

    /// Skips a PUBLISH up to its properties; returns `None` for another command.
    pub(super) fn skip_publish(reader: &mut ByteReader<'_>) -> Option<()> {
        let kind = reader.c_int()?;
        let token = reader.c_int()?;
        (kind == PUBLISH).then_some(())?;
        parse_publish(reader, token).map(drop)
    }

    /// Returns the packet id under which the command will be sent, for a PUBLISH at QoS 1 or 2.
    pub(crate) fn packet_id(self) -> Option<u32> {
        match self {
            Self::Publish(packet_id) => packet_id,
            Self::Subscription => None,
        }
    }
}

/// A command to subscribe or unsubscribe.
#[cfg(feature = "cli")]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscription<'a> {
    pub(crate) subscribes: bool,
    pub(crate) topics: Vec<&'a [u8]>,
}

/// Reads a command that is no PUBLISH, and that Paho can read.
#[cfg(feature = "cli")]
pub(crate) fn subscription(value: &[u8], v5: bool) -> Option<Subscription<'_>> {
    let Command::Subscription = Command::parse(value, v5)? else {
        return None;
    };
    let mut reader = ByteReader::new(value);
    let subscribes = reader.c_int()? == SUBSCRIBE;
    let _token = reader.c_int()?;
    let mut topics = Vec::new();
    for _ in 0..topic_count(&mut reader)? {
        topics.push(reader.c_string()?);
        if subscribes {
            reader.c_int()?;
            let options = if v5 { SUBSCRIBE_OPTIONS_SIZE } else { 0 };
            reader.take_bytes(options)?;
        }
    }
    Some(Subscription { subscribes, topics })
}

/// Converts a command that Paho can read to the form of the other version, as far as there is one.
pub(super) fn convert(value: &[u8], from_v5: bool) -> Option<Vec<u8>> {
    let mut reader = ByteReader::new(value);
    if Command::skip_publish(&mut reader).is_some() {
        return properties::convert_tail(value, reader, from_v5);
    }
    let mut reader = ByteReader::new(value);
    let mut converted = Vec::with_capacity(value.len());
    let kind = reader.c_int()?;
    let token = reader.c_int()?;
    let count = topic_count(&mut reader)?;
    for int in [kind, token, i32::try_from(count).ok()?] {
        converted.extend(int.to_ne_bytes());
    }
    for _ in 0..count {
        converted.extend(reader.c_string()?);
        converted.push(0);
        if kind == SUBSCRIBE {
            converted.extend(reader.c_int()?.to_ne_bytes());
            if from_v5 {
                reader.take_bytes(SUBSCRIBE_OPTIONS_SIZE)?;
            } else {
                converted.extend(DEFAULT_SUBSCRIBE_OPTIONS);
            }
        }
    }
    if !from_v5 {
        converted.push(0);
    }
    Some(converted)
}

/// Returns the packet id of a command that Paho can read, or 0 for a PUBLISH at QoS 0.
pub(crate) fn command_packet_id(value: &[u8], v5: bool) -> Option<u16> {
    Command::parse(value, v5)?;
    let token = value.get(4..8)?.first_chunk::<4>()?;
    u16::try_from(i32::from_ne_bytes(*token)).ok()
}

/// Replaces the packet id with which Paho will send a command.
pub(crate) fn set_command_packet_id(value: &mut [u8], packet_id: u16) {
    if let Some(token) = value.get_mut(4..8) {
        token.copy_from_slice(&i32::from(packet_id).to_ne_bytes());
    }
}

/// Writes a PUBLISH as far as its properties.
#[cfg(feature = "cli")]
pub(super) fn encode_publish(
    topic: &[u8],
    payload: &[u8],
    qos: u8,
    is_retained: bool,
    packet_id: u16,
) -> Option<Vec<u8>> {
    let length = i32::try_from(payload.len()).ok()?;
    let command = [
        &PUBLISH.to_ne_bytes()[..],
        &i32::from(packet_id).to_ne_bytes(),
        topic,
        b"\0",
        &length.to_ne_bytes(),
        payload,
        &i32::from(qos).to_ne_bytes(),
        &i32::from(is_retained).to_ne_bytes(),
    ];
    Some(command.concat())
}

fn parse_publish(reader: &mut ByteReader<'_>, token: i32) -> Option<Command> {
    reader.c_string()?;
    let payload = usize::try_from(reader.c_int()?).ok()?;
    reader.take_bytes(payload)?;
    let qos = reader.c_int()?;
    let retained = reader.c_int()?;
    if !((0..=2).contains(&qos) && (0..=1).contains(&retained)) {
        return None;
    }
    if qos == 0 {
        return Some(Command::Publish(None));
    }
    let packet_id = u16::try_from(token).ok().filter(|id| *id != 0)?;
    Some(Command::Publish(Some(packet_id.into())))
}

/// Reads the number of topics, and rejects one for which the value is too short.
///
/// Paho allocates memory for this many topics before it reads the first one.
fn topic_count(reader: &mut ByteReader<'_>) -> Option<usize> {
    let count = usize::try_from(reader.c_int()?).ok()?;
    (1..=reader.remaining().len())
        .contains(&count)
        .then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A publish command, as Paho C 1.3.16 writes it for MQTT 3.1.1.
    fn stored_publish(token: i32, qos: i32, payload: &[u8]) -> Vec<u8> {
        let length = i32::try_from(payload.len()).expect("short");
        [
            &PUBLISH.to_ne_bytes()[..],
            &token.to_ne_bytes(),
            b"a/topic\0",
            &length.to_ne_bytes(),
            payload,
            &qos.to_ne_bytes(),
            &0_i32.to_ne_bytes(),
        ]
        .concat()
    }

    #[test]
    fn new_packet_id_leaves_rest_of_command_unchanged() {
        let mut command = stored_publish(7, 2, b"payload");
        set_command_packet_id(&mut command, 65_535);
        assert_eq!(command, stored_publish(65_535, 2, b"payload"));
        set_command_packet_id(&mut command[..7], 1);
        assert_eq!(command, stored_publish(65_535, 2, b"payload"));
    }

    #[test]
    fn only_acknowledged_publish_has_packet_id() {
        let parse = |token, qos| Command::parse(&stored_publish(token, qos, b"payload"), false);
        assert_eq!(parse(7, 1), Some(Command::Publish(Some(7))));
        assert_eq!(parse(65_535, 2), Some(Command::Publish(Some(65_535))));
        assert_eq!(parse(7, 0), Some(Command::Publish(None)));
        for (token, qos) in [(0, 1), (65_536, 1), (-1, 2), (7, 3), (7, -1)] {
            assert_eq!(parse(token, qos), None, "{token} {qos}");
        }
    }

    #[test]
    fn cut_or_overlong_command_is_rejected() {
        let whole = stored_publish(7, 1, b"payload");
        for length in 0..whole.len() {
            assert_eq!(Command::parse(&whole[..length], false), None, "{length}");
        }
        assert_eq!(Command::parse(&[&whole[..], b"x"].concat(), false), None);
        // A command of MQTT 5 has properties.
        assert_eq!(Command::parse(&whole, true), None);
        assert!(Command::parse(&[&whole[..], b"\0"].concat(), true).is_some());
        let mut wrong = whole.clone();
        wrong[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(Command::parse(&wrong, false), None);
    }

    /// A SUBSCRIBE or UNSUBSCRIBE with one topic.
    fn subscription(kind: i32, count: i32, after_topic: &[u8]) -> Vec<u8> {
        [
            &kind.to_ne_bytes()[..],
            &7_i32.to_ne_bytes(),
            &count.to_ne_bytes(),
            b"a/#\0",
            after_topic,
        ]
        .concat()
    }

    #[test]
    fn subscriptions_of_each_version_are_read() {
        let qos = 1_i32.to_ne_bytes();
        let options = [&qos[..], b"MQSO\0\0\0\0\0\0\0\0", b"\0"].concat();
        let parse =
            |kind, count, after: &[u8], v5| Command::parse(&subscription(kind, count, after), v5);
        assert_eq!(
            parse(SUBSCRIBE, 1, &qos, false),
            Some(Command::Subscription)
        );
        assert_eq!(
            parse(SUBSCRIBE, 1, &options, true),
            Some(Command::Subscription)
        );
        assert_eq!(
            parse(UNSUBSCRIBE, 1, b"\0", true),
            Some(Command::Subscription)
        );
        assert_eq!(parse(UNSUBSCRIBE, 1, b"", false), None);
        for count in [0, 2, -1, i32::MAX] {
            assert_eq!(parse(SUBSCRIBE, count, &qos, false), None, "{count}");
        }
        assert_eq!(parse(SUBSCRIBE, 1, &options, false), None);
        assert_eq!(parse(9, 1, &qos, false), None);
    }

    #[cfg(feature = "cli")]
    #[test]
    fn topics_of_subscription_are_read() {
        let qos = 1_i32.to_ne_bytes();
        let options = [&qos[..], b"MQSO\0\0\0\0\0\0\0\0"].concat();
        let second = [&qos[..], b"b\0", &qos].concat();
        let second_v5 = [&options[..], b"b\0", &options, b"\0"].concat();
        for (kind, after, v5) in [
            (SUBSCRIBE, &second[..], false),
            (SUBSCRIBE, &second_v5, true),
            (UNSUBSCRIBE, b"b\0\0", true),
        ] {
            let value = subscription(kind, 2, after);
            let expected = Subscription {
                subscribes: kind == SUBSCRIBE,
                topics: vec![&b"a/#"[..], b"b"],
            };
            assert_eq!(super::subscription(&value, v5), Some(expected), "{kind}");
        }
        assert_eq!(
            super::subscription(&stored_publish(7, 1, b"x"), false),
            None
        );
    }
}
