//! Simplest persistence in Redis, the reference of the measurements.

use std::sync::{Mutex, PoisonError};

use paho_mqtt::{ClientPersistence, Error, Result};
use redis::{Connection, FromRedisValue, IntoConnectionInfo, io::tcp::TcpSettings};

/// Makes every call one command of the `redis` crate and waits for its answer, over TCP with `TCP_NODELAY`.
///
/// paho-mqtt-redis 0.3.2 works this way; this one uses current crates. It differs where that version loses messages:
/// `contains_key` returns what paho-mqtt 0.14 passes on correctly, removing a missing record is not an error, and two calls never
/// share the connection.
pub struct Direct {
    url: String,
    hash: String,
    connection: Mutex<Option<Connection>>,
}

impl Direct {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            hash: String::new(),
            connection: Mutex::new(None),
        }
    }

    fn ask<T: FromRedisValue>(&self, command: &str, arguments: &[&[u8]]) -> Result<T> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_mut().ok_or(Error::Failure)?;
        redis::cmd(command)
            .arg(&self.hash)
            .arg(arguments)
            .query(connection)
            .map_err(|_| Error::Failure)
    }
}

impl ClientPersistence for Direct {
    fn open(&mut self, client_id: &str, server_uri: &str) -> Result<()> {
        let connect = || {
            let address = self.url.as_str().into_connection_info()?;
            let address = address.set_tcp_settings(TcpSettings::default().set_nodelay(true));
            redis::Client::open(address)?.get_connection()
        };
        let connection = connect().map_err(|_| Error::Failure)?;
        self.connection = Mutex::new(Some(connection));
        self.hash = format!("{client_id}:{server_uri}");
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.connection = Mutex::new(None);
        Ok(())
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> Result<()> {
        self.ask("HSET", &[key.as_bytes(), &buffers.concat()])
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        self.ask::<Option<Vec<u8>>>("HGET", &[key.as_bytes()])?
            .ok_or(Error::Failure)
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        self.ask("HDEL", &[key.as_bytes()])
    }

    fn keys(&mut self) -> Result<Vec<String>> {
        self.ask("HKEYS", &[])
    }

    fn clear(&mut self) -> Result<()> {
        self.ask("DEL", &[])
    }

    fn contains_key(&mut self, key: &str) -> bool {
        !self.ask("HEXISTS", &[key.as_bytes()]).unwrap_or(false)
    }
}
