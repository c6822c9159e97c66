//! [`PersistenceMetrics`]: the handle to the registered metrics.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::proto::MetricFamily;

use super::{
    catalog::Catalog, client_share::ClientShare, clock::Clock, connection_share::ConnectionShare,
    store_share::StoreShare,
};
use crate::{persistence::StoreObserver, store::StoreEvent};

/// The metrics of all persistences of a process, registered once.
///
/// A handle that is cheap to clone: each [`Instrumented`](crate::Instrumented) takes a clone. The series
/// of a client appear at zero when Paho opens its persistence, and disappear when the last persistence
/// with the same `client_id` label is dropped.
///
/// ```
/// use paho_mqtt_redis::{MemoryPersistence, PersistenceMetrics, prometheus::Registry};
///
/// let registry = Registry::new();
/// let metrics = PersistenceMetrics::register(&registry)?;
/// let one = MemoryPersistence::new().instrument(&metrics);
/// let another = MemoryPersistence::new().instrument(&metrics).client_label("gateway");
/// # Ok::<(), paho_mqtt_redis::Error>(())
/// ```
#[derive(Clone)]
pub struct PersistenceMetrics {
    catalog: Arc<Catalog>,
    /// The series of the clients that the handle observes itself, by client id.
    observed: Arc<Mutex<HashMap<String, StoreShare>>>,
}

impl PersistenceMetrics {
    pub(super) fn new(catalog: Arc<Catalog>) -> Self {
        Self {
            catalog,
            observed: Arc::default(),
        }
    }

    /// Returns a share in the series of a client, which opens its persistence.
    pub(crate) fn client_share(&self, label: &str, store: &'static str) -> ClientShare {
        ClientShare::new(&self.catalog.clients, label, store)
    }

    /// Returns a share in the store series of a client, whose store reports events.
    pub(crate) fn store_share(&self, label: &str) -> StoreShare {
        StoreShare::new(&self.catalog.store, label)
    }

    /// Returns a share in the series of a client's connection.
    pub(crate) fn connection_share(&self, label: &str) -> ConnectionShare {
        ConnectionShare::new(&self.catalog.connection, label)
    }

    pub(crate) fn message_families(&self) -> Vec<MetricFamily> {
        self.catalog.clients.collect_messages(false)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.catalog.clock
    }
}

/// Feeds the `store_` series of a persistence that is not measured by
/// [`Persistence::instrument`](crate::Persistence::instrument), which observes the store itself.
///
/// The series have the client id as their label and exist while the persistence is open.
impl StoreObserver for PersistenceMetrics {
    fn on_event(&self, client_id: &str, event: &StoreEvent) {
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(event, StoreEvent::Closed) {
            observed.remove(client_id);
        } else {
            observed
                .entry(client_id.to_owned())
                .or_insert_with(|| self.store_share(client_id))
                .apply(event);
        }
    }
}

impl fmt::Debug for PersistenceMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PersistenceMetrics").finish_non_exhaustive()
    }
}
