//! [`Link`]: decides when to connect.

use std::time::{Duration, Instant};

use super::{backoff::Backoff, connection::ConnectionError};

/// A connection that lasted this long makes the next backoff begin anew. One that breaks at once does not: the
/// broker may hang up on each connection.
const LASTING: Duration = Duration::from_secs(10);

/// Interval at which the connection is checked although no callback has reported its end.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The state of the connection to the broker.
///
/// An attempt is never begun before the last one has ended: Paho would complete the token of a connect that it was
/// asked for twice a second time, after it was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Connected,
    /// The next attempt is at this time.
    Waiting(Instant),
    Stopped,
}

/// An event of the connection.
#[derive(Debug)]
pub(super) enum LinkEvent {
    Connected {
        session_present: bool,
    },
    Failed(ConnectionError),
    Lost(ConnectionError),
    /// Nothing but time has passed.
    Tick,
    Stop,
}

/// Decides when to connect, and to which address, from the events of the connection and the time.
///
/// Paho gets one address per attempt. With a list it would connect to the next address by itself once the connection
/// to one of them is lost, without a callback.
#[derive(Debug)]
pub(super) struct Link {
    phase: Phase,
    since: Instant,
    backoff: Backoff,
    /// Number of addresses.
    addresses: usize,
    address: usize,
    /// Time after which an attempt to connect has surely ended, unless Paho waits for a name server.
    attempt_limit: Duration,
    is_overdue: bool,
    /// The broker has to have a session of this client.
    has_session: bool,
    pub(super) last_error: Option<ConnectionError>,
    pub(super) connects: u64,
    pub(super) failures: u64,
    pub(super) sessions_lost: u64,
}

impl Link {
    /// Messages in flight that an earlier run has left prove that the broker had a session.
    pub(super) fn new(
        backoff: Backoff,
        addresses: usize,
        attempt_limit: Duration,
        has_session: bool,
        now: Instant,
    ) -> Self {
        Self {
            // The first attempt is due at once.
            phase: Phase::Waiting(now),
            since: now,
            backoff,
            addresses,
            address: 0,
            attempt_limit,
            is_overdue: false,
            has_session,
            last_error: None,
            connects: 0,
            failures: 0,
            sessions_lost: 0,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the index of the address for the present attempt.
    pub(super) fn address(&self) -> usize {
        self.address
    }

    pub(super) fn attempt_limit(&self) -> Duration {
        self.attempt_limit
    }

    /// Returns true if the present attempt should have ended. It still cannot be replaced by another.
    pub(super) fn is_overdue(&self) -> bool {
        self.is_overdue
    }

    /// Returns the time at which the connection needs another look, if nothing happens before.
    pub(super) fn wake_at(&self, now: Instant) -> Instant {
        match self.phase {
            Phase::Waiting(until) => until,
            Phase::Connecting | Phase::Connected | Phase::Stopped => {
                now.checked_add(CHECK_INTERVAL).unwrap_or(now)
            }
        }
    }

    /// Takes an event in; returns true if an attempt to connect is to be made now.
    pub(super) fn handle(&mut self, event: LinkEvent, now: Instant) -> bool {
        match (self.phase, event) {
            (Phase::Stopped, _) => {}
            (_, LinkEvent::Stop) => self.enter(Phase::Stopped, now),
            (Phase::Connecting, LinkEvent::Connected { session_present }) => {
                if !session_present && self.has_session {
                    self.sessions_lost = self.sessions_lost.saturating_add(1);
                }
                self.has_session = true;
                self.connects = self.connects.saturating_add(1);
                self.enter(Phase::Connected, now);
            }
            (Phase::Connecting, LinkEvent::Failed(error)) => {
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(error);
                self.address = self.address.saturating_add(1);
                if self.address < self.addresses {
                    self.enter(Phase::Waiting(now), now);
                } else {
                    self.address = 0;
                    self.wait(now);
                }
            }
            (Phase::Connecting, LinkEvent::Tick) => {
                let took = now.saturating_duration_since(self.since);
                if took >= self.attempt_limit && !self.is_overdue {
                    self.is_overdue = true;
                    self.last_error = Some(ConnectionError::overdue(took));
                }
            }
            (Phase::Connected, LinkEvent::Lost(error)) => {
                if now.saturating_duration_since(self.since) >= LASTING {
                    self.backoff.reset();
                    self.address = 0;
                } else {
                    let next = self.address.saturating_add(1);
                    self.address = if next < self.addresses { next } else { 0 };
                }
                self.last_error = Some(error);
                self.wait(now);
            }
            (Phase::Waiting(until), _) if until <= now => {
                self.enter(Phase::Connecting, now);
                return true;
            }
            _ => {}
        }
        false
    }

    fn wait(&mut self, now: Instant) {
        let until = now.checked_add(self.backoff.next()).unwrap_or(now);
        self.enter(Phase::Waiting(until), now);
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.since = now;
        self.is_overdue = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// A link whose clock a test moves.
    struct Scene {
        link: Link,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let now = Instant::now();
            let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), 7);
            let link = Link::new(backoff, 1, LIMIT, false, now);
            Self { link, now }
        }

        fn handle(&mut self, event: LinkEvent) -> bool {
            self.link.handle(event, self.now)
        }

        /// Returns the time until the next attempt, and lets it pass.
        fn pass_wait(&mut self) -> Duration {
            let Phase::Waiting(until) = self.link.phase() else {
                panic!("{:?}", self.link.phase());
            };
            let wait = until - self.now;
            if let Some(before) = wait.checked_sub(Duration::from_nanos(1)) {
                assert!(!self.link.handle(LinkEvent::Tick, self.now + before));
            }
            self.now = until;
            wait
        }

        fn connect(&mut self, session_present: bool) {
            self.pass_wait();
            assert!(self.handle(LinkEvent::Tick));
            assert!(!self.handle(LinkEvent::Connected { session_present }));
            assert_eq!(self.link.phase(), Phase::Connected);
        }
    }

