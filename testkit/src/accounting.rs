//! Accounts for every message of a client by its metrics.

use std::collections::BTreeMap;

use paho_mqtt_redis::prometheus::{
    Registry,
    proto::{LabelPair, Metric, MetricType},
};

/// Messages of a client, as its metrics count them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub accepted: i64,
    pub restored: i64,
    pub delivered: i64,
    pub waiting: i64,
    pub dropped: i64,
    pub lost: i64,
}

impl Account {
    /// Returns true if each message that came is somewhere. Holds while no call is in progress, for a client without subscriptions.
    pub fn is_balanced(&self) -> bool {
        self.accepted + self.restored == self.delivered + self.waiting + self.dropped + self.lost
    }
}

/// Returns the account of each client by its id.
pub fn accounts(registry: &Registry) -> BTreeMap<String, Account> {
    let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
    for family in registry.gather() {
        let Some(name) = family.name().strip_prefix("mqtt_persistence_") else {
            continue;
        };
        for metric in family.get_metric() {
            let Some(client) = label(metric, "client_id") else {
                continue;
            };
            let account = accounts.entry(client.to_owned()).or_default();
            // An expired message was dropped before it could be restored.
            let is_expired = label(metric, "reason") == Some("expired");
            let is_message =
                !is_expired && matches!(label(metric, "kind"), Some("command" | "sent_publish"));
            let field = match name {
                "accepted_messages_total" => &mut account.accepted,
                "restored_records" if is_message => &mut account.restored,
                "delivered_messages_total" => &mut account.delivered,
                "waiting_messages" => &mut account.waiting,
                "dropped_records_total" if is_message => &mut account.dropped,
                "lost_messages_total" => &mut account.lost,
                _ => continue,
            };
            *field += value(metric, family.get_field_type());
        }
    }
    accounts
}

#[expect(clippy::cast_possible_truncation, reason = "counts are small")]
fn value(metric: &Metric, kind: MetricType) -> i64 {
    let value = match kind {
        MetricType::COUNTER => metric.get_counter().get_value(),
        _ => metric.get_gauge().get_value(),
    };
    value as i64
}

fn label<'a>(metric: &'a Metric, name: &str) -> Option<&'a str> {
    let mut labels = metric.get_label().iter();
    labels
        .find(|label| label.name() == name)
        .map(LabelPair::value)
}
