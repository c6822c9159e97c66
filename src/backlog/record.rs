//! A record, and what is in it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::paho::{
    Key, PropertyValue, RecordKind, StoredMessage, Subscription, command_packet_id, expiry_time,
    is_valid_record, subscription,
};

/// A record with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Paho's key.
    pub key: Key,
    /// The bytes that are stored.
    pub value: Vec<u8>,
    /// The time at which it was set aside; of other records it is not known.
    pub time: Option<SystemTime>,
}

/// The parts of a record.
#[derive(Debug, PartialEq, Eq)]
pub struct View<'a> {
    /// The packet id, if the packet has one or will have it.
    pub packet_id: Option<u16>,
    /// Its purpose.
    pub content: Content<'a>,
    /// The time at which a waiting message expires, if it has one.
    pub expires: Option<SystemTime>,
}

/// The purpose of a record.
#[derive(Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A message, in either direction.
    Message {
        /// The topic, empty if the message has an alias instead.
        topic: &'a [u8],
        /// The payload.
        payload: &'a [u8],
        /// 0, 1 or 2.
        qos: u8,
        /// The broker retains it.
        retained: bool,
        /// The properties of MQTT 5, without the expiry that is in [`View::expires`].
        properties: Vec<Property<'a>>,
    },
    /// A command to subscribe to these topics.
    Subscribe(Vec<&'a [u8]>),
    /// A command to unsubscribe from these topics.
    Unsubscribe(Vec<&'a [u8]>),
    /// The PUBREL of a message at QoS 2.
    Pubrel,
    /// Paho could not read it.
    Unreadable,
}

/// A property of MQTT 5.
#[derive(Debug, PartialEq, Eq)]
pub struct Property<'a> {
    /// The identifier.
    pub id: u8,
    /// The value.
    pub data: PropertyData<'a>,
}

/// The value of a property.
#[derive(Debug, PartialEq, Eq)]
pub enum PropertyData<'a> {
    /// A number of any size.
    Number(u64),
    /// A text, or with [`Property::is_binary`] any bytes.
    Text(&'a [u8]),
    /// A name and a value.
    Pair(&'a [u8], &'a [u8]),
}

impl Property<'_> {
    /// The name in the specification, in lower case with underscores; empty for an unknown property.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.id {
            1 => "payload_format_indicator",
            MESSAGE_EXPIRY => "message_expiry_interval",
            3 => "content_type",
            8 => "response_topic",
            CORRELATION_DATA => "correlation_data",
            11 => "subscription_identifier",
            35 => "topic_alias",
            38 => "user_property",
            _ => "",
        }
    }

    /// Returns true if the value is no text.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.id == CORRELATION_DATA
    }
}

const MESSAGE_EXPIRY: u8 = 2;
const CORRELATION_DATA: u8 = 9;

impl Record {
    /// Creates the records of a message from the next values, one per key; those without a value are left out.
    pub(super) fn of_message(
        message: &[Key],
        values: impl Iterator<Item = Option<Vec<u8>>>,
    ) -> Vec<Self> {
        let records = message.iter().zip(values);
        let records = records.filter_map(|(key, value)| {
            Some(Self {
                key: *key,
                value: value?,
                time: None,
            })
        });
        records.collect()
    }

    /// Takes the record apart.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        let content = self.content();
        let packet_id = match (self.key.kind, &content) {
            (_, Content::Unreadable) | (RecordKind::Undelivered, _) => None,
            (RecordKind::Command, _) => command_packet_id(&self.value, self.key.v5),
            _ => u16::try_from(self.key.number).ok(),
        };
        let seconds = expiry_time(self.key, &self.value).map(u64::from);
        View {
            packet_id: packet_id.filter(|id| *id != 0),
            content,
            expires: seconds
                .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds))),
        }
    }

    /// Returns true if Paho can read it.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        is_valid_record(self.key, &self.value)
    }

    fn content(&self) -> Content<'_> {
        let Self { key, value, .. } = self;
        if !self.is_valid() {
            return Content::Unreadable;
        }
        if key.kind == RecordKind::SentPubrel {
            return Content::Pubrel;
        }
        if let Some(message) = StoredMessage::parse(*key, value) {
            let has_time = expiry_time(*key, value).is_some();
            let properties = message.properties.into_iter();
            let properties = properties
                .filter(|(id, _)| !(has_time && *id == MESSAGE_EXPIRY))
                .map(|(id, value)| Property {
                    id,
                    data: data_of(value),
                });
            return Content::Message {
                topic: message.topic,
                payload: message.payload,
                qos: message.qos,
                retained: message.is_retained,
                properties: properties.collect(),
            };
        }
        match subscription(value, key.v5) {
            Some(Subscription { subscribes, topics }) if subscribes => Content::Subscribe(topics),
            Some(Subscription { topics, .. }) => Content::Unsubscribe(topics),
            None => Content::Unreadable,
        }
    }
}

