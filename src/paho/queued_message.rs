//! Inbound messages that the application has not received yet, as `MQTTPersistence_persistQueueEntry` of Paho C
//! writes them.

use super::{byte_reader::ByteReader, properties};

/// Returns whether Paho can read the value back without leaving its bounds, which Paho does not check.
pub(super) fn is_valid_queued_message(value: &[u8], v5: bool) -> bool {
    parse(value, v5).is_some()
}

fn parse(value: &[u8], v5: bool) -> Option<()> {
    let mut reader = ByteReader::new(value);
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
    if v5 {
        properties::skip_properties(&mut reader)?;
    }
    let is_allowed = (0..=2).contains(&qos)
        && (0..=1).contains(&retained)
        && (0..=1).contains(&duplicate)
        && (0..=0xffff).contains(&packet_id)
        && (length == 0 || length == topic.len());
    (is_allowed && reader.is_empty()).then_some(())
}
