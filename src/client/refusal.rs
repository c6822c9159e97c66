//! [`PublishError`]: a message that was not accepted, and the reason.

use std::{error::Error as StdError, fmt};

use paho_mqtt as mqtt;

use crate::error::{Error, ErrorKind};

/// A message that the client has not accepted, and the reason.
///
/// With `?` it turns into an [`Error`], and the message is dropped.
///
/// ```no_run
/// use paho_mqtt_redis::{Client, ErrorKind, paho_mqtt as mqtt};
///
/// fn publish(client: &Client, message: mqtt::Message, later: &mut Vec<mqtt::Message>) {
///     if let Err(error) = client.publish(message)
///         && error.kind() == ErrorKind::Full
///     {
///         later.push(error.into_message());
///     }
/// }
/// ```
// Boxed, so that a `Result` with it stays small.
pub struct PublishError(Box<(Error, mqtt::Message)>);

impl PublishError {
    pub(super) fn new(error: Error, message: mqtt::Message) -> Self {
        Self(Box::new((error, message)))
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.error().kind()
    }

    /// Returns the reason.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.0.0
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &mqtt::Message {
        &self.0.1
    }

    /// Returns the message, to publish it later or elsewhere.
    #[must_use]
    pub fn into_message(self) -> mqtt::Message {
        self.0.1
    }
}

impl From<PublishError> for Error {
    fn from(error: PublishError) -> Self {
        error.0.0
    }
}

/// Shows the reason alone: payloads may be secret, or large.
impl fmt::Debug for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.error(), f)
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.error(), f)
    }
}

impl StdError for PublishError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error().source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_comes_back_and_is_not_shown() {
        let message = mqtt::Message::new("t", "secret", mqtt::QOS_1);
        let error = Error::new(ErrorKind::Full, "publish a message");
        let error = PublishError::new(error, message);
        assert!(!format!("{error} {error:?}").contains("secret"));
        assert_eq!(error.into_message().payload_str(), "secret");
    }
}
