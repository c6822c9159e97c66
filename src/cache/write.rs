//! The one place that writes to a store.

use super::{
    index::RecordIndex,
    pending::{PendingWrites, SetAsideChange},
};
use crate::{
    error::Error,
    paho::{Key, KeyName},
    store::{Change, Group, Place, Sent, Store},
};

/// The store's acknowledgment of a write.
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
///
/// Each is preceded by what is set aside with it.
pub(super) fn write_records(
    store: &mut impl Store,
    (index, pending): (&RecordIndex, &PendingWrites),
    groups: &[&[Key]],
    ack: WriteAck<'_>,
) -> Result<(), Error> {
    let mut keys = groups.iter().copied().flatten();
    // Most calls write a single record, which needs no lists on the heap.
    if let (Some(key), None) = (keys.next(), keys.next())
        && pending.attached(*key).next().is_none()
    {
        let name = key.to_name();
        return write(store, &[&[change_for(index, *key, &name)]], ack);
    }
    let keys = groups.iter().copied().flatten();
    let names: Vec<KeyName> = keys.clone().map(|key| key.to_name()).collect();
    let mut changes: Vec<Change<'_>> = Vec::with_capacity(names.len());
    for (key, name) in keys.zip(&names) {
        changes.extend(pending.attached(*key).map(SetAsideChange::as_change));
        changes.push(change_for(index, *key, name));
    }
    let mut rest = &changes[..];
    let groups: Vec<&[Change<'_>]> = groups
        .iter()
        .filter_map(|group| {
            let attached = group.iter().map(|key| pending.attached(*key).count());
            let length = attached.sum::<usize>().saturating_add(group.len());
            let (group, others) = rest.split_at_checked(length)?;
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

/// A change that owns a copy of its value.
enum OwnedChange {
    Put(Key, Box<[u8]>),
    Remove(Key),
    OfSetAside(SetAsideChange),
}

impl OwnedChange {
    fn of_record((key, value): (Key, Option<&[u8]>)) -> Self {
        match value {
            Some(value) => Self::Put(key, value.into()),
            None => Self::Remove(key),
        }
    }

    /// Returns the key of the record that it changes.
    fn key(&self) -> Option<Key> {
        match self {
            Self::Put(key, _) | Self::Remove(key) => Some(*key),
            Self::OfSetAside(_) => None,
        }
    }
}

/// Groups of writes for one exchange of recovery.
///
/// It owns copies of the values, so that it can be written while calls change the cache.
#[derive(Default)]
pub(crate) struct RewriteBatch {
    groups: Vec<Vec<OwnedChange>>,
}

impl RewriteBatch {
    pub(super) fn add<'a>(&mut self, changes: impl Iterator<Item = (Key, Option<&'a [u8]>)>) {
        let changes = changes.map(OwnedChange::of_record);
        self.groups.push(changes.collect());
    }

    /// Adds the present state of a message, and what is set aside with it.
    pub(super) fn add_message(
        &mut self,
        keys: &[Key],
        (index, pending): (&RecordIndex, &PendingWrites),
    ) {
        let changes = keys.iter().flat_map(|key| {
            let attached = pending.attached(*key).cloned().map(OwnedChange::OfSetAside);
            attached.chain([OwnedChange::of_record((*key, index.value(*key)))])
        });
        self.groups.push(changes.collect());
    }

    /// Creates a batch that copies records of another origin to the quarantine, under these names.
    pub(crate) fn to_quarantine(records: impl Iterator<Item = (String, Vec<u8>)>) -> Self {
        let groups = records.map(|(name, value)| {
            vec![OwnedChange::OfSetAside(SetAsideChange::Add {
                place: Place::Quarantine,
                name,
                value: value.into(),
            })]
        });
        Self {
            groups: groups.collect(),
        }
    }

    /// Returns the groups that put records.
    fn puts(&self) -> impl Iterator<Item = &Vec<OwnedChange>> {
        let is_put = |change: &OwnedChange| {
            matches!(
                change,
                OwnedChange::Put(..) | OwnedChange::OfSetAside(SetAsideChange::Add { .. })
            )
        };
        self.groups
            .iter()
            .filter(move |group| group.iter().any(is_put))
    }

    pub(crate) fn has_put(&self) -> bool {
        self.puts().next().is_some()
    }

    /// Returns the keys of the only group that puts records, or `None` if there are more.
    pub(crate) fn only_put(&self) -> Option<Vec<Key>> {
        let mut puts = self.puts();
        let (only, None) = (puts.next()?, puts.next()) else {
            return None;
        };
        Some(only.iter().filter_map(OwnedChange::key).collect())
    }

    /// Returns the keys of the records that it writes.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.groups.iter().flatten().filter_map(OwnedChange::key)
    }

    /// Returns the places and names of what it sets aside.
    pub(super) fn set_asides(&self) -> impl Iterator<Item = (Place, &str)> {
        let changes = self.groups.iter().flatten();
        changes.filter_map(|change| match change {
            OwnedChange::OfSetAside(SetAsideChange::Add { place, name, .. }) => {
                Some((*place, &**name))
            }
            _ => None,
        })
    }

    /// Number of groups.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Writes the batch in recovery and waits until the store has confirmed it; no call waits.
    pub(crate) fn rewrite(&self, store: &mut impl Store) -> Result<(), Error> {
        self.write(store, WriteAck::Rewritten)
    }

    pub(super) fn write(&self, store: &mut impl Store, ack: WriteAck<'_>) -> Result<(), Error> {
        let name = |change: &OwnedChange| change.key().map(Key::to_name);
        let names: Vec<Option<KeyName>> = self.groups.iter().flatten().map(name).collect();
        let mut names = names.iter().map(|name| name.as_deref().unwrap_or_default());
        let mut groups: Vec<Vec<Change<'_>>> = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let changes = group.iter().zip(names.by_ref());
            let changes = changes.map(|(change, key)| match change {
                OwnedChange::Put(_, value) => Change::Put { key, value },
                OwnedChange::Remove(_) => Change::Remove { key },
                OwnedChange::OfSetAside(change) => change.as_change(),
            });
            groups.push(changes.collect());
        }
        let groups: Vec<&[Change<'_>]> = groups.iter().map(Vec::as_slice).collect();
        write(store, &groups, ack)
    }
}
