//! The error type of the crate.

pub(crate) mod log_throttle;
pub(crate) mod option_words;

use std::{borrow::Cow, error::Error as StdError, fmt, io};

use paho_mqtt as mqtt;

/// Defines [`ErrorKind`] from its one table: further documentation, variant, name, meaning and advice.
macro_rules! error_kinds {
    ($($(#[$more:meta])* $kind:ident, $name:literal, $meaning:literal, $advice:literal;)*) => {
        /// The kind of an [`Error`], and the value of the label `error` of the metrics.
        ///
        /// Each kind states what it means and what to do; [`meaning`](Self::meaning) and
        /// [`advice`](Self::advice) return the same words. When Paho's client is created, and in
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
            $(
                #[doc = concat!("`", $name, "`: ", $meaning, ".")]
                #[doc = ""]
                #[doc = concat!("To do: ", $advice, ".")]
                #[doc = ""]
                $(#[$more])*
                $kind,
            )*
        }

        impl ErrorKind {
            /// All kinds, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// Returns the value of the label `error`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $name),* }
            }

            /// Returns the meaning of the kind: a clause without a capital at its start or a period at its end.
            ///
            /// ```
            /// # use paho_mqtt_redis::ErrorKind;
            /// assert_eq!(ErrorKind::Timeout.meaning(), "Redis did not reply in time");
            /// ```
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$kind => $meaning),* }
            }

            /// Returns the first thing to do about an error of the kind, as a clause like [`meaning`](Self::meaning).
            ///
            /// ```
            /// # use paho_mqtt_redis::ErrorKind;
            /// assert_eq!(ErrorKind::ReadOnly.advice(), "connect to the primary");
            /// ```
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$kind => $advice),* }
            }

            /// Returns the meaning and the advice, as the log, the page and `/-/ready` show them.
            pub(crate) const fn explanation(self) -> &'static str {
                match self { $(Self::$kind => concat!($meaning, "; ", $advice)),* }
            }
        }
    };
}

error_kinds! {
    InvalidOption, "invalid_option",
        "an option has a value that cannot work",
        "correct the option that the error names";
    InvalidClientId, "invalid_client_id",
        "the client id is empty, so programs without an id would share their records",
        "give the client an id that is unique and stays the same across restarts";
    /// Only a program that calls the persistence itself can cause it.
    InvalidKey, "invalid_key",
        "Paho does not write such a key",
        "pass keys that Paho has passed";
    /// A call came before `open` or after `close`.
    NotOpen, "not_open",
        "the persistence is not open",
        "open it first; Paho does so when a client is created";
    /// Only `get` returns it: removing a missing record is no error, since Paho also removes records that it
    /// never put.
    NotFound, "not_found",
        "there is no such record",
        "check the key";
    Lost, "lost",
        "records disappeared from Redis or were altered there",
        "what this process has in memory is written again; find out who flushed Redis or deletes from it, or whether \
         its maxmemory-policy evicts";
    /// A write to the broker failed before, and Paho freed the message. The next start sends the stored record;
    /// a program that goes on sends the damaged copy:
    /// [`StoreObserver::on_damaged`](crate::StoreObserver::on_damaged).
    Damaged, "damaged",
        "Paho sends a message again whose copy in memory has changed; the stored record is intact",
        "flush and restart the program";
    /// A single one needs no action.
    Unconfirmed, "unconfirmed",
        "Redis did not apply a write that was sent without waiting for its reply; it is written again",
        "if this repeats, check whether another program writes to the records";
    InUse, "in_use",
        "another program uses these records",
        "give each client an id of its own, or stop the other program, whose connection the error names";
    /// The option `eviction_check` decides whether this is an error.
    Eviction, "eviction",
        "Redis may evict the hash, with every record, when its memory is full",
        "set maxmemory-policy noeviction";
    /// For a Unix socket, the user of the program must be in Redis's group.
    Connection, "connection",
        "Redis cannot be reached, or the connection broke",
        "check that Redis runs, that the socket or port in the URL is its own, and that the user of this program may \
         connect";
    Timeout, "timeout",
        "Redis did not reply in time",
        "check whether Redis is stopped, swapping, out of CPU or waiting for its disk; relieve it, or raise \
         operation_timeout and connect_timeout";
    /// The file that the option `ca_file` names decides about the issuer or, without it, the one that
    /// `SSL_CERT_FILE` names or the system.
    Tls, "tls",
        "the TLS handshake with Redis failed",
        "check that the port speaks TLS, that the certificate is for this host name, that ca_file, SSL_CERT_FILE or the \
         system trusts its issuer, and that Redis trusts that of client_certificate_file";
    Authentication, "authentication",
        "Redis rejected the user or password in the URL or in the password file (NOAUTH, WRONGPASS)",
        "correct them, or the ACL of the user";
    Permission, "permission",
        "the user lacks a permission (NOPERM)",
        "grant it: docs/redis.md has the ACL line; check key_prefix if the ACL grants a pattern of keys";
    WrongType, "wrong_type",
        "the key does not hold a hash (WRONGTYPE)",
        "choose another key_prefix, or delete that key";
    Loading, "loading",
        "Redis is still loading its data (LOADING)",
        "wait; if the start of the program meets it, raise open_timeout";
    OutOfMemory, "out_of_memory",
        "Redis has reached its maxmemory (OOM)",
        "raise maxmemory, bring the link to the broker back, or publish less";
    ReadOnly, "read_only",
        "this Redis is a read-only replica (READONLY)",
        "connect to the primary";
    Misconf, "misconf",
        "Redis cannot save its snapshot and refuses writes (MISCONF)",
        "check the log of Redis and free its disk, or disable snapshots with save \"\"";
    /// Only with [`Durability::Synced`](crate::Durability::Synced).
    NotSynced, "not_synced",
        "Redis may confirm a record before its disk has it",
        "set appendonly yes, appendfsync always and no-appendfsync-on-rewrite no";
    /// With the option `replicas` of `RedisPersistenceBuilder`, or `min-replicas-to-write` in the
    /// configuration of Redis (NOREPLICAS).
    NotReplicated, "not_replicated",
        "fewer replicas than required have the record",
        "bring the replicas of this Redis back, wait until one that joins has loaded the data, or lower the option \
         replicas and min-replicas-to-write";
    Busy, "busy",
        "a script blocks Redis (BUSY)",
        "end it with SCRIPT KILL";
    /// The text contains Redis's words, or names the database that Redis does not have.
    Server, "server",
        "Redis returned another error",
        "read Redis's own words in the log";
    Protocol, "protocol",
        "the reply is not valid RESP, the protocol of Redis",
        "check that the URL leads to a Redis";
    /// [`Client::publish`](crate::Client::publish) and [`Health::check_room`](crate::Health::check_room) return it.
    Full, "full",
        "a message exceeds a limit of what waits: max_messages, max_buffered_messages or byte_budget",
        "publish later or not at all, or raise the limit";
    Broker, "broker",
        "the broker, or Paho's client, refused what was asked of it",
        "read the reason code or Paho's own words in the error";
    Registration, "registration",
        "a metric with the same name is already registered",
        "register PersistenceMetrics once per registry, and clone it";
    /// The [`source`](StdError::source) is the cause.
    Bind, "bind",
        "the address of the metrics server cannot be bound",
        "free the port, or use an address that this host has";
    Render, "render",
        "the metrics cannot be collected, or encoded as text",
        "correct the collector in the registry that fails or panics";
    File, "file",
        "a file cannot be written",
        "check that its directory exists, has space and is writable";
    Other, "other",
        "a persistence or store that is not of this crate returned an error, or the store panicked",
        "read its own words in the log";
}

