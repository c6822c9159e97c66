//! Inbound messages that the application has not received yet, as `MQTTPersistence_persistQueueEntry` of Paho C
//! writes them.

use super::{byte_reader::ByteReader, properties};

/// Returns whether Paho can read the value back without leaving its bounds, which Paho does not check.
pub(super) fn is_valid_queued_message(value: &[u8], v5: bool) -> bool {
    parse(value, v5).is_some()
}

fn parse(value: &[u8], v5: bool) -> Option<()> {
    let mut reader = ByteReader::new(value);
    skip_fields(&mut reader)?;
    if v5 {
        properties::skip_properties(&mut reader)?;
    }
    reader.is_empty().then_some(())
}

/// Skips a message up to its properties; returns `None` if Paho cannot have written it.
pub(super) fn skip_fields(reader: &mut ByteReader<'_>) -> Option<()> {
    let payload = usize::try_from(reader.c_int()?).ok()?;
    reader.take_bytes(payload)?;
    let [qos, retained, duplicate, packet_id] = [
        reader.c_int()?,
        reader.c_int()?,
        reader.c_int()?,
        reader.c_int()?,
    ];
    let topic = reader.c_string()?;
    // Paho writes 0 for a topic that is a plain C string.
    let length = usize::try_from(reader.c_int()?).ok()?;
    let is_allowed = (0..=2).contains(&qos)
        && (0..=1).contains(&retained)
        && (0..=1).contains(&duplicate)
        && (0..=0xffff).contains(&packet_id)
        && (length == 0 || length == topic.len());
    is_allowed.then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with payload `x` and topic `ab`, and these fields between and behind them.
    fn message([qos, retained, duplicate, packet_id]: [i32; 4], length: i32) -> Vec<u8> {
        let fields = [1_i32.to_ne_bytes(), [b'x', 0, 0, 0]].concat();
        let numbers = [qos, retained, duplicate, packet_id].map(i32::to_ne_bytes);
        [
            &fields[..5],
            &numbers.concat(),
            b"ab\0",
            &length.to_ne_bytes(),
        ]
        .concat()
    }

    #[test]
    fn fields_beyond_what_paho_writes_are_rejected() {
        for (fields, length, expected) in [
            ([0, 0, 0, 0], 0, true),
            ([2, 1, 1, 0xffff], 2, true),
            ([3, 0, 0, 1], 2, false),
            ([-1, 0, 0, 1], 2, false),
            ([1, 2, 0, 1], 2, false),
            ([1, -1, 0, 1], 2, false),
            ([1, 0, 2, 1], 2, false),
            ([1, 0, -1, 1], 2, false),
            ([1, 0, 0, 0x1_0000], 2, false),
            ([1, 0, 0, -1], 2, false),
            ([1, 0, 0, 1], 1, false),
            ([1, 0, 0, 1], 3, false),
            ([1, 0, 0, 1], -1, false),
        ] {
            let value = message(fields, length);
            assert_eq!(
                is_valid_queued_message(&value, false),
                expected,
                "{fields:?} {length}"
            );
            let longer = [&value[..], b"\0"].concat();
            assert!(!is_valid_queued_message(&longer, false));
            // With MQTT 5 that is an empty list of properties.
            assert_eq!(is_valid_queued_message(&longer, true), expected);
            assert!(!is_valid_queued_message(&value, true));
        }
    }
}
