//! The places of connections: a thread each, and the order in which they are evicted.

use std::{
    cmp::Reverse,
    io, mem,
    net::Shutdown,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, mpsc::SyncSender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::Socket;
use tracing::debug;

use super::{listener::PeerNetwork, response::Response};

/// Stack of a connection's thread. A TLS handshake of a debug build, the deepest call, takes between 48 and 80 KiB.
const STACK_BYTES: usize = 256 * 1024;

/// Time without a byte written after which a peer counts as stalled.
const STALL_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes of unsent response bodies that may wait for slow readers, beside the largest body.
const MAX_UNSENT_BODY_BYTES: usize = 2 * 1024 * 1024;

/// All connections. Guarded by one mutex, under which nothing waits.
pub(super) struct Places {
    max: usize,
    places: Mutex<Vec<Place>>,
}

struct Place {
    network: PeerNetwork,
    /// Weak, so that the end of the thread closes the socket.
    socket: Weak<Socket>,
    stage: Stage,
    /// Time of the last progress.
    since: Instant,
    thread: JoinHandle<()>,
}

/// The progress of a connection, which its thread reports.
pub(super) enum Stage {
    /// The request has not arrived completely.
    Reading,
    /// The response is being prepared, and goes to this sender.
    Serving(SyncSender<Response>),
    Writing(Arc<Vec<u8>>),
    /// The response is sent completely.
    Sent,
    /// The thread ends as soon as it notices.
    Evicted,
}

/// The order of eviction, first one first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionRank {
    Ended,
    NoRequest,
    /// The peer does not read its response.
    Stalled,
    /// The peer reads its response, or has not stalled for long enough yet.
    Sending,
    /// Never evicted.
    Serving,
}

impl Place {
    fn rank(&self, now: Instant) -> EvictionRank {
        match self.stage {
            Stage::Sent | Stage::Evicted => EvictionRank::Ended,
            Stage::Reading => EvictionRank::NoRequest,
            Stage::Writing(_) if now.duration_since(self.since) >= STALL_TIMEOUT => {
                EvictionRank::Stalled
            }
            Stage::Writing(_) => EvictionRank::Sending,
            Stage::Serving(_) => EvictionRank::Serving,
        }
    }

    /// Shuts the socket down, which ends the wait of its thread.
    ///
    /// A peer without a response still gets a 503. A response that is being written is cut off.
    fn evict(&mut self) {
        let stage = mem::replace(&mut self.stage, Stage::Evicted);
        let how = match stage {
            Stage::Writing(_) => Shutdown::Both,
            _ => Shutdown::Read,
        };
        if let Stage::Serving(response) = stage {
            drop(response.try_send(Response::status_only(503)));
        }
        // Fails if the peer has closed.
        drop(self.socket.upgrade().map(|socket| socket.shutdown(how)));
    }
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        let places = Mutex::default();
        Self { max, places }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a connection in a thread of its own.
    pub(super) fn start(
        &self,
        network: PeerNetwork,
        socket: &Arc<Socket>,
        serve: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        // Before the thread can report its progress.
        let mut places = self.lock();
        let thread = thread::Builder::new()
            .name("metrics-request".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(serve)?;
        places.push(Place {
            network,
            socket: Arc::downgrade(socket),
            stage: Stage::Reading,
            since: Instant::now(),
            thread,
        });
        Ok(())
    }

    /// Moves the connection of this thread on; fails if it has been evicted.
    pub(super) fn enter(&self, stage: Stage) -> io::Result<()> {
        let mut places = self.lock();
        let place = own(&mut places).ok_or(io::ErrorKind::ConnectionAborted)?;
        place.stage = stage;
        place.since = Instant::now();
        limit_unsent_bodies(&mut places);
        Ok(())
    }

    /// Notes that the peer of this thread has taken bytes of its response.
    pub(super) fn note_progress(&self) {
        if let Some(place) = own(&mut self.lock()) {
            place.since = Instant::now();
        }
    }

    /// Frees a place if all are taken; returns false if none can be evicted.
    pub(super) fn make_room(&self) -> bool {
        let ended: Vec<Place> = self
            .lock()
            .extract_if(.., |place| place.thread.is_finished())
            .collect();
        ended.into_iter().for_each(join);
        self.lock().len() < self.max || self.evict_one()
    }

    /// Evicts the connection of the lowest rank, and waits until its thread has ended.
    ///
    /// It is the most idle one of the network that has most of them, so no network can evict others by opening many
    /// connections.
    pub(super) fn evict_one(&self) -> bool {
        let now = Instant::now();
        let mut places = self.lock();
        let lowest = places.iter().map(|place| place.rank(now)).min();
        let candidates = || {
            let places = places.iter().enumerate();
            places.filter(|(_, place)| Some(place.rank(now)) == lowest)
        };
        let chosen = candidates().map(|(position, place)| {
            let network = candidates().filter(|(_, other)| other.network == place.network);
            (network.count(), Reverse(place.since), position)
        });
        let Some((number, _, position)) = chosen.max() else {
            return false;
        };
        let can_evict = match lowest {
            Some(EvictionRank::Serving) => false,
            // Otherwise a network that requests again and again and never reads would hold every place.
            Some(EvictionRank::Sending) => number > (self.max / 2).max(1),
            _ => true,
        };
        if can_evict {
            let mut place = places.remove(position);
            drop(places);
            place.evict();
            debug!("evicted a metrics connection: all places are taken");
            join(place);
        }
        can_evict
    }

    /// Ends every connection, and waits for the threads.
    pub(super) fn close(&self) {
        let mut places = mem::take(&mut *self.lock());
        places.iter_mut().for_each(Place::evict);
        places.into_iter().for_each(join);
    }
}

/// Returns the place of this thread, unless it has been evicted.
fn own(places: &mut [Place]) -> Option<&mut Place> {
    let id = thread::current().id();
    places
        .iter_mut()
        .find(|place| place.thread.thread().id() == id && !matches!(place.stage, Stage::Evicted))
}

fn join(place: Place) {
    // A panic of a connection, as in a log subscriber, ends that connection only.
    drop(place.thread.join());
}

/// Evicts the slowest readers while unsent response bodies take too much memory.
fn limit_unsent_bodies(places: &mut [Place]) {
    loop {
        let mut bodies: Vec<&Arc<Vec<u8>>> = places
            .iter()
            .filter_map(|place| match &place.stage {
                Stage::Writing(body) => Some(body),
                _ => None,
            })
            .collect();
        // Responses of one collection share a body, which counts once.
        bodies.sort_by_key(|body| Arc::as_ptr(body));
        bodies.dedup_by_key(|body| Arc::as_ptr(body));
        let sizes = bodies.iter().map(|body| body.len());
        let largest = sizes.clone().max().unwrap_or_default();
        if sizes.sum::<usize>().saturating_sub(largest) <= MAX_UNSENT_BODY_BYTES {
            return;
        }
        let writing = places
            .iter_mut()
            .filter(|place| matches!(place.stage, Stage::Writing(_)));
        if let Some(slowest) = writing.min_by_key(|place| place.since) {
            slowest.evict();
        }
    }
}
