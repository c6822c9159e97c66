//! The events of one opening that the notifier has not delivered yet.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::store::StoreEvent;

/// A queue between the persistence and its notifier, which runs user code and may be slow.
#[derive(Default)]
pub(super) struct Outbox {
    queue: Mutex<Vec<StoreEvent>>,
    posted: Condvar,
}

/// Length of the queue above which repeating events are dropped, for an observer that is too slow.
const MAX_QUEUED: usize = 1024;

impl Outbox {
    /// Queues events in order, and wakes the notifier.
    pub(super) fn post(&self, events: impl IntoIterator<Item = StoreEvent>) {
        let mut queue = self.lock();
        for event in events {
            push(&mut queue, event);
        }
        self.posted.notify_one();
    }

    /// Takes the queued events; empty if there are none.
    pub(super) fn take(&self) -> Vec<StoreEvent> {
        std::mem::take(&mut *self.lock())
    }

    /// Waits for events, up to a timeout if there is one, and takes them.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> Vec<StoreEvent> {
        let queue = self.lock();
        let is_empty = |queue: &mut Vec<StoreEvent>| queue.is_empty();
        let mut queue = if let Some(timeout) = timeout {
            let waited = self.posted.wait_timeout_while(queue, timeout, is_empty);
            waited.unwrap_or_else(PoisonError::into_inner).0
        } else {
            let waited = self.posted.wait_while(queue, is_empty);
            waited.unwrap_or_else(PoisonError::into_inner)
        };
        std::mem::take(&mut *queue)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StoreEvent>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues an event, or adds it to the last one if that says the same of another record.
fn push(queue: &mut Vec<StoreEvent>, event: StoreEvent) {
    // Paho drops a session record by record.
    if let StoreEvent::Dropped {
        kind,
        reason,
        records,
    } = &event
        && let Some(StoreEvent::Dropped {
            kind: last_kind,
            reason: last_reason,
            records: last_records,
        }) = queue.last_mut()
        && (*last_kind, *last_reason) == (*kind, *reason)
    {
        *last_records = last_records.saturating_add(*records);
        return;
    }
    // The last one has the totals.
    if let (StoreEvent::Refused { .. }, Some(last @ StoreEvent::Refused { .. })) =
        (&event, queue.last_mut())
    {
        *last = event;
        return;
    }
    // A later event of these kinds brings the same again; any other one must not be dropped.
    let is_repeated = matches!(
        event,
        StoreEvent::Status(_)
            | StoreEvent::StillDown {
                is_new_reason: false,
                ..
            }
    );
    if queue.len() < MAX_QUEUED || !is_repeated {
        queue.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paho::DropReason;

    #[test]
    fn slow_observer_misses_repeated_events_only() {
        let outbox = Outbox::default();
        for _ in 0..2 * MAX_QUEUED {
            outbox.post([StoreEvent::Status(crate::store::HealthSnapshot::default())]);
        }
        for (kind, reason) in [
            ("command", DropReason::BufferFull),
            ("command", DropReason::BufferFull),
            ("sent_publish", DropReason::BufferFull),
            ("sent_publish", DropReason::SessionLost),
        ] {
            outbox.post([StoreEvent::Dropped {
                kind,
                reason,
                records: 1,
            }]);
        }
        outbox.post([StoreEvent::Closed]);
        let queued = outbox.wait(None);
        assert_eq!(queued.len(), MAX_QUEUED + 4);
        assert!(matches!(
            queued[MAX_QUEUED..],
            [
                StoreEvent::Dropped { records: 2, .. },
                StoreEvent::Dropped { records: 1, .. },
                StoreEvent::Dropped { records: 1, .. },
                StoreEvent::Closed
            ]
        ));
        assert!(outbox.take().is_empty());
    }
}
