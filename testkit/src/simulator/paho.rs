//! Model of Paho C 1.3.16 making its calls, as `docs/guarantees.md` and the sources have them.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc};

use paho_mqtt_redis::Durability;

use super::{
    broker::{Broker, Packet, show},
    exceptions,
    process::{Machine, Stop},
    values::{
        Key, Kind, Publish, Topic, Value, command, fingerprint, message_of, packet, parse_command,
        payload, pubrel, subscription, undelivered, unsubscription,
    },
};

/// Versions of a client.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    /// It is created for MQTT 5.
    pub created_v5: bool,
    /// It connects with MQTT 5.
    pub connects_v5: bool,
}

/// Options of the program.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub versions: Versions,
    pub max_inflight: usize,
    pub max_buffered: usize,
    pub deletes_oldest: bool,
    /// A session ends with its connection.
    pub is_clean: bool,
}

/// Command that waits to be sent.
pub(super) struct Command {
    pub(super) key: Key,
    pub(super) token: u16,
    pub(super) publishes: bool,
    pub(super) qos: u8,
    pub(super) message: Option<u32>,
    /// Paho reads it back before it sends it.
    pub(super) is_read_back: bool,
}

/// Message in flight.
pub(super) struct Outbound {
    pub(super) publish: Publish,
    pub(super) v5: bool,
    pub(super) is_released: bool,
}

/// Inbound message at QoS 2 that is not released.
pub(super) struct Inbound {
    pub(super) publish: Publish,
    pub(super) v5: bool,
}

/// Client object of Paho.
pub struct Paho {
    pub options: Options,
    /// Version that it writes records with: that it was created for, until it connects.
    pub(super) v5: bool,
    pub(super) commands: VecDeque<Command>,
    pub(super) outbound: Vec<Outbound>,
    pub(super) inbound: BTreeMap<u16, Inbound>,
    /// Inbound messages that the application has not taken.
    pub(super) queue: VecDeque<(u32, Publish)>,
    /// Packet ids of subscriptions that wait for their answer.
    pub(super) responses: Vec<u16>,
    pub(super) sequence: u32,
    pub(super) queue_sequence: u32,
    pub(super) last_packet_id: u16,
    pub is_connected: bool,
    has_tried_to_connect: bool,
    /// The application takes no messages now.
    pub is_busy: bool,
    pub received: u64,
}

const SEQUENCE_LIMIT: u32 = 1_000_000;

/// Exchanges that a restore or a reconnect may make beside those for its bytes and records.
const FEW: u64 = 8;
/// Fewest records, and bytes, that each further exchange should read.
const RECORDS_PER_EXCHANGE: usize = 16;
const BYTES_PER_EXCHANGE: usize = 32 * 1024;

