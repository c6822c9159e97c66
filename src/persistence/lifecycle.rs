//! The state that Paho's calls, the worker and `Health` share.

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

/// Guarded by one mutex; of user code only a [`Store`] runs while it is held.
pub(super) struct PersistenceShared<S: Store> {
    lifecycle: Mutex<Lifecycle<S>>,
    /// Notified of each change that a call, the worker or a flush may wait for.
    pub(super) changed: Condvar,
    pub(super) config: PersistenceConfig,
}

pub(super) struct Lifecycle<S: Store> {
    /// The store while the persistence is closed.
    pub(super) store: Option<S>,
    /// The records between `open` and `close`.
    pub(super) open: Option<CallSemantics<S>>,
    /// Counts openings, so that a worker of an earlier one recognizes that it is stale.
    pub(super) generation: u64,
    /// Set by `close`: the worker ends, and a recovery returns its store.
    pub(super) closing: bool,
    /// Decides if the worker needs to be woken.
    pub(super) worker: WorkerState,
}

/// The wait that the worker is in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkerState {
    /// Not waiting, or no worker.
    Busy,
    /// Until the next tick, which flushes pending writes.
    Ticking,
    /// Until the next check of the store; nothing is pending.
    Idle,
}

/// The findings of an opening.
pub(super) struct OpenReport {
    pub(super) records: usize,
    /// Number of entries that Paho did not write.
    pub(super) foreign_entries: usize,
    /// Records that Paho cannot read: quarantined, or unmovable.
    pub(super) unreadable: Vec<Key>,
    /// The store refused to move some of the unreadable records.
    pub(super) has_unmovable: bool,
    /// The store can be read, but takes no writes.
    pub(super) write_error: Option<Error>,
    /// A short note for the log on the failures that a record survives.
    pub(super) durability_note: Option<&'static str>,
    pub(super) warnings: Vec<Error>,
}

/// Interval of attempts to connect to a store that is not ready.
const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(50);

impl<S: Store> PersistenceShared<S> {
    pub(super) fn new(store: S, config: PersistenceConfig) -> Self {
        Self {
            lifecycle: Mutex::new(Lifecycle {
                store: Some(store),
                open: None,
                generation: 0,
                closing: false,
                worker: WorkerState::Busy,
            }),
            changed: Condvar::new(),
            config,
        }
    }

