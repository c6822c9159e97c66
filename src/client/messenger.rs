//! [`Client`]: publishes messages that arrive, whatever happens to broker, store and process.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use paho_mqtt as mqtt;

use super::{
    broken_write::{DamageGuard, never_destroy},
    callbacks::{Receive, Receiver, is_in_callback, set_callbacks},
    client_count::ClientCount,
    delivery::Delivery,
    gauges::Gauges,
    link::Link,
    log,
    options::Target,
    refusal::PublishError,
    report::ClientState,
    room::Room,
    shared::{ClientShared, Closed, DISCONNECT_LIMIT},
    signal::Signal,
    subscriptions::Wanted,
    worker::Worker,
};
use crate::{
    error::{Error, ErrorKind},
    persistence::{DeadLetters, Flushed, Health},
};

const ATTEMPT: &str = "publish a message";

/// A client that connects, and connects again, by itself: from [`Session::start`](super::Session::start).
///
/// Clones share it. It accepts messages from the start, with or without a broker, and each of them survives as the
/// persistence promises. Its worker connects with backoff and jitter, follows the deliveries and subscribes
/// again if the broker has lost the session.
///
/// [`publish`](Self::publish) may wait for one exchange with Redis, and for a lock that all Paho clients of the process
/// share. Paho holds it while it resolves the name of a broker, which this client does before, so that a name server
/// that does not answer delays no message. That is so unless
/// [`connect_options`](super::Session::connect_options) are set, in which a proxy may be; `publish` then waits as long as
/// the name server. Else it can be called from `async` code; [`Delivery`] is a future that needs no runtime. With some
/// 10,000 messages waiting, Paho also takes its time to find a free packet id: see
/// [`max_messages`](super::Session::max_messages).
///
/// [`stop`](Self::stop) ends it. If the last clone is dropped without that, the client disconnects, for up to 2 s, and
/// waits for no acknowledgment. What is not acknowledged stays in the store, and the next start sends it. In a callback
/// of the client it does not wait.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<ClientInner>,
}

pub(super) struct ClientInner {
    pub(super) shared: Arc<ClientShared>,
    pub(super) paho: mqtt::AsyncClient,
    dead_letters: DeadLetters,
    room: Mutex<Room>,
    has_byte_budget: bool,
    receives: bool,
    has_waited: AtomicBool,
    _count: ClientCount,
}

/// Receives the messages that arrive.
pub(super) type OnMessage = Box<dyn FnMut(&Client, mqtt::Message) + Send>;

/// The parts of a client that is about to start.
pub(super) struct Start {
    pub(super) client_id: String,
    pub(super) paho: mqtt::AsyncClient,
    pub(super) targets: Vec<Target>,
    pub(super) link: Link,
    pub(super) signal: Arc<Signal>,
    pub(super) health: Health,
    pub(super) dead_letters: DeadLetters,
    pub(super) max_messages: usize,
    pub(super) gauges: Gauges,
    pub(super) damage: Arc<DamageGuard>,
    pub(super) on_message: Option<OnMessage>,
}

impl Client {
    pub(super) fn start(start: Start) -> Result<Self, Error> {
        let shared = Arc::new(ClientShared::new(
            start.client_id,
            Arc::clone(&start.signal),
            start.health,
            start.gauges,
        ));
        let inner = Arc::new(ClientInner {
            has_byte_budget: shared.health.snapshot().limit_bytes.is_some(),
            shared: Arc::clone(&shared),
            paho: start.paho.clone(),
            dead_letters: start.dead_letters,
            room: Mutex::new(Room::new(start.max_messages)),
            receives: start.on_message.is_some(),
            has_waited: AtomicBool::new(false),
            _count: ClientCount::add(&shared.client_id),
        });
        let receive = start.on_message.map(|on_message| inner.receive(on_message));
        let receiver = Arc::new(Receiver::new(
            &shared.client_id,
            receive,
            Arc::clone(&shared.signal),
        ));
        set_callbacks(&start.paho, &start.signal, &receiver);
        let ended = Arc::clone(&shared.ended);
        let worker = Worker::new(
            shared,
            start.paho,
            start.targets,
            start.link,
            start.damage,
            receiver,
        );
        worker.start().map_err(|error| {
            ended.set();
            Error::new(ErrorKind::Other, "start the worker of the client")
                .with_reason("the system has no thread or memory left for this process")
                .with_source(error)
        })?;
        Ok(Self { inner })
    }

