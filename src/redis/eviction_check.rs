//! The reaction to a Redis that may evict records.

use crate::error::option_words::option_words;

/// The reaction to a Redis that may delete records when its memory is full.
///
/// Such a Redis has a `maxmemory` and a `maxmemory-policy` that starts with `allkeys-`. It evicts
/// whole keys, so every record of a client disappears at once. The user needs the right `+info`
/// for the check; without it a warning is logged instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvictionCheck {
    /// Logs a warning at open and connects. The default.
    #[default]
    Warn,
    /// Fails to connect, with [`ErrorKind::Eviction`](crate::ErrorKind::Eviction).
    Refuse,
    /// Connects without a warning.
    Ignore,
}

option_words!(EvictionCheck, "eviction_check": Warn = "warn", Refuse = "refuse", Ignore = "ignore");
