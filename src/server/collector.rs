//! The thread that reads the registry, so that a collector which takes its time, or panics, keeps
//! nobody else from an answer.

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
    readiness,
    response::{BodyKind, Response},
    router::{CollectRequest, Resource},
};
use crate::{
    error::{Error, ErrorChain},
    metrics::{encode_text, gather_families},
};

/// How long the end waits for a collector. One that takes longer ends its thread when it is done.
const PATIENCE: Duration = Duration::from_millis(250);

/// The thread, as those see it who ask.
pub(super) struct CollectorHandle {
    shared: Arc<CollectorQueue>,
    thread: JoinHandle<()>,
    /// It is disconnected when the thread ends.
    ended: Receiver<()>,
}

#[derive(Default)]
struct CollectorQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    asked: Vec<(u64, CollectRequest)>,
    answered: Vec<(u64, Response)>,
    stopping: bool,
}

impl CollectorQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CollectorHandle {
    /// Starts it; `waker` gets a byte when there are answers.
    pub(super) fn start(registry: Registry, waker: UnixStream) -> io::Result<Self> {
        let shared = Arc::new(CollectorQueue::default());
        let (alive, ended) = mpsc::channel::<()>();
        let gathering = CollectorThread {
            shared: Arc::clone(&shared),
            registry,
            waker,
            is_failing: false,
        };
        let thread = thread::Builder::new()
            .name("metrics-gather".to_owned())
            .spawn(move || {
                gathering.run();
                drop(alive);
            })?;
        Ok(Self {
            shared,
            thread,
            ended,
        })
    }

    pub(super) fn ask(&self, id: u64, ask: CollectRequest) {
        self.shared.lock().asked.push((id, ask));
        self.shared.changed.notify_one();
    }

    /// Nobody waits for that answer any more.
    pub(super) fn cancel(&self, id: u64) {
        self.shared.lock().asked.retain(|(asked, _)| *asked != id);
    }

    pub(super) fn take_answers(&self) -> Vec<(u64, Response)> {
        mem::take(&mut self.shared.lock().answered)
    }

    pub(super) fn stop(self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_one();
        if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Disconnected) {
            drop(self.thread.join());
        }
    }
}

/// What the thread works with.
struct CollectorThread {
    shared: Arc<CollectorQueue>,
    registry: Registry,
    waker: UnixStream,
    /// Whether it was said that a collector fails.
    is_failing: bool,
}

impl CollectorThread {
    fn run(mut self) {
        while let Some(asked) = self.wait() {
            let asks: Vec<CollectRequest> = asked.iter().map(|(_, ask)| *ask).collect();
            // The encoder, or a subscriber of the log, may panic too.
            let answers = catch_unwind(AssertUnwindSafe(|| self.answer(&asks)))
                .unwrap_or_else(|_| asks.iter().map(|_| Response::refusal(500)).collect());
            let answers = asked.into_iter().zip(answers);
            let answers = answers.map(|((id, ask), answer)| (id, answer.head_only(ask.head_only)));
            self.shared.lock().answered.extend(answers);
            // When nobody is there any more, nobody waits.
            drop(self.waker.write(&[1]));
        }
    }

    /// All that has been asked meanwhile.
    fn wait(&self) -> Option<Vec<(u64, CollectRequest)>> {
        let state = self.shared.lock();
        let mut state = self
            .shared
            .changed
            .wait_while(state, |state| state.asked.is_empty() && !state.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        (!state.stopping).then(|| mem::take(&mut state.asked))
    }

    /// Reads the registry once for all of them, which were all asked before.
    fn answer(&mut self, asks: &[CollectRequest]) -> Vec<Response> {
        let families = match gather_families(&self.registry) {
            Ok(families) => families,
            Err(error) => {
                self.complain(&error);
                return asks.iter().map(|_| Response::refusal(500)).collect();
            }
        };
        let mut answers = ResponseCache::of(&families, SystemTime::now());
        let responses = asks.iter().map(|ask| answers.to(*ask)).collect();
        match answers.failure {
            Some(error) => self.complain(&error),
            None => self.is_failing = false,
        }
        responses
    }

    /// Says so once, rather than at each scrape.
    fn complain(&mut self, error: &Error) {
        if !mem::replace(&mut self.is_failing, true) {
            warn!(error = %ErrorChain(error), "the metrics cannot be served");
        }
    }
}

/// The answers from one reading, each body made once however many ask.
pub(super) struct ResponseCache<'a> {
    families: &'a [MetricFamily],
    now: SystemTime,
    bodies: Vec<(BodyKind, bool, Arc<Vec<u8>>)>,
    failure: Option<Error>,
}

impl<'a> ResponseCache<'a> {
    pub(super) fn of(families: &'a [MetricFamily], now: SystemTime) -> Self {
        Self {
            families,
            now,
            bodies: Vec::new(),
            failure: None,
        }
    }

    pub(super) fn to(&mut self, ask: CollectRequest) -> Response {
        let kind = match ask.question {
            Resource::Readiness => return readiness::response(self.families),
            Resource::Metrics => BodyKind::Metrics,
            Resource::Page => BodyKind::Page,
        };
        match self.body(kind, ask.accepts_gzip) {
            Ok(body) => Response::new(200, kind, body).compressed(ask.accepts_gzip),
            Err(error) => {
                self.failure = Some(error);
                Response::refusal(500)
            }
        }
    }

    fn body(&mut self, kind: BodyKind, is_compressed: bool) -> Result<Arc<Vec<u8>>, Error> {
        let mut made = self.bodies.iter();
        let found = made.find(|(of, compressed, _)| (*of, *compressed) == (kind, is_compressed));
        if let Some((_, _, body)) = found {
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

fn compress(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Neither fails where the bytes go to memory.
    drop(encoder.write_all(text));
    encoder.finish().unwrap_or_default()
}