    /// Locks the mutex, even if a thread panicked while it held it: a panic here would unwind into
    /// a C callback.
    pub(super) fn lock(&self) -> MutexGuard<'_, Lifecycle<S>> {
        self.lifecycle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a notification and returns `true` if the deadline passed first.
    pub(super) fn wait_until<'a>(
        &self,
        lifecycle: MutexGuard<'a, Lifecycle<S>>,
        until: Instant,
    ) -> (MutexGuard<'a, Lifecycle<S>>, bool) {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(lifecycle, left);
        let (lifecycle, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        (lifecycle, waited.timed_out())
    }

    /// Wakes the worker if it has work before the end of its wait.
    ///
    /// Called after each call of Paho, so a worker that ticks is not woken for pending writes.
    pub(super) fn wake_worker(&self, lifecycle: &mut Lifecycle<S>) {
        let Some(open) = &lifecycle.open else { return };
        let has_work = match lifecycle.worker {
            WorkerState::Busy => false,
            WorkerState::Ticking => !open.cache.events.is_empty(),
            WorkerState::Idle => open.cache.has_pending() || !open.cache.events.is_empty(),
        };
        if has_work {
            lifecycle.worker = WorkerState::Busy;
            self.changed.notify_all();
        }
    }

    /// Runs `work` on the open records, or fails with [`ErrorKind::NotOpen`].
    pub(super) fn with_open<T>(
        &self,
        attempt: impl FnOnce() -> String,
        work: impl FnOnce(&mut CallSemantics<S>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut lifecycle = self.lock();
        let Some(open) = &mut lifecycle.open else {
            return Err(Error::new(ErrorKind::NotOpen, attempt()));
        };
        let result = work(open);
        self.wake_worker(&mut lifecycle);
        result
    }

    /// Reads the value of a record.
    ///
    /// If only the store has the value, waits for an unavailable store once per outage, and for a
    /// readable one as long as recovery has it; both for up to the call timeout.
    pub(super) fn get(&self, key: Key) -> Result<Vec<u8>, Error> {
        let attempt = || format!("read record {key}");
        let until = deadline_after(self.config.call_timeout);
        loop {
            let result = self.with_open(attempt, |open| open.get(key));
            let is_retryable = |error: &Error| error.kind() != ErrorKind::NotFound;
            if !result.as_ref().is_err_and(is_retryable) {
                return result;
            }
            let mut lifecycle = self.lock();
            let Some(open) = &mut lifecycle.open else {
                return result;
            };
            let is_lent_but_readable = open.cache.is_lent_but_readable();
            match open.cache.outage_mut() {
                // Recovery returns a readable store between its attempts. That wait is short, so it
                // does not count as the one wait of the outage.
                Some(outage) if is_lent_but_readable || !outage.was_waited_for => {
                    outage.was_waited_for |= !is_lent_but_readable;
                }
                _ => return result,
            }
            let should_wait = |lifecycle: &Lifecycle<S>| {
                let open = lifecycle.open.as_ref();
                open.is_some_and(|open| {
                    open.cache.outage().is_some()
                        && (!is_lent_but_readable || open.cache.is_lent_but_readable())
                })
            };
            let mut timed_out = false;
            while should_wait(&lifecycle) && !timed_out {
                (lifecycle, timed_out) = self.wait_until(lifecycle, until);
            }
            if timed_out {
                return result;
            }
        }
    }
}

impl<S: Store> Lifecycle<S> {
    /// Connects, and retries until the deadline if the store is not ready.
    pub(super) fn connect(&mut self, name: &str, until: Instant) -> Result<Connected, Error> {
        let Some(store) = &mut self.store else {
            let attempt = format!("connect to the records of {name}");
            return Err(Error::new(ErrorKind::InvalidOption, attempt).with_reason(
                "the persistence is already open; call connect before creating a client",
            ));
        };
        loop {
            match store.connect(name) {
                Err(error) if is_transient(error.kind()) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(error);
                    }
                    std::thread::sleep(OPEN_RETRY_INTERVAL.min(left));
                }
                done => return done,
            }
        }
    }

    /// Connects, loads the records and starts a new generation.
    pub(super) fn open(
        &mut self,
        name: &str,
        config: &PersistenceConfig,
        until: Instant,
    ) -> Result<OpenReport, Error> {
        let mut connected = self.connect(name, until)?;
        let loaded = match self.load(config) {
            // The connection broke since `connect`, for example because Redis restarted.
            Err(error) if error.kind() == ErrorKind::Connection => {
                connected = self.connect(name, until)?;
                self.load(config)?
            }
            done => done?,
        };
        let Some(store) = self.store.take() else {
            return Err(Error::new(ErrorKind::NotOpen, "open the records"));
        };
        let report = OpenReport {
            records: loaded.index.len(),
            foreign_entries: loaded.foreign_entries,
            unreadable: loaded.unreadable,
            has_unmovable: !loaded.unmovable.is_empty(),
            write_error: connected.write_error,
            durability_note: connected.durability_note,
            warnings: connected.warnings,
        };
        self.open = Some(CallSemantics::new(WriteBehindCache::new(
            store,
            name.to_owned(),
            connected.instance_id,
            loaded.index,
            (loaded.foreign_entries, loaded.unmovable),
            config.durability,
        )));
        self.generation = self.generation.wrapping_add(1);
        self.closing = false;
        Ok(report)
    }

    fn load(&mut self, config: &PersistenceConfig) -> Result<LoadedRecords, Error> {
        match &mut self.store {
            Some(store) => load_records(store, config.cache_limit),
            None => Err(Error::new(ErrorKind::NotOpen, "read the records")),
        }
    }
}

/// Returns `true` for errors of a store that is starting or a predecessor that is ending.
fn is_transient(kind: ErrorKind) -> bool {
    use ErrorKind::{Busy, Connection, InUse, Loading};
    matches!(kind, Busy | Connection | InUse | Loading)
}
