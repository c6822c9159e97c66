//! Bytes of others as text that cannot take over a terminal.

use std::fmt::Write;

/// Returns the bytes as one line of printable text.
///
/// Control characters, those that change the direction of text or have no width, and bytes that are not
/// UTF-8 are escaped as in Rust, and so are backslashes, so that the result is unambiguous.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str(r"\\"),
                '\n' => text.push_str(r"\n"),
                '\r' => text.push_str(r"\r"),
                '\t' => text.push_str(r"\t"),
                _ if is_hidden(character) => {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "\\u{{{:x}}}", u32::from(character));
                }
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
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
}
