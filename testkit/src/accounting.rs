//! Accounts for every message of a client by its metrics.

use std::collections::BTreeMap;

use paho_mqtt_redis::{prometheus::Registry, render};

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
    /// Returns true if each message that came is somewhere. Holds at every scrape, for a client without subscriptions.
    pub fn is_balanced(&self) -> bool {
        self.accepted + self.restored == self.delivered + self.waiting + self.dropped + self.lost
    }
}

/// Returns the account of each client by its id.
pub fn accounts(registry: &Registry) -> BTreeMap<String, Account> {
    accounts_in(&render(registry).expect("the metrics"))
}

/// Returns the account of each client in the text of a scrape.
pub fn accounts_in(text: &str) -> BTreeMap<String, Account> {
    let mut accounts: BTreeMap<String, Account> = BTreeMap::new();
    for line in text.lines() {
        let series = line.strip_prefix("mqtt_persistence_");
        let Some((series, value)) = series.and_then(|series| series.rsplit_once(' ')) else {
            continue;
        };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let Some(client) = label(labels, "client_id") else {
            continue;
        };
        let account = accounts.entry(client.to_owned()).or_default();
        // Such a message was dropped before it could be restored.
        let is_dropped_at_open = matches!(label(labels, "reason"), Some("expired" | "over_budget"));
        let is_message = !is_dropped_at_open
            && matches!(label(labels, "kind"), Some("command" | "sent_publish"));
        let field = match name {
            "accepted_messages_total" => &mut account.accepted,
            "restored_records" if is_message => &mut account.restored,
            "delivered_messages_total" => &mut account.delivered,
            "waiting_messages" => &mut account.waiting,
            "dropped_records_total" if is_message => &mut account.dropped,
            "lost_messages_total" => &mut account.lost,
            _ => continue,
        };
        *field += value.parse::<i64>().expect("a number of messages");
    }
    accounts
}

/// Value of a label, in which nothing is escaped.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut labels = labels.trim_end_matches('}').split(',');
    labels.find_map(|label| {
        let (label, value) = label.split_once('=')?;
        (label == name).then(|| value.trim_matches('"'))
    })
}
