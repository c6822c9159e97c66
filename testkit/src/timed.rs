//! Measures the longest call of a persistence.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use paho_mqtt::{self as mqtt, ClientPersistence};

use crate::harness::BoxedPersistence;

pub struct Timed {
    inner: BoxedPersistence,
    longest: Arc<Mutex<Duration>>,
}

impl Timed {
    pub fn new(inner: BoxedPersistence, longest: &Arc<Mutex<Duration>>) -> Self {
        Self {
            inner,
            longest: Arc::clone(longest),
        }
    }

    fn time<T>(&mut self, work: impl FnOnce(&mut BoxedPersistence) -> T) -> T {
        let started = Instant::now();
        let answer = work(&mut self.inner);
        let mut longest = self.longest.lock().unwrap();
        *longest = started.elapsed().max(*longest);
        answer
    }
}

/// Leaves out opening and closing, for which a running program does not wait.
impl ClientPersistence for Timed {
    fn open(&mut self, client_id: &str, server_uri: &str) -> mqtt::Result<()> {
        self.inner.open(client_id, server_uri)
    }

    fn close(&mut self) -> mqtt::Result<()> {
        self.inner.close()
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> mqtt::Result<()> {
        self.time(|inner| inner.put(key, buffers))
    }

    fn get(&mut self, key: &str) -> mqtt::Result<Vec<u8>> {
        self.time(|inner| inner.get(key))
    }

    fn remove(&mut self, key: &str) -> mqtt::Result<()> {
        self.time(|inner| inner.remove(key))
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        self.time(|inner| inner.keys())
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        self.time(|inner| inner.clear())
    }

    fn contains_key(&mut self, key: &str) -> bool {
        self.time(|inner| inner.contains_key(key))
    }
}
