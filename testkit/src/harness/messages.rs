//! Names and payloads of the messages.

use std::fmt;

use paho_mqtt as mqtt;

/// Client id of the program that is killed.
pub(super) const CLIENT: &str = "program";
/// Topic to which every program publishes.
pub(super) const TOPIC: &str = "readings";
/// Topic from which the program receives at QoS 2.
pub(super) const INBOUND: &str = "commands";
/// Payload that ends a run: nothing is sent after it.
pub(super) const LAST: &str = "m0-i0|the last one";

/// Name of a published message, which determines its payload and QoS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Run that published it or, in a soak, the client.
    pub run: usize,
    pub number: usize,
}

impl Id {
    /// Payload in which any damage shows.
    ///
    /// Every fifth is so large that the library writes it to Redis without a copy.
    pub fn payload(self) -> String {
        let large = if self.number % 5 == 1 { 8 * 1024 } else { 0 };
        format!("{self}|{}|", "x".repeat(10 + self.number % 500 + large))
    }

    /// QoS of the message: a third of them at each.
    pub fn qos(self) -> usize {
        self.number % 3
    }

    /// Parses the message of an undamaged payload.
    pub fn of(payload: &str) -> Option<Self> {
        let id = Self::named(payload.split('|').next()?)?;
        (id.payload() == payload).then_some(id)
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        let (number, run) = name.strip_prefix('m')?.split_once("-r")?;
        Some(Self {
            run: run.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    pub(super) fn message(self) -> mqtt::Message {
        let qos = i32::try_from(self.qos()).expect("0 to 2");
        mqtt::Message::new(TOPIC, self.payload(), qos)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}-r{}", self.number, self.run)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Payload of a message to the program, whose name a trace shows.
pub(super) fn inbound_payload(number: usize, run: usize) -> String {
    format!("m{number}-i{run}|")
}

/// Protocol levels that the client is created for and connects with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    V5,
    V3,
    /// Created for the default, which is 5, and connected with 3.1.1.
    Default3,
}

impl Versions {
    /// Paho's numbers for them, 0 for the default.
    pub(super) fn levels(self) -> (u32, u32) {
        match self {
            Self::V5 => (5, 5),
            Self::V3 => (4, 4),
            Self::Default3 => (0, 4),
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5 => "5",
            Self::V3 => "3.1.1",
            Self::Default3 => "3.1.1, created for 5",
        })
    }
}
