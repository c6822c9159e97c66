//! [`Session`]: everything that the client, its persistence and its connection have to agree on.

use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;

use super::{
    backoff::Backoff,
    broken_write::{DamageGuard, OnBrokenWrite},
    link::Link,
    messenger::{Client, OnMessage},
    options::Settings,
    persistence::{Records, Source},
    signal::Signal,
};
#[cfg(feature = "metrics")]
use crate::metrics::PersistenceMetrics;
#[cfg(feature = "redis")]
use crate::redis::RedisPersistenceBuilder;
use crate::{
    error::{Error, ErrorKind},
    persistence::{DeadLetters, Health, Persistence, StoreObserver},
    store::Store,
};

/// A session with a broker that outlives connections, the process and outages.
///
/// Client, connection and persistence agree on client id, MQTT version, expiry and limits, since they are set in one
/// place. [`start`](Self::start) returns a [`Client`] that connects, and connects again, by itself.
///
/// | option | default | unit, range |
/// |---|---|---|
/// | [`broker`](Self::broker) | | further addresses of the same broker |
/// | [`name`](Self::name) | `mqtt://backlog` | a URI that stays when the broker moves |
/// | [`mqtt_version`](Self::mqtt_version) | 5 | 5 or 3.1.1 |
/// | [`session_expiry`](Self::session_expiry) | 24 h | from 1 s |
/// | [`keep_alive`](Self::keep_alive) | 20 s | seconds |
/// | [`connect_timeout`](Self::connect_timeout) | 5 s | seconds, per address |
/// | [`user`](Self::user) | none | user and password |
/// | [`max_messages`](Self::max_messages) | 10,000 | 4 to 60,000 messages |
/// | [`byte_budget`](Self::byte_budget) | none | bytes of records |
/// | [`max_inflight`](Self::max_inflight) | that of Paho | messages |
/// | [`backoff`](Self::backoff) | 1 s to 60 s | durations above zero |
/// | [`on_broken_write`](Self::on_broken_write) | exit with 75 | |
/// | [`on_message`](Self::on_message) | none | |
///
/// The setters accept every value; [`start`](Self::start) returns the error.
///
#[cfg_attr(feature = "redis", doc = "```no_run")]
#[cfg_attr(not(feature = "redis"), doc = "```ignore")]
/// use std::time::Duration;
/// use paho_mqtt_redis::{Session, paho_mqtt as mqtt};
///
/// let client = Session::new("device-1", "mqtt://broker.example:1883")
///     .redis_url("unix:///run/redis/redis.sock")
///     .start()?;
/// client.publish(mqtt::Message::new("readings", "21.5", mqtt::QOS_2))?; // accepted, broker or not
/// client.stop(Duration::from_secs(5))?; // waits for the acknowledgment
/// # Ok::<(), paho_mqtt_redis::Error>(())
/// ```
#[must_use = "a session does nothing before `start`"]
pub struct Session {
    settings: Settings,
    records: Records,
    on_broken_write: OnBrokenWrite,
    on_message: Option<OnMessage>,
}

/// The parts of a session, for a program that creates and connects a client of Paho by itself.
#[non_exhaustive]
pub struct SessionOptions {
    /// The options to create the client with. They have the persistence.
    pub create: mqtt::CreateOptions,
    /// The options for each connection.
    pub connect: mqtt::ConnectOptions,
    /// The state of the store.
    pub health: Health,
    /// The records that are set aside.
    pub dead_letters: DeadLetters,
}

impl Session {
    /// Describes the session of this client with this broker, with every option at its default.
    ///
    /// The client id is the same at every start, and no other client has it. The address is
    /// `mqtt://HOST[:PORT]`, or begins with `mqtts://`, `ws://` or `wss://`.
    pub fn new(client_id: impl Into<String>, broker: impl Into<String>) -> Self {
        Self {
            settings: Settings::new(client_id.into(), broker.into()),
            records: Records::default(),
            on_broken_write: OnBrokenWrite::default(),
            on_message: None,
        }
    }

