//! Puts the waiting commands into an order of numbers that Paho understands.

use super::{index::Index, opening::read_patiently};
use crate::{
    Change, Error, Store,
    record::{Key, Kind, Name},
};

/// How much is moved before it is waited for.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 * 1024;

/// Moves the commands together where their numbers have come round from 999,999 to 0.
///
/// Paho takes the highest number for the last, and would give the next command one that is in use;
/// and it removes number 0 whenever it connects. The last command is moved first, to the end of what
/// is free: a crash at any point leaves numbers that still say in which order the commands came.
pub(super) fn renumber(store: &mut impl Store, index: &mut Index) -> Result<(), Error> {
    let is_command = |key: &Key| key.kind == Kind::Command;
    let mut commands: Vec<Key> = index.keys().filter(is_command).collect();
    commands.sort_unstable_by_key(|key| (key.number, key.v5));
    let numbers: Vec<u32> = commands.iter().map(|key| key.number).collect();
    let Some((first, free)) = place(&numbers) else {
        return Ok(());
    };
    // Those behind the wrap follow those before it.
    commands.rotate_left(first);
    let numbered: Vec<(Key, u32)> = commands.into_iter().zip(free..).collect();
    for some in numbered.rchunks(BATCH) {
        move_some(store, index, some)?;
    }
    Ok(())
}

/// Gives some commands other numbers, the last one first, each in a step of its own.
fn move_some(
    store: &mut impl Store,
    index: &mut Index,
    numbered: &[(Key, u32)],
) -> Result<(), Error> {
    let keys: Vec<Key> = numbered.iter().map(|(key, _)| *key).collect();
    let mut moves: Vec<(Name, Name, Vec<u8>)> = Vec::new();
    let mut bytes = 0_usize;
    let values = read_patiently(store, &keys)?;
    for ((old, number), value) in numbered.iter().zip(values).rev() {
        let new = Key {
            number: *number,
            ..*old
        };
        index.rename(*old, new);
        // One that has gone since it was listed.
        let Some(value) = value else { continue };
        bytes = bytes.saturating_add(value.len());
        moves.push((old.name(), new.name(), value));
        if bytes >= BATCH_BYTES {
            make(store, &moves)?;
            moves.clear();
            bytes = 0;
        }
    }
    make(store, &moves)
}

/// Waits once for all.
fn make(store: &mut impl Store, moves: &[(Name, Name, Vec<u8>)]) -> Result<(), Error> {
    let groups: Vec<[Change<'_>; 2]> = moves
        .iter()
        .map(|(old, new, value)| [Change::Put { key: new, value }, Change::Remove { key: old }])
        .collect();
    let groups: Vec<&[Change<'_>]> = groups.iter().map(<[_; 2]>::as_slice).collect();
    store.confirm(&[], &groups)
}

/// Which of these sorted numbers comes first, and where there is room for all; nothing where they
/// can stay.
fn place(numbers: &[u32]) -> Option<(usize, u32)> {
    let (lowest, highest) = (numbers.first()?, numbers.last()?);
    let limit = Kind::Command.numbers().end;
    let (first, last, end) = match first_behind_widest_gap(numbers) {
        Some(first) => (
            first,
            numbers.get(first.saturating_sub(1))?,
            *numbers.get(first)?,
        ),
        None if *lowest == 0 => (0, highest, limit),
        None => return None,
    };
    let free = last.saturating_add(1);
    // Numbers that are all over the place are none that Paho gave.
    let room = usize::try_from(end.saturating_sub(free)).unwrap_or(usize::MAX);
    (room >= numbers.len()).then_some((first, free))
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
    fn sequence_starts_after_widest_gap() {
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

    #[test]
    fn records_are_relocated_after_last_or_not_at_all() {
        for (numbers, expected) in [
            (&[][..], None),
            (&[1, 2, 3], None),
            (&[0], Some((0, 1))),
            (&[0, 1, 2], Some((0, 3))),
            (&[0, 1, 999_999], Some((2, 2))),
            (&[0, 499_999, 999_999], Some((2, 500_000))),
        ] {
            assert_eq!(place(numbers), expected, "{numbers:?}");
        }
        let scattered: Vec<u32> = (0..500_000).map(|number| number * 2).collect();
        assert_eq!(place(&scattered), None);
    }
}
