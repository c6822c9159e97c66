//! [`ConnectionError`]: why there is no connection, in words.

use std::{error::Error as StdError, fmt, sync::Arc};

use paho_mqtt as mqtt;

/// The reason why an attempt to connect failed, or a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConnectionError(Arc<str>);

impl ConnectionError {
    pub(super) fn lost() -> Self {
        Self("the connection was lost".into())
    }

    pub(super) fn stopped(reason: &str) -> Self {
        Self(reason.into())
    }
}

/// Paho's errors are short. A cause that their text leaves out is added.
impl From<&mqtt::Error> for ConnectionError {
    fn from(error: &mqtt::Error) -> Self {
        let mut text = match error {
            mqtt::Error::ConnectReturn(code) => format!("the broker refused it: {code}"),
            mqtt::Error::ReasonCode(code, _) => format!("the broker refused it: {code}"),
            error => error.to_string(),
        };
        if let Some(cause) = error.source() {
            let cause = cause.to_string();
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        Self(text.into())
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
