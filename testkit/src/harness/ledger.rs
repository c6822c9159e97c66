//! Accepted against arrived messages.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use super::messages::{Id, TOPIC};
use crate::Subscriber;

/// The messages that programs had accepted by `publish`, and those that arrived at the other end.
#[derive(Debug, Default)]
pub struct Ledger {
    messages: BTreeMap<Id, Message>,
    accepted: usize,
    altered: Vec<String>,
    prefixed: Vec<String>,
}

/// Small, since a soak has millions of them.
#[derive(Debug, Clone, Copy, Default)]
struct Message {
    accepted: bool,
    arrived: u8,
}

/// The result of a ledger.
#[derive(Debug, Default)]
pub struct Balance {
    /// By QoS.
    pub accepted: [usize; 3],
    /// Accepted and not arrived, by QoS; at QoS 0 nothing is promised.
    pub lost: [Vec<Id>; 3],
    /// Arrived this many times, by QoS; at QoS 1 they may, and at QoS 0 nobody sends again.
    pub repeated: [Vec<(Id, u8)>; 3],
    /// Arrived though the program did not get as far as to report that it was accepted: at most one per run.
    pub unheard: usize,
    /// With a topic, payload or QoS that nobody published.
    pub altered: Vec<String>,
    /// With one byte too many in front, and otherwise unaltered.
    pub prefixed: Vec<String>,
}

impl Ledger {
    pub fn accept(&mut self, id: Id) {
        self.accepted += 1;
        self.messages.entry(id).or_default().accepted = true;
    }

    /// Enters an arrival, with its QoS if that is not the subscriber's.
    pub fn arrive(&mut self, topic: &str, payload: &[u8], qos: Option<u8>) {
        let text = String::from_utf8_lossy(payload);
        let is_right =
            |id: &Id| topic == TOPIC && qos.is_none_or(|qos| usize::from(qos) == id.qos());
        let shown = || format!("{topic} {}", payload.escape_ascii());
        let rest = text.strip_prefix('\0').and_then(Id::of);
        // A message with a byte in front of it has arrived, though not unaltered.
        let id = if let Some(id) = rest.filter(is_right) {
            self.prefixed.push(shown());
            Some(id)
        } else {
            let id = Id::of(&text);
            if !id.as_ref().is_some_and(is_right) {
                self.altered.push(shown());
            }
            id
        };
        if let Some(id) = id {
            let message = self.messages.entry(id).or_default();
            message.arrived = message.arrived.saturating_add(1);
        }
    }

    /// Enters everything that has arrived at a subscriber since the last call.
    pub fn collect(&mut self, subscriber: &Subscriber) {
        for (topic, payload) in subscriber.take() {
            self.arrive(&topic, &payload, None);
        }
    }

    /// The same until all `expected` messages at QoS 1 and 2 have arrived, or `limit` has passed.
    pub fn collect_all(
        &mut self,
        subscriber: &Subscriber,
        limit: Duration,
        expected: impl Fn(&Id) -> bool,
    ) {
        let started = Instant::now();
        loop {
            self.collect(subscriber);
            let is_missing = |(id, message): (&Id, &Message)| {
                message.accepted && message.arrived == 0 && id.qos() > 0 && expected(id)
            };
            if !self.messages.iter().any(is_missing) || started.elapsed() > limit {
                return;
            }
            thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The number of accepted messages.
    pub fn accepted(&self) -> usize {
        self.accepted
    }

    /// The accepted messages.
    pub fn ids(&self) -> impl Iterator<Item = Id> {
        let accepted = self.messages.iter().filter(|(_, message)| message.accepted);
        accepted.map(|(id, _)| *id)
    }

    /// The number that a client which was killed goes on with: its last may have been accepted unheard.
    pub fn next(&self, client: usize) -> usize {
        let [first, end] = [client, client + 1].map(|run| Id { run, number: 0 });
        let last = self.messages.range(first..end).next_back();
        last.map_or(0, |(id, _)| id.number + 2)
    }

    pub fn balance(&self) -> Balance {
        let mut balance = Balance {
            altered: self.altered.clone(),
            prefixed: self.prefixed.clone(),
            ..Balance::default()
        };
        for (&id, message) in &self.messages {
            let qos = id.qos();
            balance.accepted[qos] += usize::from(message.accepted);
            balance.unheard += usize::from(!message.accepted);
            if message.arrived == 0 {
                balance.lost[qos].push(id);
            } else if message.arrived > 1 {
                balance.repeated[qos].push((id, message.arrived));
            }
        }
        balance
    }
}

impl Balance {
    /// The broken promises, each with its messages.
    pub fn wrong(&self) -> Vec<String> {
        let ids = |ids: &[Id]| ids.iter().map(Id::to_string).collect();
        let times = self.repeated[2].iter();
        let twice: Vec<String> = times.map(|(id, n)| format!("{id} {n} times")).collect();
        let kinds: [(&str, Vec<String>); 5] = [
            ("lost at QoS 1", ids(&self.lost[1])),
            ("lost at QoS 2", ids(&self.lost[2])),
            ("twice", twice),
            ("altered", self.altered.clone()),
            ("a byte in front", self.prefixed.clone()),
        ];
        named(kinds)
    }

    /// Returns whether every promise is kept, and nothing at QoS 0 came twice over a connection that breaks.
    pub fn is_clean(&self) -> bool {
        self.wrong().is_empty() && self.repeated[0].is_empty()
    }

    /// Messages that came more than once at QoS 2, and at QoS 0.
    pub fn twice(&self) -> usize {
        self.repeated[0].len() + self.repeated[2].len()
    }

    /// Further arrivals at QoS 1.
    pub fn again(&self) -> usize {
        let times = self.repeated[1].iter();
        times.map(|(_, times)| usize::from(*times) - 1).sum()
    }
}

/// Those kinds of which there are messages.
pub(super) fn named<const N: usize>(kinds: [(&str, Vec<String>); N]) -> Vec<String> {
    let found = kinds.into_iter().filter(|(_, found)| !found.is_empty());
    found
        .map(|(kind, found)| format!("{kind}: {}", found.join(", ")))
        .collect()
}
