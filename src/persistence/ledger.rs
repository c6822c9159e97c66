//! What there is, what the store has of it, and whether the store can be used.

mod recovering;

use std::{
    collections::HashMap,
    mem,
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{events::Events, index::Index, settings::Durability};
use crate::{
    Change, Error, ErrorKind, Sent, Store,
    record::{Key, Name},
};
pub(super) use recovering::Away;

/// After so many changes that nobody waits for, or so many bytes, the store is asked what became of
/// them.
const UNASKED: usize = 256;
const UNASKED_BYTES: usize = 256 * 1024;
/// No more removes than these are held.
const HELD_REMOVES: usize = 1024;

/// The records of an open client, written through to a store that may be away.
///
/// A change never fails: it is noted here, sent where the store can be used, and noted no longer once
/// that has confirmed it. What went wrong is an outage, which [`recovery`](super::recovery) ends.
pub(super) struct Ledger<S> {
    pub(super) index: Index,
    durability: Durability,
    /// The records that may be other in the store than here.
    unconfirmed: HashMap<Key, Unconfirmed>,
    /// Counts the changes.
    stamp: u64,
    /// Of these, the removes that have not been sent.
    held: Vec<Key>,
    /// How much was sent since the store was last asked.
    unasked: usize,
    unasked_bytes: usize,
    /// Entries that Paho did not write.
    foreign: usize,
    last_confirmed: SystemTime,
    /// It is not here while it is being recovered.
    store: Option<S>,
    /// What it was opened for.
    name: String,
    /// The life of the store in which it was last used.
    life: Option<String>,
    outage: Option<Outage>,
    /// How many changes were made again in this outage.
    rewritten: u64,
    /// Why the store could not be used, the last time.
    pub(super) last_error: Option<Arc<Error>>,
    pub(super) events: Events,
}

/// A change that the store has not confirmed.
#[derive(Clone, Copy)]
struct Unconfirmed {
    stamp: u64,
    /// The store has been sent it, unless it is away.
    is_sent: bool,
    /// The other key of the same message: one comes when the other goes.
    with: Option<Key>,
}

/// Since when the store cannot be used, and why.
#[derive(Clone)]
pub(super) struct Outage {
    pub(super) since: Instant,
    pub(super) since_time: SystemTime,
    pub(super) error: Arc<Error>,
    /// A call has waited for its end already.
    pub(super) waited_for: bool,
}

/// How much is where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

impl<S: Store> Ledger<S> {
    pub(super) fn new(
        store: S,
        name: String,
        life: Option<String>,
        index: Index,
        foreign: usize,
        durability: Durability,
    ) -> Self {
        Self {
            index,
            durability,
            unconfirmed: HashMap::new(),
            stamp: 0,
            held: Vec::new(),
            unasked: 0,
            unasked_bytes: 0,
            foreign,
            last_confirmed: SystemTime::now(),
            store: Some(store),
            name,
            life,
            outage: None,
            rewritten: 0,
            last_error: None,
            events: Events::default(),
        }
    }

    /// Writes a record and, in the same step, removes others, of which `instead_of` is the same
    /// message under another key. Where it `waits`, it does so until the store has it all.
    pub(super) fn put(
        &mut self,
        key: Key,
        value: Vec<u8>,
        removed: &[Key],
        instead_of: Option<Key>,
        waits: bool,
    ) {
        let waits = self.is_to_be_waited_for(waits, value.len());
        let sent = self.sent(waits);
        self.index.put(key, value);
        for &removed in removed {
            self.index.remove(removed);
            self.note(removed, None);
        }
        if let Some(other) = instead_of {
            self.index.remove(other);
            self.note(other, Some(key));
        }
        self.note(key, instead_of);
        let mut removed: Vec<Key> = removed.iter().copied().chain(instead_of).collect();
        if !self.held.is_empty() {
            // What a message has left behind that had the same number is of this one now.
            let siblings = key.siblings();
            let of_this = |held: &Key| siblings.contains(held);
            removed.extend(
                self.held
                    .iter()
                    .copied()
                    .filter(|held| of_this(held) && *held != key),
            );
            self.held.retain(|held| !of_this(held));
        }
        let held = if waits {
            mem::take(&mut self.held)
        } else {
            Vec::new()
        };
        let Self {
            store: Some(store),
            outage: None,
            index,
            ..
        } = self
        else {
            return;
        };
        let name = key.name();
        let value = index.value(key).unwrap_or_default();
        let put = Change::Put { key: &name, value };
        let changed = if removed.is_empty() {
            write(store, &sent, &held, &[put], waits)
        } else {
            let names: Vec<Name> = removed.iter().map(|key| key.name()).collect();
            let gone = names.iter().map(|key| Change::Remove { key });
            let group: Vec<Change<'_>> = gone.chain([put]).collect();
            write(store, &sent, &held, &group, waits)
        };
        self.happened(changed, waits);
    }

    /// Removes records in one step, at once.
    pub(super) fn remove(&mut self, keys: &[Key]) {
        let waits = self.is_to_be_waited_for(false, 0);
        let sent = self.sent(waits);
        for &key in keys {
            self.index.remove(key);
            self.note(key, None);
        }
        self.held.retain(|held| !keys.contains(held));
        let held = if waits {
            mem::take(&mut self.held)
        } else {
            Vec::new()
        };
        let Self {
            store: Some(store),
            outage: None,
            ..
        } = self
        else {
            return;
        };
        let names: Vec<Name> = keys.iter().map(|key| key.name()).collect();
        let group: Vec<Change<'_>> = names.iter().map(|key| Change::Remove { key }).collect();
        let changed = write(store, &sent, &held, &group, waits);
        self.happened(changed, waits);
    }

    /// Removes records in one step, with the next change that is waited for, or the next tick.
    pub(super) fn remove_soon(&mut self, keys: &[Key]) {
        for &key in keys {
            self.index.remove(key);
            self.note(key, None);
            if let Some(change) = self.unconfirmed.get_mut(&key) {
                change.is_sent = false;
            }
        }
        self.held.extend(keys);
        if self.held.len() >= HELD_REMOVES {
            self.flush();
        }
    }

    /// Sends what is held and waits until the store has everything. Does nothing where it cannot be
    /// used, or has everything.
    pub(super) fn flush(&mut self) {
        if self.unconfirmed.is_empty() {
            return;
        }
        let sent = self.sent(true);
        let held = mem::take(&mut self.held);
        if let Self {
            store: Some(store),
            outage: None,
            ..
        } = self
        {
            let changed = write(store, &sent, &held, &[], true);
            self.happened(changed, true);
        }
    }

    /// Asks a store of which nothing has been heard whether it takes changes, and still has everything.
    pub(super) fn check(&mut self) {
        let Self {
            store: Some(store),
            outage: None,
            ..
        } = self
        else {
            return;
        };
        let expected = self.index.len().saturating_add(self.foreign);
        match store.check() {
            Ok(count) if count < self.index.len() => {
                let error = Error::new(
                    ErrorKind::Lost,
                    format!("find {expected} records, of which {count} are there"),
                );
                self.fail(error);
            }
            Ok(count) => {
                self.foreign = count.saturating_sub(self.index.len());
                self.last_confirmed = SystemTime::now();
            }
            Err(error) => self.fail(error),
        }
    }

    /// The value of a record, with those that are likely to be asked for next, where it is not kept
    /// here.
    pub(super) fn value(&mut self, key: Key) -> Result<Option<&[u8]>, Error> {
        if self.index.value(key).is_none() && self.index.contains(key) {
            self.read_ahead(key)?;
        }
        Ok(self.index.value(key))
    }

    fn read_ahead(&mut self, key: Key) -> Result<(), Error> {
        let keys = self.index.ahead(key);
        let Self {
            store: Some(store),
            outage: None,
            ..
        } = self
        else {
            return Err(self.away(key));
        };
        let names: Vec<Name> = keys.iter().map(|key| key.name()).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        match store.read(&names) {
            Ok(values) => {
                for (key, value) in keys.into_iter().zip(values) {
                    if let Some(value) = value {
                        self.index.keep(key, value);
                    }
                }
                Ok(())
            }
            Err(error) => {
                self.fail(error);
                Err(self.away(key))
            }
        }
    }

    /// Why a record cannot be read now.
    fn away(&self, key: Key) -> Error {
        let attempt = format!("read record {key}");
        match &self.outage {
            Some(outage) => Error::new(outage.error.kind(), attempt)
                .because("its value is only in the store, which cannot be used at the moment")
                .caused_by(Arc::clone(&outage.error)),
            None => Error::new(ErrorKind::Connection, attempt),
        }
    }

    /// A record is gone that nobody removed.
    pub(super) fn lost(&mut self, key: Key) {
        self.index.remove(key);
        self.events.lost(1);
    }

    /// Ends what is known of records, and leaves those in the store alone.
    pub(super) fn into_store(self) -> Option<S> {
        self.store
    }

    pub(super) fn store(&self) -> Option<&S> {
        self.store.as_ref()
    }

    /// Whether something has not been sent or not been asked for.
    pub(super) fn is_busy(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    pub(super) fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    pub(super) fn outage_mut(&mut self) -> Option<&mut Outage> {
        self.outage.as_mut()
    }

    pub(super) fn last_confirmed(&self) -> SystemTime {
        self.last_confirmed
    }

    /// What the store has not confirmed.
    pub(super) fn unconfirmed(&self) -> Amount {
        let lengths = self
            .unconfirmed
            .keys()
            .filter_map(|key| self.index.length(*key));
        lengths.fold(Amount::default(), |sum, length| Amount {
            records: sum.records.saturating_add(1),
            bytes: sum.bytes.saturating_add(length),
        })
    }

    fn note(&mut self, key: Key, with: Option<Key>) {
        self.stamp = self.stamp.wrapping_add(1);
        let stamp = self.stamp;
        self.unconfirmed.insert(
            key,
            Unconfirmed {
                stamp,
                is_sent: true,
                with,
            },
        );
    }

    /// Whether the store is to be waited for with a change of so many bytes.
    fn is_to_be_waited_for(&mut self, waits: bool, bytes: usize) -> bool {
        self.unasked = self.unasked.saturating_add(1);
        self.unasked_bytes = self.unasked_bytes.saturating_add(bytes);
        let is_due = self.unasked >= UNASKED || self.unasked_bytes >= UNASKED_BYTES;
        is_due || waits && self.durability == Durability::Confirmed
    }

    /// What the store was sent and not asked for, if it is to be asked now.
    fn sent(&self, asks: bool) -> Vec<(Name, Option<usize>)> {
        if !asks || self.outage.is_some() {
            return Vec::new();
        }
        let sent = self.unconfirmed.iter().filter(|(_, change)| change.is_sent);
        sent.map(|(key, _)| (key.name(), self.index.length(*key)))
            .collect()
    }

    fn happened(&mut self, changed: Result<(), Error>, waited: bool) {
        match changed {
            Ok(()) if waited => self.confirmed(),
            Ok(()) => {}
            Err(error) => self.fail(error),
        }
    }

    /// The store has everything.
    fn confirmed(&mut self) {
        if self.index.is_full() {
            for key in self.unconfirmed.keys() {
                self.index.forget_value(*key);
            }
        }
        self.unconfirmed.clear();
        self.unasked = 0;
        self.unasked_bytes = 0;
        self.last_confirmed = SystemTime::now();
    }

    fn fail(&mut self, error: Error) {
        let error = Arc::new(error);
        self.events.down(&error);
        self.last_error = Some(Arc::clone(&error));
        self.outage = Some(Outage {
            since: Instant::now(),
            since_time: SystemTime::now(),
            error,
            waited_for: false,
        });
    }
}

/// Sends what is held, if anything, and one group behind it.
fn write(
    store: &mut impl Store,
    sent: &[(Name, Option<usize>)],
    held: &[Key],
    group: &[Change<'_>],
    waits: bool,
) -> Result<(), Error> {
    let names: Vec<Name> = held.iter().map(|key| key.name()).collect();
    let removes: Vec<Change<'_>> = names.iter().map(|key| Change::Remove { key }).collect();
    let groups = [&removes[..], group];
    if !waits {
        return store.send(&groups);
    }
    let sent = sent.iter().map(|(key, length)| Sent {
        key,
        length: *length,
    });
    store.confirm(&sent.collect::<Vec<_>>(), &groups)
}
