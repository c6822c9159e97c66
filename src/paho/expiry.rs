//! The message expiry of MQTT 5, while a message waits.
//!
//! Paho stores the interval that the program has set, and sends it unchanged, however long the message
//! has waited. So the stored command has the time of its expiry in place of the interval, and Paho reads
//! the interval that remains.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    byte_reader::ByteReader,
    command::Command,
    key::{Key, RecordKind},
    properties::bytes_from_property,
};

/// The identifier of the property, with a value of four bytes.
const MESSAGE_EXPIRY: u8 = 2;

/// A value from here on is a Unix time, in September 2020. As an interval it is 50 years.
const FIRST_TIME: u32 = 1_600_000_000;

/// Replaces the interval in a command by the time at which it ends, or by no end if it is one of decades,
/// which could be taken for a time.
pub(crate) fn set_expiry_time(key: Key, value: &mut [u8], now: impl FnOnce() -> SystemTime) {
    change_expiry(key, value, |interval| {
        let now = unix_seconds(now());
        if interval >= FIRST_TIME {
            return Some(u32::MAX);
        }
        // A device whose clock is not set yet has no time to write.
        (now >= FIRST_TIME).then(|| now.saturating_add(interval))
    });
}

/// Replaces the time in a command by the interval that remains, at least a second.
pub(crate) fn set_remaining_interval(key: Key, value: &mut [u8], now: impl FnOnce() -> SystemTime) {
    change_expiry(key, value, |time| {
        // The largest value is an interval without an end.
        let is_time = (FIRST_TIME..u32::MAX).contains(&time);
        is_time.then(|| time.saturating_sub(unix_seconds(now())).max(1))
    });
}

/// Returns the Unix time at which a waiting command expires, if the command has it.
#[cfg(feature = "cli")]
pub(crate) fn expiry_time(key: Key, value: &[u8]) -> Option<u32> {
    let expiry = value.get(expiry_range(key, value)?)?;
    let time = u32::from_be_bytes(*expiry.first_chunk()?);
    (FIRST_TIME..u32::MAX).contains(&time).then_some(time)
}

/// Returns true if two values differ at most in when the message expires.
#[cfg(feature = "cli")]
pub(crate) fn is_same_but_for_expiry(key: Key, one: &[u8], other: &[u8]) -> bool {
    let range = expiry_range(key, one);
    let without = |value: &[u8]| {
        let mut value = value.to_vec();
        if let Some(expiry) = range.clone().and_then(|range| value.get_mut(range)) {
            expiry.fill(0);
        }
        value
    };
    one == other || range.is_some() && without(one) == without(other)
}

/// Returns true for a command that has expired.
pub(crate) fn is_expired(key: Key, value: &[u8], now: impl FnOnce() -> SystemTime) -> bool {
    let expiry = expiry_range(key, value).and_then(|range| value.get(range));
    let Some(time) = expiry.and_then(<[u8]>::first_chunk) else {
        return false;
    };
    let time = u32::from_be_bytes(*time);
    time >= FIRST_TIME && time <= unix_seconds(now())
}

fn change_expiry(key: Key, value: &mut [u8], change: impl FnOnce(u32) -> Option<u32>) {
    let Some(range) = expiry_range(key, value) else {
        return;
    };
    if let Some(bytes) = value.get_mut(range).and_then(<[u8]>::first_chunk_mut)
        && let Some(changed) = change(u32::from_be_bytes(*bytes))
    {
        *bytes = changed.to_be_bytes();
    }
}

/// Finds the four bytes of the expiry in a waiting message of MQTT 5.
fn expiry_range(key: Key, value: &[u8]) -> Option<std::ops::Range<usize>> {
    if key.kind != RecordKind::Command || !key.v5 {
        return None;
    }
    let mut reader = ByteReader::new(value);
    Command::skip_publish(&mut reader)?;
    let behind = bytes_from_property(&mut reader, MESSAGE_EXPIRY)?;
    let start = value.len().checked_sub(behind)?;
    Some(start..start.checked_add(4)?)
}

