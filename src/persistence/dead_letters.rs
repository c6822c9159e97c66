//! [`DeadLetters`]: the records that are set aside, for the program.

use std::{
    cell::Cell,
    cmp::Reverse,
    fmt,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use paho_mqtt::{
    self as mqtt, AsyncClient, Message, MessageBuilder, Properties, Property, PropertyCode,
};

use super::shared::{PAUSE, PersistenceShared};
use crate::{
    error::Error,
    paho::{Key, PropertyValue, RecordKind, StoredMessage, set_remaining_interval},
    store::{Place, SetAsideName, Store, UNKNOWN},
};

/// The records of a client that are set aside: those that Paho dropped, and the quarantine.
///
/// [`Persistence::dead_letters`](crate::Persistence::dead_letters) returns it. It works after a client has
/// taken the persistence, too, while that is open. Each method waits for the call in progress, and asks
/// the store; so do not use it inside a call of Paho, such as a callback of the client. An observer's
/// thread is a good place.
///
/// ```no_run
/// use paho_mqtt_redis::{RedisPersistence, paho_mqtt as mqtt};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let persistence = RedisPersistence::new();
/// let dead_letters = persistence.dead_letters();
/// let options = mqtt::CreateOptionsBuilder::new().user_persistence(persistence).finalize();
/// let client = mqtt::AsyncClient::new(options)?;
/// for letter in dead_letters.list()? {
///     println!("{letter:?}");
/// }
/// let again = dead_letters.publish_again(&client, |letter| letter.reason() == "session_lost")?;
/// println!("{} published, {} skipped", again.published, again.skipped);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DeadLetters(Arc<dyn DeadLetterSource>);

/// A record that is set aside.
#[derive(Clone, PartialEq, Eq)]
pub struct DeadLetter {
    place: Place,
    name: String,
    value: Vec<u8>,
}

/// The result of [`DeadLetters::publish_again`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct PublishedAgain {
    /// Number of messages that the client accepted. They are set aside no longer.
    pub published: usize,
    /// Number of records that stay, since they have no message for the broker: inbound ones, unreadable
    /// ones, and those with a topic alias instead of a topic.
    pub skipped: usize,
    /// The reason why the client accepted no more, if so. The rest stays.
    pub refusal: Option<mqtt::Error>,
}

impl DeadLetter {
    #[cfg(feature = "cli")]
    pub(crate) fn new(place: Place, name: String, value: Vec<u8>) -> Self {
        Self { place, name, value }
    }

    /// The place of the record.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Its name there: the field of the hash in Redis.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The reason: that of a [`DropReason`](crate::DropReason) as text, or in the quarantine
    /// `unreadable`, `foreign` or `poison`; `unknown` if somebody else has put the record there.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.parsed_name().map_or(UNKNOWN, |name| name.reason)
    }

    /// The time at which it was set aside, by the device's clock, if its name has one.
    #[must_use]
    pub fn time(&self) -> Option<SystemTime> {
        self.parsed_name().map(|name| name.time())
    }

    /// Paho's key of the record, if its name has one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        let key = match self.parsed_name() {
            Some(name) => name.key,
            // As earlier versions of this crate wrote it.
            None => self.name.split(':').next()?,
        };
        Key::parse(key).map(|_| key)
    }

    /// Returns true for a message to the broker, and false for one from it.
    #[must_use]
    pub fn is_outbound(&self) -> bool {
        let key = self.key().and_then(Key::parse);
        key.is_some_and(|key| matches!(key.kind, RecordKind::Command | RecordKind::SentPublish))
    }

    /// The bytes of the record, as Paho wrote them; in a waiting message of MQTT 5 the time at which it
    /// expires is in place of the interval.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Returns the message, with its topic, payload, QoS, retained flag and properties of MQTT 5.
    ///
    /// Of a message that had not been sent, the message expiry is what remains of it now, at least 1 s.
    /// A topic alias is left out, since it belongs to a connection that has ended. `None` if there is no
    /// message in the record, or only an alias in place of its topic.
    #[must_use]
    pub fn to_message(&self) -> Option<Message> {
        message_of(Key::parse(self.key()?)?, &self.value)
    }

    fn parsed_name(&self) -> Option<SetAsideName<'_>> {
        SetAsideName::parse(&self.name)
    }

    fn number(&self) -> Option<u32> {
        Some(Key::parse(self.key()?)?.number)
    }
}

