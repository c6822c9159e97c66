//! What a broker keeps of a client.

use std::collections::{HashSet, VecDeque};

use super::wire::{Kind, Packet};

#[derive(Default)]
pub struct Session {
    /// The ids of QoS 2 messages that were passed on and not released yet.
    received: HashSet<u16>,
    /// Messages to the client that it has not acknowledged completely.
    outgoing: VecDeque<Outgoing>,
    last_id: u16,
    /// Whether it outlives the connection.
    pub keeps: bool,
}

struct Outgoing {
    publish: Packet,
    /// Whether the client has it, so that only its PUBREL is due.
    received: bool,
}

impl Session {
    /// Whether a PUBLISH from the client is a message that is to be passed on.
    pub fn is_new(&mut self, publish: &Packet) -> bool {
        publish.qos < 2 || self.received.insert(publish.id)
    }

    /// The client has released a message.
    pub fn released(&mut self, id: u16) {
        self.received.remove(&id);
    }

    /// The PUBLISH of a message to the client.
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

    /// The client has answered a message to it: what comes next, if anything does.
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

    /// What is due again after a reconnect.
    pub fn redeliveries(&self) -> Vec<Packet> {
        let again = |message: &Outgoing| {
            let mut publish = message.publish.clone();
            publish.dup = true;
            if message.received {
                Packet::new(Kind::Pubrel, publish.id)
            } else {
                publish
            }
        };
        self.outgoing.iter().map(again).collect()
    }

    /// Whether the client has acknowledged everything.
    pub fn is_idle(&self) -> bool {
        self.outgoing.is_empty()
    }
}
