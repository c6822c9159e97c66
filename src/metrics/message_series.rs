//! [`MessageSeries`]: what became of the messages of a client, for scrapes in which they add up.

use std::{
    iter, mem,
    sync::{Mutex, PoisonError},
};

use prometheus::{IntCounter, IntGauge};

use super::labels::{KindLabel, QOS_LABELS};
use crate::paho::{DropReason, RecordKind};

/// The series of one client, as the last scrape has set them, and what has changed since.
pub(crate) struct MessageSeries {
    pub(super) changes: Mutex<MessageChanges>,
    pub(super) accepted: IntCounter,
    pub(super) restored: [IntGauge; KindLabel::ALL.len()],
    pub(super) waiting: IntGauge,
    pub(super) delivered: [IntCounter; QOS_LABELS.len()],
    pub(super) dropped: Vec<(RecordKind, DropReason, IntCounter)>,
    pub(super) lost: IntCounter,
}

/// Changes of the message series.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageChanges {
    pub(crate) accepted: u64,
    pub(crate) restored: [i64; KindLabel::ALL.len()],
    pub(crate) waiting: i64,
    pub(crate) delivered: [u64; QOS_LABELS.len()],
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

    fn add(&mut self, other: &Self) {
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
    /// Adds the changes of one call, of which the next scrape sees all.
    pub(crate) fn add(&self, changes: &MessageChanges) {
        let mut sum = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        sum.add(changes);
    }

    /// Moves the changes to the series.
    pub(super) fn publish(&self) {
        let changes = {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            mem::take(&mut *changes)
        };
        self.accepted.inc_by(changes.accepted);
        for (restored, records) in iter::zip(&self.restored, changes.restored) {
            restored.add(records);
        }
        self.waiting.add(changes.waiting);
        for (delivered, messages) in iter::zip(&self.delivered, changes.delivered) {
            delivered.inc_by(messages);
        }
        for (kind, reason, counter) in &self.dropped {
            let mut dropped = changes.dropped.iter();
            if let Some((.., records)) = dropped.find(|(of, why, _)| (of, why) == (kind, reason)) {
                counter.inc_by(*records);
            }
        }
        self.lost.inc_by(changes.lost);
    }
}
