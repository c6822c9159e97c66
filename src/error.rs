//! The one error type of the crate: what was tried, on what, why it failed and what to do.

pub(crate) mod log_throttle;

use std::{borrow::Cow, error::Error as StdError, fmt, io};

use paho_mqtt as mqtt;

/// What went wrong: the value of the `error` label of the metrics. Later versions may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An option has a value that cannot work.
    InvalidOption,
    /// The client id is empty: records of several programs would share one place.
    InvalidClientId,
    /// The key is none that Paho writes.
    InvalidKey,
    /// A call came before `open` or after `close`.
    NotOpen,
    /// There is no record with that key.
    NotFound,
    /// There was a record with that key, and it is gone without having been removed here.
    Lost,
    /// What is to be written over a record of the same message is not that message.
    ///
    /// Paho sends the message again, and its copy in memory is not the one that it sent before. The
    /// record keeps the first one, so a program that ends now has it sent at its next start, as in
    /// [`StoreObserver::on_damaged`](crate::StoreObserver::on_damaged); one that goes on sends the damaged
    /// copy.
    Damaged,
    /// What was sent, and not waited for, has not happened.
    Unconfirmed,
    /// Another program uses the records at this moment.
    InUse,
    /// Redis may delete every record when its memory is full.
    Eviction,
    /// The store cannot be reached, or the connection broke.
    Connection,
    /// The store did not answer in time.
    Timeout,
    /// The TLS handshake with the store failed.
    Tls,
    /// Redis answered `NOAUTH`, `WRONGPASS` or refused the password.
    Authentication,
    /// Redis answered `NOPERM`: the user lacks a right.
    Permission,
    /// Redis answered `WRONGTYPE`: the key is no hash.
    WrongType,
    /// Redis answered `LOADING`: it is still reading its data.
    Loading,
    /// Redis answered `OOM`: its `maxmemory` is reached.
    OutOfMemory,
    /// Redis answered `READONLY`: it is a replica.
    ReadOnly,
    /// Redis answered `MISCONF`: it cannot write its snapshot and takes no changes.
    Misconf,
    /// Redis answered `BUSY`: a script blocks it.
    Busy,
    /// Redis answered with another error.
    Server,
    /// The answer is none that the protocol allows.
    Protocol,
    /// A metric of the same name is registered already.
    Registration,
    /// The address of the metrics server cannot be bound.
    Bind,
    /// The metrics cannot be gathered, or written as text.
    Render,
    /// A file cannot be written.
    File,
    /// An error of a persistence that is not of this crate.
    Other,
}