fn unix_seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A moment in 2026.
    const NOW: u32 = 1_795_000_000;

    fn key(name: &str) -> Key {
        Key::parse(name).expect("a key")
    }

    fn at(seconds: u32) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds.into())
    }

    /// A publish command with a user property, and behind it an expiry.
    fn command(expiry: u32) -> Vec<u8> {
        let fields = [3, 7].map(i32::to_ne_bytes).concat();
        let [length, qos, retained] = [2, 1, 0].map(i32::to_ne_bytes);
        let expiry = expiry.to_be_bytes();
        [
            &fields[..],
            b"t\0",
            &length,
            b"xy",
            &qos,
            &retained,
            b"\x0c\x26\0\x01k\0\x01v\x02",
            &expiry,
        ]
        .concat()
    }

    #[test]
    fn interval_is_stored_as_time_and_read_as_rest() {
        let mut value = command(60);
        set_expiry_time(key("c5-1"), &mut value, || at(NOW));
        assert_eq!(value, command(NOW + 60));
        assert!(!is_expired(key("c5-1"), &value, || at(NOW + 59)));
        assert!(is_expired(key("c5-1"), &value, || at(NOW + 60)));
        for (waited, remaining) in [(0, 60), (20, 40), (60, 1), (600, 1)] {
            let mut read = value.clone();
            set_remaining_interval(key("c5-1"), &mut read, || at(NOW + waited));
            assert_eq!(read, command(remaining), "{waited}");
        }
    }

    #[test]
    fn clock_that_is_not_set_leaves_interval() {
        let mut value = command(60);
        set_expiry_time(key("c5-1"), &mut value, || at(1000));
        assert_eq!(value, command(60));
        set_remaining_interval(key("c5-1"), &mut value, || at(NOW));
        assert_eq!(value, command(60));
        assert!(!is_expired(key("c5-1"), &value, || at(NOW)));
    }

    #[cfg(feature = "cli")]
    #[test]
    fn values_may_differ_in_expiry_only() {
        let is_same = |one: &[u8], other: &[u8]| is_same_but_for_expiry(key("c5-1"), one, other);
        assert!(is_same(&command(60), &command(NOW)));
        let mut other = command(NOW);
        other[8] = b'u';
        assert!(!is_same(&command(60), &other));
        assert!(!is_same(&command(60), &command(60)[1..]));
        assert!(is_same(b"", b"") && !is_same(b"a", b"b"));
    }

    #[test]
    fn interval_of_decades_is_never_taken_for_time() {
        for interval in [FIRST_TIME, NOW - 1, NOW, u32::MAX - 1] {
            let mut value = command(interval);
            set_expiry_time(key("c5-1"), &mut value, || at(NOW));
            assert!(!is_expired(key("c5-1"), &value, || at(NOW)), "{interval}");
            set_remaining_interval(key("c5-1"), &mut value, || at(NOW));
            assert_eq!(value, command(u32::MAX));
        }
    }

    #[test]
    fn interval_without_end_stays() {
        let mut value = command(u32::MAX);
        set_expiry_time(key("c5-1"), &mut value, || at(NOW));
        set_remaining_interval(key("c5-1"), &mut value, || at(NOW));
        assert_eq!(value, command(u32::MAX));
        assert!(!is_expired(key("c5-1"), &value, || at(NOW)));
    }

    #[test]
    fn other_records_have_no_expiry() {
        let mut value = command(60);
        for name in ["c-1", "s5-1", "q5-1"] {
            set_expiry_time(key(name), &mut value, || at(NOW));
            assert_eq!(value, command(60), "{name}");
        }
        for length in 0..value.len() {
            let mut cut = value[..length].to_vec();
            set_expiry_time(key("c5-1"), &mut cut, || at(NOW));
            assert_eq!(cut, value[..length]);
        }
        let mut subscription = value.clone();
        subscription[..4].copy_from_slice(&8_i32.to_ne_bytes());
        let before = subscription.clone();
        set_expiry_time(key("c5-1"), &mut subscription, || at(NOW));
        assert_eq!(subscription, before);
    }
}
