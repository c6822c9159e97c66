//! What became of each published message.

use std::{collections::BTreeSet, time::Duration};

/// Message of the simulated program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message {
    pub qos: u8,
    pub size: u32,
    /// Deliveries by the broker.
    pub delivered: u16,
    /// Number of records in the store that carry it.
    pub copies: u16,
    /// The time since which the store has a record that carries it.
    pub stored_at: Duration,
    /// Number of the loss that took its last copy from the store; 0 if none did.
    pub lost_at: u32,
    /// Why it may be lost, if it may.
    pub loss: Option<&'static str>,
    /// Why it may arrive twice at QoS 2, if it may.
    pub duplicate: Option<&'static str>,
    /// Why it may arrive out of order, if it may.
    pub disorder: Option<&'static str>,
    /// Another program's, which came with its data: promised nothing.
    pub is_foreign: bool,
    /// Paho has sent it at least once.
    pub is_sent: bool,
    /// Paho has restored it as a message in flight.
    pub is_restored: bool,
}

/// All messages, numbered in the order in which the program published them.
#[derive(Default)]
pub struct Ledger {
    messages: Vec<Message>,
    /// Accepted at QoS 1 or 2, not delivered, and not excused.
    outstanding: BTreeSet<u32>,
    pub deliveries: u64,
    pub excused: u64,
}

impl Ledger {
    pub fn publish(&mut self, qos: u8, size: usize) -> u32 {
        let number = u32::try_from(self.messages.len()).expect("few messages");
        self.messages.push(Message {
            qos,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            ..Message::default()
        });
        number
    }

    /// Adds a message of another program.
    pub fn add_foreign(&mut self, qos: u8, size: usize) -> u32 {
        let number = self.publish(qos, size);
        let message = &mut self.messages[number as usize];
        message.is_foreign = true;
        let reason = Some("foreign");
        (message.loss, message.duplicate, message.disorder) = (reason, reason, reason);
        number
    }

    pub fn accept(&mut self, number: u32) {
        let message = self.messages[number as usize];
        if message.qos > 0 && message.delivered == 0 && message.loss.is_none() {
            self.outstanding.insert(number);
        }
    }

    /// Counts a delivery. Returns the message as it was before.
    pub fn deliver(&mut self, number: u32) -> Option<Message> {
        let message = self.messages.get_mut(number as usize)?;
        let before = *message;
        message.delivered = message.delivered.saturating_add(1);
        self.deliveries += 1;
        self.outstanding.remove(&number);
        Some(before)
    }

    pub fn get(&self, number: u32) -> Option<&Message> {
        self.messages.get(number as usize)
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut Message> {
        self.messages.get_mut(number as usize)
    }

    pub fn outstanding(&self) -> &BTreeSet<u32> {
        &self.outstanding
    }

    pub fn is_outstanding(&self, number: u32) -> bool {
        self.outstanding.contains(&number)
    }

    /// Number of messages, those of other programs included.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Allows a message to be lost.
    pub fn excuse_loss(&mut self, number: u32, reason: &'static str) {
        if let Some(message) = self.messages.get_mut(number as usize) {
            message.loss.get_or_insert(reason);
            if self.outstanding.remove(&number) {
                self.excused += 1;
            }
        }
    }

    /// Allows a message to arrive twice.
    pub fn excuse_duplicate(&mut self, number: u32, reason: &'static str) {
        if let Some(message) = self.messages.get_mut(number as usize) {
            message.duplicate.get_or_insert(reason);
        }
    }

    /// Allows a message to arrive out of order.
    pub fn excuse_disorder(&mut self, number: u32, reason: &'static str) {
        if let Some(message) = self.messages.get_mut(number as usize) {
            message.disorder.get_or_insert(reason);
        }
    }

    /// Allows a message everything.
    pub fn excuse_all(&mut self, number: u32, reason: &'static str) {
        self.excuse_loss(number, reason);
        self.excuse_duplicate(number, reason);
        self.excuse_disorder(number, reason);
    }

    /// Counts a record that carries a message and was added to the store.
    pub fn add_copy(&mut self, number: u32, now: Duration) {
        if let Some(message) = self.messages.get_mut(number as usize) {
            if message.copies == 0 {
                message.stored_at = now;
            }
            message.copies += 1;
        }
    }

    pub fn remove_copy(&mut self, number: u32) {
        if let Some(message) = self.messages.get_mut(number as usize) {
            message.copies -= 1;
        }
    }
}
