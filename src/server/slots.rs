//! The slots of connections, the threads that serve them, and the order in which they are evicted.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    io, mem,
    net::Shutdown,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use tracing::debug;

use super::{listener::PeerNetwork, response::Response};

/// Stack of a connection's thread. A TLS handshake of a debug build, the deepest call, takes between 48 and 80 KiB.
const STACK_BYTES: usize = 256 * 1024;

/// Time for which a thread waits for its next connection, since starting one costs as much as a short response.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time that an evicted connection has to send its 503, before its socket is shut down for writing too.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(250);

/// Time without a byte written after which a peer counts as stalled.
const STALL_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes of unsent response bodies that may wait for slow readers, beside the largest body.
const MAX_UNSENT_BODY_BYTES: usize = 2 * 1024 * 1024;

/// Serves a connection.
type Job = Box<dyn FnOnce(&Slots) + Send>;

/// All connections. Guarded by one mutex, under which nothing waits.
pub(super) struct Slots {
    max: usize,
    state: Mutex<State>,
    /// Notified for each connection that needs a thread.
    queued: Condvar,
    /// Notified when a connection has ended.
    freed: Condvar,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// Connections that no thread serves yet.
    queue: VecDeque<(Arc<Socket>, Job)>,
    /// Threads that serve no connection, including those that are about to take one of the queue.
    idle: usize,
    is_closed: bool,
}

struct Slot {
    network: PeerNetwork,
    socket: Arc<Socket>,
    progress: Progress,
    /// Time of the last progress.
    since: Instant,
}

/// The progress of a connection, which its thread reports.
pub(super) enum Progress {
    /// The request has not arrived completely.
    Reading,
    /// The response is being prepared, and goes to this sender.
    Serving(SyncSender<Response>),
    Writing(Arc<Vec<u8>>),
    /// The response is sent completely.
    Sent,
    /// The thread ends the connection as soon as it notices.
    Evicted,
}

/// The order of eviction, first one first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionRank {
    /// The response is sent, or the peer is gone.
    Ended,
    NoRequest,
    /// The peer does not read its response.
    Stalled,
    /// The peer reads its response, or has not stalled for long enough yet.
    Sending,
    /// Never evicted.
    Serving,
}

impl Slot {
    fn rank(&self, now: Instant) -> EvictionRank {
        match self.progress {
            Progress::Sent | Progress::Evicted => EvictionRank::Ended,
            Progress::Reading => EvictionRank::NoRequest,
            Progress::Writing(_) if now.duration_since(self.since) >= STALL_TIMEOUT => {
                EvictionRank::Stalled
            }
            Progress::Writing(_) => EvictionRank::Sending,
            Progress::Serving(_) if is_reset(&self.socket) => EvictionRank::Ended,
            Progress::Serving(_) => EvictionRank::Serving,
        }
    }

    /// Shuts the socket down, which ends the wait of its thread.
    ///
    /// A peer without a response still gets a 503. A response that is being written is cut off.
    fn evict(&mut self) {
        let progress = mem::replace(&mut self.progress, Progress::Evicted);
        if let Progress::Serving(response) = &progress {
            drop(response.try_send(Response::status_only(503)));
        }
        // Fails if the peer has closed.
        drop(self.socket.shutdown(match progress {
            Progress::Reading | Progress::Serving(_) => Shutdown::Read,
            _ => Shutdown::Both,
        }));
    }
}

