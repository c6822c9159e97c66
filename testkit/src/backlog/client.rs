//! Clients in processes of their own: one that is dropped would remove what is in flight.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    process::{self, Command, Output, Stdio},
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;
use paho_mqtt_redis::RedisPersistence;
use serde::{Deserialize, Serialize};

use crate::{
    child,
    harness::{ORDERS, orders, session},
    process::die_with_this_thread,
};

/// Topic of its messages.
pub const TOPIC: &str = "readings";

/// Far longer than any client needs.
const LIMIT: Duration = Duration::from_secs(300);

/// Orders of a client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Client {
    pub id: String,
    /// URL of the broker.
    pub broker: String,
    pub version: u32,
    pub place: Place,
    pub work: Work,
}

/// Place of its records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Place {
    Files(PathBuf),
    Redis(String),
}

/// Work of a client.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Publishes numbered messages of this size at this QoS, without a connection.
    Fill {
        messages: usize,
        bytes: usize,
        qos: i32,
    },
    /// Publishes them at QoS 1 to a broker that acknowledges none.
    Leave { messages: usize, bytes: usize },
    /// Restores the records, and prints the seconds that it took.
    Restore,
    /// Connects, so that the broker has a session, without which Paho drops what is in flight.
    Begin,
    /// Connects, and sends what is there until its input closes.
    Send,
}

impl Client {
    /// Command that runs the client.
    pub fn command(&self) -> Command {
        let mut command = child::program("backlog-client");
        let orders = serde_json::to_string(self).expect("can be written");
        command.env(ORDERS, orders).stdin(Stdio::piped());
        die_with_this_thread(&mut command);
        command
    }

    /// Runs the client to its end.
    #[track_caller]
    pub fn run(&self) -> Output {
        let output = self.command().output().expect("the client runs");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self:?}: {log}");
        output
    }

    /// Does the same with other work.
    pub fn with(&self, work: Work) -> Self {
        Self {
            work,
            ..self.clone()
        }
    }

    /// Has the records elsewhere.
    pub fn at(&self, place: Place) -> Self {
        Self {
            place,
            ..self.clone()
        }
    }

    fn create(&self) -> mqtt::Result<mqtt::AsyncClient> {
        let mut options = mqtt::CreateOptionsBuilder::new()
            .server_uri(&self.broker)
            .client_id(&self.id)
            .mqtt_version(self.version)
            .max_buffered_messages(100_000)
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true);
        options = match &self.place {
            Place::Files(folder) => options.persistence(Path::new(folder)),
            Place::Redis(url) => {
                let persistence = RedisPersistence::builder().url(url).build();
                options.user_persistence(persistence.expect("a valid URL"))
            }
        };
        options.create_client()
    }

    fn work(&self) -> mqtt::Result<()> {
        let started = Instant::now();
        let client = self.create()?;
        match self.work {
            Work::Fill {
                messages,
                bytes,
                qos,
            } => {
                for number in 0..messages {
                    client.try_publish(mqtt::Message::new(TOPIC, payload(number, bytes), qos))?;
                }
            }
            Work::Leave { messages, bytes } => {
                connect(&client, self.version)?;
                for number in 0..messages {
                    client.try_publish(mqtt::Message::new(TOPIC, payload(number, bytes), 1))?;
                }
                // It is sent after all others, and then its token completes.
                client
                    .try_publish(mqtt::Message::new("last", "", 0))?
                    .wait_for(LIMIT)?;
            }
            Work::Restore => println!("{}", started.elapsed().as_secs_f64()),
            Work::Begin => connect(&client, self.version)?,
            Work::Send => {
                connect(&client, self.version)?;
                println!("connected");
                let _ = io::stdin().read(&mut [0]);
            }
        }
        // A client that is dropped or disconnects may remove records.
        process::exit(0);
    }
}

/// Runs the client of the orders.
pub fn run_program() -> ! {
    let client: Client = orders();
    if let Err(error) = client.work() {
        eprintln!("{error}");
    }
    process::exit(1);
}

fn connect(client: &mqtt::AsyncClient, version: u32) -> mqtt::Result<()> {
    let mut options = session(version);
    options.max_inflight(65_535);
    let connecting = client.connect(options.finalize());
    connecting.wait_for(LIMIT).map(drop)
}

/// Payload of a message.
pub fn payload(number: usize, bytes: usize) -> Vec<u8> {
    format!("{number:<bytes$}").into_bytes()
}

/// Number in a payload.
pub fn number_of(payload: &[u8]) -> usize {
    let text = String::from_utf8_lossy(payload);
    text.trim_end().parse().expect("a number")
}
