//! Deliberate defects, to see that the invariants find them.

use std::collections::BTreeMap;

use paho_mqtt::{ClientPersistence, Result};

/// Defect of a persistence or of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    #[default]
    None,
    /// Every 50th put returns Ok and does nothing.
    DropsPuts,
    /// Every 50th put is made twice, so that one message counts as accepted twice.
    PutsTwice,
    /// A PUBREL is removed as soon as it was put.
    RemovesEarly,
    /// Every 50th `get` returns the value that `get` returned before.
    ReturnsStaleValues,
    /// `contains_key` returns the plain answer, which Paho C hears the wrong way round.
    InvertsContains,
    /// Opening does not learn the version of the program.
    ForgetsVersion,
    /// The store answers every 50th group of writes and forgets it.
    StoreForgets,
    /// The store confirms writes that its disk does not have.
    StoreSkipsSync,
    /// The store confirms writes that its replica does not have.
    StoreSkipsReplica,
    /// The store applies the removes of a group, and its puts only with the next operation.
    StoreSplitsGroups,
    /// The store deletes what the quarantine should get.
    StoreDropsQuarantine,
    /// The store deletes what Paho drops, instead of setting it aside.
    StoreDropsDiscarded,
}

impl Sabotage {
    pub const ALL: [Self; 12] = [
        Self::DropsPuts,
        Self::PutsTwice,
        Self::RemovesEarly,
        Self::ReturnsStaleValues,
        Self::InvertsContains,
        Self::ForgetsVersion,
        Self::StoreForgets,
        Self::StoreSkipsSync,
        Self::StoreSkipsReplica,
        Self::StoreSplitsGroups,
        Self::StoreDropsQuarantine,
        Self::StoreDropsDiscarded,
    ];

    /// Puts the defect between Paho and a persistence.
    pub fn wrap(
        self,
        persistence: Box<dyn ClientPersistence + Send>,
    ) -> Box<dyn ClientPersistence + Send> {
        match self {
            Self::DropsPuts
            | Self::PutsTwice
            | Self::RemovesEarly
            | Self::ReturnsStaleValues
            | Self::InvertsContains => Box::new(Saboteur {
                persistence,
                sabotage: self,
                count: 0,
                last: BTreeMap::new(),
            }),
            _ => persistence,
        }
    }
}

struct Saboteur {
    persistence: Box<dyn ClientPersistence + Send>,
    sabotage: Sabotage,
    count: usize,
    last: BTreeMap<char, Vec<u8>>,
}

impl Saboteur {
    fn is_due(&mut self) -> bool {
        self.count += 1;
        self.count.is_multiple_of(50)
    }
}

impl ClientPersistence for Saboteur {
    fn open(&mut self, client_id: &str, server_uri: &str) -> Result<()> {
        self.persistence.open(client_id, server_uri)
    }

    fn close(&mut self) -> Result<()> {
        self.persistence.close()
    }

    fn put(&mut self, key: &str, buffers: Vec<&[u8]>) -> Result<()> {
        if self.sabotage == Sabotage::DropsPuts && self.is_due() {
            return Ok(());
        }
        if self.sabotage == Sabotage::PutsTwice && self.is_due() {
            self.persistence.put(key, buffers.clone())?;
        }
        self.persistence.put(key, buffers)?;
        if self.sabotage == Sabotage::RemovesEarly && key.starts_with("sc") {
            self.persistence.remove(key)?;
        }
        Ok(())
    }

    fn get(&mut self, key: &str) -> Result<Vec<u8>> {
        let value = self.persistence.get(key)?;
        let stem = key.chars().next().unwrap_or_default();
        let last = self.last.insert(stem, value.clone());
        match last {
            Some(last) if self.sabotage == Sabotage::ReturnsStaleValues && self.is_due() => {
                Ok(last)
            }
            _ => Ok(value),
        }
    }

    fn remove(&mut self, key: &str) -> Result<()> {
        self.persistence.remove(key)
    }

    fn keys(&mut self) -> Result<Vec<String>> {
        self.persistence.keys()
    }

    fn clear(&mut self) -> Result<()> {
        self.persistence.clear()
    }

    fn contains_key(&mut self, key: &str) -> bool {
        let answer = self.persistence.contains_key(key);
        answer != (self.sabotage == Sabotage::InvertsContains)
    }
}