impl Paho {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            v5: options.versions.created_v5,
            commands: VecDeque::new(),
            outbound: Vec::new(),
            inbound: BTreeMap::new(),
            queue: VecDeque::new(),
            responses: Vec::new(),
            sequence: 0,
            queue_sequence: 0,
            last_packet_id: 0,
            is_connected: false,
            has_tried_to_connect: false,
            is_busy: false,
            received: 0,
        }
    }

    pub fn backlog(&self) -> usize {
        self.commands.len() + self.outbound.len()
    }

    /// Nothing waits or is in flight.
    pub fn is_idle(&self) -> bool {
        self.commands.is_empty() && self.outbound.is_empty() && self.responses.is_empty()
    }

    fn assign_packet_id(&mut self) -> Option<u16> {
        let mut id = self.last_packet_id;
        for _ in 0..u16::MAX {
            id = id.checked_add(1).unwrap_or(1);
            let is_used = self.commands.iter().any(|command| command.token == id)
                || self
                    .outbound
                    .iter()
                    .any(|outbound| outbound.publish.packet_id == id)
                || self.responses.contains(&id);
            if !is_used {
                self.last_packet_id = id;
                return Some(id);
            }
        }
        None
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        if self.sequence == SEQUENCE_LIMIT {
            self.sequence = 0;
        }
        self.sequence
    }

    fn buffered(&self) -> usize {
        let publishes = self.commands.iter().filter(|command| command.publishes);
        publishes.count()
    }

    /// Publishes a message. Returns its number once the record was put, unless the buffer is full.
    pub fn publish(
        &mut self,
        machine: &mut Machine,
        qos: u8,
        size: usize,
    ) -> Result<Option<u32>, Stop> {
        let is_full = self.buffered() >= self.options.max_buffered;
        if is_full && !self.options.deletes_oldest {
            return Ok(None);
        }
        let packet_id = if qos > 0 {
            self.assign_packet_id().unwrap_or_default()
        } else {
            0
        };
        let message = machine.world.lock().ledger.publish(qos, size);
        let publish = Publish {
            qos,
            packet_id,
            topic: Topic::Own(message),
            payload: payload(message, size),
        };
        let number = self.next_sequence();
        let key = Key::new(Kind::Command, self.v5, number);
        self.commands.push_back(Command {
            key,
            token: packet_id,
            publishes: true,
            qos,
            message: Some(message),
            is_read_back: true,
        });
        machine.put(key, &command(self.v5, &publish))?;
        machine.world.lock().ledger.accept(message);
        machine.check_durable(message)?;
        if is_full {
            self.delete_oldest(machine)?;
        }
        Ok(Some(message))
    }

    /// Removes the oldest command that publishes, without reading it.
    fn delete_oldest(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        let oldest = self.commands.iter().position(|command| command.publishes);
        let Some(command) = oldest.and_then(|oldest| self.commands.remove(oldest)) else {
            return Ok(());
        };
        if let Some(message) = command.message {
            machine
                .world
                .lock()
                .ledger
                .excuse_loss(message, exceptions::DISCARDED);
        }
        machine.remove(Key {
            v5: self.v5,
            ..command.key
        })
    }

    pub fn subscribe(&mut self, machine: &mut Machine, unsubscribes: bool) -> Result<(), Stop> {
        let Some(token) = self.assign_packet_id() else {
            return Ok(());
        };
        let key = Key::new(Kind::Command, self.v5, self.next_sequence());
        let value = if unsubscribes {
            unsubscription(self.v5, token)
        } else {
            subscription(self.v5, token)
        };
        self.commands.push_back(Command {
            key,
            token,
            publishes: false,
            qos: 1,
            message: None,
            is_read_back: false,
        });
        machine.put(key, &value)
    }

    /// Sends the first command, if Paho may. Returns true if it did.
    pub fn process(&mut self, machine: &mut Machine, broker: &mut Broker) -> Result<bool, Stop> {
        let Some(first) = self.commands.front() else {
            return Ok(false);
        };
        let is_blocked = first.qos > 0 && self.outbound.len() >= self.options.max_inflight;
        if !self.is_connected || broker.connection.is_none() || is_blocked {
            return Ok(false);
        }
        let Some(command) = self.commands.pop_front() else {
            return Ok(false);
        };
        let mut publish = None;
        if command.is_read_back {
            let Ok(value) = machine.get(command.key)? else {
                // The command vanishes. Its record stays, and its packet id becomes free.
                forget(machine, command.key);
                return Ok(true);
            };
            publish = parse_command(&value);
        }
        machine.remove(Key {
            v5: self.v5,
            ..command.key
        })?;
        let Some(publish) = publish.filter(|_| command.publishes) else {
            self.responses.push(command.token);
            send(machine, broker, Packet::Subscribe(command.token));
            return Ok(true);
        };
        if let Some(message) = command.message
            && let Some(message) = machine.world.lock().ledger.get_mut(message)
        {
            message.is_sent = true;
        }
        if publish.qos == 0 {
            send_publish(machine, broker, publish, false);
            return Ok(true);
        }
        self.outbound.push(Outbound {
            publish: publish.clone(),
            v5: self.v5,
            is_released: false,
        });
        put_publish(machine, self.v5, false, &publish)?;
        send_publish(machine, broker, publish, false);
        Ok(true)
    }

    /// Connects, and repeats what is in flight. Returns false if the broker cannot be reached.
    pub fn connect(
        &mut self,
        machine: &mut Machine,
        broker: &mut Broker,
        is_reachable: bool,
    ) -> Result<(), Stop> {
        self.v5 = self.options.versions.connects_v5;
        self.has_tried_to_connect = true;
        machine.remove(Key::new(Kind::Command, self.v5, 0))?;
        if !is_reachable {
            return Ok(());
        }
        let is_present = {
            let mut state = machine.world.lock();
            state.note(|| "paho: connects".to_owned());
            broker.connect(self.options.is_clean, &mut state)
        };
        self.is_connected = true;
        if !is_present {
            self.clean_session(machine)?;
        }
        let before = machine.world.lock().operations_of_calls;
        let errors = machine.world.lock().errors;
        let (mut count, mut bytes) = (0, 0);
        for position in 0..self.outbound.len() {
            let Outbound {
                publish,
                v5,
                is_released,
            } = &self.outbound[position];
            let (v5, publish) = (*v5, publish.clone());
            count += 1;
            bytes += publish.payload.len();
            if *is_released {
                put_pubrel(machine, v5, publish.packet_id)?;
                send(machine, broker, Packet::Pubrel(publish.packet_id));
            } else {
                put_publish(machine, v5, true, &publish)?;
                send_publish(machine, broker, publish, true);
            }
        }
        let state = machine.world.lock();
        let (made, is_undisturbed) = (state.operations_of_calls - before, state.errors == errors);
        drop(state);
        let is_up = machine.before.up;
        // Each PUBREL that is put again is confirmed, so only those of a PUBLISH are counted.
        let released = self.outbound.iter().filter(|outbound| outbound.is_released);
        let made = made.saturating_sub(released.count() as u64);
        if is_undisturbed && is_up {
            check_exchanges(machine, "the reconnect", made, count, bytes)?;
        }
        Ok(())
    }

    /// Removes the session, as Paho does when the broker has none.
    fn clean_session(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        for key in machine.live_keys()? {
            if key.is_queue_record() {
                continue;
            }
            let message = machine
                .live
                .get(&key)
                .and_then(|value| message_of(key, value));
            if let Some(message) = message {
                machine
                    .world
                    .lock()
                    .ledger
                    .excuse_all(message, exceptions::DISCARDED);
            }
            machine.remove(key)?;
        }
        self.outbound.clear();
        self.inbound.clear();
        self.responses.clear();
        self.last_packet_id = 0;
        Ok(())
    }

    /// Notices that the connection broke.
    pub fn lose_connection(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        self.is_connected = false;
        self.responses.clear();
        if self.options.is_clean {
            self.clean_session(machine)?;
        }
        Ok(())
    }

    /// Handles the next packet from the broker. Returns true if there was one.
    pub fn receive(&mut self, machine: &mut Machine, broker: &mut Broker) -> Result<bool, Stop> {
        let Some(connection) = &mut broker.connection else {
            return Ok(false);
        };
        let Some(packet) = connection.to_client.pop_front() else {
            return Ok(false);
        };
        machine
            .world
            .note(|| format!("paho: receives {}", show(&packet)));
        match packet {
            Packet::Publish { publish, .. } => self.receive_publish(machine, broker, publish)?,
            Packet::Puback(id) => {
                self.complete(machine, id, |outbound| outbound.publish.qos == 1)?;
            }
            Packet::Pubcomp(id) => self.complete(machine, id, |outbound| outbound.is_released)?,
            Packet::Pubrec(id) => {
                let mut outbound = self.outbound.iter_mut();
                let outbound = outbound.find(|outbound| outbound.publish.packet_id == id);
                if let Some(outbound) = outbound.filter(|outbound| outbound.publish.qos == 2) {
                    outbound.is_released = true;
                }
                put_pubrel(machine, self.v5, id)?;
                send(machine, broker, Packet::Pubrel(id));
            }
            Packet::Pubrel(id) => self.release(machine, broker, id)?,
            Packet::Suback(id) => self.responses.retain(|response| *response != id),
            Packet::Subscribe(_) => {}
        }
        Ok(true)
    }

    /// Removes the records of a message that is acknowledged.
    fn complete(
        &mut self,
        machine: &mut Machine,
        id: u16,
        is_expected: impl Fn(&Outbound) -> bool,
    ) -> Result<(), Stop> {
        let position = self
            .outbound
            .iter()
            .position(|outbound| outbound.publish.packet_id == id && is_expected(outbound));
        let Some(position) = position else {
            return Ok(());
        };
        let number = id.into();
        for (kind, v5) in [
            (Kind::SentPublish, true),
            (Kind::SentPubrel, true),
            (Kind::SentPublish, false),
            (Kind::SentPubrel, false),
        ] {
            machine.remove(Key::new(kind, v5, number))?;
        }
        self.outbound.remove(position);
        Ok(())
    }

    fn receive_publish(
        &mut self,
        machine: &mut Machine,
        broker: &mut Broker,
        publish: Publish,
    ) -> Result<(), Stop> {
        let id = publish.packet_id;
        if publish.qos < 2 {
            self.deliver(machine, &publish)?;
            if publish.qos == 1 {
                send(machine, broker, Packet::Puback(id));
            }
            return Ok(());
        }
        let key = Key::new(Kind::ReceivedPublish, self.v5, id.into());
        let (header, body) = packet(self.v5, false, &publish);
        let value: Value = [&header[..], &body].concat().into();
        machine.put_buffers(key, &[&header, &body], &value)?;
        let is_known = self.inbound.contains_key(&id);
        let v5 = self.v5;
        if v5 && !is_known {
            self.deliver(machine, &publish)?;
        }
        self.inbound.insert(id, Inbound { publish, v5 });
        send(machine, broker, Packet::Pubrec(id));
        Ok(())
    }

    fn release(&mut self, machine: &mut Machine, broker: &mut Broker, id: u16) -> Result<(), Stop> {
        if let Some(inbound) = self.inbound.remove(&id) {
            if !inbound.v5 {
                self.deliver(machine, &inbound.publish)?;
            }
            for v5 in [true, false] {
                machine.remove(Key::new(Kind::ReceivedPublish, v5, id.into()))?;
            }
        }
        send(machine, broker, Packet::Pubcomp(id));
        Ok(())
    }

    /// Hands a message to the application, or queues it.
    fn deliver(&mut self, machine: &mut Machine, publish: &Publish) -> Result<(), Stop> {
        if self.queue.is_empty() && !self.is_busy {
            self.received += 1;
            return Ok(());
        }
        self.queue_sequence += 1;
        if self.queue_sequence == SEQUENCE_LIMIT {
            self.queue_sequence = 0;
        }
        let number = self.queue_sequence;
        self.queue.push_back((number, publish.clone()));
        let key = Key::new(Kind::Undelivered, self.v5, number);
        machine.put(key, &undelivered(self.v5, publish))
    }

    /// Hands the first queued message to the application.
    pub fn deliver_queued(&mut self, machine: &mut Machine) -> Result<bool, Stop> {
        if self.is_busy {
            return Ok(false);
        }
        let Some((number, _)) = self.queue.pop_front() else {
            return Ok(false);
        };
        self.received += 1;
        machine.remove(Key::new(Kind::Undelivered, self.v5, number))?;
        Ok(true)
    }

    /// Disconnects, and drops the client. Returns whether everything has been written.
    pub fn destroy(mut self, machine: &mut Machine, broker: &mut Broker) -> Result<bool, Stop> {
        if self.is_connected {
            let mut state = machine.world.lock();
            broker.disconnect(usize::MAX, &mut state);
            drop(state);
            self.lose_connection(machine)?;
        } else if !self.has_tried_to_connect {
            self.drop_unconnected(machine)?;
        }
        machine.close()
    }
}

