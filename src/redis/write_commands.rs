//! Encodes groups of changes as Redis commands.

use super::command_buffer::CommandBuffer;
use crate::store::{Change, Group};

/// The commands for groups of changes.
pub(super) fn encode_groups(commands: &mut CommandBuffer, hash: &str, groups: &[Group<'_>]) {
    for group in groups {
        let removes = |change: &Change<'_>| matches!(change, Change::Remove { .. });
        match group {
            [] => {}
            // A Redis that is full refuses whatever is in a transaction, and yet removes.
            _ if group.iter().all(removes) => encode_removes(commands, hash, group),
            [change] => encode_change(commands, hash, change),
            _ => {
                commands.say(&["MULTI"]);
                for change in *group {
                    encode_change(commands, hash, change);
                }
                commands.say(&["EXEC"]);
            }
        }
    }
}

fn encode_removes(commands: &mut CommandBuffer, hash: &str, group: &[Change<'_>]) {
    let keys = group.iter().filter_map(|change| match *change {
        Change::Remove { key } => Some(key),
        Change::Put { .. } | Change::Quarantine { .. } => None,
    });
    commands.list(&["HDEL", hash], keys);
}

fn encode_change(commands: &mut CommandBuffer, hash: &str, change: &Change<'_>) {
    let hash = hash.as_bytes();
    match *change {
        Change::Put { key, value } => commands.add(&[b"HSET", hash, key.as_bytes(), value]),
        Change::Remove { key } => commands.add(&[b"HDEL", hash, key.as_bytes()]),
        Change::Quarantine { key, value } => {
            let quarantine = [hash, b":quarantine"].concat();
            commands.add(&[b"HSET", &quarantine, key.as_bytes(), value]);
        }
    }
}
