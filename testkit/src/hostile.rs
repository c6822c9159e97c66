//! Hashes with arbitrary content: records as Paho writes them, damaged ones, and entries of others.

use std::collections::HashMap;

use super::{random::Random, record};

/// Expected treatment of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Treatment {
    /// Stays, since Paho can read it.
    Stays,
    /// Stays, since it does not belong to Paho.
    Foreign,
    /// Stays or is quarantined: Paho may be unable to read it.
    Kept,
    /// Stays or is removed: Paho removes a PUBREL without its PUBLISH.
    MayGo,
}

fn foreign_field(random: &mut Random) -> Vec<u8> {
    match random.below(4) {
        0 => random
            .pick(&[
                "",
                "c",
                "s5",
                "c-",
                "-1",
                "c-01",
                "s-0",
                "s-65536",
                "c-1000000",
                "x-1",
                "c-1 ",
                "sc--1",
            ])
            .into(),
        1 => b"c-1\0".to_vec(),
        2 => b"\xff\xfe-1".to_vec(),
        _ => random.bytes(20),
    }
}

fn key(random: &mut Random) -> String {
    let stem = random.pick(&["c", "c5", "s", "s5", "sc", "sc5", "r", "r5", "q", "q5"]);
    let number = match (stem, random.below(4)) {
        ("c" | "c5" | "q" | "q5", 0) => random.pick(&[0, 1, 2, 999_998, 999_999]),
        (_, 1) => random.pick(&[1, 2, 65_535]),
        _ => random.below(65_000) + 1,
    };
    format!("{stem}-{number}")
}

fn damaged(random: &mut Random, mut value: Vec<u8>) -> Vec<u8> {
    match random.below(5) {
        0 => Vec::new(),
        1 => {
            value.truncate(random.below(value.len() + 1));
            value
        }
        2 => {
            for _ in 0..=random.below(3) {
                let position = random.below(value.len());
                value[position] = random.draw().to_le_bytes()[2];
            }
            value
        }
        3 => [value, random.bytes(12)].concat(),
        _ => random.bytes(40),
    }
}

/// Draws the content of a hash and the treatment of each entry; the last value of a field counts.
pub fn contents(random: &mut Random) -> HashMap<Vec<u8>, (Vec<u8>, Treatment)> {
    let mut contents = HashMap::new();
    for _ in 0..=random.below(7) {
        let payload = if random.below(50) == 0 {
            vec![b'x'; 100]
        } else {
            random.bytes(30)
        };
        let entry = match random.below(10) {
            0 => (
                foreign_field(random),
                (random.bytes(30), Treatment::Foreign),
            ),
            1..=4 => {
                let key = key(random);
                let value = record(&key, &payload);
                let value = damaged(random, value);
                (key.into_bytes(), (value, Treatment::Kept))
            }
            _ => {
                let key = key(random);
                let value = record(&key, &payload);
                (key.into_bytes(), (value, Treatment::Stays))
            }
        };
        let (field, (value, treatment)) = entry;
        let treatment = if field.starts_with(b"sc") && treatment != Treatment::Foreign {
            Treatment::MayGo
        } else {
            treatment
        };
        if is_foreign(&field) || treatment != Treatment::Foreign {
            contents.insert(field, (value, treatment));
        }
    }
    contents
}

/// Returns false for random bytes that happen to be a key of Paho.
fn is_foreign(field: &[u8]) -> bool {
    !matches!(str::from_utf8(field), Ok(text) if text.contains('-') && text.starts_with(['c', 's', 'r', 'q']) && text.len() <= 10 && text.ends_with(|c: char| c.is_ascii_digit()) && !["c-01", "s-0", "s-65536", "c-1000000", "sc--1"].contains(&text))
}
