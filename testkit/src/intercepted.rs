//! A persistence whose calls can be delayed or made to fail.

use paho_mqtt::{ClientPersistence, Result};

/// Runs a hook with the name of each call before passing the call on; an error of the hook is returned instead.
///
/// `contains_key` cannot return an error and is passed on directly.
pub struct Intercepted<P, H> {
    inner: P,
    hook: H,
}

impl<P, H: FnMut(&str) -> Result<()>> Intercepted<P, H> {
    pub fn new(inner: P, hook: H) -> Self {
        Self { inner, hook }
    }
}

impl<P: ClientPersistence, H: FnMut(&str) -> Result<()>> ClientPersistence for Intercepted<P, H> {
    fn open(&mut self, client_id: &str, server_uri: &str) -> Result<()> {
        (self.hook)("open")?;
        self.inner.open(client_id, server_uri)
    }

    fn close(&mut self) -> Result<()> {
        (self.hook)("close")?;
        self.inner.close()
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> Result<()> {
        (self.hook)("put")?;
        self.inner.put(key, buffers)
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        (self.hook)("get")?;
        self.inner.get(key)
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        (self.hook)("remove")?;
        self.inner.remove(key)
    }

    fn keys(&mut self) -> Result<Vec<String>> {
        (self.hook)("keys")?;
        self.inner.keys()
    }

    fn clear(&mut self) -> Result<()> {
        (self.hook)("clear")?;
        self.inner.clear()
    }

    fn contains_key(&mut self, key: &str) -> bool {
        self.inner.contains_key(key)
    }
}
