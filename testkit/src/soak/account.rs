//! What was accepted against what arrived, in one byte a message.

use crate::crash::{is_whole, qos};

/// Messages by client and number.
#[derive(Default)]
pub struct Account {
    clients: Vec<Vec<Message>>,
    pub accepted: usize,
    pub altered: Vec<String>,
}

#[derive(Clone, Copy, Default)]
struct Message {
    accepted: bool,
    arrived: u8,
}

/// What is wrong with it.
#[derive(Debug, Default, PartialEq)]
pub struct Balance {
    pub lost: Vec<String>,
    pub twice: Vec<String>,
    /// At QoS 1, where it may be.
    pub again: usize,
    /// At QoS 0, where it may be.
    pub lost_at_qos_0: usize,
}

impl Account {
    pub fn accept(&mut self, client: usize, number: usize) {
        self.accepted += 1;
        self.message(client, number).accepted = true;
    }

    pub fn arrive(&mut self, payload: &[u8]) {
        let text = String::from_utf8_lossy(payload);
        let id = is_whole(&text).then(|| id(&text)).flatten();
        let Some((number, client)) = id else {
            self.altered.push(text.into_owned());
            return;
        };
        let message = self.message(client, number);
        message.arrived = message.arrived.saturating_add(1);
    }

    /// Whether everything has arrived that has to.
    pub fn is_complete(&self) -> bool {
        self.messages()
            .all(|(_, number, message)| !message.accepted || message.arrived > 0 || number % 3 == 0)
    }

    pub fn balance(&self) -> Balance {
        let mut balance = Balance::default();
        for (client, number, message) in self.messages() {
            let name = || format!("m{number}-r{client}");
            match qos(&name()) {
                0 if message.accepted && message.arrived == 0 => balance.lost_at_qos_0 += 1,
                _ if message.accepted && message.arrived == 0 => balance.lost.push(name()),
                2 | 0 if message.arrived > 1 => balance.twice.push(name()),
                1 if message.arrived > 1 => balance.again += 1,
                _ => {}
            }
        }
        balance
    }

    fn messages(&self) -> impl Iterator<Item = (usize, usize, Message)> {
        self.clients
            .iter()
            .enumerate()
            .flat_map(|(client, messages)| {
                let numbered = messages.iter().copied().enumerate();
                numbered.map(move |(number, message)| (client, number, message))
            })
    }

    fn message(&mut self, client: usize, number: usize) -> &mut Message {
        let clients = self.clients.len().max(client + 1);
        self.clients.resize_with(clients, Vec::new);
        let messages = &mut self.clients[client];
        messages.resize(messages.len().max(number + 1), Message::default());
        &mut messages[number]
    }

    /// The number that a client which was killed goes on with: its last may have been accepted unheard.
    pub fn next(&self, client: usize) -> usize {
        self.clients
            .get(client)
            .map_or(0, |messages| messages.len() + 1)
    }
}

/// The number and the client of a payload.
fn id(text: &str) -> Option<(usize, usize)> {
    let (number, client) = text
        .strip_prefix('m')?
        .split('|')
        .next()?
        .split_once("-r")?;
    Some((number.parse().ok()?, client.parse().ok()?))
}
