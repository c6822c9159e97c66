//! A persistence without threads, for a simulator: it decides when the worker runs and what time it is.
//!
//! For this project's own tests. It is not part of the public interface and may change at any time.

pub use crate::{
    clock::SimulatedClock,
    persistence::{Settings, SimulatedExchange, SimulatedWorker, Turn, simulated_persistence},
};

/// Collects the metrics that account for every message; to gather all would take most of the time of a simulation.
#[cfg(feature = "metrics")]
#[must_use]
pub fn message_families(
    metrics: &crate::metrics::PersistenceMetrics,
) -> Vec<prometheus::proto::MetricFamily> {
    metrics.message_families()
}
