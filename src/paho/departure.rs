//! The way in which each record leaves, known from the sequence of Paho's calls.

use std::collections::BTreeSet;

use super::{
    key::{Key, RecordKind},
    packet::qos_of_publish,
};

/// The reason why a record left although its message was not delivered.
///
/// Later versions may add reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The buffer of waiting messages was full, and Paho dropped the oldest one
    /// (`delete_oldest_messages`).
    BufferFull,
    /// The broker no longer had the session, or the program asked for a clean one, when Paho connected.
    SessionLost,
    /// Paho ended the session with the connection: MQTT 5 without a session expiry, or a clean session.
    SessionDiscarded,
    /// The client was created with `restore_messages(false)`.
    NotRestored,
    /// The broker refused the message in its PUBREC (MQTT 5, QoS 2).
    Rejected,
    /// Paho sent a damaged copy again, and the broker acknowledged that one.
    Damaged,
    /// Its message expiry (MQTT 5) ended before the client was created.
    Expired,
    /// It exceeded the `byte_budget` when the client was created, and the program wants such messages
    /// dropped ([`OverBudget`](crate::OverBudget)).
    OverBudget,
}

impl DropReason {
    /// Every reason.
    pub const ALL: &'static [Self] = &[
        Self::BufferFull,
        Self::SessionLost,
        Self::SessionDiscarded,
        Self::NotRestored,
        Self::Rejected,
        Self::Damaged,
        Self::Expired,
        Self::OverBudget,
    ];

    /// Returns the value of the label `reason` of the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::SessionLost => "session_lost",
            Self::SessionDiscarded => "session_discarded",
            Self::NotRestored => "not_restored",
            Self::Rejected => "rejected",
            Self::Damaged => "damaged",
            Self::Expired => "expired",
            Self::OverBudget => "over_budget",
        }
    }

    /// Returns true if a record of this kind can leave for this reason.
    #[cfg(feature = "metrics")]
    pub(crate) fn applies_to(self, kind: RecordKind) -> bool {
        match self {
            Self::BufferFull | Self::Expired | Self::OverBudget => kind == RecordKind::Command,
            Self::SessionLost | Self::SessionDiscarded => {
                !matches!(kind, RecordKind::Command | RecordKind::Undelivered)
            }
            Self::NotRestored => matches!(kind, RecordKind::Command | RecordKind::Undelivered),
            Self::Rejected | Self::Damaged => kind == RecordKind::SentPublish,
        }
    }
}

/// What a record contains, as far as its way out depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A message to the broker. The QoS of one that waits is known only as 0 or not.
    Message { qos: u8 },
    /// A SUBSCRIBE or UNSUBSCRIBE, a PUBREL, or something inbound.
    Other,
}

impl Content {
    pub(crate) fn is_message(self) -> bool {
        matches!(self, Self::Message { .. })
    }

    /// Reads the content of a record that Paho puts in several buffers.
    #[cfg(feature = "metrics")]
    pub(crate) fn of_buffers(key: Key, buffers: &[&[u8]]) -> Self {
        let mut first = [0; 8];
        let bytes = buffers.iter().copied().flatten();
        let length = bytes.zip(&mut first).map(|(from, to)| *to = *from).count();
        Self::of(key, first.get(..length).unwrap_or_default())
    }

    /// Reads the content of a record from its value, or from the first 8 bytes of that.
    pub(crate) fn of(key: Key, value: &[u8]) -> Self {
        const PUBLISH: i32 = 3;
        let c_int = |range| {
            let bytes = value.get::<std::ops::Range<usize>>(range)?;
            Some(i32::from_ne_bytes(*bytes.first_chunk()?))
        };
        match key.kind {
            RecordKind::Command if c_int(0..4) == Some(PUBLISH) => {
                // The packet id; a message at QoS 0 has none.
                let qos = u8::from(c_int(4..8) != Some(0));
                Self::Message { qos }
            }
            RecordKind::SentPublish => Self::Message {
                qos: qos_of_publish(value).unwrap_or(1),
            },
            _ => Self::Other,
        }
    }
}

/// The way in which a record leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// Paho takes a message up to send it at QoS 1 or 2, and puts its PUBLISH next.
    Sending,
    /// Paho writes a message to the broker at QoS 0.
    HandedOver,
    /// The broker acknowledged the message.
    Acknowledged { qos: u8 },
    /// The message, or what belongs to it, left without having been delivered.
    Dropped(DropReason),
    /// No message to the broker ends with it: a subscription, a PUBREL, something inbound.
    Ended,
}

