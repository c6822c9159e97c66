//! Renumbers waiting commands whose sequence wrapped, at open.

use super::{
    batched_read::read_or_split,
    index::RecordIndex,
    write::{WriteAck, write},
};
use crate::{
    error::Error,
    paho::{Key, KeyName, RecordKind, renumbering_plan},
    store::{Change, Store},
};

/// Limits of the moves per confirmed write: their number, and bytes of their values.
const MOVES_PER_BATCH: usize = 64;
const MOVE_BATCH_BYTES: usize = 256 * 1024;

/// Moves commands into one ascending sequence if their numbers wrapped from 999,999 to 0.
///
/// Paho takes the highest number for the last one, and would give the next command a number that is
/// in use; it also removes number 0 whenever it connects. The last command moves first, to the end
/// of the free range, so that after a crash at any point the numbers still give the order in which
/// the commands came.
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
    // Commands numbered after the wrap are newer than those before it.
    commands.rotate_left(first);
    let numbered: Vec<(Key, u32)> = commands.into_iter().zip(free..).collect();
    for batch in numbered.rchunks(MOVES_PER_BATCH) {
        renumber_batch(store, index, batch)?;
    }
    Ok(())
}

/// Gives commands their new numbers, the last one first, each in a step of its own.
fn renumber_batch(
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
        index.rekey(*old, new);
        // Removed since it was listed.
        let Some(value) = value else { continue };
        bytes = bytes.saturating_add(value.len());
        moves.push((old.to_name(), new.to_name(), value));
        if bytes >= MOVE_BATCH_BYTES {
            write_moves(store, &moves)?;
            moves.clear();
            bytes = 0;
        }
    }
    write_moves(store, &moves)
}

/// Writes moves in order, each all or nothing, and waits once for all of them.
fn write_moves(store: &mut impl Store, moves: &[(KeyName, KeyName, Vec<u8>)]) -> Result<(), Error> {
    let groups: Vec<[Change<'_>; 2]> = moves
        .iter()
        .map(|(old, new, value)| [Change::Put { key: new, value }, Change::Remove { key: old }])
        .collect();
    let groups: Vec<&[Change<'_>]> = groups.iter().map(<[_; 2]>::as_slice).collect();
    write(store, &groups, WriteAck::Confirmed { sent: &[] })
}