/// Returns the message in a record, with what remains of its expiry and without its topic alias.
pub(crate) fn message_of(key: Key, value: &[u8]) -> Option<Message> {
    let mut value = value.to_vec();
    set_remaining_interval(key, &mut value, SystemTime::now);
    let message = StoredMessage::parse(key, &value)?;
    let topic = text(message.topic).filter(|topic| !topic.is_empty())?;
    let mut properties = Properties::new();
    for (id, value) in message.properties {
        let code = PropertyCode::new(id.into())?;
        // It belongs to a connection that has ended.
        if code != PropertyCode::TopicAlias {
            properties.push(property(code, value)?).ok()?;
        }
    }
    let qos = mqtt::QoS::from(i32::from(message.qos));
    let builder = MessageBuilder::new()
        .topic(topic)
        .payload(message.payload)
        .qos(qos)
        .retained(message.is_retained);
    Some(builder.properties(properties).finalize())
}

/// Shows the name and the length of the value: payloads do not belong into a log.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("place", &self.place)
            .field("name", &self.name)
            .field("bytes", &self.value.len())
            .finish()
    }
}

/// Returns text that paho-mqtt takes without a panic.
fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'))
}

/// Creates a property; `None` if paho-mqtt does not take it.
fn property(code: PropertyCode, value: PropertyValue<'_>) -> Option<Property> {
    let property = match value {
        PropertyValue::Byte(value) => Property::new_byte(code, value),
        PropertyValue::TwoByte(value) => Property::new_u16(code, value),
        PropertyValue::FourByte(value) => Property::new_u32(code, value),
        PropertyValue::Variable(value) => Property::new_int(code, i32::try_from(value).ok()?),
        PropertyValue::Text(value) => match code.property_type() {
            mqtt::PropertyType::BinaryData => Property::new_binary(code, value),
            _ => Property::new_string(code, text(value)?),
        },
        PropertyValue::Pair(name, value) => {
            Property::new_string_pair(code, text(name)?, text(value)?)
        }
    };
    property.ok()
}

/// Returns how many of these records are read in one exchange, for which calls wait.
fn chunk_of(names: &[&str]) -> usize {
    const RECORDS: usize = 64;
    const BYTES: usize = 128 * 1024;
    let mut bytes = 0_usize;
    let fits = |name: &&&str| {
        let length = SetAsideName::parse(name).map_or(0, |name| name.length);
        bytes = bytes.saturating_add(length);
        bytes <= BYTES
    };
    names.iter().take(RECORDS).take_while(fits).count().max(1)
}

impl DeadLetters {
    pub(super) fn new(source: Arc<dyn DeadLetterSource>) -> Self {
        Self(source)
    }

    /// Lists the records that are set aside, in the order of their messages as far as it is known.
    ///
    /// What waits to be set aside is written first. Records that somebody else has put there are listed
    /// too; those without a time come first.
    ///
    /// # Errors
    ///
    /// Any reason why the store cannot be read now, and [`ErrorKind::NotOpen`](crate::ErrorKind::NotOpen)
    /// if the persistence is not open.
    pub fn list(&self) -> Result<Vec<DeadLetter>, Error> {
        let mut letters = Vec::new();
        for place in Place::BOTH {
            let names = self.0.names(place)?;
            let names: Vec<&str> = names
                .iter()
                .filter_map(|name| str::from_utf8(name).ok())
                .collect();
            let mut rest = &names[..];
            while !rest.is_empty() {
                let (chunk, others) = rest.split_at(chunk_of(rest));
                rest = others;
                let values = self.0.read(place, chunk)?;
                let found = chunk.iter().zip(values);
                letters.extend(found.filter_map(|(name, value)| {
                    Some(DeadLetter {
                        place,
                        name: (*name).to_owned(),
                        value: value?,
                    })
                }));
            }
        }
        Ok(sorted(letters))
    }

    /// Removes a record for good.
    ///
    /// # Errors
    ///
    /// Any reason why the store cannot be written now; the record is then removed when it is back, if
    /// this process lives until then. If the store refuses this, the record stays. [`ErrorKind::NotOpen`](crate::ErrorKind::NotOpen) if the persistence
    /// is not open.
    pub fn remove(&self, letter: &DeadLetter) -> Result<(), Error> {
        self.0.remove(letter.place, &letter.name)
    }

