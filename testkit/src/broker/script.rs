//! What a test has told the broker to do otherwise than a broker would.

use std::collections::{HashMap, HashSet};

use super::wire::{Kind, Packet};

/// What happens when a packet has arrived for which the test waits.
pub enum Action {
    /// The connection ends, without an answer.
    Drop,
    /// This many of the next CONNECTs are refused, with 'server unavailable'.
    Refuse(usize),
    /// A message goes to the client that sent the packet.
    Deliver {
        topic: &'static str,
        payload: String,
        qos: u8,
    },
    /// From now on everything goes out.
    Release,
    /// Something of the test's own, and the packet is not answered. It must not call the broker.
    Run(Box<dyn FnOnce() + Send>),
}

type Condition = Box<dyn FnMut(&Packet) -> bool + Send>;

#[derive(Default)]
pub struct Script {
    withheld: HashSet<Kind>,
    /// Which ones in their order, counted from 1, are withheld.
    withheld_nth: HashSet<(Kind, usize)>,
    /// How many of a kind the broker was about to send.
    due: HashMap<Kind, usize>,
    rules: Vec<(Condition, Vec<Action>)>,
    /// How many CONNECTs are still to be refused.
    pub refuse: usize,
    /// Whether every CONNECT finds that there was no session.
    pub forgets: bool,
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

    /// Whether a packet that is due does not go out.
    pub fn withholds(&mut self, kind: Kind) -> bool {
        let due = self.due.entry(kind).or_default();
        *due += 1;
        self.withheld.contains(&kind) || self.withheld_nth.contains(&(kind, *due))
    }

    /// What is to happen now that this packet has arrived. Each rule holds once.
    pub fn actions(&mut self, packet: &Packet) -> Vec<Action> {
        let rules = self
            .rules
            .extract_if(.., |(condition, _)| condition(packet));
        rules.flat_map(|(_, actions)| actions).collect()
    }
}
