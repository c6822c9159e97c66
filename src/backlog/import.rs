//! Puts records that were exported into Redis.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    migrate::MoveEvent,
    order::{Message, messages_in_order},
    owned::OwnedBacklog,
};
use crate::{
    cache::{hash_of, list_keys, plan_moves},
    error::Error,
    paho::{Key, KeyName, set_record_number},
    store::{Change, Group, Place, Store},
};

/// Number of messages that are read and put together.
const CHUNK: usize = 32;

/// Reads the values of these keys from what was exported.
type ReadValues<'a> = &'a mut dyn FnMut(&[Key]) -> Result<Vec<Vec<u8>>, Error>;

impl OwnedBacklog {
    /// Puts records, whose values `read` returns and Paho can read, each message in one transaction and the
    /// newest first.
    ///
    /// A record gets its own key if that is free. If another message has it, the message stays, or with
    /// `is_renumbering` all get numbers before those of the messages that are here.
    ///
    /// Returns the names of the notes by which a further call with the same records knows those that it
    /// renumbered, for [`Server::forget_import`](super::Server::forget_import).
    ///
    /// # Errors
    ///
    /// Any reason why the records cannot be read or written. A further call with the same records puts the
    /// rest.
    pub fn import(
        &mut self,
        keys: &[Key],
        is_renumbering: bool,
        read: ReadValues<'_>,
        mut on_event: impl FnMut(MoveEvent<'_>),
    ) -> Result<Vec<String>, Error> {
        let (present, _) = list_keys(self.live_store()?)?;
        let mut compared: HashSet<Key> = present.iter().copied().collect();
        let mut messages = messages_in_order(keys.iter().copied());
        messages.reverse();
        let mut notes = None;
        let mut there = 0_usize;
        if is_renumbering {
            let mut found = self.notes_of(&messages, read)?;
            self.forget_missing(&mut found, &compared, read)?;
            // They are of other exported records than those with these keys.
            for key in found.put.values() {
                compared.remove(key);
            }
            let (put, rest): (Vec<Message>, Vec<Message>) = messages
                .into_iter()
                .partition(|message| message.iter().all(|key| found.put.contains_key(key)));
            there = put.iter().map(Vec::len).sum();
            messages = rest;
            notes = Some(found);
        }
        let mut free: Vec<Message> = Vec::new();
        let mut taken: Vec<Message> = Vec::new();
        for chunk in messages.chunks(CHUNK) {
            for (message, state) in chunk.iter().zip(self.states(chunk, &compared, read)?) {
                match state {
                    State::Free => free.push(message.clone()),
                    State::Present => there = there.saturating_add(message.len()),
                    State::Taken => taken.push(message.clone()),
                }
            }
        }
        if there > 0 {
            on_event(MoveEvent::Present(there));
        }
        let moves: Vec<Vec<(Key, Key)>> = if is_renumbering {
            let keys: Vec<Key> = free.iter().chain(&taken).flatten().copied().collect();
            plan_moves(&keys, &present)
        } else {
            let own = |message: &Message| message.iter().map(|key| (*key, *key)).collect();
            free.iter().map(own).collect()
        };
        on_event(MoveEvent::Found(moves.iter().map(Vec::len).sum()));
        let planned: HashSet<Key> = moves.iter().flatten().map(|(from, _)| *from).collect();
        for key in taken.iter().flatten().filter(|key| !planned.contains(key)) {
            let reason = if key.is_queue_record() && !is_renumbering {
                "is left out: another message has this key; with --renumber it gets another one"
            } else {
                "is left out: another message has this packet id"
            };
            on_event(MoveEvent::Stays(&key.to_name(), reason));
        }
        for chunk in moves.chunks(CHUNK) {
            on_event(MoveEvent::Moved(self.put(chunk, read, notes.as_mut())?));
        }
        Ok(notes.map(|notes| notes.sources).unwrap_or_default())
    }

    /// Reads the notes of an import of the same records that has not come to its end.
    fn notes_of(&mut self, messages: &[Message], read: ReadValues<'_>) -> Result<Notes, Error> {
        let mut notes = Notes::default();
        for chunk in messages.chunks(CHUNK) {
            let keys: Vec<Key> = chunk.iter().flatten().copied().collect();
            for (key, value) in keys.iter().zip(read(&keys)?) {
                notes.input = notes.input.wrapping_add(hash_of(*key, &value));
            }
            self.keep_alive()?;
        }
        loop {
            let source = notes.next_source();
            let Some(note) = self.live_store()?.arrivals(&source)? else {
                return Ok(notes);
            };
            let lines = String::from_utf8_lossy(&note);
            notes.put.extend(lines.lines().filter_map(parse_move));
            notes.sources.push(source);
        }
    }

    /// Drops the records that are not under their new keys any more: they were sent, or purged.
    fn forget_missing(
        &mut self,
        notes: &mut Notes,
        present: &HashSet<Key>,
        read: ReadValues<'_>,
    ) -> Result<(), Error> {
        let put = notes.put.drain().filter(|(_, to)| present.contains(to));
        let put: Vec<(Key, Key)> = put.collect();
        for chunk in put.chunks(CHUNK) {
            let (from, to): (Vec<Key>, Vec<Key>) = chunk.iter().copied().unzip();
            let mut here = Vec::with_capacity(to.len());
            self.read_values(&to, |value| here.push(value))?;
            let exported = read(&from)?;
            for ((from, to), (here, mut value)) in chunk.iter().zip(here.into_iter().zip(exported))
            {
                set_record_number(*to, &mut value);
                if here == Some(value) {
                    notes.put.insert(*from, *to);
                }
            }
        }
        Ok(())
    }

    /// Finds out which of these messages can have their own keys.
    fn states(
        &mut self,
        messages: &[Message],
        present: &HashSet<Key>,
        read: ReadValues<'_>,
    ) -> Result<Vec<State>, Error> {
        let in_both = messages.iter().flatten();
        let in_both: Vec<Key> = in_both
            .copied()
            .filter(|key| present.contains(key))
            .collect();
        let mut here = Vec::with_capacity(in_both.len());
        self.read_values(&in_both, |value| here.push(value))?;
        let exported = read(&in_both)?;
        let same = in_both.iter().zip(here.iter().zip(&exported));
        let same = same.filter(|(_, (here, exported))| here.as_ref() == Some(exported));
        let same: HashSet<Key> = same.map(|(key, _)| *key).collect();
        let states = messages.iter().map(|message| {
            let keys = message.iter().flat_map(|key| key.message_keys());
            let mut related = keys.filter(|key| present.contains(key)).peekable();
            if related.peek().is_none() {
                State::Free
            } else if related.all(|key| same.contains(&key)) {
                if message.iter().all(|key| same.contains(key)) {
                    State::Present
                } else {
                    State::Free
                }
            } else {
                State::Taken
            }
        });
        Ok(states.collect())
    }

    /// Puts messages under their new keys, and notes that; returns the number of records.
    fn put(
        &mut self,
        messages: &[Vec<(Key, Key)>],
        read: ReadValues<'_>,
        notes: Option<&mut Notes>,
    ) -> Result<usize, Error> {
        let moves = messages.iter().flatten();
        let keys: Vec<Key> = moves.clone().map(|(from, _)| *from).collect();
        let mut values = read(&keys)?.into_iter();
        let records = messages.iter().map(|message| {
            let records = message.iter().zip(values.by_ref());
            let records = records.map(|((_, to), mut value)| {
                set_record_number(*to, &mut value);
                (to.to_name(), value)
            });
            records.collect::<Vec<(KeyName, Vec<u8>)>>()
        });
        let records: Vec<_> = records.collect();
        if let Some(notes) = notes {
            let source = notes.next_source();
            let note: Vec<String> = moves.map(|(from, to)| format!("{from} {to}")).collect();
            let records = records.iter().flatten();
            let records: Vec<(&str, &[u8])> =
                records.map(|(key, value)| (&**key, &**value)).collect();
            self.live_store()?
                .put_arrivals(&records, &source, note.join("\n").as_bytes())?;
            notes.sources.push(source);
            return Ok(keys.len());
        }
        let groups = records.iter().map(|message| {
            let puts = message
                .iter()
                .map(|(key, value)| Change::Put { key, value });
            puts.collect::<Vec<Change<'_>>>()
        });
        let groups: Vec<Vec<Change<'_>>> = groups.collect();
        let groups: Vec<Group<'_>> = groups.iter().map(Vec::as_slice).collect();
        self.apply(&groups)?;
        Ok(keys.len())
    }

    /// Puts records into a place under their names; returns the number of those that were not there.
    ///
    /// # Errors
    ///
    /// Any reason why they cannot be listed or written.
    pub fn import_set_aside(
        &mut self,
        place: Place,
        records: &BTreeMap<String, Vec<u8>>,
    ) -> Result<usize, Error> {
        let present = self.live_store()?.set_aside_names(place)?;
        let present: HashSet<Vec<u8>> = present.into_iter().collect();
        let new = records
            .iter()
            .filter(|(name, _)| !present.contains(name.as_bytes()));
        let changes = new.map(|(name, value)| Change::SetAside { place, name, value });
        let changes: Vec<Change<'_>> = changes.collect();
        for chunk in changes.chunks(CHUNK) {
            self.apply(&[chunk])?;
        }
        Ok(changes.len())
    }
}

/// Reads a line of a note.
fn parse_move(line: &str) -> Option<(Key, Key)> {
    let (from, to) = line.split_once(' ')?;
    Some((Key::parse(from)?, Key::parse(to)?))
}

/// Exported keys that an unfinished import has put.
#[derive(Default)]
struct Notes {
    /// Identifies the records that are imported, whatever their order.
    input: u64,
    /// The name of each note; there is one per transaction.
    sources: Vec<String>,
    /// The exported keys of what is put, with the keys that they got.
    put: HashMap<Key, Key>,
}

impl Notes {
    fn next_source(&self) -> String {
        format!("import:{:016x}:{}", self.input, self.sources.len())
    }
}

/// The relation of a message to those that are here.
enum State {
    Free,
    /// It is here, with the same bytes.
    Present,
    /// Another message has one of its keys, or its packet id.
    Taken,
}
