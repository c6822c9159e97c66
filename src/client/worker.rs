//! [`Worker`]: the background work of a client. It connects, follows deliveries and subscribes.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant, SystemTime},
};

use paho_mqtt as mqtt;

use super::{
    attempt::Attempt,
    broken_write::{DamageGuard, never_destroy},
    callbacks::{Receiver, in_callback},
    connection::ConnectionError,
    link::{CHECK_INTERVAL, Link, LinkEvent, Phase},
    log,
    options::Target,
    permit::{ConnectPermit, TIME_AFTER_ATTEMPT},
    report::ConnectionState,
    shared::{ClientShared, Closed, DISCONNECT_LIMIT},
    signal::{Flag, waker_to_look},
    subscriptions::Wanted,
    token::poll,
};
use crate::{
    clock::since_boot,
    net::deadline_after,
    persistence::catch_panic,
    threads::{Job, NextTurn, Pools},
};

/// Time in which the store has to take what it lacks, if nothing else will close it.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The background work of a client, in turns that await neither the broker nor a name server.
///
/// A turn may wait for Paho's global lock, for the log of the program, and for the reaction to a broken write, which should
/// end the program.
pub(super) struct Worker {
    shared: Arc<ClientShared>,
    paho: mqtt::AsyncClient,
    targets: Vec<Target>,
    link: Link,
    damage: Arc<DamageGuard>,
    receiver: Arc<Receiver>,
    waker: Waker,
    /// The permits of attempts that have ended, and the times until which they stay in use.
    used_permits: Vec<(Arc<ConnectPermit>, Instant)>,
    /// The attempt to connect that has not ended.
    attempt: Option<Attempt>,
    /// The requests to subscribe and unsubscribe that the broker has not acknowledged.
    subscribing: Vec<(String, Wanted, mqtt::Token)>,
    last_check: Instant,
    /// The next turn has to look at the connection.
    must_look: bool,
    /// A connection was lost while messages of an earlier run were on their way, whose writes have no token.
    may_be_damaged: bool,
    has_ignored_broken_write: bool,
    /// Why the client ends, once it does.
    ends: Option<Closed>,
    /// The end waits no longer for an attempt to connect than until this time.
    ends_by: Option<Instant>,
    disconnect: Disconnect,
}

/// The end of the connection.
enum Disconnect {
    NotBegun,
    /// The request, and the time until which it is waited for.
    Pending(mqtt::Token, Instant),
    Over,
}

/// A client that has ended, and the flag that is set once it is dropped.
struct Ended {
    _worker: Worker,
    _flag: SetOnDrop,
}

