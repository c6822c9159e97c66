//! Job of a measuring process, and its result.

use std::{fmt, str::FromStr, time::Duration};

use crate::contender::Transport;

/// MQTT version that a client is created for and connects with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V5,
    V3,
}

impl Version {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "5" => Some(Self::V5),
            "3.1.1" => Some(Self::V3),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "5",
            Self::V3 => "3.1.1",
        }
    }
}

/// Addresses of the servers, and the folder for a contender that keeps files.
#[derive(Clone, Default)]
pub struct Addresses {
    pub broker: String,
    pub redis_tcp: String,
    pub redis_unix: String,
    pub folder: String,
    /// Redis of another client in the same process; empty if there is none.
    pub neighbor: String,
}

impl Addresses {
    pub fn redis(&self, transport: Transport) -> &str {
        match transport {
            Transport::Tcp => &self.redis_tcp,
            Transport::Unix => &self.redis_unix,
        }
    }
}

/// Work that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Publishes while connected.
    Publish,
    /// Publishes while the Redis of another client in the process does not answer.
    PublishBesideOutage,
    /// Publishes while not connected, and leaves the messages in the persistence.
    Fill,
    /// Publishes while not connected, then connects and waits until all messages are acknowledged.
    FillAndSend,
    /// Publishes to a broker that acknowledges nothing, and leaves the messages in the persistence.
    Leave,
    /// Creates a client for which messages wait.
    Create,
}

const WORKS: [(Work, &str); 6] = [
    (Work::Publish, "publish"),
    (Work::PublishBesideOutage, "publish-beside-outage"),
    (Work::Fill, "fill"),
    (Work::FillAndSend, "fill-and-send"),
    (Work::Leave, "leave"),
    (Work::Create, "create"),
];

/// Kind and number of the messages.
#[derive(Clone, Copy)]
pub struct Load {
    pub qos: i32,
    pub payload: usize,
    /// Limit of messages in flight.
    pub in_flight: usize,
    /// Number of messages after which it ends.
    pub messages: usize,
    /// Time after which it ends, if that is earlier.
    pub lasting: Duration,
}

impl Load {
    /// Default load of the measurements of speed: QoS 1, 100 B, 100 in flight, for this many milliseconds.
    pub fn lasting(milliseconds: u64) -> Self {
        Self {
            lasting: Duration::from_millis(milliseconds),
            ..Self::of(usize::MAX, 1, 100)
        }
    }

    /// Load of this many messages, without a limit of time.
    pub fn of(messages: usize, qos: i32, payload: usize) -> Self {
        Self {
            qos,
            payload,
            in_flight: 100,
            messages,
            lasting: Duration::from_secs(3600),
        }
    }
}

/// Job, passed as arguments.
#[derive(Clone)]
pub struct Job {
    pub work: Work,
    pub contender: String,
    pub client_id: String,
    pub version: Version,
    pub at: Addresses,
    pub load: Load,
}

impl Job {
    pub fn arguments(&self) -> [String; 14] {
        let work = WORKS.iter().find(|(work, _)| *work == self.work);
        let Load {
            qos,
            payload,
            in_flight,
            messages,
            lasting,
        } = self.load;
        [
            work.expect("listed").1.to_owned(),
            self.contender.clone(),
            self.client_id.clone(),
            self.version.name().to_owned(),
            self.at.broker.clone(),
            self.at.redis_tcp.clone(),
            self.at.redis_unix.clone(),
            self.at.folder.clone(),
            self.at.neighbor.clone(),
            qos.to_string(),
            payload.to_string(),
            in_flight.to_string(),
            messages.to_string(),
            lasting.as_millis().to_string(),
        ]
    }

    pub fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [
            work,
            contender,
            client_id,
            version,
            broker,
            redis_tcp,
            redis_unix,
            folder,
            neighbor,
            qos,
            payload,
            in_flight,
            messages,
            lasting,
        ] = arguments
        else {
            return None;
        };
        Some(Self {
            work: WORKS.iter().find(|(_, name)| name == work)?.0,
            contender: contender.clone(),
            client_id: client_id.clone(),
            version: Version::parse(version)?,
            at: Addresses {
                broker: broker.clone(),
                redis_tcp: redis_tcp.clone(),
                redis_unix: redis_unix.clone(),
                folder: folder.clone(),
                neighbor: neighbor.clone(),
            },
            load: Load {
                qos: qos.parse().ok()?,
                payload: payload.parse().ok()?,
                in_flight: in_flight.parse().ok()?,
                messages: messages.parse().ok()?,
                lasting: Duration::from_millis(lasting.parse().ok()?),
            },
        })
    }
}

/// Measurement. Fields that a kind of work does not measure are zero.
#[derive(Clone, Copy, Default)]
pub struct Measured {
    pub messages: f64,
    /// Time until all were acknowledged, or accepted if the client is not connected, or until the client was created.
    pub seconds: f64,
    /// Processor time of all threads of the process meanwhile, if the kernel counts it.
    pub busy: f64,
    /// Time from connecting until all messages that were published before are acknowledged.
    pub sending: f64,
    /// Resident memory at the end, in bytes.
    pub resident: f64,
    /// Bytes that the process wrote to files on a disk.
    pub written: f64,
    /// Bytes of them that were deleted before they reached the disk.
    pub withdrawn: f64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            messages,
            seconds,
            busy,
            sending,
            resident,
            written,
            withdrawn,
        } = self;
        write!(
            f,
            "{messages} {seconds} {busy} {sending} {resident} {written} {withdrawn}"
        )
    }
}

impl FromStr for Measured {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers: Option<Vec<f64>> = text
            .split_whitespace()
            .map(|word| word.parse().ok())
            .collect();
        let numbers = numbers.unwrap_or_default();
        let [
            messages,
            seconds,
            busy,
            sending,
            resident,
            written,
            withdrawn,
        ] = numbers[..]
        else {
            return Err(format!("no measurement: {text:?}"));
        };
        Ok(Self {
            messages,
            seconds,
            busy,
            sending,
            resident,
            written,
            withdrawn,
        })
    }
}
