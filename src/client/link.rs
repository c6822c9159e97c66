//! [`Link`]: decides when to connect.

use std::time::{Duration, Instant};

use super::{backoff::Backoff, connection::ConnectionError};

/// A connection that lasted this long makes the next backoff begin anew. One that breaks at once does not: the
/// broker may hang up on each connection.
const LASTING: Duration = Duration::from_secs(10);

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
    Lost,
    /// Nothing but time has passed.
    Tick,
    Stop,
}

/// Decides when to connect, from the events of the connection and the time.
#[derive(Debug)]
pub(super) struct Link {
    phase: Phase,
    since: Instant,
    backoff: Backoff,
    pub(super) last_error: Option<ConnectionError>,
    pub(super) connects: u64,
    pub(super) failures: u64,
    pub(super) sessions_lost: u64,
}

impl Link {
    pub(super) fn new(backoff: Backoff, now: Instant) -> Self {
        Self {
            // The first attempt is due at once.
            phase: Phase::Waiting(now),
            since: now,
            backoff,
            last_error: None,
            connects: 0,
            failures: 0,
            sessions_lost: 0,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes an event in; returns true if an attempt to connect is to be made now.
    pub(super) fn handle(&mut self, event: LinkEvent, now: Instant) -> bool {
        match (self.phase, event) {
            (Phase::Stopped, _) => {}
            (_, LinkEvent::Stop) => self.enter(Phase::Stopped, now),
            (Phase::Connecting, LinkEvent::Connected { session_present }) => {
                // The first connection of this run may be the first of this client at all.
                if !session_present && self.connects > 0 {
                    self.sessions_lost = self.sessions_lost.saturating_add(1);
                }
                self.connects = self.connects.saturating_add(1);
                self.enter(Phase::Connected, now);
            }
            (Phase::Connecting, LinkEvent::Failed(error)) => {
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(error);
                self.wait(now);
            }
            (Phase::Connected, LinkEvent::Lost) => {
                if now.saturating_duration_since(self.since) >= LASTING {
                    self.backoff.reset();
                }
                self.last_error = Some(ConnectionError::lost());
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link whose clock a test moves.
    struct Scene {
        link: Link,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let now = Instant::now();
            let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), 7);
            let link = Link::new(backoff, now);
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

    #[test]
    fn first_attempt_is_made_at_once_and_only_one() {
        let mut scene = Scene::new();
        assert!(scene.handle(LinkEvent::Tick));
        for _ in 0..100 {
            scene.now += Duration::from_secs(60);
            assert!(!scene.handle(LinkEvent::Tick));
            assert!(!scene.handle(LinkEvent::Lost));
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
                scene.handle(LinkEvent::Lost);
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
            scene.handle(LinkEvent::Lost);
        }
    }

    #[test]
    fn stopped_link_never_connects_again() {
        let mut scene = Scene::new();
        scene.connect(true);
        scene.handle(LinkEvent::Stop);
        scene.now += Duration::from_secs(600);
        for event in [LinkEvent::Lost, LinkEvent::Tick, failure()] {
            assert!(!scene.handle(event));
        }
        assert_eq!(scene.link.phase(), Phase::Stopped);
    }
}
