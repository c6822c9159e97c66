//! [`ClientState`]: the state of the client, for the program, and for the metrics.

use std::time::SystemTime;

/// The connection to the broker. Later versions may add states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// The client tries to connect, or waits for its turn: 100 clients of a process connect at the same time.
    Connecting,
    /// The client is connected.
    Connected,
    /// The client waits for its next attempt.
    Waiting,
    /// The client was stopped, and does not connect again.
    Stopped,
}

/// The state of a client. Later versions may add fields.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientState {
    /// The connection to the broker.
    pub connection: ConnectionState,
    /// Time since which the connection has this state, by the device's clock.
    pub since: SystemTime,
    /// Time of the next attempt to connect, if one is waited for.
    pub next_attempt: Option<SystemTime>,
    /// Why the last attempt failed, or the last connection ended, after the address of the broker. It stays after the
    /// next connection: while the client is connected, it is the reason of an earlier outage.
    pub last_error: Option<String>,
    /// Number of connections that were made.
    pub connects: u64,
    /// Number of attempts that failed.
    pub failed_attempts: u64,
    /// Number of connections for which the broker had lost the session of the one before. At the first one of a run,
    /// this is known only if messages of an earlier run are in flight. Paho drops what was in flight; the persistence
    /// counts it and sets it aside.
    pub sessions_lost: u64,
    /// Number of messages of this run that the broker has acknowledged; at QoS 0 those that were sent.
    pub acknowledged: u64,
    /// Number of messages of this run that are on their way. Those of an earlier run are counted by
    /// [`HealthSnapshot::waiting_messages`](crate::HealthSnapshot::waiting_messages) alone.
    pub pending: usize,
    /// Number of messages of this run whose delivery failed.
    pub failed: u64,
    /// Number of messages that were refused at a limit.
    pub refused: u64,
}

impl ClientState {
    /// Returns `true` while the client is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection == ConnectionState::Connected
    }
}
