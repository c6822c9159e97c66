//! The client of a program: Paho's own, or the one of the library that connects again by itself.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{
    self as library, Delivery, Health, OnBrokenWrite, PersistenceMetrics, RedisPersistenceBuilder,
    Session, StoreObserver,
};
use serde::{Deserialize, Serialize};

use super::program::session;

/// Environment variable with the kind of client.
const CLIENT: &str = "CLIENT";
/// Expiry of a session that is kept.
pub(super) const SESSION_EXPIRY: Duration = Duration::from_secs(3_600);
/// Time until the next attempt of a client that connects by itself.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));

/// Persistence of any kind.
pub type BoxedPersistence = Box<dyn ClientPersistence + Send>;

/// Kind of client that a program has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientKind {
    /// Paho's own, which the program connects.
    #[default]
    Bare,
    /// The library's, from a `Session`, which connects by itself.
    Session,
}

impl ClientKind {
    /// Returns Paho's own unless the environment has another one.
    pub fn chosen() -> Self {
        match env::var(CLIENT).as_deref() {
            Err(_) | Ok("bare") => Self::Bare,
            Ok("session") => Self::Session,
            Ok(other) => panic!("{CLIENT}={other}: it is bare or session"),
        }
    }
}

/// Options that both kinds of client are created from.
pub(super) struct ClientOptions {
    pub kind: ClientKind,
    pub broker: String,
    pub id: String,
    /// Protocol levels that the client is created for and connects with, 0 for the default.
    pub levels: (u32, u32),
    pub keep_alive: Option<Duration>,
    pub connect_timeout: Duration,
    /// Connects Paho's own client to Redis before Paho does: while Paho waits for a late one, all clients of the process do.
    pub connects_first: bool,
    pub on_message: Option<Box<dyn FnMut(mqtt::Message) + Send>>,
    /// Reaction of a session to a write that was broken off.
    pub on_broken_write: OnBrokenWrite,
    /// The same for Paho's own client, and a message of an earlier run; others have a token.
    pub guard: Option<Arc<dyn StoreObserver>>,
}

impl ClientOptions {
    pub fn new(kind: ClientKind, broker: &str, id: &str, levels: (u32, u32)) -> Self {
        Self {
            kind,
            broker: broker.to_owned(),
            id: id.to_owned(),
            levels,
            keep_alive: None,
            connect_timeout: crate::LIMIT,
            connects_first: false,
            on_message: None,
            on_broken_write: OnBrokenWrite::default(),
            guard: None,
        }
    }

    /// Creates a client that publishes whether or not it is connected, with its records in Redis.
    pub fn create(
        self,
        redis: RedisPersistenceBuilder,
        metrics: Option<&PersistenceMetrics>,
        wrap: impl FnOnce(BoxedPersistence) -> BoxedPersistence + Send + Sync + 'static,
    ) -> Result<(Client, Health), String> {
        let words = |error: library::Error| error.to_string();
        if self.kind == ClientKind::Session {
            let mut session = Session::new(self.id, self.broker.as_str())
                // The records are where those of Paho's own client would be.
                .name(self.broker.as_str())
                .mqtt_version(self.levels.0)
                .session_expiry(SESSION_EXPIRY)
                .connect_timeout(self.connect_timeout)
                .max_messages(60_000)
                .backoff(BACKOFF.0, BACKOFF.1)
                .persistence(redis.build().map_err(words)?.wrapped_in_session(wrap))
                .on_broken_write(self.on_broken_write);
            if let Some(interval) = self.keep_alive {
                session = session.keep_alive(interval);
            }
            if let Some(metrics) = metrics {
                session = session.metrics(metrics);
            }
            if let Some(mut on_message) = self.on_message {
                session = session.on_message(move |_, message| on_message(message));
            }
            let client = session.start().map_err(words)?;
            let health = client.health().clone();
            return Ok((Client::Session(client), health));
        }
        let redis = match &self.guard {
            Some(guard) => redis.observer(Arc::clone(guard)),
            None => redis,
        };
        let mut persistence = redis.build().map_err(words)?;
        if self.connects_first {
            persistence.connect(&self.id, &self.broker).map_err(words)?;
        }
        let health = persistence.health();
        let persistence: BoxedPersistence = match metrics {
            Some(metrics) => Box::new(persistence.instrument(metrics)),
            None => Box::new(persistence),
        };
        let client = self.create_bare(wrap(persistence));
        Ok((client.map_err(|error| error.to_string())?, health))
    }

