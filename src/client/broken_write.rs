//! [`OnBrokenWrite`]: ends the program before Paho sends a message from memory that it has freed.

use std::{
    fmt, mem, process,
    sync::{Arc, OnceLock},
    time::Duration,
};

use paho_mqtt as mqtt;

use super::{callbacks::in_callback, log, signal::Signal};
use crate::{
    error::Error,
    persistence::{Health, StoreObserver, catch_panic},
};

/// Time in which the store has to take what it lacks.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// The reaction to a write to the broker that was broken off.
///
/// Paho C 1.3.16 then frees topic and payload of the message, and keeps it to send it again: with the next connection
/// it would send what happens to be in that memory (paho.mqtt.c 1621 and 1622). The record in the store is intact, and
/// nothing but a new process sends it as it was. It was seen when the broker was stopped, at 130 messages per second
/// and at more than 500.
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
    /// It is called on one of the four threads that all clients of the process share or, for a message of an earlier run,
    /// on one of Paho's threads and under Paho's lock. In the latter case Paho sends the damaged message when it returns, and the client then ends.
    /// It is called once. It may not use the client, but [`BrokenWrite::health`]. A panic in it is caught and dropped.
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
    fn react(&self, client_id: &str, health: &Health) -> bool {
        if let Self::Ignore = self {
            log::broken_write_ignored(client_id);
            return true;
        }
        let flushed = health.flush(FLUSH_LIMIT).map(drop);
        let lacks = health.snapshot().held_records;
        log::broken_write(client_id, flushed.as_ref().err(), lacks);
        match self {
            Self::Exit(code) => process::exit(*code),
            Self::Call(reaction) => {
                let broken = BrokenWrite {
                    client_id: client_id.to_owned(),
                    health: health.clone(),
                    flushed,
                };
                // It may panic to end the program, which unwinds neither Paho nor the worker.
                catch_panic(|| in_callback(|| reaction(&broken)));
            }
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

/// Reacts once, before Paho sends a damaged message.
///
/// The worker of the client knows it from the token of the message. One of an earlier run has no token, and is seen when
/// Paho writes it to the store again.
pub(super) struct DamageGuard {
    reaction: OnBrokenWrite,
    signal: Arc<Signal>,
    health: OnceLock<Health>,
    goes_on: OnceLock<bool>,
}

impl DamageGuard {
    pub(super) fn new(reaction: OnBrokenWrite, signal: Arc<Signal>) -> Self {
        Self {
            reaction,
            signal,
            health: OnceLock::new(),
            goes_on: OnceLock::new(),
        }
    }

    /// Sets the state of the store, which exists only after the observer does.
    pub(super) fn set_health(&self, health: &Health) {
        self.health.get_or_init(|| health.clone());
    }

    /// Reacts, unless that has been done. Returns true if the client goes on.
    pub(super) fn react(&self, client_id: &str) -> bool {
        let Some(health) = self.health.get() else {
            return true;
        };
        let react = || self.reaction.react(client_id, health);
        *self.goes_on.get_or_init(react)
    }
}

impl StoreObserver for DamageGuard {
    fn on_damaged(&self, client_id: &str, _key: &str) {
        self.react(client_id);
        self.signal.damage();
    }
}

/// Keeps the client from ever being destroyed, which would free the memory of the damaged message twice.
pub(super) fn never_destroy(client: &mqtt::AsyncClient) {
    mem::forget(client.clone());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::MemoryPersistence;

    #[test]
    fn message_of_earlier_run_ends_client_after_one_call() {
        let calls = Arc::<AtomicUsize>::default();
        let called = Arc::clone(&calls);
        let reaction = OnBrokenWrite::call(move |_| {
            called.fetch_add(1, Ordering::Relaxed);
            panic!("the program ends itself so");
        });
        let signal = Arc::<Signal>::default();
        let guard = DamageGuard::new(reaction, Arc::clone(&signal));
        guard.set_health(&MemoryPersistence::new().health());
        for _ in 0..3 {
            guard.on_damaged("device", "s5-1");
        }
        assert!(signal.take().is_damaged);
        assert!(!guard.react("device"), "it ends");
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
