//! The context that the worker and its recovery share.

use super::{
    lifecycle::{Lifecycle, PersistenceShared},
    notifier::Notifier,
};
use crate::store::Store;

/// The shared state, generation and notifier of one opening.
pub(super) struct WorkerContext<'a, S: Store> {
    pub(super) shared: &'a PersistenceShared<S>,
    pub(super) opening: u64,
    pub(super) notifier: &'a Notifier,
}

impl<S: Store> WorkerContext<'_, S> {
    /// The records were closed, or are being closed; they may have been opened again since.
    pub(super) fn is_over(&self, state: &Lifecycle<S>) -> bool {
        state.closing || state.opening != self.opening
    }

    /// Gives back a store that nobody needs any more, to be opened again.
    pub(super) fn return_store(&self, state: &mut Lifecycle<S>, mut store: S) {
        match &mut state.open {
            // What closes the records waits for it.
            Some(open) if state.opening == self.opening => open.cache.return_store(store),
            _ => {
                store.close();
                state.store.get_or_insert(store);
            }
        }
        self.shared.changed.notify_all();
    }

    /// Tells what has happened, outside the lock.
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