    /// Publishes every outbound message for which `filter` returns true, in the order of
    /// [`list`](Self::list).
    ///
    /// With the client of this persistence, a record is set aside no longer in the same step in which its
    /// message is stored as waiting, so a crash neither loses nor doubles it. With another client it is
    /// removed after that one has accepted the message, and a crash between the two publishes it twice.
    ///
    /// A message that had been sent before it was dropped may arrive twice, also at QoS 2. One that
    /// waited when it was dropped goes out with what remains of its message expiry, at least a second.
    ///
    /// While the client is connected and its buffer is full, this waits for up to 5 s for room. Without a
    /// connection it ends with the first message that the client refuses.
    ///
    /// # Errors
    ///
    /// The same as [`list`](Self::list) and [`remove`](Self::remove). A refusal of the client is no error:
    /// see [`PublishedAgain::refusal`].
    pub fn publish_again(
        &self,
        client: &AsyncClient,
        mut filter: impl FnMut(&DeadLetter) -> bool,
    ) -> Result<PublishedAgain, Error> {
        let mut again = PublishedAgain::default();
        for letter in self.list()? {
            if !filter(&letter) {
                continue;
            }
            let message = Some(&letter).filter(|letter| letter.is_outbound());
            let Some(message) = message.and_then(DeadLetter::to_message) else {
                again.skipped = again.skipped.saturating_add(1);
                continue;
            };
            match self.publish(client, &letter, message) {
                Ok(true) => {}
                Ok(false) => self.remove(&letter)?,
                Err(refusal) => {
                    again.refusal = Some(refusal);
                    break;
                }
            }
            again.published = again.published.saturating_add(1);
        }
        Ok(again)
    }

