//! The messages that a drain sends, and the reasons why it leaves others.

use std::{fmt, time::SystemTime};

use paho_mqtt::Message;

use super::super::record::{Content, Record};
use crate::{
    paho::{RecordKind, is_expired},
    persistence::message_of,
};

/// The reason why a drain leaves a message in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftReason {
    /// The broker may have it, in the open session of the client.
    InFlight,
    /// Only its PUBREL is left, so the broker has it.
    Released,
    /// It is for the application.
    Inbound,
    /// It is a subscription of the client.
    Subscription,
    /// Its expiry has passed.
    Expired,
    /// Paho could not read it.
    Unreadable,
    /// It has no topic that paho-mqtt can send, but an alias, or bytes that are no text.
    NoTopic,
    /// The broker or Paho refused it.
    Refused(String),
}

impl LeftReason {
    /// Returns true if the message should have been sent.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Expired | Self::Unreadable | Self::NoTopic | Self::Refused(_)
        )
    }
}

impl fmt::Display for LeftReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFlight => f.write_str("in flight of the client's own session"),
            Self::Released => f.write_str("only its PUBREL is left, so the broker has it"),
            Self::Inbound => f.write_str("for the application"),
            Self::Subscription => f.write_str("a subscription of the client"),
            Self::Expired => f.write_str("its expiry has passed"),
            Self::Unreadable => f.write_str("Paho could not read it"),
            Self::NoTopic => f.write_str("it has no topic that can be sent"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

/// Returns the message in these records, or the reason why it is left.
pub(super) fn sendable(
    records: &[Record],
    sends_in_flight: bool,
    now: SystemTime,
) -> Result<Message, LeftReason> {
    let is_kind = |kind: RecordKind| move |record: &&Record| record.key.kind == kind;
    let first = records.first().ok_or(LeftReason::Released)?;
    let record = match first.key.kind {
        RecordKind::ReceivedPublish | RecordKind::Undelivered => return Err(LeftReason::Inbound),
        RecordKind::Command => first,
        RecordKind::SentPublish | RecordKind::SentPubrel => {
            let publish = records.iter().find(is_kind(RecordKind::SentPublish));
            let publish = publish.ok_or(LeftReason::Released)?;
            if !sends_in_flight {
                return Err(LeftReason::InFlight);
            }
            publish
        }
    };
    let Record { key, value, .. } = record;
    match record.view().content {
        Content::Message { .. } => {}
        Content::Subscribe(_) | Content::Unsubscribe(_) => return Err(LeftReason::Subscription),
        Content::Pubrel | Content::Unreadable => return Err(LeftReason::Unreadable),
    }
    if is_expired(*key, value, || now) {
        return Err(LeftReason::Expired);
    }
    message_of(*key, value).ok_or(LeftReason::NoTopic)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::paho::{Key, sample_record};

    fn record(key: &str, value: Vec<u8>) -> Record {
        Record {
            key: Key::parse(key).expect("a key"),
            value,
            time: None,
        }
    }

    fn of(keys: &str, sends_in_flight: bool) -> Result<String, LeftReason> {
        let keys = keys.split_whitespace();
        let records: Vec<Record> = keys.map(|key| record(key, sample_record(key))).collect();
        let message = sendable(&records, sends_in_flight, UNIX_EPOCH)?;
        Ok(format!("{} {}", message.topic(), message.payload_str()))
    }

    #[test]
    fn waiting_message_is_sent() {
        for key in ["c-7", "c5-7"] {
            assert_eq!(of(key, false).as_deref(), Ok("t x"));
        }
    }

    #[test]
    fn message_in_flight_is_sent_on_request() {
        for keys in ["s-7", "s5-7", "s-7 sc-7", "s-7 s5-7 sc5-7"] {
            assert_eq!(of(keys, false), Err(LeftReason::InFlight), "{keys}");
            assert_eq!(of(keys, true).as_deref(), Ok("t x"), "{keys}");
        }
        assert_eq!(of("sc-7", true), Err(LeftReason::Released));
    }

    #[test]
    fn other_records_are_left() {
        for keys in ["r-7", "q5-7"] {
            assert_eq!(of(keys, true), Err(LeftReason::Inbound));
        }
        let int = |value: i32| value.to_ne_bytes();
        let subscribe = [&int(8)[..], &int(3), &int(1), b"a/#\0", &int(1)].concat();
        let left = |value| sendable(&[record("c-1", value)], true, UNIX_EPOCH).map(drop);
        assert_eq!(left(subscribe), Err(LeftReason::Subscription));
        assert_eq!(left(b"\0".to_vec()), Err(LeftReason::Unreadable));
        let publish = |topic: &[u8]| {
            let fields = [&int(0)[..], &int(1), &int(0)].concat();
            [&int(3)[..], &int(7), topic, b"\0", &fields].concat()
        };
        assert_eq!(left(publish(b"t")), Ok(()));
        assert_eq!(left(publish(b"\xff")), Err(LeftReason::NoTopic));
    }

    #[test]
    fn expired_message_is_left() {
        let time = 1_795_000_000_u32;
        let int = |value: i32| value.to_ne_bytes();
        let value = [
            &int(3)[..],
            &int(7),
            b"t\0",
            &int(0),
            &int(1),
            &int(0),
            b"\x05\x02",
            &time.to_be_bytes(),
        ];
        let records = [record("c5-1", value.concat())];
        let at = |seconds: u32| UNIX_EPOCH + Duration::from_secs(seconds.into());
        assert!(sendable(&records, false, at(time - 1)).is_ok());
        let left = sendable(&records, false, at(time)).map(drop);
        assert_eq!(left, Err(LeftReason::Expired));
    }
}
