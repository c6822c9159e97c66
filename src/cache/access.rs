//! The store as a call may use it: up, readable only, or not at all.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    clock::Clock,
    error::{Error, ErrorKind},
    paho::Key,
    store::Store,
};

/// The time since which the store is unavailable, and the reason.
#[derive(Clone)]
pub(crate) struct Outage {
    /// Its start, since boot.
    pub(crate) since: Duration,
    pub(crate) since_time: SystemTime,
    pub(crate) error: Arc<Error>,
    /// A call has already waited for the store in this outage; no other one does.
    pub(crate) was_waited_for: bool,
}

impl Outage {
    pub(crate) fn new(error: Arc<Error>, clock: &Clock) -> Self {
        Self {
            since: clock.since_boot(),
            since_time: clock.time(),
            was_waited_for: Self::is_wait(&error),
            error,
        }
    }

    /// Returns true for the error of a call's exchange that has waited as long as a call may per outage.
    pub(crate) fn is_wait(error: &Error) -> bool {
        matches!(error.kind(), ErrorKind::NotReplicated | ErrorKind::Timeout)
    }

    /// Returns true if the store refuses writes but can still be read.
    pub(crate) fn is_readable(&self) -> bool {
        matches!(
            self.error.kind(),
            ErrorKind::OutOfMemory | ErrorKind::Misconf | ErrorKind::NotReplicated
        )
    }
}

/// The store that one call borrows, and the first failure of an exchange in that call.
///
/// After a failure the call goes on in memory, as during an outage. Its caller begins the outage.
pub(crate) struct StoreAccess<'a, S> {
    store: Option<&'a mut S>,
    outage: Option<&'a Outage>,
    failure: Option<Arc<Error>>,
    pub(crate) clock: &'a Clock,
}

impl<'a, S: Store> StoreAccess<'a, S> {
    /// Access to a store that is up.
    pub(crate) fn up(store: &'a mut S, clock: &'a Clock) -> Self {
        Self {
            store: Some(store),
            outage: None,
            failure: None,
            clock,
        }
    }

    /// Access during an outage; without a store, since the worker has it, nothing can be read.
    pub(crate) fn down(store: Option<&'a mut S>, outage: &'a Outage, clock: &'a Clock) -> Self {
        Self {
            store,
            outage: Some(outage),
            failure: None,
            clock,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.outage.is_none() && self.failure.is_none()
    }

    /// Returns the store if it is up.
    pub(super) fn writer(&mut self) -> Option<&mut S> {
        if self.is_up() {
            self.store.as_deref_mut()
        } else {
            None
        }
    }

    /// Returns the store if it can be read.
    pub(super) fn reader(&mut self) -> Option<&mut S> {
        if self.failure.is_none() && self.outage.is_none_or(Outage::is_readable) {
            self.store.as_deref_mut()
        } else {
            None
        }
    }

    /// Notes that an exchange failed.
    pub(super) fn fail(&mut self, error: Error) {
        self.failure.get_or_insert_with(|| Arc::new(error));
    }

    pub(crate) fn into_failure(self) -> Option<Arc<Error>> {
        self.failure
    }

    /// Creates the error for a value that cannot be read now.
    pub(super) fn unavailable_error(&self, key: Key) -> Error {
        let reason = "its value is only in the store, which is unavailable";
        self.unavailable_because(format!("read record {key}"), reason)
    }

    /// Creates the error for something that only the store knows.
    pub(super) fn unavailable(&self, attempt: &str) -> Error {
        self.unavailable_because(attempt.to_owned(), "the store is unavailable")
    }

    fn unavailable_because(&self, attempt: String, reason: &'static str) -> Error {
        let outage = self.outage.map(|outage| &outage.error);
        let cause = self.failure.as_ref().or(outage);
        let kind = match cause.map(|cause| cause.kind()) {
            // Others were lost; this record may be there.
            None | Some(ErrorKind::Lost) => ErrorKind::Connection,
            Some(kind) => kind,
        };
        let error = Error::new(kind, attempt).with_reason(reason);
        match cause {
            Some(cause) => error.with_source(Arc::clone(cause)),
            None => error,
        }
    }
}