/// Sends a packet, if there is a connection.
fn send_publish(machine: &Machine, broker: &mut Broker, publish: Publish, is_dup: bool) {
    send(machine, broker, Packet::Publish { publish, is_dup });
}

/// Sends a packet, if there is a connection.
fn send(machine: &Machine, broker: &mut Broker, packet: Packet) {
    machine
        .world
        .note(|| format!("paho: sends {}", show(&packet)));
    if let Some(connection) = &mut broker.connection {
        connection.to_broker.push_back(packet);
    }
}

/// Notes that Paho does not know a record until the next start.
pub(super) fn forget(machine: &mut Machine, key: Key) {
    let key = machine.stored_key(key);
    machine.unread.insert(key);
    let value = machine.live.get(&key).map(Arc::clone);
    if let Some(value) = &value {
        machine.forgotten.insert(fingerprint(key, value));
    }
    let message = value.and_then(|value| message_of(key, &value));
    if let Some(message) = message {
        machine
            .world
            .lock()
            .ledger
            .excuse_disorder(message, exceptions::FORGOTTEN);
    }
}

fn put_publish(
    machine: &mut Machine,
    v5: bool,
    is_dup: bool,
    publish: &Publish,
) -> Result<(), Stop> {
    let key = Key::new(Kind::SentPublish, v5, publish.packet_id.into());
    let (header, body) = packet(v5, is_dup, publish);
    let value: Value = [&header[..], &body].concat().into();
    machine.put_buffers(key, &[&header, &body], &value)
}

