//! Reports store events to the log and the observers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    observer::{RecordObserver, StoreObserver},
    outbox::Outbox,
};
use crate::{
    clock::since_boot,
    error::{ErrorChain, ExplainedError, log_throttle::LogThrottle},
    paho::{DropReason, RecordKind},
    store::{Place, SetAsideLoss, StoreEvent},
    threads::{Job, NextTurn},
    units,
};

/// Runs the log and the observers for the store of one client.
///
/// They are user code, so they have threads of their own: one that blocks delays no recovery.
pub(super) struct Notifier {
    pub(super) store_name: &'static str,
    pub(super) client_id: String,
    pub(super) observers: Vec<Arc<dyn StoreObserver>>,
    pub(super) record_observer: Option<Arc<dyn RecordObserver>>,
    pub(super) outbox: Outbox,
    /// Limits the lines about dropped records: a full buffer drops one at each publish.
    pub(super) drops: Mutex<LogThrottle<(RecordKind, DropReason)>>,
    /// Limits the lines about what is set aside no longer.
    pub(super) set_aside_losses: Mutex<LogThrottle<(Place, SetAsideLoss)>>,
}

/// Logs with the fields that every line about a store has.
macro_rules! log {
    ($notifier:ident, $level:ident, $($rest:tt)*) => {
        $level!(
            "db.system.name" = $notifier.store_name,
            "messaging.client.id" = $notifier.client_id,
            $($rest)*
        )
    };
}

/// Delivers events until the persistence is closed.
impl Job for Notifier {
    fn turn(&self) -> NextTurn {
        for event in self.outbox.take() {
            self.notify(&event);
            if matches!(event, StoreEvent::Closed) {
                return NextTurn::Never;
            }
        }
        let now = Instant::now();
        let drops = self.drops().take_overdue(None, now);
        let losses = self.losses().take_overdue(None, now);
        catch_panic(|| self.log_drops(drops));
        catch_panic(|| self.log_losses(losses));
        self.until_overdue().map_or(NextTurn::OnWake, |left| {
            NextTurn::At(since_boot().saturating_add(left))
        })
    }
}

impl Notifier {
    /// Queues events, once the observer of the records has seen them.
    pub(super) fn post(&self, events: Vec<StoreEvent>) {
        if let Some(observer) = &self.record_observer {
            for event in &events {
                observer.on_record_event(event);
            }
        }
        self.outbox.post(events);
    }

    /// Returns the time after which suppressed lines are overdue, if there are any.
    fn until_overdue(&self) -> Option<Duration> {
        let now = Instant::now();
        let drops = self.drops().until_overdue(now);
        let losses = self.losses().until_overdue(now);
        drops.into_iter().chain(losses).min()
    }

    /// Delivers the events that are queued, and returns true if there were any.
    pub(super) fn deliver_queued(&self) -> bool {
        let events = self.outbox.take();
        for event in &events {
            self.notify(event);
        }
        !events.is_empty()
    }

    /// Logs an event and passes it to each observer.
    ///
    /// A panic in a log subscriber or an observer must not end the thread.
    fn notify(&self, event: &StoreEvent) {
        catch_panic(|| self.log_event(event));
        for observer in &self.observers {
            catch_panic(|| observer.on_event(&self.client_id, event));
        }
    }

    fn log_event(&self, event: &StoreEvent) {
        match event {
            StoreEvent::Connected { server } => log!(self, info, "connected to {server}"),
            StoreEvent::Down { error } => log!(
                self,
                warn,
                "error.type" = error.kind().as_str(),
                "{} is unavailable; writes are kept in memory until it recovers: {}",
                self.display_name(),
                ExplainedError(error)
            ),
            StoreEvent::StillDown {
                error,
                is_new_reason: true,
            } => log!(
                self,
                warn,
                "error.type" = error.kind().as_str(),
                "{} is still unavailable, now because: {}",
                self.display_name(),
                ExplainedError(error)
            ),
            // Records may have been reported lost a moment ago, so this must not claim that the
            // store has all of them.
            StoreEvent::Up { outage, rewritten } => log!(
                self,
                info,
                outage_seconds = seconds(*outage),
                rewritten,
                "{} is available again and has confirmed all pending writes but those that it refuses",
                self.display_name()
            ),
            StoreEvent::BufferWarning { bytes } => log!(
                self,
                error,
                bytes,
                "{} of records exist only in memory, since {} is unavailable or refuses them; they \
                 are lost if this process dies",
                units::size(*bytes),
                self.display_name()
            ),
            StoreEvent::Refused {
                error,
                records,
                bytes,
            } => log!(
                self,
                error,
                records,
                bytes,
                "error.type" = error.kind().as_str(),
                "{} refuses some records although it takes others; {} exist only in memory and are \
                 lost if this process dies: {}",
                self.display_name(),
                units::size(*bytes),
                ErrorChain(&**error)
            ),
            _ => self.log_record_event(event),
        }
    }

