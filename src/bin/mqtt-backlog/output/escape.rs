//! Bytes of others as text that cannot take over a terminal.

use std::fmt::Write;

/// Returns the bytes as one line of printable text.
///
/// Control characters, those that change the direction of text or have no width, and bytes that are not
/// UTF-8 are escaped as in Rust, and so are backslashes, so that the result is unambiguous.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some((before, after)) = rest.split_once('\\') {
            text.push_str(&printable(before));
            text.push_str(r"\\");
            rest = after;
        }
        text.push_str(&printable(rest));
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Returns one line of printable text for text with parts that may have been escaped.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => line.push_str(r"\n"),
            '\r' => line.push_str(r"\r"),
            '\t' => line.push_str(r"\t"),
            _ if is_hidden(character) => {
                let _ = write!(line, "\\u{{{:x}}}", u32::from(character));
            }
            _ => line.push(character),
        }
    }
    line
}

/// Escapes in JSON what could take over a terminal. The value stays the same.
pub(super) fn escape_json(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    for character in json.chars() {
        if is_hidden(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(character);
        }
    }
    line
}

fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_stays() {
        for text in ["", "a/b c", "Zähler/21.5 °C", "日本"] {
            assert_eq!(escape(text.as_bytes()), text);
        }
    }

    #[test]
    fn what_could_change_a_terminal_is_escaped() {
        for (bytes, expected) in [
            (&b"\x1b[2J"[..], r"\u{1b}[2J"),
            (b"a\nb\r\tc\0", r"a\nb\r\tc\u{0}"),
            (b"\x7f\x80", r"\u{7f}\x80"),
            (
                "\u{9b}31m\u{202e}\u{200b}".as_bytes(),
                r"\u{9b}31m\u{202e}\u{200b}",
            ),
            (b"\\x80", r"\\x80"),
            (b"\xff\xfea", r"\xff\xfea"),
        ] {
            assert_eq!(escape(bytes), expected);
        }
    }

    #[test]
    fn escaped_text_is_not_escaped_again() {
        let escaped = escape(b"a\\\x1b");
        assert_eq!(escaped, r"a\\\u{1b}");
        assert_eq!(printable(&escaped), escaped);
        assert_eq!(printable("a\nb\x1b"), r"a\nb\u{1b}");
    }
}
