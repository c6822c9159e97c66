//! [`SendCounts`]: the numbers of connections on which messages in flight were sent.

use std::{collections::BTreeMap, fmt::Write as _};

use super::index::RecordIndex;
use crate::paho::{Key, RecordKind};

/// The number of connections on which each message was sent that is still in flight.
///
/// Only a message that was sent again has an entry, so a message that is acknowledged on its first
/// connection costs nothing. The store has all entries as one text, which is written once per connection
/// and once more when they have left. An entry has the hash of its message: a later message with the same
/// packet id does not inherit its number.
pub(crate) struct SendCounts {
    entries: BTreeMap<Key, Sends>,
    /// The number above which a message is suspected of being poison.
    limit: u32,
    /// The store has other entries.
    is_dirty: bool,
}

#[derive(Clone, Copy)]
struct Sends {
    hash: u64,
    connections: u32,
}

/// Number of messages that are counted, those that Paho sends first after a restart.
const MAX_COUNTED: usize = 1024;

/// The number above which a message is suspected by default.
pub(crate) const DEFAULT_MAX_SENDS: u32 = 10;

impl SendCounts {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            entries: BTreeMap::new(),
            limit,
            is_dirty: false,
        }
    }

    /// Returns true if the program wants nothing counted.
    pub(super) fn is_off(&self) -> bool {
        self.limit == u32::MAX
    }

    /// Takes over what an earlier run has stored, as far as it is about records that are there.
    pub(crate) fn load(limit: u32, stored: &[u8], index: &RecordIndex) -> Self {
        let mut counts = Self::new(limit);
        let mut lines = 0_usize;
        for line in String::from_utf8_lossy(stored).lines() {
            lines = lines.saturating_add(1);
            if let Some((key, sends)) = parse(line)
                && index.content_hash(key) == Some(sends.hash)
                && is_publish_in_flight(index, key)
            {
                counts.entries.insert(key, sends);
            }
        }
        counts.is_dirty = lines > counts.entries.len();
        counts
    }

    /// Counts a connection on which everything in flight is sent again; returns the messages that have
    /// exceeded the limit with it.
    pub(super) fn count(&mut self, index: &RecordIndex) -> Vec<(Key, u32)> {
        // What Paho has not read it does not send.
        let in_flight = index
            .keys()
            .filter(|key| is_publish_in_flight(index, *key) && !index.is_unread(*key));
        let mut in_flight: Vec<Key> = in_flight.collect();
        in_flight.sort_unstable_by_key(|key| (key.number, key.v5));
        in_flight.truncate(MAX_COUNTED);
        let before = std::mem::take(&mut self.entries);
        let mut exceeded = Vec::new();
        for key in in_flight {
            let Some(hash) = index.content_hash(key) else {
                continue;
            };
            let known = before.get(&key).filter(|sends| sends.hash == hash);
            let connections = known.map_or(2, |sends| sends.connections.saturating_add(1));
            if connections == self.limit.saturating_add(1) {
                exceeded.push((key, connections));
            }
            self.entries.insert(key, Sends { hash, connections });
        }
        self.is_dirty |= !(before.is_empty() && self.entries.is_empty());
        exceeded
    }

    /// Forgets a message that has left.
    pub(super) fn forget(&mut self, key: Key) {
        self.is_dirty |= self.entries.remove(&key).is_some();
    }

    /// Number of messages in flight that exceed the limit.
    pub(super) fn suspects(&self, index: &RecordIndex) -> usize {
        let suspects = self.entries.iter();
        let suspects = suspects.filter(|(_, sends)| self.exceeds(sends));
        // A message that was lost is forgotten with the next connection.
        suspects.filter(|(key, _)| index.contains(**key)).count()
    }

    /// Returns the message above the limit that Paho would send first.
    ///
    /// A broker hangs up on the first message that it cannot bear. Those behind it were sent as often, and
    /// arrive once it is gone.
    pub(crate) fn first_suspect(&self) -> Option<Key> {
        let suspects = self.entries.iter();
        let suspects = suspects.filter(|(_, sends)| self.exceeds(sends));
        suspects
            .map(|(key, _)| *key)
            .min_by_key(|key| (key.number, key.v5))
    }

    fn exceeds(&self, sends: &Sends) -> bool {
        sends.connections > self.limit
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Notes that the store has these entries, or does not want them.
    pub(super) fn settle(&mut self) {
        self.is_dirty = false;
    }

    /// Returns the text for the store, `KEY HASH CONNECTIONS` per line; `None` if there is no entry.
    pub(super) fn to_text(&self) -> Option<String> {
        let mut text = String::new();
        for (key, Sends { hash, connections }) in &self.entries {
            let _ = writeln!(text, "{key} {hash:016x} {connections}");
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Returns true for a PUBLISH whose PUBREL was not sent: Paho sends it again at each connect.
fn is_publish_in_flight(index: &RecordIndex, key: Key) -> bool {
    let pubrel = key.with_kind(RecordKind::SentPubrel);
    key.kind == RecordKind::SentPublish
        && !index.contains(pubrel)
        && !index.contains(pubrel.other_version())
}

fn parse(line: &str) -> Option<(Key, Sends)> {
    let mut words = line.split(' ');
    let key = Key::parse(words.next()?)?;
    let hash = u64::from_str_radix(words.next()?, 16).ok()?;
    let connections = words.next()?.parse().ok()?;
    Some((key, Sends { hash, connections }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    fn index(records: &[(&str, u8)]) -> RecordIndex {
        let mut index = RecordIndex::with_capacity(0, 0);
        for (name, content) in records {
            index.put(key(name), vec![*content]);
        }
        index
    }

    #[test]
    fn only_repeated_sends_of_one_message_are_counted() {
        let mut counts = SendCounts::new(3);
        let both = index(&[("s-1", 1), ("s5-2", 2), ("c-3", 3), ("r-4", 4)]);
        assert_eq!(counts.count(&both), []);
        assert_eq!(counts.suspects(&both), 0);
        let text = counts.to_text().expect("entries");
        let of = |name: &str| text.lines().find(|line| line.starts_with(name));
        assert!(of("s-1 ").is_some_and(|line| line.ends_with(" 2")));
        assert_eq!(text.lines().count(), 2);
        assert_eq!(counts.count(&both), []);
        // Another message has the packet id of one that has left.
        let other = index(&[("s-1", 1), ("s5-2", 9)]);
        assert_eq!(counts.count(&other), [(key("s-1"), 4)]);
        assert_eq!(counts.suspects(&other), 1);
        assert_eq!(counts.count(&other), []);
        assert_eq!(counts.count(&other), [(key("s5-2"), 4)]);
        assert_eq!(counts.first_suspect(), Some(key("s-1")));
        counts.forget(key("s-1"));
        assert_eq!(counts.first_suspect(), Some(key("s5-2")));
    }

    #[test]
    fn message_with_pubrel_is_not_sent_again() {
        let mut counts = SendCounts::new(1);
        let released = index(&[("s5-1", 1), ("sc-1", 1), ("s-2", 1)]);
        assert_eq!(counts.count(&released), [(key("s-2"), 2)]);
    }

    #[test]
    fn stored_counts_go_on_for_the_same_records() {
        let mut counts = SendCounts::new(2);
        let before = index(&[("s-1", 1), ("s-2", 2), ("s-3", 3)]);
        counts.count(&before);
        let text = counts.to_text().expect("entries");
        let now = index(&[("s-1", 1), ("s-2", 7)]);
        let mut loaded = SendCounts::load(2, text.as_bytes(), &now);
        assert!(loaded.is_dirty());
        assert_eq!(loaded.to_text().expect("one").lines().count(), 1);
        assert_eq!(loaded.count(&now), [(key("s-1"), 3)]);
        let same = SendCounts::load(2, text.as_bytes(), &before);
        assert!(!same.is_dirty());
        assert_eq!(same.to_text(), Some(text));
        let damaged = SendCounts::load(2, b"s-1 x 2\n\xff\ns-1\n", &before);
        assert!(damaged.is_dirty() && damaged.to_text().is_none());
    }

    #[test]
    fn nothing_in_flight_leaves_nothing_to_write() {
        let mut counts = SendCounts::new(2);
        let none = index(&[("c-1", 1)]);
        assert_eq!(counts.count(&none), []);
        counts.forget(key("s-1"));
        assert!(!counts.is_dirty());
        counts.count(&index(&[("s-1", 1)]));
        assert!(counts.is_dirty());
        counts.settle();
        counts.forget(key("s-1"));
        assert!(counts.is_dirty() && counts.to_text().is_none());
    }
}
