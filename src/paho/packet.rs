//! MQTT packets that Paho stores as they go over the network: PUBLISH, in either direction, and PUBREL.

use super::{byte_reader::ByteReader, key::Key, properties};

const PUBLISH: u8 = 3;
const PUBREL: u8 = 6;

/// A PUBLISH at QoS 1 or 2.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) qos: u8,
    pub(crate) packet_id: u16,
    pub(crate) topic: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// Parses a packet; returns `None` if Paho cannot, or would read beyond the end of the value.
    pub(crate) fn parse(value: &'a [u8], v5: bool) -> Option<Self> {
        let (header, mut body) = split_packet(value, PUBLISH)?;
        let qos = (header >> 1) & 3;
        let topic = body.mqtt_string()?;
        let packet_id = body.u16_be()?;
        if v5 {
            properties::skip_properties(&mut body)?;
        }
        let is_allowed = matches!(qos, 1 | 2) && packet_id != 0;
        is_allowed.then(|| Self {
            qos,
            packet_id,
            topic,
            payload: body.remaining(),
        })
    }
}

/// Returns the packet id of a PUBREL.
pub(crate) fn pubrel_packet_id(value: &[u8], v5: bool) -> Option<u16> {
    let (_, mut body) = split_packet(value, PUBREL)?;
    let packet_id = body.u16_be()?;
    // With MQTT 5 a reason code may follow, and then properties.
    if v5 && body.byte().is_some() && !body.is_empty() {
        properties::skip_properties(&mut body)?;
    }
    (packet_id != 0 && body.is_empty()).then_some(packet_id)
}

/// Converts a PUBLISH to the form of the other version.
pub(super) fn convert_publish(value: &[u8], from_v5: bool) -> Option<Vec<u8>> {
    let (header, mut body) = split_packet(value, PUBLISH)?;
    let whole = body.remaining();
    body.mqtt_string()?;
    body.u16_be()?;
    let head = whole.len().checked_sub(body.remaining().len())?;
    let mut properties: &[u8] = b"\0";
    if from_v5 {
        properties::skip_properties(&mut body)?;
        properties = b"";
    }
    let body = [whole.get(..head)?, properties, body.remaining()].concat();
    let length = properties::encode_variable_int(body.len())?;
    Some([&[header], &length[..], &body].concat())
}

/// Converts a PUBREL to the form of the other version.
pub(super) fn convert_pubrel(value: &[u8], from_v5: bool) -> Option<Vec<u8>> {
    const SUCCESS: [u8; 2] = [PUBREL << 4 | 2, 2];
    let packet_id = pubrel_packet_id(value, from_v5)?;
    Some([SUCCESS, packet_id.to_be_bytes()].concat())
}

/// Overwrites the packet id of a PUBLISH or PUBREL; returns `None` if the value is neither.
pub(crate) fn set_packet_id(value: &mut [u8], packet_id: u16) -> Option<()> {
    let length = value.len();
    let (header, mut body) =
        split_packet(value, PUBLISH).or_else(|| split_packet(value, PUBREL))?;
    if header >> 4 == PUBLISH {
        body.mqtt_string()?;
    }
    // The id is the next unread field.
    let offset = length.checked_sub(body.remaining().len())?;
    let id = value.get_mut(offset..offset.checked_add(2)?)?;
    id.copy_from_slice(&packet_id.to_be_bytes());
    Some(())
}

/// Writes the number of the key into the value, after the record got another key.
///
/// Commands and queued messages do not contain their sequence number.
pub(crate) fn set_record_number(key: Key, value: &mut [u8]) {
    if let (false, Ok(id)) = (key.is_queue_record(), u16::try_from(key.number)) {
        // An unreadable value contains no packet id.
        let _ = set_packet_id(value, id);
    }
}

/// Returns the QoS of a packet of which `value` is at least the first byte, if it is a PUBLISH.
pub(crate) fn qos_of_publish(value: &[u8]) -> Option<u8> {
    let header = value.first()?;
    (header >> 4 == PUBLISH).then_some((header >> 1) & 3)
}

/// Splits a packet of this type into its first byte and its body; `None` if the length does not match.
fn split_packet(value: &[u8], kind: u8) -> Option<(u8, ByteReader<'_>)> {
    let mut reader = ByteReader::new(value);
    let header = reader.byte()?;
    let length = reader.variable_int()?;
    (header >> 4 == kind && length == reader.remaining().len()).then_some((header, reader))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_is_parsed() {
        let expected = Publish {
            qos: 1,
            packet_id: 7,
            topic: b"a/b",
            payload: b"21.5",
        };
        assert_eq!(
            Publish::parse(b"\x32\x0b\x00\x03a/b\x00\x0721.5", false),
            Some(expected)
        );
        let v5 = b"\x3d\x0c\x00\x03a/b\x00\x07\x0021.5";
        assert_eq!(Publish::parse(v5, true).expect("a PUBLISH").qos, 2);
        assert_eq!(
            Publish::parse(v5, true).expect("a PUBLISH").payload,
            b"21.5"
        );
    }

    #[test]
    fn packet_other_than_qos_1_or_2_publish_is_rejected() {
        for value in [
            &b""[..],
            b"\x32",
            b"\x32\x00",
            b"\x32\x0c\x00\x03a/b\x00\x0721.5",
            b"\x32\x0a\x00\x03a/b\x00\x0721.5",
            b"\x30\x0b\x00\x03a/b\x00\x0721.5",
            b"\x36\x0b\x00\x03a/b\x00\x0721.5",
            b"\x32\x0b\x00\x03a/b\x00\x0021.5",
            b"\x62\x02\x00\x07",
            b"\x32\x04\xff\xff\x00\x07",
            b"\x32\xff\xff\xff\xff",
        ] {
            assert_eq!(Publish::parse(value, false), None, "{value:?}");
        }
        // MQTT 5 takes the start of the payload for the properties.
        assert_eq!(
            Publish::parse(b"\x32\x0b\x00\x03a/b\x00\x0721.5", true),
            None
        );
    }

    #[test]
    fn new_packet_id_leaves_rest_of_packet_unchanged() {
        let mut publish = b"\x3d\x0c\x00\x03a/b\x00\x07\x0021.5".to_vec();
        set_packet_id(&mut publish, 0xfffe).expect("a PUBLISH");
        assert_eq!(publish, b"\x3d\x0c\x00\x03a/b\xff\xfe\x0021.5");
        let mut pubrel = b"\x62\x03\x00\x07\x92".to_vec();
        set_packet_id(&mut pubrel, 0x0102).expect("a PUBREL");
        assert_eq!(pubrel, b"\x62\x03\x01\x02\x92");
        assert_eq!(set_packet_id(&mut [0x62, 0x01, 0x00], 1), None);
        assert_eq!(set_packet_id(&mut [], 1), None);
    }

    #[test]
    fn pubrel_is_parsed() {
        assert_eq!(pubrel_packet_id(b"\x62\x02\x00\x07", false), Some(7));
        assert_eq!(pubrel_packet_id(b"\x62\x02\x00\x07", true), Some(7));
        assert_eq!(pubrel_packet_id(b"\x62\x03\x00\x07\x92", true), Some(7));
        assert_eq!(pubrel_packet_id(b"\x62\x04\x00\x07\x00\x00", true), Some(7));
        for value in [
            &b""[..],
            b"\x62",
            b"\x62\x02\x00",
            b"\x62\x02\x00\x00",
            b"\x62\x03\x00\x07\x92",
            b"\x32\x02\x00\x07",
        ] {
            assert_eq!(pubrel_packet_id(value, false), None, "{value:?}");
        }
    }
}
