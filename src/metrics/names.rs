//! [`PREFIX`]: the prefix of all metric names.

/// The prefix of every metric name.
pub(crate) const PREFIX: &str = "mqtt_persistence_";
