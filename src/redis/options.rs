//! The options of [`RedisPersistence`].

use std::{fmt, time::Duration};

use super::{RedisPersistence, RedisStore, target::Target};
use crate::{Error, ErrorKind, Persistence};

/// Where Redis is and how long to wait for it.
///
/// ```
/// use std::time::Duration;
/// use paho_mqtt_redis::RedisPersistence;
///
/// let persistence = RedisPersistence::builder()
///     .url("unix:///run/redis/redis.sock?db=1")
///     .key_prefix("mqtt:")
///     .operation_timeout(Duration::from_millis(500))
///     .build()?;
/// # Ok::<(), paho_mqtt_redis::Error>(())
/// ```
#[derive(Clone)]
pub struct RedisOptions {
    url: String,
    key_prefix: String,
    connect_timeout: Duration,
    operation_timeout: Duration,
    open_timeout: Duration,
}

/// What the store works with, once the options have been checked.
pub(super) struct Settings {
    pub(super) target: Target,
    pub(super) key_prefix: String,
    pub(super) connect_timeout: Duration,
    pub(super) operation_timeout: Duration,
    pub(super) open_timeout: Duration,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const OPERATION_TIMEOUT: Duration = Duration::from_millis(250);
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

impl Default for Settings {
    fn default() -> Self {
        Self {
            target: Target::default(),
            key_prefix: String::new(),
            connect_timeout: CONNECT_TIMEOUT,
            operation_timeout: OPERATION_TIMEOUT,
            open_timeout: OPEN_TIMEOUT,
        }
    }
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            url: Target::default().to_string(),
            key_prefix: String::new(),
            connect_timeout: CONNECT_TIMEOUT,
            operation_timeout: OPERATION_TIMEOUT,
            open_timeout: OPEN_TIMEOUT,
        }
    }
}

impl RedisOptions {
    /// Where Redis is: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]` over TCP,
    /// `unix:///PATH[?db=DATABASE&user=USER&pass=PASSWORD]` over a Unix socket, and `rediss://`
    /// over TLS with the feature `tls`. `valkey://`, `valkeys://` and `redis+unix://` mean the same.
    /// Special characters of a user or password are percent-encoded.
    ///
    /// Defaults to `redis://127.0.0.1:6379/0`.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// What the key of the hash starts with, before `client_id:server_uri`: keeps the records apart
    /// from other keys, and lets an ACL name them.
    ///
    /// The server URI is the one that the client is created with, without its scheme: with the
    /// prefix `mqtt:` a key is `mqtt:device-1:broker.example:1883`.
    ///
    /// Defaults to nothing, as in paho-mqtt-redis 0.3.2. Control characters are refused.
    #[must_use]
    pub fn key_prefix(mut self, key_prefix: impl Into<String>) -> Self {
        self.key_prefix = key_prefix.into();
        self
    }

    /// How long connecting may take, until Redis is known to be usable: finding the host,
    /// authenticating and checking rights included.
    ///
    /// Defaults to 1 s. Zero is refused.
    #[must_use]
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// How long one exchange with Redis may take as a whole, however many parts its answer comes in.
    ///
    /// Defaults to 250 ms. Zero is refused. A call that finds the connection broken connects first,
    /// for which it has the [`connect_timeout`](Self::connect_timeout).
    #[must_use]
    pub fn operation_timeout(mut self, operation_timeout: Duration) -> Self {
        self.operation_timeout = operation_timeout;
        self
    }

    /// How long opening may take, from connecting to having listed the records. Reading them comes
    /// after that, each batch within `operation_timeout`.
    ///
    /// Defaults to 2 s. Zero is refused. Creating a client waits for this under a lock that all
    /// Paho clients of the process share.
    #[must_use]
    pub fn open_timeout(mut self, open_timeout: Duration) -> Self {
        self.open_timeout = open_timeout;
        self
    }

    /// A persistence with these options. The network is not used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`] with the option that cannot work.
    pub fn build(self) -> Result<RedisPersistence, Error> {
        // A new option does not compile until it is checked and passed on here.
        let Self {
            url,
            key_prefix,
            connect_timeout,
            operation_timeout,
            open_timeout,
        } = self;
        let invalid = |option: &str, reason| {
            Error::new(ErrorKind::InvalidOption, format!("use the option {option}")).because(reason)
        };
        let target = Target::parse(&url)?;
        if key_prefix.chars().any(char::is_control) {
            return Err(invalid(
                "key_prefix",
                "it has control characters; use printable ones",
            ));
        }
        for (option, timeout) in [
            ("connect_timeout", connect_timeout),
            ("operation_timeout", operation_timeout),
            ("open_timeout", open_timeout),
        ] {
            if timeout.is_zero() {
                return Err(invalid(
                    option,
                    "it is zero, so that nothing could ever succeed",
                ));
            }
        }
        Ok(Persistence::with_store(RedisStore::new(Settings {
            target,
            key_prefix,
            connect_timeout,
            operation_timeout,
            open_timeout,
        })))
    }
}

/// Shows the address without user and password.
impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            key_prefix,
            connect_timeout,
            operation_timeout,
            open_timeout,
        } = self;
        let url = Target::parse(url).map_or_else(
            |_| "(not a Redis URL)".to_owned(),
            |target| target.to_string(),
        );
        f.debug_struct("RedisOptions")
            .field("url", &url)
            .field("key_prefix", key_prefix)
            .field("connect_timeout", connect_timeout)
            .field("operation_timeout", operation_timeout)
            .field("open_timeout", open_timeout)
            .finish()
    }
}