impl<'a> Content<'a> {
    /// The topic, or topics.
    #[must_use]
    pub fn topics(&self) -> &[&'a [u8]] {
        match self {
            Self::Message { topic, .. } => std::slice::from_ref(topic),
            Self::Subscribe(topics) | Self::Unsubscribe(topics) => topics,
            Self::Pubrel | Self::Unreadable => &[],
        }
    }
}

fn data_of(value: PropertyValue<'_>) -> PropertyData<'_> {
    match value {
        PropertyValue::Byte(value) => PropertyData::Number(value.into()),
        PropertyValue::TwoByte(value) => PropertyData::Number(value.into()),
        PropertyValue::FourByte(value) => PropertyData::Number(value.into()),
        PropertyValue::Variable(value) => {
            PropertyData::Number(u64::try_from(value).unwrap_or(u64::MAX))
        }
        PropertyValue::Text(value) => PropertyData::Text(value),
        PropertyValue::Pair(name, value) => PropertyData::Pair(name, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Record {
        Record {
            key: Key::parse(key).expect("a key"),
            value: value.to_vec(),
            time: None,
        }
    }

    fn command(kind: i32, token: i32, rest: &[u8]) -> Vec<u8> {
        [&kind.to_ne_bytes()[..], &token.to_ne_bytes(), rest].concat()
    }

    /// The part of a publish command behind its token.
    fn publish(qos: i32, properties: &[u8]) -> Vec<u8> {
        let int = |value: i32| value.to_ne_bytes();
        [b"a/b\0", &int(2)[..], b"xy", &int(qos), &int(1), properties].concat()
    }

    fn message(qos: u8, properties: Vec<Property<'_>>) -> Content<'_> {
        Content::Message {
            topic: b"a/b",
            payload: b"xy",
            qos,
            retained: true,
            properties,
        }
    }

    #[test]
    fn waiting_message_is_viewed() {
        let record = record("c-9", &command(3, 7, &publish(1, b"")));
        let view = View {
            packet_id: Some(7),
            content: message(1, Vec::new()),
            expires: None,
        };
        assert_eq!(record.view(), view);
        assert_eq!(view.content.topics(), [b"a/b"]);
    }

    #[test]
    fn message_at_qos_0_has_no_packet_id() {
        let record = record("c5-9", &command(3, 0, &publish(0, b"\0")));
        assert_eq!(record.view().packet_id, None);
        assert_eq!(record.view().content, message(0, Vec::new()));
    }

    #[test]
    fn expiry_is_time_while_message_waits() {
        let time = 1_795_000_000_u32;
        for (expiry, expires) in [(60, None), (time, Some(u64::from(time)))] {
            let properties = [&b"\x05\x02"[..], &expiry.to_be_bytes()].concat();
            let record = record("c5-9", &command(3, 7, &publish(1, &properties)));
            let view = record.view();
            let expected = expires.map(|time| UNIX_EPOCH + Duration::from_secs(time));
            assert_eq!(view.expires, expected);
            let interval = Property {
                id: MESSAGE_EXPIRY,
                data: PropertyData::Number(60),
            };
            let shown = expires.is_none().then_some(interval);
            assert_eq!(view.content, message(1, shown.into_iter().collect()));
        }
    }

    #[test]
    fn subscription_and_pubrel_are_viewed() {
        let subscribe = [&1_i32.to_ne_bytes()[..], b"a/#\0", &1_i32.to_ne_bytes()].concat();
        let subscribe = record("c-1", &command(8, 3, &subscribe));
        let view = subscribe.view();
        assert_eq!(view.content, Content::Subscribe(vec![b"a/#"]));
        assert_eq!(view.packet_id, Some(3));
        let unsubscribe = [&1_i32.to_ne_bytes()[..], b"a\0\0"].concat();
        let unsubscribe = record("c5-1", &command(10, 3, &unsubscribe));
        assert_eq!(unsubscribe.view().content, Content::Unsubscribe(vec![b"a"]));
        let pubrel = record("sc-7", b"\x62\x02\0\x07");
        assert_eq!(pubrel.view().content, Content::Pubrel);
        assert_eq!(pubrel.view().packet_id, Some(7));
    }

    #[test]
    fn damaged_record_is_unreadable() {
        for (key, value) in [
            ("c-1", &b""[..]),
            ("s-1", b"\x32"),
            // The packet id of another record.
            ("sc-8", b"\x62\x02\0\x07"),
            ("q5-1", b"\0\0\0\0"),
        ] {
            let record = record(key, value);
            let view = record.view();
            assert_eq!(view.content, Content::Unreadable, "{key}");
            assert_eq!(view.packet_id, None, "{key}");
            assert!(view.content.topics().is_empty());
        }
    }
}
