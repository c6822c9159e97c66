//! The records of a client that are set aside: the quarantine, and what Paho dropped.

use std::{collections::HashSet, time::SystemTime};

use super::{
    owned::{OwnedBacklog, PER_EXCHANGE},
    record::Record,
    restoring::{Plan, Refusal, plan_publish_again, plan_put_back},
    server::Server,
};
use crate::{
    DeadLetter, DropReason,
    cache::list_keys,
    error::Error,
    paho::{Key, KeyName, RecordKind, command_packet_id},
    persistence::sorted_dead_letters,
    store::{Change, Place, QUARANTINE_REASONS, Store},
};

/// Returns the reasons for which a record can be set aside, as [`DeadLetter::reason`] returns them.
pub fn set_aside_reasons() -> impl Iterator<Item = &'static str> {
    let dropped = DropReason::ALL.iter().map(|reason| reason.as_str());
    dropped.chain(QUARANTINE_REASONS)
}

/// The records in a place.
#[derive(Debug, Default)]
pub struct SetAside {
    /// The records, in the order of their messages as far as it is known.
    pub letters: Vec<DeadLetter>,
    /// Number of entries whose names are no text, which nothing is done with.
    pub nameless: usize,
}

impl SetAside {
    /// Reads the records with these names by `read`, some at a time.
    fn read(
        place: Place,
        entries: Vec<Vec<u8>>,
        mut read: impl FnMut(&[&str]) -> Result<Vec<Option<Vec<u8>>>, Error>,
    ) -> Result<Self, Error> {
        let total = entries.len();
        let names = entries
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok());
        let names: Vec<String> = names.collect();
        let nameless = total.saturating_sub(names.len());
        let mut letters = Vec::new();
        for chunk in names.chunks(PER_EXCHANGE) {
            let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
            let found = chunk.iter().zip(read(&chunk)?);
            letters.extend(found.filter_map(|(name, value)| {
                Some(DeadLetter::new(place, (*name).to_owned(), value?))
            }));
        }
        Ok(Self {
            letters: sorted_dead_letters(letters),
            nameless,
        })
    }
}

impl Record {
    /// Returns the record that was set aside; `None` if its name has no key of Paho.
    #[must_use]
    pub fn of_letter(letter: &DeadLetter) -> Option<Self> {
        Some(Self {
            key: Key::parse(letter.key()?)?,
            value: letter.value().to_vec(),
            time: letter.time(),
        })
    }
}

impl Server {
    /// Reads what is set aside for a client.
    ///
    /// # Errors
    ///
    /// Any reason why it cannot be read.
    pub fn set_aside(&mut self, name: &str, place: Place) -> Result<SetAside, Error> {
        let entries = self.reader().keys(name, Some(place))?;
        SetAside::read(place, entries, |names| {
            self.reader().values(name, Some(place), names)
        })
    }
}

impl OwnedBacklog {
    /// Reads what is set aside for the client.
    ///
    /// # Errors
    ///
    /// Any reason why it cannot be read.
    pub fn set_aside(&mut self, place: Place) -> Result<SetAside, Error> {
        let entries = self.live_store()?.set_aside_names(place)?;
        SetAside::read(place, entries, |names| {
            self.live_store()?.read_set_aside(place, names)
        })
    }

    /// Makes these records of the client again, under their own keys if those are free, each message in
    /// one step; passes each with its key, or with the reason why it stays, to `on_letter`.
    ///
    /// # Errors
    ///
    /// Any reason why the records cannot be read or written. A further call puts back the rest.
    pub fn put_back(
        &mut self,
        letters: &[&DeadLetter],
        on_letter: impl FnMut(&DeadLetter, Result<Key, Refusal>),
    ) -> Result<(), Error> {
        let (present, _) = list_keys(self.live_store()?)?;
        let plan = plan_put_back(letters, &present, SystemTime::now());
        self.restore(plan, on_letter)
    }

    /// Makes these messages waiting ones of the client, behind what waits, each in one step; passes each
    /// with its new key, or with the reason why it stays, to `on_letter`.
    ///
    /// # Errors
    ///
    /// Any reason why the records cannot be read or written. A further call publishes the rest.
    pub fn publish_again(
        &mut self,
        letters: &[&DeadLetter],
        on_letter: impl FnMut(&DeadLetter, Result<Key, Refusal>),
    ) -> Result<(), Error> {
        let (present, _) = list_keys(self.live_store()?)?;
        let waiting_ids = self.waiting_packet_ids(&present)?;
        let plan = plan_publish_again(letters, &present, &waiting_ids, SystemTime::now());
        self.restore(plan, on_letter)
    }

    /// Removes these records for good.
    ///
    /// # Errors
    ///
    /// Any reason why they cannot be removed.
    pub fn delete(&mut self, letters: &[&DeadLetter]) -> Result<(), Error> {
        for chunk in letters.chunks(PER_EXCHANGE) {
            let removes = chunk.iter().map(|letter| remove(letter));
            let removes: Vec<Change<'_>> = removes.collect();
            self.apply(&[&removes])?;
        }
        Ok(())
    }

    fn waiting_packet_ids(&mut self, present: &[Key]) -> Result<HashSet<u16>, Error> {
        let commands = present.iter().filter(|key| key.kind == RecordKind::Command);
        let commands: Vec<Key> = commands.copied().collect();
        let mut ids = HashSet::new();
        for chunk in commands.chunks(PER_EXCHANGE) {
            let mut commands = chunk.iter();
            self.read_values(chunk, |value| {
                if let (Some(key), Some(value)) = (commands.next(), value) {
                    ids.extend(command_packet_id(&value, key.v5));
                }
            })?;
        }
        Ok(ids)
    }

    fn restore(
        &mut self,
        plan: Plan<'_>,
        mut on_letter: impl FnMut(&DeadLetter, Result<Key, Refusal>),
    ) -> Result<(), Error> {
        for step in plan.messages.chunks(PER_EXCHANGE) {
            let names = step
                .iter()
                .flatten()
                .map(|restored| (restored.key.to_name(), restored));
            let names: Vec<(KeyName, _)> = names.collect();
            let mut names = names.iter();
            let groups = step.iter().map(|message| {
                let changes = names.by_ref().take(message.len());
                let changes = changes.flat_map(|(name, restored)| {
                    let put = Change::Put {
                        key: name,
                        value: &restored.value,
                    };
                    [put, remove(restored.letter)]
                });
                changes.collect::<Vec<Change<'_>>>()
            });
            let groups: Vec<Vec<Change<'_>>> = groups.collect();
            let groups: Vec<&[Change<'_>]> = groups.iter().map(Vec::as_slice).collect();
            self.apply(&groups)?;
            for restored in step.iter().flatten() {
                on_letter(restored.letter, Ok(restored.key));
            }
        }
        for (letter, refusal) in plan.refused {
            on_letter(letter, Err(refusal));
        }
        Ok(())
    }
}

fn remove(letter: &DeadLetter) -> Change<'_> {
    Change::RemoveSetAside {
        place: letter.place(),
        name: letter.name(),
    }
}