    /// Creates Paho's own client with any persistence.
    pub fn create_bare(self, persistence: BoxedPersistence) -> mqtt::Result<Client> {
        let mut options = mqtt::CreateOptionsBuilder::new()
            .server_uri(&self.broker)
            .client_id(&self.id)
            .max_buffered_messages(100_000)
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true)
            .persistence(mqtt::PersistenceType::User(Box::new(persistence)));
        if self.levels.0 != 0 {
            options = options.mqtt_version(self.levels.0);
        }
        let paho = options.create_client()?;
        let has_lost_connection = Arc::<AtomicBool>::default();
        let lost = Arc::clone(&has_lost_connection);
        paho.set_connection_lost_callback(move |_| lost.store(true, Ordering::Relaxed));
        if let Some(mut on_message) = self.on_message {
            paho.set_message_callback(move |_, message| {
                if let Some(message) = message {
                    on_message(message);
                }
            });
        }
        let mut options = session(self.levels.1);
        options.connect_timeout(self.connect_timeout);
        if let Some(interval) = self.keep_alive {
            options.keep_alive_interval(interval);
        }
        Ok(Client::Bare {
            paho,
            options: Box::new(options.finalize()),
            has_lost_connection,
        })
    }
}

/// Client of either kind.
#[derive(Clone)]
pub(super) enum Client {
    Bare {
        paho: mqtt::AsyncClient,
        options: Box<mqtt::ConnectOptions>,
        has_lost_connection: Arc<AtomicBool>,
    },
    Session(library::Client),
}

impl Client {
    fn paho(&self) -> &mqtt::AsyncClient {
        match self {
            Self::Bare { paho, .. } => paho,
            Self::Session(client) => client.paho(),
        }
    }

    /// Publishes a message. The error has the reason why it was refused.
    pub fn publish(&self, message: mqtt::Message) -> Result<UnderWay, String> {
        match self {
            Self::Bare { paho, .. } => match paho.try_publish(message) {
                Ok(token) => Ok(UnderWay::Token(token.into())),
                Err(error) => Err(error.to_string()),
            },
            Self::Session(client) => match client.publish(message) {
                Ok(delivery) => Ok(UnderWay::Delivery(delivery)),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    pub fn is_connected(&self) -> bool {
        match self {
            Self::Bare { paho, .. } => paho.is_connected(),
            Self::Session(client) => client.state().is_connected(),
        }
    }

    /// Returns true once a connection was lost.
    pub fn has_lost_connection(&self) -> bool {
        match self {
            Self::Bare {
                has_lost_connection,
                ..
            } => has_lost_connection.load(Ordering::Relaxed),
            Self::Session(client) => {
                let state = client.state();
                state.connects > u64::from(state.is_connected())
            }
        }
    }

    /// Tries to connect once, or waits until the client has done so by itself. Returns true if it is connected.
    pub fn connect(&self, limit: Duration) -> bool {
        match self {
            Self::Bare { paho, options, .. } => {
                paho.connect((**options).clone()).wait_for(limit).is_ok()
            }
            Self::Session(_) => {
                let started = Instant::now();
                while !self.is_connected() && started.elapsed() < limit {
                    thread::park_timeout(Duration::from_millis(1));
                }
                self.is_connected()
            }
        }
    }

    /// Ends the connection of a client that the program connects again. Another one connects again by itself.
    pub fn interrupt(&self, limit: Duration) {
        if let Self::Bare { paho, .. } = self {
            // Fails if the connection is lost meanwhile.
            let _ = paho.disconnect(None).wait_for(limit);
        }
    }

    /// Subscribes at QoS 2. Returns false if that fails.
    pub fn subscribe(&self, filter: &str, limit: Duration) -> bool {
        match self {
            Self::Bare { paho, .. } => paho.subscribe(filter, 2).wait_for(limit).is_ok(),
            Self::Session(client) => client.subscribe(filter, 2).is_ok(),
        }
    }

    pub fn unsubscribe(&self, filter: &str, limit: Duration) -> bool {
        self.paho().unsubscribe(filter).wait_for(limit).is_ok()
    }

    /// Ends the client, after all its messages have arrived. The error is what a stopped one still has.
    pub fn end(&self, limit: Duration) -> Result<(), String> {
        match self {
            Self::Bare { paho, .. } => {
                // Fails if there is no connection at this moment.
                let _ = paho.disconnect(None).wait_for(limit);
                Ok(())
            }
            Self::Session(client) => match client.clone().stop(limit) {
                Ok(stopped) if stopped.pending == 0 => Ok(()),
                Ok(stopped) => Err(format!("{stopped:?}")),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

/// Message that was accepted.
pub(super) enum UnderWay {
    Token(mqtt::Token),
    Delivery(Delivery),
}

/// Failure of a message that was accepted.
pub(super) struct Failed {
    /// Its write was broken off, and the program has to end before Paho sends what it has freed. A session sees to that itself.
    pub is_broken_write: bool,
}

impl UnderWay {
    /// Returns how the message ended, once, or `None` while it is under way.
    pub fn ended(&mut self) -> Option<Result<(), Failed>> {
        match self {
            Self::Token(token) => token.try_wait().map(|ended| match ended {
                Ok(_) => Ok(()),
                Err(error) => Err(Failed {
                    is_broken_write: matches!(error, mqtt::Error::Failure),
                }),
            }),
            Self::Delivery(delivery) => delivery.is_done().then(|| {
                let ended = delivery.wait_for(Duration::ZERO);
                ended.map_err(|_| Failed {
                    is_broken_write: false,
                })
            }),
        }
    }
}
