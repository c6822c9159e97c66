//! Moves the records of a client between Paho's file persistence and Redis.
//!
//! The two share no transaction, so a record is removed from one only after the other has confirmed it. Both
//! ways the newest message moves first: whenever this ends, the messages in both places are in order, and
//! what a program adds to the target meanwhile comes after them.

use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use super::{
    client_files::{ClientFiles, Stamp, Written},
    owned::{OwnedBacklog, PER_EXCHANGE},
    unwrap::plan_unwrapped,
};
use crate::{
    cache::{list_keys, plan_moves, read_or_split},
    error::{Error, ErrorKind},
    paho::{
        Key, KeyName, RecordKind, is_same_but_for_expiry, is_valid_record, set_expiry_time,
        set_record_number, set_remaining_interval, with_key_names,
    },
    store::{Change, Group, Store},
};

/// Progress of a move.
#[derive(Debug)]
pub enum MoveEvent<'a> {
    /// This many records are going to move.
    Found(usize),
    /// This many more have moved.
    Moved(usize),
    /// This many are in the target already.
    Present(usize),
    /// One stays, for this reason.
    Stays(&'a str, &'a str),
}

/// Number of messages per transaction, and of files that are synced together.
const BATCH_MESSAGES: usize = 1024;
/// Bytes after which a batch of messages has no more.
const BATCH_BYTES: usize = 2 * 1024 * 1024;

const UNREADABLE: &str = "is damaged: Paho could not read it";
const FOREIGN: &str = "is nothing that Paho writes";

/// A record that is about to move from a file.
struct FileMove {
    from: Key,
    to: KeyName,
    value: Vec<u8>,
    stamp: Stamp,
}

/// The note in Redis about a move between the records and these files that has not ended.
#[derive(Debug, Default, PartialEq, Eq)]
struct Note {
    /// Some files have come from Redis, so their messages belong among the records by their keys.
    is_to_files: bool,
    /// Files whose messages are in Redis, or were there until they were sent or purged.
    copies: HashMap<Key, Written>,
}

