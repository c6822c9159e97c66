//! What a stored command says of itself, as `MQTTAsync_persistCommand` of Paho C writes it.

use super::{byte_reader::ByteReader, properties};

// MQTT's types of packets, with which Paho marks its commands.
const PUBLISH: i32 = 3;
const SUBSCRIBE: i32 = 8;
const UNSUBSCRIBE: i32 = 10;

/// The size of a `MQTTSubscribe_options`: four characters, an `int`, and three characters and a
/// gap.
const SUBSCRIBE_OPTIONS: usize = 12;

/// A command that waits to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Its packet id, at QoS 1 and 2.
    Publish(Option<u32>),
    /// A SUBSCRIBE or UNSUBSCRIBE.
    Other,
}

impl Command {
    /// Reads one; nothing where Paho could not, or would read beyond its end.
    pub(crate) fn parse(value: &[u8], v5: bool) -> Option<Self> {
        let mut reader = ByteReader::new(value);
        let kind = reader.int()?;
        let token = reader.int()?;
        let command = match kind {
            PUBLISH => publish(&mut reader, token)?,
            SUBSCRIBE => {
                for _ in 0..topics(&mut reader)? {
                    reader.c_string()?;
                    (0..=2).contains(&reader.int()?).then_some(())?;
                    if v5 {
                        reader.take(SUBSCRIBE_OPTIONS)?;
                    }
                }
                Self::Other
            }
            // Paho 1.3.16 takes the NUL at the end of the last topic for none where nothing
            // follows, as with MQTT 3.1.1, and never gets rid of such a record.
            UNSUBSCRIBE if v5 => {
                for _ in 0..topics(&mut reader)? {
                    reader.c_string()?;
                }
                Self::Other
            }
            _ => return None,
        };
        if v5 {
            properties::take(&mut reader)?;
        }
        reader.is_empty().then_some(command)
    }

    /// What it will be sent under, where it is a PUBLISH that is acknowledged.
    pub(crate) fn packet_id(self) -> Option<u32> {
        match self {
            Self::Publish(packet_id) => packet_id,
            Self::Other => None,
        }
    }
}

fn publish(reader: &mut ByteReader<'_>, token: i32) -> Option<Command> {
    reader.c_string()?;
    let payload = usize::try_from(reader.int()?).ok()?;
    reader.take(payload)?;
    let qos = reader.int()?;
    let retained = reader.int()?;
    if !((0..=2).contains(&qos) && (0..=1).contains(&retained)) {
        return None;
    }
    if qos == 0 {
        return Some(Command::Publish(None));
    }
    let packet_id = u16::try_from(token).ok().filter(|id| *id != 0)?;
    Some(Command::Publish(Some(packet_id.into())))
}

/// How many topics follow; Paho takes memory for as many before it has seen one.
fn topics(reader: &mut ByteReader<'_>) -> Option<usize> {
    let count = usize::try_from(reader.int()?).ok()?;
    (1..=reader.rest().len()).contains(&count).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A publish command as Paho C 1.3.16 writes it for MQTT 3.1.1.
    fn stored(token: i32, qos: i32, payload: &[u8]) -> Vec<u8> {
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
    fn only_acknowledged_publish_has_packet_id() {
        let read = |token, qos| Command::parse(&stored(token, qos, b"payload"), false);
        assert_eq!(read(7, 1), Some(Command::Publish(Some(7))));
        assert_eq!(read(65_535, 2), Some(Command::Publish(Some(65_535))));
        assert_eq!(read(7, 0), Some(Command::Publish(None)));
        for (token, qos) in [(0, 1), (65_536, 1), (-1, 2), (7, 3), (7, -1)] {
            assert_eq!(read(token, qos), None, "{token} {qos}");
        }
    }

    #[test]
    fn cut_or_overlong_command_is_rejected() {
        let whole = stored(7, 1, b"payload");
        for length in 0..whole.len() {
            assert_eq!(Command::parse(&whole[..length], false), None, "{length}");
        }
        assert_eq!(Command::parse(&[&whole[..], b"x"].concat(), false), None);
        // Without its properties it is none of MQTT 5.
        assert_eq!(Command::parse(&whole, true), None);
        assert!(Command::parse(&[&whole[..], b"\0"].concat(), true).is_some());
        let mut wrong = whole.clone();
        wrong[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(Command::parse(&wrong, false), None);
    }

    /// A SUBSCRIBE or UNSUBSCRIBE of one topic.
    fn subscription(kind: i32, count: i32, behind_topic: &[u8]) -> Vec<u8> {
        [
            &kind.to_ne_bytes()[..],
            &7_i32.to_ne_bytes(),
            &count.to_ne_bytes(),
            b"a/#\0",
            behind_topic,
        ]
        .concat()
    }

    #[test]
    fn subscriptions_of_each_version_are_read() {
        let qos = 1_i32.to_ne_bytes();
        let options = [&qos[..], b"MQSO\0\0\0\0\0\0\0\0", b"\0"].concat();
        let read =
            |kind, count, behind: &[u8], v5| Command::parse(&subscription(kind, count, behind), v5);
        assert_eq!(read(SUBSCRIBE, 1, &qos, false), Some(Command::Other));
        assert_eq!(read(SUBSCRIBE, 1, &options, true), Some(Command::Other));
        assert_eq!(read(UNSUBSCRIBE, 1, b"\0", true), Some(Command::Other));
        assert_eq!(read(UNSUBSCRIBE, 1, b"", false), None);
        for count in [0, 2, -1, i32::MAX] {
            assert_eq!(read(SUBSCRIBE, count, &qos, false), None, "{count}");
        }
        assert_eq!(read(SUBSCRIBE, 1, &options, false), None);
        assert_eq!(read(9, 1, &qos, false), None);
    }
}
