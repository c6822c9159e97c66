//! The client that is measured.

use std::{collections::VecDeque, time::Instant};

use paho_mqtt as mqtt;

use crate::{
    contender::Contender,
    job::{Job, Load, Version},
};

/// As many as packet ids allow; what limits the messages under way is the bench.
const MAX_IN_FLIGHT: i32 = 65_535;
pub const MAX_WAITING: i32 = 100_000;
const SESSION_SECONDS: u32 = 60;

/// Messages that were published and not waited for yet, the oldest first.
pub struct Publisher<'a> {
    client: &'a mqtt::AsyncClient,
    payload: Vec<u8>,
    qos: i32,
    under_way: VecDeque<mqtt::Token>,
}

/// Creates it as the job says, without connecting.
pub fn create(job: &Job, contender: &Contender) -> Result<mqtt::AsyncClient, mqtt::Error> {
    let options = mqtt::CreateOptionsBuilder::new()
        .server_uri(&job.at.broker)
        .client_id(&job.client_id)
        .send_while_disconnected(true)
        .allow_disconnected_send_at_anytime(true)
        .max_buffered_messages(MAX_WAITING);
    let options = match job.version {
        Version::V5 => options.mqtt_version(mqtt::MQTT_VERSION_5),
        Version::V3 => options.mqtt_version(mqtt::MQTT_VERSION_3_1_1),
    };
    contender.install(options, &job.at).create_client()
}

/// Connects it; its session outlives the connection.
pub fn connect(client: &mqtt::AsyncClient, version: Version) -> Result<(), mqtt::Error> {
    let mut options = match version {
        Version::V5 => {
            let mut properties = mqtt::Properties::new();
            properties.push_u32(mqtt::PropertyCode::SessionExpiryInterval, SESSION_SECONDS)?;
            let mut options = mqtt::ConnectOptionsBuilder::new_v5();
            options.clean_start(false).properties(properties);
            options
        }
        Version::V3 => {
            let mut options =
                mqtt::ConnectOptionsBuilder::with_mqtt_version(mqtt::MQTT_VERSION_3_1_1);
            options.clean_session(false);
            options
        }
    };
    let options = options.max_inflight(MAX_IN_FLIGHT).finalize();
    client.connect(options).wait().map(drop)
}

impl<'a> Publisher<'a> {
    pub fn new(client: &'a mqtt::AsyncClient, load: &Load) -> Self {
        Self {
            client,
            payload: vec![b'x'; load.payload],
            qos: load.qos,
            under_way: VecDeque::new(),
        }
    }

    pub fn publish(&mut self) -> Result<mqtt::Token, mqtt::Error> {
        let message = mqtt::Message::new("bench/readings", self.payload.as_slice(), self.qos);
        // What is kept of the token has no copy of the message.
        self.client.try_publish(message).map(mqtt::Token::from)
    }

    /// Publishes what the load says, never with more under way than it allows, until all are acknowledged. Tells how many there
    /// were.
    pub fn publish_all(&mut self, load: &Load) -> Result<usize, mqtt::Error> {
        let started = Instant::now();
        let mut published = 0;
        while published < load.messages && started.elapsed() < load.lasting {
            if self.under_way.len() == load.in_flight {
                self.wait_for_oldest()?;
            }
            let token = self.publish()?;
            self.under_way.push_back(token);
            published += 1;
        }
        self.wait_for_all()?;
        Ok(published)
    }

    /// Publishes so many without waiting for any.
    pub fn publish_unwaited(&mut self, messages: usize) -> Result<(), mqtt::Error> {
        for _ in 0..messages {
            let token = self.publish()?;
            self.under_way.push_back(token);
        }
        Ok(())
    }

    pub fn wait_for_all(&mut self) -> Result<(), mqtt::Error> {
        while !self.under_way.is_empty() {
            self.wait_for_oldest()?;
        }
        Ok(())
    }

    fn wait_for_oldest(&mut self) -> Result<(), mqtt::Error> {
        match self.under_way.pop_front() {
            Some(token) => token.wait().map(drop),
            None => Ok(()),
        }
    }
}
