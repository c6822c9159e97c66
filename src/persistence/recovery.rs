//! How a store that was away gets everything again, while calls go on.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use super::{
    events::StoreEvent,
    health::snapshot,
    ledger::Away,
    opening::{self, read_patiently},
    state::{Shared, State},
    watcher::Watch,
};
use crate::{Error, ErrorKind, Store, deadline::deadline};

/// How many bytes are written again in one step.
const BATCH_BYTES: usize = 256 * 1024;
/// So much is written while calls wait: otherwise they could keep it from ever coming to an end.
const LAST_BYTES: usize = 64 * 1024;
/// How many values are compared in one step.
const COMPARED: usize = 64;
/// How long it takes until the next attempt; it doubles with each that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often it is told what is held meanwhile.
const REPORT: Duration = Duration::from_millis(500);

/// Goes on until the store has everything, or the records are closed.
pub(super) fn recover<S: Store>(watch: &Watch<'_, S>, away: Away<S>) {
    let mut recovery = Recovery {
        shared: watch.shared,
        is_broken: is_broken(away.kind),
        doubt: matches!(away.kind, ErrorKind::Lost | ErrorKind::Unconfirmed)
            .then_some(Doubt::Emptied),
        store: Some(away.store),
        name: away.name,
        life: away.life,
        pause: FIRST_PAUSE,
        is_alarmed: false,
    };
    while let Err(error) = recovery.attempt() {
        recovery.is_broken |= is_broken(error.kind());
        if let Some(open) = &mut watch.shared.lock().open {
            open.ledger.failed_again(error);
        }
        if recovery.is_over_after_pause(watch) {
            return;
        }
    }
}

struct Recovery<'a, S: Store> {
    shared: &'a Shared<S>,
    /// Until it is given back.
    store: Option<S>,
    name: String,
    /// The connection is of no use.
    is_broken: bool,
    doubt: Option<Doubt>,
    life: Option<String>,
    pause: Duration,
    is_alarmed: bool,
}

/// Why what the store has may not be what it was told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It is the same, but there may be less in it.
    Emptied,
    /// It is another one, or has started anew with what it had kept.
    Older,
}

impl<S: Store> Recovery<'_, S> {
    fn attempt(&mut self) -> Result<(), Error> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };
        if self.is_broken {
            let connected = store.connect(&self.name)?;
            self.is_broken = false;
            let is_same = connected.life.is_some() && connected.life == self.life;
            if !is_same {
                self.doubt = Some(Doubt::Older);
            }
            self.doubt.get_or_insert(Doubt::Emptied);
            self.life = connected.life;
        }
        if let Some(doubt) = self.doubt {
            self.compare(doubt)?;
            self.doubt = None;
        }
        self.write_again()
    }

    /// Finds out what the store has, and notes what it lacks.
    fn compare(&mut self, doubt: Doubt) -> Result<(), Error> {
        let (Some(store), is_older) = (&mut self.store, doubt == Doubt::Older) else {
            return Ok(());
        };
        let (keys, foreign) = opening::list(store)?;
        let to_compare = match &mut self.shared.lock().open {
            Some(open) => open.ledger.compare(&keys, foreign, is_older),
            None => Vec::new(),
        };
        for keys in to_compare.chunks(COMPARED) {
            let values = read_patiently(store, keys)?;
            if let Some(open) = &mut self.shared.lock().open {
                for (key, value) in keys.iter().zip(values) {
                    open.ledger
                        .compare_value(*key, value.map(|value| value.len()));
                }
            }
        }
        Ok(())
    }

    /// Writes what is unconfirmed until nothing is, and then gives the store back.
    fn write_again(&mut self) -> Result<(), Error> {
        loop {
            let mut state = self.shared.lock();
            let (Some(store), Some(open)) = (&mut self.store, &mut state.open) else {
                return Ok(());
            };
            let batch = open.ledger.batch(BATCH_BYTES);
            if batch.is_last && batch.bytes <= LAST_BYTES {
                batch.make(store)?;
                // There may have been nothing to write.
                store.check()?;
                if let Some(store) = self.store.take() {
                    open.ledger.recovered(store, self.life.take());
                }
                self.shared.changed.notify_all();
                return Ok(());
            }
            drop(state);
            batch.make(store)?;
            if let Some(open) = &mut self.shared.lock().open {
                open.ledger.settle(&batch);
            }
        }
    }

    /// Waits until the next attempt is due, and tells meanwhile what is held; or gives the store
    /// back as it is, since nobody needs it any more.
    fn is_over_after_pause(&mut self, watch: &Watch<'_, S>) -> bool {
        let until = deadline(with_jitter(self.pause));
        self.pause = self.pause.saturating_mul(2).min(LONGEST_PAUSE);
        loop {
            watch.tell();
            let mut state = self.shared.lock();
            if watch.is_over(&state) {
                if let (Some(open), Some(store)) = (&mut state.open, self.store.take()) {
                    open.ledger.give_back(store);
                }
                self.shared.changed.notify_all();
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            self.report(&mut state);
            drop(self.shared.wait(state, until.min(deadline(REPORT))));
        }
    }

    fn report(&mut self, state: &mut State<S>) {
        let Some(open) = &mut state.open else { return };
        let status = snapshot(&open.ledger);
        if status.held_bytes >= self.shared.settings.hold_alarm && !self.is_alarmed {
            self.is_alarmed = true;
            let bytes = status.held_bytes;
            open.ledger.events.push(StoreEvent::HoldAlarm { bytes });
        }
        open.ledger.events.push(StoreEvent::Status(status));
    }
}

/// Whether nothing more can be sent over that connection.
fn is_broken(kind: ErrorKind) -> bool {
    use ErrorKind::{
        Busy, Loading, Lost, Misconf, OutOfMemory, Permission, ReadOnly, Server, Unconfirmed,
        WrongType,
    };
    !matches!(
        kind,
        Busy | Loading
            | Lost
            | Misconf
            | OutOfMemory
            | Permission
            | ReadOnly
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
