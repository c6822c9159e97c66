//! [`OnBrokenWrite`]: ends the program before Paho sends a message from memory that it has freed.

use std::{
    fmt, mem, process,
    sync::{Arc, OnceLock},
    time::Duration,
};

use paho_mqtt as mqtt;

use super::log;
use crate::{
    error::Error,
    persistence::{Health, StoreObserver},
};

/// Time in which the store has to take what it lacks.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// The reaction to a write to the broker that was broken off.
///
/// Paho C 1.3.16 then frees topic and payload of the message, and keeps it to send it again: with the next connection
/// it would send what happens to be in that memory (paho.mqtt.c 1621 and 1622). The record in the store is intact, and
/// nothing but a new process sends it as it was. It was seen at more than 500 messages per second when the broker was
/// stopped.
///
/// Before each reaction but [`Ignore`](Self::Ignore) the store gets what it lacks, for up to 5 s, and the client
/// connects no more. Messages at QoS 0 are not sent again, so they cannot be damaged.
#[derive(Clone)]
#[non_exhaustive]
pub enum OnBrokenWrite {
    /// Ends the program with this exit code, so that its supervisor starts it again. The default, with
    /// [`EXIT_CODE`](Self::EXIT_CODE).
    Exit(i32),
    /// Calls this, which should end the program soon.
    ///
    /// It is called on the thread of the client or, for a message of an earlier run, on one of Paho's threads and
    /// under Paho's lock. In the latter case Paho sends the damaged message when it returns. It may not use the
    /// client, but [`BrokenWrite::health`].
    Call(Arc<dyn Fn(&BrokenWrite) + Send + Sync>),
    /// Goes on. Damaged messages are sent in place of those that `publish` accepted.
    Ignore,
}

/// A write to the broker that was broken off.
#[derive(Debug)]
#[non_exhaustive]
pub struct BrokenWrite {
    /// The client id.
    pub client_id: String,
    /// The state of the store.
    pub health: Health,
    /// The error if the store still lacks records, which are lost with this process.
    pub flushed: Result<(), Error>,
}

impl OnBrokenWrite {
    /// The exit code that is the default: 75, which `sysexits.h` calls a temporary failure.
    pub const EXIT_CODE: i32 = 75;

    /// Calls this, which should end the program soon: see [`Call`](Self::Call).
    pub fn call(reaction: impl Fn(&BrokenWrite) + Send + Sync + 'static) -> Self {
        Self::Call(Arc::new(reaction))
    }

    /// Reacts. Returns true if the client goes on.
    pub(super) fn react(&self, client_id: &str, health: &Health) -> bool {
        if let Self::Ignore = self {
            log::broken_write_ignored(client_id);
            return true;
        }
        let flushed = health.flush(FLUSH_LIMIT);
        let lacks = health.snapshot().held_records;
        log::broken_write(client_id, flushed.as_ref().err(), lacks);
        match self {
            Self::Exit(code) => process::exit(*code),
            Self::Call(reaction) => reaction(&BrokenWrite {
                client_id: client_id.to_owned(),
                health: health.clone(),
                flushed,
            }),
            Self::Ignore => {}
        }
        false
    }
}

impl Default for OnBrokenWrite {
    fn default() -> Self {
        Self::Exit(Self::EXIT_CODE)
    }
}

impl fmt::Debug for OnBrokenWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => f.debug_tuple("Exit").field(code).finish(),
            Self::Call(_) => f.write_str("Call"),
            Self::Ignore => f.write_str("Ignore"),
        }
    }
}

/// Reacts before Paho sends a damaged message of an earlier run, which has no token.
pub(super) struct DamageGuard {
    pub(super) reaction: OnBrokenWrite,
    pub(super) health: OnceLock<Health>,
}

impl StoreObserver for DamageGuard {
    fn on_damaged(&self, client_id: &str, _key: &str) {
        if let Some(health) = self.health.get() {
            self.reaction.react(client_id, health);
        }
    }
}

/// Keeps the client from ever being destroyed, which would free the memory of the damaged message twice.
pub(super) fn never_destroy(client: &mqtt::AsyncClient) {
    mem::forget(client.clone());
}
