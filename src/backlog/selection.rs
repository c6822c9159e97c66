//! The messages that a command works on.

use std::{
    ops::RangeInclusive,
    time::{Duration, SystemTime},
};

use super::{
    record::{Content, Record},
    topic_filter::TopicFilter,
};
use crate::paho::{Key, RecordKind};

/// Conditions that a message has to meet, all of them. An empty list is no condition.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// It has a topic that one of these matches.
    pub topics: Vec<TopicFilter>,
    /// One of its records is of one of these kinds.
    pub kinds: Vec<KindFilter>,
    /// Its number is in one of these ranges.
    pub numbers: Vec<RangeInclusive<u32>>,
    /// It is known to be at least this old. The age is known only of what was set aside.
    pub older_than: Option<Duration>,
    /// Number of messages after which the command ends.
    pub limit: Option<usize>,
}

/// A kind of records, by their keys or by what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindFilter {
    /// Records whose keys are of this kind.
    Key(RecordKind),
    /// Messages that wait to be sent.
    Publish,
    /// Commands to subscribe.
    Subscribe,
    /// Commands to unsubscribe.
    Unsubscribe,
    /// Records that Paho could not read.
    Unreadable,
}

impl KindFilter {
    /// Returns false if the key of a record alone excludes it.
    fn may_match(self, key: Key) -> bool {
        match self {
            Self::Key(kind) => key.kind == kind,
            Self::Publish | Self::Subscribe | Self::Unsubscribe => key.kind == RecordKind::Command,
            Self::Unreadable => true,
        }
    }

    fn matches(self, record: &Record) -> bool {
        self.may_match(record.key)
            && match self {
                Self::Key(_) => true,
                Self::Publish => matches!(record.view().content, Content::Message { .. }),
                Self::Subscribe => matches!(record.view().content, Content::Subscribe(_)),
                Self::Unsubscribe => matches!(record.view().content, Content::Unsubscribe(_)),
                Self::Unreadable => !record.is_valid(),
            }
    }
}

impl Selection {
    /// Returns true if every message is selected.
    #[must_use]
    pub fn is_all(&self) -> bool {
        let Self {
            topics,
            kinds,
            numbers,
            older_than,
            limit,
        } = self;
        topics.is_empty()
            && kinds.is_empty()
            && numbers.is_empty()
            && older_than.is_none()
            && limit.is_none()
    }

    /// Returns false if the keys of a message alone exclude it, so that it need not be read.
    #[must_use]
    pub fn may_match(&self, keys: &[Key]) -> bool {
        let is_kind = |key: &Key| self.kinds.iter().any(|kind| kind.may_match(*key));
        let is_number = |key: &Key| {
            let mut ranges = self.numbers.iter();
            ranges.any(|range| range.contains(&key.number))
        };
        (self.kinds.is_empty() || keys.iter().any(is_kind))
            && (self.numbers.is_empty() || keys.iter().any(is_number))
    }

    /// Returns true if the message with these records is selected, but for the limit.
    #[must_use]
    pub fn matches(&self, records: &[Record], now: SystemTime) -> bool {
        let keys: Vec<Key> = records.iter().map(|record| record.key).collect();
        self.may_match(&keys)
            && (self.kinds.is_empty() || records.iter().any(|record| self.is_of_kind(record)))
            && (self.topics.is_empty() || records.iter().any(|record| self.has_topic(record)))
            && self.older_than.is_none_or(|bound| {
                let ages = records
                    .iter()
                    .filter_map(|record| now.duration_since(record.time?).ok());
                ages.max().is_some_and(|age| age >= bound)
            })
    }

    fn is_of_kind(&self, record: &Record) -> bool {
        self.kinds.iter().any(|kind| kind.matches(record))
    }

    fn has_topic(&self, record: &Record) -> bool {
        let view = record.view();
        let mut topics = view.content.topics().iter();
        topics.any(|topic| self.topics.iter().any(|filter| filter.matches(topic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &str) -> Vec<Key> {
        let names = names.split_whitespace();
        names.map(|name| Key::parse(name).expect("a key")).collect()
    }

    fn waiting(topic: &str) -> Record {
        let int = |value: i32| value.to_ne_bytes();
        let value = [
            &int(3)[..],
            &int(7),
            topic.as_bytes(),
            b"\0",
            &int(0),
            &int(1),
            &int(0),
        ];
        Record {
            key: Key::parse("c-3").expect("a key"),
            value: value.concat(),
            time: None,
        }
    }

    fn pubrel() -> Record {
        Record {
            key: Key::parse("sc-7").expect("a key"),
            value: b"\x62\x02\0\x07".to_vec(),
            time: None,
        }
    }

    #[test]
    fn keys_decide_about_kind_and_number() {
        let selection = Selection {
            kinds: vec![KindFilter::Key(RecordKind::SentPubrel)],
            numbers: vec![3..=5, 9..=9],
            ..Selection::default()
        };
        for (names, expected) in [
            ("sc-3", true),
            ("s-5 sc-5", true),
            ("s-5", false),
            ("sc5-9", true),
            ("sc-6", false),
        ] {
            assert_eq!(selection.may_match(&keys(names)), expected, "{names}");
        }
        assert!(Selection::default().may_match(&keys("c-1")));
        assert!(Selection::default().is_all() && !selection.is_all());
    }

    #[test]
    fn one_record_with_topic_selects_whole_message() {
        let selection = Selection {
            topics: vec![TopicFilter::parse("a/+").expect("a filter")],
            ..Selection::default()
        };
        let now = SystemTime::now();
        assert!(selection.matches(&[waiting("a/b"), pubrel()], now));
        assert!(!selection.matches(&[waiting("b")], now));
        assert!(!selection.matches(&[pubrel()], now));
    }

    #[test]
    fn unknown_age_is_never_old() {
        let selection = Selection {
            older_than: Some(Duration::from_secs(60)),
            ..Selection::default()
        };
        let now = SystemTime::now();
        let aged = |seconds| Record {
            time: Some(now - Duration::from_secs(seconds)),
            ..waiting("a")
        };
        assert!(!selection.matches(&[waiting("a")], now));
        assert!(selection.matches(&[aged(60)], now));
        assert!(!selection.matches(&[aged(59)], now));
    }
}
