//! The messages of this run that the broker has not acknowledged yet.

use paho_mqtt_redis::paho_mqtt as mqtt;
use tracing::warn;

/// The tokens of what is under way; Paho bounds their number by its buffer and by the packet ids.
#[derive(Default)]
pub struct Deliveries {
    under_way: Vec<mqtt::Token>,
    acknowledged: u64,
    failed: u64,
    broken_off: bool,
}

impl Deliveries {
    /// Follows one more message.
    pub fn add(&mut self, token: mqtt::DeliveryToken) {
        // A delivery token holds the message as well, which would keep every payload in memory.
        self.under_way.push(token.into());
    }

    /// Looks which ones are done; does not wait.
    pub fn poll(&mut self) {
        self.under_way.retain_mut(|token| match token.try_wait() {
            None => true,
            Some(Ok(_)) => {
                self.acknowledged += 1;
                false
            }
            Some(Err(error)) => {
                if self.failed == 0 {
                    warn!(%error, "a reading has failed, further ones are only counted");
                }
                self.failed += 1;
                self.broken_off |= matches!(error, mqtt::Error::Failure);
                false
            }
        });
    }

    /// Whether the fate of each message is known.
    pub fn are_done(&self) -> bool {
        self.under_way.is_empty()
    }

    /// How many the broker has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// How many the broker has refused or Paho has given up.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Whether writing one to the broker was broken off by an error.
    pub fn was_broken_off(&self) -> bool {
        self.broken_off
    }
}
