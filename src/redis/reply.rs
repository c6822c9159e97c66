//! What Redis, or the way to it, answered instead of a value.

use std::io;

use ::redis::RedisError;

use crate::{Error, ErrorKind};

/// Why an exchange gave no value.
pub(super) enum Failure {
    /// Redis answered with an error; the connection is as good as before.
    Answer(RedisError),
    /// The connection is of no use any more: it broke, or it is out of step.
    Unusable(ErrorKind, Box<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    /// The error of an attempt, which completes the sentence "cannot …".
    pub(super) fn named(self, attempt: impl FnOnce() -> String) -> Error {
        match self {
            Self::Answer(error) => Error::new(kind_of_answer(&error), attempt()).caused_by(error),
            Self::Unusable(kind, source) => Error::new(kind, attempt()).caused_by(source),
        }
    }

    pub(super) fn protocol(what: &'static str) -> Self {
        Self::Unusable(ErrorKind::Protocol, what.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Unusable(kind_of_io(error.kind()), error.into())
    }
}

/// The parser's errors; one that Redis answered with is a value to it.
impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let kind = if error.is_timeout() {
            ErrorKind::Timeout
        } else if error.is_io_error() {
            ErrorKind::Connection
        } else {
            ErrorKind::Protocol
        };
        Self::Unusable(kind, error.into())
    }
}

fn kind_of_io(kind: io::ErrorKind) -> ErrorKind {
    match kind {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ErrorKind::Timeout,
        _ => ErrorKind::Connection,
    }
}

/// The kind behind the code that every error of Redis starts with.
fn kind_of_answer(error: &RedisError) -> ErrorKind {
    match error.code() {
        Some("NOAUTH" | "WRONGPASS") => ErrorKind::Authentication,
        Some("NOPERM") => ErrorKind::Permission,
        Some("WRONGTYPE") => ErrorKind::WrongType,
        Some("LOADING") => ErrorKind::Loading,
        Some("OOM") => ErrorKind::OutOfMemory,
        Some("READONLY") => ErrorKind::ReadOnly,
        Some("MISCONF") => ErrorKind::Misconf,
        Some("BUSY") => ErrorKind::Busy,
        // `AUTH` on a server without a password answers with the general code.
        Some("ERR") if error.detail().is_some_and(|detail| detail.contains("AUTH")) => {
            ErrorKind::Authentication
        }
        _ => ErrorKind::Server,
    }
}