/// Returns true if the connection is reset or closed on both sides.
fn is_reset(socket: &Socket) -> bool {
    // `poll` always reports errors and the end of both sides.
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

impl Slots {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            state: Mutex::default(),
            queued: Condvar::new(),
            freed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a connection in a thread that is idle, or else in a new one.
    pub(super) fn serve(
        self: &Arc<Self>,
        network: PeerNetwork,
        socket: &Arc<Socket>,
        job: Job,
    ) -> io::Result<()> {
        let mut state = self.lock();
        if state.idle <= state.queue.len() {
            let slots = Arc::clone(self);
            thread::Builder::new()
                .name("metrics-request".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || slots.work())?;
            state.idle = state.idle.saturating_add(1);
        }
        state.slots.push(Slot {
            network,
            socket: Arc::clone(socket),
            progress: Progress::Reading,
            since: Instant::now(),
        });
        state.queue.push_back((Arc::clone(socket), job));
        self.queued.notify_one();
        Ok(())
    }

    /// Serves connections until none arrives for a while.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            let is_idle = |state: &mut State| state.queue.is_empty() && !state.is_closed;
            let waited = self.queued.wait_timeout_while(state, IDLE_TIMEOUT, is_idle);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.idle = state.idle.saturating_sub(1);
            let Some((socket, job)) = state.queue.pop_front() else {
                return self.freed.notify_all();
            };
            drop(state);
            // A panic of a connection, as in a log subscriber, ends that connection only.
            drop(catch_unwind(AssertUnwindSafe(|| job(self))));
            state = self.lock();
            state.idle = state.idle.saturating_add(1);
            // Closes the socket.
            state
                .slots
                .retain(|slot| !Arc::ptr_eq(&slot.socket, &socket));
            drop(socket);
            self.freed.notify_all();
        }
    }

    /// Moves a connection on; fails if it has been evicted.
    pub(super) fn enter(&self, socket: &Arc<Socket>, progress: Progress) -> io::Result<()> {
        let mut state = self.lock();
        let slot = find(&mut state.slots, socket).ok_or(io::ErrorKind::ConnectionAborted)?;
        slot.progress = progress;
        slot.since = Instant::now();
        limit_unsent_bodies(&mut state.slots);
        Ok(())
    }

    /// Notes that the peer has taken bytes of its response.
    pub(super) fn note_progress(&self, socket: &Arc<Socket>) {
        if let Some(slot) = find(&mut self.lock().slots, socket) {
            slot.since = Instant::now();
        }
    }

    /// Frees a slot if all are taken; returns false if none can be evicted.
    pub(super) fn make_room(&self) -> bool {
        let is_free = self.lock().slots.len() < self.max;
        is_free || self.evict_one()
    }

    /// Evicts the connection of the lowest rank, and waits until it has ended.
    ///
    /// It is the most idle one of the network that has most of them, so no network can evict others by opening many
    /// connections.
    pub(super) fn evict_one(&self) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        let groups: Vec<_> = state
            .slots
            .iter()
            .map(|slot| (slot.rank(now), slot.network))
            .collect();
        let candidates = state.slots.iter_mut().zip(&groups).map(|(slot, group)| {
            let number = groups.iter().filter(|other| *other == group).count();
            ((group.0, Reverse(number), slot.since), slot)
        });
        let Some(((rank, Reverse(number), _), slot)) = candidates.min_by_key(|(key, _)| *key)
        else {
            return false;
        };
        match rank {
            EvictionRank::Serving => return false,
            // Otherwise a network that requests again and again and never reads would hold every slot.
            EvictionRank::Sending if number <= (self.max / 2).max(1) => return false,
            _ => slot.evict(),
        }
        let remaining = state.slots.len().saturating_sub(1);
        let is_freed = self.wait_for_end(state, remaining);
        debug!("evicted a metrics connection: all slots are taken");
        is_freed
    }

    /// Ends every connection and every thread.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.slots.iter_mut().for_each(Slot::evict);
        self.queued.notify_all();
        self.wait_for_end(state, 0);
    }

    /// Waits until this many connections are left, and no idle thread if the server closes.
    ///
    /// Returns false if the threads of evicted connections do not end, as in a log subscriber that hangs.
    fn wait_for_end(&self, mut state: MutexGuard<'_, State>, remaining: usize) -> bool {
        let is_full = |state: &mut State| {
            state.slots.len() > remaining || (state.is_closed && state.idle > 0)
        };
        for _ in 0..2 {
            let waited = self
                .freed
                .wait_timeout_while(state, REFUSAL_TIMEOUT, is_full);
            let timeout;
            (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if !timeout.timed_out() {
                return true;
            }
            // A thread may be waiting to write to a peer that does not read.
            for slot in &state.slots {
                if matches!(slot.progress, Progress::Evicted) {
                    drop(slot.socket.shutdown(Shutdown::Both));
                }
            }
        }
        false
    }
}

/// Returns the slot of a connection, unless it has been evicted.
fn find<'a>(slots: &'a mut [Slot], socket: &Arc<Socket>) -> Option<&'a mut Slot> {
    let mut slots = slots.iter_mut();
    let slot = slots.find(|slot| Arc::ptr_eq(&slot.socket, socket))?;
    (!matches!(slot.progress, Progress::Evicted)).then_some(slot)
}

/// Evicts the slowest readers while unsent response bodies take too much memory.
fn limit_unsent_bodies(slots: &mut [Slot]) {
    loop {
        let mut bodies: Vec<&Arc<Vec<u8>>> = slots
            .iter()
            .filter_map(|slot| match &slot.progress {
                Progress::Writing(body) => Some(body),
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
        let writing = slots
            .iter_mut()
            .filter(|slot| matches!(slot.progress, Progress::Writing(_)));
        if let Some(slowest) = writing.min_by_key(|slot| slot.since) {
            slowest.evict();
        }
    }
}
