//! The names of the metrics.

/// What the name of every metric starts with.
pub(crate) const PREFIX: &str = "mqtt_persistence_";
