//! The lines that `export` has written.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use paho_mqtt_redis::{
    Error, ErrorKind,
    backlog::{Key, Place, Record},
};
use serde_json::Value;

use crate::{
    commands::export::RECORDS,
    exit::{Exit, Failure},
};

/// The record of a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Client id and server URI.
    pub client: String,
    pub slot: Slot,
    pub value: Vec<u8>,
}

/// The place of a record, and its name there.
#[derive(Debug, PartialEq, Eq)]
pub enum Slot {
    Record(Key),
    SetAside(Place, String),
}

/// Lines that are read twice: at first to check all of them, and then for their values.
pub struct Lines {
    reader: Box<dyn Source>,
    name: String,
}

trait Source: BufRead + Seek {}
impl<T: BufRead + Seek> Source for T {}

impl Lines {
    /// Opens a file, or reads the standard input.
    pub fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let path = path.filter(|path| *path != Path::new("-"));
        let name = path.map_or("the standard input".to_owned(), |path| {
            path.display().to_string()
        });
        let open = || -> io::Result<Box<dyn Source>> {
            let mut input: Box<dyn Read> = match path {
                Some(path) => {
                    let file = File::open(path)?;
                    if file.metadata()?.is_file() {
                        return Ok(Box::new(BufReader::new(file)));
                    }
                    Box::new(file)
                }
                None => Box::new(io::stdin().lock()),
            };
            // A pipe cannot be read twice.
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes)?;
            Ok(Box::new(Cursor::new(bytes)))
        };
        let reader = open().map_err(|error| {
            Failure::Message(Exit::Unavailable, format!("cannot read {name}: {error}"))
        })?;
        Ok(Self { reader, name })
    }

    /// Passes each line, with its number and its position, to `on_line`; empty ones are skipped.
    pub fn each(
        &mut self,
        mut on_line: impl FnMut(usize, u64, Result<Line, String>),
    ) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        let mut position = 0;
        for number in 1_usize.. {
            bytes.clear();
            let read = self.reader.read_until(b'\n', &mut bytes);
            let length = read.map_err(|error| {
                Failure::Message(
                    Exit::Unavailable,
                    format!("cannot read {}: {error}", self.name),
                )
            })?;
            if length == 0 {
                break;
            }
            if !bytes.trim_ascii().is_empty() {
                on_line(number, position, Line::parse(&bytes));
            }
            position += length as u64;
        }
        Ok(())
    }

    /// Returns the value of the line at a position.
    pub fn value_at(&mut self, position: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.reader.seek(SeekFrom::Start(position));
        let read = read.and_then(|_| self.reader.read_until(b'\n', &mut bytes));
        let error = || Error::new(ErrorKind::File, format!("read {}", self.name));
        read.map_err(|cause| error().with_reason(cause.to_string()))?;
        let line = Line::parse(&bytes);
        let line = line.map_err(|_| error().with_reason("it has changed since it was opened"))?;
        Ok(line.value)
    }
}

impl Line {
    /// Parses a line, and checks that the record can be put into Redis.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let object: Value = serde_json::from_slice(bytes)
            .map_err(|error| format!("is no JSON object that ends with the line: {error}"))?;
        let text = |field: &str| {
            let text = object[field].as_str();
            text.ok_or_else(|| format!("the field \"{field}\" is missing, or is no text"))
        };
        let client = text("client")?;
        if client.is_empty() || client.starts_with(':') {
            return Err("the client id is empty".to_owned());
        }
        let value = STANDARD.decode(text("value")?);
        let value = value.map_err(|error| format!("\"value\" is no base64: {error}"))?;
        let place = text("place")?;
        let slot = if place == RECORDS {
            let name = text("key")?;
            let key = Key::from_name(name).ok_or_else(|| format!("{name} is no key of Paho"))?;
            let record = Record {
                key,
                value,
                time: None,
            };
            if !record.is_valid() {
                return Err(format!("{name} is damaged: Paho could not read it"));
            }
            return Ok(Self {
                client: client.to_owned(),
                slot: Slot::Record(key),
                value: record.value,
            });
        } else {
            let mut places = Place::ALL.iter().copied();
            let found = places.find(|known| known.as_str() == place);
            let found = found.ok_or_else(|| format!("{place} is no place"))?;
            Slot::SetAside(found, text("name")?.to_owned())
        };
        Ok(Self {
            client: client.to_owned(),
            slot,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Line, String> {
        Line::parse(line.as_bytes())
    }

    #[test]
    fn line_of_each_place_is_parsed() {
        let line =
            parse(r#"{"client":"a:b","place":"records","key":"sc-7","value":"YgIABw==","x":1}"#);
        let expected = Line {
            client: "a:b".to_owned(),
            slot: Slot::Record(Key::from_name("sc-7").expect("a key")),
            value: b"\x62\x02\0\x07".to_vec(),
        };
        assert_eq!(line, Ok(expected));
        let line = parse(r#"{"client":"a:b","place":"discarded","name":"n","value":"eA=="}"#);
        let expected = Line {
            client: "a:b".to_owned(),
            slot: Slot::SetAside(Place::Discarded, "n".to_owned()),
            value: b"x".to_vec(),
        };
        assert_eq!(line, Ok(expected));
    }

    #[test]
    fn bad_line_is_explained() {
        for (line, reason) in [
            ("{", "is no JSON object that ends with the line: "),
            ("7", "the field \"client\" is missing, or is no text"),
            (r#"{"client":""}"#, "the client id is empty"),
            (
                r#"{"client":"a:b"}"#,
                "the field \"value\" is missing, or is no text",
            ),
            (
                r#"{"client":"a:b","value":"?"}"#,
                "\"value\" is no base64: ",
            ),
            (
                r#"{"client":"a:b","value":"eA==","place":"attic"}"#,
                "attic is no place",
            ),
            (
                r#"{"client":"a:b","value":"eA==","place":"records","key":"x-1"}"#,
                "x-1 is no key of Paho",
            ),
            (
                r#"{"client":"a:b","value":"eA==","place":"records","key":"c-1"}"#,
                "c-1 is damaged: Paho could not read it",
            ),
            (
                r#"{"client":"a:b","value":"eA==","place":"quarantine"}"#,
                "the field \"name\" is missing, or is no text",
            ),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.starts_with(reason), "{error}");
        }
    }

    #[test]
    fn values_are_read_again() {
        let line = |value: &str| {
            format!(r#"{{"client":"a:b","place":"discarded","name":"n","value":"{value}"}}"#)
        };
        let text = format!("{}\n\n{}", line("eA=="), line("eQ=="));
        let mut lines = Lines {
            reader: Box::new(Cursor::new(text.into_bytes())),
            name: "test".to_owned(),
        };
        let mut found = Vec::new();
        let read = lines.each(|number, position, line| {
            found.push((number, position, line.expect("valid").value));
        });
        assert!(read.is_ok());
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].0, 3);
        for (_, position, value) in found.into_iter().rev() {
            assert_eq!(lines.value_at(position).expect("there"), value);
        }
    }
}
