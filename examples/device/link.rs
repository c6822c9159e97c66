//! The connection to the broker: tried until it answers, and again when it is lost.

use std::{
    mem,
    time::{Duration, Instant},
};

use paho_mqtt_redis::paho_mqtt as mqtt;
use tracing::{info, warn};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Longer than a night without a connection, so that the broker still knows what it has received before it.
const SESSION_EXPIRY_SECONDS: u32 = 24 * 60 * 60;

/// The connection of one client.
///
/// Paho's own `automatic_reconnect` is not used: when a name cannot be resolved or a network not be reached before
/// the first success, Paho completes the token of that first `connect` again at each attempt, after it was freed.
pub struct Link {
    client: mqtt::AsyncClient,
    options: mqtt::ConnectOptions,
    state: State,
    /// How long to wait after the next failure.
    pause: Duration,
}

enum State {
    Connecting(mqtt::ConnectToken),
    Up,
    DownUntil(Instant),
}

impl Link {
    /// Starts to connect.
    ///
    /// To be called right after the client was created: until `connect` has told Paho that the session is to be
    /// kept, dropping the client would delete what is in flight.
    pub fn start(client: &mqtt::AsyncClient, version: mqtt::MqttVersion) -> mqtt::Result<Self> {
        let options = options(version)?;
        Ok(Self {
            client: client.clone(),
            state: State::Connecting(client.connect(options.clone())),
            options,
            pause: FIRST_PAUSE,
        })
    }

    /// Whether the broker can be reached.
    pub fn is_up(&self) -> bool {
        self.client.is_connected()
    }

    /// Looks at the connection and tries again if it is time; does not wait.
    pub fn tick(&mut self) {
        let now = Instant::now();
        self.state = match mem::replace(&mut self.state, State::Up) {
            State::Connecting(mut token) => match token.try_wait() {
                None => State::Connecting(token),
                Some(Ok(_)) => {
                    info!("connected to the broker");
                    self.pause = FIRST_PAUSE;
                    State::Up
                }
                Some(Err(error)) => {
                    warn!(%error, "the broker cannot be reached, trying again in {:?}", self.pause);
                    let retry = now + self.pause;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    State::DownUntil(retry)
                }
            },
            State::Up if !self.client.is_connected() => {
                warn!("the connection to the broker is lost, readings are kept in Redis");
                State::DownUntil(now + FIRST_PAUSE)
            }
            State::DownUntil(retry) if retry <= now => {
                State::Connecting(self.client.connect(self.options.clone()))
            }
            unchanged => unchanged,
        };
    }

    /// Says goodbye to the broker, so that it does not take the end for a crash.
    pub fn close(&self) {
        const LIMIT: Duration = Duration::from_secs(2);
        if self.client.is_connected()
            && let Err(error) = self.client.disconnect(None).wait_for(LIMIT)
        {
            warn!(%error, "the broker did not take the goodbye");
        }
    }
}

fn options(version: mqtt::MqttVersion) -> mqtt::Result<mqtt::ConnectOptions> {
    let mut options = mqtt::ConnectOptionsBuilder::with_mqtt_version(version);
    options
        .keep_alive_interval(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(5));
    // Without a session that outlives the connection, Paho deletes what is in flight when the connection is lost.
    if version == mqtt::MqttVersion::V5 {
        let mut properties = mqtt::Properties::new();
        properties.push_u32(
            mqtt::PropertyCode::SessionExpiryInterval,
            SESSION_EXPIRY_SECONDS,
        )?;
        options.clean_start(false).properties(properties);
    } else {
        options.clean_session(false);
    }
    Ok(options.finalize())
}