/// Moves the records in these files to Redis.
///
/// # Errors
///
/// Any reason why the files or the records cannot be used. The records that have moved by then stay there;
/// calling it again moves the rest.
pub fn move_from_files(
    owned: &mut OwnedBacklog,
    files: &ClientFiles,
    mut on_event: impl FnMut(MoveEvent<'_>),
) -> Result<(), Error> {
    let source = files.identity();
    let Note {
        is_to_files,
        copies,
    } = read_note(owned, &source)?;
    let mut keys = remove_copies(files, &copies)?;
    let (present, _) = list_keys(owned.live_store()?)?;
    let plan = if is_to_files {
        plan_return(&keys, &present)
    } else {
        plan_moves(&keys, &present)
    };
    on_event(MoveEvent::Found(plan.iter().map(Vec::len).sum()));
    let planned: HashSet<Key> = plan.iter().flatten().map(|(from, _)| *from).collect();
    for key in keys.iter().filter(|key| !planned.contains(key)) {
        on_event(MoveEvent::Stays(
            &files.path(*key).display().to_string(),
            "stays, since Redis has a message with this packet id",
        ));
    }

    let mut batch: Vec<FileMove> = Vec::new();
    let mut bytes = 0_usize;
    for (index, message) in plan.iter().enumerate() {
        if let Some(message) = read_message(files, message, &mut on_event) {
            let lengths = message.iter().map(|record| record.value.len());
            bytes = lengths.fold(bytes, usize::saturating_add);
            batch.extend(message);
        }
        let is_last = index.saturating_add(1) == plan.len();
        if is_last || bytes >= BATCH_BYTES || batch.len() >= BATCH_MESSAGES {
            let note = Note {
                is_to_files,
                copies: batch
                    .iter()
                    .map(|record| (record.from, record.stamp.written))
                    .collect(),
            };
            move_batch(owned, files, (&source, &note), &batch, &mut on_event)?;
            batch.clear();
            bytes = 0;
        }
    }

    // What has been written since then is the work of a program.
    keys.sort_unstable();
    let listing = files.list()?;
    let is_new = |key: &&Key| keys.binary_search(key).is_err();
    for key in listing.keys.iter().filter(is_new) {
        on_event(MoveEvent::Stays(
            &files.path(*key).display().to_string(),
            "was written during the move: end the program that uses this directory, and move it, too",
        ));
    }
    for name in &listing.foreign {
        let path = files.directory().join(name);
        on_event(MoveEvent::Stays(&path.display().to_string(), FOREIGN));
    }
    owned.live_store()?.forget_arrivals(&[&source])?;
    files.remove_if_empty();
    Ok(())
}

/// Removes the files whose messages are in Redis according to a note; returns the keys of the others.
///
/// A file that was written or restored since then is another message, even with the same bytes. The file is
/// not read: one that cannot be read any more has moved, too.
fn remove_copies(files: &ClientFiles, copies: &HashMap<Key, Written>) -> Result<Vec<Key>, Error> {
    let mut keys = files.list()?.keys;
    let mut found = Vec::new();
    for key in &keys {
        if let Some(written) = copies.get(key)
            && let Some(stamp) = files.stamp(*key)?
            && stamp.written == *written
        {
            found.push((*key, stamp));
        }
    }
    if found.is_empty() {
        return Ok(keys);
    }
    let changed = files.remove(&found)?;
    let removed = found.iter().map(|(key, _)| *key);
    let removed: HashSet<Key> = removed.filter(|key| !changed.contains(key)).collect();
    files.sync()?;
    keys.retain(|key| !removed.contains(key));
    Ok(keys)
}

/// Plans the way back after a move to the files has not ended.
///
/// The files have the newer messages, under the keys that they had in Redis. The oldest one moves first, so
/// that both parts are in order at each moment. If a program has taken such a key in Redis since then, the
/// order can no longer be seen, and they are planned like all other files.
fn plan_return(keys: &[Key], present: &[Key]) -> Vec<Vec<(Key, Key)>> {
    let used: HashSet<Key> = present.iter().copied().collect();
    let is_free = |key: &Key| !key.message_keys().any(|key| used.contains(&key));
    if !keys.iter().all(is_free) {
        return plan_moves(keys, present);
    }
    let mut plan = plan_moves(keys, &[]);
    plan.reverse();
    plan
}

/// Reads the records of a message; `None` if it stays, or is gone.
fn read_message(
    files: &ClientFiles,
    message: &[(Key, Key)],
    on_event: &mut impl FnMut(MoveEvent<'_>),
) -> Option<Vec<FileMove>> {
    let mut records = Vec::with_capacity(message.len());
    let mut is_whole = true;
    for (from, to) in message {
        let (record, damage) = match files.read(*from) {
            Ok(None) => continue,
            Ok(Some(record)) if record.value.is_empty() => (None, "is empty".into()),
            Ok(Some(record)) if !is_valid_record(*from, &record.value) => (None, UNREADABLE.into()),
            Ok(record) => (record, String::new()),
            Err(error) => (None, format!("cannot be read: {}", error.reason())),
        };
        let Some(record) = record else {
            let path = files.path(*from).display().to_string();
            on_event(MoveEvent::Stays(&path, &damage));
            is_whole = false;
            continue;
        };
        let mut value = record.value;
        set_record_number(*to, &mut value);
        set_expiry_time(*to, &mut value, || record.time);
        records.push(FileMove {
            from: *from,
            to: to.to_name(),
            value,
            stamp: record.stamp,
        });
    }
    if !is_whole {
        for record in &records {
            on_event(MoveEvent::Stays(
                &files.path(record.from).display().to_string(),
                "stays with the other file of its message, which is damaged",
            ));
        }
        return None;
    }
    Some(records)
}

/// Writes records to Redis, and then removes their files.
fn move_batch(
    owned: &mut OwnedBacklog,
    files: &ClientFiles,
    (source, note): (&str, &Note),
    batch: &[FileMove],
    on_event: &mut impl FnMut(MoveEvent<'_>),
) -> Result<(), Error> {
    if batch.is_empty() {
        return owned.keep_alive();
    }
    let records = batch.iter().map(|record| (&*record.to, &*record.value));
    let records: Vec<(&str, &[u8])> = records.collect();
    let note = note.to_text();
    owned
        .live_store()?
        .put_arrivals(&records, source, note.as_bytes())?;
    let arrived = batch.iter().map(|record| (record.from, record.stamp));
    let arrived: Vec<(Key, Stamp)> = arrived.collect();
    for key in files.remove(&arrived)? {
        on_event(MoveEvent::Stays(
            &files.path(key).display().to_string(),
            "was written again during the move: end the program that uses this directory, and move it, too",
        ));
    }
    // Before the next batch, whose note replaces this one.
    files.sync()?;
    on_event(MoveEvent::Moved(batch.len()));
    Ok(())
}

fn read_note(owned: &mut OwnedBacklog, source: &str) -> Result<Note, Error> {
    let note = owned.live_store()?.arrivals(source)?.unwrap_or_default();
    Ok(Note::parse(&note))
}

impl Note {
    const TO_FILES: &str = "to-files";

    fn to_text(&self) -> String {
        let first = self.is_to_files.then(|| format!("{}\n", Self::TO_FILES));
        let copies = self.copies.iter().map(|(key, written)| {
            let Written {
                length,
                modified,
                created,
            } = written;
            format!("{key} {length} {modified} {created}\n")
        });
        first.into_iter().chain(copies).collect()
    }

    /// Skips lines of another form.
    fn parse(note: &[u8]) -> Self {
        let lines = str::from_utf8(note).unwrap_or_default().lines();
        let copies = lines.clone().filter_map(|line| {
            let mut words = line.split(' ');
            let key = Key::parse(words.next()?)?;
            let written = Written {
                length: words.next()?.parse().ok()?,
                modified: words.next()?.parse().ok()?,
                created: words.next()?.parse().ok()?,
            };
            Some((key, written))
        });
        Self {
            copies: copies.collect(),
            is_to_files: lines.clone().next() == Some(Self::TO_FILES),
        }
    }
}

/// Moves the records in Redis to these files, each into the file that its key names.
///
/// # Errors
///
/// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) if another message is in one of the files,
/// and any reason why the files or the records cannot be used. The records that have moved by then stay
/// there; calling it again moves the rest.
pub fn move_to_files(
    owned: &mut OwnedBacklog,
    files: &ClientFiles,
    mut on_event: impl FnMut(MoveEvent<'_>),
) -> Result<(), Error> {
    let (mut keys, _) = list_keys(owned.live_store()?)?;
    if !keys.is_empty() {
        files.prepare()?;
    } else if !files.directory().exists() {
        on_event(MoveEvent::Found(0));
        return Ok(());
    }
    let source = files.identity();
    // Removes files whose records are in Redis, since an earlier move, either way, has not ended.
    let there = remove_copies(files, &read_note(owned, &source)?.copies)?;
    let relocations = plan_relocations(files, &keys, &there)?;
    let there = find_present(owned, files, &keys, &there)?;
    relocate(owned, &relocations)?;
    let relocated: HashMap<Key, Key> = relocations.into_iter().collect();
    for key in &mut keys {
        *key = relocated.get(key).copied().unwrap_or(*key);
    }
    let plan = plan_moves(&keys, &[]);
    on_event(MoveEvent::Found(plan.iter().map(Vec::len).sum()));

    let mut batch = FileBatch::default();
    let mut chunks = plan.chunks(PER_EXCHANGE).peekable();
    while let Some(chunk) = chunks.next() {
        let from: Vec<Key> = chunk.iter().flatten().map(|(from, _)| *from).collect();
        let mut values = read_or_split(owned.live_store()?, &from)?.into_iter();
        for message in chunk {
            let records = message.iter().zip(values.by_ref());
            let records = records.filter_map(|((key, _), value)| Some((*key, value?)));
            let records: Vec<(Key, Vec<u8>)> = records.collect();
            let damaged: Vec<Key> = records
                .iter()
                .filter(|(key, value)| !is_valid_record(*key, value))
                .map(|(key, _)| *key)
                .collect();
            if damaged.is_empty() {
                batch.stage(files, records, &there)?;
                continue;
            }
            for (key, _) in &records {
                let reason = if damaged.contains(key) {
                    UNREADABLE
                } else {
                    "stays with the other record of its message, which is damaged"
                };
                on_event(MoveEvent::Stays(&key.to_name(), reason));
            }
        }
        let is_last = chunks.peek().is_none();
        if is_last || batch.keys.len() >= BATCH_MESSAGES || batch.bytes >= BATCH_BYTES {
            batch.finish(owned, files, &source, is_last)?;
            on_event(MoveEvent::Moved(batch.keys.len()));
            batch = FileBatch::default();
        }
    }
    // The last batch has done that, if it had any record.
    owned.live_store()?.forget_arrivals(&[&source])?;
    files.finish();
    for entry in owned.live_store()?.keys()? {
        let name = String::from_utf8_lossy(&entry);
        if Key::parse(&name).is_none() {
            on_event(MoveEvent::Stays(&name, FOREIGN));
        }
    }
    Ok(())
}

/// Records that are about to move to files.
#[derive(Default)]
struct FileBatch {
    /// Those whose files are not visible yet, in the order in which they become so.
    staged: Vec<Key>,
    keys: Vec<Key>,
    bytes: usize,
}

impl FileBatch {
    /// Writes the records of a message to files that are not visible yet.
    fn stage(
        &mut self,
        files: &ClientFiles,
        records: Vec<(Key, Vec<u8>)>,
        there: &HashSet<Key>,
    ) -> Result<(), Error> {
        // A PUBREL before its PUBLISH: a PUBLISH alone would be sent again.
        for (key, mut value) in records.into_iter().rev() {
            self.keys.push(key);
            self.bytes = self.bytes.saturating_add(value.len());
            if !there.contains(&key) {
                set_remaining_interval(key, &mut value, SystemTime::now);
                files.stage(key, &value)?;
                self.staged.push(key);
            }
        }
        Ok(())
    }

    /// Makes the files visible, and then removes the records.
    ///
    /// Until then Redis has the messages: the note says that, and goes in the transaction that removes them.
    fn finish(
        &self,
        owned: &mut OwnedBacklog,
        files: &ClientFiles,
        source: &str,
        is_last: bool,
    ) -> Result<(), Error> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let written = files.finish_staged(&self.staged)?;
        let mut note = Note {
            is_to_files: true,
            copies: self.staged.iter().copied().zip(written).collect(),
        };
        let text = note.to_text();
        owned
            .live_store()?
            .put_arrivals(&[], source, text.as_bytes())?;
        files.publish(&self.staged)?;
        note.copies.clear();
        let text = (!is_last).then(|| note.to_text());
        with_key_names(&self.keys, |keys| {
            let store = owned.live_store()?;
            store.remove_departed(keys, source, text.as_deref())
        })
    }
}

/// Plans other numbers for what waits in Redis if its numbers have wrapped, which Paho's file persistence
/// does not see.
fn plan_relocations(
    files: &ClientFiles,
    keys: &[Key],
    there: &[Key],
) -> Result<Vec<(Key, Key)>, Error> {
    let mut moves = Vec::new();
    for kind in [RecordKind::Command, RecordKind::Undelivered] {
        let planned = plan_unwrapped(kind, keys).ok_or_else(|| {
            invalid_target(
                files,
                "the numbers of the messages in Redis have wrapped and are too far apart to begin again \
                 at 1; let the program or drain send them",
            )
        })?;
        if !planned.is_empty() && there.iter().any(|key| key.kind == kind) {
            return Err(invalid_target(
                files,
                "the numbers of the messages in Redis have wrapped, so they begin again at 1, and other \
                 messages are there; choose another directory",
            ));
        }
        moves.extend(planned);
    }
    Ok(moves)
}

/// Gives records in Redis other numbers, each in one transaction.
fn relocate(owned: &mut OwnedBacklog, moves: &[(Key, Key)]) -> Result<(), Error> {
    for chunk in moves.chunks(PER_EXCHANGE) {
        let from: Vec<Key> = chunk.iter().map(|(from, _)| *from).collect();
        let values = read_or_split(owned.live_store()?, &from)?;
        let names: Vec<[KeyName; 2]> = chunk
            .iter()
            .map(|(from, to)| [from.to_name(), to.to_name()])
            .collect();
        let groups = names.iter().zip(&values).filter_map(|([from, to], value)| {
            let value = value.as_deref()?;
            Some([Change::Put { key: to, value }, Change::Remove { key: from }])
        });
        let groups: Vec<[Change<'_>; 2]> = groups.collect();
        let groups: Vec<Group<'_>> = groups.iter().map(<[_; 2]>::as_slice).collect();
        owned.apply(&groups)?;
    }
    Ok(())
}

/// Returns the records that are in the files already, from an earlier move. Fails if another message is in a
/// file, or has the packet id of one that is to move.
fn find_present(
    owned: &mut OwnedBacklog,
    files: &ClientFiles,
    keys: &[Key],
    there: &[Key],
) -> Result<HashSet<Key>, Error> {
    let moving: HashSet<Key> = keys.iter().copied().collect();
    let mut present = HashSet::new();
    for chunk in there.chunks(PER_EXCHANGE) {
        let both: Vec<Key> = chunk
            .iter()
            .copied()
            .filter(|key| moving.contains(key))
            .collect();
        let values = read_or_split(owned.live_store()?, &both)?;
        for (key, value) in both.iter().zip(values) {
            let file = files.read(*key)?;
            let is_same = value
                .zip(file)
                .is_some_and(|(value, file)| is_same_but_for_expiry(*key, &value, &file.value));
            if !is_same {
                return Err(conflict(files, *key));
            }
            present.insert(*key);
        }
        // Another message in flight with the packet id of one that is to move.
        let others = chunk.iter().filter(|key| !moving.contains(key));
        for key in others {
            if key.message_keys().any(|key| moving.contains(&key)) {
                return Err(conflict(files, *key));
            }
        }
    }
    Ok(present)
}

fn conflict(files: &ClientFiles, key: Key) -> Error {
    let path = files.path(key);
    invalid_target(
        files,
        format!(
            "{} is another message than the one in Redis with this number; choose another directory",
            path.display()
        ),
    )
}

fn invalid_target(files: &ClientFiles, reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    let attempt = format!("move messages to {}", files.directory().display());
    Error::new(ErrorKind::InvalidOption, attempt).with_reason(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn way_back_leaves_both_parts_in_order() {
        let keys = |names: &[&str]| -> Vec<Key> {
            let keys = names.iter().map(|name| Key::parse(name).expect("a key"));
            keys.collect()
        };
        let files = keys(&["c-7", "s5-1", "c-5", "c5-6"]);
        let planned = |present: &[&str]| -> Vec<String> {
            let plan = plan_return(&files, &keys(present)).into_iter().flatten();
            plan.map(|(from, to)| format!("{from}>{to}")).collect()
        };
        let back = ["c-5>c-5", "c5-6>c5-6", "c-7>c-7", "s5-1>s5-1"];
        assert_eq!(planned(&["c-3", "c-4", "s-2"]), back);
        // A program has written to Redis.
        let before = ["s5-1>s5-1", "c-7>c-3", "c5-6>c5-2", "c-5>c-1"];
        assert_eq!(planned(&["c-4", "c-5"]), before);
    }

    #[test]
    fn note_is_parsed_back() {
        let copies = [
            ("c5-999999", (1, 1_700_000_000_999_999_999, 0)),
            ("sc-7", (u64::MAX, -1, i128::MAX)),
        ];
        let copies = copies.map(|(name, (length, modified, created))| {
            let written = Written {
                length,
                modified,
                created,
            };
            (Key::parse(name).expect("a key"), written)
        });
        for is_to_files in [false, true] {
            let copies = HashMap::from(copies);
            let note = Note {
                is_to_files,
                copies,
            };
            assert_eq!(Note::parse(note.to_text().as_bytes()), note);
        }
        for other in [
            &b""[..],
            b"\xff",
            b"c-1",
            b"c-1 x 1 1\n",
            b"c-1 00\n",
            b"x-1 00 1 1\n",
        ] {
            assert_eq!(Note::parse(other), Note::default());
        }
    }
}
