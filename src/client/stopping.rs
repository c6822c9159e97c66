//! [`Client::stop`]: ends a client, with what the broker still has to acknowledge.

use std::time::{Duration, Instant};

use super::{messenger::Client, shared::Closed};
use crate::error::Error;

/// Time in which a store that is unavailable may come back and take what it lacks.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// Longest time between two looks at what still waits. Messages of an earlier run have no token.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What a client has left when it was stopped. Later versions may add fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// Number of messages of this run that the broker has acknowledged; at QoS 0 those that were sent.
    pub acknowledged: u64,
    /// Number of messages that stay in the store, those of earlier runs included. The next start sends them.
    pub pending: usize,
    /// The connection has ended and the records are closed, unless clones of the client are left. `false` if an attempt to
    /// connect did not end in 2 s: then both follow once it has, or with the end of the process. The latter holds too if
    /// a connection broke while messages of an earlier run were on their way, since Paho may have freed their memory.
    pub has_ended: bool,
}

impl Client {
    /// Stops: accepts no more messages, waits up to `limit` for acknowledgments, disconnects and flushes the store.
    ///
    /// What is not acknowledged by then stays in the store, and the next start sends it. Disconnecting may take 2 s more,
    /// and a store that is unavailable 5 s. Other clones of the client are stopped too; the records are closed when the last
    /// of them is dropped.
    ///
    /// It blocks, and may not be called in a callback of the client. In `async` code, call it on a thread for such work.
    ///
    /// # Errors
    ///
    /// The error of the store if it still lacks records, which are lost when this process ends.
    /// [`ErrorKind::NotOpen`](crate::ErrorKind::NotOpen) if the client was stopped before.
    pub fn stop(self, limit: Duration) -> Result<Stopped, Error> {
        const ATTEMPT: &str = "stop the client";
        self.check_open(ATTEMPT)?;
        let shared = &self.inner.shared;
        shared.lock().closed.get_or_insert(Closed::Stopped);
        let started = Instant::now();
        let waiting = || shared.health.snapshot().waiting_messages;
        while waiting() > 0 || shared.deliveries.counts().pending > 0 {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() || !shared.is_running() {
                break;
            }
            shared.deliveries.wait(left.min(POLL_INTERVAL));
        }
        let acknowledged = shared.deliveries.counts().acknowledged;
        let has_ended = self.inner.end();
        let store = shared.health.snapshot();
        // A store that is down need not come back if it lacks nothing.
        let flush_limit = match store.down_since {
            Some(_) if store.held_records == 0 => Duration::ZERO,
            _ => FLUSH_LIMIT,
        };
        let flushed = shared.health.flush(flush_limit);
        let now = shared.health.snapshot();
        match flushed {
            Err(error) if now.held_records > 0 => {
                let reason = format!(
                    "the store lacks {} of its records, which are lost with this process",
                    now.held_records
                );
                Err(Error::new(error.kind(), ATTEMPT)
                    .with_reason(reason)
                    .with_source(error))
            }
            _ => Ok(Stopped {
                acknowledged,
                pending: now.waiting_messages,
                has_ended,
            }),
        }
    }
}
