//! [`Durability::Synced`](crate::Durability::Synced): waits until the disk of Redis has what was written.

use ::redis::Value;

use super::{
    command_buffer::CommandBuffer,
    connection::{RedisConnection, SYNC_TIME},
    exchange_error::ExchangeError,
    write_commands::PROBE_FIELD,
};
use crate::error::ErrorKind;

/// Checks that the disk of Redis has everything that Redis has in memory, and goes on to.
///
/// Returns true if each write must be followed by `WAITAOF`, which Redis 7.2 and Valkey have, and false
/// if `appendfsync always` does the same by itself.
pub(super) fn must_wait(
    connection: &mut RedisConnection,
    hash: &str,
) -> Result<bool, ExchangeError> {
    connection.extend_deadline(SYNC_TIME);
    connection.exchange(
        |commands| {
            // WAITAOF waits for the last write of its own connection and all before it, so there has to
            // be one. Nobody sees it.
            commands.push_words(&["MULTI"]);
            commands.push_words(&["HSET", hash, PROBE_FIELD, ""]);
            commands.push_words(&["HDEL", hash, PROBE_FIELD]);
            commands.push_words(&["EXEC"]);
            encode_wait(commands);
            commands.push_words(&["CONFIG", "GET", "*append*"]);
        },
        |replies| {
            for _ in 0..4 {
                match replies.read_reply() {
                    // A full Redis refuses it. The first write that Redis takes is waited for then.
                    Ok(_) | Err(ExchangeError::ErrorReply(..)) => {}
                    Err(failure) => return Err(failure),
                }
            }
            let refused = match replies.read_reply() {
                Ok(reply) => return check_wait(&reply).map(|()| true),
                Err(ExchangeError::ErrorReply(_, words)) => words,
                Err(failure) => return Err(failure),
            };
            match replies.read_reply() {
                Ok(config) => check_config(&config, &refused).map(|()| false),
                Err(ExchangeError::ErrorReply(ErrorKind::Permission, _)) => {
                    let missing = "the user needs +waitaof or, before Redis 7.2, +config|get";
                    Err(not_synced(format!("{missing}; WAITAOF: {refused:?}")))
                }
                Err(failure) => Err(failure),
            }
        },
    )
}

/// Checks that Redis syncs each write before it replies, since it has refused `WAITAOF`.
fn check_config(config: &Value, refused: &str) -> Result<(), ExchangeError> {
    let setting = |name| setting(config, name).unwrap_or("unknown");
    let found = |name| format!("{name} is {}", setting(name));
    let reason = if setting("appendonly") != "yes" {
        found("appendonly")
    } else if setting("appendfsync") != "always" {
        found("appendfsync")
    } else if setting("no-appendfsync-on-rewrite") != "no" {
        found("no-appendfsync-on-rewrite")
    } else {
        return Ok(());
    };
    Err(not_synced(format!("{reason}; WAITAOF: {refused:?}")))
}

/// Encodes the command whose reply comes when the AOF on the disk has every write before it.
pub(super) fn encode_wait(commands: &mut CommandBuffer) {
    let milliseconds = SYNC_TIME.as_millis().to_string();
    commands.push_words(&["WAITAOF", "1", "0", &milliseconds]);
}

/// Returns an error if the disk has not got the writes in time.
pub(super) fn check_wait(reply: &Value) -> Result<(), ExchangeError> {
    match reply {
        Value::Array(counts) => match counts.as_slice() {
            [Value::Int(1..), _] => Ok(()),
            [Value::Int(0), _] => Err(not_synced(format!(
                "the AOF was not on the disk within {SYNC_TIME:?}"
            ))),
            _ => Err(ExchangeError::protocol(
                "WAITAOF returned unexpected counts",
            )),
        },
        _ => Err(ExchangeError::protocol(
            "WAITAOF returned an unexpected reply",
        )),
    }
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
