//! Encodes groups of changes as Redis commands.

use super::command_buffer::CommandBuffer;
use crate::store::{Adopted, Change, Group};

/// Appends the commands for groups of changes, each group all or nothing.
pub(super) fn encode_groups(commands: &mut CommandBuffer, hash: &str, groups: &[Group<'_>]) {
    for group in groups {
        let is_remove = |change: &Change<'_>| matches!(change, Change::Remove { .. });
        match group {
            [] => {}
            // One HDEL, which is atomic too: a full Redis refuses every command inside a
            // transaction, but executes an HDEL on its own.
            _ if group.iter().all(is_remove) => encode_removes(commands, hash, group),
            [change] => encode_change(commands, hash, change),
            _ => {
                commands.push_words(&["MULTI"]);
                for change in *group {
                    encode_change(commands, hash, change);
                }
                commands.push_words(&["EXEC"]);
            }
        }
    }
}

/// Appends an `HSET` that changes nothing, in or outside a transaction: it lacks a value.
///
/// Redis counts the values only when it executes the command. When it queues one it asks whether the
/// user may write and the memory is not full, and if it refused `MULTI` alone, it would execute what
/// follows.
pub(super) fn encode_write_probe(commands: &mut CommandBuffer, hash: &str) {
    commands.push_words(&["HSET", hash, PROBE_FIELD, "", PROBE_FIELD]);
}

/// A field that neither Paho nor a person writes.
pub(super) const PROBE_FIELD: &str = "paho-mqtt-redis:probe";

/// Appends one transaction per group, which moves its records from the hash `source` to the other one.
pub(super) fn encode_adoption(
    commands: &mut CommandBuffer,
    source: &str,
    hash: &str,
    groups: &[&[Adopted<'_>]],
) {
    for group in groups.iter().filter(|group| !group.is_empty()) {
        commands.push_words(&["MULTI"]);
        for Adopted { key, value, .. } in *group {
            commands.push(&[b"HSET", hash.as_bytes(), key.as_bytes(), value]);
        }
        let keys = group.iter().map(|adopted| adopted.from);
        commands.push_list(&["HDEL", source], keys);
        commands.push_words(&["EXEC"]);
    }
}

/// Appends one `HDEL` for all removes of a group.
fn encode_removes(commands: &mut CommandBuffer, hash: &str, group: &[Change<'_>]) {
    let keys = group.iter().filter_map(|change| match *change {
        Change::Remove { key } => Some(key),
        Change::Put { .. } | Change::Quarantine { .. } => None,
    });
    commands.push_list(&["HDEL", hash], keys);
}

fn encode_change(commands: &mut CommandBuffer, hash: &str, change: &Change<'_>) {
    let hash = hash.as_bytes();
    match *change {
        Change::Put { key, value } => commands.push(&[b"HSET", hash, key.as_bytes(), value]),
        Change::Remove { key } => commands.push(&[b"HDEL", hash, key.as_bytes()]),
        Change::Quarantine { key, value } => {
            // A hash of its own, with the same prefix, so that an ACL pattern covers both.
            let quarantine = [hash, b":quarantine"].concat();
            commands.push(&[b"HSET", &quarantine, key.as_bytes(), value]);
        }
    }
}
