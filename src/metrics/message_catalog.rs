//! [`MessageCatalog`]: the metrics that count messages to the broker, and what became of them.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, core::Collector};

use super::{labels::QOS_LABELS, removal::remove_series};
use crate::paho::{DropReason, RecordKind};

/// A message is accepted, and then waits until it is delivered, dropped or lost.
pub(super) struct MessageCatalog {
    accepted: IntCounterVec,
    waiting: IntGaugeVec,
    delivered: IntCounterVec,
    dropped: IntCounterVec,
    lost: IntCounterVec,
}

/// The series of one client.
pub(crate) struct MessageSeries {
    pub(crate) accepted: IntCounter,
    pub(crate) waiting: IntGauge,
    delivered: [IntCounter; QOS_LABELS.len()],
    dropped: Vec<(RecordKind, DropReason, IntCounter)>,
    pub(crate) lost: IntCounter,
}

impl MessageSeries {
    pub(crate) fn delivered(&self, qos: u8) -> Option<&IntCounter> {
        self.delivered.get(usize::from(qos))
    }

    pub(crate) fn dropped(&self, kind: RecordKind, reason: DropReason) -> Option<&IntCounter> {
        let mut dropped = self.dropped.iter();
        let (.., counter) = dropped.find(|(of, why, _)| (*of, *why) == (kind, reason))?;
        Some(counter)
    }
}

impl MessageCatalog {
    pub(super) fn new(opts: impl Fn(&str, &str) -> Opts) -> prometheus::Result<Self> {
        Ok(Self {
            accepted: IntCounterVec::new(
                opts(
                    "accepted_messages_total",
                    "Messages that publish accepted and Paho put",
                ),
                &["client_id"],
            )?,
            waiting: IntGaugeVec::new(
                opts(
                    "waiting_messages",
                    "Messages that wait to be sent or acknowledged",
                ),
                &["client_id"],
            )?,
            delivered: IntCounterVec::new(
                opts(
                    "delivered_messages_total",
                    "Messages that the broker acknowledged, or that were sent at QoS 0",
                ),
                &["client_id", "qos"],
            )?,
            dropped: IntCounterVec::new(
                opts(
                    "dropped_records_total",
                    "Records that Paho removed although they were not delivered",
                ),
                &["client_id", "kind", "reason"],
            )?,
            lost: IntCounterVec::new(
                opts(
                    "lost_messages_total",
                    "Messages that the store lost without a copy in memory",
                ),
                &["client_id"],
            )?,
        })
    }

    pub(super) fn collectors(&self) -> [Box<dyn Collector>; 5] {
        [
            Box::new(self.accepted.clone()),
            Box::new(self.waiting.clone()),
            Box::new(self.delivered.clone()),
            Box::new(self.dropped.clone()),
            Box::new(self.lost.clone()),
        ]
    }

    /// Creates the series of a label, at zero.
    pub(super) fn series(&self, label: &str) -> MessageSeries {
        let dropped = possible_drops().map(|(kind, reason)| {
            let labels = [label, kind.as_str(), reason.as_str()];
            (kind, reason, self.dropped.with_label_values(&labels))
        });
        MessageSeries {
            accepted: self.accepted.with_label_values(&[label]),
            waiting: self.waiting.with_label_values(&[label]),
            delivered: QOS_LABELS.map(|qos| self.delivered.with_label_values(&[label, qos])),
            dropped: dropped.collect(),
            lost: self.lost.with_label_values(&[label]),
        }
    }

    /// Removes the series of a label.
    pub(super) fn remove_message_series(&self, label: &str) {
        remove_series(&self.accepted, &[label]);
        remove_series(&self.waiting, &[label]);
        for qos in QOS_LABELS {
            remove_series(&self.delivered, &[label, qos]);
        }
        for (kind, reason) in possible_drops() {
            remove_series(&self.dropped, &[label, kind.as_str(), reason.as_str()]);
        }
        remove_series(&self.lost, &[label]);
    }
}

/// Returns the pairs of kind and reason that can occur, so that no series exists that can never move.
fn possible_drops() -> impl Iterator<Item = (RecordKind, DropReason)> {
    use RecordKind::{Command, ReceivedPublish, SentPublish, SentPubrel, Undelivered};
    let kinds = [
        Command,
        SentPublish,
        SentPubrel,
        ReceivedPublish,
        Undelivered,
    ];
    let pairs = kinds.into_iter().flat_map(|kind| {
        let reasons = DropReason::ALL.iter().copied();
        reasons.map(move |reason| (kind, reason))
    });
    pairs.filter(|(kind, reason)| reason.applies_to(*kind))
}
