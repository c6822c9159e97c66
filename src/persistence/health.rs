//! [`Health`]: the state of the store, for the program.

use std::{fmt, sync::Arc, time::Duration};

use super::{lifecycle::Opened, shared::PersistenceShared};
use crate::{
    error::{Error, ErrorKind},
    store::{Durability, HealthSnapshot, Store},
};

/// Reports the state of a persistence's store, even after a client has taken the persistence.
///
/// Each method waits for the call in progress, or the worker, so for at most three exchanges with the store.
#[derive(Clone)]
pub struct Health(Arc<dyn HealthSource>);

impl Health {
    pub(super) fn new(source: Arc<dyn HealthSource>) -> Self {
        Self(source)
    }

    /// The current state of the store. While the persistence is not open, it is
    /// [`HealthState::Closed`](crate::HealthState::Closed), and every count is 0.
    #[must_use]
    pub fn snapshot(&self) -> HealthSnapshot {
        self.0.snapshot()
    }

    /// Checks that one more message would exceed no limit of what waits.
    ///
    /// For a program that prefers to refuse new messages: Paho sends a message although its persistence
    /// refuses it, so only a check before `publish` can. `bytes` is the size of topic and payload. The
    /// limits are the options `max_buffered_messages` and `byte_budget` of `RedisPersistenceBuilder`;
    /// without them there is always room.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`] if the message exceeds a limit, with what waits and the limit in its text.
    pub fn check_room(&self, bytes: usize) -> Result<(), Error> {
        self.0.check_room(bytes)
    }

    /// The error of the current outage or, if the store is up, of the last one. `None` before the
    /// first outage and while the persistence is not open.
    ///
    /// A write that the store refuses begins an outage, which ends when the store takes others. So this
    /// is also the reason if [`held_records`](HealthSnapshot::held_records) is not 0 while the store is up.
    #[must_use]
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.0.last_error()
    }

    /// Waits until the store has confirmed every pending write, for up to `timeout`.
    ///
    /// For a program that is about to reboot the device, or to end without closing its client. Returns
    /// whether the disk has all of it or only the store, which depends on the option `durability`.
    ///
    /// # Errors
    ///
    /// The error of the outage if the store is unavailable until then, its last reply if it refuses
    /// some records until then, [`ErrorKind::Timeout`] if the writes take longer, and
    /// [`ErrorKind::NotOpen`] if the persistence is not open.
    pub fn flush(&self, timeout: Duration) -> Result<Flushed, Error> {
        self.0.flush(timeout)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.snapshot()).finish()
    }
}

/// The place that has every record after [`Health::flush`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flushed {
    /// The store has confirmed all of them. Redis may have them only in its memory.
    Store,
    /// The disk of Redis has them: the durability is [`Synced`](Durability::Synced).
    Disk,
}

/// Hides the store's type from [`Health`].
pub(super) trait HealthSource: Send + Sync {
    fn snapshot(&self) -> HealthSnapshot;
    fn last_error(&self) -> Option<Arc<Error>>;
    fn check_room(&self, bytes: usize) -> Result<(), Error>;
    fn flush(&self, timeout: Duration) -> Result<Flushed, Error>;
}

impl<S: Store> HealthSource for PersistenceShared<S> {
    fn snapshot(&self) -> HealthSnapshot {
        let limits = self.config.waiting_limits.get();
        self.lock().lifecycle.health_snapshot(limits)
    }

    fn last_error(&self) -> Option<Arc<Error>> {
        self.lock().lifecycle.opened()?.last_error()
    }

    fn check_room(&self, bytes: usize) -> Result<(), Error> {
        let status = self.snapshot();
        let limits = self.config.waiting_limits.get();
        if !limits.is_exceeded_by(&status, bytes) {
            return Ok(());
        }
        let attempt = format!("find room for a message of {bytes} bytes");
        let limit =
            |limit: Option<usize>| limit.map_or("no limit".to_owned(), |limit| limit.to_string());
        Err(Error::new(ErrorKind::Full, attempt).with_reason(format!(
            "{} messages wait (max_buffered_messages: {}) with {} bytes (byte_budget: {})",
            status.queued_messages,
            limit(limits.messages),
            status.waiting_bytes,
            limit(limits.bytes)
        )))
    }

    fn flush(&self, timeout: Duration) -> Result<Flushed, Error> {
        const ATTEMPT: &str = "flush the store";
        let until = self.clock().deadline_after(timeout);
        let mut state = self.lock();
        let mut is_late = false;
        // What the store refuses is tried once here, and again only after it has taken something; the
        // worker goes on with its own intervals.
        let mut may_retry = true;
        loop {
            let is_refused = |opened: &Opened| opened.records.cache.has_refused();
            may_retry &= state.lifecycle.opened().is_some_and(is_refused);
            let mut was_taken = false;
            if may_retry {
                let taken = state.lifecycle.call(self.clock(), |records, access| {
                    records.cache.retry_refused(access)
                });
                was_taken = taken.unwrap_or_default();
                state = self.yield_to_calls(state);
            }
            let pending = state.lifecycle.call(self.clock(), |records, access| {
                records.cache.flush(access);
                // The store may have lost records that it confirmed earlier.
                records.cache.check(access);
                let refusal = records.cache.refusal().cloned();
                (records.cache.has_pending(), refusal)
            });
            state.wake_worker();
            let Some((has_pending, refusal)) = pending else {
                return Err(Error::new(ErrorKind::NotOpen, ATTEMPT));
            };
            let outage = state.lifecycle.outage();
            let outage = outage.map(|outage| Arc::clone(&outage.error));
            if outage.is_none() && !has_pending {
                return Ok(match self.config.durability {
                    Durability::Synced => Flushed::Disk,
                    _ => Flushed::Store,
                });
            }
            if is_late {
                return Err(match outage {
                    Some(cause) => Error::new(cause.kind(), ATTEMPT)
                        .with_reason("the store is unavailable; pending writes are kept in memory")
                        .with_source(cause),
                    None => match refusal {
                        Some(cause) => Error::new(cause.kind(), ATTEMPT)
                            .with_reason("the store refuses some records; they are kept in memory")
                            .with_source(cause),
                        None => Error::new(ErrorKind::Timeout, ATTEMPT),
                    },
                });
            }
            may_retry = was_taken;
            if was_taken && self.clock().since_boot() < until {
                // Calls may go on between two refused messages.
                state = self.yield_to_calls(state);
                continue;
            }
            (state, is_late) = self.wait_until(state, until);
        }
    }
}
