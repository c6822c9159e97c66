//! One exchange of a recovery with the store, made without the lock.

use crate::{
    cache::{RewriteBatch, list_keys, read_or_split},
    error::Error,
    paho::Key,
    store::{Connected, Place, Store},
};

/// A step of a recovery.
pub(super) enum Step {
    /// Connects to the records of this name.
    Connect(String),
    /// Lists the keys.
    List,
    /// Reads values to compare them with the cache.
    Compare(Vec<Key>),
    /// Reads both keys of a relocation.
    ReadRelocation(Key, Key),
    /// Moves a record, after which it has this value.
    Relocate {
        keys: (Key, Key),
        batch: RewriteBatch,
        value: Vec<u8>,
    },
    /// Copies records that this process has never known to the quarantine.
    Quarantine(RewriteBatch),
    /// Writes pending changes.
    Write(RewriteBatch),
    /// Removes stale records.
    RemoveStale(RewriteBatch),
    /// Checks that the store takes writes.
    Check,
}

/// The answer of the store to a step.
pub(super) enum Answer {
    Connected(Connected),
    /// The keys, the number of foreign entries, and the names of what is set aside.
    Listed(Vec<Key>, usize, Vec<(Place, Vec<Vec<u8>>)>),
    Values(Vec<Option<Vec<u8>>>),
    Done,
}

/// A step, and the store that it needs, in the hands of the worker.
pub(super) struct Exchange<S> {
    pub(super) store: S,
    pub(super) step: Step,
    /// `None` until it is performed.
    pub(super) answer: Option<Result<Answer, Error>>,
}

impl<S: Store> Exchange<S> {
    pub(super) fn new(store: S, step: Step) -> Self {
        Self {
            store,
            step,
            answer: None,
        }
    }

    /// Makes the exchange. The mutex is free meanwhile, so calls go on.
    pub(super) fn perform(&mut self) {
        let store = &mut self.store;
        let answer = match &self.step {
            Step::Connect(name) => store.connect(name).map(Answer::Connected),
            Step::List => list(store),
            Step::Compare(keys) => read_or_split(store, keys).map(Answer::Values),
            Step::ReadRelocation(old, new) => {
                read_or_split(store, &[*old, *new]).map(Answer::Values)
            }
            Step::Relocate { batch, .. }
            | Step::Quarantine(batch)
            | Step::Write(batch)
            | Step::RemoveStale(batch) => batch.rewrite(store).map(|()| Answer::Done),
            Step::Check => store.check().map(|_| Answer::Done),
        };
        self.answer = Some(answer);
    }
}

/// Lists the keys, and what is set aside in the places that the store can list.
fn list(store: &mut impl Store) -> Result<Answer, Error> {
    let (keys, foreign) = list_keys(store)?;
    let mut set_asides = Vec::new();
    for place in Place::BOTH {
        match store.set_aside_names(place) {
            Ok(names) => set_asides.push((place, names)),
            Err(error) if error.kind().is_refusal() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Answer::Listed(keys, foreign, set_asides))
}
