//! The one place that writes to a store.

use super::index::RecordIndex;
use crate::{
    error::Error,
    paho::{Key, KeyName},
    store::{Change, Group, Sent, Store},
};

/// How the store acknowledges a write.
#[derive(Clone, Copy)]
pub(crate) enum WriteAck<'a> {
    /// Not at all; a later fence shows whether it was applied.
    Sent,
    /// At once, together with the `sent` writes before it; a call waits.
    Confirmed { sent: &'a [(Key, Option<usize>)] },
    /// At once, and no call waits, so that a large write may take longer.
    Rewritten,
}

/// Writes groups of changes, each all or nothing.
pub(super) fn write(
    store: &mut impl Store,
    groups: &[Group<'_>],
    ack: WriteAck<'_>,
) -> Result<(), Error> {
    match ack {
        WriteAck::Sent => store.send(groups),
        WriteAck::Rewritten => store.rewrite(groups),
        WriteAck::Confirmed { sent: [] } => store.confirm(&[], groups),
        WriteAck::Confirmed { sent } => {
            let names: Vec<(KeyName, Option<usize>)> = sent
                .iter()
                .map(|(key, length)| (key.to_name(), *length))
                .collect();
            let sent = names.iter().map(|(key, length)| Sent {
                key,
                length: *length,
            });
            store.confirm(&sent.collect::<Vec<_>>(), groups)
        }
    }
}

/// Writes the present state of these records: their cached values, or their removes.
pub(super) fn write_records(
    store: &mut impl Store,
    index: &RecordIndex,
    groups: &[&[Key]],
    ack: WriteAck<'_>,
) -> Result<(), Error> {
    let mut keys = groups.iter().copied().flatten();
    // Most calls write a single record, which needs no lists on the heap.
    if let (Some(key), None) = (keys.next(), keys.next()) {
        let name = key.to_name();
        return write(store, &[&[change_for(index, *key, &name)]], ack);
    }
    let keys = groups.iter().copied().flatten();
    let names: Vec<(Key, KeyName)> = keys.map(|key| (*key, key.to_name())).collect();
    let changes = names
        .iter()
        .map(|(key, name)| change_for(index, *key, name));
    let changes: Vec<Change<'_>> = changes.collect();
    let mut rest = &changes[..];
    let groups: Vec<&[Change<'_>]> = groups
        .iter()
        .filter_map(|keys| {
            let (group, others) = rest.split_at_checked(keys.len())?;
            rest = others;
            Some(group)
        })
        .collect();
    write(store, &groups, ack)
}

/// Creates the change that brings the store to the record's current value, or removes the record.
fn change_for<'a>(index: &'a RecordIndex, key: Key, name: &'a KeyName) -> Change<'a> {
    // The value of a pending put is always cached.
    match index.value(key) {
        Some(value) => Change::Put { key: name, value },
        None => Change::Remove { key: name },
    }
}

/// A key with the value to put, or `None` to remove the record.
type OwnedChange = (KeyName, Option<Box<[u8]>>);

/// Groups of writes for one exchange of recovery.
///
/// It owns copies of the values, so that it can be written while calls change the cache.
#[derive(Default)]
pub(crate) struct RewriteBatch {
    groups: Vec<Vec<OwnedChange>>,
}

impl RewriteBatch {
    pub(super) fn add<'a>(&mut self, changes: impl Iterator<Item = (Key, Option<&'a [u8]>)>) {
        let changes = changes.map(|(key, value)| (key.to_name(), value.map(Box::<[u8]>::from)));
        self.groups.push(changes.collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Writes the batch and waits until the store has confirmed it; no call waits.
    pub(crate) fn write(&self, store: &mut impl Store) -> Result<(), Error> {
        let groups: Vec<Vec<Change<'_>>> = self
            .groups
            .iter()
            .map(|group| {
                let changes = group.iter().map(|(key, value)| match value {
                    Some(value) => Change::Put { key, value },
                    None => Change::Remove { key },
                });
                changes.collect()
            })
            .collect();
        let groups: Vec<&[Change<'_>]> = groups.iter().map(Vec::as_slice).collect();
        write(store, &groups, WriteAck::Rewritten)
    }
}
