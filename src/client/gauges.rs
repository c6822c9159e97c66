//! [`Gauges`]: the state of the connection, for the metrics.

use std::time::SystemTime;

use super::report::ConnectionState;
#[cfg(feature = "metrics")]
use crate::metrics::{ConnectionShare, PersistenceMetrics};

/// The series of the connection, if the session has metrics.
#[derive(Default)]
pub(super) struct Gauges {
    #[cfg(feature = "metrics")]
    share: Option<ConnectionShare>,
}

#[cfg_attr(
    not(feature = "metrics"),
    expect(clippy::unused_self, reason = "there is nothing to show it on")
)]
impl Gauges {
    #[cfg(feature = "metrics")]
    pub(super) fn new(metrics: Option<&PersistenceMetrics>, label: &str) -> Self {
        Self {
            share: metrics.map(|metrics| metrics.connection_share(label)),
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
        if let Some(share) = &self.share {
            let is_connected = connection == ConnectionState::Connected;
            share.show(is_connected, since, next_attempt);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = (self, connection, since, next_attempt);
    }

    pub(super) fn count_failed_attempt(&self) {
        #[cfg(feature = "metrics")]
        if let Some(share) = &self.share {
            share.broker_failed_attempts_total.inc();
        }
    }

    pub(super) fn count_connection(&self) {
        #[cfg(feature = "metrics")]
        if let Some(share) = &self.share {
            share.broker_connections_total.inc();
        }
    }

    pub(super) fn count_refused(&self) {
        #[cfg(feature = "metrics")]
        if let Some(share) = &self.share {
            share.refused_messages_total.inc();
        }
    }
}
