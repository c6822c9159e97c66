//! How a store that was away gets everything again, while calls go on.

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

/// How many bytes are written again in one step.
const BATCH_BYTES: usize = 256 * 1024;
/// How many values are compared in one step.
const COMPARED: usize = 64;
/// How long it takes until the next attempt; it doubles with each that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often it is told what is held meanwhile.
const REPORT: Duration = Duration::from_millis(500);

/// Goes on until the store has everything, or the records are closed.
pub(super) fn recover<S: Store>(context: &WorkerContext<'_, S>, away: LentStore<S>) {
    let mut recovery = Recovery {
        context,
        is_broken: is_broken(away.kind),
        is_full: away.kind == ErrorKind::OutOfMemory,
        doubt: matches!(away.kind, ErrorKind::Lost | ErrorKind::Unconfirmed)
            .then_some(ResyncReason::MayHaveLess),
        name: away.name,
        life: away.life,
        pause: FIRST_PAUSE,
        batch_bytes: BATCH_BYTES,
        is_alarmed: false,
    };
    let mut store = away.store;
    loop {
        let goes_on = match recovery.attempt(&mut store) {
            Ok(()) => !recovery.finish(store),
            Err(error) => recovery.return_store(store, error),
        };
        if !goes_on {
            return;
        }
        match recovery.take_after_pause() {
            Some(again) => store = again,
            None => return,
        }
    }
}

struct Recovery<'a, S: Store> {
    context: &'a WorkerContext<'a, S>,
    name: String,
    /// The connection is of no use.
    is_broken: bool,
    /// What makes room goes first.
    is_full: bool,
    doubt: Option<ResyncReason>,
    life: Option<String>,
    pause: Duration,
    /// How much is written in one step: less where it took too long.
    batch_bytes: usize,
    is_alarmed: bool,
}

/// Why what the store has may not be what it was told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResyncReason {
    /// It is the same, but there may be less in it.
    MayHaveLess,
    /// It is another one, or has started anew with what it had kept.
    MayBeOlder,
}

