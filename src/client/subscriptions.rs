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
    wanted: Wanted,
    progress: Progress,
}

/// What the program wants of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Subscribed(mqtt::QoS),
    Unsubscribed,
}

/// How far a request has got in the present session of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Unsent,
    /// Sent with the present connection, and not acknowledged.
    Sent,
    Acknowledged,
}

impl Subscriptions {
    /// Adds a filter, or changes what is wanted of it.
    pub(super) fn add(&mut self, filter: String, wanted: Wanted) {
        let subscription = Subscription {
            wanted,
            progress: Progress::Unsent,
        };
        self.by_filter.insert(filter, subscription);
    }

    /// Notes a new connection. The session may be new too, and then has none of them.
    pub(super) fn connected(&mut self, has_session: bool) {
        if !has_session {
            self.by_filter
                .retain(|_, subscription| subscription.wanted != Wanted::Unsubscribed);
        }
        for subscription in self.by_filter.values_mut() {
            if !has_session || subscription.progress == Progress::Sent {
                subscription.progress = Progress::Unsent;
            }
        }
    }

    /// Takes those that are to be sent.
    pub(super) fn take_unsent(&mut self) -> Vec<(String, Wanted)> {
        let all = self.by_filter.iter_mut();
        let unsent = all.filter(|(_, subscription)| subscription.progress == Progress::Unsent);
        unsent
            .map(|(filter, subscription)| {
                subscription.progress = Progress::Sent;
                (filter.clone(), subscription.wanted)
            })
            .collect()
    }

    pub(super) fn acknowledged(&mut self, filter: &str, wanted: Wanted) {
        let Some(subscription) = self.by_filter.get_mut(filter) else {
            return;
        };
        if (subscription.wanted, subscription.progress) != (wanted, Progress::Sent) {
            return;
        }
        match wanted {
            Wanted::Subscribed(_) => subscription.progress = Progress::Acknowledged,
            Wanted::Unsubscribed => {
                self.by_filter.remove(filter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBSCRIBED: Wanted = Wanted::Subscribed(mqtt::QoS::AtLeastOnce);

    fn unsent(subscriptions: &mut Subscriptions) -> Vec<String> {
        let unsent = subscriptions.take_unsent().into_iter();
        unsent.map(|(filter, _)| filter).collect()
    }

    #[test]
    fn filter_is_sent_until_session_has_it() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add("a/#".to_owned(), SUBSCRIBED);
        subscriptions.add("b".to_owned(), SUBSCRIBED);
        assert_eq!(unsent(&mut subscriptions), ["a/#", "b"]);
        assert_eq!(unsent(&mut subscriptions), [""; 0]);
        subscriptions.acknowledged("a/#", SUBSCRIBED);
        // What the broker has not acknowledged, or refused, is sent with the next connection.
        subscriptions.connected(true);
        assert_eq!(unsent(&mut subscriptions), ["b"]);
        subscriptions.acknowledged("b", SUBSCRIBED);
        subscriptions.connected(true);
        assert_eq!(unsent(&mut subscriptions), [""; 0]);
        subscriptions.connected(false);
        assert_eq!(unsent(&mut subscriptions), ["a/#", "b"]);
    }

    #[test]
    fn filter_with_another_qos_is_sent_again() {
        let mut subscriptions = Subscriptions::default();
        for qos in [mqtt::QoS::AtLeastOnce, mqtt::QoS::ExactlyOnce] {
            let wanted = Wanted::Subscribed(qos);
            subscriptions.add("a".to_owned(), wanted);
            assert_eq!(subscriptions.take_unsent(), [("a".to_owned(), wanted)]);
            subscriptions.acknowledged("a", wanted);
        }
    }

    #[test]
    fn unsubscribed_filter_is_forgotten_once_broker_knows() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.add("a".to_owned(), SUBSCRIBED);
        assert_eq!(unsent(&mut subscriptions), ["a"]);
        // The answer to the first request comes after the second one was made.
        subscriptions.add("a".to_owned(), Wanted::Unsubscribed);
        let wanted = [("a".to_owned(), Wanted::Unsubscribed)];
        assert_eq!(subscriptions.take_unsent(), wanted);
        subscriptions.acknowledged("a", SUBSCRIBED);
        subscriptions.connected(true);
        assert_eq!(subscriptions.take_unsent(), wanted);
        subscriptions.acknowledged("a", Wanted::Unsubscribed);
        subscriptions.connected(false);
        assert_eq!(unsent(&mut subscriptions), [""; 0]);
        // A new session has no filter to be rid of.
        subscriptions.add("b".to_owned(), Wanted::Unsubscribed);
        subscriptions.connected(false);
        assert_eq!(unsent(&mut subscriptions), [""; 0]);
    }
}
