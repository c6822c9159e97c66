//! The events that the worker has not delivered yet.

use std::{mem, sync::Arc, time::Duration};

use crate::{error::Error, paho::RecordKind, store::StoreEvent};

/// Those that have not been told of yet.
#[derive(Default)]
pub(crate) struct EventQueue {
    waiting: Vec<StoreEvent>,
    lost: u64,
}

/// So many wait at most of those that come again, where the observer is slower than what happens.
const WAITING: usize = 1024;

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

    pub(crate) fn lost(&mut self, records: usize) {
        if records > 0 {
            self.lost = self
                .lost
                .saturating_add(u64::try_from(records).unwrap_or(u64::MAX));
            self.push(StoreEvent::Lost { records });
        }
    }

    /// How many records were lost since the records were opened.
    pub(crate) fn lost_records(&self) -> u64 {
        self.lost
    }

    pub(crate) fn unknown(&mut self, records: usize, removed: bool) {
        if records > 0 {
            self.push(StoreEvent::ForeignRecords { records, removed });
        }
    }

    pub(crate) fn discarded(&mut self, kind: RecordKind) {
        let kind = kind.as_str();
        if let Some(StoreEvent::Discarded {
            kind: last,
            records,
        }) = self.waiting.last_mut()
            && *last == kind
        {
            *records = records.saturating_add(1);
        } else {
            self.push(StoreEvent::Discarded { kind, records: 1 });
        }
    }

    pub(crate) fn push(&mut self, event: StoreEvent) {
        let is_repeated = matches!(
            event,
            StoreEvent::Status(_)
                | StoreEvent::StillDown {
                    is_new_reason: false,
                    ..
                }
        );
        if self.waiting.len() < WAITING || !is_repeated {
            self.waiting.push(event);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<StoreEvent> {
        mem::take(&mut self.waiting)
    }
}
