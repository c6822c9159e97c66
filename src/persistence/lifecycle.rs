//! The life of a persistence: closed, opening, up, down, recovering or closing.
//!
//! Each state owns what exists only in it. The transitions are here; none of them waits.

use std::{mem, sync::Arc, time::Duration};

use super::{
    call_semantics::CallSemantics,
    exchange::{Answer, Exchange, Step},
    fill::WaitingLimits,
    notifier::Notifier,
    recovery::Recovery,
    schedule::Schedule,
};
use crate::{
    cache::{Outage, StoreAccess},
    clock::Clock,
    error::Error,
    store::{HealthSnapshot, Store, StoreEvent},
};

/// The state of a persistence, with what it owns.
pub(super) enum Lifecycle<S> {
    Closed(S),
    /// `connect` or `open` has the store.
    Opening,
    Up {
        store: S,
        opened: Box<Opened>,
    },
    /// An outage, before the next step of its recovery.
    Down {
        store: S,
        opened: Box<Opened>,
        outage: Outage,
        recovery: Box<Recovery>,
    },
    /// An outage, while the worker has the store for one step of recovery.
    Recovering {
        opened: Box<Opened>,
        outage: Outage,
        recovery: Box<Recovery>,
    },
    /// Closed, while the worker still has the store.
    Closing,
}

/// Everything that exists from `open` to `close`, whatever the state of the store.
pub(super) struct Opened {
    pub(super) records: CallSemantics,
    /// Name under which the store has the records.
    name: String,
    /// Identity of the data in the store at the last connect.
    instance_id: Option<String>,
    /// The error of the present outage or, if the store is up, of the last one.
    last_error: Option<Arc<Error>>,
    pub(super) schedule: Schedule,
    pub(super) notifier: Arc<Notifier>,
}

impl Opened {
    pub(super) fn new(
        records: CallSemantics,
        name: String,
        instance_id: Option<String>,
        now: Duration,
        notifier: Arc<Notifier>,
    ) -> Box<Self> {
        Box::new(Self {
            records,
            name,
            instance_id,
            last_error: None,
            schedule: Schedule::new(now),
            notifier,
        })
    }

    pub(super) fn last_error(&self) -> Option<Arc<Error>> {
        self.last_error.clone()
    }

    fn post_events(&mut self) {
        if !self.records.cache.events.is_empty() {
            self.notifier.post(self.records.take_events());
        }
    }
}

/// The result of a close: the records, and the outage in which it happened.
pub(super) struct Closed {
    pub(super) records: CallSemantics,
    outage: Option<Arc<Error>>,
}

impl Closed {
    /// The result of the close: an error if the store is unavailable, or has not confirmed every write.
    ///
    /// It names the consequence, which depends on what is pending: records are lost, removes only make
    /// the next start send messages again.
    pub(super) fn result(&self) -> Result<(), Error> {
        let cache = &self.records.cache;
        let outage = self.outage.as_ref();
        let Some(cause) = outage.or_else(|| cache.refusal()) else {
            return Ok(());
        };
        let (attempt, what, consequence) = match cache.pending_totals().records {
            0 if cache.has_pending() => (
                "write the pending removes before closing".to_owned(),
                "them",
                ", so acknowledged messages may be sent again",
            ),
            0 => (
                "check the store before closing".to_owned(),
                "writes",
                "; no write is pending",
            ),
            1 => (
                "write 1 pending record before closing".to_owned(),
                "it",
                ", so it is lost with this process",
            ),
            records => (
                format!("write {records} pending records before closing"),
                "them",
                ", so they are lost with this process",
            ),
        };
        let is_refused = outage.is_none_or(|error| error.kind().is_refusal());
        let reason = if is_refused {
            format!("the store refuses {what}{consequence}")
        } else {
            format!("the store is unavailable{consequence}")
        };
        Err(Error::new(cause.kind(), attempt)
            .with_reason(reason)
            .with_source(Arc::clone(cause)))
    }
}

impl<S: Store> Lifecycle<S> {
    pub(super) fn opened(&self) -> Option<&Opened> {
        match self {
            Self::Closed(_) | Self::Opening | Self::Closing => None,
            Self::Up { opened, .. }
            | Self::Down { opened, .. }
            | Self::Recovering { opened, .. } => Some(opened),
        }
    }

    pub(super) fn outage(&self) -> Option<&Outage> {
        match self {
            Self::Closed(_) | Self::Opening | Self::Up { .. } | Self::Closing => None,
            Self::Down { outage, .. } | Self::Recovering { outage, .. } => Some(outage),
        }
    }

