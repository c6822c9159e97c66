//! The context that the worker and its recovery share.

use super::{
    lifecycle::{Lifecycle, PersistenceShared},
    notifier::Notifier,
};
use crate::store::Store;

/// The shared state, generation and notifier of one opening.
pub(super) struct WorkerContext<'a, S: Store> {
    pub(super) shared: &'a PersistenceShared<S>,
    /// The opening that the worker belongs to.
    pub(super) generation: u64,
    pub(super) notifier: &'a Notifier,
}

impl<S: Store> WorkerContext<'_, S> {
    /// Returns `true` if this worker's opening is closed or closing.
    ///
    /// The next opening may have begun already.
    pub(super) fn is_stale(&self, lifecycle: &Lifecycle<S>) -> bool {
        lifecycle.closing || lifecycle.generation != self.generation
    }

    /// Returns the store of a stale recovery, so that it can be opened again.
    pub(super) fn return_store(&self, lifecycle: &mut Lifecycle<S>, mut store: S) {
        match &mut lifecycle.open {
            // `close_records` is waiting for this store.
            Some(open) if lifecycle.generation == self.generation => {
                open.cache.return_store(store);
            }
            _ => {
                store.close();
                lifecycle.store.get_or_insert(store);
            }
        }
        self.shared.changed.notify_all();
    }

    /// Delivers the queued events with the mutex released, since observers are user code.
    pub(super) fn deliver_events(&self) {
        let events = match &mut self.shared.lock().open {
            Some(open) => open.cache.events.take(),
            None => return,
        };
        for event in events {
            self.notifier.notify(&event);
        }
    }
}
