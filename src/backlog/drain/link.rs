//! The connection to the broker, under a client id of its own.

use std::{fmt, path::PathBuf, time::Duration};

use paho_mqtt::{self as mqtt, AsyncClient, ConnectOptions, ConnectOptionsBuilder, Message, Token};

use crate::error::{Error, ErrorKind};

/// The broker that gets the messages, and how to connect.
#[derive(Clone)]
pub struct BrokerOptions {
    /// The server URI.
    pub uri: String,
    /// Not that of the client whose messages are sent.
    pub client_id: String,
    /// The user, if the broker asks for one.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<String>,
    /// The certificates to trust, in place of those of the system.
    pub ca_file: Option<PathBuf>,
    /// MQTT 5 if true, else 3.1.1; if it is not set, MQTT 5 if a message is in its form.
    pub is_mqtt_5: Option<bool>,
    /// Number of messages that are sent before the first one is acknowledged.
    pub window: u16,
}

impl BrokerOptions {
    /// Returns true if the connection is encrypted, for which Paho needs OpenSSL.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        let schemes = ["ssl://", "tls://", "mqtts://", "wss://"];
        schemes.iter().any(|scheme| self.uri.starts_with(scheme))
    }
}

/// Shows neither user nor password.
impl fmt::Debug for BrokerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerOptions")
            .field("uri", &self.uri)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// Time for one attempt to connect. Less than that after which a silent owner of records counts as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection with a session of its own, which ends with it.
///
/// A session that went on would do without repeating messages at QoS 2. But after a write that broke off,
/// Paho repeats the message from memory that it has freed, and the broker would acknowledge garbage.
pub(super) struct Link {
    client: AsyncClient,
}

impl Link {
    /// Connects with a new client and a new session.
    pub(super) fn open(options: &BrokerOptions, is_mqtt_5: bool) -> Result<Self, Error> {
        let create = mqtt::CreateOptionsBuilder::new()
            .server_uri(&options.uri)
            .client_id(&options.client_id)
            .mqtt_version(version(is_mqtt_5))
            .persistence(mqtt::PersistenceType::None)
            .max_buffered_messages(i32::from(options.window).saturating_mul(2))
            .finalize();
        let client = AsyncClient::new(create).map_err(|error| {
            let attempt = format!("use {} as a broker", options.uri);
            Error::new(ErrorKind::InvalidOption, attempt).with_source(error)
        })?;
        let limit = CONNECT_TIMEOUT.saturating_add(Duration::from_secs(2));
        let connected = client.connect(connect_options(options, is_mqtt_5)?);
        connected.wait_for(limit).map_err(|error| {
            let attempt = format!("connect to the broker {}", options.uri);
            Error::new(ErrorKind::Connection, attempt).with_reason(error.to_string())
        })?;
        Ok(Self { client })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    /// Sends a message; returns it if there is no room for it, or no connection.
    pub(super) fn publish(&self, message: Message) -> Result<Token, PublishError> {
        /// Paho's `MQTTASYNC_DISCONNECTED`, `MQTTASYNC_NO_MORE_MSGIDS` and
        /// `MQTTASYNC_MAX_BUFFERED_MESSAGES`.
        const LATER: [i32; 3] = [-3, -10, -12];
        match self.client.try_publish(message) {
            Ok(token) => Ok(token.into()),
            Err(mqtt::Error::Publish(code, _)) if LATER.contains(&code) => Err(PublishError::Later),
            Err(error) => Err(PublishError::Refused(error.to_string())),
        }
    }

    /// Disconnects.
    pub(super) fn close(self) {
        let disconnected = self.client.disconnect_after(Duration::from_secs(1));
        // The broker notices a connection that merely ends, too.
        let _ = disconnected.wait_for(CONNECT_TIMEOUT);
    }
}

fn connect_options(options: &BrokerOptions, is_mqtt_5: bool) -> Result<ConnectOptions, Error> {
    let mut builder = if is_mqtt_5 {
        let mut builder = ConnectOptionsBuilder::new_v5();
        builder.clean_start(true);
        builder
    } else {
        let mut builder = ConnectOptionsBuilder::with_mqtt_version(version(false));
        builder.clean_session(true);
        builder
    };
    builder
        .connect_timeout(CONNECT_TIMEOUT)
        .keep_alive_interval(Duration::from_secs(10))
        .max_inflight(options.window.into());
    if let Some(user) = &options.user {
        builder.user_name(user);
    }
    if let Some(password) = &options.password {
        builder.password(password.as_bytes());
    }
    if options.is_secure() {
        let mut ssl = mqtt::SslOptionsBuilder::new();
        ssl.enable_server_cert_auth(true).verify(true);
        if let Some(file) = &options.ca_file {
            ssl.trust_store(file).map_err(|error| {
                let attempt = format!("trust the certificates in {}", file.display());
                Error::new(ErrorKind::InvalidOption, attempt).with_source(error)
            })?;
        }
        builder.ssl_options(ssl.finalize());
    }
    Ok(builder.finalize())
}

/// The reason why a message was not accepted.
#[derive(Debug)]
pub(super) enum PublishError {
    /// There is no connection, or no room.
    Later,
    /// Paho cannot send it.
    Refused(String),
}

fn version(is_mqtt_5: bool) -> mqtt::MqttVersion {
    if is_mqtt_5 {
        mqtt::MqttVersion::V5
    } else {
        mqtt::MqttVersion::V3_1_1
    }
}
