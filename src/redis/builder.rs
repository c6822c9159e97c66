//! The options of [`RedisPersistence`].

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

#[cfg(feature = "redis-tls")]
use super::tls::TlsFiles;
use super::{
    address::RedisAddress, config::RedisConfig, eviction_check::EvictionCheck, password::Password,
    store::RedisStore,
};
use crate::{
    cache::SetAsideOptions,
    clock::Clock,
    error::Error,
    persistence::{OverBudget, Persistence, PersistenceConfig, StoreObserver, WaitingLimits},
    store::{Durability, SetAsideLimits},
};

/// A persistence that keeps the records of a Paho client in a Redis hash.
///
/// The key of the hash is the [`key_prefix`](RedisPersistenceBuilder::key_prefix) followed by
/// `client_id:server_uri`. Use [`RedisPersistence::builder`] to set options.
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
    /// Creates a persistence on `redis://127.0.0.1:6379/0`, with every option at its default.
    ///
    /// The network is not used before [`connect`](RedisPersistence::connect) or `open`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a persistence on the Redis at this URL, with every other option at its default.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption) for a URL that is not one of Redis.
    pub fn from_url(url: impl Into<String>) -> Result<Self, Error> {
        Self::builder().url(url).build()
    }

    /// Returns a builder with every option at its default.
    #[must_use]
    pub fn builder() -> RedisPersistenceBuilder {
        RedisPersistenceBuilder::default()
    }
}

impl Default for RedisPersistence {
    fn default() -> Self {
        let (store, config) = Self::builder().into_valid_parts(RedisAddress::default());
        Self::with_config(store, config)
    }
}

/// The options of a [`RedisPersistence`].
///
/// | option | default | unit, range |
/// |---|---|---|
/// | [`url`](Self::url) | `redis://127.0.0.1:6379/0` | a URL of Redis |
/// | [`password_file`](Self::password_file) | none | the path of a file |
/// | `ca_file`, with the feature `redis-tls` | none | the path of a PEM file |
/// | `client_certificate_file`, with the feature `redis-tls` | none | the path of a PEM file |
/// | `client_key_file`, with the feature `redis-tls` | none | the path of a PEM file |
/// | [`key_prefix`](Self::key_prefix) | empty | text without control characters |
/// | [`durability`](Self::durability) | [`Durability::Confirmed`] | |
/// | [`replicas`](Self::replicas) | 0 | replicas |
/// | [`connect_timeout`](Self::connect_timeout) | 1 s | duration above zero |
/// | [`operation_timeout`](Self::operation_timeout) | 250 ms | duration above zero |
/// | [`open_timeout`](Self::open_timeout) | 2 s | duration above zero |
/// | [`cache_limit`](Self::cache_limit) | 16,777,216 (16 MiB) | bytes of values |
/// | [`buffer_warn_bytes`](Self::buffer_warn_bytes) | 1,048,576 (1 MiB) | bytes of records |
/// | [`max_buffered_messages`](Self::max_buffered_messages) | none | messages |
/// | [`byte_budget`](Self::byte_budget) | none | bytes of records |
/// | [`max_sends`](Self::max_sends) | 10 | connections |
/// | [`quarantine_poison`](Self::quarantine_poison) | `false` | |
/// | [`over_budget`](Self::over_budget) | [`OverBudget::Keep`] | |
/// | [`dead_letters`](Self::dead_letters) | `true` | |
/// | [`dead_letter_limits`](Self::dead_letter_limits) | 1 MiB, 1,000 records, 7 days | |
/// | [`quarantine_limits`](Self::quarantine_limits) | 1 MiB, 1,000 records, 7 days | |
/// | [`eviction_check`](Self::eviction_check) | [`EvictionCheck::Warn`] | |
/// | [`moved_backlog_check`](Self::moved_backlog_check) | `true` | |
/// | [`open_without_redis`](Self::open_without_redis) | `false` | |
/// | [`observer`](Self::observer) | none | |
///
/// The setters accept every value; [`build`](Self::build) returns the error.
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
    password_file: Option<PathBuf>,
    #[cfg(feature = "redis-tls")]
    tls_files: TlsFiles,
    key_prefix: String,
    connect_timeout: Duration,
    operation_timeout: Duration,
    open_timeout: Duration,
    eviction_check: EvictionCheck,
    moved_backlog_check: bool,
    open_without_redis: bool,
    durability: Durability,
    replicas: u32,
    cache_limit: usize,
    buffer_warn_bytes: usize,
    waiting_limits: WaitingLimits,
    max_sends: u32,
    quarantine_poison: bool,
    set_asides: SetAsideOptions,
    observers: Vec<Arc<dyn StoreObserver>>,
}

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

