//! The events that the worker has not delivered yet.

use std::{mem, sync::Arc, time::Duration};

use crate::{error::Error, paho::RecordKind, store::StoreEvent};

/// Collects events during calls and recovery, for delivery by the worker.
#[derive(Default)]
pub(crate) struct EventQueue {
    queue: Vec<StoreEvent>,
    /// Number of records lost since open.
    lost_records: u64,
}

/// Length of the queue above which repeating events are dropped, for an observer that is too slow.
const MAX_QUEUED: usize = 1024;

impl EventQueue {
    pub(crate) fn down(&mut self, error: &Arc<Error>) {
        let error = Arc::clone(error);
        self.push(StoreEvent::Down { error });
    }

    pub(crate) fn still_down(&mut self, error: &Arc<Error>, is_new_reason: bool) {
        let error = Arc::clone(error);
        self.push(StoreEvent::StillDown {
            error,
            is_new_reason,
        });
    }

    pub(crate) fn up(&mut self, outage: Duration, rewritten: u64) {
        self.push(StoreEvent::Up { outage, rewritten });
    }

    /// Queues an event about lost records and counts them; ignores 0.
    pub(crate) fn lost(&mut self, records: usize) {
        if records > 0 {
            self.lost_records = self
                .lost_records
                .saturating_add(u64::try_from(records).unwrap_or(u64::MAX));
            self.push(StoreEvent::Lost { records });
        }
    }

    /// Number of records lost since open.
    pub(crate) fn lost_records(&self) -> u64 {
        self.lost_records
    }

    /// Queues an event about foreign records; ignores 0.
    pub(crate) fn foreign_records(&mut self, records: usize, removed: bool) {
        if records > 0 {
            self.push(StoreEvent::ForeignRecords { records, removed });
        }
    }

    /// Queues an event about a discarded record, or counts it in the last event.
    ///
    /// Paho discards a session record by record.
    pub(crate) fn discarded(&mut self, kind: RecordKind) {
        let kind = kind.as_str();
        if let Some(StoreEvent::Discarded {
            kind: last,
            records,
        }) = self.queue.last_mut()
            && *last == kind
        {
            *records = records.saturating_add(1);
        } else {
            self.push(StoreEvent::Discarded { kind, records: 1 });
        }
    }

    pub(crate) fn push(&mut self, event: StoreEvent) {
        // A later event of these kinds brings the same again; any other one must not be dropped.
        let is_repeated = matches!(
            event,
            StoreEvent::Status(_)
                | StoreEvent::StillDown {
                    is_new_reason: false,
                    ..
                }
        );
        if self.queue.len() < MAX_QUEUED || !is_repeated {
            self.queue.push(event);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<StoreEvent> {
        mem::take(&mut self.queue)
    }
}
