//! The loop that serves: one thread for every connection, of which there are never more than the
//! limit.

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

/// How many connections are accepted before those that are there have their turn again.
const BURST: usize = 64;

/// How long it takes until accepting is tried again when it fails.
const REST: Duration = Duration::from_millis(100);

/// What the answers of slow readers may take in memory, besides the largest of them.
const MOST_UNREAD: usize = 2 * 1024 * 1024;

pub(super) struct EventLoop {
    listener: Listener,
    config: Config,
    collector: CollectorHandle,
    stopping: Arc<AtomicBool>,
    /// A byte comes when there are answers, or when it is to stop.
    wakeups: UnixStream,
    admitted: Vec<Slot>,
    next_id: u64,
    /// Given away for a connection when the program has no file descriptor left.
    reserve: Option<OwnedFd>,
    /// Until when accepting is not tried again.
    resting_until: Option<Instant>,
    /// Whether it was said that accepting fails.
    is_failing: bool,
}

/// A connection that has a place.
struct Slot {
    id: u64,
    origin: PeerNetwork,
    connection: HttpConnection<ServerStream>,
}

/// What `poll` tells.
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
            admitted: Vec::new(),
            next_id: 0,
            reserve: None,
            resting_until: None,
            is_failing: false,
        }
    }

    /// Serves until told to stop, then ends every connection.
    pub(super) fn run(mut self) {
        while !self.stopping.load(Ordering::Acquire) {
            // A fault here, or in what is built upon, must not end it for good.
            if catch_unwind(AssertUnwindSafe(|| self.turn())).is_err() {
                error!("the metrics server panicked; it goes on without the connections it had");
                self.admitted.clear();
                thread::sleep(REST);
            }
        }
        let Self {
            listener,
            admitted,
            collector,
            ..
        } = self;
        drop(listener);
        drop(admitted);
        collector.stop();
    }

    fn turn(&mut self) {
        if self.reserve.is_none() {
            self.reserve = self.wakeups.as_fd().try_clone_to_owned().ok();
        }
        let ready = match self.wait() {
            Ok(ready) => ready,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => {
                warn!(%error, "the metrics server cannot wait for its connections");
                thread::sleep(REST);
                return;
            }
        };
        if ready.wakeups {
            // How many bytes there are does not matter.
            drop(self.wakeups.read(&mut [0; 64]));
            self.bring_answers();
        }
        for (id, flags) in ready.connections {
            if let Some(position) = self.position(id) {
                self.react(position, flags);
            }
        }
        self.expire();
        if ready.listener {
            self.accept();
        }
    }

    fn wait(&mut self) -> io::Result<PollResult> {
        let now = Instant::now();
        if self.resting_until.is_some_and(|until| until <= now) {
            self.resting_until = None;
        }
        let deadlines = self.admitted.iter().map(|one| one.connection.deadline);
        let timeout = deadlines
            .chain(self.resting_until)
            .min()
            .map(|deadline| timespec(deadline.saturating_duration_since(now)));
        let mut polled = vec![PollFd::new(&self.wakeups, PollFlags::IN)];
        polled.extend(self.admitted.iter().map(|one| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, one.connection.wants_read());
            flags.set(PollFlags::OUT, one.connection.wants_write());
            PollFd::new(one.connection.stream(), flags)
        }));
        if self.resting_until.is_none() {
            polled.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        poll(&mut polled, timeout.as_ref())?;
        let mut told = polled.iter().map(PollFd::revents);
        let is_told = |flags: Option<PollFlags>| flags.is_some_and(|flags| !flags.is_empty());
        Ok(PollResult {
            wakeups: is_told(told.next()),
            connections: self
                .admitted
                .iter()
                .map(|one| one.id)
                .zip(told.by_ref())
                .filter(|(_, flags)| !flags.is_empty())
                .collect(),
            listener: is_told(told.next()),
        })
    }

    fn bring_answers(&mut self) {
        for (id, response) in self.collector.take_answers() {
            let Some(position) = self.position(id) else {
                continue;
            };
            if let Some(one) = self.admitted.get_mut(position) {
                one.connection.answer(response, &self.config);
            }
            self.advance(position);
        }
        self.limit_unread();
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.admitted.iter().position(|one| one.id == id)
    }

    fn react(&mut self, position: usize, flags: PollFlags) {
        let has_gone = flags.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL);
        let is_waiting = self
            .admitted
            .get(position)
            .is_some_and(|one| !one.connection.wants_read() && !one.connection.wants_write());
        if has_gone && is_waiting {
            // Nobody is there for the answer that is being looked up.
            drop(self.remove(position));
        } else {
            self.advance(position);
        }
    }

    fn advance(&mut self, position: usize) {
        if let Some(one) = self.admitted.get_mut(position) {
            let next = one.connection.advance(&self.config);
            self.follow(position, &next);
        }
    }

    fn follow(&mut self, position: usize, next: &Action) {
        match next {
            Action::Wait => {}
            Action::Collect(ask) => {
                if let Some(one) = self.admitted.get(position) {
                    self.collector.ask(one.id, *ask);
                }
            }
            Action::Close => drop(self.remove(position)),
        }
    }

    fn remove(&mut self, position: usize) -> Option<Slot> {
        if position >= self.admitted.len() {
            return None;
        }
        let one = self.admitted.remove(position);
        self.collector.cancel(one.id);
        Some(one)
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for position in (0..self.admitted.len()).rev() {
            let Some(one) = self.admitted.get_mut(position) else {
                continue;
            };
            if one.connection.deadline <= now {
                self.collector.cancel(one.id);
                let next = one.connection.expire(&self.config);
                self.follow(position, &next);
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..BURST {
            if self.is_full() && self.someone_waits() {
                self.make_room();
            }
            match self.listener.accept(self.config.limits.response_timeout) {
                Ok((socket, origin)) => {
                    self.is_failing = false;
                    self.admit(socket, origin);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    // Out of file descriptors, say, which is told even where nobody waits.
                    if !self.someone_waits() {
                        return;
                    }
                    if self.reserve.take().is_some() || self.make_room() {
                        continue;
                    }
                    if !mem::replace(&mut self.is_failing, true) {
                        warn!(%error, "the metrics server cannot accept connections; it goes on trying");
                    }
                    self.resting_until = Instant::now().checked_add(REST);
                    return;
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.admitted.len() >= self.config.limits.max_connections
    }

    /// Whether there is a connection to accept.
    fn someone_waits(&self) -> bool {
        let mut polled = [PollFd::new(&self.listener, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|told| told > 0)
    }

    fn admit(&mut self, socket: Socket, origin: PeerNetwork) {
        self.config.credentials.renew();
        let stream = match self.config.credentials.transport.open(socket) {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "a metrics connection cannot be used");
                return;
            }
        };
        let connection = HttpConnection::new(stream, &self.config);
        if self.is_full() {
            debug!("a metrics connection is refused");
            connection.give_way(&self.config);
            return;
        }
        let position = self.admitted.len();
        self.admitted.push(Slot {
            id: self.next_id,
            origin,
            connection,
        });
        self.next_id = self.next_id.wrapping_add(1);
        // Most requests are there by now.
        self.advance(position);
    }

    /// Ends the connection that needs its place least, if there is one that can be ended.
    fn make_room(&mut self) -> bool {
        let now = Instant::now();
        loop {
            let Some(position) = self.least_needed(now) else {
                return false;
            };
            let Some(one) = self.admitted.get_mut(position) else {
                return false;
            };
            // Its request may have come meanwhile, or its peer have gone.
            let (id, before) = (one.id, one.connection.standing(now));
            self.advance(position);
            let Some(one) = self.admitted.get(position).filter(|one| one.id == id) else {
                return true;
            };
            if one.connection.standing(now) != before {
                continue;
            }
            if let Some(one) = self.remove(position) {
                debug!(standing = ?before, "a metrics connection gives way to another");
                one.connection.give_way(&self.config);
            }
            return true;
        }
    }

    /// Of those with the lowest standing one of the origin that has the most of them, and of these
    /// the one of which nothing has come for longest: nobody can drive out others with connections of
    /// his own.
    fn least_needed(&self, now: Instant) -> Option<usize> {
        let standing = |one: &Slot| one.connection.standing(now);
        let lowest = self.admitted.iter().map(standing).min()?;
        let candidates = || self.admitted.iter().filter(|one| standing(one) == lowest);
        let crowd = |origin| candidates().filter(|one| one.origin == origin).count();
        let chosen = candidates().max_by(|one, other| {
            let idle = other
                .connection
                .idle_since()
                .cmp(&one.connection.idle_since());
            crowd(one.origin).cmp(&crowd(other.origin)).then(idle)
        })?;
        let can_end = match lowest {
            EvictionRank::Draining | EvictionRank::NoRequest | EvictionRank::Stalled => true,
            // One that asks again and again, and never reads, would have all of them.
            EvictionRank::Sending => {
                crowd(chosen.origin) > (self.config.limits.max_connections / 2).max(1)
            }
            EvictionRank::Collecting => false,
        };
        can_end.then(|| self.position(chosen.id)).flatten()
    }

    /// Ends those that have been reading for longest, as long as the answers that are kept for readers
    /// take too much memory.
    fn limit_unread(&mut self) {
        loop {
            let mut bodies: Vec<_> = self
                .admitted
                .iter()
                .filter_map(|one| one.connection.body())
                .collect();
            bodies.sort_by_key(|body| Arc::as_ptr(body));
            bodies.dedup_by_key(|body| Arc::as_ptr(body));
            let sizes = bodies.iter().map(|body| body.len());
            let largest = sizes.clone().max().unwrap_or_default();
            let all = sizes.fold(0, usize::saturating_add);
            if all.saturating_sub(largest) <= MOST_UNREAD {
                return;
            }
            let reading = self.admitted.iter().enumerate();
            let longest = reading
                .filter(|(_, one)| one.connection.body().is_some())
                .min_by_key(|(_, one)| one.connection.deadline)
                .map(|(position, _)| position);
            let Some(one) = longest.and_then(|position| self.remove(position)) else {
                return;
            };
            debug!("a metrics connection that reads slowly is ended");
            one.connection.give_way(&self.config);
        }
    }
}

/// Whether it is about that one connection only.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted | TimedOut
    )
}

fn timespec(duration: Duration) -> Timespec {
    // Rounded up, so that a deadline has passed when the time is over.
    let duration = duration.saturating_add(Duration::from_micros(1));
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
