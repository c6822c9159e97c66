//! How the store is, for a program that asks.

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

/// Answers how the store of a persistence is, also after that was handed to a client.
///
/// Each question waits for the call that is being answered at that moment, which is no longer than
/// one exchange with the store may take; while the persistence is being opened, until it is open.
#[derive(Clone)]
pub struct Health(Arc<dyn HealthSource>);

impl Health {
    pub(super) fn new(source: Arc<dyn HealthSource>) -> Self {
        Self(source)
    }

    /// How the store is. While the persistence is not open, it is not up and nothing waits.
    #[must_use]
    pub fn snapshot(&self) -> HealthSnapshot {
        self.0.snapshot()
    }

    /// Why the store cannot be used, or could not when it last could not be; nothing while the
    /// persistence is not open.
    #[must_use]
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.0.last_error()
    }

    /// Waits until the store has everything: for a program that is about to reboot the device.
    ///
    /// # Errors
    ///
    /// That of the store where it cannot be used until then, [`ErrorKind::Timeout`] where it takes
    /// longer, and [`ErrorKind::NotOpen`] where there is no store.
    pub fn flush(&self, timeout: Duration) -> Result<(), Error> {
        self.0.flush(deadline_after(timeout))
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.snapshot()).finish()
    }
}

/// Who knows, without the type of the store.
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
        let state = self.lock();
        state.open.as_ref()?.cache.last_error.clone()
    }

    fn flush(&self, until: Instant) -> Result<(), Error> {
        const ATTEMPT: &str = "have everything in the store";
        let mut state = self.lock();
        loop {
            let Some(open) = &mut state.open else {
                return Err(Error::new(ErrorKind::NotOpen, ATTEMPT));
            };
            open.cache.flush();
            // It may have lost what it had confirmed.
            open.cache.check();
            let outage = open.cache.outage().map(|outage| Arc::clone(&outage.error));
            if outage.is_none() && !open.cache.has_pending() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(match outage {
                    Some(cause) => Error::new(cause.kind(), ATTEMPT)
                        .with_reason("the store cannot be used, and what it lacks is held here")
                        .with_source(cause),
                    None => Error::new(ErrorKind::Timeout, ATTEMPT),
                });
            }
            self.wake(&mut state);
            (state, _) = self.wait(state, until);
        }
    }
}
