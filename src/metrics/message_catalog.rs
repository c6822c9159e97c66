//! [`MessageCatalog`]: the metrics that count messages to the broker, and what became of them.

use std::sync::Mutex;

use prometheus::{
    IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    client_table::ClientTable,
    labels::{KindLabel, QOS_LABELS},
    message_series::MessageSeries,
    removal::remove_series,
};
use crate::paho::{DropReason, RecordKind};

/// A message is accepted or restored, and then waits until it is delivered, dropped or lost.
///
/// One collector for all of these families. A scrape that read them one after the other would count a message
/// that moves meanwhile twice, or not at all.
#[derive(Clone)]
pub(super) struct MessageCatalog {
    accepted: IntCounterVec,
    restored: IntGaugeVec,
    waiting: IntGaugeVec,
    delivered: IntCounterVec,
    dropped: IntCounterVec,
    lost: IntCounterVec,
    client_table: ClientTable,
}

impl MessageCatalog {
    pub(super) fn new(
        opts: impl Fn(&str, &str) -> Opts,
        client_table: ClientTable,
    ) -> prometheus::Result<Self> {
        Ok(Self {
            accepted: IntCounterVec::new(
                opts(
                    "accepted_messages_total",
                    "Messages that publish accepted and Paho put",
                ),
                &["client_id"],
            )?,
            restored: IntGaugeVec::new(
                opts("restored_records", "Records restored at the last open"),
                &["client_id", "kind"],
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
            client_table,
        })
    }

    fn families(&self) -> [&dyn Collector; 6] {
        [
            &self.accepted,
            &self.restored,
            &self.waiting,
            &self.delivered,
            &self.dropped,
            &self.lost,
        ]
    }

    /// Creates the series of a label, at zero.
    pub(super) fn series(&self, label: &str) -> MessageSeries {
        let dropped = possible_drops().map(|(kind, reason)| {
            let labels = [label, kind.as_str(), reason.as_str()];
            (kind, reason, self.dropped.with_label_values(&labels))
        });
        MessageSeries {
            changes: Mutex::default(),
            accepted: self.accepted.with_label_values(&[label]),
            restored: KindLabel::ALL
                .map(|kind| self.restored.with_label_values(&[label, kind.as_str()])),
            waiting: self.waiting.with_label_values(&[label]),
            delivered: QOS_LABELS.map(|qos| self.delivered.with_label_values(&[label, qos])),
            dropped: dropped.collect(),
            lost: self.lost.with_label_values(&[label]),
        }
    }

    /// Removes the series of a label.
    pub(super) fn remove_message_series(&self, label: &str) {
        remove_series(&self.accepted, &[label]);
        for kind in KindLabel::ALL {
            remove_series(&self.restored, &[label, kind.as_str()]);
        }
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

impl Collector for MessageCatalog {
    fn desc(&self) -> Vec<&Desc> {
        let families = self.families().into_iter();
        families.flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Held to the end, since another scrape that publishes meanwhile would move what this one still reads.
        let clients = self.client_table.lock();
        for client in clients.values() {
            client.series.messages.publish();
        }
        let families = self.families().into_iter();
        families.flat_map(Collector::collect).collect()
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
