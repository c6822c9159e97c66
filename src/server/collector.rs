//! The thread that collects the registry and renders responses.
//!
//! A collector of the program may be slow, endless or panic. In its own thread it delays only responses that need the
//! registry, up to their timeout.

use std::{
    collections::BTreeMap,
    io, iter, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use prometheus::{Registry, proto::MetricFamily};
use tracing::warn;

use super::{
    page::page,
    readiness::readiness_response,
    response::{CollectRequest, Resource, Response},
};
use crate::{
    error::{Error, ErrorChain},
    metrics::{encode_text, gather_families},
};

/// Time that `stop` waits for a running collector. After that, the thread ends by itself when the collector returns.
const STOP_TIMEOUT: Duration = Duration::from_millis(250);

/// Requests that wait, some of which may have been given up because a collector is slow.
const MAX_REQUESTS: usize = 256;

/// A request, and the receiver of its response.
pub(super) type Ticket = (CollectRequest, SyncSender<Response>);

/// The `metrics-gather` thread. It ends when no connection and no `Collector` is left.
pub(super) struct Collector {
    pub(super) requests: SyncSender<Ticket>,
    /// Set when the server stops: requests that wait are not served any more.
    is_cancelled: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    /// Disconnected when the thread ends, since `join` has no timeout.
    ended: Receiver<()>,
}

impl Collector {
    pub(super) fn start(registry: Registry) -> io::Result<Self> {
        let (requests, waiting) = sync_channel(MAX_REQUESTS);
        let (alive, ended) = channel::<()>();
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let cancelled = Arc::clone(&is_cancelled);
        let thread = thread::Builder::new()
            .name("metrics-gather".to_owned())
            .spawn(move || {
                run(&registry, &waiting, &cancelled);
                drop(alive);
            })?;
        Ok(Self {
            requests,
            is_cancelled,
            thread,
            ended,
        })
    }

    /// Prevents another collection.
    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Relaxed);
    }

    pub(super) fn stop(self) {
        drop(self.requests);
        if self.ended.recv_timeout(STOP_TIMEOUT) == Err(RecvTimeoutError::Disconnected) {
            drop(self.thread.join());
        }
    }
}

fn run(registry: &Registry, waiting: &Receiver<Ticket>, is_cancelled: &AtomicBool) {
    let mut failure_logged = false;
    while let Ok(first) = waiting.recv() {
        if is_cancelled.load(Relaxed) {
            return;
        }
        // One collection for all of them. They arrived before, so none gets values older than its request.
        let tickets: Vec<Ticket> = iter::once(first).chain(waiting.try_iter()).collect();
        // Collectors are caught below; the encoder or a log subscriber may panic too.
        let respond = || respond(registry, &tickets, &mut failure_logged);
        let responses = catch_unwind(AssertUnwindSafe(respond)).unwrap_or_default();
        for (request, receiver) in tickets {
            let response = responses.get(&request).cloned();
            // Fails if its time is over.
            drop(receiver.try_send(response.unwrap_or_else(|| Response::status_only(500))));
        }
    }
}

/// Collects the registry, and renders each kind of response once.
fn respond(
    registry: &Registry,
    tickets: &[Ticket],
    failure_logged: &mut bool,
) -> BTreeMap<CollectRequest, Response> {
    let mut responses = BTreeMap::new();
    let rendered = gather_families(registry).and_then(|families| {
        let now = SystemTime::now();
        let mut rendered = Ok(());
        for (request, _) in tickets {
            responses.entry(*request).or_insert_with(|| {
                render(&families, *request, now).unwrap_or_else(|error| {
                    rendered = Err(error);
                    Response::status_only(500)
                })
            });
        }
        rendered
    });
    // One log line per failure, not per scrape.
    let is_logged = mem::replace(failure_logged, rendered.is_err());
    if let (Err(error), false) = (rendered, is_logged) {
        warn!(error = %ErrorChain(&error), "cannot collect metrics");
    }
    responses
}

pub(super) fn render(
    families: &[MetricFamily],
    request: CollectRequest,
    now: SystemTime,
) -> Result<Response, Error> {
    let response = match request.resource {
        Resource::Readiness => return Ok(readiness_response(families)),
        Resource::Metrics => Response::metrics(encode_text(families)?),
        Resource::Page => Response::page(page(families, now)),
    };
    Ok(if request.accepts_gzip {
        response.compressed()
    } else {
        response
    })
}
