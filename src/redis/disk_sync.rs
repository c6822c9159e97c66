//! [`Durability::Synced`](crate::Durability::Synced): checks that Redis has a write on its disk when it replies.
//!
//! `WAITAOF` is no way to wait for that: with `appendfsync everysec`, Redis 7.4 and Valkey 8.1 and 9.1 reply to
//! it before the `fsync`.

use ::redis::Value;

use super::{
    command_buffer::CommandBuffer, connection::RedisConnection, exchange_error::ExchangeError,
};
use crate::error::ErrorKind;

/// The settings with which Redis calls `fsync` before it replies.
const REQUIRED: [(&str, &str); 3] = [
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("no-appendfsync-on-rewrite", "no"),
];

/// Checks the settings of Redis in an exchange of its own.
pub(super) fn check(connection: &mut RedisConnection) -> Result<(), ExchangeError> {
    connection.exchange(encode_check, |replies| read_check(replies.read_reply()))
}

/// Encodes the command that [`read_check`] reads the reply to.
pub(super) fn encode_check(commands: &mut CommandBuffer) {
    commands.push_words(&["CONFIG", "GET", "*append*"]);
}

/// Returns an error that names the setting with which Redis may reply before its disk has a write.
pub(super) fn read_check(reply: Result<Value, ExchangeError>) -> Result<(), ExchangeError> {
    let settings = match reply {
        Ok(settings) => settings,
        Err(ExchangeError::ErrorReply(ErrorKind::Permission, words)) => {
            return Err(not_synced(format!(
                "the user needs +config|get to see that: {words}"
            )));
        }
        Err(failure) => return Err(failure),
    };
    for (name, required) in REQUIRED {
        let value = setting(&settings, name).unwrap_or("unknown");
        if value != required {
            return Err(not_synced(format!("{name} is {value}")));
        }
    }
    Ok(())
}

fn not_synced(reason: String) -> ExchangeError {
    ExchangeError::ErrorReply(ErrorKind::NotSynced, reason)
}

/// Returns the value of a setting in the reply to `CONFIG GET`.
fn setting<'a>(reply: &'a Value, name: &str) -> Option<&'a str> {
    let Value::Array(words) = reply else {
        return None;
    };
    let text = |word: &'a Value| match word {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        _ => None,
    };
    let mut pairs = words.chunks_exact(2);
    pairs.find_map(|pair| match pair {
        [found, value] if text(found) == Some(name) => text(value),
        _ => None,
    })
}
