//! Model of a broker with one client: its session, its network connection and the messages to the client.

use std::collections::{BTreeMap, VecDeque};

use super::{
    exceptions,
    invariants::clash_reason,
    values::{Key, Kind, Publish, Topic, Value, message_of, payload, token},
    world::State,
};

/// MQTT packet, as far as the simulation needs it.
#[derive(Clone, Debug)]
pub enum Packet {
    Publish { publish: Publish, is_dup: bool },
    Puback(u16),
    Pubrec(u16),
    Pubrel(u16),
    Pubcomp(u16),
    Subscribe(u16),
    Suback(u16),
}

/// Broken by the driver, with what is in flight.
#[derive(Default)]
pub struct Connection {
    pub to_broker: VecDeque<Packet>,
    pub to_client: VecDeque<Packet>,
}

/// A QoS 2 PUBLISH that was received and not released.
struct Received {
    message: Option<u32>,
    /// Why the client may have forgotten it, if it has.
    is_orphan: bool,
}

/// Message to the client.
struct Outbound {
    publish: Publish,
    is_released: bool,
}

#[derive(Default)]
pub struct Broker {
    pub connection: Option<Connection>,
    has_session: bool,
    received: BTreeMap<u16, Received>,
    outbound: VecDeque<Outbound>,
    last_outbound_id: u16,
    inbound_published: u32,
    /// The program is created for another version than it connects with.
    pub versions_differ: bool,
}

/// Most messages to the client that the broker keeps.
const MAX_OUTBOUND: usize = 20;

impl Broker {
    /// Accepts a connection. Returns true if the broker still has the session.
    pub fn connect(&mut self, is_clean: bool, state: &mut State) -> bool {
        if is_clean {
            self.lose_session(state);
        }
        let is_present = std::mem::replace(&mut self.has_session, true);
        let mut connection = Connection::default();
        if is_present {
            for outbound in &self.outbound {
                let id = outbound.publish.packet_id;
                connection.to_client.push_back(if outbound.is_released {
                    Packet::Pubrel(id)
                } else {
                    Packet::Publish {
                        publish: outbound.publish.clone(),
                        is_dup: true,
                    }
                });
            }
        } else {
            self.outbound.clear();
        }
        self.connection = Some(connection);
        is_present
    }

    /// Breaks the connection; the broker still receives this many packets.
    pub fn disconnect(&mut self, received: usize, state: &mut State) {
        for _ in 0..received {
            if !self.receive(state) {
                break;
            }
        }
        self.connection = None;
    }

    /// Forgets the session. What was in flight may arrive twice.
    pub fn lose_session(&mut self, state: &mut State) {
        for received in std::mem::take(&mut self.received).into_values() {
            if let Some(message) = received.message {
                state
                    .ledger
                    .excuse_duplicate(message, exceptions::SESSION_LOST);
            }
        }
        self.outbound.clear();
        self.has_session = false;
    }

    /// Publishes a message to the client.
    pub fn publish(&mut self, qos: u8, size: usize) {
        if self.outbound.len() >= MAX_OUTBOUND || !self.has_session {
            return;
        }
        let number = self.inbound_published;
        self.inbound_published += 1;
        self.last_outbound_id = self.last_outbound_id.checked_add(1).unwrap_or(1);
        let publish = Publish {
            qos,
            packet_id: self.last_outbound_id,
            topic: Topic::Inbound(number),
            payload: payload(number, size),
        };
        self.outbound.push_back(Outbound {
            publish: publish.clone(),
            is_released: false,
        });
        if let Some(connection) = &mut self.connection {
            connection.to_client.push_back(Packet::Publish {
                publish,
                is_dup: false,
            });
        }
    }

