//! Encodes groups of changes as Redis commands.

use super::command_buffer::CommandBuffer;
use crate::store::{Adopted, Change, Group, Place};

/// Appends the commands for groups of changes, each group all or nothing.
pub(super) fn encode_groups<'v>(
    commands: &mut CommandBuffer<'v>,
    hash: &str,
    groups: &[Group<'v>],
) {
    for group in groups {
        let removes = |change: &Change<'_>| {
            matches!(
                change,
                Change::Remove { .. } | Change::RemoveSetAside { .. }
            )
        };
        match group {
            [] => {}
            // One HDEL per hash: a full Redis refuses every command inside a transaction, but executes
            // an HDEL on its own. What is set aside goes last: until then a person finds it.
            _ if group.iter().all(removes) => encode_removes(commands, hash, group),
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

/// Appends a transaction that leaves the hash as it was, and that Redis passes on to its replicas.
///
/// A write without an effect is not passed on, and `WAIT` after it counts a replica that joins and has not
/// loaded the data.
pub(super) fn encode_void_write(commands: &mut CommandBuffer, hash: &str) {
    commands.push_words(&["MULTI"]);
    commands.push_words(&["HSET", hash, PROBE_FIELD, ""]);
    commands.push_words(&["HDEL", hash, PROBE_FIELD]);
    commands.push_words(&["EXEC"]);
}

/// Number of commands that [`encode_void_write`] appends.
pub(super) const VOID_WRITE_COMMANDS: usize = 4;

/// A field that neither Paho nor a person writes.
pub(super) const PROBE_FIELD: &str = "paho-mqtt-redis:probe";

/// Appends one transaction per group, which moves its records from the hash `source` to the other one.
pub(super) fn encode_adoption<'v>(
    commands: &mut CommandBuffer<'v>,
    source: &str,
    hash: &str,
    groups: &[&[Adopted<'v>]],
) {
    for group in groups.iter().filter(|group| !group.is_empty()) {
        commands.push_words(&["MULTI"]);
        for Adopted { key, value, .. } in *group {
            commands.push_record(&["HSET", hash], key, value);
        }
        let keys = group.iter().map(|adopted| adopted.from);
        commands.push_list(&["HDEL", source], keys);
        commands.push_words(&["EXEC"]);
    }
}

/// Appends one `HDEL` per hash for all removes of a group.
fn encode_removes(commands: &mut CommandBuffer, hash: &str, group: &[Change<'_>]) {
    let keys = group.iter().filter_map(|change| match *change {
        Change::Remove { key } => Some(key),
        _ => None,
    });
    if keys.clone().next().is_some() {
        commands.push_list(&["HDEL", hash], keys);
    }
    for place in Place::BOTH {
        let names = group.iter().filter_map(|change| match *change {
            Change::RemoveSetAside { place: other, name } if other == place => Some(name),
            _ => None,
        });
        if names.clone().next().is_some() {
            commands.push_list(&["HDEL", &place_hash(hash, place)], names);
        }
    }
}

/// Returns the key of the hash of a place.
///
/// It has the same prefix as that of the records, so that an ACL pattern covers both.
pub(super) fn place_hash(hash: &str, place: Place) -> String {
    format!("{hash}:{}", place.as_str())
}

/// Returns the key of the hash that has the counts of sends.
pub(super) fn sends_hash(hash: &str) -> String {
    format!("{hash}{SENDS}")
}

/// The field of that hash.
pub(super) const SENDS_FIELD: &str = "counts";

/// Returns the key of the hash with the notes of records that arrived from elsewhere.
#[cfg(feature = "cli")]
pub(super) fn arrivals_hash(hash: &str) -> String {
    format!("{hash}{ARRIVALS}")
}

const SENDS: &str = ":sends";
const ARRIVALS: &str = ":arrivals";

/// Returns true for the key of such a hash, which has no records at all.
pub(super) fn is_notes_hash(key: &str) -> bool {
    [SENDS, ARRIVALS].iter().any(|end| key.ends_with(end))
}

/// Returns true for the key of a companion of a hash, which has no records of Paho.
pub(super) fn is_companion(key: &str) -> bool {
    let mut places = Place::BOTH.into_iter();
    is_notes_hash(key) || places.any(|place| key.ends_with(&place_hash("", place)))
}

fn encode_change<'v>(commands: &mut CommandBuffer<'v>, hash: &str, change: &Change<'v>) {
    match *change {
        Change::Put { key, value } => commands.push_record(&["HSET", hash], key, value),
        Change::Remove { key } => commands.push_words(&["HDEL", hash, key]),
        Change::SetAside { place, name, value } => {
            commands.push_record(&["HSET", &place_hash(hash, place)], name, value);
        }
        Change::RemoveSetAside { place, name } => {
            commands.push_words(&["HDEL", &place_hash(hash, place), name]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companion_hash_is_no_backlog() {
        for (name, expected) in [
            ("device:broker:1883", false),
            ("device:broker:1883:quarantine", true),
            ("device:broker:1883:discarded", true),
            ("device:broker:1883:sends", true),
            ("device:broker:1883:arrivals", true),
            ("device:quarantine", true),
            ("quarantine:broker:1883", false),
        ] {
            assert_eq!(is_companion(name), expected, "{name}");
        }
    }

    fn encoded(group: &[Change<'_>]) -> String {
        let mut commands = CommandBuffer::default();
        encode_groups(&mut commands, "h", &[group]);
        let text = String::from_utf8(commands.bytes().to_vec()).expect("text");
        let words = text
            .split("\r\n")
            .filter(|line| !line.starts_with(['*', '$']) && !line.is_empty());
        words.collect::<Vec<_>>().join(" ")
    }

    const PLACE: Place = Place::Discarded;

    #[test]
    fn record_is_set_aside_and_removed_in_one_transaction() {
        let group = [
            Change::SetAside {
                place: PLACE,
                name: "n",
                value: b"v",
            },
            Change::Remove { key: "s-1" },
        ];
        assert_eq!(
            encoded(&group),
            "MULTI HSET h:discarded n v HDEL h s-1 EXEC"
        );
    }

    #[test]
    fn removes_of_each_hash_need_no_transaction() {
        let removes = [
            Change::RemoveSetAside {
                place: PLACE,
                name: "n",
            },
            Change::Remove { key: "s-1" },
            Change::RemoveSetAside {
                place: Place::Quarantine,
                name: "m",
            },
            Change::Remove { key: "s-2" },
        ];
        assert_eq!(
            encoded(&removes),
            "HDEL h s-1 s-2 HDEL h:quarantine m HDEL h:discarded n"
        );
        assert_eq!(encoded(&removes[..1]), "HDEL h:discarded n");
    }
}
