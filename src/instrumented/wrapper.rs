//! [`Instrumented`]: measures every call to a persistence without changing its results.

use std::{
    error::Error as StdError,
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError, TryLockError},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use prometheus::IntGauge;
use tracing::{
    Level, Span,
    field::{Empty, display},
};

use super::{
    backlog::{Backlog, RecordId},
    observer::InstrumentedObserver,
    session::{OpenState, Outcome, Session, Stage},
};
use crate::{
    error::{Error, ErrorChain, ErrorKind},
    metrics::{OperationLabel, PersistenceMetrics},
    persistence::{Health, Persistence, StoreAddress},
    store::Store,
};

/// Measures the calls to any persistence: metrics in a registry, and one `tracing` span per call.
///
/// Counts the waiting records from the calls alone, so it works with every [`ClientPersistence`]. Lets one
/// call at a time through to the persistence, which also makes overlapping calls of Paho safe for a
/// custom persistence that is not prepared for them.
///
/// The spans have the target `paho_mqtt_redis` and the name `persistence_call`, at level INFO for
/// open and DEBUG for the others, with the fields `db.system.name`, `db.operation.name`,
/// `messaging.client.id`, `record.key`, `record.kind`, `record.bytes`, `outcome` (`ok`, `miss` or
/// `error`) and, for an error, `error.type`. With Redis they also have `server.address`, `server.port` and
/// `db.namespace`. The layer of `tracing-opentelemetry` makes the name, kind and status of a span from
/// `otel.name`, `otel.kind`, `otel.status_code` and `otel.status_description`. They never contain payloads.
///
/// A `tracing` subscriber must not publish over MQTT: a call runs under Paho's own lock.
///
/// ```
/// use paho_mqtt_redis::{Instrumented, MemoryPersistence, PersistenceMetrics, prometheus};
///
/// let metrics = PersistenceMetrics::register(&prometheus::Registry::new())?;
/// let persistence = Instrumented::new(MemoryPersistence::new(), &metrics);
/// # Ok::<(), paho_mqtt_redis::Error>(())
/// ```
pub struct Instrumented<P> {
    metrics: PersistenceMetrics,
    client_label: Option<String>,
    store: &'static str,
    address: Option<StoreAddress>,
    client_id: String,
    /// Outside the mutex, so that a call that waits for it counts too.
    in_progress: Option<IntGauge>,
    /// Dropped before the persistence, whose last events then change no series.
    pub(super) series: OpenSeries,
    /// One call at a time.
    persistence: Mutex<P>,
}

/// What the calls and the events of the store update, until it is dropped.
#[derive(Default)]
pub(super) struct OpenSeries {
    pub(super) session: Session,
    /// The receiver of the store's events, if the persistence reports any.
    pub(super) observer: Option<Arc<InstrumentedObserver>>,
}

impl<P> Instrumented<P> {
    /// Measures the calls to `persistence`.
    ///
    /// The label `store` has the value `custom`. For a [`Persistence`] use [`Persistence::instrument`], which
    /// sets the name of its store and adds the `store_` metrics.
    #[must_use]
    pub fn new(persistence: P, metrics: &PersistenceMetrics) -> Self {
        Self::with_store(persistence, metrics, "custom", None)
    }

    fn with_store(
        persistence: P,
        metrics: &PersistenceMetrics,
        store: &'static str,
        address: Option<StoreAddress>,
    ) -> Self {
        Self {
            metrics: metrics.clone(),
            client_label: None,
            store,
            address,
            client_id: String::new(),
            in_progress: None,
            series: OpenSeries::default(),
            persistence: Mutex::new(persistence),
        }
    }

    /// Sets the value of the `client_id` label.
    ///
    /// For client ids that change at each start: each of them would leave series behind in Prometheus.
    ///
    /// Defaults to the client id.
    #[must_use]
    pub fn client_label(mut self, client_label: impl Into<String>) -> Self {
        self.client_label = Some(client_label.into());
        self
    }

