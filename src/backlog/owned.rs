//! The records of one client, while this program owns them.

use crate::{
    error::Error,
    persistence::{PersistenceConfig, connect},
    redis::RedisStore,
    store::{Group, Store},
};

/// The records of one client, which no other program uses until this value is dropped.
///
/// A connection that is silent for 30 s counts as gone, so something has to be read or written more often
/// than that: [`keep_alive`](Self::keep_alive) does nothing else.
#[derive(Debug)]
pub struct OwnedBacklog {
    store: RedisStore,
    name: String,
}

impl OwnedBacklog {
    /// Takes the records over; waits for up to the open timeout for a program that is ending.
    pub(super) fn open(
        mut store: RedisStore,
        name: &str,
        config: &PersistenceConfig,
    ) -> Result<Self, Error> {
        let connected = connect(&mut store, name, config)?;
        // Nothing could be changed.
        if let Some(error) = connected.write_error {
            return Err(error);
        }
        let name = name.to_owned();
        Ok(Self { store, name })
    }

    /// The name of the records: client id and server URI.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The store, for the other modules of the backlog.
    pub(crate) fn store(&mut self) -> &mut RedisStore {
        &mut self.store
    }

    /// Applies groups of changes, each as a whole, and waits until they are applied.
    ///
    /// # Errors
    ///
    /// Any reason why one of them may not have been applied.
    pub fn apply(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.store().rewrite(groups)
    }

    /// Makes an exchange, so that the connection does not count as gone.
    ///
    /// # Errors
    ///
    /// Any reason why the records cannot be used any more.
    pub fn keep_alive(&mut self) -> Result<(), Error> {
        self.store().check().map(drop)
    }
}

impl Drop for OwnedBacklog {
    fn drop(&mut self) {
        self.store.close();
    }
}