impl Default for RedisPersistenceBuilder {
    fn default() -> Self {
        let PersistenceConfig {
            store_address: _,
            durability,
            cache_limit,
            buffer_warn_bytes,
            waiting_limits,
            max_sends,
            quarantines_poison: quarantine_poison,
            call_timeout,
            open_timeout,
            open_without_store: open_without_redis,
            moved_backlog_check,
            set_asides,
            replicas: _,
            clock: _,
        } = PersistenceConfig::default();
        Self {
            url: RedisAddress::default().to_string(),
            password_file: None,
            #[cfg(feature = "redis-tls")]
            tls_files: TlsFiles::default(),
            key_prefix: String::new(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            operation_timeout: call_timeout,
            open_timeout,
            eviction_check: EvictionCheck::default(),
            moved_backlog_check,
            open_without_redis,
            durability,
            replicas: 0,
            cache_limit,
            buffer_warn_bytes,
            waiting_limits: waiting_limits.get(),
            max_sends,
            quarantine_poison,
            set_asides,
            observers: Vec::new(),
        }
    }
}

impl RedisPersistenceBuilder {
    /// Sets the address of Redis, with user, password and database.
    ///
    /// - TCP: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`; the port defaults to 6379 and the
    ///   database to 0. Without a user the password is that of the user `default`.
    /// - Unix socket: `unix:///PATH[?db=DATABASE&user=USER&pass=PASSWORD]`.
    /// - TLS, with the feature `redis-tls`: `rediss://`, otherwise as over TCP.
    /// - Sentinels: `redis-sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/SERVICE[/DATABASE]`, or
    ///   `rediss-sentinel://` with TLS. Each connect asks them for the master of the service. Their port
    ///   defaults to 26379, and user and password are those of Redis.
    /// - Cluster: `redis-cluster://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]`, or `rediss-cluster://` with TLS. The
    ///   hosts are some nodes of it; each connect finds the node that has the records.
    ///
    /// `valkey://`, `valkeys://` and `redis+unix://` mean the same as `redis://`, `rediss://` and
    /// `unix://`. Special characters of a user or password are percent-encoded. The password
    /// never appears in an error, in the log or in `Debug`.
    ///
    /// Defaults to `redis://127.0.0.1:6379/0`.
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// Sets a file whose first line is the password, in place of the one in the URL.
    ///
    /// It is read each time that a connection is made, so a password that was changed there is used from
    /// the next connection on. The user, if it is not `default`, is in the URL. An error in using the file
    /// has its path in the text.
    ///
    /// Defaults to none.
    #[must_use]
    pub fn password_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.password_file = Some(path.into());
        self
    }

