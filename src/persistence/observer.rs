//! [`StoreObserver`]: receives the events of the store.

use crate::store::StoreEvent;

/// Is told of what happens to the store of a client.
///
/// It is called on a thread of the persistence and outside its locks, and may ask
/// [`Health`](crate::Health), but not to flush, which is the work of that thread. Recovery waits for it,
/// so it had better hand on what takes long; what it panics with goes no further.
pub trait StoreObserver: Send + Sync {
    /// `client_id` is the one that the persistence was opened for.
    fn on_event(&self, client_id: &str, event: &StoreEvent) {
        let _ = (client_id, event);
    }

    /// Paho is about to send the message of that record from memory that it has freed, as
    /// [`Damaged`](crate::ErrorKind::Damaged) says, and does so when this returns. A program that ends in
    /// here does not send it, and its next start sends the message as it was. No token tells of it where
    /// the message is of an earlier run.
    ///
    /// Unlike the events this is told by the call of Paho itself, on one of Paho's threads and under its lock:
    /// call nothing of the client and wait for no thread that does. [`Health::flush`](crate::Health::flush)
    /// can be waited for. What is damaged is not known, and not told, while the record cannot be read.
    fn on_damaged(&self, client_id: &str, key: &str) {
        let _ = (client_id, key);
    }
}