    /// Logs an event about records.
    fn log_record_event(&self, event: &StoreEvent) {
        match event {
            StoreEvent::NearlyFull {
                queued_messages,
                waiting_bytes,
            } => log!(
                self,
                warn,
                queued_messages,
                waiting_bytes,
                "the waiting messages are near their limit: {queued_messages} are not sent yet, and all \
                 have {}; is the broker away?",
                units::size(*waiting_bytes)
            ),
            StoreEvent::Lost { records } => log!(
                self,
                error,
                records,
                "{} lost records of which this process has no copy; was it flushed, or does its \
                 maxmemory-policy evict?",
                self.display_name()
            ),
            StoreEvent::ForeignRecords {
                records,
                removed: true,
            } => log!(
                self,
                warn,
                records,
                "{} had records that this process has never known; they are in the quarantine hash now",
                self.display_name()
            ),
            StoreEvent::ForeignRecords { records, .. } => log!(
                self,
                error,
                records,
                "{} has records that this client did not write; does another program use its \
                 client id?",
                self.display_name()
            ),
            StoreEvent::EarlierRecords { records } => log!(
                self,
                warn,
                records,
                "{} has records of an earlier run, which were not restored since it was unavailable at \
                 open; nothing sends them before the next start",
                self.display_name()
            ),
            StoreEvent::PoisonSuspect { key, connections } => log!(
                self,
                warn,
                "record.key" = key,
                connections,
                "a message was sent on {connections} connections and never acknowledged; does the broker \
                 hang up on it, or on one in front of it, or does it end this program?"
            ),
            StoreEvent::Dropped {
                kind,
                reason,
                records,
            } => self.log_drop(*kind, *reason, *records),
            StoreEvent::Closed => {
                let (drops, losses) = (self.drops().take_rest(), self.losses().take_rest());
                self.log_drops(drops);
                self.log_losses(losses);
            }
            StoreEvent::SetAsideLost {
                place,
                reason,
                records,
            } => self.log_set_aside_loss(*place, *reason, *records),
            // Metrics and observers use these; in the log they would be noise. `Lost` is logged for
            // all the records that it counts.
            _ => {}
        }
    }

    /// Logs dropped records, or leaves them to a later line about records of the same kind and reason.
    fn log_drop(&self, kind: RecordKind, reason: DropReason, records: usize) {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        let lines = self.drops().lines((kind, reason), records, Instant::now());
        for line in lines {
            self.log_drops(line);
        }
    }

    fn log_drops(&self, drops: Option<((RecordKind, DropReason), u64)>) {
        if let Some(((kind, reason), records)) = drops {
            warn!(
                "db.system.name" = self.store_name,
                "messaging.client.id" = self.client_id,
                "record.kind" = kind.as_str(),
                records,
                reason = reason.as_str(),
                "records were dropped that were not delivered: {}",
                explanation(reason)
            );
        }
    }

    fn drops(&self) -> MutexGuard<'_, LogThrottle<(RecordKind, DropReason)>> {
        self.drops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what is set aside no longer, as [`log_drop`](Self::log_drop) does.
    fn log_set_aside_loss(&self, place: Place, reason: SetAsideLoss, records: usize) {
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        let lines = self
            .losses()
            .lines((place, reason), records, Instant::now());
        for line in lines {
            self.log_losses(line);
        }
    }

    fn losses(&self) -> MutexGuard<'_, LogThrottle<(Place, SetAsideLoss)>> {
        let losses = self.set_aside_losses.lock();
        losses.unwrap_or_else(PoisonError::into_inner)
    }

    fn log_losses(&self, losses: Option<((Place, SetAsideLoss), u64)>) {
        if let Some(((place, reason), records)) = losses {
            warn!(
                "db.system.name" = self.store_name,
                "messaging.client.id" = self.client_id,
                place = place.as_str(),
                records,
                reason = reason.as_str(),
                "records that were set aside are gone: {}",
                loss_explanation(reason)
            );
        }
    }

    /// The store's name as people write it.
    fn display_name(&self) -> &'static str {
        if self.store_name == "redis" {
            "Redis"
        } else {
            self.store_name
        }
    }
}

/// Returns the cause of a drop and what to do about it.
fn explanation(reason: DropReason) -> &'static str {
    match reason {
        DropReason::BufferFull => {
            "the buffer was full; raise max_buffered_messages, or publish less while the broker is away"
        }
        DropReason::SessionLost => {
            "the broker no longer had the session, or the client asked for a clean one; have the broker save its \
             sessions, for longer than an outage; a client that Session has not started has to connect with \
             clean_start(false) and a session expiry. Unless dead letters are off, the messages are kept: \
             mqtt-backlog discarded list CLIENT_ID"
        }
        DropReason::SessionDiscarded => {
            "the client does not keep its session; connect with clean_start(false) and a session \
             expiry"
        }
        DropReason::NotRestored => "the client was created with restore_messages(false)",
        DropReason::Rejected => "the broker refused them; its log has the reason",
        DropReason::Damaged => {
            "Paho sent damaged copies of them, and the broker acknowledged those"
        }
        DropReason::Expired => "their message expiry ended before this start",
        DropReason::OverBudget => {
            "what waited exceeded byte_budget at this start; publish less while the broker is away"
        }
    }
}

/// Returns why a record is set aside no longer, and what to do about it.
fn loss_explanation(reason: SetAsideLoss) -> &'static str {
    match reason {
        SetAsideLoss::Bytes | SetAsideLoss::Number => {
            "there were too many, and the oldest had to go; publish them again sooner, or raise the limits"
        }
        SetAsideLoss::Age => "they were too old; publish them again sooner, or raise the limits",
        SetAsideLoss::Refused => {
            "the store refused them; is it full, or does its user lack a right?"
        }
        SetAsideLoss::Unreadable => {
            "their values were only in the store, which could not be read when Paho dropped them"
        }
        SetAsideLoss::Lost => "they disappeared from the store; was it flushed?",
    }
}

/// Runs user code and drops its panic.
pub(crate) fn catch_panic(work: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(work)));
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
