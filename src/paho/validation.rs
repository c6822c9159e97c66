//! Validation of stored values: Paho crashes on some values that it did not write.

use super::{
    command::Command,
    key::{Key, RecordKind},
    packet,
    packet::Publish,
    queued_message,
};

/// Returns whether Paho writes such a value under this key, and can read it back.
///
/// Paho reads some values without checking their bounds.
pub(crate) fn is_valid_record(key: Key, value: &[u8]) -> bool {
    let has_number = |id: Option<u16>| id.is_some_and(|id| u32::from(id) == key.number);
    let publish = || Publish::parse(value, key.v5);
    match key.kind {
        RecordKind::Command => Command::parse(value, key.v5).is_some(),
        RecordKind::SentPublish => has_number(publish().map(|publish| publish.packet_id)),
        // Paho stores inbound messages at QoS 2 only.
        RecordKind::ReceivedPublish => has_number(
            publish()
                .filter(|publish| publish.qos == 2)
                .map(|publish| publish.packet_id),
        ),
        RecordKind::SentPubrel => has_number(packet::pubrel_packet_id(value, key.v5)),
        RecordKind::Undelivered => queued_message::is_valid_queued_message(value, key.v5),
    }
}

/// Returns a value as Paho writes it under this key, with the payload `x`.
#[cfg(test)]
pub(crate) fn sample_record(key: &str) -> Vec<u8> {
    let key = Key::parse(key).expect("a key of Paho");
    let properties: &[u8] = if key.v5 { b"\0" } else { b"" };
    let id = u16::try_from(key.number).expect("a packet id").max(1);
    let int = |value: i32| value.to_ne_bytes();
    match key.kind {
        RecordKind::Command => [
            &int(3)[..],
            &int(id.into()),
            b"t\0",
            &int(1),
            b"x",
            &int(1),
            &int(0),
            properties,
        ]
        .concat(),
        RecordKind::SentPublish | RecordKind::ReceivedPublish => {
            let body = [b"\0\x01t", &id.to_be_bytes()[..], properties, b"x"].concat();
            let length = u8::try_from(body.len()).expect("short");
            [&[0x34, length], &body[..]].concat()
        }
        RecordKind::SentPubrel => [b"\x62\x02", &id.to_be_bytes()[..]].concat(),
        RecordKind::Undelivered => {
            let [qos, retained, duplicate, packet_id] = [2, 0, 0, id.into()].map(int);
            let topic = [b"t\0", &int(1)[..]].concat();
            [
                &int(1)[..],
                b"x",
                &qos,
                &retained,
                &duplicate,
                &packet_id,
                &topic,
                properties,
            ]
            .concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 10] = [
        "c-7", "c5-7", "s-7", "s5-7", "sc-7", "sc5-7", "r-7", "r5-7", "q-7", "q5-7",
    ];

    fn is_valid(key: &str, value: &[u8]) -> bool {
        is_valid_record(Key::parse(key).expect("a key"), value)
    }

    #[test]
    fn sample_records_are_valid() {
        for key in KEYS {
            assert!(is_valid(key, &sample_record(key)), "{key}");
        }
    }

    #[test]
    fn truncated_or_misnumbered_record_is_invalid() {
        for key in KEYS {
            let value = sample_record(key);
            for length in 0..value.len() {
                // A PUBLISH without its payload is shorter than the length in its header.
                assert!(!is_valid(key, &value[..length]), "{key} {length}");
            }
            let number = Key::parse(key).expect("a key").number;
            let another = key.replace(&number.to_string(), "8");
            let is_packet = key.starts_with('s') || key.starts_with('r');
            assert_eq!(is_valid(&another, &value), !is_packet, "{key}");
        }
    }

    #[test]
    fn record_is_invalid_under_other_kind() {
        for key in ["c-7", "s-7", "sc-7", "q-7"] {
            for other in ["c-7", "s-7", "sc-7", "q-7"] {
                assert_eq!(
                    is_valid(key, &sample_record(other)),
                    key == other,
                    "{key} {other}"
                );
            }
        }
    }
}
