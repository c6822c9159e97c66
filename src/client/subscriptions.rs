//! [`Subscriptions`]: what the client subscribes to, and what the broker's session has of it.

use std::collections::BTreeMap;

use paho_mqtt as mqtt;

/// The topic filters of the client. Each one is sent once per session of the broker.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_filter: BTreeMap<String, Subscription>,
}

#[derive(Clone, Copy, Debug)]
struct Subscription {
    qos: mqtt::QoS,
    progress: Progress,
}

/// How far a subscription has got in the present session of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Unsent,
    /// Sent with the present connection, and not acknowledged.
    Sent,
    Acknowledged,
}

impl Subscriptions {
    /// Adds a filter, or changes its QoS.
    pub(super) fn add(&mut self, filter: String, qos: mqtt::QoS) {
        let subscription = Subscription {
            qos,
            progress: Progress::Unsent,
        };
        self.by_filter.insert(filter, subscription);
    }

    /// Notes a new connection. The session may be new too, and then has none of them.
    pub(super) fn connected(&mut self, has_session: bool) {
        for subscription in self.by_filter.values_mut() {
            if !has_session || subscription.progress == Progress::Sent {
                subscription.progress = Progress::Unsent;
            }
        }
    }

    /// Takes those that are to be sent.
    pub(super) fn take_unsent(&mut self) -> Vec<(String, mqtt::QoS)> {
        let all = self.by_filter.iter_mut();
        let unsent = all.filter(|(_, subscription)| subscription.progress == Progress::Unsent);
        unsent
            .map(|(filter, subscription)| {
                subscription.progress = Progress::Sent;
                (filter.clone(), subscription.qos)
            })
            .collect()
    }

    pub(super) fn acknowledged(&mut self, filter: &str) {
        if let Some(subscription) = self.by_filter.get_mut(filter)
            && subscription.progress == Progress::Sent
        {
            subscription.progress = Progress::Acknowledged;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsent(subscriptions: &mut Subscriptions) -> Vec<String> {
        let unsent = subscriptions.take_unsent().into_iter();
        unsent.map(|(filter, _)| filter).collect()
    }

    #[test]
    fn filter_is_sent_until_session_has_it() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add("a/#".to_owned(), mqtt::QoS::AtLeastOnce);
        subscriptions.add("b".to_owned(), mqtt::QoS::AtLeastOnce);
        assert_eq!(unsent(&mut subscriptions), ["a/#", "b"]);
        assert_eq!(unsent(&mut subscriptions), [""; 0]);
        subscriptions.acknowledged("a/#");
        // What the broker has not acknowledged, or refused, is sent with the next connection.
        subscriptions.connected(true);
        assert_eq!(unsent(&mut subscriptions), ["b"]);
        subscriptions.acknowledged("b");
        subscriptions.connected(true);
        assert_eq!(unsent(&mut subscriptions), [""; 0]);
        subscriptions.connected(false);
        assert_eq!(unsent(&mut subscriptions), ["a/#", "b"]);
    }

    #[test]
    fn filter_with_another_qos_is_sent_again() {
        let mut subscriptions = Subscriptions::default();
        for qos in [mqtt::QoS::AtLeastOnce, mqtt::QoS::ExactlyOnce] {
            subscriptions.add("a".to_owned(), qos);
            assert_eq!(subscriptions.take_unsent(), [("a".to_owned(), qos)]);
            subscriptions.acknowledged("a");
        }
    }
}
