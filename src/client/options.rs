//! [`Settings`]: the options of a session, and Paho's two sets of options that follow from them.

use std::{env, time::Duration};

use paho_mqtt::{self as mqtt, ClientPersistence};

use super::names::NameToResolve;
use crate::{error::Error, paho::strip_scheme};

/// The most messages that may be allowed to wait: some of the 65,535 packet ids stay free.
const MOST_MESSAGES: usize = 60_000;
/// Paho needs as many places for itself.
const FEWEST_MESSAGES: usize = 4;
const SCHEMES: [(&str, Transport); 8] = [
    ("mqtt://", Transport::Tcp),
    ("tcp://", Transport::Tcp),
    ("mqtts://", Transport::Tls),
    ("ssl://", Transport::Tls),
    ("tls://", Transport::Tls),
    ("ws://", Transport::WebSocket),
    ("wss://", Transport::SecureWebSocket),
    ("unix://", Transport::UnixSocket),
];

type CreateHook = Box<dyn FnOnce(mqtt::CreateOptionsBuilder) -> mqtt::CreateOptionsBuilder + Send>;
type ConnectHook = Box<dyn FnOnce(&mut mqtt::ConnectOptionsBuilder) + Send>;

/// An address of the broker.
pub(super) struct Target {
    pub(super) address: String,
    /// The options to connect with.
    pub(super) options: mqtt::ConnectOptions,
    /// The name that is resolved before.
    pub(super) name: Option<NameToResolve>,
}

/// The kind of an address. Paho keeps that of each address that it was ever given, and so mixes kinds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Tls,
    WebSocket,
    SecureWebSocket,
    UnixSocket,
}

impl Transport {
    fn of(address: &str) -> Option<Self> {
        let mut schemes = SCHEMES.iter();
        let (scheme, transport) = schemes.find(|(scheme, _)| address.starts_with(scheme))?;
        (address.len() > scheme.len()).then_some(*transport)
    }

    fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::SecureWebSocket)
    }
}

/// The options of a session that concern Paho and the connection.
pub(super) struct Settings {
    pub(super) client_id: String,
    pub(super) brokers: Vec<String>,
    /// The server URI that the client is created with, and so a part of the name of its records.
    pub(super) name: String,
    pub(super) version: mqtt::MqttVersion,
    pub(super) session_expiry: Duration,
    pub(super) keep_alive: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) user: Option<String>,
    pub(super) password: Option<Vec<u8>>,
    pub(super) max_messages: usize,
    pub(super) max_inflight: Option<u16>,
    pub(super) min_backoff: Duration,
    pub(super) max_backoff: Duration,
    pub(super) properties: mqtt::Properties,
    pub(super) create_hook: Option<CreateHook>,
    pub(super) connect_hook: Option<ConnectHook>,
}

impl Settings {
    pub(super) fn new(client_id: String, broker: String) -> Self {
        Self {
            client_id,
            brokers: vec![broker],
            name: "mqtt://backlog".to_owned(),
            version: mqtt::MqttVersion::V5,
            session_expiry: Duration::from_secs(24 * 60 * 60),
            keep_alive: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(5),
            user: None,
            password: None,
            max_messages: 10_000,
            max_inflight: None,
            min_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            properties: mqtt::Properties::new(),
            create_hook: None,
            connect_hook: None,
        }
    }

    fn is_mqtt_5(&self) -> bool {
        self.version == mqtt::MqttVersion::V5
    }

    /// Returns the first option that cannot work.
    pub(super) fn check(&self) -> Result<(), Error> {
        let invalid =
            |option: &str, reason: String| Err(Error::invalid_option(option).with_reason(reason));
        let mut transports = Vec::new();
        for broker in &self.brokers {
            let transport = Transport::of(broker);
            let Some(transport) = transport.filter(|_| !broker.contains(char::is_control)) else {
                let reason = format!(
                    "{broker:?} is not the address of a broker, such as mqtt://broker.example:1883"
                );
                return invalid("broker", reason);
            };
            transports.push(transport);
        }
        if transports
            .windows(2)
            .any(|pair| pair.first() != pair.last())
        {
            let reason = "Paho mixes up addresses of different kinds: use one of mqtt://, mqtts://, ws:// and wss:// \
                          for all";
            return invalid("broker", reason.to_owned());
        }
        if transports.iter().any(|transport| transport.is_secure()) && !paho_has_tls() {
            let reason =
                "Paho was built without TLS; build with the feature mqtt-tls or mqtt-tls-vendored";
            return invalid("broker", reason.to_owned());
        }
        for (option, text) in [("client_id", &self.client_id), ("name", &self.name)] {
            if text.contains(char::is_control) {
                return invalid(option, "it has control characters".to_owned());
            }
        }
        if Transport::of(&self.name).is_none() {
            let reason = format!("{:?} has no scheme, such as mqtt://", self.name);
            return invalid("name", reason);
        }
        if !matches!(
            self.version,
            mqtt::MqttVersion::V5 | mqtt::MqttVersion::V3_1_1
        ) {
            let reason = "a session that survives an outage takes MQTT 5 or 3.1.1".to_owned();
            return invalid("mqtt_version", reason);
        }
        if self.is_mqtt_5() && self.session_expiry.as_secs() == 0 {
            let reason =
                "below one second Paho deletes what is in flight with each connection that is lost";
            return invalid("session_expiry", reason.to_owned());
        }
        if !(FEWEST_MESSAGES..=MOST_MESSAGES).contains(&self.max_messages) {
            let reason = format!(
                "{} is not from {FEWEST_MESSAGES} to {MOST_MESSAGES}, which leaves some of the 65,535 packet ids free",
                self.max_messages
            );
            return invalid("max_messages", reason);
        }
        if self.max_inflight == Some(0) {
            return invalid("max_inflight", "zero would send nothing".to_owned());
        }
        if self.min_backoff.is_zero() || self.max_backoff < self.min_backoff {
            let reason = "it takes a time above zero, and a maximum that is not below it";
            return invalid("backoff", reason.to_owned());
        }
        if self.user.as_ref().is_some_and(|user| user.contains('\0')) {
            return invalid("user", "it has a NUL byte".to_owned());
        }
        Ok(())
    }

