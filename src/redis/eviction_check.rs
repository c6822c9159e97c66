//! The reaction to a Redis that may evict records.

/// What to do about a Redis that may delete what it has when its memory is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvictionCheck {
    /// The log is told.
    #[default]
    Warn,
    /// Connecting fails with [`ErrorKind::Eviction`](crate::ErrorKind::Eviction).
    Refuse,
    /// Nothing.
    Ignore,
}
