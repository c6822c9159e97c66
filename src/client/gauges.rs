//! [`Gauges`]: the state of the connection, for the metrics.

use std::time::SystemTime;

use super::report::ConnectionState;
#[cfg(feature = "metrics")]
use crate::metrics::{ConnectionSeries, PersistenceMetrics};

/// The series of the connection, if the session has metrics.
#[derive(Default)]
pub(super) struct Gauges {
    #[cfg(feature = "metrics")]
    series: Option<ConnectionSeries>,
}

#[cfg_attr(
    not(feature = "metrics"),
    expect(clippy::unused_self, reason = "there is nothing to show it on")
)]
impl Gauges {
    #[cfg(feature = "metrics")]
    pub(super) fn new(metrics: Option<&PersistenceMetrics>, label: &str) -> Self {
        Self {
            series: metrics.map(|metrics| metrics.connection_series(label)),
        }
    }

    /// Shows a change of the connection.
    pub(super) fn show(
        &self,
        connection: ConnectionState,
        since: SystemTime,
        next_attempt: Option<SystemTime>,
    ) {
        #[cfg(feature = "metrics")]
        if let Some(series) = &self.series {
            let is_connected = connection == ConnectionState::Connected;
            series.show(is_connected, since, next_attempt);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = (self, connection, since, next_attempt);
    }

    pub(super) fn count_failed_attempt(&self) {
        #[cfg(feature = "metrics")]
        if let Some(series) = &self.series {
            series.failed_attempts.inc();
        }
    }

    pub(super) fn count_connection(&self) {
        #[cfg(feature = "metrics")]
        if let Some(series) = &self.series {
            series.connections.inc();
        }
    }

    pub(super) fn count_refused(&self) {
        #[cfg(feature = "metrics")]
        if let Some(series) = &self.series {
            series.refused.inc();
        }
    }
}
