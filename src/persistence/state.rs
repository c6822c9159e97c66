//! What the calls of Paho, the thread of the persistence and its health share.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{ledger::Ledger, opening, records::Records, settings::Settings, watcher::Sleep};
use crate::{Connected, Error, ErrorKind, Store, net::deadline_after, record::Key};

/// Behind one lock, under which nothing foreign runs.
pub(super) struct Shared<S: Store> {
    state: Mutex<State<S>>,
    /// Something changed that somebody may wait for.
    pub(super) changed: Condvar,
    pub(super) settings: Settings,
}

pub(super) struct State<S: Store> {
    /// While the records are not open.
    pub(super) store: Option<S>,
    /// Between `open` and `close`.
    pub(super) open: Option<Records<S>>,
    /// Counts the openings.
    pub(super) opening: u64,
    /// Nothing more is to be recovered.
    pub(super) closing: bool,
    /// What the thread is doing.
    pub(super) sleep: Sleep,
}

/// What opening finds.
pub(super) struct Found {
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

impl<S: Store> Shared<S> {
    pub(super) fn new(store: S, settings: Settings) -> Self {
        Self {
            state: Mutex::new(State {
                store: Some(store),
                open: None,
                opening: 0,
                closing: false,
                sleep: Sleep::No,
            }),
            changed: Condvar::new(),
            settings,
        }
    }

    /// A panic elsewhere must not become one here, under a C callback.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something has changed, and tells whether the time is over.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State<S>>,
        until: Instant,
    ) -> (MutexGuard<'a, State<S>>, bool) {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(state, left);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        (state, waited.timed_out())
    }

    /// Has the thread look at what there is to do, where it would not by itself.
    pub(super) fn wake(&self, state: &mut State<S>) {
        let Some(open) = &state.open else { return };
        let is_needed = match state.sleep {
            Sleep::No => false,
            Sleep::Tick => !open.ledger.events.is_empty(),
            Sleep::Idle => open.ledger.is_busy() || !open.ledger.events.is_empty(),
        };
        if is_needed {
            state.sleep = Sleep::No;
            self.changed.notify_all();
        }
    }

    /// Works on the open records.
    pub(super) fn with_records<T>(
        &self,
        attempt: impl FnOnce() -> String,
        work: impl FnOnce(&mut Records<S>) -> Result<T, Error>,
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
        let until = deadline_after(self.settings.patience);
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
            let is_soon_readable = open.ledger.is_soon_readable();
            match open.ledger.outage_mut() {
                Some(outage) if is_soon_readable || !outage.waited_for => {
                    outage.waited_for |= !is_soon_readable;
                }
                _ => return result,
            }
            let is_worth_waiting = |state: &State<S>| {
                let open = state.open.as_ref();
                open.is_some_and(|open| {
                    open.ledger.outage().is_some()
                        && (!is_soon_readable || open.ledger.is_soon_readable())
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

impl<S: Store> State<S> {
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
        settings: &Settings,
        until: Instant,
    ) -> Result<Found, Error> {
        let mut connected = self.connect(name, until)?;
        let opened = match self.read(settings) {
            // It broke meanwhile, as when Redis restarts.
            Err(error) if error.kind() == ErrorKind::Connection => {
                connected = self.connect(name, until)?;
                self.read(settings)?
            }
            done => done?,
        };
        let Some(store) = self.store.take() else {
            return Err(Error::new(ErrorKind::NotOpen, "open the records"));
        };
        let found = Found {
            records: opened.index.len(),
            foreign: opened.foreign,
            unreadable: (opened.unreadable, !opened.left.is_empty()),
            full: connected.write_error,
            keeps: connected.durability_note,
            remarks: connected.warnings,
        };
        self.open = Some(Records::new(Ledger::new(
            store,
            name.to_owned(),
            connected.instance_id,
            opened.index,
            (opened.foreign, opened.left),
            settings.durability,
        )));
        self.opening = self.opening.wrapping_add(1);
        self.closing = false;
        Ok(found)
    }

    fn read(&mut self, settings: &Settings) -> Result<opening::Found, Error> {
        match &mut self.store {
            Some(store) => opening::open(store, settings.cache_limit),
            None => Err(Error::new(ErrorKind::NotOpen, "read the records")),
        }
    }
}

/// Whether a store that starts, or a program that ends, answers so.
fn is_early(kind: ErrorKind) -> bool {
    use ErrorKind::{Busy, Connection, InUse, Loading};
    matches!(kind, Busy | Connection | InUse | Loading)
}
