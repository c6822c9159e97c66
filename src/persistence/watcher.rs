//! The thread of an open persistence: what happens without a call of Paho.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    events::StoreEvent,
    health::snapshot,
    recovery::recover,
    state::{Shared, State},
    telling::Telling,
};
use crate::{HealthSnapshot, Store, net::deadline_after};

/// How long a remove is held, and how long what nobody waits for goes unasked.
const TICK: Duration = Duration::from_millis(100);
/// How often the store is asked whether it is there and still has everything.
const IDLE: Duration = Duration::from_secs(1);

/// What the thread waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sleep {
    /// It is at work, or there is none.
    No,
    Tick,
    /// There is nothing to do but to ask the store now and then.
    Idle,
}

/// Starts the thread, which ends when the records are closed.
pub(super) fn start<S: Store>(shared: &Arc<Shared<S>>, telling: Telling) -> io::Result<()> {
    let opening = shared.lock().opening;
    let shared = Arc::clone(shared);
    let watch = move || {
        Watch {
            shared: &shared,
            opening,
            telling: &telling,
        }
        .run();
    };
    thread::Builder::new()
        .name("mqtt-persistence".to_owned())
        .spawn(watch)?;
    Ok(())
}

/// The thread of one opening.
pub(super) struct Watch<'a, S: Store> {
    pub(super) shared: &'a Shared<S>,
    opening: u64,
    telling: &'a Telling,
}

impl<S: Store> Watch<'_, S> {
    fn run(&self) {
        let mut told = Told::default();
        let mut checked = Instant::now();
        loop {
            self.tell();
            let mut state = self.shared.lock();
            if self.is_over(&state) {
                break;
            }
            let Some(open) = &mut state.open else { break };
            if !open.ledger.events.is_empty() {
                continue;
            }
            if let Some(status) = told.news(snapshot(&open.ledger)) {
                open.ledger.events.push(StoreEvent::Status(status));
                continue;
            }
            if let Some(away) = open.ledger.take_store() {
                drop(state);
                recover(self, away);
                continue;
            }
            let (sleep, limit) = if open.ledger.is_busy() {
                (Sleep::Tick, TICK)
            } else {
                (Sleep::Idle, IDLE.saturating_sub(checked.elapsed()))
            };
            state.sleep = sleep;
            let (mut state, is_due) = self.shared.wait(state, deadline_after(limit));
            state.sleep = Sleep::No;
            if !is_due || self.is_over(&state) {
                continue;
            }
            let Some(open) = &mut state.open else { break };
            open.ledger.flush();
            if checked.elapsed() >= IDLE {
                checked = Instant::now();
                open.ledger.check();
            }
        }
        self.telling.tell(&StoreEvent::Closed);
    }

    /// The records were closed, or are being closed; they may have been opened again since.
    pub(super) fn is_over(&self, state: &State<S>) -> bool {
        state.closing || state.opening != self.opening
    }

    /// Gives back a store that nobody needs any more, to be opened again.
    pub(super) fn return_store(&self, state: &mut State<S>, mut store: S) {
        match &mut state.open {
            // What closes the records waits for it.
            Some(open) if state.opening == self.opening => open.ledger.give_back(store),
            _ => {
                store.close();
                state.store.get_or_insert(store);
            }
        }
        self.shared.changed.notify_all();
    }

    /// Tells what has happened, outside the lock.
    pub(super) fn tell(&self) {
        let events = match &mut self.shared.lock().open {
            Some(open) => open.ledger.events.take(),
            None => return,
        };
        for event in events {
            self.telling.tell(&event);
        }
    }
}

/// What was told last of how the store is, and when.
#[derive(Default)]
struct Told(Option<(HealthSnapshot, Instant)>);

impl Told {
    /// What is to be told of it now: at once where it is up or down or has lost something, ten times a
    /// second what changes with every call, and once a second that nothing does.
    fn news(&mut self, status: HealthSnapshot) -> Option<HealthSnapshot> {
        if let Some((told, at)) = self.0 {
            let age = at.elapsed();
            let is_grave = told.up != status.up || told.lost_records != status.lost_records;
            let is_other = HealthSnapshot {
                last_confirmed: told.last_confirmed,
                ..status
            } != told;
            let is_due = is_grave || is_other && age >= TICK || told != status && age >= IDLE;
            if !is_due {
                return None;
            }
        }
        self.0 = Some((status, Instant::now()));
        Some(status)
    }
}
