//! The error type of the crate.

pub(crate) mod log_throttle;
pub(crate) mod option_words;

use std::{borrow::Cow, error::Error as StdError, fmt, io};

use paho_mqtt as mqtt;

/// The kind of an [`Error`], and the value of the label `error` of the metrics.
///
/// Each kind states what it means and what to do. When Paho's client is created, and in
/// [`Persistence::connect`](crate::Persistence::connect), every kind is an error. While a client runs, a
/// failure of the store is not: writes are kept in memory and retried, and the persistence recovers
/// without a restart once the cause is gone. Then the kind appears in the log, in the metrics, in
/// [`Health::last_error`](crate::Health::last_error) and in
/// [`StoreEvent::Down`](crate::StoreEvent::Down).
///
/// Later versions may add kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An option has a value that cannot work.
    ///
    /// Correct the option that the error names.
    InvalidOption,
    /// The client id is empty, so programs without an id would share their records.
    ///
    /// Give the client an id that is unique and stays the same across restarts.
    InvalidClientId,
    /// Paho does not write such a key.
    ///
    /// Only a program that calls the persistence itself can cause it: pass keys that Paho has passed.
    InvalidKey,
    /// A call came before `open` or after `close`.
    ///
    /// Paho opens the persistence when a client is created. A program that calls the persistence itself
    /// has to do so too.
    NotOpen,
    /// The store has no record with this key.
    ///
    /// Only `get` returns it: removing a missing record is no error, since Paho also removes records
    /// that it never put.
    NotFound,
    /// The record disappeared from the store or was altered there, and this process neither did that nor
    /// has a copy.
    ///
    /// Find out who flushed Redis or deletes from it, or whether its `maxmemory-policy` evicts.
    Lost,
    /// Paho sends a message again, but its copy in memory has changed.
    ///
    /// A write to the broker failed before, and Paho freed the message. The stored record is intact. A
    /// program that ends now has its next start send that record; one that goes on sends the damaged
    /// copy. Flush and restart, as in
    /// [`StoreObserver::on_damaged`](crate::StoreObserver::on_damaged).
    Damaged,
    /// The store did not apply a write that was sent without waiting for its reply.
    ///
    /// The persistence writes it again, so a single one needs no action. If it repeats, check whether
    /// another program writes to the records.
    Unconfirmed,
    /// Another program uses these records.
    ///
    /// Give each client an id of its own, or stop the other program. The error names its connection.
    InUse,
    /// Redis may evict the hash, with every record, when its memory is full.
    ///
    /// Set `maxmemory-policy noeviction`. The option `eviction_check` decides whether this is an
    /// error.
    Eviction,
    /// The store is unreachable, or the connection broke.
    ///
    /// Check that Redis runs, that the socket or port in the URL is its own, and that the user of the
    /// program may connect: for a Unix socket it must be in Redis's group.
    Connection,
    /// The store did not reply in time.
    ///
    /// Check whether Redis is stopped, swapping, out of CPU or waiting for its disk. Relieve it, or raise
    /// `operation_timeout` and `connect_timeout`.
    Timeout,
    /// The TLS handshake with the store failed.
    ///
    /// Check that the port speaks TLS, that the certificate is for this host name, and that its issuer is
    /// trusted: by the file that the option `ca_file` names or, without it, by the one that `SSL_CERT_FILE`
    /// names or by the system.
    Tls,
    /// Redis rejected the user or password (`NOAUTH`, `WRONGPASS`).
    ///
    /// Check both in the URL or the password file, and the ACL of the user.
    Authentication,
    /// The user lacks a permission (`NOPERM`).
    ///
    /// Grant it: docs/redis.md has the ACL line. Check `key_prefix` if the ACL grants a pattern of keys.
    Permission,
    /// The key does not hold a hash (`WRONGTYPE`).
    ///
    /// Choose another `key_prefix`, or delete that key.
    WrongType,
    /// Redis is still loading its data (`LOADING`).
    ///
    /// Wait. If the start of the program meets it, raise `open_timeout`.
    Loading,
    /// Redis has reached its `maxmemory` (`OOM`).
    ///
    /// Raise it, bring the link to the broker back, or publish less.
    OutOfMemory,
    /// This Redis is a read-only replica (`READONLY`).
    ///
    /// Connect to the primary.
    ReadOnly,
    /// Redis cannot save its snapshot and refuses writes (`MISCONF`).
    ///
    /// Check its log and free its disk, or disable snapshots with `save ""`.
    Misconf,
    /// A script blocks Redis (`BUSY`).
    ///
    /// End it with `SCRIPT KILL`.
    Busy,
    /// Redis returned another error.
    ///
    /// The text contains Redis's words, or names the database that Redis does not have.
    Server,
    /// The reply is not valid in the protocol of Redis (RESP).
    ///
    /// Check that the URL leads to a Redis.
    Protocol,
    /// A message exceeds a limit of what waits: `max_messages`, `max_buffered_messages` or `byte_budget`.
    ///
    /// [`Client::publish`](crate::Client::publish) and [`Health::check_room`](crate::Health::check_room) return
    /// it. Publish later, or not at all.
    Full,
    /// The broker, or Paho's client, refused what was asked of it.
    ///
    /// Its text has the reason code or Paho's own words.
    Broker,
    /// A metric with the same name is already registered.
    ///
    /// Register `PersistenceMetrics` once per registry, and clone it.
    Registration,
    /// The address of the metrics server cannot be bound.
    ///
    /// The [`source`](StdError::source) is the cause: the port is in use, or this host does not have the
    /// address.
    Bind,
    /// The metrics cannot be collected, or encoded as text.
    ///
    /// A collector in the registry fails or panics: correct it.
    Render,
    /// A file cannot be written.
    ///
    /// Check that its directory exists, has space and is writable.
    File,
    /// A persistence or store that is not of this crate returned an error, or the store panicked.
    Other,
}