    /// Sets a PEM file with the authorities that `rediss://` trusts, in place of those of the system.
    ///
    /// It is read each time that a connection is made. With a URL without TLS it is an error.
    ///
    /// Defaults to none: the system decides, or the file that the variable `SSL_CERT_FILE` names.
    #[cfg(feature = "redis-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-tls")))]
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_files.ca = Some(path.into());
        self
    }

    /// Sets a PEM file with the certificate that is shown to a Redis which asks for one
    /// (`tls-auth-clients`), and with the certificates between it and an authority that Redis trusts.
    ///
    /// It needs [`client_key_file`](Self::client_key_file) too. Both are read each time that a connection is
    /// made, so a renewed certificate is used from the next connection on. With a URL without TLS it is an
    /// error.
    ///
    /// Defaults to none.
    #[cfg(feature = "redis-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-tls")))]
    #[must_use]
    pub fn client_certificate_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_files.certificate = Some(path.into());
        self
    }

    /// Sets a PEM file with the private key of the certificate in
    /// [`client_certificate_file`](Self::client_certificate_file), not encrypted.
    ///
    /// Defaults to none.
    #[cfg(feature = "redis-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "redis-tls")))]
    #[must_use]
    pub fn client_key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls_files.key = Some(path.into());
        self
    }

    /// Sets the text that precedes `client_id:server_uri` in the key of the hash.
    ///
    /// It separates the records from other keys, and an ACL can grant access to it with one
    /// pattern, such as `~mqtt:*` for the prefix `mqtt:`. The server URI is the one that the client
    /// is created with, without its scheme: with the prefix `mqtt:` a key is
    /// `mqtt:device-1:broker.example:1883`.
    ///
    /// Defaults to an empty prefix, as in paho-mqtt-redis 0.3.2. Control characters are an error.
    #[must_use]
    pub fn key_prefix(mut self, key_prefix: impl Into<String>) -> Self {
        self.key_prefix = key_prefix.into();
        self
    }

    /// Sets what `put` waits for, and so what a crash of Redis can cost.
    ///
    /// During an outage none of the settings waits: records then exist only in memory.
    ///
    /// Defaults to [`Durability::Confirmed`]. With [`Durability::Synced`], connecting returns an error of the kind
    /// [`NotSynced`](crate::ErrorKind::NotSynced) if Redis cannot promise it.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the number of replicas that have to have a record before it counts as confirmed, so that a
    /// failover to one of them loses nothing.
    ///
    /// Whatever waits for Redis, as set by [`durability`](Self::durability), waits for this many replicas too, in the
    /// same round trip (`WAIT`, for up to three quarters of [`operation_timeout`](Self::operation_timeout)). With
    /// [`Durability::Confirmed`] every write waits that is not deferred, as with [`Durability::Synced`]. They have it
    /// in memory then. If fewer do, that is an outage with the reason
    /// [`NotReplicated`](crate::ErrorKind::NotReplicated): the record is also kept in memory until they have it. The user
    /// needs the right `+wait`, which connecting checks.
    ///
    /// Defaults to 0: Redis alone confirms, and replicas get the record a moment later.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets the time for one attempt to connect, until Redis is known to be usable.
    ///
    /// It includes resolving the host name, the TLS handshake, authenticating and checking the
    /// user's rights. Up to half of it is spent waiting for earlier connections to the same records
    /// to end. Opening repeats an attempt that may succeed later, for up to
    /// [`open_timeout`](Self::open_timeout).
    ///
    /// Defaults to 1 s. Zero is an error.
    #[must_use]
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// Sets the time for one exchange with Redis as a whole, in however many parts its reply
    /// arrives.
    ///
    /// If it passes without a reply, that is an outage. One call of Paho waits this long per
    /// outage; further calls do not wait for Redis until it is available again. `close` waits up to
    /// twice this long for a Redis that is unavailable. Reading a value may take 1 µs per byte longer,
    /// and so may writing records again after an outage, while no call waits.
    ///
    /// Defaults to 250 ms. Zero is an error.
    #[must_use]
    pub fn operation_timeout(mut self, operation_timeout: Duration) -> Self {
        self.operation_timeout = operation_timeout;
        self
    }

    /// Sets the time that opening waits for a Redis that is starting, loading its data or busy, or
    /// for another program to release the records.
    ///
    /// Listing the records may take as long once more. Reading them comes after that, each batch
    /// within [`operation_timeout`](Self::operation_timeout). Creating a client waits for all of it
    /// under a lock that every Paho client of the process shares; a call of
    /// [`connect`](RedisPersistence::connect) before that waits without the lock.
    ///
    /// Defaults to 2 s. Zero is an error.
    #[must_use]
    pub fn open_timeout(mut self, open_timeout: Duration) -> Self {
        self.open_timeout = open_timeout;
        self
    }

    /// Sets how many bytes of values are kept in memory beside Redis.
    ///
    /// A cached value is not read from Redis again, and is written again to a Redis that restarts
    /// empty. Beyond the limit, values of newer records are not cached. Values that Redis has not
    /// confirmed are kept in addition, whatever the limit.
    ///
    /// Defaults to 16 MiB.
    #[must_use]
    pub fn cache_limit(mut self, cache_limit: usize) -> Self {
        self.cache_limit = cache_limit;
        self
    }

    /// Sets the number of bytes that exist only in memory, because Redis is unavailable or refuses
    /// them, from which on a warning is raised, once per outage.
    ///
    /// The warning is an error in the log and
    /// [`StoreEvent::BufferWarning`](crate::StoreEvent::BufferWarning). Nothing is dropped: Paho's
    /// `max_buffered_messages` is what limits the memory.
    ///
    /// Defaults to 1 MiB.
    #[must_use]
    pub fn buffer_warn_bytes(mut self, buffer_warn_bytes: usize) -> Self {
        self.buffer_warn_bytes = buffer_warn_bytes;
        self
    }

    /// Sets the limit that the create options of the client have as `max_buffered_messages`.
    ///
    /// The persistence cannot read it there.
    ///
    /// Paho refuses a new message, or drops the oldest one, if as many wait. With this option a gauge
    /// shows the limit, [`StoreEvent::NearlyFull`](crate::StoreEvent::NearlyFull) comes at 80 % of it,
    /// and [`Health::check_room`](crate::Health::check_room) knows it.
    ///
    /// Defaults to none: the limit is unknown.
    #[must_use]
    pub fn max_buffered_messages(mut self, messages: usize) -> Self {
        self.waiting_limits.messages = Some(messages);
        self
    }

    /// Sets a limit in bytes for the records of all waiting messages.
    ///
    /// A gauge shows it, [`StoreEvent::NearlyFull`](crate::StoreEvent::NearlyFull) comes at 80 % of it,
    /// and [`Health::check_room`](crate::Health::check_room) lets the program refuse a message that
    /// exceeds it. Nothing else enforces it: Paho sends what its persistence refuses, and its token for
    /// that message would point to freed memory.
    ///
    /// Defaults to none.
    #[must_use]
    pub fn byte_budget(mut self, bytes: usize) -> Self {
        self.waiting_limits.bytes = Some(bytes);
        self
    }

    /// Sets what happens to waiting messages that exceed the [`byte_budget`](Self::byte_budget) when a client
    /// is created.
    ///
    /// Only then can the persistence drop messages, since Paho does not know them yet. While a client lives
    /// they are Paho's, and what exceeds the budget goes on waiting until the next start. Messages that have
    /// [expired](crate::DropReason::Expired) leave before any other.
    ///
    /// Defaults to [`OverBudget::Keep`].
    #[must_use]
    pub fn over_budget(mut self, over_budget: OverBudget) -> Self {
        self.waiting_limits.over_budget = over_budget;
        self
    }

    /// Sets the number of connections on which a message may be sent without an acknowledgment.
    ///
    /// One that exceeds it may be *poison*: the broker hangs up on it, or it ends the program, each time it is
    /// sent. The number outlives restarts. [`StoreEvent::PoisonSuspect`](crate::StoreEvent::PoisonSuspect),
    /// a line in the log and a gauge report it. Everything that is in flight on a connection is counted, so
    /// messages behind the one that does it are suspected too.
    ///
    /// Defaults to 10. With `u32::MAX` nothing is counted.
    #[must_use]
    pub fn max_sends(mut self, connections: u32) -> Self {
        self.max_sends = connections;
        self
    }

    /// Sets if opening moves a message to the quarantine that exceeds [`max_sends`](Self::max_sends): of all that
    /// do, the one that Paho would send first.
    ///
    /// While a client lives, its messages cannot be taken from Paho. So a program that connects in vain has to
    /// create its client again. [`DeadLetters`](crate::DeadLetters) lists the message, with the reason
    /// `poison`.
    ///
    /// Defaults to `false`: it is sent on each connection.
    #[must_use]
    pub fn quarantine_poison(mut self, quarantine_poison: bool) -> Self {
        self.quarantine_poison = quarantine_poison;
        self
    }

    /// Sets if records that Paho drops are set aside, where [`DeadLetters`](crate::DeadLetters) finds them.
    ///
    /// They are in a hash beside that of the records, whose key ends with `:discarded`.
    ///
    /// Defaults to `true`.
    #[must_use]
    pub fn dead_letters(mut self, dead_letters: bool) -> Self {
        self.set_asides.without_dead_letters = !dead_letters;
        self
    }

    /// Sets the bounds of the dead letters.
    ///
    /// Defaults to 1 MiB, 1,000 records and 7 days.
    #[must_use]
    pub fn dead_letter_limits(mut self, limits: SetAsideLimits) -> Self {
        self.set_asides.discarded = limits;
        self
    }

    /// Sets the bounds of the quarantine, which has the records that Paho could not read, and those of
    /// another origin.
    ///
    /// The only record leaves for its age alone, however large it is.
    ///
    /// Defaults to 1 MiB, 1,000 records and 7 days.
    #[must_use]
    pub fn quarantine_limits(mut self, limits: SetAsideLimits) -> Self {
        self.set_asides.quarantine = limits;
        self
    }

    /// Sets the reaction to a Redis that may delete records when its memory is full.
    ///
    /// Defaults to [`EvictionCheck::Warn`].
    #[must_use]
    pub fn eviction_check(mut self, eviction_check: EvictionCheck) -> Self {
        self.eviction_check = eviction_check;
        self
    }

    /// Sets if [`connect`](RedisPersistence::connect) looks for records of the same client id under
    /// another server URI, and logs a warning with their names and number.
    ///
    /// A client that is created with another address of its broker finds none of its backlog.
    /// [`adopt`](RedisPersistence::adopt) moves it. The search looks at up to 100,000 keys of the database
    /// for up to [`operation_timeout`](Self::operation_timeout). The user needs the right `+scan` for it;
    /// without it a warning is logged instead.
    ///
    /// Defaults to `true`.
    #[must_use]
    pub fn moved_backlog_check(mut self, moved_backlog_check: bool) -> Self {
        self.moved_backlog_check = moved_backlog_check;
        self
    }

    /// Sets if a client can be created while Redis is unreachable, loading or busy.
    ///
    /// Opening then succeeds after [`open_timeout`](Self::open_timeout) without the records, as in an
    /// outage: what is put is kept in memory, [`StoreEvent::Down`](crate::StoreEvent::Down) and the metrics
    /// show it, and it is lost if the program dies before Redis is back. When Redis is back, records of an
    /// earlier run stay, and Paho does not know them:
    /// [`StoreEvent::EarlierRecords`](crate::StoreEvent::EarlierRecords) has their number, and the next start
    /// sends them. [`connect`](RedisPersistence::connect) still returns the error, and so does opening for
    /// every other reason.
    ///
    /// Defaults to `false`: the client is not created.
    #[must_use]
    pub fn open_without_redis(mut self, open_without_redis: bool) -> Self {
        self.open_without_redis = open_without_redis;
        self
    }

    /// Adds an observer, which receives the events of the store.
    ///
    /// Each observer receives every event, in the order in which they were added. To share one with the
    /// program, pass an [`Arc`] of it.
    ///
    /// Defaults to none. Metrics need no observer:
    /// [`instrument`](RedisPersistence::instrument) attaches its own.
    #[must_use]
    pub fn observer(mut self, observer: impl StoreObserver + 'static) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Builds a persistence with these options. The network is not used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption), with the option in its text: a
    /// URL that is not one of Redis or needs the feature `redis-tls`, a prefix with control characters,
    /// `over_budget` without `byte_budget`, or a timeout of zero.
    pub fn build(self) -> Result<RedisPersistence, Error> {
        let observers = self.observers.clone();
        let (store, config) = self.build_parts(None)?;
        let mut persistence = Persistence::with_config(store, config);
        for observer in observers {
            persistence.add_observer(observer);
        }
        Ok(persistence)
    }

    /// Validates these options, and returns a store with the configuration of its persistence.
    ///
    /// `password` replaces that of the URL.
    pub(crate) fn build_parts(
        self,
        password: Option<String>,
    ) -> Result<(RedisStore, PersistenceConfig), Error> {
        let address = self.validate(password).map_err(|(_, error)| error)?;
        Ok(self.into_valid_parts(address))
    }

    /// Returns the address of Redis, or the name of an option that cannot work with the error about it.
    pub(super) fn validate(
        &self,
        password: Option<String>,
    ) -> Result<RedisAddress, (&'static str, Error)> {
        let invalid = |option: &'static str, reason| {
            (option, Error::invalid_option(option).with_reason(reason))
        };
        let of_file = || self.password_file.clone().map(Password::File);
        let password = password.map(Password::Text).or_else(of_file);
        let address = RedisAddress::parse(&self.url, password);
        let address = address.map_err(|error| ("url", error))?;
        #[cfg(feature = "redis-tls")]
        let address = {
            let files = self.tls_files.clone();
            let valid = files.validate(address.tls);
            valid.map_err(|(option, reason)| invalid(option, reason))?;
            RedisAddress {
                tls_files: files,
                ..address
            }
        };
        if self.key_prefix.chars().any(char::is_control) {
            return Err(invalid(
                "key_prefix",
                "it has control characters; use printable ones",
            ));
        }
        let limits = self.waiting_limits;
        if limits.over_budget != OverBudget::Keep && limits.bytes.is_none() {
            return Err(invalid(
                "over_budget",
                "there is no budget to exceed; set byte_budget too",
            ));
        }
        for (option, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("operation_timeout", self.operation_timeout),
            ("open_timeout", self.open_timeout),
        ] {
            if timeout.is_zero() {
                return Err(invalid(option, "zero would make every attempt fail"));
            }
        }
        Ok(address)
    }

    /// Returns the parts for options that have been validated; `address` is their parsed URL.
    fn into_valid_parts(self, address: RedisAddress) -> (RedisStore, PersistenceConfig) {
        // Destructured, so that a new option does not compile until it is passed on.
        let Self {
            url: _,
            password_file: _,
            #[cfg(feature = "redis-tls")]
                tls_files: _,
            key_prefix,
            connect_timeout,
            operation_timeout,
            open_timeout,
            eviction_check,
            moved_backlog_check,
            open_without_redis,
            durability,
            replicas,
            cache_limit,
            buffer_warn_bytes,
            waiting_limits,
            max_sends,
            quarantine_poison,
            set_asides,
            observers: _,
        } = self;
        let store_address = Some(address.for_display());
        let store = RedisStore::new(RedisConfig {
            address,
            key_prefix,
            connect_timeout,
            operation_timeout,
            open_timeout,
            eviction_check,
            durability,
            replicas,
        });
        let persistence_config = PersistenceConfig {
            store_address,
            durability,
            replicas,
            cache_limit,
            buffer_warn_bytes,
            waiting_limits: waiting_limits.into(),
            max_sends,
            quarantines_poison: quarantine_poison,
            call_timeout: operation_timeout,
            open_timeout,
            open_without_store: open_without_redis,
            moved_backlog_check,
            set_asides,
            clock: Clock::System,
        };
        (store, persistence_config)
    }
}