    /// Accepts a message, which arrives once broker and network allow it.
    ///
    /// At QoS 1 and 2 the message is in the store when this returns, or, during an outage of the store, in memory. Await
    /// or [`wait`](Delivery::wait) for the delivery to learn of the broker's acknowledgment, or drop it.
    ///
    /// # Errors
    ///
    /// The error has the message, and turns into an [`Error`] with `?`.
    ///
    /// - [`ErrorKind::Full`] if as many messages wait as the session allows, or they would exceed its byte budget. The
    ///   message is not sent. Publish it later, drop it, or keep it.
    /// - [`ErrorKind::InvalidOption`] for a topic that MQTT does not allow: empty, above 65,535 bytes, or with `+`, `#`
    ///   or a NUL character. The broker would end each connection in which such a message is sent.
    /// - [`ErrorKind::NotOpen`] once the client was stopped.
    /// - [`ErrorKind::Damaged`] after a write that was broken off, with [`OnBrokenWrite::Call`].
    /// - [`ErrorKind::Broker`] for another message that Paho does not accept.
    ///
    /// [`OnBrokenWrite::Call`]: super::OnBrokenWrite::Call
    pub fn publish(&self, message: mqtt::Message) -> Result<Delivery, PublishError> {
        let accepted = self
            .check_open(ATTEMPT)
            .and_then(|()| check_topic(message.topic()))
            .and_then(|()| {
                let room = self.take_room(&message);
                room.inspect_err(|error| self.count_refused(error))
            });
        if let Err(error) = accepted {
            return Err(PublishError::new(error, message));
        }
        let qos = message.qos();
        match self.inner.paho.try_publish(message) {
            Ok(token) => {
                self.inner.shared.lock().is_full = false;
                let cell = self.inner.shared.deliveries.add(token, qos);
                Ok(Delivery::new(cell))
            }
            Err(mqtt::Error::Publish(code, message)) => {
                Err(PublishError::new(self.refused(code), message))
            }
            // Paho returns no other.
            Err(error) => {
                let error = Error::new(ErrorKind::Broker, ATTEMPT).with_source(error);
                Err(PublishError::new(error, mqtt::Message::default()))
            }
        }
    }

    /// Checks that one more message of this size would exceed no limit, as [`publish`](Self::publish) does.
    ///
    /// `bytes` is the size of topic and payload.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`], with what waits and the limit in its text.
    pub fn check_room(&self, bytes: usize) -> Result<(), Error> {
        let waiting = self.inner.shared.health.snapshot().waiting_messages;
        let limit = self.room().limit();
        if waiting >= limit {
            return Err(too_many(waiting, limit));
        }
        self.inner.shared.health.check_room(bytes)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.inner
            .room
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn take_room(&self, message: &mqtt::Message) -> Result<(), Error> {
        let health = &self.inner.shared.health;
        {
            let mut room = self.room();
            let limit = room.limit();
            room.take(|| health.snapshot().waiting_messages)
                .map_err(|waiting| too_many(waiting, limit))?;
        }
        if self.inner.has_byte_budget {
            let bytes = message.topic().len();
            health.check_room(bytes.saturating_add(message.payload().len()))?;
        }
        Ok(())
    }

    fn count_refused(&self, error: &Error) {
        let shared = &self.inner.shared;
        shared.gauges.count_refused();
        let mut state = shared.lock();
        state.refused = state.refused.saturating_add(1);
        let is_new = !std::mem::replace(&mut state.is_full, true);
        drop(state);
        if is_new {
            log::full(&shared.client_id, error);
        }
    }

    /// Returns the error of a message that Paho refused.
    fn refused(&self, code: i32) -> Error {
        match mqtt::Error::from(code) {
            mqtt::Error::MaxBufferedMessages | mqtt::Error::NoMoreMsgIds => {
                let error = Error::new(ErrorKind::Full, ATTEMPT)
                    .with_reason("Paho has no room or no packet id left for it");
                self.count_refused(&error);
                error
            }
            mqtt::Error::PersistenceError => {
                // Paho keeps the message, with a token that paho-mqtt has freed.
                never_destroy(&self.inner.paho);
                Error::new(ErrorKind::Other, ATTEMPT)
                    .with_reason("its persistence refused it; the log has the reason")
            }
            reason => Error::new(ErrorKind::Broker, ATTEMPT).with_reason(reason.to_string()),
        }
    }

    pub(super) fn check_open(&self, attempt: &str) -> Result<(), Error> {
        match self.inner.shared.lock().closed {
            None => Ok(()),
            Some(closed) => Err(closed.error(attempt)),
        }
    }

    /// Subscribes to a topic filter, now or with the next connection, and again if the broker has lost the session.
    ///
    /// The messages go to [`Session::on_message`](super::Session::on_message). A broker that refuses the subscription is
    /// in the log. The filters are those of this run: the session of the broker keeps those of an earlier one, until
    /// [`unsubscribe`](Self::unsubscribe) or its end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`] for a filter that is empty or has a NUL byte, and if the session has no `on_message`;
    /// [`ErrorKind::NotOpen`] once the client was stopped.
    pub fn subscribe(
        &self,
        filter: impl Into<String>,
        qos: impl Into<mqtt::QoS>,
    ) -> Result<(), Error> {
        let filter = filter.into();
        if !self.inner.receives {
            let attempt = format!("subscribe to {filter:?}");
            return Err(Error::new(ErrorKind::InvalidOption, attempt)
                .with_reason("the session has no on_message, which receives the messages"));
        }
        self.want(filter, Wanted::Subscribed(qos.into()))
    }

    /// Ends the subscription to a topic filter, now or with the next connection, of this run or an earlier one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`] for a filter that is empty or has a NUL byte, and [`ErrorKind::NotOpen`] once the
    /// client was stopped.
    pub fn unsubscribe(&self, filter: impl Into<String>) -> Result<(), Error> {
        self.want(filter.into(), Wanted::Unsubscribed)
    }

    fn want(&self, filter: String, wanted: Wanted) -> Result<(), Error> {
        let verb = match wanted {
            Wanted::Subscribed(_) => "subscribe to",
            Wanted::Unsubscribed => "unsubscribe from",
        };
        let attempt = format!("{verb} {filter:?}");
        self.check_open(&attempt)?;
        if filter.is_empty() || filter.contains('\0') {
            return Err(Error::new(ErrorKind::InvalidOption, attempt)
                .with_reason("it is not a topic filter"));
        }
        let shared = &self.inner.shared;
        shared.lock().subscriptions.add(filter, wanted);
        shared.signal.look();
        Ok(())
    }

    /// The state of the connection, and the counts of this run.
    #[must_use]
    pub fn state(&self) -> ClientState {
        let shared = &self.inner.shared;
        let counts = shared.deliveries.counts();
        let state = shared.lock();
        let shown = &state.shown;
        ClientState {
            connection: shown.connection,
            since: shown.since,
            next_attempt: shown.next_attempt,
            last_error: shown.last_error.as_ref().map(ToString::to_string),
            connects: shown.connects,
            failed_attempts: shown.failed_attempts,
            sessions_lost: shown.sessions_lost,
            acknowledged: counts.acknowledged,
            pending: counts.pending,
            failed: counts.failed,
            refused: state.refused,
        }
    }

    /// The state of the store.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.inner.shared.health
    }