impl ErrorKind {
    /// Every kind, in the order of their declaration.
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
        Self::Registration,
        Self::Bind,
        Self::Render,
        Self::File,
        Self::Other,
    ];

    /// The value of the `error` label.
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
            Self::Registration => "registration",
            Self::Bind => "bind",
            Self::Render => "render",
            Self::File => "file",
            Self::Other => "other",
        }
    }

    /// Why, and what to do about it, for an error that brings no reason of its own.
    const fn explanation(self) -> &'static str {
        match self {
            Self::InvalidOption => "an option is invalid",
            Self::InvalidClientId => {
                "the client id is empty; give the MQTT client an id of its own that stays the same \
                 over restarts"
            }
            Self::InvalidKey => "the key is none that Paho writes",
            Self::NotOpen => "the persistence is not open; Paho opens it when a client is created",
            Self::NotFound => "there is no such record",
            Self::Lost => {
                "it was there and is gone, and nobody removed it here; does another program write \
                 there, was Redis emptied, or does its maxmemory-policy evict?"
            }
            Self::Damaged => {
                "Paho sends a message again that is not the one it sent before, as it does after a \
                 write to the broker failed; the record stays as it was, so restart the program to \
                 have it sent"
            }
            Self::Unconfirmed => {
                "the store did not do what it was sent; it is sent again, and waited for"
            }
            Self::InUse => {
                "another program uses these records; give each client an id of its own, or end \
                 the other program"
            }
            Self::Eviction => {
                "its maxmemory-policy has it delete the hash, with every message, when its memory is \
                 full; set maxmemory-policy noeviction"
            }
            Self::Connection => {
                "it cannot be reached; check that it runs there and that this user may connect"
            }
            Self::Timeout => {
                "it did not answer in time; check its load, or allow more time with \
                 connect_timeout and operation_timeout"
            }
            Self::Tls => {
                "the TLS handshake failed; check that this port speaks TLS, that its certificate \
                 is for this host name, and that the system, or the file that SSL_CERT_FILE names, \
                 trusts the issuer"
            }
            Self::Authentication => "it refused the user or password; check those in the URL",
            Self::Permission => "the user lacks a right; the README has the ACL line that it needs",
            Self::WrongType => {
                "the key holds something that is not a hash; choose another key_prefix, or \
                 remove that key"
            }
            Self::Loading => "Redis is still loading its data; try again when it is done",
            Self::OutOfMemory => {
                "Redis has reached its maxmemory; raise it, or free what else is in there"
            }
            Self::ReadOnly => "this Redis is a replica; connect to the one that takes writes",
            Self::Misconf => {
                "Redis takes no writes since it cannot save its snapshot; look at its log and \
                 its disk"
            }
            Self::Busy => "a script blocks Redis; end it with SCRIPT KILL",
            Self::Server => "Redis answered with an error",
            Self::Protocol => "the answer is not one of a Redis server",
            Self::Registration => "a metric of that name is registered already",
            Self::Bind => "the address cannot be bound; another program may use that port",
            Self::Render => "a collector in the registry fails, or panics",
            Self::File => {
                "the file cannot be written; check that its folder exists, has room and lets this \
                 user write"
            }
            Self::Other => "the persistence answered with an error",
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
/// `Display` says what was tried, on what, why it failed and what to do; the raw answer of Redis
/// or of the operating system, where there is one, is the [`source`](StdError::source). Neither
/// holds a password. Inside the [`mqtt::Error`] of a call that a program makes on the persistence
/// itself it is found with [`Error::in_mqtt`].
///
/// ```
/// use paho_mqtt_redis::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::NotFound, "read c-1");
/// assert_eq!(error.to_string(), "cannot read c-1: there is no such record");
/// let error: paho_mqtt_redis::paho_mqtt::Error = error.into();
/// assert_eq!(Error::in_mqtt(&error).unwrap().kind(), ErrorKind::NotFound);
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    attempt: String,
    reason: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of that kind; `attempt` completes the sentence "cannot …".
    #[must_use]
    pub fn new(kind: ErrorKind, attempt: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            attempt: attempt.into(),
            reason: Cow::Borrowed(kind.explanation()),
            source: None,
        }))
    }

    /// An error for an option whose value cannot work.
    #[cfg(any(feature = "metrics", feature = "redis"))]
    pub(crate) fn invalid_option(option: &str) -> Self {
        Self::new(ErrorKind::InvalidOption, format!("use the option {option}"))
    }

    /// The same error with a reason, and what to do, that is more exact than the kind's own.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.0.reason = reason.into();
        self
    }

    /// The same error with the error behind it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The error of this crate inside one of Paho's, where there is one: in what a call of
    /// [`ClientPersistence`](mqtt::ClientPersistence) returns to whoever makes it, such as a
    /// persistence around this one.
    ///
    /// It is never in what a client returns. Paho passes on no more than that its persistence
    /// failed, so that `create_client` answers with [`mqtt::Error::PersistenceError`] and `publish`
    /// with [`mqtt::Error::Publish`] and a number. To learn why, call
    /// [`Persistence::connect`](crate::Persistence::connect) before the client is created, and
    /// read the log.
    #[must_use]
    pub fn in_mqtt(error: &mqtt::Error) -> Option<&Self> {
        match error {
            mqtt::Error::Io(error) => error.get_ref()?.downcast_ref(),
            _ => None,
        }
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

/// Shows an error and everything behind it in one line, for the log.
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

        let error = mqtt::Error::from(error);
        let found = Error::in_mqtt(&error).expect("ours");
        assert_eq!(found.kind(), ErrorKind::Connection);
        assert!(found.source().is_some());
        assert!(Error::in_mqtt(&mqtt::Error::PersistenceError).is_none());
    }
}
