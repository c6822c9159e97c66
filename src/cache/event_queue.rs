//! The events of one call or one step of recovery.

use std::mem;

use crate::{paho::RecordKind, store::StoreEvent};

/// Collects events, which the persistence takes after each call.
#[derive(Default)]
pub(crate) struct EventQueue {
    queue: Vec<StoreEvent>,
    /// Number of records lost since open.
    lost_records: u64,
}

impl EventQueue {
    /// Queues an event about lost records and counts them; ignores 0.
    pub(crate) fn lost(&mut self, records: usize) {
        if records > 0 {
            self.lost_records = self
                .lost_records
                .saturating_add(u64::try_from(records).unwrap_or(u64::MAX));
            self.queue.push(StoreEvent::Lost { records });
        }
    }

    /// Number of records lost since open.
    pub(crate) fn lost_records(&self) -> u64 {
        self.lost_records
    }

    /// Queues an event about foreign records; ignores 0.
    pub(crate) fn foreign_records(&mut self, records: usize, removed: bool) {
        if records > 0 {
            self.queue
                .push(StoreEvent::ForeignRecords { records, removed });
        }
    }

    /// Queues an event about a discarded record.
    pub(crate) fn discarded(&mut self, kind: RecordKind) {
        let kind = kind.as_str();
        self.queue.push(StoreEvent::Discarded { kind, records: 1 });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<StoreEvent> {
        mem::take(&mut self.queue)
    }
}
