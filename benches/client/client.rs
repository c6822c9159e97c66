//! Measured client.

use std::{collections::VecDeque, time::Instant};

use paho_mqtt as mqtt;

use crate::{
    contender::Contender,
    job::{Job, Load, Version},
};

/// Maximum that packet ids allow; the bench limits the messages in flight.
const MAX_IN_FLIGHT: i32 = 65_535;
pub const MAX_WAITING: i32 = 100_000;
const SESSION_SECONDS: u32 = 60;

/// Publishes messages, and keeps the tokens of those in flight, the oldest first.
pub struct Publisher<'a> {
    client: &'a mqtt::AsyncClient,
    payload: Vec<u8>,
    qos: i32,
    in_flight: VecDeque<mqtt::Token>,
}

/// Creates the client of a job, without connecting.
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

/// Connects with a session that outlives the connection.
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
            in_flight: VecDeque::new(),
        }
    }

    pub fn publish(&mut self) -> Result<mqtt::Token, mqtt::Error> {
        let message = mqtt::Message::new("bench/readings", self.payload.as_slice(), self.qos);
        // Unlike a delivery token, a token keeps no copy of the message.
        self.client.try_publish(message).map(mqtt::Token::from)
    }

    /// Publishes the load with its limit of messages in flight, waits until all are acknowledged, and returns their number.
    pub fn publish_all(&mut self, load: &Load) -> Result<usize, mqtt::Error> {
        let started = Instant::now();
        let mut published = 0;
        while published < load.messages && started.elapsed() < load.lasting {
            if self.in_flight.len() == load.in_flight {
                self.wait_for_oldest()?;
            }
            let token = self.publish()?;
            self.in_flight.push_back(token);
            published += 1;
        }
        self.wait_for_all()?;
        Ok(published)
    }

    /// Publishes this many messages without waiting for any.
    pub fn publish_unwaited(&mut self, messages: usize) -> Result<(), mqtt::Error> {
        for _ in 0..messages {
            let token = self.publish()?;
            self.in_flight.push_back(token);
        }
        Ok(())
    }

    pub fn wait_for_all(&mut self) -> Result<(), mqtt::Error> {
        while !self.in_flight.is_empty() {
            self.wait_for_oldest()?;
        }
        Ok(())
    }

    fn wait_for_oldest(&mut self) -> Result<(), mqtt::Error> {
        match self.in_flight.pop_front() {
            Some(token) => token.wait().map(drop),
            None => Ok(()),
        }
    }
}
