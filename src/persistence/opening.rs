//! What opening does with what it finds: reads it, sets aside what Paho could not read, and puts the
//! waiting commands into an order that Paho understands.

use super::{
    changes::{change, read_all, reconnecting},
    records::Records,
    value,
};
use crate::{
    Change, Error, ErrorKind, Store,
    record::{Key, Kind},
};

/// How many values are asked for at a time.
const BATCH: usize = 64;
/// How many bytes of values are kept until Paho asks for them; the others are read again.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

/// What was found.
pub(super) struct Found {
    pub(super) records: Records,
    /// Entries that Paho did not write.
    pub(super) foreign: usize,
    /// Records that Paho could not read.
    pub(super) unreadable: Vec<Key>,
    /// Whether those are where Paho left them, since there was no room to set them aside.
    pub(super) left: bool,
}

/// Reads what is in the store.
pub(super) fn open(store: &mut impl Store) -> Result<Found, Error> {
    let entries = store.keys()?;
    let parsed = |entry: &Vec<u8>| Key::parse(str::from_utf8(entry).ok()?);
    let keys: Vec<Key> = entries.iter().filter_map(parsed).collect();
    let foreign = entries.len().saturating_sub(keys.len());
    drop(entries);

    let mut found = Found {
        records: Records::default(),
        foreign,
        unreadable: Vec::new(),
        left: false,
    };
    let mut kept = 0_usize;
    let mut records = Vec::with_capacity(keys.len());
    for batch in keys.chunks(BATCH) {
        for (key, value) in batch.iter().zip(read_all(store, batch)?) {
            // One that has gone since it was listed.
            let Some(value) = value else { continue };
            if !value::is_readable(*key, &value) {
                found.left |= !set_aside(store, *key, &value)?;
                found.unreadable.push(*key);
                continue;
            }
            let size = value.len();
            let fits = kept.saturating_add(size) <= KEPT_BYTES;
            kept = kept.saturating_add(if fits { size } else { 0 });
            records.push((*key, fits.then_some(value)));
        }
    }
    renumber(store, &mut records)?;
    for (key, value) in records {
        found.records.found(key, value);
    }
    Ok(found)
}

/// Whether there was room for it.
fn set_aside(store: &mut impl Store, key: Key, value: &[u8]) -> Result<bool, Error> {
    let key = key.to_string();
    match change(store, &[Change::SetAside { key: &key, value }]) {
        Err(error) if error.kind() == ErrorKind::OutOfMemory => Ok(false),
        done => done.map(|()| true),
    }
}

/// Moves the commands together where their numbers have come round from 999,999 to 0.
///
/// Paho takes the highest number for the last, and would give the next command one that is in use.
/// The last one is moved first, to the end of the widest gap that is free: a crash at any point
/// leaves numbers that still say in which order the commands came.
fn renumber(store: &mut impl Store, records: &mut [(Key, Option<Vec<u8>>)]) -> Result<(), Error> {
    let is_command = |(key, _): &&mut (Key, Option<Vec<u8>>)| key.kind == Kind::Command;
    let mut commands: Vec<&mut (Key, Option<Vec<u8>>)> =
        records.iter_mut().filter(is_command).collect();
    commands.sort_unstable_by_key(|(key, _)| (key.number, key.v5));
    let numbers: Vec<u32> = commands.iter().map(|(key, _)| key.number).collect();
    let Some(first) = first_behind_widest_gap(&numbers) else {
        return Ok(());
    };
    // Those behind the wrap follow those before it.
    commands.rotate_left(first);
    let (Some(last), Some(end)) = (numbers.get(first.saturating_sub(1)), numbers.get(first)) else {
        return Ok(());
    };
    let free = last.saturating_add(1);
    // Numbers that are all over the place are none that Paho gave.
    if end.saturating_sub(free) < u32::try_from(numbers.len()).unwrap_or(u32::MAX) {
        return Ok(());
    }
    let mut moves = Vec::with_capacity(commands.len());
    for ((key, value), number) in commands.into_iter().zip(free..) {
        let old = *key;
        key.number = number;
        moves.push((old, *key, value));
    }
    for batch in moves.rchunks(BATCH) {
        let unread: Vec<Key> = batch
            .iter()
            .filter(|(_, _, value)| value.is_none())
            .map(|(old, ..)| *old)
            .collect();
        let mut read = read_all(store, &unread)?.into_iter();
        let values: Vec<Option<Vec<u8>>> = batch
            .iter()
            .map(|(_, _, value)| match value {
                Some(_) => None,
                None => read.next().flatten(),
            })
            .collect();
        let moves = batch.iter().zip(&values).rev();
        let moves = moves.filter_map(|((old, new, kept), read)| {
            let value = kept.as_ref().or(read.as_ref())?;
            Some((old.to_string(), new.to_string(), value))
        });
        move_each(store, &moves.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Each in a step of its own, and waits once for all.
fn move_each(store: &mut impl Store, moves: &[(String, String, &Vec<u8>)]) -> Result<(), Error> {
    reconnecting(store, |store| {
        for (old, new, value) in moves {
            store.send(&[
                Change::Put {
                    key: new,
                    value: &[value],
                },
                Change::Remove { key: old },
            ])?;
        }
        store.confirm()
    })
}

/// Where the sequence starts in these sorted numbers, if that is not at their start.
fn first_behind_widest_gap(numbers: &[u32]) -> Option<usize> {
    let (lowest, highest) = (numbers.first()?, numbers.last()?);
    let limit = Kind::Command.numbers().end;
    let around = limit.saturating_sub(*highest).saturating_add(*lowest);
    let gaps = numbers.iter().zip(numbers.iter().skip(1));
    let (widest, position) = gaps
        .map(|(before, behind)| behind.saturating_sub(*before))
        .zip(1..)
        .max_by_key(|(gap, _)| *gap)?;
    (widest > around).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_starts_behind_its_widest_gap() {
        for (numbers, first) in [
            (&[][..], None),
            (&[7], None),
            (&[1, 2, 3], None),
            (&[999_998, 999_999], None),
            (&[400_000, 400_001, 900_000], None),
            (&[0, 999_999], Some(1)),
            (&[0, 1, 2, 999_998, 999_999], Some(3)),
            (&[5, 999_000], Some(1)),
        ] {
            assert_eq!(first_behind_widest_gap(numbers), first, "{numbers:?}");
        }
    }
}