    /// Returns the options that the client is created with.
    pub(super) fn create_options(
        &mut self,
        persistence: Box<dyn ClientPersistence + Send>,
    ) -> mqtt::CreateOptions {
        let mut options = mqtt::CreateOptionsBuilder::new();
        if let Some(hook) = self.create_hook.take() {
            options = hook(options);
        }
        // Set after the hook: each of these costs messages if it is another. The scheme is no part of the name of the
        // records, but Paho would use its kind for every address.
        options
            .server_uri(format!("mqtt://{}", strip_scheme(&self.name)))
            .client_id(&self.client_id)
            .mqtt_version(self.version)
            .max_buffered_messages(i32::try_from(self.max_messages).unwrap_or(i32::MAX))
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true)
            .delete_oldest_messages(false)
            .restore_messages(true)
            .persistence(mqtt::PersistenceType::User(Box::new(persistence)))
            .finalize()
    }

    /// Returns the addresses to connect to.
    pub(super) fn targets(&mut self) -> Result<Vec<Target>, Error> {
        // A proxy resolves names by itself, and options of the program may name one.
        let has_proxy =
            self.connect_hook.is_some() || env::var_os("PAHO_C_CLIENT_USE_HTTP_PROXY").is_some();
        let mut options = self.connect_builder()?;
        let targets = self.brokers.iter().map(|address| Target {
            address: address.clone(),
            options: options.server_uris(&[address]).finalize(),
            name: NameToResolve::of(address).filter(|_| !has_proxy),
        });
        Ok(targets.collect())
    }

    /// Returns the options for a program that connects by itself, and lets Paho choose among the addresses.
    pub(super) fn connect_options_with_all(&mut self) -> Result<mqtt::ConnectOptions, Error> {
        let mut options = self.connect_builder()?;
        Ok(options.server_uris(&self.brokers).finalize())
    }

    /// Returns the options for each connection, without an address.
    fn connect_builder(&mut self) -> Result<mqtt::ConnectOptionsBuilder, Error> {
        // Those for WebSocket differ in their keep-alive alone, and one of them has no MQTT version.
        let mut options = mqtt::ConnectOptionsBuilder::with_mqtt_version(self.version);
        options
            .keep_alive_interval(self.keep_alive)
            .connect_timeout(self.connect_timeout);
        if let Some(window) = self.max_inflight {
            options.max_inflight(window.into());
        }
        if let Some(user) = &self.user {
            options.user_name(user);
        }
        if let Some(password) = &self.password {
            options.password(password.as_slice());
        }
        if self
            .brokers
            .iter()
            .any(|broker| mqtt::is_secure_uri(broker))
        {
            let mut ssl = mqtt::SslOptionsBuilder::new();
            ssl.enable_server_cert_auth(true).verify(true);
            options.ssl_options(ssl.finalize());
        }
        if let Some(hook) = self.connect_hook.take() {
            hook(&mut options);
        }
        // Set after the hook: each of these costs messages if it is another.
        if self.is_mqtt_5() {
            options
                .clean_start(false)
                .properties(self.session_properties()?);
        } else {
            options.clean_session(false);
        }
        if options.finalize().mqtt_version() != self.version {
            return Err(Error::invalid_option("connect_options").with_reason(
                "it sets an option of another MQTT version than that of the session",
            ));
        }
        Ok(options)
    }

    /// Returns the properties of the program, with the expiry of the session.
    fn session_properties(&self) -> Result<mqtt::Properties, Error> {
        const EXPIRY: mqtt::PropertyCode = mqtt::PropertyCode::SessionExpiryInterval;
        let mut properties = self.properties.clone();
        if properties.get(EXPIRY).is_some() {
            return Err(Error::invalid_option("connect_properties")
                .with_reason("the expiry of the session is the option session_expiry"));
        }
        let seconds = u32::try_from(self.session_expiry.as_secs()).unwrap_or(u32::MAX);
        let pushed = properties.push_u32(EXPIRY, seconds);
        pushed.map_err(|error| Error::invalid_option("session_expiry").with_source(error))?;
        Ok(properties)
    }
}

/// Returns true if the Paho that is linked has TLS: features of any crate of the program decide it.
fn paho_has_tls() -> bool {
    let options = mqtt::CreateOptionsBuilder::new()
        .server_uri("mqtts://localhost")
        .client_id("tls")
        .persistence(mqtt::PersistenceType::None)
        .finalize();
    mqtt::AsyncClient::new(options).is_ok()
}
