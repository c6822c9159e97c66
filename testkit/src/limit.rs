//! Least that waiting for Redis can cost, the limit of `Durability::Confirmed` in the measurements.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
};

use paho_mqtt::{ClientPersistence, Error, Result};
use paho_mqtt_redis::MemoryPersistence;
use redis::{ConnectionAddr, IntoConnectionInfo};

const PING: &[u8] = b"PING\r\n";
const PONG: &[u8] = b"+PONG\r\n";

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// Keeps the records in memory, and waits for one `PING` in each call in which `Durability::Confirmed` has to wait for Redis.
///
/// `Durability::Pipelined` never waits, so its limit is [`MemoryPersistence`].
pub struct Limit {
    url: String,
    memory: MemoryPersistence,
    connection: Mutex<Option<Box<dyn Stream>>>,
}

impl Limit {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            memory: MemoryPersistence::new(),
            connection: Mutex::new(None),
        }
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let info = self.url.as_str().into_connection_info();
        let address = info.map_err(io::Error::other)?.addr().clone();
        Ok(match address {
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host, port))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path)?),
            _ => return Err(io::ErrorKind::Unsupported.into()),
        })
    }

    fn wait(&self) -> io::Result<()> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let connection = connection.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        connection.write_all(PING)?;
        let mut answer = [0; PONG.len()];
        connection.read_exact(&mut answer)?;
        if answer == *PONG {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

/// Returns true if the put of a record waits with `Durability::Confirmed`: of all but a PUBLISH that was sent.
fn waits(key: &str) -> bool {
    !key.starts_with("s-") && !key.starts_with("s5-")
}

impl ClientPersistence for Limit {
    fn open(&mut self, client_id: &str, server_uri: &str) -> Result<()> {
        let connection = self.connect().map_err(|_| Error::Failure)?;
        self.connection = Mutex::new(Some(connection));
        self.memory.open(client_id, server_uri)
    }

    fn close(&mut self) -> Result<()> {
        self.connection = Mutex::new(None);
        self.memory.close()
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> Result<()> {
        self.memory.put(key, buffers)?;
        if waits(key) {
            self.wait().map_err(|_| Error::Failure)?;
        }
        Ok(())
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        self.memory.get(key)
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        self.memory.remove(key)
    }

    fn keys(&mut self) -> Result<Vec<String>> {
        self.memory.keys()
    }

    fn clear(&mut self) -> Result<()> {
        self.memory.clear()
    }

    fn contains_key(&mut self, key: &str) -> bool {
        self.memory.contains_key(key)
    }
}
