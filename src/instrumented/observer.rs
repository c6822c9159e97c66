//! [`InstrumentedObserver`]: passes the events of the store to the metrics and the backlog.

use super::session::{OpenState, Session};
use crate::{
    metrics::StoreMetricsObserver, paho::DropReason, persistence::StoreObserver, store::StoreEvent,
};

/// The observer that `instrument` adds to a persistence.
pub(crate) struct InstrumentedObserver {
    pub(super) store_metrics: StoreMetricsObserver,
    session: Session,
}

impl InstrumentedObserver {
    pub(super) fn new(session: Session) -> Self {
        Self {
            store_metrics: StoreMetricsObserver::default(),
            session,
        }
    }

    /// Takes a record out of the backlog that the store lost; ignores an unknown key.
    fn record_lost(&self, key: &str) {
        self.with_session(|session| session.backlog.lose_on_event(key));
    }

    /// Adds a record that Paho does not know, under its new key, until it is removed or lost.
    fn record_relocated(&self, key: &str, bytes: usize) {
        self.with_session(|session| session.backlog.relocate(key, bytes));
    }

    fn with_session(&self, work: impl FnOnce(&mut OpenState)) {
        if let Some(session) = &mut *self.session.lock() {
            work(session);
            session.backlog.publish();
        }
    }
}

impl StoreObserver for InstrumentedObserver {
    fn on_event(&self, client_id: &str, event: &StoreEvent) {
        self.store_metrics.on_event(client_id, event);
        match event {
            StoreEvent::RecordLost { key } => self.record_lost(key),
            StoreEvent::Dropped {
                reason: reason @ (DropReason::Expired | DropReason::OverBudget),
                records,
                ..
            } => self.with_session(|session| session.backlog.dropped_at_open(*reason, *records)),
            StoreEvent::RecordRelocated { key, bytes } => self.record_relocated(key, *bytes),
            _ => {}
        }
    }
}
