//! The options of [`RedisPersistence`].

use std::{fmt, sync::Arc, time::Duration};

use super::{
    address::RedisAddress, config::RedisConfig, eviction_check::EvictionCheck, store::RedisStore,
};
use crate::{
    error::Error,
    persistence::{Persistence, PersistenceConfig, StoreObserver},
    store::Durability,
};

/// The records of a Paho client in a Redis hash on the device.
///
/// ```no_run
/// use paho_mqtt_redis::{RedisPersistence, paho_mqtt as mqtt};
///
/// let options = mqtt::CreateOptionsBuilder::new()
///     .server_uri("mqtt://broker.example:1883")
///     .client_id("device-1")
///     .mqtt_version(mqtt::MQTT_VERSION_5)
///     .user_persistence(RedisPersistence::new())
///     .finalize();
/// let client = mqtt::AsyncClient::new(options)?;
/// # Ok::<(), mqtt::Error>(())
/// ```
pub type RedisPersistence = Persistence<RedisStore>;

impl RedisPersistence {
    /// A persistence on `redis://127.0.0.1:6379/0`. The network is not used yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The options, to be set and then built.
    #[must_use]
    pub fn builder() -> RedisPersistenceBuilder {
        RedisPersistenceBuilder::default()
    }
}

impl Default for RedisPersistence {
    fn default() -> Self {
        Self::builder().build_for(RedisAddress::default())
    }
}

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
pub struct RedisPersistenceBuilder {
    url: String,
    key_prefix: String,
    connect_timeout: Duration,
    operation_timeout: Duration,
    open_timeout: Duration,
    eviction_check: EvictionCheck,
    durability: Durability,
    cache_limit: usize,
    buffer_warn_bytes: usize,
    observer: Option<Arc<dyn StoreObserver>>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

impl Default for RedisPersistenceBuilder {
    fn default() -> Self {
        let PersistenceConfig {
            durability,
            cache_limit,
            buffer_warn_bytes,
            call_timeout,
            open_timeout,
            observer,
        } = PersistenceConfig::default();
        Self {
            url: RedisAddress::default().to_string(),
            key_prefix: String::new(),
            connect_timeout: CONNECT_TIMEOUT,
            operation_timeout: call_timeout,
            open_timeout,
            eviction_check: EvictionCheck::default(),
            durability,
            cache_limit,
            buffer_warn_bytes,
            observer,
        }
    }
}

impl RedisPersistenceBuilder {
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

    /// What `put` waits for, and so what a crash of Redis can cost.
    ///
    /// Defaults to [`Durability::Confirmed`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
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
    /// A call of Paho waits for it once an outage. What is written again after one may take a
    /// microsecond more for each byte, while no call waits.
    ///
    /// Defaults to 250 ms. Zero is refused.
    #[must_use]
    pub fn operation_timeout(mut self, operation_timeout: Duration) -> Self {
        self.operation_timeout = operation_timeout;
        self
    }

    /// How long opening may wait for a Redis that is starting, loading its data or busy, or for
    /// another program to let go of the records. Listing the records has as long once more; reading
    /// them comes after that, each batch within `operation_timeout`.
    ///
    /// Defaults to 2 s. Zero is refused. Creating a client waits for this under a lock that all
    /// Paho clients of the process share; [`connect`](RedisPersistence::connect) before that waits
    /// without it.
    #[must_use]
    pub fn open_timeout(mut self, open_timeout: Duration) -> Self {
        self.open_timeout = open_timeout;
        self
    }

    /// How many bytes of values are kept in memory beside Redis. They spare reading them from there,
    /// and fill a Redis again that comes back empty. What Redis has not confirmed comes on top.
    ///
    /// Defaults to 16 MiB. Beyond that the youngest are not kept.
    #[must_use]
    pub fn cache_limit(mut self, cache_limit: usize) -> Self {
        self.cache_limit = cache_limit;
        self
    }

