//! The events of one call or one step of recovery.

use std::{mem, sync::Arc};

use super::pending::Totals;
use crate::{
    error::Error,
    paho::{Key, RecordKind},
    store::StoreEvent,
};

/// Collects events, which the persistence takes after each call.
#[derive(Default)]
pub(crate) struct EventQueue {
    queue: Vec<StoreEvent>,
    /// Number of records lost since open.
    lost_records: u64,
}

impl EventQueue {
    /// Queues events about lost records and counts them.
    pub(crate) fn lost(&mut self, keys: impl IntoIterator<Item = Key>) {
        let mut records = 0_usize;
        for key in keys {
            records = records.saturating_add(1);
            self.lost_records = self.lost_records.saturating_add(1);
            let key = key.to_string();
            self.queue.push(StoreEvent::RecordLost { key });
        }
        if records > 0 {
            self.queue.push(StoreEvent::Lost { records });
        }
    }

    /// Queues an event about a record that stays beside a new one with its key.
    pub(crate) fn relocated(&mut self, key: Key, bytes: usize) {
        let key = key.to_string();
        self.queue.push(StoreEvent::RecordRelocated { key, bytes });
    }

    /// Queues an event about the writes that the store refuses.
    pub(crate) fn refused(&mut self, error: Arc<Error>, totals: Totals) {
        let Totals { records, bytes } = totals;
        self.queue.push(StoreEvent::Refused {
            error,
            records,
            bytes,
        });
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
