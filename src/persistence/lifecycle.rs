//! What the calls of Paho, the thread of the persistence and its health share.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{call_semantics::CallSemantics, config::PersistenceConfig};
use crate::{
    cache::{LoadedRecords, WriteBehindCache, load_records},
    error::{Error, ErrorKind},
    net::deadline_after,
    paho::Key,
    store::{Connected, Store},
};

/// Behind one lock, under which nothing foreign runs.
pub(super) struct PersistenceShared<S: Store> {
    state: Mutex<Lifecycle<S>>,
    /// Something changed that somebody may wait for.
    pub(super) changed: Condvar,
    pub(super) config: PersistenceConfig,
}

pub(super) struct Lifecycle<S: Store> {
    /// While the records are not open.
    pub(super) store: Option<S>,
    /// Between `open` and `close`.
    pub(super) open: Option<CallSemantics<S>>,
    /// Counts the openings.
    pub(super) opening: u64,
    /// Nothing more is to be recovered.
    pub(super) closing: bool,
    /// What the thread is doing.
    pub(super) sleep: WorkerState,
}

/// What the thread waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerState {
    /// It is at work, or there is none.
    Busy,
    Ticking,
    /// There is nothing to do but to ask the store now and then.
    Idle,
}

/// What opening finds.
pub(super) struct OpenReport {
    pub(super) records: usize,
    /// Entries that Paho did not write.
    pub(super) foreign: usize,
    /// Records that Paho could not read, and whether some had to be left where they are.
    pub(super) unreadable: (Vec<Key>, bool),
    pub(super) full: Option<Error>,
    /// What a record outlives, in a few words.
    pub(super) keeps: Option<&'static str>,
    pub(super) remarks: Vec<Error>,
}

/// How long until a store that is not ready yet is tried again.
const RETRY: Duration = Duration::from_millis(50);

impl<S: Store> PersistenceShared<S> {
    pub(super) fn new(store: S, config: PersistenceConfig) -> Self {
        Self {
            state: Mutex::new(Lifecycle {
                store: Some(store),
                open: None,
                opening: 0,
                closing: false,
                sleep: WorkerState::Busy,
            }),
            changed: Condvar::new(),
            config,
        }
    }

    /// A panic elsewhere must not become one here, under a C callback.
    pub(super) fn lock(&self) -> MutexGuard<'_, Lifecycle<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something has changed, and tells whether the time is over.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, Lifecycle<S>>,
        until: Instant,
    ) -> (MutexGuard<'a, Lifecycle<S>>, bool) {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(state, left);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        (state, waited.timed_out())
    }

    /// Has the thread look at what there is to do, where it would not by itself.
    pub(super) fn wake(&self, state: &mut Lifecycle<S>) {
        let Some(open) = &state.open else { return };
        let is_needed = match state.sleep {
            WorkerState::Busy => false,
            WorkerState::Ticking => !open.cache.events.is_empty(),
            WorkerState::Idle => open.cache.has_pending() || !open.cache.events.is_empty(),
        };
        if is_needed {
            state.sleep = WorkerState::Busy;
            self.changed.notify_all();
        }
    }

    /// Works on the open records.
    pub(super) fn with_records<T>(
        &self,
        attempt: impl FnOnce() -> String,
        work: impl FnOnce(&mut CallSemantics<S>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut state = self.lock();
        let Some(open) = &mut state.open else {
            return Err(Error::new(ErrorKind::NotOpen, attempt()));
        };
        let result = work(open);
        self.wake(&mut state);
        result
    }

    /// The value of a record. A store that is away is waited for once an outage, and one that is
    /// only being looked at as long as that takes.
    pub(super) fn get(&self, key: Key) -> Result<Vec<u8>, Error> {
        let attempt = || format!("read record {key}");
        let until = deadline_after(self.config.call_timeout);
        loop {
            let result = self.with_records(attempt, |open| open.get(key));
            let is_away = |error: &Error| error.kind() != ErrorKind::NotFound;
            if !result.as_ref().is_err_and(is_away) {
                return result;
            }
            let mut state = self.lock();
            let Some(open) = &mut state.open else {
                return result;
            };
            let is_soon_readable = open.cache.is_lent_but_readable();
            match open.cache.outage_mut() {
                Some(outage) if is_soon_readable || !outage.was_waited_for => {
                    outage.was_waited_for |= !is_soon_readable;
                }
                _ => return result,
            }
            let is_worth_waiting = |state: &Lifecycle<S>| {
                let open = state.open.as_ref();
                open.is_some_and(|open| {
                    open.cache.outage().is_some()
                        && (!is_soon_readable || open.cache.is_lent_but_readable())
                })
            };
            let mut is_over = false;
            while is_worth_waiting(&state) && !is_over {
                (state, is_over) = self.wait(state, until);
            }
            if is_over {
                return result;
            }
        }
    }
}

impl<S: Store> Lifecycle<S> {
    /// Connects, and waits until the deadline for a store that is not ready yet.
    pub(super) fn connect(&mut self, name: &str, until: Instant) -> Result<Connected, Error> {
        let Some(store) = &mut self.store else {
            let attempt = format!("connect to the records of {name}");
            return Err(Error::new(ErrorKind::InvalidOption, attempt).with_reason(
                "the persistence is open already; connect it before a client is created",
            ));
        };
        loop {
            match store.connect(name) {
                Err(error) if is_early(error.kind()) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(error);
                    }
                    std::thread::sleep(RETRY.min(left));
                }
                done => return done,
            }
        }
    }

    pub(super) fn open(
        &mut self,
        name: &str,
        config: &PersistenceConfig,
        until: Instant,
    ) -> Result<OpenReport, Error> {
        let mut connected = self.connect(name, until)?;
        let opened = match self.read(config) {
            // It broke meanwhile, as when Redis restarts.
            Err(error) if error.kind() == ErrorKind::Connection => {
                connected = self.connect(name, until)?;
                self.read(config)?
            }
            done => done?,
        };
        let Some(store) = self.store.take() else {
            return Err(Error::new(ErrorKind::NotOpen, "open the records"));
        };
        let found = OpenReport {
            records: opened.index.len(),
            foreign: opened.foreign,
            unreadable: (opened.unreadable, !opened.left.is_empty()),
            full: connected.write_error,
            keeps: connected.durability_note,
            remarks: connected.warnings,
        };
        self.open = Some(CallSemantics::new(WriteBehindCache::new(
            store,
            name.to_owned(),
            connected.instance_id,
            opened.index,
            (opened.foreign, opened.left),
            config.durability,
        )));
        self.opening = self.opening.wrapping_add(1);
        self.closing = false;
        Ok(found)
    }

    fn read(&mut self, config: &PersistenceConfig) -> Result<LoadedRecords, Error> {
        match &mut self.store {
            Some(store) => load_records(store, config.cache_limit),
            None => Err(Error::new(ErrorKind::NotOpen, "read the records")),
        }
    }
}

/// Whether a store that starts, or a program that ends, answers so.
fn is_early(kind: ErrorKind) -> bool {
    use ErrorKind::{Busy, Connection, InUse, Loading};
    matches!(kind, Busy | Connection | InUse | Loading)
}