/// Shows the address without user and password.
impl fmt::Debug for RedisPersistenceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url,
            password_file,
            #[cfg(feature = "redis-tls")]
            tls_files,
            key_prefix,
            connect_timeout,
            operation_timeout,
            open_timeout,
            eviction_check,
            moved_backlog_check,
            open_without_redis,
            durability,
            replicas,
            cache_limit,
            buffer_warn_bytes,
            waiting_limits,
            max_sends,
            quarantine_poison,
            set_asides,
            observers: _,
        } = self;
        let password = password_file.clone().map(Password::File);
        let url = RedisAddress::parse(url, password).map_or_else(
            |_| "(not a Redis URL)".to_owned(),
            |address| address.to_string(),
        );
        let mut shown = f.debug_struct("RedisPersistenceBuilder");
        shown.field("url", &url);
        shown.field("password_file", password_file);
        #[cfg(feature = "redis-tls")]
        shown
            .field("ca_file", &tls_files.ca)
            .field("client_certificate_file", &tls_files.certificate)
            .field("client_key_file", &tls_files.key);
        shown
            .field("key_prefix", key_prefix)
            .field("connect_timeout", connect_timeout)
            .field("operation_timeout", operation_timeout)
            .field("open_timeout", open_timeout)
            .field("eviction_check", eviction_check)
            .field("moved_backlog_check", moved_backlog_check)
            .field("open_without_redis", open_without_redis)
            .field("durability", durability)
            .field("replicas", replicas)
            .field("cache_limit", cache_limit)
            .field("buffer_warn_bytes", buffer_warn_bytes)
            .field("max_buffered_messages", &waiting_limits.messages)
            .field("byte_budget", &waiting_limits.bytes)
            .field("over_budget", &waiting_limits.over_budget)
            .field("max_sends", max_sends)
            .field("quarantine_poison", quarantine_poison)
            .field("dead_letters", &!set_asides.without_dead_letters)
            .field("dead_letter_limits", &set_asides.discarded)
            .field("quarantine_limits", &set_asides.quarantine)
            .finish_non_exhaustive()
    }
}