    /// Returns the measured persistence.
    ///
    /// While the result exists, every other use of the persistence waits, a second `get_ref` included.
    pub fn get_ref(&self) -> impl Deref<Target = P> {
        self.persistence
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the measured persistence. Calls that are made on it directly are not measured.
    pub fn get_mut(&mut self) -> &mut P {
        let persistence = self.persistence.get_mut();
        persistence.unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the measurements, and returns the persistence as it is: open, if it is open.
    #[must_use]
    pub fn into_inner(self) -> P {
        let persistence = self.persistence.into_inner();
        persistence.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns an observer for the events of the store, which then update the metrics too.
    pub(super) fn observe(&mut self) -> Arc<InstrumentedObserver> {
        let observer = Arc::new(InstrumentedObserver::new(self.series.session.clone()));
        self.series.observer = Some(Arc::clone(&observer));
        observer
    }
}

impl<S: Store> Persistence<S> {
    /// Measures the calls to this persistence and the events of its store.
    #[must_use]
    pub fn instrument(self, metrics: &PersistenceMetrics) -> Instrumented<Self> {
        let address = self.store_address();
        let mut instrumented = Instrumented::with_store(self, metrics, S::NAME, address);
        let observer = instrumented.observe();
        let persistence = instrumented.get_mut();
        persistence.set_record_observer(Arc::<InstrumentedObserver>::clone(&observer));
        persistence.add_observer(observer);
        instrumented
    }
}

impl<S: Store> Instrumented<Persistence<S>> {
    /// Connects to the records of a client: [`Persistence::connect`].
    ///
    /// # Errors
    ///
    /// The error that would keep the client from being created, with its reason and what to do.
    pub fn connect(&mut self, client_id: &str, server_uri: &str) -> Result<(), Error> {
        self.get_mut().connect(client_id, server_uri)
    }

    /// Returns a handle that reports the state of the store: [`Persistence::health`].
    #[must_use]
    pub fn health(&self) -> Health {
        self.get_ref().health()
    }
}

impl<P: ClientPersistence> Instrumented<P> {
    /// Makes and measures one call; every call goes through it.
    ///
    /// `on_success` updates the backlog and returns true if the record existed.
    fn call<T>(
        &self,
        operation: OperationLabel,
        key: &str,
        bytes: Option<usize>,
        work: impl FnOnce(&mut P) -> mqtt::Result<T>,
        on_success: impl FnOnce(&mut OpenState, &T) -> bool,
    ) -> mqtt::Result<T> {
        let clock = self.metrics.clock();
        // Duration and span include the wait for the mutex, during which Paho waits too.
        let start = clock.now();
        let span = self.span(operation, key, bytes);
        let _entered = span.enter();
        let _in_progress = self.in_progress.as_ref().map(InProgressGuard::new);
        let result;
        let outcome;
        {
            let persistence = self.persistence.lock();
            let mut persistence = persistence.unwrap_or_else(PoisonError::into_inner);
            result = work(&mut persistence);
            let now = clock.now();
            let mut session = self.series.session.lock();
            // Calls before the first open have no client to be counted for.
            let existed = match (&result, &mut *session) {
                (Ok(value), Some(session)) => on_success(session, value),
                _ => true,
            };
            outcome = match &result {
                Ok(_) if existed => Outcome::Ok,
                Ok(_) => Outcome::Miss,
                Err(error) => {
                    Outcome::Error(Error::in_mqtt(error).map_or(ErrorKind::Other, Error::kind))
                }
            };
            if let Some(session) = &mut *session {
                session.record_call(operation, key, outcome, start, now);
            }
        }
        record_outcome(&span, outcome, result.as_ref().err());
        result
    }

    fn span(&self, operation: OperationLabel, key: &str, bytes: Option<usize>) -> Span {
        let address = self.address.as_ref();
        // A macro, since the level of a span must be a constant.
        macro_rules! span {
            ($level:expr) => {
                tracing::span!(
                    target: "paho_mqtt_redis",
                    $level,
                    "persistence_call",
                    "db.system.name" = self.store,
                    "db.operation.name" = operation.as_str(),
                    "messaging.client.id" = self.client_id,
                    "record.key" = (!key.is_empty()).then_some(key),
                    "record.kind" = (!key.is_empty()).then(|| RecordId::of(key).kind().as_str()),
                    // Signed, since the layer of OpenTelemetry makes text of an unsigned number.
                    "record.bytes" = bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                    outcome = Empty,
                    "error.type" = Empty,
                    "server.address" = address.map(|address| &*address.server),
                    "server.port" = address.and_then(|address| address.port).map(i64::from),
                    "db.namespace" = address.map(|address| &*address.namespace),
                    "otel.name" = %SpanName { operation, address },
                    "otel.kind" = "client",
                    "otel.status_code" = Empty,
                    "otel.status_description" = Empty,
                )
            };
        }
        if operation == OperationLabel::Open {
            span!(Level::INFO)
        } else {
            span!(Level::DEBUG)
        }
    }

    /// Creates the series of the client, at zero, before the first call reaches the persistence.
    fn start_session(&mut self, client_id: &str) {
        client_id.clone_into(&mut self.client_id);
        let label = self.client_label.as_deref().unwrap_or(client_id);
        // On a reopen the old session is dropped only below, so that the counters of the label survive.
        let session = OpenState {
            backlog: Backlog::new(
                self.metrics.client_share(label, self.store),
                self.metrics.clock().clone(),
                self.series.observer.is_some(),
            ),
            opened: self.metrics.clock().now(),
            stage: Stage::Opened,
        };
        if let Some(observer) = &self.series.observer {
            observer
                .store_metrics
                .attach(self.metrics.store_share(label));
        }
        let series = &session.backlog.series().calls;
        series
            .opened_timestamp_seconds
            .set(self.metrics.clock().unix_time().as_secs_f64());
        self.in_progress = Some(series.operations_in_progress.clone());
        *self.series.session.lock() = Some(session);
    }
}

/// The name of a span as OpenTelemetry's conventions for databases have it: the operation and its target.
struct SpanName<'a> {
    operation: OperationLabel,
    address: Option<&'a StoreAddress>,
}

impl fmt::Display for SpanName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation.as_str())?;
        match self.address {
            Some(address) => write!(f, " {}", address.target),
            None => Ok(()),
        }
    }
}