    pub(super) fn outage_mut(&mut self) -> Option<&mut Outage> {
        match self {
            Self::Closed(_) | Self::Opening | Self::Up { .. } | Self::Closing => None,
            Self::Down { outage, .. } | Self::Recovering { outage, .. } => Some(outage),
        }
    }

    /// Returns the store if it is not in use by the worker, `connect` or `open`.
    pub(super) fn store(&self) -> Option<&S> {
        match self {
            Self::Closed(store) | Self::Up { store, .. } | Self::Down { store, .. } => Some(store),
            Self::Opening | Self::Recovering { .. } | Self::Closing => None,
        }
    }

    /// Returns true if a step of recovery is in progress, after which values can be read again.
    pub(super) fn is_readable_after_step(&self) -> bool {
        matches!(self, Self::Recovering { outage, .. } if outage.is_readable())
    }

    /// The state of the store, for `Health` and `StoreEvent::Status`.
    pub(super) fn health_snapshot(&self, limits: WaitingLimits) -> HealthSnapshot {
        let Some(opened) = self.opened() else {
            return HealthSnapshot::default();
        };
        HealthSnapshot {
            limit_messages: limits.messages,
            limit_bytes: limits.bytes,
            ..opened.records.cache.health_snapshot(self.outage())
        }
    }

    /// The state of a persistence that was opened although its store is unavailable.
    pub(super) fn opened_without_store(
        store: S,
        mut opened: Box<Opened>,
        error: Arc<Error>,
        clock: &Clock,
    ) -> Self {
        let recovery = Recovery::of_opening(error.kind(), clock.since_boot());
        opened.last_error = Some(Arc::clone(&error));
        let down = StoreEvent::Down {
            error: Arc::clone(&error),
        };
        opened.notifier.outbox.post([down]);
        Self::Down {
            store,
            opened,
            outage: Outage::new(error, clock),
            recovery: Box::new(recovery),
        }
    }

