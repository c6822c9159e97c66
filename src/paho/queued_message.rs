//! An inbound message that was not handed to the program, as `MQTTPersistence_persistQueueEntry` of Paho C writes it.

use super::{byte_reader::ByteReader, properties};

/// Whether Paho can read the value back, which it does without looking where it ends.
pub(super) fn is_valid_queued_message(value: &[u8], v5: bool) -> bool {
    read(value, v5).is_some()
}

fn read(value: &[u8], v5: bool) -> Option<()> {
    let mut reader = ByteReader::new(value);
    let payload = usize::try_from(reader.int()?).ok()?;
    reader.take(payload)?;
    let [qos, retained, duplicate, packet_id] =
        [reader.int()?, reader.int()?, reader.int()?, reader.int()?];
    let topic = reader.c_string()?;
    // Paho writes the length that the program knows it by, and none for a plain C string.
    let length = usize::try_from(reader.int()?).ok()?;
    if v5 {
        properties::take(&mut reader)?;
    }
    let allowed = (0..=2).contains(&qos)
        && (0..=1).contains(&retained)
        && (0..=1).contains(&duplicate)
        && (0..=0xffff).contains(&packet_id)
        && (length == 0 || length == topic.len());
    (allowed && reader.is_empty()).then_some(())
}
