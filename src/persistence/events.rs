//! What happens to the store, told outside every lock.

use std::{mem, sync::Arc, time::Duration};

use crate::{Error, record::Kind};

/// Something that happened to the store of a client, beside the calls of Paho. Later versions may
/// have more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StoreEvent {
    /// The records are open.
    Opened {
        /// Unreadable records that were set aside, or could not be.
        quarantined: usize,
    },
    /// The store cannot be used: what is put is held here until it can.
    Down {
        /// Why.
        error: Arc<Error>,
    },
    /// Another attempt to use it has failed.
    StillDown {
        /// Why, this time.
        error: Arc<Error>,
        /// The reason is of another kind than before.
        is_new_reason: bool,
    },
    /// The store has everything again.
    Up {
        /// How long it could not be used.
        outage: Duration,
        /// How many changes were made again, or for the first time.
        rewritten: u64,
    },
    /// What is held here has reached the `buffer_warn_bytes`.
    BufferWarning {
        /// How many bytes are held.
        bytes: usize,
    },
    /// Records that the store has lost, and of which there was no copy here.
    Lost {
        /// How many.
        records: usize,
    },
    /// Records in the store that were not put there by this client.
    ForeignRecords {
        /// How many.
        records: usize,
        /// They were removed, since the store had come back with older contents. Otherwise another
        /// program has written them, and they are left.
        removed: bool,
    },
    /// Paho has removed records in flight without an acknowledgement: the session is gone.
    Discarded {
        /// The value of the `kind` label of the metrics.
        kind: &'static str,
        /// How many.
        records: usize,
    },
    /// How the store is, told when it is up or down, ten times a second while more or less waits, and
    /// twice a second while it is down.
    Status(crate::HealthSnapshot),
    /// The records are closed.
    Closed,
}

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

/// Those that have not been told of yet.
#[derive(Default)]
pub(super) struct Events {
    waiting: Vec<StoreEvent>,
    lost: u64,
}

/// So many wait at most of those that come again, where the observer is slower than what happens.
const WAITING: usize = 1024;

impl Events {
    pub(super) fn down(&mut self, error: &Arc<Error>) {
        let error = Arc::clone(error);
        self.push(StoreEvent::Down { error });
    }

    pub(super) fn failed_again(&mut self, error: &Arc<Error>, is_new_reason: bool) {
        let error = Arc::clone(error);
        self.push(StoreEvent::StillDown {
            error,
            is_new_reason,
        });
    }

    pub(super) fn up(&mut self, outage: Duration, rewritten: u64) {
        self.push(StoreEvent::Up { outage, rewritten });
    }

    pub(super) fn lost(&mut self, records: usize) {
        if records > 0 {
            self.lost = self
                .lost
                .saturating_add(u64::try_from(records).unwrap_or(u64::MAX));
            self.push(StoreEvent::Lost { records });
        }
    }

    /// How many records were lost since the records were opened.
    pub(super) fn lost_records(&self) -> u64 {
        self.lost
    }

    pub(super) fn unknown(&mut self, records: usize, removed: bool) {
        if records > 0 {
            self.push(StoreEvent::ForeignRecords { records, removed });
        }
    }

    pub(super) fn discarded(&mut self, kind: Kind) {
        let kind = kind.label();
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

    pub(super) fn push(&mut self, event: StoreEvent) {
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

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn take(&mut self) -> Vec<StoreEvent> {
        mem::take(&mut self.waiting)
    }
}