struct SetOnDrop(Arc<Flag>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Runs the turns of a client until it has ended.
struct ClientJob(Mutex<Option<Worker>>);

impl Job for ClientJob {
    fn turn(&self) -> NextTurn {
        // Only the thread of the present turn locks it.
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        in_callback(|| {
            let next = slot.as_mut().and_then(Worker::turn);
            if let Some(next) = next {
                let left = next.saturating_duration_since(Instant::now());
                return NextTurn::At(since_boot().saturating_add(left));
            }
            if let Some(worker) = slot.take() {
                worker.destroy();
            }
            NextTurn::Never
        })
    }
}

impl Worker {
    pub(super) fn new(
        shared: Arc<ClientShared>,
        paho: mqtt::AsyncClient,
        targets: Vec<Target>,
        link: Link,
        damage: Arc<DamageGuard>,
        receiver: Arc<Receiver>,
    ) -> Self {
        Self {
            waker: waker_to_look(&shared.signal),
            shared,
            paho,
            targets,
            link,
            damage,
            receiver,
            used_permits: Vec::new(),
            attempt: None,
            subscribing: Vec::new(),
            last_check: Instant::now(),
            must_look: true,
            may_be_damaged: false,
            has_ignored_broken_write: false,
            ends: None,
            ends_by: None,
            disconnect: Disconnect::NotBegun,
        }
    }

    /// Adds the worker to those of this process.
    pub(super) fn start(self) -> io::Result<()> {
        let signal = Arc::clone(&self.shared.signal);
        let job = Arc::new(ClientJob(Mutex::new(Some(self))));
        let job = Pools::of_this_process().clients.add(job)?;
        signal.set_worker(job);
        Ok(())
    }

    /// Drops the client of Paho, which may wait for the store and for Paho's threads, so on a thread of its own.
    fn destroy(self) {
        let flag = SetOnDrop(Arc::clone(&self.shared.ended));
        let ended = Ended {
            _worker: self,
            _flag: flag,
        };
        let thread = thread::Builder::new().name("mqtt-client-end".to_owned());
        // If the system has no thread left, it is dropped here.
        let drop_worker = move || in_callback(|| catch_panic(|| drop(ended)));
        catch_panic(|| drop(thread.spawn(drop_worker)));
    }

    /// Does what is due. Returns the time of the next turn, if nothing happens before; `None` once the client has ended.
    fn turn(&mut self) -> Option<Instant> {
        let reason = match self.ends {
            Some(reason) => reason,
            None => match catch_unwind(AssertUnwindSafe(|| self.work())) {
                Ok(Ok(next)) => return Some(next),
                Ok(Err(reason)) => reason,
                Err(_) => Closed::Panicked,
            },
        };
        self.shared.lock().closed = Some(reason);
        self.ends = Some(reason);
        // A panic, in code of the program such as its log, ends the wait.
        let next = catch_unwind(AssertUnwindSafe(|| self.end_connection()));
        if let Ok(Some(next)) = next {
            return Some(next);
        }
        catch_panic(|| self.end(reason));
        self.shared.deliveries.give_up();
        self.link.handle(LinkEvent::Stop, Instant::now());
        self.show();
        None
    }

    /// Connects, and connects again, until the client ends, whose reason is the error.
    fn work(&mut self) -> Result<Instant, Closed> {
        let pending = self.shared.signal.take();
        self.shared.deliveries.complete(&pending.completed);
        self.report_failure();
        let is_damaged = pending.is_damaged || self.shared.deliveries.has_broken_write();
        if is_damaged && !self.react_to_broken_write() {
            return Err(Closed::Damaged);
        }
        if pending.stops {
            return Err(Closed::Stopped);
        }
        self.must_look = self.look(self.must_look || pending.is_due);
        let now = Instant::now();
        if self.must_look {
            return Ok(now);
        }
        let next = self.link.wake_at(now);
        // In order, so the first is the earliest.
        let permit_ends = self.used_permits.first().map(|(_, until)| *until);
        Ok(permit_ends.map_or(next, |until| next.min(until)))
    }

    /// Looks at the connection, and connects if it is time. Returns true if that is to be done again at once.
    fn look(&mut self, is_due: bool) -> bool {
        let now = Instant::now();
        self.used_permits.retain(|(_, until)| *until > now);
        let event = match self.link.phase() {
            Phase::Connecting => self.poll_attempt(),
            Phase::Connected if is_due || self.last_check.elapsed() >= CHECK_INTERVAL => {
                self.last_check = now;
                let is_connected = self.paho.is_connected();
                (!is_connected).then(|| {
                    let reason = self.shared.signal.take_disconnected();
                    let reason = reason.unwrap_or_else(ConnectionError::lost);
                    LinkEvent::Lost(reason.at(self.address()))
                })
            }
            _ => None,
        };
        let has_event = event.is_some();
        let connects = self.handle(event.unwrap_or(LinkEvent::Tick), now);
        if connects && let Err(error) = self.begin_attempt() {
            let error = error.at(self.address());
            self.handle(LinkEvent::Failed(error), Instant::now());
        }
        if self.link.phase() == Phase::Connected {
            self.subscribe();
        }
        has_event || connects
    }

    fn target(&self) -> Option<&Target> {
        self.targets.get(self.link.address())
    }

    /// Returns the address of the present attempt or connection, or else that of the next one.
    fn address(&self) -> &str {
        self.target().map_or("", |target| target.address.as_str())
    }

    fn begin_attempt(&mut self) -> Result<(), ConnectionError> {
        let attempt = self
            .target()
            .map(|target| Attempt::begin(target, &self.waker));
        self.attempt = attempt.transpose()?;
        Ok(())
    }

    /// Takes the next steps of the attempt to connect, and returns its end.
    fn poll_attempt(&mut self) -> Option<LinkEvent> {
        let mut attempt = self.attempt.take()?;
        let target = self.targets.get(self.link.address())?;
        let connect = |options| {
            // A reason that came with an attempt is not that of this connection.
            self.shared.signal.take_disconnected();
            self.paho.connect(options)
        };
        let Poll::Ready(result) = attempt.poll(target, &self.waker, connect) else {
            self.attempt = Some(attempt);
            return None;
        };
        if let Some(permit) = attempt.into_permit() {
            let until = deadline_after(TIME_AFTER_ATTEMPT);
            self.used_permits.push((permit, until));
        }
        Some(match result {
            Ok(session_present) => LinkEvent::Connected { session_present },
            Err(error) => LinkEvent::Failed(error.at(self.address())),
        })
    }

    /// Passes an event to the link, and shows what has changed.
    fn handle(&mut self, event: LinkEvent, now: Instant) -> bool {
        let (before, sessions_lost) = (self.link.phase(), self.link.sessions_lost);
        let was_overdue = self.link.is_overdue();
        let has_session = matches!(
            event,
            LinkEvent::Connected {
                session_present: true
            }
        );
        let connects = self.link.handle(event, now);
        let phase = self.link.phase();
        let client_id = &self.shared.client_id;
        if phase == before {
            if self.link.is_overdue() && !was_overdue {
                self.show();
                if let Some(error) = &self.link.last_error {
                    log::attempt_overdue(client_id, error);
                }
            }
            return connects;
        }
        // Before the log, which is code of the program.
        self.show();
        let retry_seconds = match phase {
            Phase::Waiting(until) => until.saturating_duration_since(now).as_secs_f64(),
            _ => 0.0,
        };
        match (before, phase) {
            (_, Phase::Connected) => {
                self.shared.gauges.count_connection();
                self.subscribing.clear();
                self.shared.lock().subscriptions.connected(has_session);
                log::connected(client_id, has_session);
                if self.link.sessions_lost > sessions_lost {
                    log::session_lost(client_id);
                }
            }
            (Phase::Connecting, Phase::Waiting(_)) => {
                self.shared.gauges.count_failed_attempt();
                if let Some(error) = &self.link.last_error {
                    // The next address is tried without a wait.
                    if retry_seconds > 0.0 {
                        log::connect_failed(client_id, error, retry_seconds);
                    } else {
                        log::address_failed(client_id, error, self.address());
                    }
                }
            }
            (Phase::Connected, Phase::Waiting(_)) => {
                self.may_be_damaged |= self.shared.waits_for_earlier_run();
                if let Some(error) = &self.link.last_error {
                    log::connection_lost(client_id, error, retry_seconds);
                }
            }
            _ => {}
        }
        connects
    }

    /// Shows the connection to the program and in the metrics.
    fn show(&self) {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let (connection, next_attempt) = match self.link.phase() {
            Phase::Connecting => (ConnectionState::Connecting, None),
            Phase::Connected => (ConnectionState::Connected, None),
            Phase::Stopped => (ConnectionState::Stopped, None),
            Phase::Waiting(until) => (
                ConnectionState::Waiting,
                clock.checked_add(until.saturating_duration_since(now)),
            ),
        };
        self.shared.gauges.show(connection, clock, next_attempt);
        let shown = &mut self.shared.lock().shown;
        shown.connection = connection;
        shown.since = clock;
        shown.next_attempt = next_attempt;
        shown.last_error.clone_from(&self.link.last_error);
        shown.connects = self.link.connects;
        shown.failed_attempts = self.link.failures;
        shown.sessions_lost = self.link.sessions_lost;
    }

    /// Subscribes to what the session of the broker lacks, and reads what it has answered.
    fn subscribe(&mut self) {
        let unsent = self.shared.lock().subscriptions.take_unsent();
        for (filter, wanted) in unsent {
            let token = match wanted {
                Wanted::Subscribed(qos) => self.paho.subscribe(filter.as_str(), qos),
                Wanted::Unsubscribed => self.paho.unsubscribe(filter.as_str()),
            };
            self.subscribing.push((filter, wanted, token));
        }
        let shared = &self.shared;
        self.subscribing.retain_mut(|(filter, wanted, token)| {
            let Poll::Ready(result) = poll(token, &self.waker) else {
                return true;
            };
            match result {
                Ok(_) => shared.lock().subscriptions.acknowledged(filter, *wanted),
                Err(error) => log::not_subscribed(&shared.client_id, filter, &error),
            }
            false
        });
    }

    /// Logs the first delivery that failed.
    fn report_failure(&self) {
        if let Some(failure) = self.shared.deliveries.take_first_failure() {
            log::delivery_failed(&self.shared.client_id, &failure.reason);
        }
    }

    /// Returns true if the client goes on.
    fn react_to_broken_write(&mut self) -> bool {
        if self.has_ignored_broken_write {
            return true;
        }
        never_destroy(&self.paho);
        let goes_on = self.damage.react(&self.shared.client_id);
        self.has_ignored_broken_write = goes_on;
        goes_on
    }

    /// Ends the connection and the receiver. Returns the time of the next turn while that has to be waited for.
    fn end_connection(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(next) = self.end_attempt(now).or_else(|| self.disconnect(now)) {
            return Some(next);
        }
        // Paho's client may not be destroyed while a callback runs.
        (!self.receiver.close()).then(|| deadline_after(CHECK_INTERVAL))
    }

    /// Waits for an attempt to connect, which Paho cannot break off.
    fn end_attempt(&mut self, now: Instant) -> Option<Instant> {
        if let Some(Attempt::Connecting(token, _)) = &mut self.attempt {
            let limit = self.link.attempt_limit();
            let until = *self.ends_by.get_or_insert_with(|| deadline_after(limit));
            if poll(token, &self.waker).is_pending() {
                if now < until {
                    return Some(until);
                }
                never_destroy(&self.paho);
            }
        }
        self.attempt = None;
        None
    }

    /// Disconnects, once.
    fn disconnect(&mut self, now: Instant) -> Option<Instant> {
        // The token of a connect owns a clone of the client until Paho's callback has returned, and a callback for a
        // message uses it without one. If that were the last one, the callback would destroy the client under the lock
        // that this takes, and hang. So this waits for it.
        if matches!(self.disconnect, Disconnect::NotBegun) {
            self.disconnect = if self.paho.is_connected() {
                let until = deadline_after(DISCONNECT_LIMIT);
                Disconnect::Pending(self.paho.disconnect(None), until)
            } else {
                Disconnect::Over
            };
        }
        if let Disconnect::Pending(token, until) = &mut self.disconnect {
            let error = match poll(token, &self.waker) {
                Poll::Pending if now < *until => return Some(*until),
                Poll::Pending => Some(mqtt::Error::Timeout),
                Poll::Ready(result) => result.err(),
            };
            self.disconnect = Disconnect::Over;
            if let Some(error) = error {
                log::not_disconnected(&self.shared.client_id, &error.to_string());
            }
        }
        None
    }

    /// Ends what is left of a client whose connection has ended.
    fn end(&mut self, reason: Closed) {
        if self.may_be_damaged && self.shared.waits_for_earlier_run() {
            // Its memory may have been freed already.
            never_destroy(&self.paho);
            // So the records are never closed. An error is that of the store, which reports it.
            drop(self.shared.health.flush(FLUSH_LIMIT));
        }
        match reason {
            Closed::Stopped => {}
            Closed::Damaged => {
                self.link.last_error = Some(ConnectionError::stopped(
                    "a write to the broker was broken off",
                ));
            }
            Closed::Panicked => {
                self.link.last_error = Some(ConnectionError::stopped(
                    "the worker of the client panicked",
                ));
                log::panicked(&self.shared.client_id);
            }
        }
    }
}
