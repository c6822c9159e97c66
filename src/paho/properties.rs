//! MQTT 5 properties, as Paho stores them.

use super::byte_reader::ByteReader;

/// The value of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PropertyValue<'a> {
    Byte(u8),
    TwoByte(u16),
    FourByte(u32),
    Variable(usize),
    /// A string or binary data.
    Text(&'a [u8]),
    Pair(&'a [u8], &'a [u8]),
}

/// Skips a whole list of properties.
///
/// Paho trusts the length of the list and reads beyond the value if it is wrong.
pub(super) fn skip_properties(reader: &mut ByteReader<'_>) -> Option<()> {
    let length = reader.variable_int()?;
    let mut list = ByteReader::new(reader.take_bytes(length)?);
    while !list.is_empty() {
        read_property(&mut list)?;
    }
    Some(())
}

/// Reads a whole list of properties, each with its identifier.
pub(super) fn read_properties<'a>(
    reader: &mut ByteReader<'a>,
) -> Option<Vec<(u8, PropertyValue<'a>)>> {
    let length = reader.variable_int()?;
    let mut list = ByteReader::new(reader.take_bytes(length)?);
    let mut properties = Vec::new();
    while !list.is_empty() {
        properties.push(read_property(&mut list)?);
    }
    Some(properties)
}

/// Cuts off the properties that `reader` has come to, or appends an empty list.
pub(super) fn convert_tail(value: &[u8], reader: ByteReader<'_>, from_v5: bool) -> Option<Vec<u8>> {
    let fields = value
        .len()
        .checked_sub(reader.remaining().len())
        .and_then(|end| value.get(..end))?;
    let properties: &[u8] = if from_v5 { b"" } else { b"\0" };
    Some([fields, properties].concat())
}

/// Returns the number of bytes from the value of a property to the end, if the list has it.
pub(super) fn bytes_from_property(reader: &mut ByteReader<'_>, wanted: u8) -> Option<usize> {
    let length = reader.variable_int()?;
    let mut list = ByteReader::new(reader.take_bytes(length)?);
    while !list.is_empty() {
        let from_value = list.remaining().len().checked_sub(1)?;
        let (id, _) = read_property(&mut list)?;
        if id == wanted {
            return from_value.checked_add(reader.remaining().len());
        }
    }
    None
}

/// Writes a whole list of properties; `None` if it is longer than MQTT allows.
#[cfg(feature = "cli")]
pub(super) fn encode_properties<'a>(
    properties: impl IntoIterator<Item = &'a (u8, PropertyValue<'a>)>,
) -> Option<Vec<u8>> {
    let mut list = Vec::new();
    for (id, value) in properties {
        list.push(*id);
        match *value {
            PropertyValue::Byte(value) => list.push(value),
            PropertyValue::TwoByte(value) => list.extend(value.to_be_bytes()),
            PropertyValue::FourByte(value) => list.extend(value.to_be_bytes()),
            PropertyValue::Variable(value) => list.extend(encode_variable_int(value)?),
            PropertyValue::Text(value) => list.extend(encode_string(value)?),
            PropertyValue::Pair(name, value) => {
                list.extend(encode_string(name)?);
                list.extend(encode_string(value)?);
            }
        }
    }
    let mut encoded = encode_variable_int(list.len())?;
    encoded.extend(list);
    Some(encoded)
}

#[cfg(feature = "cli")]
fn encode_string(text: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(text.len()).ok()?;
    Some([&length.to_be_bytes()[..], text].concat())
}

/// Writes MQTT's variable byte integer; `None` if the value is too large for it.
pub(super) fn encode_variable_int(mut value: usize) -> Option<Vec<u8>> {
    let mut encoded = Vec::new();
    for _ in 0..4 {
        let group = u8::try_from(value & 0x7f).ok()?;
        value >>= 7;
        if value == 0 {
            encoded.push(group);
            return Some(encoded);
        }
        encoded.push(group | 0x80);
    }
    None
}

