//! [`ConnectionError`]: why there is no connection, in words.

use std::{error::Error as StdError, fmt, io, sync::Arc, time::Duration};

use paho_mqtt as mqtt;

/// The reason why an attempt to connect failed, or a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConnectionError(Arc<str>);

impl ConnectionError {
    pub(super) fn lost() -> Self {
        Self("the connection was lost".into())
    }

    /// Names the address of the attempt or the connection.
    pub(super) fn at(&self, address: &str) -> Self {
        Self(format!("{address}: {self}").into())
    }

    pub(super) fn stopped(reason: &str) -> Self {
        Self(reason.into())
    }

    /// The error of an attempt that takes longer than it may.
    pub(super) fn overdue(took: Duration) -> Self {
        let text = format!(
            "the attempt has not ended after {} s; does the name server answer?",
            took.as_secs()
        );
        Self(text.into())
    }

    pub(super) fn unresolved(host: &str, error: &io::Error) -> Self {
        Self(format!("cannot resolve the name {host}: {error}").into())
    }

    /// The reason that the broker gave with its DISCONNECT.
    pub(super) fn disconnected(code: mqtt::ReasonCode, reason: Option<&str>) -> Self {
        let code_number = code as u8;
        let mut text = format!("the broker ended the connection: {code} (0x{code_number:02X})");
        if let Some(reason) = reason {
            text.push_str(": ");
            text.push_str(reason);
        }
        Self(text.into())
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
