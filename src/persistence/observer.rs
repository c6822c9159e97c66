//! [`StoreObserver`]: receives the events of the store. [`RecordObserver`] follows single records.

use std::sync::Arc;

use crate::store::StoreEvent;

/// Receives the events of a client's store.
///
/// Events are delivered in order on a thread that only does this, outside the locks of the persistence.
/// An observer that blocks delays its own events, those of the other observers and the log, but no call
/// and no recovery. If 1,024 events wait for it, further [`Status`](StoreEvent::Status) events and
/// repeated [`StillDown`](StoreEvent::StillDown) events are dropped. Events may still come after the
/// persistence was closed; the last one is [`Closed`](StoreEvent::Closed).
///
/// An observer may call every method of [`Health`](crate::Health). A panic in an observer is caught and
/// dropped.
pub trait StoreObserver: Send + Sync {
    /// Receives one event; `client_id` is the one that the persistence was opened with.
    fn on_event(&self, client_id: &str, event: &StoreEvent) {
        let _ = (client_id, event);
    }

    /// Called before Paho sends the message of this record from memory that it has freed; see
    /// [`Damaged`](crate::ErrorKind::Damaged).
    ///
    /// Paho sends the damaged copy when this method returns. A program that exits in this method
    /// does not send it, and its next start sends the stored message. No delivery token reports the
    /// damage if the message is from an earlier run.
    ///
    /// Unlike events, this call comes from one of Paho's threads and runs under Paho's lock: call
    /// no method of a client here, and wait for no thread that does.
    /// [`Health::flush`](crate::Health::flush) may be called. The damage is not detected while the
    /// stored record cannot be read.
    fn on_damaged(&self, client_id: &str, key: &str) {
        let _ = (client_id, key);
    }
}

/// Passes everything on, so that the program can keep an observer that it shares.
#[deny(clippy::missing_trait_methods)]
impl<O: StoreObserver + ?Sized> StoreObserver for Arc<O> {
    fn on_event(&self, client_id: &str, event: &StoreEvent) {
        (**self).on_event(client_id, event);
    }

    fn on_damaged(&self, client_id: &str, key: &str) {
        (**self).on_damaged(client_id, key);
    }
}

/// Follows the changes of single records that no call shows.
pub(crate) trait RecordObserver: Send + Sync {
    /// Receives each event before the call or the step that causes it ends, so that it meets the records
    /// as they are. Runs under the mutex of the persistence.
    fn on_record_event(&self, event: &StoreEvent);
}
