//! The properties of MQTT 5, as far as it takes to know that Paho can read them back.

use super::byte_reader::ByteReader;

/// Takes a whole list of properties; Paho reads beyond its end where its length is wrong.
pub(super) fn take(reader: &mut ByteReader<'_>) -> Option<()> {
    let length = reader.variable()?;
    let mut list = ByteReader::new(reader.take(length)?);
    while !list.is_empty() {
        property(&mut list)?;
    }
    Some(())
}

/// By its identifier, MQTT 5, section 2.2.2.2.
fn property(list: &mut ByteReader<'_>) -> Option<()> {
    match list.byte()? {
        1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => list.byte().map(drop),
        19 | 33 | 34 | 35 => list.two_bytes().map(drop),
        2 | 17 | 24 | 39 => list.take(4).map(drop),
        11 => list.variable().map(drop),
        3 | 8 | 9 | 18 | 21 | 22 | 26 | 28 | 31 => list.string().map(drop),
        38 => {
            list.string()?;
            list.string().map(drop)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: &[u8]) -> Option<usize> {
        let mut reader = ByteReader::new(bytes);
        take(&mut reader)?;
        Some(bytes.len() - reader.rest().len())
    }

    #[test]
    fn property_list_is_taken_whole() {
        assert_eq!(taken(&[0]), Some(1));
        assert_eq!(taken(b"\x02\x01\x00behind"), Some(3));
        assert_eq!(taken(b"\x05\x02\x00\x00\x00\x3c"), Some(6));
        assert_eq!(taken(b"\x07\x26\x00\x01a\x00\x01b"), Some(8));
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
            assert_eq!(taken(bytes), None, "{bytes:?}");
        }
    }
}
