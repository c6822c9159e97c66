//! [`MessageChanges`]: what became of the messages of a client, for scrapes in which they add up.

use std::iter;

use super::{
    labels::{KindLabel, QosLabel},
    table::MessageSeries,
};
use crate::paho::{DropReason, RecordKind};

/// Changes of the message series.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageChanges {
    pub(crate) accepted: u64,
    pub(crate) restored: [i64; KindLabel::ALL.len()],
    pub(crate) waiting: i64,
    pub(crate) delivered: [u64; QosLabel::ALL.len()],
    /// By kind and reason, each pair once.
    dropped: Vec<(RecordKind, DropReason, u64)>,
    pub(crate) lost: u64,
}

impl MessageChanges {
    pub(crate) fn drop_records(&mut self, kind: RecordKind, reason: DropReason, records: u64) {
        let mut dropped = self.dropped.iter_mut();
        match dropped.find(|(of, why, _)| (*of, *why) == (kind, reason)) {
            Some((.., before)) => *before = before.saturating_add(records),
            None => self.dropped.push((kind, reason, records)),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.accepted = self.accepted.saturating_add(other.accepted);
        for (restored, other) in iter::zip(&mut self.restored, other.restored) {
            *restored = restored.saturating_add(other);
        }
        self.waiting = self.waiting.saturating_add(other.waiting);
        for (delivered, other) in iter::zip(&mut self.delivered, other.delivered) {
            *delivered = delivered.saturating_add(other);
        }
        for (kind, reason, records) in &other.dropped {
            self.drop_records(*kind, *reason, *records);
        }
        self.lost = self.lost.saturating_add(other.lost);
    }
}

impl MessageSeries {
    /// Adds the changes to the series.
    pub(super) fn apply(&self, changes: &MessageChanges) {
        self.accepted_messages_total.inc_by(changes.accepted);
        for ((_, restored), records) in iter::zip(self.restored_records.iter(), changes.restored) {
            restored.add(records);
        }
        self.waiting_messages.add(changes.waiting);
        let delivered = self.delivered_messages_total.iter();
        for ((_, delivered), messages) in iter::zip(delivered, changes.delivered) {
            delivered.inc_by(messages);
        }
        for (kind, reason, records) in &changes.dropped {
            if let Some(dropped) = self.dropped_records_total.get((*kind, *reason)) {
                dropped.inc_by(*records);
            }
        }
        self.lost_messages_total.inc_by(changes.lost);
    }
}
