//! [`Health`]: the state of the store, for the program.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::lifecycle::PersistenceShared;
use crate::{
    error::{Error, ErrorKind},
    net::deadline_after,
    store::{HealthSnapshot, Store},
};

/// Reports the state of a persistence's store, even after a client has taken the persistence.
///
/// Each method waits for the call in progress, so for at most one exchange with the store. While
/// the persistence is being opened or connected, it waits until that is done.
#[derive(Clone)]
pub struct Health(Arc<dyn HealthSource>);

impl Health {
    pub(super) fn new(source: Arc<dyn HealthSource>) -> Self {
        Self(source)
    }

    /// The current state of the store. While the persistence is not open, `up` is `false` and every
    /// count is 0.
    #[must_use]
    pub fn snapshot(&self) -> HealthSnapshot {
        self.0.snapshot()
    }

    /// The error of the current outage or, if the store is up, of the last one. `None` before the
    /// first outage and while the persistence is not open.
    #[must_use]
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.0.last_error()
    }

    /// Waits until the store has confirmed every pending write, for up to `timeout`.
    ///
    /// For a program that is about to reboot the device, or to end without closing its client.
    ///
    /// # Errors
    ///
    /// The error of the outage if the store is unavailable until then, [`ErrorKind::Timeout`] if
    /// the writes take longer, and [`ErrorKind::NotOpen`] if the persistence is not open.
    pub fn flush(&self, timeout: Duration) -> Result<(), Error> {
        self.0.flush(deadline_after(timeout))
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.snapshot()).finish()
    }
}

/// Hides the store's type from [`Health`].
pub(super) trait HealthSource: Send + Sync {
    fn snapshot(&self) -> HealthSnapshot;
    fn last_error(&self) -> Option<Arc<Error>>;
    fn flush(&self, until: Instant) -> Result<(), Error>;
}

impl<S: Store> HealthSource for PersistenceShared<S> {
    fn snapshot(&self) -> HealthSnapshot {
        match &self.lock().open {
            Some(open) => open.cache.health_snapshot(),
            None => HealthSnapshot::default(),
        }
    }

    fn last_error(&self) -> Option<Arc<Error>> {
        let lifecycle = self.lock();
        lifecycle.open.as_ref()?.cache.last_error.clone()
    }

    fn flush(&self, until: Instant) -> Result<(), Error> {
        const ATTEMPT: &str = "flush the store";
        let mut lifecycle = self.lock();
        loop {
            let Some(open) = &mut lifecycle.open else {
                return Err(Error::new(ErrorKind::NotOpen, ATTEMPT));
            };
            open.cache.flush();
            // The store may have lost records that it confirmed earlier.
            open.cache.check();
            let outage = open.cache.outage().map(|outage| Arc::clone(&outage.error));
            if outage.is_none() && !open.cache.has_pending() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(match outage {
                    Some(cause) => Error::new(cause.kind(), ATTEMPT)
                        .with_reason("the store is unavailable; pending writes are kept in memory")
                        .with_source(cause),
                    None => Error::new(ErrorKind::Timeout, ATTEMPT),
                });
            }
            self.wake_worker(&mut lifecycle);
            (lifecycle, _) = self.wait_until(lifecycle, until);
        }
    }
}
