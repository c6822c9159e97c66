//! The events of one call or one step of recovery.

use std::{mem, sync::Arc};

use super::pending::Totals;
use crate::{
    error::Error,
    paho::{DropReason, Key, RecordKind},
    store::{Place, SetAsideLoss, StoreEvent},
};

/// Collects events, which the persistence takes after each call.
#[derive(Default)]
pub(crate) struct EventQueue {
    queue: Vec<StoreEvent>,
    /// Number of records lost since open.
    lost_records: u64,
}

impl EventQueue {
    /// Queues events about this many lost records, of which Paho knows those that are named.
    pub(crate) fn lost(&mut self, records: usize, named: impl IntoIterator<Item = Key>) {
        for key in named {
            let key = key.to_string();
            self.queue.push(StoreEvent::RecordLost { key });
        }
        if records > 0 {
            let lost = u64::try_from(records).unwrap_or(u64::MAX);
            self.lost_records = self.lost_records.saturating_add(lost);
            self.queue.push(StoreEvent::Lost { records });
        }
    }

    /// Queues an event about a record that stays beside a new one with its key.
    pub(crate) fn relocated(&mut self, old_key: Key, key: Key, bytes: usize) {
        let old_key = old_key.to_string();
        let key = key.to_string();
        self.queue.push(StoreEvent::RecordRelocated {
            old_key,
            key,
            bytes,
        });
    }

    /// Queues an event about the server that the store is connected to, if it is known.
    pub(crate) fn connected(&mut self, server: Option<String>) {
        let connected = server.map(|server| StoreEvent::Connected { server });
        self.queue.extend(connected);
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

    /// Queues an event about records that wait for the next start; ignores 0.
    pub(crate) fn earlier_records(&mut self, records: usize) {
        if records > 0 {
            self.queue.push(StoreEvent::EarlierRecords { records });
        }
    }

    /// Queues an event about a message that was sent on too many connections.
    pub(crate) fn poison_suspect(&mut self, key: Key, connections: u32) {
        let key = key.to_string();
        self.queue
            .push(StoreEvent::PoisonSuspect { key, connections });
    }

    /// Queues an event about a record that Paho has dropped.
    pub(crate) fn dropped(&mut self, kind: RecordKind, reason: DropReason) {
        self.queue.push(StoreEvent::Dropped {
            kind,
            reason,
            records: 1,
        });
    }

    /// Queues an event about a record that is set aside.
    pub(crate) fn set_aside(&mut self, place: Place) {
        self.queue.push(StoreEvent::SetAside { place, records: 1 });
    }

    /// Queues an event about records that are set aside no longer; ignores 0.
    pub(crate) fn set_aside_lost(&mut self, place: Place, reason: SetAsideLoss, records: usize) {
        if records > 0 {
            self.queue.push(StoreEvent::SetAsideLost {
                place,
                reason,
                records,
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn take(&mut self) -> Vec<StoreEvent> {
        mem::take(&mut self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    #[test]
    fn lost_records_are_named_and_counted() {
        let mut events = EventQueue::default();
        events.lost(0, []);
        assert!(events.is_empty());
        events.lost(2, [key("s-1"), key("c5-2")]);
        events.lost(1, [key("q-3")]);
        assert_eq!(events.lost_records(), 3);
        assert!(!events.is_empty());
        let shown: Vec<String> = events
            .take()
            .iter()
            .map(|event| format!("{event:?}"))
            .collect();
        let expected = [
            r#"RecordLost { key: "s-1" }"#,
            r#"RecordLost { key: "c5-2" }"#,
            "Lost { records: 2 }",
            r#"RecordLost { key: "q-3" }"#,
            "Lost { records: 1 }",
        ];
        assert_eq!(shown, expected);
        assert!(events.is_empty() && events.take().is_empty());
        assert_eq!(events.lost_records(), 3);
    }

    #[test]
    fn other_events_have_their_content() {
        let mut events = EventQueue::default();
        events.foreign_records(0, true);
        events.foreign_records(2, true);
        events.relocated(key("c5-1"), key("c5-7"), 10);
        events.dropped(RecordKind::SentPubrel, DropReason::SessionLost);
        let totals = Totals {
            records: 3,
            bytes: 4,
        };
        events.refused(Arc::new(Error::new(ErrorKind::Server, "write")), totals);
        let events = events.take();
        assert!(
            matches!(
                &events[..],
                [
                    StoreEvent::ForeignRecords { records: 2, removed: true },
                    StoreEvent::RecordRelocated { old_key, key, bytes: 10 },
                    StoreEvent::Dropped {
                        kind: RecordKind::SentPubrel,
                        reason: DropReason::SessionLost,
                        records: 1,
                    },
                    StoreEvent::Refused { records: 3, bytes: 4, .. },
                ] if (&old_key[..], &key[..]) == ("c5-1", "c5-7")
            ),
            "{events:?}"
        );
    }
}