    /// From how many bytes on, held in memory since Redis cannot be used, an alarm is raised: an
    /// error in the log, and [`StoreEvent::BufferWarning`](crate::StoreEvent::BufferWarning). How much is
    /// held is bounded by Paho's `max_buffered_messages`.
    ///
    /// Defaults to 1 MiB.
    #[must_use]
    pub fn buffer_warn_bytes(mut self, buffer_warn_bytes: usize) -> Self {
        self.buffer_warn_bytes = buffer_warn_bytes;
        self
    }

    /// What to do about a Redis that may delete what it has when its memory is full.
    ///
    /// Defaults to [`EvictionCheck::Warn`].
    #[must_use]
    pub fn eviction_check(mut self, eviction_check: EvictionCheck) -> Self {
        self.eviction_check = eviction_check;
        self
    }

    /// Whom to tell what happens to Redis.
    ///
    /// Defaults to nobody. Metrics need none:
    /// [`instrument`](RedisPersistence::instrument) sees to it.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn StoreObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// A persistence with these options. The network is not used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) with the option that cannot work.
    pub fn build(self) -> Result<RedisPersistence, Error> {
        let invalid = |option: &str, reason| Error::invalid_option(option).with_reason(reason);
        let target = RedisAddress::parse(&self.url)?;
        if self.key_prefix.chars().any(char::is_control) {
            return Err(invalid(
                "key_prefix",
                "it has control characters; use printable ones",
            ));
        }
        for (option, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("operation_timeout", self.operation_timeout),
            ("open_timeout", self.open_timeout),
        ] {
            if timeout.is_zero() {
                return Err(invalid(
                    option,
                    "it is zero, so that nothing could ever succeed",
                ));
            }
        }
        Ok(self.build_for(target))
    }

    /// A persistence with these options, which are good, for the target of their URL.
    fn build_for(self, target: RedisAddress) -> RedisPersistence {
        // A new option does not compile until it is passed on here.
        let Self {
            url: _,
            key_prefix,
            connect_timeout,
            operation_timeout,
            open_timeout,
            eviction_check,
            durability,
            cache_limit,
            buffer_warn_bytes,
            observer,
        } = self;
        let store = RedisStore::new(RedisConfig {
            address: target,
            key_prefix,
            connect_timeout,
            operation_timeout,
            open_timeout,
            eviction_check,
            durability,
        });
        let persistence_config = PersistenceConfig {
            durability,
            cache_limit,
            buffer_warn_bytes,
            call_timeout: operation_timeout,
            open_timeout,
            observer,
        };
        Persistence::with_config(store, persistence_config)
    }
}

/// Shows the address without user and password.
impl fmt::Debug for RedisPersistenceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            key_prefix,
            connect_timeout,
            operation_timeout,
            open_timeout,
            eviction_check,
            durability,
            cache_limit,
            buffer_warn_bytes,
            observer: _,
        } = self;
        let url = RedisAddress::parse(url).map_or_else(
            |_| "(not a Redis URL)".to_owned(),
            |target| target.to_string(),
        );
        f.debug_struct("RedisPersistenceBuilder")
            .field("url", &url)
            .field("key_prefix", key_prefix)
            .field("connect_timeout", connect_timeout)
            .field("operation_timeout", operation_timeout)
            .field("open_timeout", open_timeout)
            .field("eviction_check", eviction_check)
            .field("durability", durability)
            .field("cache_limit", cache_limit)
            .field("buffer_warn_bytes", buffer_warn_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(feature = "tls")))]
mod tests {
    use std::error::Error as _;

    use crate::{error::ErrorKind, redis::builder::RedisPersistence};

    #[test]
    fn tls_url_without_feature_tls_is_refused_by_build() {
        let url = "rediss://:Zq7xKv2w@localhost/";
        let error = RedisPersistence::builder().url(url).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOption, "{error}");
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        let text = format!("{error}: {source} {error:?}");
        assert!(text.starts_with("cannot "), "{text}");
        assert!(text.contains("the feature `tls`"), "{text}");
        assert!(!text.contains("Zq7xKv2w"), "{text}");
    }
}