    /// Adds another address of the same broker, to be tried if those before it fail.
    ///
    /// Each is tried once before the wait of [`backoff`](Self::backoff). After a connection that lasted for 10 s, the first
    /// one is the next. They share a session, so they must lead to one broker, or to a cluster that shares its sessions.
    /// They are of one kind: `mqtt://`, `mqtts://`, `ws://` or `wss://`.
    pub fn broker(mut self, broker: impl Into<String>) -> Self {
        self.settings.brokers.push(broker.into());
        self
    }

    /// Sets the URI that, beside the client id, names the records. It is no address, and stays when the broker moves.
    ///
    /// A client that was created with the address of its broker has its records under that: set it here, or move them
    /// with `mqtt-backlog adopt`. [`start`](Self::start) logs a warning with the number of records that are under
    /// another name.
    ///
    /// Defaults to `mqtt://backlog`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// Sets the MQTT version, 5 or 3.1.1.
    ///
    /// Defaults to 5.
    pub fn mqtt_version(mut self, version: impl Into<mqtt::MqttVersion>) -> Self {
        self.settings.version = version.into();
        self
    }

    /// Sets the time that the broker keeps the session after the connection has ended: longer than the longest
    /// outage. With MQTT 3.1.1 a session has no expiry.
    ///
    /// Defaults to 24 h. Below 1 s is an error.
    pub fn session_expiry(mut self, expiry: Duration) -> Self {
        self.settings.session_expiry = expiry;
        self
    }

