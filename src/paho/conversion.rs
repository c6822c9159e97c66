//! Conversion of records from one MQTT version to the other.

use super::{
    byte_reader::ByteReader,
    command,
    key::{Key, RecordKind},
    packet, properties, queued_message,
    validation::is_valid_record,
};

/// Returns the value that the record of `key` has under [`Key::other_version`].
///
/// A record of MQTT 5 loses its properties, which 3.1.1 does not have. `None` if Paho can read this record in
/// neither version, or has no form for it in the other one: a waiting UNSUBSCRIBE of 3.1.1.
pub(crate) fn convert(key: Key, value: &[u8]) -> Option<Vec<u8>> {
    if !is_valid_record(key, value) {
        return None;
    }
    let converted = match key.kind {
        RecordKind::Command => command::convert(value, key.v5)?,
        RecordKind::SentPublish | RecordKind::ReceivedPublish => {
            packet::convert_publish(value, key.v5)?
        }
        RecordKind::SentPubrel => packet::convert_pubrel(value, key.v5)?,
        RecordKind::Undelivered => {
            let mut reader = ByteReader::new(value);
            queued_message::skip_fields(&mut reader)?;
            properties::convert_tail(value, reader, key.v5)?
        }
    };
    is_valid_record(key.other_version(), &converted).then_some(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    #[track_caller]
    fn assert_converts(name: &str, value: &[u8], expected: &[u8]) {
        let converted = convert(key(name), value);
        assert_eq!(converted.as_deref(), Some(expected), "{name}");
    }

    fn ints<const N: usize>(values: [i32; N]) -> Vec<u8> {
        values.map(i32::to_ne_bytes).concat()
    }

    /// `prefix`, the string and what follows.
    fn command(prefix: &[u8], topic: &[u8], rest: &[u8]) -> Vec<u8> {
        [prefix, topic, b"\0", rest].concat()
    }

    #[test]
    fn each_kind_converts_both_ways() {
        let publish = command(
            &ints([3, 7]),
            b"a/b",
            &[&ints([2])[..], b"xy", &ints([1, 1])].concat(),
        );
        let queued = [
            &ints([2])[..],
            b"xy",
            &ints([2, 0, 1, 7]),
            b"a/b\0",
            &ints([3]),
        ]
        .concat();
        for (name, v3) in [
            ("c", publish),
            ("s", b"\x3a\x09\x00\x03a/b\x00\x07xy".to_vec()),
            ("sc", b"\x62\x02\x00\x07".to_vec()),
            ("r", b"\x34\x09\x00\x03a/b\x00\x07xy".to_vec()),
            ("q", queued),
        ] {
            let v5 = match name {
                "s" => b"\x3a\x0a\x00\x03a/b\x00\x07\x00xy".to_vec(),
                "r" => b"\x34\x0a\x00\x03a/b\x00\x07\x00xy".to_vec(),
                "sc" => v3.clone(),
                _ => [&v3[..], b"\0"].concat(),
            };
            assert_converts(&format!("{name}-7"), &v3, &v5);
            assert_converts(&format!("{name}5-7"), &v5, &v3);
        }
    }

    #[test]
    fn properties_and_reason_codes_are_left_out() {
        let properties = b"\x0c\x26\0\x01k\0\x01v\x02\0\0\0\x3c";
        let fields = command(
            &ints([3, 7]),
            b"t",
            &[&ints([1])[..], b"x", &ints([2, 0])].concat(),
        );
        assert_converts("c5-1", &[&fields[..], properties].concat(), &fields);
        let packet = [b"\x34\x13\0\x01t\0\x07", &properties[..], b"x"].concat();
        assert_converts("s5-7", &packet, b"\x34\x06\0\x01t\0\x07x");
        assert_converts("sc5-7", b"\x62\x03\0\x07\x92", b"\x62\x02\0\x07");
    }

    #[test]
    fn length_of_packet_may_need_one_byte_more() {
        let packet = |length: &[u8], properties: &[u8]| {
            [b"\x32", length, b"\0\x01t\0\x07", properties, &[b'x'; 122]].concat()
        };
        let (v3, v5) = (packet(b"\x7f", b""), packet(b"\x80\x01", b"\0"));
        assert_converts("s-7", &v3, &v5);
        assert_converts("s5-7", &v5, &v3);
    }

    #[test]
    fn subscription_gets_and_loses_its_options() {
        let options = [b"MQSO", &ints([0])[..], &[0; 4]].concat();
        let v3 = [
            &ints([8, 7, 2])[..],
            b"a/#\0",
            &ints([1]),
            b"b\0",
            &ints([2]),
        ]
        .concat();
        let v5 = [
            &ints([8, 7, 2])[..],
            b"a/#\0",
            &ints([1]),
            &options,
            b"b\0",
            &ints([2]),
            &options,
            b"\0",
        ]
        .concat();
        assert_converts("c-1", &v3, &v5);
        assert_converts("c5-1", &v5, &v3);
    }

    #[test]
    fn record_without_form_in_other_version_is_left() {
        let unsubscribe = [&ints([10, 7, 1])[..], b"a/#\0\0"].concat();
        assert_eq!(convert(key("c5-1"), &unsubscribe), None);
        assert_eq!(convert(key("s5-7"), b"\x34\x06\0\x01t\0\x07x"), None);
        assert_eq!(convert(key("s5-8"), b"\x32\x07\0\x01t\0\x07\0x"), None);
        assert_eq!(convert(key("q-1"), b""), None);
    }
}
