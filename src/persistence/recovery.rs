//! Recovery from an outage: brings the store up to date while calls go on in memory.

#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use super::{call_semantics::CallSemantics, worker_context::WorkerContext};
use crate::{
    cache::{LentStore, WriteBehindCache, list_keys, read_or_split, relocate_record},
    error::{Error, ErrorKind},
    net::deadline_after,
    store::{Store, StoreEvent},
};

/// Maximum size of a batch of pending writes, in bytes.
const WRITE_BATCH_BYTES: usize = 256 * 1024;
/// Number of values that are compared per exchange.
const VERIFY_BATCH: usize = 64;
/// First backoff; it doubles with each failed attempt.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Interval of status events during the backoff.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

/// Retries until the store has confirmed every pending write, or the persistence is closed.
pub(super) fn recover<S: Store>(context: &WorkerContext<'_, S>, lent: LentStore<S>) {
    let mut recovery = Recovery {
        context,
        needs_reconnect: needs_new_connection(lent.kind),
        is_out_of_memory: lent.kind == ErrorKind::OutOfMemory,
        resync_reason: matches!(lent.kind, ErrorKind::Lost | ErrorKind::Unconfirmed)
            .then_some(ResyncReason::MayHaveLess),
        name: lent.name,
        instance_id: lent.instance_id,
        backoff: MIN_BACKOFF,
        batch_bytes: WRITE_BATCH_BYTES,
        has_warned: false,
    };
    let mut store = lent.store;
    loop {
        let retries = match recovery.attempt(&mut store) {
            Ok(()) => !recovery.finish(store),
            Err(error) => recovery.return_store(store, error),
        };
        if !retries {
            return;
        }
        match recovery.lend_after_backoff() {
            Some(again) => store = again,
            None => return,
        }
    }
}

/// The recovery from one outage, over all its attempts.
struct Recovery<'a, S: Store> {
    context: &'a WorkerContext<'a, S>,
    /// The name that the store was opened with.
    name: String,
    needs_reconnect: bool,
    /// The store has no memory for puts, so removes go first.
    is_out_of_memory: bool,
    resync_reason: Option<ResyncReason>,
    instance_id: Option<String>,
    backoff: Duration,
    /// Halved after each timeout.
    batch_bytes: usize,
    /// The buffer warning was raised in this outage.
    has_warned: bool,
}

/// The reason why the content of the store may differ from what it confirmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResyncReason {
    /// The same instance, which may have lost records.
    MayHaveLess,
    /// Another instance, or an unknown one, which may have loaded an older state.
    MayBeOlder,
}

