//! The commands with which a connection begins: `AUTH` and `SELECT`.

use ::redis::Value;

use super::{
    address::RedisAddress, command_buffer::CommandBuffer, exchange_error::ExchangeError,
    password::Password,
};
use crate::error::{Error, ErrorKind};

/// The user and the database that Redis has to accept before it executes anything else.
///
/// It goes in front of the first exchange and costs no round trip of its own. So nothing in that exchange
/// may have an effect if Redis refuses the password or the database.
pub(super) struct Login {
    user: Option<String>,
    password: Option<String>,
    database: i64,
    /// The address, for the error text.
    address: String,
}

impl Login {
    /// Reads the password.
    pub(super) fn new(address: &RedisAddress) -> Result<Self, Error> {
        let password = address.password.as_ref().map(Password::read).transpose()?;
        Ok(Self {
            user: address.user.clone(),
            password: password.map(Into::into),
            database: address.database,
            address: address.to_string(),
        })
    }

    pub(super) fn encode(&self, commands: &mut CommandBuffer) {
        encode_auth(commands, self.user.as_deref(), self.password.as_deref());
        if self.database != 0 {
            commands.push_words(&["SELECT", &self.database.to_string()]);
        }
    }

    /// Reads the replies; an error leaves the connection unusable.
    pub(super) fn read_replies(
        self,
        mut read_reply: impl FnMut() -> Result<Value, ExchangeError>,
    ) -> Result<(), ExchangeError> {
        if self.password.is_some() {
            read_reply().map_err(|failure| self.refused(failure.without_secrets()))?;
        }
        if self.database != 0 {
            read_reply().map_err(|failure| self.refused(failure))?;
        }
        Ok(())
    }

    fn refused(&self, failure: ExchangeError) -> ExchangeError {
        let lacks_database = lacks_database(&failure);
        let error = failure.into_error(|| format!("connect to Redis at {}", self.address));
        ExchangeError::NotConnected(if lacks_database {
            error.with_reason(format!(
                "this Redis has no database {}; use one that it has, such as 0, or raise \
                 `databases` in its configuration",
                self.database
            ))
        } else {
            error
        })
    }
}

/// Encodes `AUTH` if there is a password.
pub(super) fn encode_auth(
    commands: &mut CommandBuffer,
    user: Option<&str>,
    password: Option<&str>,
) {
    if let Some(password) = password {
        let auth = ["AUTH"].into_iter().chain(user).chain([password]);
        commands.push_words(&auth.collect::<Vec<_>>());
    }
}

/// Returns whether Redis refused `SELECT` because it has fewer databases.
fn lacks_database(failure: &ExchangeError) -> bool {
    // "DB index is out of range", and "invalid DB index" or "value is out of range" for a number
    // beyond 32 bits.
    matches!(
        failure,
        ExchangeError::ErrorReply(ErrorKind::Server, words)
            if words.contains("out of range") || words.contains("invalid DB index")
    )
}