    fn failure() -> LinkEvent {
        LinkEvent::Failed(ConnectionError::lost())
    }

    fn loss() -> LinkEvent {
        LinkEvent::Lost(ConnectionError::lost())
    }

    #[test]
    fn first_attempt_is_made_at_once_and_only_one() {
        let mut scene = Scene::new();
        assert!(scene.handle(LinkEvent::Tick));
        for _ in 0..100 {
            scene.now += Duration::from_secs(60);
            assert!(!scene.handle(LinkEvent::Tick));
            assert!(!scene.handle(loss()));
        }
        assert_eq!(scene.link.phase(), Phase::Connecting);
    }

    #[test]
    fn failed_attempts_are_repeated_after_backoff() {
        let mut scene = Scene::new();
        for _ in 0..20 {
            scene.pass_wait();
            assert!(scene.handle(LinkEvent::Tick));
            assert!(!scene.handle(failure()));
        }
        assert_eq!(scene.link.failures, 20);
        assert!(scene.link.last_error.is_some());
        scene.connect(false);
        assert_eq!((scene.link.connects, scene.link.sessions_lost), (1, 0));
    }

    #[test]
    fn lasting_connection_resets_backoff() {
        for (lasted, resets) in [(LASTING, true), (Duration::ZERO, false)] {
            let mut longest = Duration::ZERO;
            for seed in 0..50 {
                let mut scene = Scene::new();
                let max = Duration::from_secs(60);
                scene.link.backoff = Backoff::new(Duration::from_secs(1), max, seed);
                for _ in 0..10 {
                    scene.pass_wait();
                    scene.handle(LinkEvent::Tick);
                    scene.handle(failure());
                }
                scene.connect(true);
                scene.now += lasted;
                scene.handle(loss());
                longest = longest.max(scene.pass_wait());
            }
            let is_short = longest <= Duration::from_secs(1);
            assert_eq!(is_short, resets, "{longest:?}");
        }
    }

    #[test]
    fn session_lost_between_connections_is_counted() {
        let mut scene = Scene::new();
        for (session_present, lost) in [(false, 0), (true, 0), (false, 1), (false, 2)] {
            scene.connect(session_present);
            assert_eq!(scene.link.sessions_lost, lost);
            scene.handle(loss());
        }
    }

    #[test]
    fn session_of_earlier_run_can_be_lost() {
        for (session_present, lost) in [(false, 1), (true, 0)] {
            let mut scene = Scene::new();
            scene.link.has_session = true;
            scene.connect(session_present);
            assert_eq!(scene.link.sessions_lost, lost);
        }
    }

    #[test]
    fn stopped_link_never_connects_again() {
        let mut scene = Scene::new();
        scene.connect(true);
        scene.handle(LinkEvent::Stop);
        scene.now += Duration::from_secs(600);
        for event in [loss(), LinkEvent::Tick, failure()] {
            assert!(!scene.handle(event));
        }
        assert_eq!(scene.link.phase(), Phase::Stopped);
    }

    #[test]
    fn each_address_is_tried_before_wait() {
        let mut scene = Scene::new();
        scene.link.addresses = 3;
        for _ in 0..3 {
            scene.pass_wait();
            for address in 0..3 {
                assert!(scene.handle(LinkEvent::Tick));
                assert_eq!(scene.link.address(), address);
                assert!(!scene.handle(failure()));
                assert_eq!(scene.link.phase() == Phase::Waiting(scene.now), address < 2);
            }
        }
        assert_eq!(scene.link.failures, 9);
    }

    #[test]
    fn broker_that_hangs_up_yields_to_next_address() {
        let mut scene = Scene::new();
        scene.link.addresses = 2;
        for address in [0, 1, 0, 1] {
            scene.connect(true);
            assert_eq!(scene.link.address(), address);
            scene.handle(loss());
        }
        scene.connect(true);
        scene.handle(loss());
        scene.connect(true);
        assert_eq!(scene.link.address(), 1);
        scene.now += LASTING;
        scene.handle(loss());
        scene.connect(true);
        assert_eq!(scene.link.address(), 0);
    }

    #[test]
    fn overdue_attempt_is_reported_once_and_never_doubled() {
        let mut scene = Scene::new();
        assert!(scene.handle(LinkEvent::Tick));
        for seconds in 0..100 {
            assert!(!scene.handle(LinkEvent::Tick));
            assert_eq!(scene.link.is_overdue(), seconds >= 10);
            assert_eq!(scene.link.phase(), Phase::Connecting);
            scene.now += Duration::from_secs(1);
        }
        let error = scene.link.last_error.clone().expect("it is shown");
        assert!(error.to_string().contains("10 s"), "{error}");
        scene.handle(failure());
        assert!(!scene.link.is_overdue());
    }

    #[test]
    fn worker_sleeps_while_it_connects() {
        let mut scene = Scene::new();
        assert_eq!(scene.link.wake_at(scene.now), scene.now);
        scene.handle(LinkEvent::Tick);
        // However long the attempt takes.
        for _ in 0..10 {
            assert_eq!(scene.link.wake_at(scene.now), scene.now + CHECK_INTERVAL);
            scene.now += Duration::from_secs(1);
        }
        scene.handle(LinkEvent::Connected {
            session_present: true,
        });
        assert_eq!(scene.link.wake_at(scene.now), scene.now + CHECK_INTERVAL);
    }
}
