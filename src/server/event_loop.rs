//! The event loop: one thread that serves every connection with `poll`.
//!
//! The number of connections is bounded, and so are the response bodies that wait for their readers.

use std::{
    io::{self, Read},
    mem,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use tracing::{debug, error, warn};

use super::{
    collector::CollectorHandle,
    config::Config,
    connection::{Action, EvictionRank, HttpConnection},
    listener::{Listener, PeerNetwork},
    transport::ServerStream,
};

/// Connections accepted per turn, so that a flood does not starve those already accepted.
const MAX_ACCEPTS_PER_TURN: usize = 64;

/// Delay after a failure of `accept` or `poll`, so that the loop does not spin.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Bytes of unsent response bodies that may wait for slow readers, beside the largest body.
const MAX_UNSENT_BODY_BYTES: usize = 2 * 1024 * 1024;

/// The state of the `metrics-server` thread.
pub(super) struct EventLoop {
    listener: Listener,
    config: Config,
    collector: CollectorHandle,
    stopping: Arc<AtomicBool>,
    /// Readable when the collector has responses, or when the loop must stop.
    wakeups: UnixStream,
    slots: Vec<Slot>,
    next_id: u64,
    /// A file descriptor in reserve, closed to accept a connection when the process has none left.
    reserve_fd: Option<OwnedFd>,
    /// End of the delay after `accept` failed.
    accept_after: Option<Instant>,
    /// Set once a failure of `accept` is logged, until it succeeds again.
    failure_logged: bool,
}

/// A connection with a place.
struct Slot {
    id: u64,
    network: PeerNetwork,
    connection: HttpConnection<ServerStream>,
}

/// The sockets that `poll` reported as ready.
struct PollResult {
    wakeups: bool,
    listener: bool,
    connections: Vec<(u64, PollFlags)>,
}

impl EventLoop {
    pub(super) fn new(
        listener: Listener,
        config: Config,
        collector: CollectorHandle,
        stopping: Arc<AtomicBool>,
        wakeups: UnixStream,
    ) -> Self {
        Self {
            listener,
            config,
            collector,
            stopping,
            wakeups,
            slots: Vec::new(),
            next_id: 0,
            reserve_fd: None,
            accept_after: None,
            failure_logged: false,
        }
    }

    /// Serves until `stopping` is set, then closes every connection.
    pub(super) fn run(mut self) {
        while !self.stopping.load(Ordering::Acquire) {
            // A panic must not end the endpoint for the life of the process.
            if catch_unwind(AssertUnwindSafe(|| self.turn())).is_err() {
                error!("metrics server panicked; its connections are closed and it continues");
                self.slots.clear();
                thread::sleep(RETRY_DELAY);
            }
        }
        let Self {
            listener,
            slots,
            collector,
            ..
        } = self;
        drop(listener);
        drop(slots);
        collector.stop();
    }

    /// Waits once, then serves every socket that is ready.
    fn turn(&mut self) {
        if self.reserve_fd.is_none() {
            self.reserve_fd = self.wakeups.as_fd().try_clone_to_owned().ok();
        }
        let ready = match self.wait() {
            Ok(ready) => ready,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => {
                warn!(%error, "metrics server cannot poll its connections");
                thread::sleep(RETRY_DELAY);
                return;
            }
        };
        if ready.wakeups {
            // Bytes beyond the buffer only cause another turn.
            drop(self.wakeups.read(&mut [0; 64]));
            self.deliver_responses();
        }
        for (id, flags) in ready.connections {
            if let Some(position) = self.position(id) {
                self.on_ready(position, flags);
            }
        }
        // Before accepting, so that expired connections cost no other one its place.
        self.expire();
        if ready.listener {
            self.accept();
        }
    }

    fn wait(&mut self) -> io::Result<PollResult> {
        let now = Instant::now();
        if self.accept_after.is_some_and(|until| until <= now) {
            self.accept_after = None;
        }
        // Without a deadline `poll` waits until a socket is ready.
        let deadlines = self.slots.iter().map(|slot| slot.connection.deadline);
        let timeout = deadlines
            .chain(self.accept_after)
            .min()
            .map(|deadline| timespec(deadline.saturating_duration_since(now)));
        let mut polled = vec![PollFd::new(&self.wakeups, PollFlags::IN)];
        polled.extend(self.slots.iter().map(|slot| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, slot.connection.wants_read());
            flags.set(PollFlags::OUT, slot.connection.wants_write());
            PollFd::new(slot.connection.stream(), flags)
        }));
        if self.accept_after.is_none() {
            polled.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        poll(&mut polled, timeout.as_ref())?;
        // In the order in which they were pushed.
        let mut events = polled.iter().map(PollFd::revents);
        let is_ready = |flags: Option<PollFlags>| flags.is_some_and(|flags| !flags.is_empty());
        Ok(PollResult {
            wakeups: is_ready(events.next()),
            connections: self
                .slots
                .iter()
                .map(|slot| slot.id)
                .zip(events.by_ref())
                .filter(|(_, flags)| !flags.is_empty())
                .collect(),
            listener: is_ready(events.next()),
        })
    }

    fn deliver_responses(&mut self) {
        for (id, response) in self.collector.take_responses() {
            let Some(position) = self.position(id) else {
                continue;
            };
            if let Some(slot) = self.slots.get_mut(position) {
                slot.connection.respond(response, &self.config);
            }
            self.advance(position);
        }
        self.limit_unsent_bodies();
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.slots.iter().position(|slot| slot.id == id)
    }

    fn on_ready(&mut self, position: usize, flags: PollFlags) {
        let is_closed = flags.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        let is_waiting = self
            .slots
            .get(position)
            .is_some_and(|slot| !slot.connection.wants_read() && !slot.connection.wants_write());
        // Otherwise the state machine meets the error itself, after the bytes before it.
        if is_closed && is_waiting {
            // No peer is left to read the response that is being collected.
            drop(self.remove(position));
        } else {
            self.advance(position);
        }
    }

    /// Runs the state machine of a connection, and does what it returns.
    fn advance(&mut self, position: usize) {
        if let Some(slot) = self.slots.get_mut(position) {
            let action = slot.connection.advance(&self.config);
            self.apply_action(position, &action);
        }
    }

    fn apply_action(&mut self, position: usize, action: &Action) {
        match action {
            Action::Wait => {}
            Action::Collect(request) => {
                if let Some(slot) = self.slots.get(position) {
                    self.collector.submit(slot.id, *request);
                }
            }
            Action::Close => drop(self.remove(position)),
        }
    }

    fn remove(&mut self, position: usize) -> Option<Slot> {
        if position >= self.slots.len() {
            return None;
        }
        let slot = self.slots.remove(position);
        self.collector.cancel(slot.id);
        Some(slot)
    }

    /// Ends the states whose deadline has passed.
    fn expire(&mut self) {
        let now = Instant::now();
        // From the end, since a removal shifts the positions behind it.
        for position in (0..self.slots.len()).rev() {
            let Some(slot) = self.slots.get_mut(position) else {
                continue;
            };
            if slot.connection.deadline <= now {
                self.collector.cancel(slot.id);
                let action = slot.connection.expire(&self.config);
                self.apply_action(position, &action);
            }
        }
    }

    /// Accepts the connections that wait, up to [`MAX_ACCEPTS_PER_TURN`].
    fn accept(&mut self) {
        for _ in 0..MAX_ACCEPTS_PER_TURN {
            if self.is_full() && self.has_waiting_peer() {
                self.evict_one();
            }
            match self.listener.accept(self.config.limits.response_timeout) {
                Ok((socket, network)) => {
                    self.failure_logged = false;
                    self.admit(socket, network);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    // Without a free file descriptor `accept` fails even if no connection waits.
                    if !self.has_waiting_peer() {
                        return;
                    }
                    // Either one frees a file descriptor for the next attempt.
                    if self.reserve_fd.take().is_some() || self.evict_one() {
                        continue;
                    }
                    if !mem::replace(&mut self.failure_logged, true) {
                        warn!(%error, "metrics server cannot accept connections, retrying");
                    }
                    self.accept_after = Instant::now().checked_add(RETRY_DELAY);
                    return;
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.slots.len() >= self.config.limits.max_connections
    }

    /// Returns true if a connection waits to be accepted.
    fn has_waiting_peer(&self) -> bool {
        let mut polled = [PollFd::new(&self.listener, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Gives an accepted connection a place, or refuses it with a 503.
    fn admit(&mut self, socket: Socket, network: PeerNetwork) {
        self.config.credentials.reload_if_changed();
        let stream = match self.config.credentials.transport.open(socket) {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "cannot set up a metrics connection");
                return;
            }
        };
        let connection = HttpConnection::new(stream, &self.config);
        if self.is_full() {
            debug!("refused a metrics connection: all places are taken");
            connection.evict(&self.config);
            return;
        }
        let position = self.slots.len();
        self.slots.push(Slot {
            id: self.next_id,
            network,
            connection,
        });
        self.next_id = self.next_id.wrapping_add(1);
        // Most requests have arrived by now, which saves a turn.
        self.advance(position);
    }

    /// Evicts the connection of the lowest rank. Returns false if none can be evicted.
    fn evict_one(&mut self) -> bool {
        let now = Instant::now();
        loop {
            let Some(position) = self.eviction_candidate(now) else {
                return false;
            };
            let Some(slot) = self.slots.get_mut(position) else {
                return false;
            };
            // Its request may have arrived in the meantime, or its peer may have closed.
            let (id, rank) = (slot.id, slot.connection.eviction_rank(now));
            self.advance(position);
            let Some(slot) = self.slots.get(position).filter(|slot| slot.id == id) else {
                return true;
            };
            if slot.connection.eviction_rank(now) != rank {
                continue;
            }
            if let Some(slot) = self.remove(position) {
                debug!(?rank, "evicted a metrics connection");
                slot.connection.evict(&self.config);
            }
            return true;
        }
    }

    /// Chooses among the connections of the lowest rank.
    ///
    /// It is the most idle one of the network that has most of them, so no network can evict others by opening many
    /// connections.
    fn eviction_candidate(&self, now: Instant) -> Option<usize> {
        let rank = |slot: &Slot| slot.connection.eviction_rank(now);
        let lowest = self.slots.iter().map(rank).min()?;
        let candidates = || self.slots.iter().filter(|slot| rank(slot) == lowest);
        let same_network = |network| candidates().filter(|slot| slot.network == network).count();
        let chosen = candidates().max_by(|slot, other| {
            let idle = other
                .connection
                .idle_since()
                .cmp(&slot.connection.idle_since());
            same_network(slot.network)
                .cmp(&same_network(other.network))
                .then(idle)
        })?;
        let can_evict = match lowest {
            EvictionRank::Draining | EvictionRank::NoRequest | EvictionRank::Stalled => true,
            // Otherwise a network that requests again and again and never reads would hold every place.
            EvictionRank::Sending => {
                same_network(chosen.network) > (self.config.limits.max_connections / 2).max(1)
            }
            EvictionRank::Collecting => false,
        };
        can_evict.then(|| self.position(chosen.id)).flatten()
    }

    /// Evicts the slowest readers while unsent response bodies take too much memory.
    fn limit_unsent_bodies(&mut self) {
        loop {
            let mut bodies: Vec<_> = self
                .slots
                .iter()
                .filter_map(|slot| slot.connection.body())
                .collect();
            // Responses of one collection share a body, which counts once.
            bodies.sort_by_key(|body| Arc::as_ptr(body));
            bodies.dedup_by_key(|body| Arc::as_ptr(body));
            let sizes = bodies.iter().map(|body| body.len());
            let largest = sizes.clone().max().unwrap_or_default();
            let all = sizes.fold(0, usize::saturating_add);
            if all.saturating_sub(largest) <= MAX_UNSENT_BODY_BYTES {
                return;
            }
            let slots = self.slots.iter().enumerate();
            let slowest = slots
                .filter(|(_, slot)| slot.connection.body().is_some())
                .min_by_key(|(_, slot)| slot.connection.deadline)
                .map(|(position, _)| position);
            let Some(slot) = slowest.and_then(|position| self.remove(position)) else {
                return;
            };
            debug!("closed a slow metrics connection: unsent responses take too much memory");
            slot.connection.evict(&self.config);
        }
    }
}

/// Returns true for an error of one connection, after which `accept` can go on.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | TimedOut
    )
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up, so that the deadline has passed when `poll` returns.
    let duration = duration.saturating_add(Duration::from_micros(1));
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
