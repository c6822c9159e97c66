//! [`InstrumentedObserver`]: passes the events of the store to the metrics and the backlog.

use super::session::Session;
use crate::{
    metrics::StoreMetricsObserver,
    paho::DropReason,
    persistence::{RecordObserver, StoreObserver},
    store::StoreEvent,
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
}

impl StoreObserver for InstrumentedObserver {
    fn on_event(&self, client_id: &str, event: &StoreEvent) {
        if let StoreEvent::Connected { server } = event
            && let Some(session) = &mut *self.session.lock()
        {
            session.backlog.set_server(server);
        }
        self.store_metrics.on_event(client_id, event);
    }
}

impl RecordObserver for InstrumentedObserver {
    fn on_record_event(&self, event: &StoreEvent) {
        let mut session = self.session.lock();
        let Some(session) = &mut *session else {
            return;
        };
        let backlog = &mut session.backlog;
        match event {
            StoreEvent::RecordLost { key } => backlog.lose(key),
            StoreEvent::Dropped {
                reason: reason @ (DropReason::Expired | DropReason::OverBudget),
                records,
                ..
            } => backlog.dropped_at_open(*reason, *records),
            StoreEvent::RecordRelocated { old_key, key, .. } => backlog.relocate(old_key, key),
            _ => return,
        }
        backlog.publish();
    }
}
