//! [`MemoryStore`]: a store in the memory of this process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use super::traits::{Adopted, Change, Connected, Group, OtherRecords, Place, Sent, Store};
use crate::error::{Error, ErrorKind};

type RecordMap = BTreeMap<Vec<u8>, Vec<u8>>;

/// The records under one name, and those that are set aside.
#[derive(Debug, Default)]
struct Records {
    live: RecordMap,
    set_aside: BTreeMap<Place, RecordMap>,
    send_counts: Option<Vec<u8>>,
}

/// The store of [`MemoryPersistence`](crate::MemoryPersistence).
///
/// Clones share their records, so that a persistence can be reopened, as after a restart. Nothing
/// survives the process.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    by_name: Arc<Mutex<HashMap<String, Records>>>,
    /// The name that this clone is connected to.
    name: Option<String>,
}

impl MemoryStore {
    fn with_map<T>(&self, attempt: &str, work: impl FnOnce(&mut Records) -> T) -> Result<T, Error> {
        let Some(name) = &self.name else {
            return Err(Error::new(ErrorKind::NotOpen, attempt));
        };
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        // `entry` needs a copy of the name, even if the name is there.
        Ok(work(match by_name.get_mut(name) {
            Some(records) => records,
            None => by_name.entry(name.clone()).or_default(),
        }))
    }
}

impl Store for MemoryStore {
    const NAME: &'static str = "memory";

    fn connect(&mut self, name: &str) -> Result<Connected, Error> {
        self.name = Some(name.to_owned());
        Ok(Connected::default())
    }

    fn keys(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        self.with_map("list the records in memory", |records| {
            records.live.keys().cloned().collect()
        })
    }

    fn check(&mut self) -> Result<usize, Error> {
        self.with_map("count the records in memory", |records| records.live.len())
    }

    fn read(&mut self, keys: &[&str]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.with_map("read records in memory", |records| {
            values_of(&records.live, keys)
        })
    }

    fn send(&mut self, groups: &[Group<'_>]) -> Result<(), Error> {
        self.with_map("change records in memory", |records| {
            for change in groups.iter().copied().flatten() {
                match *change {
                    Change::Put { key, value } => {
                        records.live.insert(key.as_bytes().to_vec(), value.to_vec());
                    }
                    Change::Remove { key } => {
                        records.live.remove(key.as_bytes());
                    }
                    Change::SetAside { place, name, value } => {
                        let set_aside = records.set_aside.entry(place).or_default();
                        set_aside.insert(name.as_bytes().to_vec(), value.to_vec());
                    }
                    Change::RemoveSetAside { place, name } => {
                        let set_aside = records.set_aside.entry(place).or_default();
                        set_aside.remove(name.as_bytes());
                    }
                }
            }
        })
    }

    fn confirm(&mut self, _: &[Sent<'_>], groups: &[Group<'_>]) -> Result<(), Error> {
        // A change in memory cannot fail unnoticed, so nothing needs to be verified.
        self.send(groups)
    }

    fn find_others(&mut self, prefix: &str) -> Result<Vec<OtherRecords>, Error> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let others = by_name.iter().filter(|(name, records)| {
            name.starts_with(prefix)
                && Some(*name) != self.name.as_ref()
                && !records.live.is_empty()
        });
        let others = others.map(|(name, records)| OtherRecords {
            name: name.clone(),
            records: records.live.len(),
        });
        Ok(others.collect())
    }

    fn another(&self) -> Option<Self> {
        Some(Self {
            by_name: Arc::clone(&self.by_name),
            name: None,
        })
    }

    fn adopt(&mut self, from: &str, groups: &[&[Adopted<'_>]]) -> Result<(), Error> {
        let Some(name) = &self.name else {
            return Err(Error::new(ErrorKind::NotOpen, "adopt records in memory"));
        };
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        for Adopted {
            from: old,
            key,
            value,
        } in groups.iter().copied().flatten()
        {
            if let Some(records) = by_name.get_mut(from) {
                records.live.remove(old.as_bytes());
            }
            let records = by_name.entry(name.clone()).or_default();
            records.live.insert(key.as_bytes().to_vec(), value.to_vec());
        }
        Ok(())
    }

    fn set_aside_names(&mut self, place: Place) -> Result<Vec<Vec<u8>>, Error> {
        self.with_map("list what is set aside in memory", |records| {
            let set_aside = records.set_aside.entry(place).or_default();
            set_aside.keys().cloned().collect()
        })
    }

    fn read_set_aside(
        &mut self,
        place: Place,
        names: &[&str],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.with_map("read what is set aside in memory", |records| {
            values_of(records.set_aside.entry(place).or_default(), names)
        })
    }

    fn read_send_counts(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.with_map("read the counts of sends in memory", |records| {
            records.send_counts.clone()
        })
    }

    fn save_send_counts(&mut self, counts: Option<&[u8]>) -> Result<(), Error> {
        self.with_map("save the counts of sends in memory", |records| {
            records.send_counts = counts.map(<[u8]>::to_vec);
        })
    }

    fn close(&mut self) {
        self.name = None;
    }
}

fn values_of(records: &RecordMap, keys: &[&str]) -> Vec<Option<Vec<u8>>> {
    let values = keys.iter().map(|key| records.get(key.as_bytes()).cloned());
    values.collect()
}