    /// Sets the interval in which client and broker notice a connection that is dead.
    ///
    /// Defaults to 20 s.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.settings.keep_alive = interval;
        self
    }

    /// Sets the time for one attempt to connect to one address.
    ///
    /// Defaults to 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// Sets user and password for the broker.
    ///
    /// Defaults to none.
    pub fn user(mut self, user: impl Into<String>, password: impl Into<Vec<u8>>) -> Self {
        self.settings.user = Some(user.into());
        self.settings.password = Some(password.into());
        self
    }

    /// Sets the number of messages that may wait to be sent or acknowledged.
    ///
    /// Beyond it [`Client::publish`] returns [`ErrorKind::Full`] at once. Paho itself looks for a free packet id in
    /// quadratic time, under a lock that all clients of the process share. With 31,000 waiting it takes 200 messages per
    /// second, and with 65,535 a single one takes minutes before Paho refuses it. So as large as the longest outage
    /// needs, and not much above 10,000.
    ///
    /// Defaults to 10,000. Below 4 and above 60,000 is an error.
    pub fn max_messages(mut self, messages: usize) -> Self {
        self.settings.max_messages = messages;
        self
    }

    /// Sets a limit in bytes for the records of all waiting messages, beyond which [`Client::publish`] returns
    /// [`ErrorKind::Full`].
    ///
    /// Defaults to none.
    pub fn byte_budget(mut self, bytes: usize) -> Self {
        self.records.byte_budget = Some(bytes);
        self
    }

    /// Sets the number of messages at QoS 1 and 2 that are sent before the first of them is acknowledged.
    ///
    /// It is what Paho has to slow a backlog down that waits for a broker which has just come back: it sends at most this
    /// many messages per round trip. With 10 and a round trip of 50 ms, 135 messages per second were measured. Paho has
    /// no exact rate.
    ///
    /// Defaults to that of Paho, and with MQTT 5 to what the broker allows.
    pub fn max_inflight(mut self, messages: u16) -> Self {
        self.settings.max_inflight = Some(messages);
        self
    }

    /// Sets the wait before the next attempt to connect: a random part of a ceiling that is `min` at first and doubles
    /// up to `max`.
    ///
    /// A connection that lasts for 10 s makes it begin anew. In a fleet, all devices lose the broker at the same moment.
    /// With 10,000 devices and the default, some 170 per second come back once all have reached `max`.
    ///
    /// Defaults to 1 s and 60 s. Zero and a `max` below `min` are errors.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.settings.min_backoff = min;
        self.settings.max_backoff = max;
        self
    }

    /// Adds properties of MQTT 5 to the CONNECT packet. The expiry of the session has an option of its own.
    ///
    /// Defaults to none. Ignored with MQTT 3.1.1.
    pub fn connect_properties(mut self, properties: mqtt::Properties) -> Self {
        self.settings.properties = properties;
        self
    }

    /// Sets further options of Paho that the client is created with.
    ///
    /// What the session depends on is set after it: name, client id, MQTT version, persistence, the limit of waiting
    /// messages, and that none of them is dropped.
    pub fn create_options(
        mut self,
        set: impl FnOnce(mqtt::CreateOptionsBuilder) -> mqtt::CreateOptionsBuilder + Send + 'static,
    ) -> Self {
        self.settings.create_hook = Some(Box::new(set));
        self
    }

    /// Sets further options of Paho for each connection, such as a will, TLS or a proxy.
    ///
    /// What the session depends on is set after it: the addresses, MQTT version, properties, and that the session is
    /// kept. Leave `automatic_reconnect` alone: the client does it, and Paho's own uses memory that was freed if the
    /// broker cannot be reached at the start.
    pub fn connect_options(
        mut self,
        set: impl FnOnce(&mut mqtt::ConnectOptionsBuilder) + Send + 'static,
    ) -> Self {
        self.settings.connect_hook = Some(Box::new(set));
        self
    }

    /// Sets the address of Redis, as [`RedisPersistenceBuilder::url`] takes it.
    ///
    /// Defaults to `redis://127.0.0.1:6379/0`.
    #[cfg(feature = "redis")]
    pub fn redis_url(self, url: impl Into<String>) -> Self {
        let url = url.into();
        self.redis(|redis| redis.url(url))
    }

    /// Sets the options of the persistence in Redis. The limits of what waits are those of the session.
    ///
    /// Replaces an earlier [`persistence`](Self::persistence).
    #[cfg(feature = "redis")]
    pub fn redis(
        mut self,
        set: impl FnOnce(RedisPersistenceBuilder) -> RedisPersistenceBuilder,
    ) -> Self {
        self.records.set_redis(set);
        self
    }

    /// Sets the persistence, in place of one in Redis.
    pub fn persistence<S: Store>(mut self, persistence: Persistence<S>) -> Self {
        self.records.source = Source::Given(Box::new(persistence));
        self
    }

    /// Adds an observer of the events of the store.
    pub fn observer(mut self, observer: impl StoreObserver + 'static) -> Self {
        self.records.observers.push(Arc::new(observer));
        self
    }

    /// Measures the persistence and the connection.
    ///
    /// Defaults to none.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, metrics: &PersistenceMetrics) -> Self {
        self.records.metrics = Some(metrics.clone());
        self
    }

    /// Sets the value of the label `client_id` of the metrics.
    ///
    /// Defaults to the client id.
    #[cfg(feature = "metrics")]
    pub fn client_label(mut self, client_label: impl Into<String>) -> Self {
        self.records.client_label = Some(client_label.into());
        self
    }

    /// Sets the reaction to a write to the broker that was broken off, after which Paho would send a message from
    /// memory that it has freed.
    ///
    /// Defaults to [`OnBrokenWrite::Exit`] with the code 75: only a new process is safe.
    pub fn on_broken_write(mut self, reaction: OnBrokenWrite) -> Self {
        self.on_broken_write = reaction;
        self
    }

    /// Sets what receives the messages that arrive for [`Client::subscribe`].
    ///
    /// It is called on a thread of Paho that does nothing else meanwhile: it may publish with the client that it is given,
    /// but not wait for a [`Delivery`](super::Delivery), nor stop the client. A client that it keeps lasts until
    /// [`Client::stop`]. A panic in it is caught and dropped.
    ///
    /// Without it, messages that arrive, for a subscription of an earlier version of the program, are dropped.
    ///
    #[cfg_attr(feature = "redis", doc = "```no_run")]
    #[cfg_attr(not(feature = "redis"), doc = "```ignore")]
    /// use paho_mqtt_redis::{Session, paho_mqtt as mqtt};
    ///
    /// let client = Session::new("device-1", "mqtt://broker.example:1883")
    ///     .on_message(|client, question| {
    ///         let answer = mqtt::Message::new("answers", question.payload(), mqtt::QOS_1);
    ///         if let Err(error) = client.publish(answer) {
    ///             eprintln!("{error}");
    ///         }
    ///     })
    ///     .start()?;
    /// client.subscribe("questions", mqtt::QOS_1)?;
    /// # Ok::<(), paho_mqtt_redis::Error>(())
    /// ```
    pub fn on_message(
        mut self,
        receive: impl FnMut(&Client, mqtt::Message) + Send + 'static,
    ) -> Self {
        self.on_message = Some(Box::new(receive));
        self
    }

    /// Opens the records and starts the client, which connects from then on.
    ///
    /// Waits for the store, but not for the broker: messages are accepted at once. Call it on a thread that may wait,
    /// for up to `open_timeout` (2 s) if Redis is still starting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`] with the option in its text, the reason why the store cannot be used, and
    /// [`ErrorKind::Broker`] if Paho cannot create the client.
    pub fn start(mut self) -> Result<Client, Error> {
        self.settings.check()?;
        let targets = self.settings.targets()?;
        let seed = RandomState::new().build_hasher().finish();
        let backoff = Backoff::new(self.settings.min_backoff, self.settings.max_backoff, seed);
        let signal = Arc::<Signal>::default();
        let damage = Arc::new(DamageGuard::new(self.on_broken_write, Arc::clone(&signal)));
        #[cfg(feature = "metrics")]
        let gauges = self.records.gauges(&self.settings.client_id);
        #[cfg(not(feature = "metrics"))]
        let gauges = super::gauges::Gauges::default();
        self.records
            .observers
            .push(Arc::<DamageGuard>::clone(&damage));
        let opened = self.records.open(&self.settings)?;
        damage.set_health(&opened.health);
        let create_options = self.settings.create_options(opened.persistence);
        let attempt = || format!("create the client {}", self.settings.client_id);
        let paho = mqtt::AsyncClient::new(create_options).map_err(|error| match error {
            mqtt::Error::PersistenceError => Error::new(ErrorKind::Other, attempt())
                .with_reason("its persistence could not be opened; the log has the reason"),
            error => Error::new(ErrorKind::Broker, attempt())
                .with_reason(error.to_string())
                .with_source(error),
        })?;
        // Paho looks at its time limit each three seconds.
        let attempt_limit = self
            .settings
            .connect_timeout
            .saturating_add(Duration::from_secs(5));
        // Before the first connection: with it, Paho drops what is in flight if the session is lost.
        let restored = opened.health.snapshot();
        let has_session = restored.waiting_messages > restored.queued_messages;
        Client::start(super::messenger::Start {
            client_id: self.settings.client_id,
            paho,
            link: Link::new(
                backoff,
                targets.len(),
                attempt_limit,
                has_session,
                Instant::now(),
            ),
            targets,
            signal,
            health: opened.health,
            dead_letters: opened.dead_letters,
            max_messages: self.settings.max_messages,
            gauges,
            damage,
            on_message: self.on_message,
        })
    }

    /// Opens the records, and returns the options for a client that the program creates and connects by itself.
    ///
    /// [`on_broken_write`](Self::on_broken_write), [`backoff`](Self::backoff) and [`on_message`](Self::on_message) are
    /// of no use then, and nothing refuses a message before Paho does.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start), but for Paho's.
    pub fn into_options(mut self) -> Result<SessionOptions, Error> {
        self.settings.check()?;
        let connect = self.settings.connect_options_with_all()?;
        let opened = self.records.open(&self.settings)?;
        Ok(SessionOptions {
            create: self.settings.create_options(opened.persistence),
            connect,
            health: opened.health,
            dead_letters: opened.dead_letters,
        })
    }
}

/// Shows neither user nor password.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("client_id", &self.settings.client_id)
            .field("brokers", &self.settings.brokers)
            .field("name", &self.settings.name)
            .field("mqtt_version", &self.settings.version)
            .field("session_expiry", &self.settings.session_expiry)
            .field("max_messages", &self.settings.max_messages)
            .field("on_broken_write", &self.on_broken_write)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOptions")
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}
