//! Connection to the broker: retried with backoff until it succeeds, and again after it is lost.

use std::{
    mem,
    time::{Duration, Instant},
};

use paho_mqtt_redis::paho_mqtt as mqtt;
use tracing::{info, warn};

const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Longer than a night without a connection, so that the broker still knows which messages it has received.
const SESSION_EXPIRY_SECONDS: u32 = 24 * 60 * 60;

/// Connection of one client.
///
/// Does not use Paho's `automatic_reconnect`: until the first success, each attempt that fails because a name cannot be
/// resolved or a network is unreachable completes the token of that first `connect` again, after it was freed.
pub struct Link {
    client: mqtt::AsyncClient,
    options: mqtt::ConnectOptions,
    state: LinkState,
    /// Wait after the next failure.
    backoff: Duration,
}

enum LinkState {
    Connecting(mqtt::ConnectToken),
    Up,
    DownUntil(Instant),
}

impl Link {
    /// Starts to connect.
    ///
    /// Call it right after the client was created: until `connect` has requested a session that is kept, dropping the
    /// client would delete the messages in flight.
    pub fn start(client: &mqtt::AsyncClient, version: mqtt::MqttVersion) -> mqtt::Result<Self> {
        let options = options(version)?;
        Ok(Self {
            client: client.clone(),
            state: LinkState::Connecting(client.connect(options.clone())),
            options,
            backoff: MIN_BACKOFF,
        })
    }

    /// Returns true while the client is connected.
    pub fn is_up(&self) -> bool {
        self.client.is_connected()
    }

    /// Polls the connection and reconnects when the backoff is over; does not wait.
    pub fn tick(&mut self) {
        let now = Instant::now();
        self.state = match mem::replace(&mut self.state, LinkState::Up) {
            LinkState::Connecting(mut token) => match token.try_wait() {
                None => LinkState::Connecting(token),
                Some(Ok(_)) => {
                    info!("connected to the broker");
                    self.backoff = MIN_BACKOFF;
                    LinkState::Up
                }
                Some(Err(error)) => {
                    warn!(%error, "broker unreachable, retrying in {:?}", self.backoff);
                    let retry = now + self.backoff;
                    self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
                    LinkState::DownUntil(retry)
                }
            },
            LinkState::Up if !self.client.is_connected() => {
                warn!("lost the broker connection; readings are kept in Redis");
                LinkState::DownUntil(now + MIN_BACKOFF)
            }
            LinkState::DownUntil(retry) if retry <= now => {
                LinkState::Connecting(self.client.connect(self.options.clone()))
            }
            unchanged => unchanged,
        };
    }

    /// Disconnects from the broker, so that it does not take the end for a crash.
    pub fn close(&self) {
        const LIMIT: Duration = Duration::from_secs(2);
        if self.client.is_connected()
            && let Err(error) = self.client.disconnect(None).wait_for(LIMIT)
        {
            warn!(%error, "cannot disconnect from the broker cleanly");
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
