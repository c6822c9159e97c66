//! [`Catalog`]: the families of all metrics, and the collector that a registry gets.

use std::sync::Arc;

use prometheus::{
    Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{
    client_share::ClientFamilies,
    clock::Clock,
    family::{Families, FamilyOptions, Metric},
    share::SharedFamilies,
    table::{CallFamilies, ConnectionFamilies, MessageFamilies, StoreFamilies},
};
use crate::error::{Error, ErrorKind};

/// The families of all metrics, and the clients that have series.
pub(super) struct Catalog {
    pub(super) clients: Arc<ClientFamilies>,
    pub(super) connection: Arc<SharedFamilies<ConnectionFamilies>>,
    pub(super) store: Arc<SharedFamilies<StoreFamilies>>,
    pub(super) clock: Clock,
}

/// Returns the metrics in the order of the table.
pub(super) fn all_metrics() -> impl Iterator<Item = &'static Metric> {
    let parts = [
        CallFamilies::METRICS,
        MessageFamilies::METRICS,
        ConnectionFamilies::METRICS,
        StoreFamilies::METRICS,
    ];
    parts.into_iter().flatten()
}

impl Catalog {
    pub(super) fn new(options: &FamilyOptions, clock: Clock) -> prometheus::Result<Self> {
        Ok(Self {
            clients: Arc::new(ClientFamilies::create(options)?),
            connection: SharedFamilies::new(ConnectionFamilies::create(options)?),
            store: SharedFamilies::new(StoreFamilies::create(options)?),
            clock,
        })
    }

    /// Registers every metric of the profile, or none if the registry refuses one.
    pub(super) fn register(
        self: &Arc<Self>,
        registry: &Registry,
        is_lean: bool,
    ) -> Result<(), Error> {
        let collector = ProfileCollector {
            catalog: Arc::clone(self),
            is_lean,
        };
        registry
            .register(Box::new(collector.clone()))
            .map_err(|error| {
                let name = collector.refused_name(registry);
                Error::new(
                    ErrorKind::Registration,
                    format!("register the metric {name}"),
                )
                .with_reason("already registered; register once and clone the handle")
                .with_source(error)
            })
    }
}

/// The collector of all metrics of a profile.
#[derive(Clone)]
struct ProfileCollector {
    catalog: Arc<Catalog>,
    is_lean: bool,
}

impl ProfileCollector {
    /// Returns the name that the registry refuses.
    fn refused_name(&self, registry: &Registry) -> String {
        let is_refused = |desc: &&Desc| {
            let probe = || Box::new(Probe((*desc).clone()));
            let refused = registry.register(probe()).is_err();
            refused || registry.unregister(probe()).is_err()
        };
        let refused = self.desc().into_iter().find(is_refused);
        refused.map_or_else(String::new, |desc| desc.fq_name.clone())
    }
}

impl Collector for ProfileCollector {
    fn desc(&self) -> Vec<&Desc> {
        let Self { catalog, is_lean } = self;
        let calls = catalog.clients.calls.exposed(*is_lean);
        calls
            .chain(catalog.clients.messages.exposed(*is_lean))
            .chain(catalog.connection.families.exposed(*is_lean))
            .chain(catalog.store.families.exposed(*is_lean))
            .flat_map(|(_, family)| family.desc())
            .collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Self { catalog, is_lean } = self;
        let now = catalog.clock.since_boot();
        let mut families = catalog.clients.collect_calls(*is_lean, now);
        families.extend(catalog.clients.collect_messages(*is_lean));
        families.extend(catalog.connection.families.collect(*is_lean));
        families.extend(catalog.store.families.collect(*is_lean));
        families
    }
}

/// A collector of nothing under a name.
struct Probe(Desc);

impl Collector for Probe {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        Vec::new()
    }
}
