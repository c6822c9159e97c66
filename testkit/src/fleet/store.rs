//! Store in memory that can become unavailable, like a Redis.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use paho_mqtt_redis::{Connected, Error, ErrorKind, Group, MemoryStore, Sent, Store};

pub struct FailingStore {
    pub store: MemoryStore,
    pub is_down: Arc<AtomicBool>,
}

impl FailingStore {
    fn there(&mut self) -> Result<&mut MemoryStore, Error> {
        if self.is_down.load(Ordering::Relaxed) {
            let error = Error::new(ErrorKind::Connection, "reach the simulated store");
            return Err(error.with_reason("it is down"));
        }
        Ok(&mut self.store)
    }
}

impl Store for FailingStore {
    const NAME: &'static str = "simulated";

    fn connect(&mut self, name: &str) -> Result<Connected, Error> {
        self.there()?.connect(name)
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        self.there()?.keys()
    }

    fn check(&mut self) -> Result<usize, Error> {
        self.there()?.check()
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.there()?.read(keys)
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.there()?.send(groups)
    }

    fn confirm(&mut self, sent: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        self.there()?.confirm(sent, groups)
    }

    fn close(&mut self) {
        self.store.close();
    }
}
