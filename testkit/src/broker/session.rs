//! Session of a client.

use std::collections::{HashSet, VecDeque};

use super::wire::{Kind, Packet};

#[derive(Default)]
pub struct Session {
    /// Ids of QoS 2 messages that were accepted and not released yet.
    received: HashSet<u16>,
    /// Messages to the client that it has not acknowledged completely.
    outgoing: VecDeque<Outgoing>,
    last_id: u16,
    /// Set if the session outlives the connection.
    pub is_kept: bool,
}

struct Outgoing {
    publish: Packet,
    /// Set after the PUBREC of the client, so that only the PUBREL is due.
    received: bool,
}

impl Session {
    /// Returns true if a PUBLISH from the client is a new message.
    pub fn is_new(&mut self, publish: &Packet) -> bool {
        publish.qos < 2 || self.received.insert(publish.id)
    }

    /// Handles the PUBREL of a message from the client.
    pub fn released(&mut self, id: u16) {
        self.received.remove(&id);
    }

    /// Queues a message to the client and returns its PUBLISH.
    pub fn deliver(&mut self, topic: &str, payload: &[u8], qos: u8) -> Packet {
        let mut publish = Packet::new(Kind::Publish, 0);
        publish.qos = qos;
        topic.clone_into(&mut publish.topic);
        payload.clone_into(&mut publish.payload);
        if qos > 0 {
            self.last_id += 1;
            publish.id = self.last_id;
            self.outgoing.push_back(Outgoing {
                publish: publish.clone(),
                received: false,
            });
        }
        publish
    }

    /// Handles an answer to a message to the client, and returns the next packet, if any.
    pub fn answered(&mut self, answer: &Packet) -> Option<Packet> {
        if answer.kind != Kind::Pubrec {
            self.outgoing
                .retain(|message| message.publish.id != answer.id);
            return None;
        }
        let message = self
            .outgoing
            .iter_mut()
            .find(|message| message.publish.id == answer.id);
        if let Some(message) = message {
            message.received = true;
        }
        Some(Packet::new(Kind::Pubrel, answer.id))
    }

    /// Returns the packets that are due again after a reconnect.
    pub fn redeliveries(&self) -> Vec<Packet> {
        let redelivery = |message: &Outgoing| {
            let mut publish = message.publish.clone();
            publish.dup = true;
            if message.received {
                Packet::new(Kind::Pubrel, publish.id)
            } else {
                publish
            }
        };
        self.outgoing.iter().map(redelivery).collect()
    }

    /// Returns true if the client has acknowledged every message.
    pub fn is_idle(&self) -> bool {
        self.outgoing.is_empty()
    }
}