    /// Takes the store of a closed persistence, in order to open it.
    pub(super) fn begin_opening(&mut self) -> Option<S> {
        match mem::replace(self, Self::Opening) {
            Self::Closed(store) => Some(store),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Runs one call on the open records; `None` if the persistence is not open.
    ///
    /// If an exchange fails in it, an outage begins.
    pub(super) fn call<T>(
        &mut self,
        clock: &Clock,
        work: impl FnOnce(&mut CallSemantics, &mut StoreAccess<'_, S>) -> T,
    ) -> Option<T> {
        let (opened, mut access) = match self {
            Self::Closed(_) | Self::Opening | Self::Closing => return None,
            Self::Up { store, opened } => (opened, StoreAccess::up(store, clock)),
            Self::Down {
                store,
                opened,
                outage,
                ..
            } => (opened, StoreAccess::down(Some(store), outage, clock)),
            Self::Recovering { opened, outage, .. } => {
                (opened, StoreAccess::down(None, outage, clock))
            }
        };
        let result = work(&mut opened.records, &mut access);
        let failure = access.into_failure();
        opened.post_events();
        if let Some(error) = failure {
            self.begin_outage(error, clock);
        }
        Some(result)
    }

    /// Begins an outage, or replaces the reason of one in which reads worked so far.
    fn begin_outage(&mut self, error: Arc<Error>, clock: &Clock) {
        if let Self::Down {
            opened,
            outage,
            recovery,
            ..
        } = self
        {
            outage.was_waited_for |= Outage::is_wait(&error);
            note_failure(opened, outage, recovery, (None, error), clock);
            return;
        }
        *self = match mem::replace(self, Self::Closing) {
            Self::Up { store, mut opened } => {
                let down = StoreEvent::Down {
                    error: Arc::clone(&error),
                };
                opened.notifier.outbox.post([down]);
                opened.last_error = Some(Arc::clone(&error));
                opened.schedule.has_warned = false;
                let recovery = Recovery::new(error.kind(), clock.since_boot());
                opened.records.cache.reopen_refused();
                Self::Down {
                    store,
                    opened,
                    outage: Outage::new(error, clock),
                    recovery: Box::new(recovery),
                }
            }
            other => other,
        };
    }

    /// Takes the next step of recovery if it is due.
    pub(super) fn take_step(&mut self, clock: &Clock) -> Option<Exchange<S>> {
        let now = clock.since_boot();
        match mem::replace(self, Self::Closing) {
            Self::Down {
                store,
                mut opened,
                outage,
                mut recovery,
            } if recovery.due <= now => {
                let cache = &mut opened.records.cache;
                cache.note_time(clock);
                if let Some(step) = recovery.next_step(cache, &opened.name) {
                    *self = Self::Recovering {
                        opened,
                        outage,
                        recovery,
                    };
                    return Some(Exchange::new(store, step));
                }
                *self = finish(store, opened, outage, recovery, clock);
                None
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// Takes the store back after a step of recovery, with the answer.
    pub(super) fn note_step(&mut self, exchange: Exchange<S>, clock: &Clock) {
        let Exchange {
            mut store,
            step,
            answer,
        } = exchange;
        let Self::Recovering {
            mut opened,
            mut outage,
            mut recovery,
        } = mem::replace(self, Self::Closing)
        else {
            // It was closed, and cannot be opened again before the store is back.
            store.close();
            *self = Self::Closed(store);
            return;
        };
        match answer {
            Some(Ok(answer)) => note_answer(&mut opened, &mut recovery, (step, answer), clock),
            Some(Err(error)) => {
                let failed = (Some(&step), Arc::new(error));
                note_failure(&mut opened, &mut outage, &mut recovery, failed, clock);
            }
            None => {}
        }
        *self = Self::Down {
            store,
            opened,
            outage,
            recovery,
        };
    }

    /// Closes the records; if the worker has the store, it brings it back later.
    pub(super) fn close(&mut self) -> Option<Closed> {
        let (next, opened, outage) = match mem::replace(self, Self::Closing) {
            Self::Up { mut store, opened } => {
                store.close();
                (Self::Closed(store), opened, None)
            }
            Self::Down {
                mut store,
                opened,
                outage,
                ..
            } => {
                store.close();
                (Self::Closed(store), opened, Some(outage.error))
            }
            Self::Recovering { opened, outage, .. } => (Self::Closing, opened, Some(outage.error)),
            other => {
                *self = other;
                return None;
            }
        };
        *self = next;
        opened.notifier.outbox.post([StoreEvent::Closed]);
        Some(Closed {
            records: opened.records,
            outage,
        })
    }
}

fn note_answer(
    opened: &mut Opened,
    recovery: &mut Recovery,
    answered: (Step, Answer),
    clock: &Clock,
) {
    let Opened {
        records,
        instance_id,
        ..
    } = opened;
    if let (true, Answer::Listed(stored, ..)) = (recovery.is_loading(), &answered.1) {
        records.make_room_for(stored);
    }
    recovery.note_answer(&mut records.cache, instance_id, answered, clock);
    recovery.due = clock.since_boot();
    opened.post_events();
}

/// Notes that a step of recovery failed, or an exchange of a call; the writes in flight become unsent
/// again.
fn note_failure(
    opened: &mut Opened,
    outage: &mut Outage,
    recovery: &mut Recovery,
    (failed, error): (Option<&Step>, Arc<Error>),
    clock: &Clock,
) {
    let cache = &mut opened.records.cache;
    cache.retry_writes();
    recovery.note_failure(cache, failed, &error, (clock.since_boot(), clock.random()));
    opened.post_events();
    let is_new_reason = error.kind() != outage.error.kind();
    opened.last_error = Some(Arc::clone(&error));
    outage.error = Arc::clone(&error);
    opened.notifier.outbox.post([StoreEvent::StillDown {
        error,
        is_new_reason,
    }]);
}

/// Writes what calls have added since the last step, and ends the outage.
///
/// This happens under the mutex: otherwise steady calls could add writes forever.
fn finish<S: Store>(
    mut store: S,
    mut opened: Box<Opened>,
    mut outage: Outage,
    mut recovery: Box<Recovery>,
    clock: &Clock,
) -> Lifecycle<S> {
    let cache = &mut opened.records.cache;
    let before = cache.unsent_totals().records;
    let mut access = StoreAccess::up(&mut store, clock);
    cache.flush(&mut access);
    if let Some(error) = access.into_failure() {
        note_failure(
            &mut opened,
            &mut outage,
            &mut recovery,
            (None, error),
            clock,
        );
        return Lifecycle::Down {
            store,
            opened,
            outage,
            recovery,
        };
    }
    cache.end_resync();
    let written = u64::try_from(before).unwrap_or(u64::MAX);
    opened.notifier.outbox.post([StoreEvent::Up {
        outage: clock.since_boot().saturating_sub(outage.since),
        rewritten: recovery.rewritten.saturating_add(written),
    }]);
    Lifecycle::Up { store, opened }
}
