//! Messages of this run that the broker has not acknowledged yet.

use paho_mqtt_redis::paho_mqtt as mqtt;
use tracing::warn;

/// Tokens of the pending deliveries. Their number is bounded by Paho's buffer and the packet ids.
#[derive(Default)]
pub struct Deliveries {
    pending: Vec<mqtt::Token>,
    acknowledged: u64,
    failed: u64,
    has_broken_write: bool,
}

impl Deliveries {
    /// Adds a message that Paho has accepted.
    pub fn add(&mut self, token: mqtt::DeliveryToken) {
        // A delivery token holds the message as well, which would keep every payload in memory.
        self.pending.push(token.into());
    }

    /// Counts the deliveries that have completed; does not wait.
    pub fn poll(&mut self) {
        self.pending.retain_mut(|token| match token.try_wait() {
            None => true,
            Some(Ok(_)) => {
                self.acknowledged += 1;
                false
            }
            Some(Err(error)) => {
                if self.failed == 0 {
                    warn!(%error, "a delivery failed; further failures are only counted");
                }
                self.failed += 1;
                self.has_broken_write |= matches!(error, mqtt::Error::Failure);
                false
            }
        });
    }

    /// Returns true if no delivery is pending.
    pub fn are_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// Number of messages that the broker has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Number of messages that the broker has refused or Paho has given up.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Returns true if a write to the broker has failed midway.
    pub fn has_broken_write(&self) -> bool {
        self.has_broken_write
    }
}
