//! Whether a value may be handed to Paho, which crashes on some that it did not write.

use super::{
    command::Command,
    key::{Key, RecordKind},
    packet,
    packet::Publish,
    queued_message,
};

/// Whether the value is one that Paho writes under that key, and can read back.
pub(crate) fn is_valid_record(key: Key, value: &[u8]) -> bool {
    let has_number = |id: Option<u16>| id.is_some_and(|id| u32::from(id) == key.number);
    let publish = || Publish::parse(value, key.v5);
    match key.kind {
        RecordKind::Command => Command::parse(value, key.v5).is_some(),
        RecordKind::SentPublish => has_number(publish().map(|publish| publish.packet_id)),
        RecordKind::ReceivedPublish => has_number(
            publish()
                .filter(|publish| publish.qos == 2)
                .map(|publish| publish.packet_id),
        ),
        RecordKind::SentPubrel => has_number(packet::pubrel(value, key.v5)),
        RecordKind::Undelivered => queued_message::is_valid_queued_message(value, key.v5),
    }
}

/// A value as Paho writes it under that key, with a payload of `x`.
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

    fn readable(key: &str, value: &[u8]) -> bool {
        is_valid_record(Key::parse(key).expect("a key"), value)
    }

    #[test]
    fn values_written_by_paho_are_read() {
        for key in KEYS {
            assert!(readable(key, &sample_record(key)), "{key}");
        }
    }

    #[test]
    fn empty_cut_or_misnumbered_value_is_unreadable() {
        for key in KEYS {
            let value = sample_record(key);
            for length in 0..value.len() {
                // A PUBLISH without its payload is shorter than its header says, and so is none.
                assert!(!readable(key, &value[..length]), "{key} {length}");
            }
            let number = Key::parse(key).expect("a key").number;
            let another = key.replace(&number.to_string(), "8");
            let is_packet = key.starts_with('s') || key.starts_with('r');
            assert_eq!(readable(&another, &value), !is_packet, "{key}");
        }
    }

    #[test]
    fn record_of_one_kind_is_unreadable_as_other() {
        for key in ["c-7", "s-7", "sc-7", "q-7"] {
            for other in ["c-7", "s-7", "sc-7", "q-7"] {
                assert_eq!(
                    readable(key, &sample_record(other)),
                    key == other,
                    "{key} {other}"
                );
            }
        }
    }
}
