//! [`replicas`](crate::RedisPersistenceBuilder::replicas): waits until replicas have what was written.

use std::time::Duration;

use ::redis::Value;

use super::{
    command_buffer::CommandBuffer, connection::RedisConnection, exchange_error::ExchangeError,
};
use crate::error::ErrorKind;

/// Checks that the user may wait for replicas. Their number is seen with each write.
pub(super) fn check_right(connection: &mut RedisConnection) -> Result<(), ExchangeError> {
    connection.exchange(
        |commands| commands.push_words(&["WAIT", "0", "1"]),
        |replies| match replies.read_reply() {
            Err(ExchangeError::ErrorReply(ErrorKind::Permission, words)) => {
                Err(ExchangeError::ErrorReply(
                    ErrorKind::Permission,
                    format!("{words}; the option replicas needs +wait"),
                ))
            }
            reply => reply.map(drop),
        },
    )
}

/// Encodes the command whose reply comes when this many replicas have every write before it, or when three
/// quarters of the time of the exchange have passed.
pub(super) fn encode_wait(commands: &mut CommandBuffer, replicas: u32, limit: Duration) {
    // With 0, WAIT would have no limit.
    let milliseconds = wait_time(limit).as_millis().max(1);
    commands.push_words(&["WAIT", &replicas.to_string(), &milliseconds.to_string()]);
}

/// Checks the reply to that command: an error if fewer replicas have the writes.
///
/// Redis has replied to the commands before it, so a reply that is missing at the deadline is no sign of a
/// Redis that stalls: it looks for a `WAIT` that is over only `hz` times per second, 10 by default.
pub(super) fn check_wait(
    reply: Result<Value, ExchangeError>,
    replicas: u32,
    limit: Duration,
) -> Result<(), ExchangeError> {
    match reply {
        Ok(Value::Int(count)) if count >= i64::from(replicas) => Ok(()),
        Ok(Value::Int(count)) => Err(ExchangeError::ErrorReply(
            ErrorKind::NotReplicated,
            format!(
                "{count} of {replicas} replicas had the write within {:?}",
                wait_time(limit)
            ),
        )),
        Ok(_) => Err(ExchangeError::protocol("WAIT returned an unexpected reply")),
        Err(ExchangeError::Unusable(ErrorKind::Timeout, _)) => Err(ExchangeError::Unusable(
            ErrorKind::NotReplicated,
            format!("WAIT {replicas} did not return within {limit:?}").into(),
        )),
        Err(error) => Err(error),
    }
}

fn wait_time(limit: Duration) -> Duration {
    limit.mul_f64(0.75)
}