    /// Publishes a message; returns true if the record was removed in the same step.
    fn publish(
        &self,
        client: &AsyncClient,
        letter: &DeadLetter,
        mut message: Message,
    ) -> Result<bool, mqtt::Error> {
        /// Paho's `MQTTASYNC_NO_MORE_MSGIDS` and `MQTTASYNC_MAX_BUFFERED_MESSAGES`.
        const FULL: [i32; 2] = [-10, -12];
        const PAUSE: Duration = Duration::from_millis(10);
        let mut pauses_left = 500_u32;
        loop {
            let entry = (letter.place, letter.name.clone());
            mark_published_again(&*self.0, entry);
            let published = client.try_publish(message);
            // Paho puts the command before it returns, on this thread.
            let is_removed = PUBLISHED_AGAIN.take().is_none();
            match published {
                Ok(_) => return Ok(is_removed),
                Err(mqtt::Error::Publish(code, refused))
                    if FULL.contains(&code) && pauses_left > 0 && client.is_connected() =>
                {
                    message = refused;
                    pauses_left = pauses_left.saturating_sub(1);
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").finish_non_exhaustive()
    }
}

/// Sorts by time, and by number what was dropped together: Paho drops a session from its end.
pub(crate) fn sorted(mut letters: Vec<DeadLetter>) -> Vec<DeadLetter> {
    const TOGETHER: Duration = Duration::from_millis(100);
    letters.sort_by_key(|letter| (letter.time(), Reverse(letter.place), letter.number()));
    let are_together = |one: &DeadLetter, next: &DeadLetter| {
        let gap = match (one.time(), next.time()) {
            (Some(one), Some(next)) => next.duration_since(one).unwrap_or_default(),
            _ => return false,
        };
        gap < TOGETHER && (one.place, one.reason()) == (next.place, next.reason())
    };
    for batch in letters.chunk_by_mut(are_together) {
        batch.sort_by_key(DeadLetter::number);
    }
    letters
}

type Entry = (Place, String);

thread_local! {
    /// What this thread publishes again, and the persistence from which it comes.
    static PUBLISHED_AGAIN: Cell<Option<(usize, Entry)>> = const { Cell::new(None) };
}

/// Notes what this thread publishes next, so that it is removed in one step with the put.
pub(super) fn mark_published_again(source: &dyn DeadLetterSource, entry: Entry) {
    PUBLISHED_AGAIN.set(Some((source.id(), entry)));
}

/// Takes what this thread publishes again from this persistence, if anything.
pub(super) fn take_published_again<S: Store>(shared: &Arc<PersistenceShared<S>>) -> Option<Entry> {
    let taken = PUBLISHED_AGAIN.try_with(Cell::take).ok().flatten()?;
    if taken.0 == shared.id() {
        return Some(taken.1);
    }
    PUBLISHED_AGAIN.set(Some(taken));
    None
}

/// Hides the store's type from [`DeadLetters`].
pub(super) trait DeadLetterSource: Send + Sync {
    /// Identifies the persistence.
    fn id(&self) -> usize;
    fn names(&self, place: Place) -> Result<Vec<Vec<u8>>, Error>;
    fn read(&self, place: Place, names: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error>;
    fn remove(&self, place: Place, name: &str) -> Result<(), Error>;
}

impl<S: Store> DeadLetterSource for PersistenceShared<S> {
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn names(&self, place: Place) -> Result<Vec<Vec<u8>>, Error> {
        self.with_open(
            || "list what is set aside".to_owned(),
            |records, access| records.cache.list_set_asides(access, place),
        )
    }

    fn read(&self, place: Place, names: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let values = self.with_open(
            || "read what is set aside".to_owned(),
            |records, access| records.cache.read_set_asides(access, place, names),
        );
        // The caller may read more at once.
        self.clock().sleep(PAUSE);
        values
    }

    fn remove(&self, place: Place, name: &str) -> Result<(), Error> {
        self.with_open(
            || "remove what is set aside".to_owned(),
            |records, access| records.cache.remove_set_aside(access, place, name),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(name: &str, value: Vec<u8>) -> DeadLetter {
        DeadLetter {
            place: Place::Discarded,
            name: name.to_owned(),
            value,
        }
    }

    /// A command of MQTT 5 at QoS 1 with this topic and these properties.
    fn command(topic: &[u8], properties: &[u8]) -> Vec<u8> {
        let int = |value: i32| value.to_ne_bytes();
        let length = u8::try_from(properties.len()).expect("short");
        [
            &int(3)[..],
            &int(7),
            topic,
            b"\0",
            &int(1),
            b"x",
            &int(1),
            &int(1),
            &[length],
            properties,
        ]
        .concat()
    }

    const NAME: &str = "1:buffer_full:9:c5-1:0000000000000001";

    #[test]
    fn message_has_properties_but_no_alias() {
        let properties =
            b"\x01\x01\x02\0\0\0\x3c\x03\0\x01j\x08\0\x01r\x09\0\x01\0\x23\0\x05\x26\0\x01k\0\x01v";
        let message = letter(NAME, command(b"t", properties)).to_message();
        let message = message.expect("a message");
        let found = message.properties();
        assert_eq!(found.len(), 6);
        assert_eq!(found.get_int(PropertyCode::PayloadFormatIndicator), Some(1));
        assert_eq!(found.get_int(PropertyCode::MessageExpiryInterval), Some(60));
        assert_eq!(
            found.get_string(PropertyCode::ContentType).as_deref(),
            Some("j")
        );
        assert_eq!(
            found.get_string(PropertyCode::ResponseTopic).as_deref(),
            Some("r")
        );
        assert_eq!(
            found.get_binary(PropertyCode::CorrelationData),
            Some(vec![0])
        );
        assert_eq!(found.find_user_property("k").as_deref(), Some("v"));
        assert!(message.retained());
    }

    #[test]
    fn record_that_cannot_be_published_has_no_message() {
        for (topic, properties) in [
            // Only an alias.
            (&b""[..], &b"\x23\0\x05"[..]),
            // What paho-mqtt would panic on.
            (b"t", b"\x26\0\x01k\0\x01\0"),
            (b"\xff", b""),
            (b"t", b"\x03\0\x01\xff"),
        ] {
            let letter = letter(NAME, command(topic, properties));
            assert!(letter.to_message().is_none(), "{topic:?} {properties:?}");
            assert!(letter.is_outbound());
        }
        assert!(letter("note", Vec::new()).to_message().is_none());
        assert!(!letter("note", Vec::new()).is_outbound());
    }

    #[test]
    fn what_was_dropped_together_is_sorted_by_number() {
        let names = [
            (1_000, "session_lost", "s-3"),
            (1_050, "session_lost", "s-2"),
            (1_120, "session_lost", "s-1"),
            (1_130, "buffer_full", "c-1"),
            (9_000, "session_lost", "s-2"),
            (500, "session_lost", "s-9"),
        ];
        let letters = names.map(|(millis, reason, key)| {
            letter(
                &format!("{millis}:{reason}:0:{key}:0000000000000001"),
                Vec::new(),
            )
        });
        let letters = [&letters[..], &[letter("s-5", Vec::new())]].concat();
        let letters = sorted(letters);
        let sorted: Vec<_> = letters.iter().filter_map(DeadLetter::key).collect();
        assert_eq!(sorted, ["s-5", "s-9", "s-1", "s-2", "s-3", "c-1", "s-2"]);
    }

    #[test]
    fn payload_is_not_shown() {
        let shown = format!("{:?}", letter(NAME, b"secret".to_vec()));
        assert!(
            shown.contains("bytes: 6") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