impl ErrorKind {
    /// Returns `true` for errors of a store that is starting or stalls, or of a predecessor that is ending:
    /// another attempt may succeed.
    pub(crate) const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Busy
                | Self::Connection
                | Self::InUse
                | Self::Loading
                | Self::NotReplicated
                | Self::Timeout
        )
    }

    /// Returns `true` for a reply with which the store refuses a request, and nothing else is wrong.
    ///
    /// The connection can be used further, and the store still has the records that it had.
    /// `ReadOnly` is none: after a failover another server may be the primary. `Loading` is none: the
    /// store may load an older state.
    /// `NotSynced` and `NotReplicated` are none: what the store takes is not as safe as was asked for.
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
/// assert_eq!(error.to_string(), "cannot read c-1: there is no such record; check the key");
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
    /// The reason is the meaning and the advice of the kind until [`with_reason`](Self::with_reason) replaces it.
    #[must_use]
    pub fn new(kind: ErrorKind, attempt: impl Into<String>) -> Self {
        Self(Box::new(ErrorInner {
            kind,
            attempt: attempt.into(),
            reason: Cow::Borrowed(kind.explanation()),
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
    #[cfg(feature = "redis")]
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

/// Displays an error and all its sources, and ends with the meaning and the advice of its kind.
pub(crate) struct ExplainedError<'a>(pub(crate) &'a Error);

impl fmt::Display for ExplainedError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0.0;
        let explanation = inner.kind.explanation();
        write!(f, "cannot {}: ", inner.attempt)?;
        // A reason that is the explanation itself comes last.
        if inner.reason != explanation {
            write!(f, "{}: ", inner.reason)?;
        }
        if let Some(source) = self.0.source() {
            write!(f, "{}: ", ErrorChain(source))?;
        }
        f.write_str(explanation)
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
    fn explained_error_ends_with_advice_given_once() {
        let error = Error::new(ErrorKind::ReadOnly, "write").with_source("READONLY no");
        let explanation = "this Redis is a read-only replica (READONLY); connect to the primary";
        assert_eq!(
            ExplainedError(&error).to_string(),
            format!("cannot write: READONLY no: {explanation}")
        );
        let error = error.with_reason("it is a replica of 10.0.0.1");
        assert_eq!(
            ExplainedError(&error).to_string(),
            format!("cannot write: it is a replica of 10.0.0.1: READONLY no: {explanation}")
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
