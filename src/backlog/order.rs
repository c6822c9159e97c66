//! The order in which Paho takes up what is stored.

use crate::paho::{Key, RecordKind, sort_by_sequence};

/// The records of one message: one, or a PUBLISH with its PUBREL, possibly in both versions of MQTT.
pub type Message = Vec<Key>;

/// Groups records by message, and sorts them into the order in which they will go out.
///
/// At a connect Paho first repeats what is in flight, and then sends what waits. Inbound messages, which
/// go to the application, come last. In each part a sequence may have wrapped.
#[must_use]
pub fn messages_in_order(keys: impl IntoIterator<Item = Key>) -> Vec<Message> {
    use RecordKind::{Command, ReceivedPublish, SentPublish, SentPubrel, Undelivered};
    let mut parts: [Vec<Key>; 4] = Default::default();
    let [in_flight, waiting, received, undelivered] = &mut parts;
    for key in keys {
        match key.kind {
            SentPublish | SentPubrel => in_flight.push(key),
            Command => waiting.push(key),
            ReceivedPublish => received.push(key),
            Undelivered => undelivered.push(key),
        }
    }
    let mut messages: Vec<Message> = Vec::new();
    for part in &mut parts {
        sort_by_sequence(part);
        let are_together = |one: &Key, next: &Key| {
            one.number == next.number && !one.is_queue_record() && !next.is_queue_record()
        };
        messages.extend(part.chunk_by(are_together).map(<[Key]>::to_vec));
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the messages, whose records are joined by `+`.
    fn ordered(names: &str) -> String {
        let keys = names.split_whitespace();
        let keys = keys.map(|name| Key::parse(name).expect("a key"));
        let messages = messages_in_order(keys).into_iter().map(|message| {
            let names = message.iter().map(Key::to_string);
            names.collect::<Vec<_>>().join("+")
        });
        messages.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn messages_in_flight_go_before_waiting_ones() {
        assert_eq!(ordered(""), "");
        assert_eq!(
            ordered("q-1 c-1 r-3 c5-2 sc-9 s-2 s-9 c-10"),
            "s-2 s-9+sc-9 c-1 c5-2 c-10 r-3 q-1"
        );
        assert_eq!(ordered("sc5-4 s5-4 s-4"), "s-4+s5-4+sc5-4");
        // Two commands with one number are two messages.
        assert_eq!(ordered("c-4 c5-4"), "c-4 c5-4");
    }

    #[test]
    fn wrapped_numbers_are_in_order() {
        assert_eq!(
            ordered("c-0 c-999999 c-1 c-999998"),
            "c-999998 c-999999 c-0 c-1"
        );
        assert_eq!(
            ordered("s-1 s-65535 s-65534 sc-65534"),
            "s-65534+sc-65534 s-65535 s-1"
        );
    }
}