/// Records the outcome of a call in its span.
fn record_outcome(span: &Span, outcome: Outcome, error: Option<&mqtt::Error>) {
    match outcome {
        Outcome::Ok => span.record("outcome", "ok"),
        Outcome::Miss => span.record("outcome", "miss"),
        Outcome::Error(kind) => span
            .record("outcome", "error")
            .record("error.type", kind.as_str())
            .record("otel.status_code", "ERROR"),
    };
    if let Some(error) = error {
        // The status and its description are one field of OpenTelemetry, which the last of the two sets.
        let description: &dyn StdError = match Error::in_mqtt(error) {
            Some(error) => error,
            None => error,
        };
        span.record("otel.status_description", display(ErrorChain(description)));
    }
}

/// Counts a call as in progress until it is dropped, even if the call panics.
struct InProgressGuard<'a>(&'a IntGauge);

impl<'a> InProgressGuard<'a> {
    fn new(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InProgressGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[deny(clippy::missing_trait_methods)]
impl<P: ClientPersistence> ClientPersistence for Instrumented<P> {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        self.start_session(client_id);
        let work = |inner: &mut P| inner.open(client_id, server_uri);
        self.call(OperationLabel::Open, "", None, work, |_, ()| true)
    }

    fn close(&mut self) -> mqtt::Result<()> {
        self.call(OperationLabel::Close, "", None, P::close, |_, ()| true)
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
        let bytes = buffers.iter().map(|buffer| buffer.len()).sum();
        let id = RecordId::of(key);
        let content = id.content_of_buffers(&buffers);
        let work = |inner: &mut P| inner.put(key, buffers);
        self.call(
            OperationLabel::Put,
            key,
            Some(bytes),
            work,
            |session, ()| {
                #[expect(clippy::cast_precision_loss, reason = "it falls into a bucket")]
                session
                    .backlog
                    .series()
                    .calls
                    .value_size_bytes
                    .observe(bytes as f64);
                session.backlog.put(id, bytes, content);
                true
            },
        )
    }

    fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
        let id = RecordId::of(key);
        let work = |inner: &mut P| inner.get(key);
        self.call(
            OperationLabel::Get,
            key,
            None,
            work,
            |session, value: &Vec<u8>| {
                session.backlog.get(id, value);
                true
            },
        )
    }

    fn remove(&mut self, key: &str) -> mqtt::Result<()> {
        let id = RecordId::of(key);
        let work = |inner: &mut P| inner.remove(key);
        self.call(OperationLabel::Remove, key, None, work, |session, ()| {
            session.backlog.remove(id)
        })
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        self.call(
            OperationLabel::Keys,
            "",
            None,
            P::keys,
            |session, keys: &Vec<String>| {
                session.reconcile(keys);
                true
            },
        )
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        self.call(OperationLabel::Clear, "", None, P::clear, |session, ()| {
            session.backlog.clear();
            true
        })
    }

    fn contains_key(&mut self, key: &str) -> bool {
        let work = |inner: &mut P| Ok(inner.contains_key(key));
        self.call(
            OperationLabel::ContainsKey,
            key,
            None,
            work,
            |session, _: &bool| {
                session.backlog.look_up();
                true
            },
        )
        .unwrap_or_default()
    }
}

/// Removes the series at once. The notifier thread of the persistence may outlive this drop and still
/// deliver events.
impl Drop for OpenSeries {
    fn drop(&mut self) {
        if let Some(observer) = &self.observer {
            observer.store_metrics.detach();
        }
        *self.session.lock() = None;
    }
}

impl<P: fmt::Debug> fmt::Debug for Instrumented<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Instrumented");
        match self.persistence.try_lock() {
            Ok(persistence) => shown.field("persistence", &*persistence),
            Err(TryLockError::Poisoned(poisoned)) => {
                shown.field("persistence", &**poisoned.get_ref())
            }
            Err(TryLockError::WouldBlock) => shown.field("persistence", &"busy"),
        };
        shown
            .field("store", &self.store)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}