/// The calls so far, as far as they show in which way a record leaves.
///
/// Paho makes the same call, a remove, whatever becomes of a message. The calls before it differ:
/// - it reads a command before it sends it, and not before it drops it;
/// - it lists the keys before it discards a session, and not before it removes what was acknowledged.
#[derive(Debug, Default)]
pub(crate) struct CallHistory {
    /// The record of the last `get`, until it is removed or the keys are listed.
    last_read: Option<Key>,
    /// Paho has listed the keys, and made no call since that is not part of discarding them.
    listing: Option<Listing>,
    /// Paho tries to connect: it has removed `c-0`, and sent nothing since.
    is_connecting: bool,
    /// A session was discarded outside of a connect, so this client does not keep its sessions.
    discards_sessions: bool,
    /// The packet ids of messages of which Paho has sent a damaged copy.
    damaged: BTreeSet<u32>,
    /// The packet id of the PUBREL that was removed last, whose PUBLISH may follow.
    released: Option<u32>,
    /// Paho has tried to connect since open.
    has_connected: bool,
}

#[derive(Clone, Copy, Debug)]
struct Listing {
    /// It belongs to an attempt to connect.
    is_connecting: bool,
}

impl CallHistory {
    /// Returns the record of the last `get`, if it may be the one that Paho removes next.
    pub(crate) fn last_read(&self) -> Option<Key> {
        self.last_read
    }

    /// Returns true if Paho has listed the keys and discards them now.
    pub(crate) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    /// Notes a list of the keys.
    pub(crate) fn list(&mut self) {
        // After a list, Paho reads records to restore or discard them, not to send them.
        self.last_read = None;
        self.listing = Some(Listing {
            is_connecting: std::mem::take(&mut self.is_connecting),
        });
    }

    /// Notes a read of a record that exists.
    pub(crate) fn get(&mut self, key: Key) {
        self.listing = None;
        self.last_read = Some(key);
    }

    /// Notes a question for a record, or a read that failed.
    pub(crate) fn look_up(&mut self) {
        self.listing = None;
    }

    /// Notes a put.
    pub(crate) fn put(&mut self, key: Key) {
        // Paho puts a PUBREL from a thread that does not wait for the others.
        if key.kind != RecordKind::SentPubrel {
            self.listing = None;
        }
        // A packet proves a connection.
        self.has_connected |= !key.is_queue_record();
        if key.kind == RecordKind::SentPublish {
            self.is_connecting = false;
        }
    }

    /// Notes that a PUBLISH was not put, since it is a damaged copy of the one that is stored.
    pub(crate) fn damaged(&mut self, key: Key) {
        self.damaged.insert(key.number);
    }

    /// Notes a remove of `c-0` that removes nothing, as at each connect.
    pub(crate) fn connect(&mut self) {
        self.listing = None;
        self.is_connecting = true;
        self.has_connected = true;
    }

    /// Returns true from an attempt to connect until something was sent.
    pub(crate) fn is_connecting(&self) -> bool {
        self.is_connecting
    }

    /// Returns true once Paho has tried to connect.
    pub(crate) fn has_connected(&self) -> bool {
        self.has_connected
    }

    /// Returns true if a persistence of this crate keeps a record although Paho removes it.
    ///
    /// A client that has never tried to connect has no reason to delete what is in flight: it could
    /// not be created because a record was unreadable, or it is being dropped. Only a PUBREL
    /// without its PUBLISH is useless.
    pub(crate) fn keeps(&self, key: Key, has_publish: impl FnOnce() -> bool) -> bool {
        let is_orphan = || key.kind == RecordKind::SentPubrel && !has_publish();
        !self.has_connected && !key.is_queue_record() && !is_orphan()
    }

    /// Notes the remove of a record that exists, and returns the way in which it leaves.
    ///
    /// `has_pubrel` is true if there is a PUBREL for its packet id.
    pub(crate) fn remove(&mut self, key: Key, content: Content, has_pubrel: bool) -> Departure {
        let was_read = self.last_read.take_if(|read| *read == key).is_some();
        let released = self.released.take();
        // A client that connects discards its session, and none of its queues.
        self.listing
            .take_if(|_| key.is_queue_record() && self.has_connected);
        if self.listing.is_some() {
            return Departure::Dropped(self.listed_reason(key));
        }
        match (key.kind, content) {
            (RecordKind::Command, Content::Message { qos }) if was_read => {
                self.is_connecting = false;
                match qos {
                    0 => Departure::HandedOver,
                    _ => Departure::Sending,
                }
            }
            (RecordKind::Command, Content::Message { .. }) => {
                Departure::Dropped(DropReason::BufferFull)
            }
            (RecordKind::SentPublish, Content::Message { qos }) => {
                self.is_connecting = false;
                let was_released = has_pubrel || released == Some(key.number);
                if self.damaged.remove(&key.number) {
                    Departure::Dropped(DropReason::Damaged)
                } else if qos == 2 && !was_released {
                    Departure::Dropped(DropReason::Rejected)
                } else {
                    Departure::Acknowledged { qos }
                }
            }
            (RecordKind::SentPubrel, _) => {
                self.is_connecting = false;
                self.released = Some(key.number);
                Departure::Ended
            }
            _ => Departure::Ended,
        }
    }