impl ErrorKind {
    /// All kinds, in declaration order.
    pub const ALL: &'static [Self] = &[
        Self::InvalidOption,
        Self::InvalidClientId,
        Self::InvalidKey,
        Self::NotOpen,
        Self::NotFound,
        Self::Lost,
        Self::Damaged,
        Self::Unconfirmed,
        Self::InUse,
        Self::Eviction,
        Self::Connection,
        Self::Timeout,
        Self::Tls,
        Self::Authentication,
        Self::Permission,
        Self::WrongType,
        Self::Loading,
        Self::OutOfMemory,
        Self::ReadOnly,
        Self::Misconf,
        Self::Busy,
        Self::Server,
        Self::Protocol,
        Self::Full,
        Self::Broker,
        Self::Registration,
        Self::Bind,
        Self::Render,
        Self::File,
        Self::Other,
    ];

    /// Returns `true` for a reply with which the store refuses a request, and nothing else is wrong.
    ///
    /// The connection can be used further, and the store still has the records that it had.
    /// `ReadOnly` is none: after a failover another server may be the primary. `Loading` is none: the
    /// store may load an older state.
    pub(crate) const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Busy
                | Self::Misconf
                | Self::OutOfMemory
                | Self::Permission
                | Self::Server
                | Self::WrongType
        )
    }

    /// Returns the value of the label `error`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidOption => "invalid_option",
            Self::InvalidClientId => "invalid_client_id",
            Self::InvalidKey => "invalid_key",
            Self::NotOpen => "not_open",
            Self::NotFound => "not_found",
            Self::Lost => "lost",
            Self::Damaged => "damaged",
            Self::Unconfirmed => "unconfirmed",
            Self::InUse => "in_use",
            Self::Eviction => "eviction",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::WrongType => "wrong_type",
            Self::Loading => "loading",
            Self::OutOfMemory => "out_of_memory",
            Self::ReadOnly => "read_only",
            Self::Misconf => "misconf",
            Self::Busy => "busy",
            Self::Server => "server",
            Self::Protocol => "protocol",
            Self::Full => "full",
            Self::Broker => "broker",
            Self::Registration => "registration",
            Self::Bind => "bind",
            Self::Render => "render",
            Self::File => "file",
            Self::Other => "other",
        }
    }

    /// Returns the cause and the remedy for an error that is given no reason of its own.
    const fn default_reason(self) -> &'static str {
        match self {
            Self::InvalidOption => "an option is invalid",
            Self::InvalidClientId => {
                "the client id is empty; set one that is unique and stable across restarts"
            }
            Self::InvalidKey => "Paho does not write such a key",
            Self::NotOpen => "the persistence is not open; Paho opens it when a client is created",
            Self::NotFound => "there is no such record",
            Self::Lost => {
                "the record disappeared from the store, or was altered; does another program write \
                 there, was Redis flushed, or does its maxmemory-policy evict?"
            }
            Self::Damaged => {
                "Paho's copy of the message changed after a failed write to the broker; the stored \
                 record is intact, so restart the program to send it"
            }
            Self::Unconfirmed => "the store did not apply a write; it is written again",
            Self::InUse => {
                "another program uses these records; give each client its own id, or stop the other \
                 program"
            }
            Self::Eviction => {
                "its maxmemory-policy may delete the hash, with every message, when memory is full; \
                 set maxmemory-policy noeviction"
            }
            Self::Connection => {
                "it is unreachable; check that it runs and that this user may connect"
            }
            Self::Timeout => {
                "no reply in time; check its load, or raise connect_timeout and operation_timeout of RedisPersistenceBuilder"
            }
            Self::Tls => {
                "the TLS handshake failed; check that this port speaks TLS, that its certificate \
                 is for this host name, and that the option ca_file, the file that SSL_CERT_FILE \
                 names, or the system trusts the issuer"
            }
            Self::Authentication => {
                "Redis rejected the user or password in the URL or in the password file"
            }
            Self::Permission => "the user lacks a permission; docs/redis.md has the ACL line",
            Self::WrongType => {
                "the key does not hold a hash; choose another key_prefix, or delete that key"
            }
            Self::Loading => "Redis is still loading its data; try again when it is done",
            Self::OutOfMemory => "Redis reached maxmemory; raise it, or free memory",
            Self::ReadOnly => "this Redis is a read-only replica; connect to the primary",
            Self::Misconf => {
                "Redis refuses writes because it cannot save its snapshot; check its log and its disk"
            }
            Self::Busy => "a script blocks Redis; end it with SCRIPT KILL",
            Self::Server => "Redis returned an error",
            Self::Protocol => "the reply is not valid RESP; is this a Redis server?",
            Self::Full => "a limit of what waits is reached",
            Self::Broker => "the broker or Paho's client refused it",
            Self::Registration => "a metric with that name is already registered",
            Self::Bind => "the address cannot be bound",
            Self::Render => "a collector in the registry failed or panicked",
            Self::File => {
                "the file cannot be written; check that its directory exists, has space and is writable"
            }
            Self::Other => "the persistence returned an error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of this crate.
///
/// `Display` has the form `cannot <what was tried>: <why, and what to do>`. The words of Redis or of the
/// operating system are mostly in the [`source`](StdError::source), so print both. Neither contains a
/// password. [`ErrorKind`] explains each kind.
///
/// If a program calls the persistence itself, [`Error::in_mqtt`] finds this error in the
/// [`mqtt::Error`].
///
/// ```
/// use paho_mqtt_redis::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::NotFound, "read c-1");
/// assert_eq!(error.to_string(), "cannot read c-1: there is no such record");
/// let error: paho_mqtt_redis::paho_mqtt::Error = error.into();
/// assert_eq!(Error::in_mqtt(&error).unwrap().kind(), ErrorKind::NotFound);
/// ```
// Boxed, so that a `Result` with it stays small.
pub struct Error(Box<ErrorInner>);

struct ErrorInner {
    kind: ErrorKind,
    /// Completes the sentence "cannot …".
    attempt: String,
    reason: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Creates an error of this kind; `attempt` completes the sentence "cannot …".
    ///
    /// The reason is that of the kind until [`with_reason`](Self::with_reason) replaces it.
    #[must_use]
    pub fn new(kind: ErrorKind, attempt: impl Into<String>) -> Self {
        Self(Box::new(ErrorInner {
            kind,
            attempt: attempt.into(),
            reason: Cow::Borrowed(kind.default_reason()),
            source: None,
        }))
    }

    /// Creates an error for an option whose value cannot work.
    pub(crate) fn invalid_option(option: &str) -> Self {
        Self::new(ErrorKind::InvalidOption, format!("use the option {option}"))
    }

    /// Replaces the reason of the kind by a more exact cause and remedy.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.0.reason = reason.into();
        self
    }

    /// Replaces the attempt, which completes the sentence "cannot …".
    #[cfg(feature = "redis")]
    pub(crate) fn with_attempt(mut self, attempt: String) -> Self {
        self.0.attempt = attempt;
        self
    }

    /// Sets the underlying error, which [`source`](StdError::source) returns.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the cause and the remedy alone.
    #[cfg(feature = "cli")]
    pub(crate) fn reason(&self) -> &str {
        &self.0.reason
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the error of this crate inside an error of Paho, if there is one.
    ///
    /// A direct call of [`ClientPersistence`](mqtt::ClientPersistence) returns such an error, for example
    /// to another persistence that wraps this one. A client never does: Paho drops the reason, so
    /// `create_client` returns [`mqtt::Error::PersistenceError`], and `publish` returns
    /// [`mqtt::Error::Publish`] with a number. To get the reason, call
    /// [`Persistence::connect`](crate::Persistence::connect) before the client is created, and read the
    /// log.
    #[must_use]
    pub fn in_mqtt(error: &mqtt::Error) -> Option<&Self> {
        match error {
            // The conversion below wraps it in an `io::Error`.
            mqtt::Error::Io(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
    }
}

/// Shows the kind, and the text with every cause, since that is how an error reads that `main` returns.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind(), ErrorChain(self))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.0.attempt, self.0.reason)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<Error> for mqtt::Error {
    fn from(error: Error) -> Self {
        Self::Io(io::Error::other(error))
    }
}

/// Displays an error and all its sources in one line, for the log.
pub(crate) struct ErrorChain<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_error_kind_is_listed_once_with_unique_name() {
        let names: HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
        let position = |kind: ErrorKind| kind as usize;
        assert!(
            ErrorKind::ALL
                .iter()
                .copied()
                .map(position)
                .eq(0..=position(ErrorKind::Other))
        );
    }

    #[test]
    fn cause_is_shown_once_and_survives_in_mqtt_error() {
        let cause = io::Error::from(io::ErrorKind::ConnectionRefused);
        let text = cause.to_string();
        let error =
            Error::new(ErrorKind::Connection, "connect to redis://127.0.0.1:1/").with_source(cause);
        assert!(!error.to_string().contains(&text), "{error}");
        assert_eq!(ErrorChain(&error).to_string().matches(&text).count(), 1);
        let shown = format!("{error:?}");
        assert!(
            shown.starts_with("connection: cannot connect to redis://"),
            "{shown}"
        );
        assert!(shown.ends_with(&text), "{shown}");

        let error = mqtt::Error::from(error);
        let found = Error::in_mqtt(&error).expect("an error of this crate");
        assert_eq!(found.kind(), ErrorKind::Connection);
        assert!(found.source().is_some());
        assert!(Error::in_mqtt(&mqtt::Error::PersistenceError).is_none());
    }
}