impl<S: Store> Recovery<'_, S> {
    /// Brings the store up to date, but for what is unconfirmed in the end: the store is to be
    /// [given back](Self::finish) under the same lock.
    fn attempt(&mut self, store: &mut S) -> Result<(), Error> {
        if self.is_broken {
            let connected = store.connect(&self.name)?;
            self.is_broken = false;
            let is_same = connected.instance_id.is_some() && connected.instance_id == self.life;
            if !is_same {
                self.doubt = Some(ResyncReason::MayBeOlder);
            }
            self.doubt.get_or_insert(ResyncReason::MayHaveLess);
            self.life = connected.instance_id;
        }
        if self.is_full {
            self.write_batch(store, true)?;
        }
        self.move_records(store)?;
        if let Some(doubt) = self.doubt {
            self.compare(store, doubt)?;
            self.doubt = None;
        }
        self.write_again(store)
    }

    /// Works on the open records, as long as somebody needs them.
    fn with_records<T>(&self, work: impl FnOnce(&mut CallSemantics<S>) -> T) -> Result<T, Error> {
        let mut state = self.context.shared.lock();
        if self.context.is_over(&state) {
            return Err(closed());
        }
        state.open.as_mut().map(work).ok_or_else(closed)
    }

    /// Moves records out of the way of what is to be written over them.
    fn move_records(&self, store: &mut S) -> Result<(), Error> {
        for (old, new) in self.with_records(|open| open.cache.relocation_steps())? {
            let is_it =
                |value: &[u8]| self.with_records(|open| open.cache.is_relocated_value(new, value));
            let value = relocate_record(store, (old, new), is_it, false)?;
            self.with_records(|open| open.cache.finish_relocation((old, new), value.as_deref()))?;
        }
        Ok(())
    }

    /// Finds out what the store has, and notes what it lacks.
    fn compare(&self, store: &mut S, doubt: ResyncReason) -> Result<(), Error> {
        let is_older = doubt == ResyncReason::MayBeOlder;
        let (keys, foreign) = list_keys(store)?;
        let to_compare = self.with_records(|open| open.cache.resync(&keys, foreign, is_older))?;
        for keys in to_compare.chunks(COMPARED) {
            let values = read_or_split(store, keys)?;
            self.with_records(|open| {
                for (key, value) in keys.iter().zip(values) {
                    open.cache.verify_value(*key, value.as_deref());
                }
            })?;
        }
        Ok(())
    }

    /// Writes what is unconfirmed, until there is little enough of it.
    fn write_again(&mut self, store: &mut S) -> Result<(), Error> {
        if self.is_full {
            self.write_batch(store, true)?;
        }
        loop {
            let is_last = self.write_batch(store, false)?;
            // Calls may have something moved meanwhile.
            self.move_records(store)?;
            if is_last {
                break;
            }
        }
        // There may have been nothing to write.
        store.check().map(drop)
    }

    /// Tells whether that was the last one.
    fn write_batch(&self, store: &mut S, only_removes: bool) -> Result<bool, Error> {
        let bytes = self.batch_bytes;
        let batch = self.with_records(|open| open.cache.next_batch(bytes, only_removes))?;
        if !batch.is_empty() {
            batch.write(store, false)?;
            self.with_records(|open| open.cache.confirm_batch())?;
        }
        Ok(batch.is_last)
    }

    /// Writes what calls have changed meanwhile, and gives the store back: they wait for that, since
    /// otherwise they could keep it from ever coming to an end. Tells whether it has.
    fn finish(&mut self, mut store: S) -> bool {
        let shared = self.context.shared;
        let mut state = shared.lock();
        let is_over = self.context.is_over(&state);
        let Some(open) = state.open.as_mut().filter(|_| !is_over) else {
            self.context.return_store(&mut state, store);
            return true;
        };
        let made = make_the_rest(&mut open.cache, &mut store);
        let is_made = made.is_ok();
        match made {
            Ok(()) => open.cache.end_outage(store, self.life.take()),
            Err(error) => {
                self.learn(error.kind());
                open.cache.still_down(error);
                open.cache.return_store(store);
            }
        }
        shared.changed.notify_all();
        is_made
    }

    /// What an error says of the next attempt.
    fn learn(&mut self, kind: ErrorKind) {
        self.is_broken |= is_broken(kind);
        self.is_full = kind == ErrorKind::OutOfMemory;
        if kind == ErrorKind::Timeout {
            self.batch_bytes = (self.batch_bytes / 2).max(1);
        }
    }

    /// Lets calls read from it, where it can be read, until the next attempt; there is none where
    /// nobody needs it any more.
    fn return_store(&mut self, store: S, error: Error) -> bool {
        self.learn(error.kind());
        let shared = self.context.shared;
        let mut state = shared.lock();
        let is_over = self.context.is_over(&state);
        let Some(open) = state.open.as_mut().filter(|_| !is_over) else {
            self.context.return_store(&mut state, store);
            return false;
        };
        open.cache.still_down(error);
        open.cache.return_store(store);
        shared.changed.notify_all();
        true
    }

    /// Waits until the next attempt is due, and tells meanwhile what is held; there is no store where
    /// nobody needs it any more.
    fn take_after_pause(&mut self) -> Option<S> {
        let until = deadline_after(with_jitter(self.pause));
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        loop {
            self.context.deliver_events();
            let shared = self.context.shared;
            let mut state = shared.lock();
            if self.context.is_over(&state) {
                return None;
            }
            let open = state.open.as_mut()?;
            if Instant::now() >= until {
                return open.cache.lend_store_again();
            }
            self.report(open);
            drop(shared.wait(state, until.min(deadline_after(REPORT))));
        }
    }

    fn report(&mut self, open: &mut CallSemantics<S>) {
        let status = open.cache.health_snapshot();
        if status.held_bytes >= self.context.shared.config.buffer_warn_bytes && !self.is_alarmed {
            self.is_alarmed = true;
            let bytes = status.held_bytes;
            open.cache.events.push(StoreEvent::BufferWarning { bytes });
        }
        open.cache.events.push(StoreEvent::Status(status));
    }
}

/// Moves and writes what is left.
fn make_the_rest<S: Store>(cache: &mut WriteBehindCache<S>, store: &mut S) -> Result<(), Error> {
    for (old, new) in cache.relocation_steps() {
        let is_it = |value: &[u8]| Ok(cache.is_relocated_value(new, value));
        let value = relocate_record(store, (old, new), is_it, true)?;
        cache.finish_relocation((old, new), value.as_deref());
    }
    cache.next_batch(usize::MAX, false).write(store, true)
}

/// Nobody hears of it.
fn closed() -> Error {
    Error::new(ErrorKind::NotOpen, "bring the store up to date")
}

/// Whether nothing more can be sent over that connection.
fn is_broken(kind: ErrorKind) -> bool {
    use ErrorKind::{
        Busy, Loading, Lost, Misconf, OutOfMemory, Permission, Server, Unconfirmed, WrongType,
    };
    // Another one may be the master by now.
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

/// Many clients that lost the same store do not come back all at once.
fn with_jitter(pause: Duration) -> Duration {
    let [random, ..] = RandomState::new().hash_one(0).to_ne_bytes();
    let jitter = pause.mul_f64(f64::from(random) / 1024.0);
    pause.saturating_add(jitter)
}
