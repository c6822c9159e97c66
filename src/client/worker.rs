//! [`Worker`]: the thread of a client. It connects, follows deliveries and subscribes.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime},
};

use paho_mqtt as mqtt;

use super::{
    broken_write::{OnBrokenWrite, never_destroy},
    connection::ConnectionError,
    link::{Link, LinkEvent, Phase},
    log,
    report::ConnectionState,
    shared::{ClientShared, DISCONNECT_LIMIT},
    signal::waker_to_look,
};
use crate::error::ErrorKind;

/// Interval at which the connection is checked although no callback has reported its end.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The thread of a client.
pub(super) struct Worker {
    shared: Arc<ClientShared>,
    paho: mqtt::AsyncClient,
    options: mqtt::ConnectOptions,
    link: Link,
    reaction: OnBrokenWrite,
    attempt_limit: Duration,
    waker: Waker,
    /// The attempt to connect that has not ended.
    attempt: Option<mqtt::ConnectToken>,
    /// The subscriptions that the broker has not acknowledged.
    subscribing: Vec<(String, mqtt::Token)>,
    last_check: Instant,
    has_ignored_broken_write: bool,
    has_reported_failures: bool,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<ClientShared>,
        paho: mqtt::AsyncClient,
        options: mqtt::ConnectOptions,
        link: Link,
        reaction: OnBrokenWrite,
        attempt_limit: Duration,
    ) -> Self {
        Self {
            waker: waker_to_look(&shared.signal),
            shared,
            paho,
            options,
            link,
            reaction,
            attempt_limit,
            attempt: None,
            subscribing: Vec::new(),
            last_check: Instant::now(),
            has_ignored_broken_write: false,
            has_reported_failures: false,
        }
    }

    pub(super) fn run(mut self) {
        let mut must_look = true;
        loop {
            let now = Instant::now();
            let until = if must_look { now } else { self.wake_at(now) };
            let pending = self.shared.signal.wait(until);
            self.shared.deliveries.complete(&pending.completed);
            self.report_failures();
            if self.shared.deliveries.has_broken_write() && !self.react_to_broken_write() {
                self.end(ErrorKind::Damaged);
                return;
            }
            if pending.stops {
                self.end(ErrorKind::NotOpen);
                return;
            }
            must_look = self.look(must_look || pending.is_due);
        }
    }

    /// Returns the time at which the connection needs another look.
    fn wake_at(&self, now: Instant) -> Instant {
        let next_check = self.last_check.checked_add(CHECK_INTERVAL).unwrap_or(now);
        match self.link.phase() {
            Phase::Waiting(until) => until,
            Phase::Connecting | Phase::Connected | Phase::Stopped => next_check,
        }
    }

    /// Looks at the connection, and connects if it is time. Returns true if that is to be done again at once.
    fn look(&mut self, is_due: bool) -> bool {
        let now = Instant::now();
        let event = match self.link.phase() {
            Phase::Connecting => self.poll_attempt(),
            Phase::Connected if is_due || self.last_check.elapsed() >= CHECK_INTERVAL => {
                self.last_check = now;
                let is_connected = self.paho.is_connected();
                (!is_connected).then_some(LinkEvent::Lost)
            }
            _ => None,
        };
        let has_event = event.is_some();
        let connects = self.handle(event.unwrap_or(LinkEvent::Tick), now);
        if connects {
            self.attempt = Some(self.paho.connect(self.options.clone()));
        }
        if self.link.phase() == Phase::Connected {
            self.subscribe();
        }
        has_event || connects
    }

    /// Returns the end of the attempt to connect.
    fn poll_attempt(&mut self) -> Option<LinkEvent> {
        let token = self.attempt.as_mut()?;
        let mut context = Context::from_waker(&self.waker);
        let Poll::Ready(result) = Pin::new(token).poll(&mut context) else {
            return None;
        };
        self.attempt = None;
        Some(match result {
            Ok(response) => LinkEvent::Connected {
                session_present: response
                    .connect_response()
                    .is_some_and(|response| response.session_present),
            },
            Err(error) => LinkEvent::Failed(ConnectionError::from(&error)),
        })
    }

    /// Passes an event to the link, and shows what has changed.
    fn handle(&mut self, event: LinkEvent, now: Instant) -> bool {
        let (before, sessions_lost) = (self.link.phase(), self.link.sessions_lost);
        let has_session = matches!(
            event,
            LinkEvent::Connected {
                session_present: true
            }
        );
        let connects = self.link.handle(event, now);
        let phase = self.link.phase();
        if phase == before {
            return connects;
        }
        let client_id = &self.shared.client_id;
        let retry_seconds = match phase {
            Phase::Waiting(until) => until.saturating_duration_since(now).as_secs_f64(),
            _ => 0.0,
        };
        match (before, phase) {
            (_, Phase::Connected) => {
                self.shared.gauges.count_connection();
                log::connected(client_id, has_session);
                self.subscribing.clear();
                self.shared.lock().subscriptions.connected(has_session);
                if self.link.sessions_lost > sessions_lost {
                    log::session_lost(client_id);
                }
            }
            (Phase::Connecting, Phase::Waiting(_)) => {
                self.shared.gauges.count_failed_attempt();
                if let Some(error) = &self.link.last_error {
                    log::connect_failed(client_id, error, retry_seconds);
                }
            }
            (Phase::Connected, Phase::Waiting(_)) => {
                log::connection_lost(client_id, retry_seconds);
            }
            _ => {}
        }
        self.show();
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
        for (filter, qos) in unsent {
            let token = self.paho.subscribe(filter.as_str(), qos);
            self.subscribing.push((filter, token));
        }
        let mut context = Context::from_waker(&self.waker);
        let shared = &self.shared;
        self.subscribing.retain_mut(|(filter, token)| {
            let Poll::Ready(result) = Pin::new(token).poll(&mut context) else {
                return true;
            };
            match result {
                Ok(_) => shared.lock().subscriptions.acknowledged(filter),
                Err(error) => log::not_subscribed(&shared.client_id, filter, &error),
            }
            false
        });
    }

    /// Logs the first delivery that failed.
    fn report_failures(&mut self) {
        let failed = self.shared.deliveries.counts().failed;
        if failed > 0 && !self.has_reported_failures {
            self.has_reported_failures = true;
            log::delivery_failed(&self.shared.client_id, failed);
        }
    }

    /// Returns true if the client goes on.
    fn react_to_broken_write(&mut self) -> bool {
        if self.has_ignored_broken_write {
            return true;
        }
        never_destroy(&self.paho);
        let goes_on = self
            .reaction
            .react(&self.shared.client_id, &self.shared.health);
        self.has_ignored_broken_write = goes_on;
        goes_on
    }

    /// Disconnects, and ends all that waits for the client.
    fn end(&mut self, reason: ErrorKind) {
        self.shared.lock().closed = Some(reason);
        if let Some(attempt) = self.attempt.take()
            && let Err(mqtt::Error::Timeout) = attempt.wait_for(self.attempt_limit)
        {
            never_destroy(&self.paho);
        }
        // The token of a connect owns a clone of the client until Paho's callback has returned. If that were the last
        // one, the callback would destroy the client under the lock that this takes, and hang. So this waits for it.
        let is_connected = self.paho.is_connected();
        if is_connected && reason == ErrorKind::NotOpen {
            let disconnected = self.paho.disconnect(None).wait_for(DISCONNECT_LIMIT);
            if let Err(error) = disconnected {
                log::not_disconnected(&self.shared.client_id, &error.to_string());
            }
        }
        if reason == ErrorKind::Damaged {
            self.link.last_error = Some(ConnectionError::stopped(
                "a write to the broker was broken off",
            ));
        }
        self.link.handle(LinkEvent::Stop, Instant::now());
        self.show();
        self.shared.deliveries.give_up();
        self.shared.ended.set();
    }
}
