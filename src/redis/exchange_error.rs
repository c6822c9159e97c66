//! What Redis, or the way to it, answered instead of a value.

use std::io;

use ::redis::{RedisError, ServerError};

use super::acl;
use crate::error::{Error, ErrorKind};

/// Why an exchange gave no value.
pub(super) enum ExchangeError {
    /// Redis answered with an error, in these words; the connection is as good as before.
    ErrorReply(ErrorKind, String),
    /// The connection is of no use any more: it broke, or it is out of step.
    Unusable(ErrorKind, BoxedError),
    /// The same, with a reason, and what to do, that is more exact than the kind's own.
    Disconnected(&'static str, BoxedError),
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl ExchangeError {
    /// The error of an attempt, which completes the sentence "cannot …".
    pub(super) fn into_error(self, attempt: impl FnOnce() -> String) -> Error {
        match self {
            Self::ErrorReply(kind, words) => {
                let mut error = Error::new(kind, attempt());
                if let (ErrorKind::Permission, Some(reason)) = (kind, acl::missing_command(&words))
                {
                    error = error.with_reason(reason);
                }
                error.with_source(words)
            }
            Self::Unusable(kind, source) => Error::new(kind, attempt()).with_source(source),
            Self::Disconnected(reason, source) => Error::new(ErrorKind::Connection, attempt())
                .with_reason(reason)
                .with_source(source),
        }
    }

    /// The connection is as good as before.
    pub(super) fn unconfirmed(what: &'static str) -> Self {
        Self::ErrorReply(ErrorKind::Unconfirmed, what.to_owned())
    }

    pub(super) fn protocol(what: &'static str) -> Self {
        Self::Unusable(ErrorKind::Protocol, what.into())
    }
}

impl From<io::Error> for ExchangeError {
    fn from(error: io::Error) -> Self {
        if is_hung_up(error.kind()) {
            return Self::Disconnected(HUNG_UP, error.into());
        }
        Self::Unusable(kind_of_io(error.kind()), error.into())
    }
}

/// The parser's errors; one that Redis answered with is a value to it.
impl From<RedisError> for ExchangeError {
    fn from(error: RedisError) -> Self {
        // It names its own source once more, so that only its words are kept.
        let words = error.to_string().into();
        if error.is_timeout() {
            Self::Unusable(ErrorKind::Timeout, words)
        } else if error.is_connection_dropped() {
            Self::Disconnected(HUNG_UP, words)
        } else if error.is_io_error() {
            Self::Unusable(ErrorKind::Connection, words)
        } else {
            Self::Unusable(ErrorKind::Protocol, words)
        }
    }
}

impl From<ServerError> for ExchangeError {
    fn from(error: ServerError) -> Self {
        let (code, details) = (error.code(), error.details().unwrap_or_default());
        answered(&format!("{code} {details}"))
    }
}

/// Redis answered with an error, in these words.
pub(super) fn answered(words: &str) -> ExchangeError {
    let (code, details) = words.split_once(' ').unwrap_or((words, ""));
    ExchangeError::ErrorReply(kind_of_answer(code, details), words.to_owned())
}

const HUNG_UP: &str = "the server hung up; look into its log: was it stopped, or does it expect \
                       TLS where the URL has none, or none where it has?";

fn is_hung_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

fn kind_of_io(kind: io::ErrorKind) -> ErrorKind {
    match kind {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ErrorKind::Timeout,
        _ => ErrorKind::Connection,
    }
}

/// The kind behind the code that every error of Redis starts with.
fn kind_of_answer(code: &str, details: &str) -> ErrorKind {
    match code {
        "NOAUTH" | "WRONGPASS" => ErrorKind::Authentication,
        "NOPERM" => ErrorKind::Permission,
        "WRONGTYPE" => ErrorKind::WrongType,
        "LOADING" => ErrorKind::Loading,
        "OOM" => ErrorKind::OutOfMemory,
        "READONLY" => ErrorKind::ReadOnly,
        "MISCONF" => ErrorKind::Misconf,
        "BUSY" => ErrorKind::Busy,
        // The cause is told behind these words, with a code of its own.
        "EXECABORT" => match details.split_once("because of: ").map(|(_, cause)| cause) {
            Some(cause) => {
                let (code, details) = cause.split_once(' ').unwrap_or((cause, ""));
                kind_of_answer(code, details)
            }
            None => ErrorKind::Server,
        },
        // `AUTH` on a server without a password answers with the general code.
        "ERR" if details.contains("AUTH") => ErrorKind::Authentication,
        _ => ErrorKind::Server,
    }
}
