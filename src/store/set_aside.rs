//! Names and bounds of the records that are set aside.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The reason of a quarantined record that Paho could not read.
pub(crate) const UNREADABLE: &str = "unreadable";
/// The reason of a quarantined record of another origin.
pub(crate) const FOREIGN: &str = "foreign";
/// The reason of a quarantined record that has no form in the MQTT version of the client.
pub(crate) const OTHER_VERSION: &str = "other_version";
/// The reason of a quarantined message on which connections broke, again and again.
pub(crate) const POISON: &str = "poison";
/// The reason of a record whose name has none, since somebody else has put it there.
pub(crate) const UNKNOWN: &str = "unknown";

/// Every reason of a record in the quarantine.
#[cfg(feature = "cli")]
pub(crate) const QUARANTINE_REASONS: [&str; 5] =
    [UNREADABLE, FOREIGN, OTHER_VERSION, POISON, UNKNOWN];

/// The bounds of a [`Place`](crate::Place): beyond them the oldest records leave first.
///
/// ```
/// use std::time::Duration;
/// use paho_mqtt_redis::SetAsideLimits;
///
/// let limits = SetAsideLimits::default()
///     .bytes(256 * 1024)
///     .records(200)
///     .age(Duration::from_secs(24 * 60 * 60));
/// # let _ = limits;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetAsideLimits {
    pub(crate) bytes: usize,
    pub(crate) records: usize,
    pub(crate) age: Duration,
}

impl Default for SetAsideLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl SetAsideLimits {
    pub(crate) const DEFAULT: Self = Self {
        bytes: 1024 * 1024,
        records: 1000,
        age: Duration::from_secs(7 * 24 * 60 * 60),
    };

    /// Sets the size of all values together. Defaults to 1 MiB.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets the number of records. Defaults to 1,000.
    #[must_use]
    pub fn records(mut self, records: usize) -> Self {
        self.records = records;
        self
    }

    /// Sets the age at which a record leaves, by the device's clock; `Duration::MAX` for never.
    /// Defaults to 7 days.
    #[must_use]
    pub fn age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }
}

/// The reason why a record that was set aside, or was to be, is gone.
///
/// Later versions may add reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SetAsideLoss {
    /// It was the oldest, and all together had too many bytes; or it had too many alone.
    Bytes,
    /// It was the oldest of too many.
    Number,
    /// It was too old.
    Age,
    /// The store refused it although it took other writes, or was full.
    Refused,
    /// Its value was only in the store, which could not be read when Paho dropped it.
    Unreadable,
    /// It disappeared from the store; for example, because that came back empty.
    Lost,
}

impl SetAsideLoss {
    /// Every reason.
    pub const ALL: &'static [Self] = &[
        Self::Bytes,
        Self::Number,
        Self::Age,
        Self::Refused,
        Self::Unreadable,
        Self::Lost,
    ];

    /// Returns the value of the label `reason` of the metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Number => "number",
            Self::Age => "age",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Lost => "lost",
        }
    }
}

/// The name of a record that is set aside: `MILLISECONDS:REASON:LENGTH:KEY:HASH`.
///
/// It has what listing and bounding need, so that no value has to be read for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetAsideName<'a> {
    /// Unix time in milliseconds, by the device's clock.
    pub(crate) millis: u64,
    pub(crate) reason: &'a str,
    /// Length of the value in bytes.
    pub(crate) length: usize,
    /// Paho's key of the record.
    pub(crate) key: &'a str,
    /// The hash of key and value.
    pub(crate) hash: u64,
}

impl<'a> SetAsideName<'a> {
    /// Parses a name; returns `None` for one of another form, which somebody else has chosen.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.split(':');
        let parsed = Self {
            millis: parts.next()?.parse().ok()?,
            reason: parts.next()?,
            length: parts.next()?.parse().ok()?,
            key: parts.next()?,
            hash: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        // Only the name that is written for this, so that each record has one name.
        (parsed.to_string() == name).then_some(parsed)
    }

    pub(crate) fn time(&self) -> SystemTime {
        let since_epoch = Duration::from_millis(self.millis);
        UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH)
    }
}

impl fmt::Display for SetAsideName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            millis,
            reason,
            length,
            key,
            hash,
        } = self;
        write!(f, "{millis}:{reason}:{length}:{key}:{hash:016x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_parsed_back() {
        let name = SetAsideName {
            millis: 1_700_000_000_123,
            reason: "session_lost",
            length: 42,
            key: "s5-7",
            hash: 0xab,
        };
        let text = name.to_string();
        assert_eq!(text, "1700000000123:session_lost:42:s5-7:00000000000000ab");
        assert_eq!(SetAsideName::parse(&text), Some(name));
        let age = name.time().duration_since(UNIX_EPOCH).expect("later");
        assert_eq!(age.as_millis(), 1_700_000_000_123);
    }

    #[test]
    fn names_of_others_are_not_parsed() {
        for name in [
            "",
            "s-1",
            "s-1:00000000000000ab",
            "1:session_lost:42:s5-7:ab",
            "01:session_lost:42:s5-7:00000000000000ab",
            "1:session_lost:-1:s5-7:00000000000000ab",
            "1:session_lost:42:s5-7:00000000000000ab:",
        ] {
            assert_eq!(SetAsideName::parse(name), None, "{name}");
        }
        let latest = SetAsideName {
            millis: u64::MAX,
            reason: "",
            length: 0,
            key: "",
            hash: 0,
        };
        // No time that the system can show.
        let _ = latest.time();
    }

    #[test]
    fn losses_have_names_of_their_own() {
        let names: std::collections::BTreeSet<&str> =
            SetAsideLoss::ALL.iter().map(|loss| loss.as_str()).collect();
        assert_eq!(names.len(), SetAsideLoss::ALL.len());
    }
}
