//! Parses a value front to back; every method returns `None` if the value is too short.

/// The bytes that have not been read yet.
#[derive(Clone, Copy)]
pub(super) struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the unread bytes.
    pub(super) fn remaining(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take_bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// Reads a C `int` in this machine's byte order, as Paho writes it.
    pub(super) fn c_int(&mut self) -> Option<i32> {
        let (int, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i32::from_ne_bytes(*int))
    }

    /// Reads a C string, and returns it without its NUL.
    pub(super) fn c_string(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let string = self.take_bytes(end)?;
        self.byte()?;
        Some(string)
    }

    /// Reads MQTT's two byte integer.
    pub(super) fn u16_be(&mut self) -> Option<u16> {
        let (integer, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*integer))
    }

    /// Reads MQTT's string or binary data, which has its length in front.
    pub(super) fn mqtt_string(&mut self) -> Option<&'a [u8]> {
        let length = self.u16_be()?;
        self.take_bytes(length.into())
    }

    /// Reads MQTT's variable byte integer: up to four groups of 7 bits, lowest first.
    pub(super) fn variable_int(&mut self) -> Option<usize> {
        let mut value = 0_usize;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_int_has_up_to_four_groups() {
        for (bytes, expected) in [
            (&b"\x00"[..], Some(0)),
            (b"\x7f", Some(127)),
            (b"\x80\x01", Some(128)),
            (b"\x81\x80\x01", Some(16_385)),
            (b"\xff\xff\xff\x7f", Some(268_435_455)),
            (b"\xff\xff\xff\xff\x01", None),
            (b"\xff\xff", None),
            (b"", None),
        ] {
            assert_eq!(ByteReader::new(bytes).variable_int(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn each_field_is_taken_once() {
        let int = (-2_i32).to_ne_bytes();
        let bytes = [&int[..], b"ab\0\x01\x02\x00\x01x\x09"].concat();
        let mut reader = ByteReader::new(&bytes);
        assert_eq!(reader.c_int(), Some(-2));
        assert_eq!(reader.c_string(), Some(&b"ab"[..]));
        assert_eq!(reader.u16_be(), Some(0x0102));
        assert_eq!(reader.mqtt_string(), Some(&b"x"[..]));
        assert!(!reader.is_empty());
        assert_eq!(reader.remaining(), b"\x09");
        assert_eq!((reader.byte(), reader.byte()), (Some(9), None));
        assert!(reader.is_empty());
        assert_eq!((reader.c_int(), reader.u16_be()), (None, None));
        assert_eq!((reader.c_string(), reader.mqtt_string()), (None, None));
        // A string without its NUL.
        assert_eq!(ByteReader::new(b"ab").c_string(), None);
        assert_eq!(ByteReader::new(b"\x00\x03ab").mqtt_string(), None);
    }
}