fn put_pubrel(machine: &mut Machine, v5: bool, id: u16) -> Result<(), Stop> {
    let key = Key::new(Kind::SentPubrel, v5, id.into());
    machine.put(key, &pubrel(id).into())
}

/// Number and bytes of the live records.
pub(super) fn sizes(machine: &Machine) -> (usize, usize) {
    let bytes = machine.live.values().map(|value| value.len()).sum();
    (machine.live.len(), bytes)
}

/// Checks that no exchange was made for each single record.
pub(super) fn check_exchanges(
    machine: &Machine,
    what: &str,
    made: u64,
    count: usize,
    bytes: usize,
) -> Result<(), Stop> {
    let allowed = count / RECORDS_PER_EXCHANGE + bytes / BYTES_PER_EXCHANGE;
    let allowed = allowed as u64 + FEW;
    let settings = &machine.settings;
    let each_waits =
        settings.durability == Durability::Synced || settings.each_send_waits_for_replica();
    // Records of both versions take turns in one sequence, and are read ahead by version.
    if machine.mixes_versions || each_waits {
        return Ok(());
    }
    let mut state = machine.world.lock();
    if made > allowed {
        state.violate("few_exchanges", || {
            format!("{what} of {count} records with {bytes} B makes {made} exchanges")
        });
    }
    match state.violation {
        Some(_) => Err(Stop::Violated),
        None => Ok(()),
    }
}