    /// Handles the next packet from the client. Returns false if there is none.
    pub fn receive(&mut self, state: &mut State) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let Some(packet) = connection.to_broker.pop_front() else {
            return false;
        };
        state.note(|| format!("broker: receives {}", show(&packet)));
        let answer = match packet {
            Packet::Publish { publish, is_dup } => self.receive_publish(&publish, is_dup, state),
            Packet::Pubrel(id) => {
                self.received.remove(&id);
                Some(Packet::Pubcomp(id))
            }
            Packet::Puback(id) | Packet::Pubcomp(id) => {
                self.outbound
                    .retain(|outbound| outbound.publish.packet_id != id);
                None
            }
            Packet::Pubrec(id) => {
                let mut outbound = self.outbound.iter_mut();
                if let Some(outbound) = outbound.find(|outbound| outbound.publish.packet_id == id) {
                    outbound.is_released = true;
                }
                Some(Packet::Pubrel(id))
            }
            Packet::Subscribe(id) => Some(Packet::Suback(id)),
            Packet::Suback(_) => None,
        };
        if let (Some(answer), Some(connection)) = (answer, &mut self.connection) {
            connection.to_client.push_back(answer);
        }
        true
    }

    fn receive_publish(
        &mut self,
        publish: &Publish,
        is_dup: bool,
        state: &mut State,
    ) -> Option<Packet> {
        let message = match publish.topic {
            Topic::Own(number) => Some(number),
            Topic::Inbound(_) => None,
        };
        let id = publish.packet_id;
        match publish.qos {
            0 => {
                self.deliver(publish, is_dup, state);
                None
            }
            1 => {
                self.deliver(publish, is_dup, state);
                Some(Packet::Puback(id))
            }
            _ => {
                match self.received.get(&id) {
                    Some(received) if received.message == message => {}
                    Some(received) => {
                        let is_orphan = received.is_orphan;
                        let other = received.message;
                        Self::swallow(message, other, id, is_orphan, state);
                    }
                    None => {
                        self.deliver(publish, is_dup, state);
                        self.received.insert(
                            id,
                            Received {
                                message,
                                is_orphan: false,
                            },
                        );
                    }
                }
                Some(Packet::Pubrec(id))
            }
        }
    }

    /// Handles a PUBLISH that the broker takes for another one, which it has received under the same packet id.
    fn swallow(
        message: Option<u32>,
        other: Option<u32>,
        id: u16,
        is_orphan: bool,
        state: &mut State,
    ) {
        let Some(number) = message else { return };
        let is_excused = |number: Option<u32>| {
            let message = number.and_then(|number| state.ledger.get(number));
            message.is_none_or(|message| message.loss.is_some() || message.duplicate.is_some())
        };
        let reason = clash_reason(&state.ledger, [message, other]);
        let is_excused = is_orphan || is_excused(other) || is_excused(message);
        if is_excused || reason != "unique_packet_ids" {
            state
                .ledger
                .excuse_loss(number, exceptions::PACKET_ID_OF_LOST);
        } else if state.ledger.is_outstanding(number) {
            let other = other.map_or_else(|| "another message".to_owned(), |m| format!("m{m}"));
            state.violate(reason, || {
                format!("the broker takes m{number} for {other}, which has the packet id {id} too")
            });
        }
    }

    fn deliver(&mut self, publish: &Publish, _is_dup: bool, state: &mut State) {
        let Topic::Own(number) = publish.topic else {
            return;
        };
        let Some(before) = state.ledger.deliver(number) else {
            state.violate("altered", || format!("nobody published m{number}"));
            return;
        };
        let expected = payload(number, before.size as usize);
        let is_prefixed = self.versions_differ && publish.payload.get(1..) == Some(&expected[..]);
        if publish.payload != expected && !is_prefixed && !before.is_foreign {
            state.violate("altered", || {
                format!("m{number} arrives with another payload")
            });
        }
        if before.qos != publish.qos {
            state.violate("altered", || {
                format!("m{number} arrives at QoS {}", publish.qos)
            });
        }
        if publish.qos == 2 && before.delivered > 0 && before.duplicate.is_none() {
            let times = before.delivered + 1;
            state.violate("qos2_once", || format!("m{number} arrives {times} times"));
        }
        if before.delivered == 0 && publish.qos > 0 && before.disorder.is_none() {
            let earlier = state.ledger.outstanding().range(..number).find(|earlier| {
                let earlier = state.ledger.get(**earlier);
                earlier.is_some_and(|earlier| earlier.disorder.is_none() && !earlier.is_restored)
            });
            if let Some(earlier) = earlier.copied() {
                let qos = state.ledger.get(earlier).map_or(0, |message| message.qos);
                let name = if qos == publish.qos {
                    "order"
                } else {
                    "order_across_qos"
                };
                state.violate(name, || {
                    let later = publish.qos;
                    format!("m{number} (QoS {later}) arrives before m{earlier} (QoS {qos})")
                });
            }
        }
    }

    /// Notes, after the death of the program, which messages in flight its records no longer have.
    ///
    /// The broker takes the next message with the packet id of one of these for that one.
    pub fn forget_lost(&mut self, records: &BTreeMap<Key, Value>) {
        for (id, received) in &mut self.received {
            let number = u32::from(*id);
            // Paho removes a PUBREL that it finds without its PUBLISH.
            let has_session_record = [false, true].into_iter().any(|v5| {
                let key = Key::new(Kind::SentPublish, v5, number);
                let stored = records.get(&key);
                stored.is_some_and(|value| message_of(key, value) == received.message)
            });
            let has_command = records.iter().any(|(key, value)| {
                key.kind == Kind::Command
                    && token(value) == Some(*id)
                    && message_of(*key, value) == received.message
            });
            received.is_orphan |= !has_session_record && !has_command;
        }
    }
}

pub fn show(packet: &Packet) -> String {
    match packet {
        Packet::Publish { publish, is_dup } => {
            let dup = if *is_dup { " again" } else { "" };
            format!(
                "PUBLISH {} (QoS {}, id {}){dup}",
                publish.topic.name(),
                publish.qos,
                publish.packet_id
            )
        }
        Packet::Puback(id) => format!("PUBACK {id}"),
        Packet::Pubrec(id) => format!("PUBREC {id}"),
        Packet::Pubrel(id) => format!("PUBREL {id}"),
        Packet::Pubcomp(id) => format!("PUBCOMP {id}"),
        Packet::Subscribe(id) => format!("SUBSCRIBE {id}"),
        Packet::Suback(id) => format!("SUBACK {id}"),
    }
}
