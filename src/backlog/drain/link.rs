//! The connection to the broker, under a client id of its own.

use std::{fmt, mem::ManuallyDrop, path::PathBuf, time::Duration};

use paho_mqtt::{
    self as mqtt, AsyncClient, ConnectOptions, ConnectOptionsBuilder, DisconnectOptionsBuilder,
    Message, Properties, PropertyCode, Token,
};

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

/// Time for one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// Time after which Paho has ended that attempt: it looks every few seconds. Twice this is less than the time
/// after which a silent owner of records counts as gone.
const CONNECT_LIMIT: Duration = CONNECT_TIMEOUT.saturating_add(Duration::from_secs(5));
const DISCONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Shortest expiry of a session, in seconds, for which Paho does not clean it (MQTT 5).
const SESSION_EXPIRY: u32 = 1;

/// At most one connection, with a session of its own.
///
/// If the write of a PUBLISH breaks off, Paho frees the message but leaves it in the list of those in flight
/// (paho.mqtt.c 1621). Whatever Paho does with that list then uses freed memory: cleaning the session at
/// the loss of the connection, destroying the client, and going on with the session, in which the broker
/// would acknowledge garbage. So Paho gets a session that it does not clean, a lost connection is replaced
/// by a new link, and the client is never destroyed. Each connection that was made leaves some kilobytes,
/// and the messages that were in flight when it broke, until the program ends.
///
/// Destroying one that could not connect would be no better: its callback may have the last reference to it,
/// and Paho then waits for itself.
pub(super) struct Link<'a> {
    client: ManuallyDrop<AsyncClient>,
    options: &'a BrokerOptions,
    is_mqtt_5: bool,
    has_connected: bool,
}

impl<'a> Link<'a> {
    /// Creates a client, and makes no connection.
    pub(super) fn new(options: &'a BrokerOptions, is_mqtt_5: bool) -> Result<Self, Error> {
        let create = mqtt::CreateOptionsBuilder::new()
            .server_uri(&options.uri)
            .client_id(&options.client_id)
            .mqtt_version(version(is_mqtt_5))
            .persistence(mqtt::PersistenceType::None)
            .max_buffered_messages(i32::from(options.window).saturating_mul(2))
            .finalize();
        let client = AsyncClient::new(create).map_err(|error| {
            let attempt = format!("use {} as a broker", options.uri);
            Error::new(ErrorKind::InvalidOption, attempt).with_reason(format!(
                "{error}; write mqtt://HOST:PORT, or mqtts://, ws:// or wss://"
            ))
        })?;
        Ok(Self {
            client: ManuallyDrop::new(client),
            options,
            is_mqtt_5,
            has_connected: false,
        })
    }

    /// Makes the connection, with a new session. May be tried again if it fails.
    pub(super) fn connect(&mut self) -> Result<(), Error> {
        if !self.is_mqtt_5 {
            // Only a session that the broker keeps is one that Paho does not clean, so the one that is there
            // has to go first: in it a packet id of an earlier connection would swallow a message at QoS 2.
            self.discard_session()?;
        }
        self.connect_once(false)?;
        self.has_connected = true;
        Ok(())
    }

    /// Has the broker discard the session of this client id (MQTT 3.1.1).
    fn discard_session(&self) -> Result<(), Error> {
        self.connect_once(true)?;
        let _ = self.client.disconnect(None).wait_for(DISCONNECT_LIMIT);
        Ok(())
    }

    fn connect_once(&self, is_clean: bool) -> Result<(), Error> {
        let options = connect_options(self.options, self.is_mqtt_5, is_clean)?;
        let connected = self.client.connect(options).wait_for(CONNECT_LIMIT);
        connected.map(drop).map_err(|error| {
            let attempt = format!("connect to the broker {}", self.options.uri);
            Error::new(ErrorKind::Connection, attempt).with_reason(error.to_string())
        })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.has_connected && self.client.is_connected()
    }

    /// Returns true if the connection was made and has broken.
    pub(super) fn is_lost(&self) -> bool {
        self.has_connected && !self.client.is_connected()
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

    /// Disconnects, and leaves no session with the broker.
    ///
    /// If that fails, the broker keeps the session for a second (MQTT 5), or until the next drain discards it.
    pub(super) fn close(self) {
        if !self.is_connected() {
            return;
        }
        let mut options = DisconnectOptionsBuilder::new();
        options.timeout(DISCONNECT_LIMIT);
        if self.is_mqtt_5 {
            let mut properties = Properties::new();
            let _ = properties.push_u32(PropertyCode::SessionExpiryInterval, 0);
            options.properties(properties);
        }
        let disconnected = self.client.disconnect(options.finalize());
        let _ = disconnected.wait_for(CONNECT_LIMIT);
        if !self.is_mqtt_5 {
            // This client would clean its session, too.
            let _ = Link::new(self.options, false).and_then(|link| link.discard_session());
        }
    }
}

fn connect_options(
    options: &BrokerOptions,
    is_mqtt_5: bool,
    is_clean: bool,
) -> Result<ConnectOptions, Error> {
    let mut builder = if is_mqtt_5 {
        let mut properties = Properties::new();
        let _ = properties.push_u32(PropertyCode::SessionExpiryInterval, SESSION_EXPIRY);
        let mut builder = ConnectOptionsBuilder::new_v5();
        builder.clean_start(true).properties(properties);
        builder
    } else {
        let mut builder = ConnectOptionsBuilder::with_mqtt_version(version(false));
        builder.clean_session(is_clean);
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
