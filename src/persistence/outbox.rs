//! The events of one opening that the notifier has not delivered yet.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::{store::StoreEvent, threads::JobHandle};

/// A queue between the persistence and its notifier, which runs user code and may be slow.
#[derive(Default)]
pub(super) struct Outbox {
    queue: Mutex<Vec<StoreEvent>>,
    notifier: OnceLock<JobHandle>,
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
        drop(queue);
        if let Some(notifier) = self.notifier.get() {
            notifier.wake();
        }
    }

    /// Wakes this job for the events that are queued, and for each event from now on.
    pub(super) fn wake_on_post(&self, notifier: JobHandle) {
        self.notifier.get_or_init(|| notifier).wake();
    }

    /// Takes the queued events; empty if there are none.
    pub(super) fn take(&self) -> Vec<StoreEvent> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StoreEvent>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number of events at the end of the queue to which an equal one is added.
///
/// If the buffer is full, each publish drops a record, sets it aside, and removes the oldest that was.
const MERGED: usize = 3;

/// Queues an event, or adds it to a recent one if that says the same of another record.
fn push(queue: &mut Vec<StoreEvent>, event: StoreEvent) {
    let mut recent = queue.iter_mut().rev().take(MERGED);
    if recent.any(|recent| add_records(recent, &event)) {
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

/// Adds the records of an event to those of an equal one; returns false if they differ.
fn add_records(sum: &mut StoreEvent, event: &StoreEvent) -> bool {
    use StoreEvent::{Dropped, SetAside, SetAsideLost};
    let (sum, added) = match (sum, event) {
        (
            Dropped {
                kind,
                reason,
                records,
            },
            Dropped {
                kind: other_kind,
                reason: other_reason,
                records: added,
            },
        ) if (*kind, *reason) == (*other_kind, *other_reason) => (records, added),
        (
            SetAside { place, records },
            SetAside {
                place: other_place,
                records: added,
            },
        ) if place == other_place => (records, added),
        (
            SetAsideLost {
                place,
                reason,
                records,
            },
            SetAsideLost {
                place: other_place,
                reason: other_reason,
                records: added,
            },
        ) if (*place, *reason) == (*other_place, *other_reason) => (records, added),
        _ => return false,
    };
    *sum = sum.saturating_add(*added);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paho::{DropReason, RecordKind};

    #[test]
    fn slow_observer_misses_repeated_events_only() {
        let outbox = Outbox::default();
        for _ in 0..2 * MAX_QUEUED {
            outbox.post([StoreEvent::Status(crate::store::HealthSnapshot::default())]);
        }
        for (kind, reason) in [
            (RecordKind::Command, DropReason::BufferFull),
            (RecordKind::Command, DropReason::BufferFull),
            (RecordKind::SentPublish, DropReason::BufferFull),
            (RecordKind::SentPublish, DropReason::SessionLost),
        ] {
            outbox.post([StoreEvent::Dropped {
                kind,
                reason,
                records: 1,
            }]);
        }
        outbox.post([StoreEvent::Closed]);
        let queued = outbox.take();
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
