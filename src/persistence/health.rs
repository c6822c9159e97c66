//! How the store is, for a program that asks.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{changes::Amount, ledger::Ledger, state::Shared};
use crate::{Error, ErrorKind, Store, net::deadline_after};

/// Answers how the store of a persistence is, also after that was handed to a client.
///
/// Each question waits for the call that is being answered at that moment, which is no longer than
/// one exchange with the store may take; while the persistence is being opened, until it is open.
#[derive(Clone)]
pub struct Health(Arc<dyn Source>);

/// How the store of a client is. Later versions may have more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthSnapshot {
    /// The records are open, and the store takes what is put.
    pub up: bool,
    /// Since when the store cannot be used, where it cannot.
    pub down_since: Option<SystemTime>,
    /// Records that are held here since the store cannot be used.
    pub held_records: usize,
    /// Their bytes.
    pub held_bytes: usize,
    /// Records that were sent and that the store has not confirmed.
    pub unconfirmed_records: usize,
    /// Their bytes.
    pub unconfirmed_bytes: usize,
    /// Records that the store has lost since the persistence was opened, and of which there was no
    /// copy here.
    pub lost_records: u64,
    /// When the store was last known to have everything.
    pub last_confirmed: Option<SystemTime>,
}

impl Health {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
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
pub(super) trait Source: Send + Sync {
    fn snapshot(&self) -> HealthSnapshot;
    fn last_error(&self) -> Option<Arc<Error>>;
    fn flush(&self, until: Instant) -> Result<(), Error>;
}

impl<S: Store> Source for Shared<S> {
    fn snapshot(&self) -> HealthSnapshot {
        match &self.lock().open {
            Some(open) => snapshot(&open.ledger),
            None => HealthSnapshot::default(),
        }
    }

    fn last_error(&self) -> Option<Arc<Error>> {
        let state = self.lock();
        state.open.as_ref()?.ledger.last_error.clone()
    }

    fn flush(&self, until: Instant) -> Result<(), Error> {
        const ATTEMPT: &str = "have everything in the store";
        let mut state = self.lock();
        loop {
            let Some(open) = &mut state.open else {
                return Err(Error::new(ErrorKind::NotOpen, ATTEMPT));
            };
            open.ledger.flush();
            // It may have lost what it had confirmed.
            open.ledger.check();
            let outage = open.ledger.outage().map(|outage| Arc::clone(&outage.error));
            if outage.is_none() && !open.ledger.is_busy() {
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

pub(super) fn snapshot<S: Store>(ledger: &Ledger<S>) -> HealthSnapshot {
    let unconfirmed = ledger.unconfirmed();
    let outage = ledger.outage();
    let (held, unconfirmed) = match outage {
        Some(_) => (unconfirmed, Amount::default()),
        None => (Amount::default(), unconfirmed),
    };
    HealthSnapshot {
        up: outage.is_none(),
        down_since: outage.map(|outage| outage.since_time),
        held_records: held.records,
        held_bytes: held.bytes,
        unconfirmed_records: unconfirmed.records,
        unconfirmed_bytes: unconfirmed.bytes,
        lost_records: ledger.events.lost_records(),
        last_confirmed: Some(ledger.last_confirmed()),
    }
}
