//! The thread that collects the registry and renders responses.
//!
//! A collector of the program may be slow or panic. In its own thread it holds up no other request.

use std::{
    io::{self, Write},
    mem,
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use prometheus::{Registry, proto::MetricFamily};
use tracing::warn;

use super::{
    page::page,
    readiness::readiness_response,
    response::{BodyKind, Response},
    router::{CollectRequest, Resource},
};
use crate::{
    error::{Error, ErrorChain},
    metrics::{encode_text, gather_families},
};

/// Time that `stop` waits for a running collector. After that, the thread ends by itself when the collector returns.
const STOP_TIMEOUT: Duration = Duration::from_millis(250);

/// The event loop's side of the collector thread.
pub(super) struct CollectorHandle {
    queue: Arc<CollectorQueue>,
    thread: JoinHandle<()>,
    /// Disconnected when the thread ends, since `join` has no timeout.
    ended: Receiver<()>,
}

/// Requests and responses between the two threads.
#[derive(Default)]
struct CollectorQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    /// Requests that wait, with the ids of their connections.
    requests: Vec<(u64, CollectRequest)>,
    responses: Vec<(u64, Response)>,
    stopping: bool,
}

impl CollectorQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CollectorHandle {
    /// Starts the thread, which writes a byte to `waker` when it has responses.
    pub(super) fn start(registry: Registry, waker: UnixStream) -> io::Result<Self> {
        let queue = Arc::new(CollectorQueue::default());
        let (alive, ended) = mpsc::channel::<()>();
        let collector = CollectorThread {
            queue: Arc::clone(&queue),
            registry,
            waker,
            failure_logged: false,
        };
        let thread = thread::Builder::new()
            .name("metrics-gather".to_owned())
            .spawn(move || {
                collector.run();
                drop(alive);
            })?;
        Ok(Self {
            queue,
            thread,
            ended,
        })
    }

    /// Queues the request of a connection.
    pub(super) fn submit(&self, id: u64, request: CollectRequest) {
        self.queue.lock().requests.push((id, request));
        self.queue.changed.notify_one();
    }

    /// Removes the request of a connection that is closed.
    ///
    /// If its collection runs already, the event loop drops the response.
    pub(super) fn cancel(&self, id: u64) {
        let mut queue = self.queue.lock();
        queue.requests.retain(|(waiting, _)| *waiting != id);
    }

    /// Takes the responses that are ready.
    pub(super) fn take_responses(&self) -> Vec<(u64, Response)> {
        mem::take(&mut self.queue.lock().responses)
    }

    /// Ends the thread, and waits for it up to [`STOP_TIMEOUT`].
    pub(super) fn stop(self) {
        self.queue.lock().stopping = true;
        self.queue.changed.notify_one();
        if self.ended.recv_timeout(STOP_TIMEOUT) == Err(RecvTimeoutError::Disconnected) {
            drop(self.thread.join());
        }
    }
}

/// The state of the `metrics-gather` thread.
struct CollectorThread {
    queue: Arc<CollectorQueue>,
    registry: Registry,
    waker: UnixStream,
    /// Set once a failure is logged, until collecting succeeds again: one log line per failure, not per scrape.
    failure_logged: bool,
}

impl CollectorThread {
    fn run(mut self) {
        while let Some(batch) = self.wait() {
            let requests: Vec<CollectRequest> = batch.iter().map(|(_, request)| *request).collect();
            // Collectors are caught below; the encoder or a log subscriber may panic too.
            let responses = catch_unwind(AssertUnwindSafe(|| self.respond(&requests)))
                .unwrap_or_else(|_| internal_errors(&requests));
            let responses = batch.into_iter().zip(responses);
            let responses = responses
                .map(|((id, request), response)| (id, response.head_only(request.head_only)));
            self.queue.lock().responses.extend(responses);
            // Fails if the event loop has ended, and then no connection waits.
            drop(self.waker.write(&[1]));
        }
    }

    /// Waits for requests and takes all of them; `None` when the thread must stop.
    fn wait(&self) -> Option<Vec<(u64, CollectRequest)>> {
        let state = self.queue.lock();
        let mut state = self
            .queue
            .changed
            .wait_while(state, |state| state.requests.is_empty() && !state.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        (!state.stopping).then(|| mem::take(&mut state.requests))
    }

    /// Collects the registry once for all requests.
    ///
    /// All of them arrived before, so none gets values older than its request.
    fn respond(&mut self, requests: &[CollectRequest]) -> Vec<Response> {
        let families = match gather_families(&self.registry) {
            Ok(families) => families,
            Err(error) => {
                self.log_failure(&error);
                return internal_errors(requests);
            }
        };
        let mut cache = ResponseCache::new(&families, SystemTime::now());
        let responses = requests.iter().map(|request| cache.response(*request));
        let responses = responses.collect();
        match cache.failure {
            Some(error) => self.log_failure(&error),
            None => self.failure_logged = false,
        }
        responses
    }

    /// Logs the first failure in a row.
    fn log_failure(&mut self, error: &Error) {
        if !mem::replace(&mut self.failure_logged, true) {
            warn!(error = %ErrorChain(error), "cannot collect metrics");
        }
    }
}

/// Responses from one collection. Each body is rendered once, for any number of requests.
pub(super) struct ResponseCache<'a> {
    families: &'a [MetricFamily],
    now: SystemTime,
    bodies: Vec<(BodyKind, bool, Arc<Vec<u8>>)>,
    failure: Option<Error>,
}

impl<'a> ResponseCache<'a> {
    pub(super) fn new(families: &'a [MetricFamily], now: SystemTime) -> Self {
        Self {
            families,
            now,
            bodies: Vec::new(),
            failure: None,
        }
    }

    pub(super) fn response(&mut self, request: CollectRequest) -> Response {
        let kind = match request.resource {
            Resource::Readiness => return readiness_response(self.families),
            Resource::Metrics => BodyKind::Metrics,
            Resource::Page => BodyKind::Page,
        };
        match self.body(kind, request.accepts_gzip) {
            Ok(body) => Response::new(200, kind, body).compressed(request.accepts_gzip),
            Err(error) => {
                self.failure = Some(error);
                Response::status_only(500)
            }
        }
    }

    fn body(&mut self, kind: BodyKind, is_compressed: bool) -> Result<Arc<Vec<u8>>, Error> {
        let mut bodies = self.bodies.iter();
        let wanted = (kind, is_compressed);
        let cached = bodies.find(|(kind, is_compressed, _)| (*kind, *is_compressed) == wanted);
        if let Some((_, _, body)) = cached {
            return Ok(Arc::clone(body));
        }
        let body = if is_compressed {
            compress(&self.body(kind, false)?)
        } else if kind == BodyKind::Page {
            page(self.families, self.now).into_bytes()
        } else {
            encode_text(self.families)?.into_bytes()
        };
        let body = Arc::new(body);
        self.bodies.push((kind, is_compressed, Arc::clone(&body)));
        Ok(body)
    }
}

/// Returns a 500 for each request.
fn internal_errors(requests: &[CollectRequest]) -> Vec<Response> {
    let errors = requests.iter().map(|_| Response::status_only(500));
    errors.collect()
}

fn compress(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    drop(encoder.write_all(text));
    encoder.finish().unwrap_or_default()
}
