//! Paho's restore of its records when a client is created.

use super::{
    paho::{Command, Inbound, Options, Outbound, Paho, check_exchanges, forget, sizes},
    process::{Machine, Stop},
    values::{Key, Kind, Publish, Topic, message_of, parse_command, parse_packet, token},
};

impl Paho {
    /// Creates a client over the persistence, and restores its records. `None` if that fails.
    pub fn create(machine: &mut Machine, options: Options) -> Result<Option<Self>, Stop> {
        let errors = machine.world.lock().errors;
        if !machine.open()? {
            return Ok(None);
        }
        let before = machine.world.lock().operations_of_calls;
        // Commands that got another packet id are written meanwhile, and read again.
        let process = machine.process.as_ref();
        let has_pending = process.is_some_and(|process| process.clock.memory().1 > 0);
        let mut paho = Self::new(options);
        if !paho.restore_packets(machine)? {
            paho.drop_unconnected(machine)?;
            return Ok(None);
        }
        paho.restore_commands(machine)?;
        paho.restore_queue(machine)?;
        let (count, bytes) = sizes(machine);
        let state = machine.world.lock();
        let (made, is_undisturbed) = (state.operations_of_calls - before, state.errors == errors);
        drop(state);
        if is_undisturbed && !has_pending {
            check_exchanges(machine, "the restore", made, count, bytes)?;
        }
        machine.check_packet_ids()?;
        Ok(Some(paho))
    }

    /// Restores what is in flight. Returns false if the client cannot be created.
    fn restore_packets(&mut self, machine: &mut Machine) -> Result<bool, Stop> {
        for key in machine.live_keys()? {
            if key.is_queue_record() {
                continue;
            }
            let Ok(value) = machine.get(key)? else {
                return Ok(false);
            };
            // A client for 3.1.1 does not restore what one for MQTT 5 wrote.
            if key.v5 && !self.options.versions.created_v5 {
                return Ok(false);
            }
            let v5 = self.options.versions.created_v5;
            match key.kind {
                Kind::ReceivedPublish => {
                    if let Some(publish) = parse_packet(key.v5, &value) {
                        let inbound = Inbound { publish, v5 };
                        self.inbound.insert(inbound.publish.packet_id, inbound);
                    }
                }
                Kind::SentPublish => {
                    let Some(publish) = parse_packet(key.v5, &value) else {
                        continue;
                    };
                    let id = publish.packet_id.into();
                    let is_released = machine.contains(Key::new(Kind::SentPubrel, v5, id))?;
                    if let Topic::Own(number) = publish.topic {
                        let mut state = machine.world.lock();
                        if let Some(message) = state.ledger.get_mut(number) {
                            message.is_restored = true;
                        }
                    }
                    self.outbound.push(Outbound {
                        publish,
                        v5,
                        is_released,
                    });
                }
                Kind::SentPubrel => {
                    let id = key.number;
                    if !machine.contains(Key::new(Kind::SentPublish, v5, id))? {
                        machine.remove(key)?;
                    }
                }
                Kind::Command | Kind::Undelivered => {}
            }
        }
        self.outbound
            .sort_by_key(|outbound| outbound.publish.packet_id);
        self.wrap_packet_ids();
        Ok(true)
    }

    /// Puts the message behind the widest gap first, as `MQTTPersistence_wrapMsgID` does.
    fn wrap_packet_ids(&mut self) {
        let id = |outbound: &Outbound| usize::from(outbound.publish.packet_id);
        let (Some(first), Some(last)) = (self.outbound.first(), self.outbound.last()) else {
            return;
        };
        let mut gap = 65_535 - id(last) + id(first);
        let mut start = 0;
        for (position, pair) in self.outbound.windows(2).enumerate() {
            let distance = id(&pair[1]) - id(&pair[0]);
            if distance > gap {
                gap = distance;
                start = position + 1;
            }
        }
        self.outbound.rotate_left(start);
    }

    fn restore_commands(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        let mut keys = machine.live_keys()?;
        keys.retain(|key| key.kind == Kind::Command);
        // `qsort` compares the numbers only.
        keys.sort_by_key(|key| key.number);
        for (position, key) in keys.iter().enumerate() {
            let Ok(value) = machine.get(*key)? else {
                // The rest stays unread until the next start.
                for unread in &keys[position..] {
                    forget(machine, *unread);
                }
                return Ok(());
            };
            self.sequence = self.sequence.max(key.number);
            let publish = parse_command(&value);
            self.commands.push_back(Command {
                key: *key,
                token: token(&value).unwrap_or_default(),
                publishes: publish.is_some(),
                qos: publish.map_or(1, |publish| publish.qos),
                message: message_of(*key, &value),
                is_read_back: true,
            });
        }
        Ok(())
    }

    fn restore_queue(&mut self, machine: &mut Machine) -> Result<(), Stop> {
        let mut restored: Vec<(u32, Publish)> = Vec::new();
        for key in machine.live_keys()? {
            if key.kind != Kind::Undelivered {
                continue;
            }
            if machine.get(key)?.is_err() {
                break;
            }
            self.queue_sequence = self.queue_sequence.max(key.number);
            let publish = Publish {
                qos: 1,
                packet_id: 0,
                topic: Topic::Inbound(0),
                payload: Vec::new(),
            };
            restored.push((key.number, publish));
        }
        restored.sort_by_key(|(number, _)| *number);
        self.queue = restored.into();
        Ok(())
    }

    /// Drops a client that could not be created, or never tried to connect.
    ///
    /// With MQTT 5, Paho removes what is in flight then: it knows no session expiry before it connects.
    pub(super) fn drop_unconnected(&self, machine: &mut Machine) -> Result<(), Stop> {
        if self.options.versions.created_v5 {
            for key in machine.keys()? {
                if !key.is_queue_record() {
                    machine.remove_protected(key)?;
                }
            }
        }
        Ok(())
    }
}
