//! [`Records`]: the persistence of a session, and what observes it.

use std::sync::Arc;

use paho_mqtt as mqtt;

#[cfg(feature = "metrics")]
use super::gauges::Gauges;
use super::{log, options::Settings};
#[cfg(feature = "metrics")]
use crate::metrics::PersistenceMetrics;
#[cfg(feature = "redis")]
use crate::redis::{RedisPersistence, RedisPersistenceBuilder};
use crate::{
    error::{Error, ErrorKind},
    persistence::{BoxedPersistence, DeadLetters, Health, Persistence, StoreObserver, Wrapper},
    store::Store,
};

/// The persistence of a session, and what observes it.
#[derive(Default)]
pub(super) struct Records {
    pub(super) source: Source,
    pub(super) byte_budget: Option<usize>,
    pub(super) observers: Vec<Arc<dyn StoreObserver>>,
    #[cfg(feature = "metrics")]
    pub(super) metrics: Option<PersistenceMetrics>,
    #[cfg(feature = "metrics")]
    pub(super) client_label: Option<String>,
}

/// The persistence of a session.
pub(super) enum Source {
    #[cfg(feature = "redis")]
    Redis(Box<RedisPersistenceBuilder>),
    #[cfg(not(feature = "redis"))]
    Missing,
    Given(Box<dyn SessionPersistence>),
}

impl Default for Source {
    #[cfg(feature = "redis")]
    fn default() -> Self {
        Self::Redis(Box::new(RedisPersistence::builder()))
    }

    #[cfg(not(feature = "redis"))]
    fn default() -> Self {
        Self::Missing
    }
}

/// A persistence that is connected, and its handles.
pub(super) struct Opened {
    pub(super) persistence: BoxedPersistence,
    pub(super) health: Health,
    pub(super) dead_letters: DeadLetters,
}

impl Records {
    #[cfg(feature = "redis")]
    pub(super) fn set_redis(
        &mut self,
        set: impl FnOnce(RedisPersistenceBuilder) -> RedisPersistenceBuilder,
    ) {
        let builder = match std::mem::take(&mut self.source) {
            Source::Redis(builder) => *builder,
            Source::Given(_) => RedisPersistence::builder(),
        };
        self.source = Source::Redis(Box::new(set(builder)));
    }

    #[cfg(feature = "metrics")]
    pub(super) fn gauges(&self, client_id: &str) -> Gauges {
        let label = self.client_label.as_deref().unwrap_or(client_id);
        Gauges::new(self.metrics.as_ref(), label)
    }

    /// Connects the persistence to its store.
    pub(super) fn open(self, settings: &Settings) -> Result<Opened, Error> {
        let mut persistence = Self::build(self.source, settings.max_messages, self.byte_budget)?;
        persistence.set_mqtt_version(settings.version);
        for observer in self.observers {
            persistence.add_observer(observer);
        }
        if let Err(error) = persistence.connect(&settings.client_id, &settings.name) {
            if !persistence.may_open_without(error.kind()) {
                return Err(error);
            }
            log::starts_without_store(&settings.client_id, &error);
        }
        let (health, dead_letters) = (persistence.health(), persistence.dead_letters());
        let wrapper = persistence.take_wrapper();
        #[cfg(feature = "metrics")]
        let persistence = match &self.metrics {
            Some(metrics) => persistence.instrument(metrics, self.client_label.as_deref()),
            None => persistence.boxed(),
        };
        #[cfg(not(feature = "metrics"))]
        let persistence = persistence.boxed();
        let persistence = match wrapper {
            Some(wrap) => wrap(persistence),
            None => persistence,
        };
        Ok(Opened {
            persistence,
            health,
            dead_letters,
        })
    }

    fn build(
        source: Source,
        messages: usize,
        bytes: Option<usize>,
    ) -> Result<Box<dyn SessionPersistence>, Error> {
        match source {
            #[cfg(feature = "redis")]
            Source::Redis(builder) => {
                let builder = builder.max_buffered_messages(messages);
                let builder = match bytes {
                    Some(bytes) => builder.byte_budget(bytes),
                    None => builder,
                };
                Ok(Box::new(builder.build()?))
            }
            #[cfg(not(feature = "redis"))]
            Source::Missing => Err(Error::invalid_option("persistence")
                .with_reason("there is no default without the feature `redis`")),
            Source::Given(mut persistence) => {
                persistence.set_limits(messages, bytes);
                Ok(persistence)
            }
        }
    }
}

/// Hides the type of the store.
pub(super) trait SessionPersistence: Send {
    /// Sets the limits that the client has, for gauges and warnings.
    fn set_limits(&mut self, messages: usize, bytes: Option<usize>);
    /// Names the version that the client has, to which stored records are converted.
    fn set_mqtt_version(&mut self, version: mqtt::MqttVersion);
    fn add_observer(&mut self, observer: Arc<dyn StoreObserver>);
    fn connect(&mut self, client_id: &str, server_uri: &str) -> Result<(), Error>;
    /// Returns true if the client may be created although `connect` failed in this way.
    fn may_open_without(&self, kind: ErrorKind) -> bool;
    fn health(&self) -> Health;
    fn dead_letters(&self) -> DeadLetters;
    fn take_wrapper(&mut self) -> Option<Wrapper>;
    #[cfg(feature = "metrics")]
    fn instrument(
        self: Box<Self>,
        metrics: &PersistenceMetrics,
        label: Option<&str>,
    ) -> BoxedPersistence;
    fn boxed(self: Box<Self>) -> BoxedPersistence;
}

impl<S: Store> SessionPersistence for Persistence<S> {
    fn set_limits(&mut self, messages: usize, bytes: Option<usize>) {
        self.set_waiting_limits(messages, bytes);
    }

    fn set_mqtt_version(&mut self, version: mqtt::MqttVersion) {
        Self::set_mqtt_version(self, version);
    }

    fn add_observer(&mut self, observer: Arc<dyn StoreObserver>) {
        Self::add_observer(self, observer);
    }

    fn connect(&mut self, client_id: &str, server_uri: &str) -> Result<(), Error> {
        Self::connect(self, client_id, server_uri)
    }

    fn may_open_without(&self, kind: ErrorKind) -> bool {
        self.may_open_without_store(kind)
    }

    fn health(&self) -> Health {
        Self::health(self)
    }

    fn dead_letters(&self) -> DeadLetters {
        Self::dead_letters(self)
    }

    fn take_wrapper(&mut self) -> Option<Wrapper> {
        Self::take_wrapper(self)
    }

    #[cfg(feature = "metrics")]
    fn instrument(
        self: Box<Self>,
        metrics: &PersistenceMetrics,
        label: Option<&str>,
    ) -> BoxedPersistence {
        let instrumented = Self::instrument(*self, metrics);
        match label {
            Some(label) => Box::new(instrumented.client_label(label)),
            None => Box::new(instrumented),
        }
    }

    fn boxed(self: Box<Self>) -> BoxedPersistence {
        self
    }
}
