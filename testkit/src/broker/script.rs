//! Script of the broker: its deviations from a normal broker.

use std::collections::{HashMap, HashSet};

use super::wire::{Kind, Packet};

/// Action at the arrival of a packet.
pub enum Action {
    /// Ends the connection without an answer.
    Drop,
    /// Refuses this many of the next CONNECTs with 'server unavailable'.
    Refuse(usize),
    /// Delivers a message to the client that sent the packet.
    Deliver {
        topic: &'static str,
        payload: String,
        qos: u8,
    },
    /// Stops withholding packets.
    Release,
    /// Runs code of the test, and does not answer the packet. The code must not call the broker.
    Run(Box<dyn FnOnce() + Send>),
}

type Condition = Box<dyn FnMut(&Packet) -> bool + Send>;

#[derive(Default)]
pub struct Script {
    withheld: HashSet<Kind>,
    /// Single packets to withhold, by kind and number, counted from 1.
    withheld_nth: HashSet<(Kind, usize)>,
    /// Number of packets per kind that were due.
    due: HashMap<Kind, usize>,
    rules: Vec<(Condition, Vec<Action>)>,
    /// Number of CONNECTs that are still to be refused.
    pub refuse: usize,
    /// Set if the broker discards the session at every CONNECT.
    pub discards_sessions: bool,
    /// Reason codes other than 0, by kind of the packet.
    pub codes: HashMap<Kind, u8>,
}

impl Script {
    pub fn withhold(&mut self, kind: Kind) {
        self.withheld.insert(kind);
    }

    pub fn withhold_nth(&mut self, kind: Kind, nth: usize) {
        self.withheld_nth.insert((kind, nth));
    }

    pub fn release(&mut self, kind: Kind) {
        self.withheld.remove(&kind);
        self.withheld_nth.retain(|(withheld, _)| *withheld != kind);
    }

    pub fn release_all(&mut self) {
        self.withheld.clear();
        self.withheld_nth.clear();
    }

    pub fn when(&mut self, condition: Condition, actions: Vec<Action>) {
        self.rules.push((condition, actions));
    }

    /// Counts a packet that is due, and returns true if it is withheld.
    pub fn withholds(&mut self, kind: Kind) -> bool {
        let due = self.due.entry(kind).or_default();
        *due += 1;
        self.withheld.contains(&kind) || self.withheld_nth.contains(&(kind, *due))
    }

    /// Returns true if the answer to a message at this QoS refuses it.
    pub fn refuses(&self, qos: u8) -> bool {
        let kind = match qos {
            1 => Kind::Puback,
            2 => Kind::Pubrec,
            _ => return false,
        };
        self.codes.get(&kind).is_some_and(|code| *code >= 0x80)
    }

    /// Returns the actions at the arrival of this packet. Each rule applies once.
    pub fn actions(&mut self, packet: &Packet) -> Vec<Action> {
        let rules = self
            .rules
            .extract_if(.., |(condition, _)| condition(packet));
        rules.flat_map(|(_, actions)| actions).collect()
    }
}
