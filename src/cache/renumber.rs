//! Puts the waiting commands into an order of numbers that Paho understands.

use super::{batched_read::read_or_split, index::RecordIndex};
use crate::{
    error::Error,
    paho::{Key, KeyName, RecordKind, renumbering_plan},
    store::{Change, Store},
};

/// How much is moved before it is waited for.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 * 1024;

/// Moves the commands together where their numbers have come round from 999,999 to 0.
///
/// Paho takes the highest number for the last, and would give the next command one that is in use;
/// and it removes number 0 whenever it connects. The last command is moved first, to the end of what
/// is free: a crash at any point leaves numbers that still say in which order the commands came.
pub(crate) fn renumber_wrapped_commands(
    store: &mut impl Store,
    index: &mut RecordIndex,
) -> Result<(), Error> {
    let is_command = |key: &Key| key.kind == RecordKind::Command;
    let mut commands: Vec<Key> = index.keys().filter(is_command).collect();
    commands.sort_unstable_by_key(|key| (key.number, key.v5));
    let numbers: Vec<u32> = commands.iter().map(|key| key.number).collect();
    let Some((first, free)) = renumbering_plan(&numbers) else {
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
    index: &mut RecordIndex,
    numbered: &[(Key, u32)],
) -> Result<(), Error> {
    let keys: Vec<Key> = numbered.iter().map(|(key, _)| *key).collect();
    let mut moves: Vec<(KeyName, KeyName, Vec<u8>)> = Vec::new();
    let mut bytes = 0_usize;
    let values = read_or_split(store, &keys)?;
    for ((old, number), value) in numbered.iter().zip(values).rev() {
        let new = Key {
            number: *number,
            ..*old
        };
        index.rename(*old, new);
        // One that has gone since it was listed.
        let Some(value) = value else { continue };
        bytes = bytes.saturating_add(value.len());
        moves.push((old.to_name(), new.to_name(), value));
        if bytes >= BATCH_BYTES {
            make(store, &moves)?;
            moves.clear();
            bytes = 0;
        }
    }
    make(store, &moves)
}

/// Waits once for all.
fn make(store: &mut impl Store, moves: &[(KeyName, KeyName, Vec<u8>)]) -> Result<(), Error> {
    let groups: Vec<[Change<'_>; 2]> = moves
        .iter()
        .map(|(old, new, value)| [Change::Put { key: new, value }, Change::Remove { key: old }])
        .collect();
    let groups: Vec<&[Change<'_>]> = groups.iter().map(<[_; 2]>::as_slice).collect();
    store.confirm(&[], &groups)
}