    fn listed_reason(&mut self, key: Key) -> DropReason {
        if key.is_queue_record() {
            return DropReason::NotRestored;
        }
        self.damaged.remove(&key.number);
        let is_connecting = self.listing.is_some_and(|listing| listing.is_connecting);
        self.discards_sessions |= !is_connecting;
        if self.discards_sessions {
            DropReason::SessionDiscarded
        } else {
            DropReason::SessionLost
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Content = Content::Message { qos: 1 };

    fn key(name: &str) -> Key {
        Key::parse(name).expect(name)
    }

    /// Removes as Paho does for a record of this name.
    fn remove(history: &mut CallHistory, name: &str, content: Content) -> Departure {
        history.remove(key(name), content, false)
    }

    fn command(kind: i32, packet_id: i32) -> Vec<u8> {
        [kind.to_ne_bytes(), packet_id.to_ne_bytes()].concat()
    }

    #[test]
    fn content_is_read_from_first_bytes() {
        let message = |qos| Content::Message { qos };
        for (name, value, content) in [
            ("c-1", command(3, 7), message(1)),
            ("c5-1", command(3, 0), message(0)),
            ("c-1", command(8, 7), Content::Other),
            ("c-1", command(10, 7), Content::Other),
            ("c-1", vec![3], Content::Other),
            ("c-1", Vec::new(), Content::Other),
            ("s-1", vec![0x32], message(1)),
            ("s5-1", vec![0x3d], message(2)),
            ("s-1", Vec::new(), message(1)),
            ("sc-1", vec![0x62], Content::Other),
            ("r-1", vec![0x34], Content::Other),
            ("q-1", command(3, 7), Content::Other),
        ] {
            assert_eq!(Content::of(key(name), &value), content, "{name} {value:?}");
        }
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn content_is_read_across_buffers() {
        let value = [command(3, 7), b"t".to_vec()].concat();
        for at in 0..=value.len() {
            let (first, rest) = value.split_at(at);
            let content = Content::of_buffers(key("c-1"), &[first, rest]);
            assert_eq!(content, MESSAGE, "{at}");
        }
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn each_reason_applies_to_its_kinds_alone() {
        let names = ["c-1", "s-1", "sc-1", "r-1", "q-1"];
        for (reason, expected) in [
            (DropReason::BufferFull, &["c-1"][..]),
            (DropReason::SessionLost, &["s-1", "sc-1", "r-1"]),
            (DropReason::SessionDiscarded, &["s-1", "sc-1", "r-1"]),
            (DropReason::NotRestored, &["c-1", "q-1"]),
            (DropReason::Rejected, &["s-1"]),
            (DropReason::Damaged, &["s-1"]),
            (DropReason::Expired, &["c-1"]),
            (DropReason::OverBudget, &["c-1"]),
        ] {
            let applies = |name: &&str| reason.applies_to(key(name).kind);
            let found: Vec<&str> = names.into_iter().filter(applies).collect();
            assert_eq!(found, expected, "{reason:?}");
        }
    }

    #[test]
    fn command_that_was_read_is_sent() {
        let mut history = CallHistory::default();
        for (content, departure) in [
            (MESSAGE, Departure::Sending),
            (Content::Message { qos: 0 }, Departure::HandedOver),
            (Content::Other, Departure::Ended),
        ] {
            history.get(key("c-1"));
            assert_eq!(remove(&mut history, "c-1", content), departure);
        }
    }

    #[test]
    fn unread_message_is_dropped_from_full_buffer() {
        let mut history = CallHistory::default();
        let buffer_full = Departure::Dropped(DropReason::BufferFull);
        history.put(key("c-2"));
        assert_eq!(remove(&mut history, "c-1", MESSAGE), buffer_full);
        history.get(key("c-3"));
        assert_eq!(remove(&mut history, "c-2", MESSAGE), buffer_full);
        // The read of the other one still counts, but only once.
        assert_eq!(remove(&mut history, "c-3", MESSAGE), Departure::Sending);
        assert_eq!(remove(&mut history, "c-3", MESSAGE), buffer_full);
        // Paho reads no subscription of this run before it sends it.
        assert_eq!(
            remove(&mut history, "c-4", Content::Other),
            Departure::Ended
        );
    }

    #[test]
    fn session_lost_is_known_from_connect_and_list() {
        let mut history = CallHistory::default();
        history.connect();
        history.list();
        let lost = Departure::Dropped(DropReason::SessionLost);
        assert_eq!(remove(&mut history, "s-2", MESSAGE), lost);
        // Paho puts this one from a thread of its own.
        history.put(key("sc-9"));
        assert_eq!(remove(&mut history, "sc-2", Content::Other), lost);
        assert_eq!(remove(&mut history, "r-1", Content::Other), lost);
        history.put(key("s-1"));
        let acknowledged = Departure::Acknowledged { qos: 1 };
        assert_eq!(remove(&mut history, "s-1", MESSAGE), acknowledged);
    }

    #[test]
    fn list_without_connect_discards_session() {
        let mut history = CallHistory::default();
        let discarded = Departure::Dropped(DropReason::SessionDiscarded);
        history.connect();
        history.put(key("s-1"));
        history.list();
        assert_eq!(remove(&mut history, "s-1", MESSAGE), discarded);
        // This client keeps no session, so the next connect asks for a clean one.
        history.connect();
        history.list();
        assert_eq!(remove(&mut history, "s-2", MESSAGE), discarded);
    }

    #[test]
    fn sign_of_connection_ends_connect() {
        let discarded = Departure::Dropped(DropReason::SessionDiscarded);
        let signs: [fn(&mut CallHistory); 4] = [
            |history| history.put(key("s-9")),
            |history| {
                history.get(key("c-1"));
                history.remove(key("c-1"), MESSAGE, false);
            },
            |history| {
                history.remove(key("s-9"), MESSAGE, false);
            },
            |history| {
                history.remove(key("sc-9"), Content::Other, false);
            },
        ];
        for (number, sign) in signs.into_iter().enumerate() {
            let mut history = CallHistory::default();
            history.connect();
            sign(&mut history);
            history.list();
            let departure = remove(&mut history, "s-1", MESSAGE);
            assert_eq!(departure, discarded, "sign {number}");
        }
    }

    #[test]
    fn listing_of_create_ends_with_connect() {
        let mut history = CallHistory::default();
        history.list();
        history.connect();
        assert!(!history.is_listing());
        let departure = remove(&mut history, "r5-1", Content::Other);
        assert_eq!(departure, Departure::Ended);
    }

    #[test]
    fn other_calls_end_listing() {
        let calls: [fn(&mut CallHistory); 4] = [
            |history| history.get(key("c-1")),
            CallHistory::look_up,
            |history| history.put(key("c-1")),
            |history| history.put(key("r-1")),
        ];
        for call in calls {
            let mut history = CallHistory::default();
            history.list();
            assert!(history.is_listing());
            call(&mut history);
            assert!(!history.is_listing());
        }
    }

    #[test]
    fn queue_that_is_not_restored_is_dropped() {
        let mut history = CallHistory::default();
        history.list();
        for (name, content) in [("c-1", MESSAGE), ("q-1", Content::Other)] {
            let departure = remove(&mut history, name, content);
            let not_restored = Departure::Dropped(DropReason::NotRestored);
            assert_eq!(departure, not_restored);
        }
    }

    #[test]
    fn queue_record_ends_listing_of_connected_client() {
        for name in ["c-1", "q-1"] {
            let mut history = CallHistory::default();
            history.connect();
            history.list();
            let lost = Departure::Dropped(DropReason::SessionLost);
            assert_eq!(remove(&mut history, "s-1", MESSAGE), lost);
            // A subscription that goes out, or a message that the program gets.
            assert_eq!(remove(&mut history, name, Content::Other), Departure::Ended);
            assert!(!history.is_listing());
        }
    }

    #[test]
    fn qos_2_without_pubrel_was_rejected() {
        let mut history = CallHistory::default();
        let qos_2 = Content::Message { qos: 2 };
        let acknowledged = Departure::Acknowledged { qos: 2 };
        let departure = history.remove(key("s-1"), qos_2, true);
        assert_eq!(departure, acknowledged);
        // The PUBREL of another MQTT version is removed first.
        history.remove(key("sc5-2"), Content::Other, false);
        assert_eq!(remove(&mut history, "s-2", qos_2), acknowledged);
        let rejected = Departure::Dropped(DropReason::Rejected);
        assert_eq!(remove(&mut history, "s-3", qos_2), rejected);
    }

    #[test]
    fn acknowledged_damaged_copy_drops_message() {
        let mut history = CallHistory::default();
        history.damaged(key("s5-1"));
        let damaged = Departure::Dropped(DropReason::Damaged);
        assert_eq!(remove(&mut history, "s5-1", MESSAGE), damaged);
        // The next message of this packet id is another one.
        let acknowledged = Departure::Acknowledged { qos: 1 };
        assert_eq!(remove(&mut history, "s5-1", MESSAGE), acknowledged);
        history.damaged(key("s5-2"));
        history.list();
        remove(&mut history, "s5-2", MESSAGE);
        history.look_up();
        assert_eq!(remove(&mut history, "s5-2", MESSAGE), acknowledged);
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let names: BTreeSet<&str> = DropReason::ALL
            .iter()
            .map(|reason| reason.as_str())
            .collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