impl<S: Store> Recovery<'_, S> {
    /// Brings the store up to date, but for the writes that calls add meanwhile.
    ///
    /// [`finish`](Self::finish) writes those, and ends the outage under the same lock.
    fn attempt(&mut self, store: &mut S) -> Result<(), Error> {
        if self.needs_reconnect {
            let connected = store.connect(&self.name)?;
            self.needs_reconnect = false;
            let is_same_instance =
                connected.instance_id.is_some() && connected.instance_id == self.instance_id;
            if !is_same_instance {
                self.resync_reason = Some(ResyncReason::MayBeOlder);
            }
            // The same instance may have been flushed, or have evicted records, meanwhile.
            self.resync_reason.get_or_insert(ResyncReason::MayHaveLess);
            self.instance_id = connected.instance_id;
        }
        if self.is_out_of_memory {
            self.write_batch(store, true)?;
        }
        // First of all other writes, which may overwrite the old keys.
        self.relocate_records(store)?;
        if let Some(reason) = self.resync_reason {
            self.resync(store, reason)?;
            self.resync_reason = None;
        }
        self.write_pending(store)
    }

    /// Runs `work` on the open records, or fails if this worker is stale.
    fn with_open<T>(&self, work: impl FnOnce(&mut CallSemantics<S>) -> T) -> Result<T, Error> {
        let mut lifecycle = self.context.shared.lock();
        if self.context.is_stale(&lifecycle) {
            return Err(closed_error());
        }
        lifecycle.open.as_mut().map(work).ok_or_else(closed_error)
    }

    /// Relocates records from keys that pending writes overwrite.
    fn relocate_records(&self, store: &mut S) -> Result<(), Error> {
        for (old, new) in self.with_open(|open| open.cache.relocation_steps())? {
            let is_expected =
                |value: &[u8]| self.with_open(|open| open.cache.is_relocated_value(new, value));
            let value = relocate_record(store, (old, new), is_expected, false)?;
            self.with_open(|open| open.cache.finish_relocation((old, new), value.as_deref()))?;
        }
        Ok(())
    }

    /// Compares the store with the cache, and notes differences as pending writes.
    fn resync(&self, store: &mut S, reason: ResyncReason) -> Result<(), Error> {
        let may_be_older = reason == ResyncReason::MayBeOlder;
        let (keys, foreign) = list_keys(store)?;
        let unverified = self.with_open(|open| open.cache.resync(&keys, foreign, may_be_older))?;
        for keys in unverified.chunks(VERIFY_BATCH) {
            let values = read_or_split(store, keys)?;
            self.with_open(|open| {
                for (key, value) in keys.iter().zip(values) {
                    open.cache.verify_value(*key, value.as_deref());
                }
            })?;
        }
        Ok(())
    }

    /// Writes pending batches until one batch holds all that is left, then checks the store.
    fn write_pending(&mut self, store: &mut S) -> Result<(), Error> {
        if self.is_out_of_memory {
            self.write_batch(store, true)?;
        }
        loop {
            let is_last = self.write_batch(store, false)?;
            // Calls may have queued a relocation since the batch was taken.
            self.relocate_records(store)?;
            if is_last {
                break;
            }
        }
        // If nothing was pending, no exchange has shown yet that the store takes writes.
        store.check().map(drop)
    }

    /// Writes one batch, and returns `true` if nothing was pending beside it.
    fn write_batch(&self, store: &mut S, only_removes: bool) -> Result<bool, Error> {
        let bytes = self.batch_bytes;
        // The batch copies its values, so that the mutex is free during the exchange.
        let batch = self.with_open(|open| open.cache.next_batch(bytes, only_removes))?;
        if !batch.is_empty() {
            batch.write(store, false)?;
            self.with_open(|open| open.cache.confirm_batch())?;
        }
        Ok(batch.is_last)
    }

    /// Writes what calls have added since the last batch, and ends the outage. Returns `true` if
    /// recovery is over.
    ///
    /// Holds the mutex during the exchange: otherwise steady calls could add writes forever.
    fn finish(&mut self, mut store: S) -> bool {
        let shared = self.context.shared;
        let mut lifecycle = shared.lock();
        let is_stale = self.context.is_stale(&lifecycle);
        let Some(open) = lifecycle.open.as_mut().filter(|_| !is_stale) else {
            self.context.return_store(&mut lifecycle, store);
            return true;
        };
        let written = write_remaining(&mut open.cache, &mut store);
        let is_over = written.is_ok();
        match written {
            Ok(()) => open.cache.end_outage(store, self.instance_id.take()),
            Err(error) => {
                self.note_failure(error.kind());
                open.cache.still_down(error);
                open.cache.return_store(store);
            }
        }
        shared.changed.notify_all();
        is_over
    }

    /// Adapts the next attempt to the error of this one.
    fn note_failure(&mut self, kind: ErrorKind) {
        self.needs_reconnect |= needs_new_connection(kind);
        self.is_out_of_memory = kind == ErrorKind::OutOfMemory;
        if kind == ErrorKind::Timeout {
            self.batch_bytes = (self.batch_bytes / 2).max(1);
        }
    }

    /// Returns the store for the backoff, so that calls can read from it if it is readable. Returns
    /// `false` if this worker is stale.
    fn return_store(&mut self, store: S, error: Error) -> bool {
        self.note_failure(error.kind());
        let shared = self.context.shared;
        let mut lifecycle = shared.lock();
        let is_stale = self.context.is_stale(&lifecycle);
        let Some(open) = lifecycle.open.as_mut().filter(|_| !is_stale) else {
            self.context.return_store(&mut lifecycle, store);
            return false;
        };
        open.cache.still_down(error);
        open.cache.return_store(store);
        shared.changed.notify_all();
        true
    }

    /// Waits for the backoff, reporting the status meanwhile, and takes the store again. `None` if
    /// this worker is stale.
    fn lend_after_backoff(&mut self) -> Option<S> {
        let until = deadline_after(with_jitter(self.backoff));
        self.backoff = self.backoff.saturating_mul(2).min(MAX_BACKOFF);
        loop {
            self.context.deliver_events();
            let shared = self.context.shared;
            let mut lifecycle = shared.lock();
            if self.context.is_stale(&lifecycle) {
                return None;
            }
            let open = lifecycle.open.as_mut()?;
            if Instant::now() >= until {
                return open.cache.lend_store_again();
            }
            self.push_status(open);
            drop(shared.wait_until(lifecycle, until.min(deadline_after(STATUS_INTERVAL))));
        }
    }

    /// Queues a status event and, once per outage, the buffer warning.
    fn push_status(&mut self, open: &mut CallSemantics<S>) {
        let status = open.cache.health_snapshot();
        if status.held_bytes >= self.context.shared.config.buffer_warn_bytes && !self.has_warned {
            self.has_warned = true;
            let bytes = status.held_bytes;
            open.cache.events.push(StoreEvent::BufferWarning { bytes });
        }
        open.cache.events.push(StoreEvent::Status(status));
    }
}

/// Relocates and writes all that is still pending, while calls wait.
fn write_remaining<S: Store>(cache: &mut WriteBehindCache<S>, store: &mut S) -> Result<(), Error> {
    for (old, new) in cache.relocation_steps() {
        let is_expected = |value: &[u8]| Ok(cache.is_relocated_value(new, value));
        let value = relocate_record(store, (old, new), is_expected, true)?;
        cache.finish_relocation((old, new), value.as_deref());
    }
    cache.next_batch(usize::MAX, false).write(store, true)
}

/// The error that ends an attempt of a stale worker; it is dropped and never shown.
fn closed_error() -> Error {
    Error::new(ErrorKind::NotOpen, "bring the store up to date")
}

/// Returns `true` unless the error is a reply that leaves the connection usable.
fn needs_new_connection(kind: ErrorKind) -> bool {
    use ErrorKind::{
        Busy, Loading, Lost, Misconf, OutOfMemory, Permission, Server, Unconfirmed, WrongType,
    };
    // `ReadOnly` is not listed: after a failover another server may be the primary.
    !matches!(
        kind,
        Busy | Loading
            | Lost
            | Misconf
            | OutOfMemory
            | Permission
            | Server
            | Unconfirmed
            | WrongType
    )
}

/// Adds up to a quarter, so that clients of one store do not all reconnect at the same time.
fn with_jitter(backoff: Duration) -> Duration {
    let [random, ..] = RandomState::new().hash_one(0).to_ne_bytes();
    let jitter = backoff.mul_f64(f64::from(random) / 1024.0);
    backoff.saturating_add(jitter)
}
