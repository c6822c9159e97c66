//! Comparison of accepted and arrived messages.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use super::messages::{Id, TOPIC};
use crate::Subscriber;

/// Messages that `publish` has accepted, and those that arrived at the subscriber.
#[derive(Debug, Default)]
pub struct Ledger {
    messages: BTreeMap<Id, Message>,
    accepted: usize,
    altered: Vec<String>,
    prefixed: Vec<String>,
}

/// Compact, since a soak has millions of them.
#[derive(Debug, Clone, Copy, Default)]
struct Message {
    accepted: bool,
    arrived: u8,
}

/// Result of a ledger.
#[derive(Debug, Default)]
pub struct Balance {
    /// Accepted messages, by QoS.
    pub accepted: [usize; 3],
    /// Accepted messages that did not arrive, by QoS; nothing is promised at QoS 0.
    pub lost: [Vec<Id>; 3],
    /// Messages that arrived more than once, with the number of times, by QoS; allowed at QoS 1.
    pub repeated: [Vec<(Id, u8)>; 3],
    /// Arrived although the program was killed before it reported that the message was accepted: at most one per run.
    pub unreported: usize,
    /// Arrivals with a topic, payload or QoS that nobody published.
    pub altered: Vec<String>,
    /// Arrivals with one additional byte in front, otherwise unaltered.
    pub prefixed: Vec<String>,
}

impl Ledger {
    pub fn accept(&mut self, id: Id) {
        self.accepted += 1;
        self.messages.entry(id).or_default().accepted = true;
    }

    /// Records an arrival, with its QoS if that is not the subscriber's.
    pub fn arrive(&mut self, topic: &str, payload: &[u8], qos: Option<u8>) {
        let text = String::from_utf8_lossy(payload);
        let is_right =
            |id: &Id| topic == TOPIC && qos.is_none_or(|qos| usize::from(qos) == id.qos());
        let shown = || format!("{topic} {}", payload.escape_ascii());
        let rest = text.strip_prefix('\0').and_then(Id::of);
        // A message with a byte in front has arrived, though altered.
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

    /// Records everything that has arrived at a subscriber since the last call.
    pub fn collect(&mut self, subscriber: &Subscriber) {
        for (topic, payload) in subscriber.take() {
            self.arrive(&topic, &payload, None);
        }
    }

    /// Repeats this until all `expected` messages at QoS 1 and 2 have arrived, or `limit` has passed.
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

    /// Number of accepted messages.
    pub fn accepted(&self) -> usize {
        self.accepted
    }

    /// Accepted messages.
    pub fn ids(&self) -> impl Iterator<Item = Id> {
        let accepted = self.messages.iter().filter(|(_, message)| message.accepted);
        accepted.map(|(id, _)| *id)
    }

    /// Number with which a killed client continues: its last message may have been accepted without a report.
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
            balance.unreported += usize::from(!message.accepted);
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
    /// Broken promises, each with its messages.
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

    /// Returns true if every promise is kept, and no message at QoS 0 arrived twice over a connection that breaks.
    pub fn is_clean(&self) -> bool {
        self.wrong().is_empty() && self.repeated[0].is_empty()
    }

    /// Messages that arrived more than once at QoS 2, and at QoS 0.
    pub fn twice(&self) -> usize {
        self.repeated[0].len() + self.repeated[2].len()
    }

    /// Further arrivals at QoS 1.
    pub fn again(&self) -> usize {
        let times = self.repeated[1].iter();
        times.map(|(_, times)| usize::from(*times) - 1).sum()
    }
}

/// Kinds that have messages.
pub(super) fn named<const N: usize>(kinds: [(&str, Vec<String>); N]) -> Vec<String> {
    let found = kinds.into_iter().filter(|(_, found)| !found.is_empty());
    found
        .map(|(kind, found)| format!("{kind}: {}", found.join(", ")))
        .collect()
}