/// Reads one property, whose identifier decides its type (MQTT 5, section 2.2.2.2).
fn read_property<'a>(list: &mut ByteReader<'a>) -> Option<(u8, PropertyValue<'a>)> {
    let id = list.byte()?;
    let value = match id {
        1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => PropertyValue::Byte(list.byte()?),
        19 | 33 | 34 | 35 => PropertyValue::TwoByte(list.u16_be()?),
        2 | 17 | 24 | 39 => {
            let bytes = list.take_bytes(4)?;
            PropertyValue::FourByte(u32::from_be_bytes(*bytes.first_chunk()?))
        }
        11 => PropertyValue::Variable(list.variable_int()?),
        3 | 8 | 9 | 18 | 21 | 22 | 26 | 28 | 31 => PropertyValue::Text(list.mqtt_string()?),
        // A user property: name and value.
        38 => PropertyValue::Pair(list.mqtt_string()?, list.mqtt_string()?),
        _ => return None,
    };
    Some((id, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(bytes: &[u8]) -> Option<usize> {
        let mut reader = ByteReader::new(bytes);
        skip_properties(&mut reader)?;
        Some(bytes.len() - reader.remaining().len())
    }

    #[test]
    fn property_list_is_skipped_whole() {
        assert_eq!(skipped(&[0]), Some(1));
        assert_eq!(skipped(b"\x02\x01\x00behind"), Some(3));
        assert_eq!(skipped(b"\x05\x02\x00\x00\x00\x3c"), Some(6));
        assert_eq!(skipped(b"\x07\x26\x00\x01a\x00\x01b"), Some(8));
    }

    #[cfg(feature = "cli")]
    #[test]
    fn encoded_properties_are_read_back() {
        let long = vec![b'x'; 300];
        let properties = vec![
            (1, PropertyValue::Byte(1)),
            (35, PropertyValue::TwoByte(0x1234)),
            (2, PropertyValue::FourByte(0x1234_5678)),
            (11, PropertyValue::Variable(268_435_455)),
            (11, PropertyValue::Variable(127)),
            (11, PropertyValue::Variable(128)),
            (9, PropertyValue::Text(&long)),
            (38, PropertyValue::Pair(b"k", b"")),
        ];
        let encoded = encode_properties(&properties).expect("a list");
        let read = read_properties(&mut ByteReader::new(&encoded));
        assert_eq!(read, Some(properties));
        assert_eq!(encode_properties(&[]), Some(vec![0]));
        let too_long = vec![0; 0x1_0000];
        for value in [
            PropertyValue::Text(&too_long),
            PropertyValue::Variable(268_435_456),
        ] {
            assert_eq!(encode_properties(&[(3, value)]), None);
        }
    }

    #[test]
    fn cut_or_unknown_property_list_is_rejected() {
        for bytes in [
            &b""[..],
            b"\x02\x01",
            b"\x01\x01",
            b"\x01\x63",
            b"\x03\x26\x00\x05",
            b"\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(skipped(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn each_property_is_skipped_by_its_type() {
        let types: [(&[u8], &[u8]); 6] = [
            (&[1, 23, 25, 36, 37, 40, 41, 42], &[0xff]),
            (&[19, 33, 34, 35], &[0xff, 0xff]),
            (&[2, 17, 24, 39], &[0xff, 0xff, 0xff, 0xff]),
            (&[11], &[0xff, 0x7f]),
            (&[3, 8, 9, 18, 21, 22, 26, 28, 31], &[0, 2, 0xff, 0xff]),
            (&[38], &[0, 1, 0xff, 0, 2, 0xff, 0xff]),
        ];
        for id in 0..=u8::MAX {
            let found = types.iter().find(|(ids, _)| ids.contains(&id));
            let value = found.map_or(&[0xff][..], |(_, value)| value);
            let list = [&[id], value].concat();
            let length = u8::try_from(list.len()).expect("short");
            let whole = [&[length], &list[..]].concat();
            let expected = found.map(|_| whole.len());
            assert_eq!(skipped(&whole), expected, "{id}");
            let cut = [&[length - 1], &list[..list.len() - 1]].concat();
            assert_eq!(skipped(&cut), None, "{id}");
        }
    }
}