    /// The records that are set aside: what Paho dropped, and the quarantine.
    #[must_use]
    pub fn dead_letters(&self) -> &DeadLetters {
        &self.inner.dead_letters
    }

    /// The client of Paho, for all else that it can do.
    ///
    /// Do not connect or disconnect it, nor replace its callbacks. A message that is published with it is kept and sent
    /// as any other, without the check of the limit, and is not among the counts of [`state`](Self::state).
    #[must_use]
    pub fn paho(&self) -> &mqtt::AsyncClient {
        &self.inner.paho
    }

    /// Waits until the store has everything, for up to `limit`, as before a reboot. The client goes on.
    ///
    /// # Errors
    ///
    /// Those of [`Health::flush`].
    pub fn flush(&self, limit: Duration) -> Result<Flushed, Error> {
        self.inner.shared.health.flush(limit)
    }
}

/// Returns an error for a topic that MQTT does not allow, without the topic if it is long.
fn check_topic(topic: &str) -> Result<(), Error> {
    const MAX_BYTES: usize = 65_535;
    let reason = if topic.is_empty() {
        "its topic is empty".to_owned()
    } else if topic.len() > MAX_BYTES {
        format!("its topic has {} bytes, above {MAX_BYTES}", topic.len())
    } else if topic.contains(['+', '#', '\0']) {
        let start: String = topic.chars().take(100).collect();
        format!("its topic {start:?} has a wildcard or a NUL character")
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidOption, ATTEMPT).with_reason(reason))
}

fn too_many(waiting: usize, limit: usize) -> Error {
    Error::new(ErrorKind::Full, ATTEMPT).with_reason(format!(
        "{waiting} messages wait to be sent or acknowledged (max_messages: {limit})"
    ))
}

impl ClientInner {
    /// Passes a client to the receiver of the program. It is borrowed: one that the receiver owned would never be
    /// dropped.
    fn receive(self: &Arc<Self>, mut on_message: OnMessage) -> Receive {
        let inner = Arc::downgrade(self);
        Box::new(move |message| {
            if let Some(inner) = inner.upgrade() {
                on_message(&Client { inner }, message);
            }
        })
    }

    /// Ends the connection without a wait for acknowledgments. Returns true if it has ended and Paho's client is the
    /// caller's alone.
    ///
    /// Waits once, however often it is called.
    pub(super) fn end(&self) -> bool {
        self.shared.lock().closed.get_or_insert(Closed::Stopped);
        self.shared.signal.stop();
        if is_in_callback() {
            return false;
        }
        let has_waited = self.has_waited.swap(true, Ordering::Relaxed);
        let limit = if has_waited {
            Duration::ZERO
        } else {
            DISCONNECT_LIMIT
        };
        self.shared.ended.wait(limit)
    }
}

impl Drop for ClientInner {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("client_id", &self.inner.shared.client_id)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
