//! Reads the records of all clients, without owning any.

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use super::client_lock::Owner;
use super::{
    client_lock::{check_rights, list_owners, name_prefix},
    config::RedisConfig,
    connection::RedisConnection,
    exchange_error::ExchangeError,
    other_records::{START, count_records, pattern_of, scan},
    preflight::{ServerInfo, read_info},
    sentinel,
    store::{RedisStore, hash_error, integer_reply, missing_rights},
    write_commands::{is_notes_hash, place_hash},
};
use crate::{error::Error, net::deadline_after, store::Place};

/// Number of hashes that are counted per exchange, and of values that are measured.
const CHUNK: usize = 1024;

/// Number of keys that show if a hash has records, also beside foreign ones.
const SAMPLED_KEYS: &str = "64";

/// A connection that changes no records, and that no program with the same records waits for.
pub(crate) struct RedisReader {
    config: RedisConfig,
    connection: Option<RedisConnection>,
}

/// The set-up of a Redis.
pub(crate) struct Diagnosis {
    /// The properties that `INFO` returns; `None` without the right to it.
    pub(crate) facts: Option<BTreeMap<String, String>>,
    /// The faults that the store would return as an error, or warn of.
    pub(crate) problems: Vec<Error>,
}

/// The programs that are connected, by their records.
pub(crate) struct Owners {
    by_prefix: HashMap<String, Owner>,
    database: i64,
    key_prefix: String,
}

impl Owners {
    /// Returns the owner of the records with this name.
    pub(crate) fn owner(&self, name: &str) -> Option<&Owner> {
        let hash = format!("{}{name}", self.key_prefix);
        self.by_prefix.get(&name_prefix(self.database, &hash))
    }
}

impl RedisReader {
    /// Creates a reader with the options of this store.
    pub(crate) fn of(store: &RedisStore) -> Self {
        Self {
            config: store.config.clone(),
            connection: None,
        }
    }

    /// The address of Redis, without user and password.
    pub(crate) fn address(&self) -> String {
        self.config.address.to_string()
    }

    /// Finds the names of all keys that begin with the key prefix and `prefix`, with the places beside
    /// records.
    ///
    /// Each step of the scan takes Redis about a millisecond. Names that are not UTF-8 are skipped.
    pub(crate) fn find_names(&mut self, prefix: &str) -> Result<BTreeSet<String>, Error> {
        let key_prefix = self.config.key_prefix.clone();
        let pattern = pattern_of(&key_prefix, prefix);
        let mut names = BTreeSet::new();
        let mut cursor = START.to_owned();
        loop {
            let (next, keys) = self.with_server("list the keys", |connection| {
                scan(connection, &cursor, &pattern)
            })?;
            let keys = keys.iter().filter(|key| !is_notes_hash(key));
            let found = keys.filter_map(|key| key.strip_prefix(&key_prefix));
            names.extend(found.map(str::to_owned));
            if next == START {
                return Ok(names);
            }
            cursor = next;
        }
    }

    /// Counts the entries under each name; `None` for a key that is no hash, or to which there is no right.
    pub(crate) fn count(&mut self, names: &[&str]) -> Result<Vec<Option<usize>>, Error> {
        let mut counts = Vec::with_capacity(names.len());
        for chunk in names.chunks(CHUNK) {
            let key_prefix = self.config.key_prefix.clone();
            let hashes = chunk.iter().map(|name| format!("{key_prefix}{name}"));
            let hashes: Vec<String> = hashes.collect();
            counts.extend(self.with_server("count the records", |connection| {
                count_records(connection, &hashes)
            })?);
        }
        Ok(counts)
    }

    /// Returns some keys under each name, chosen at random, which takes Redis microseconds, however many there are;
    /// `None` if Redis refuses: before 6.2 it has no such command, and a user may lack the right.
    pub(crate) fn sample(&mut self, names: &[&str]) -> Result<Vec<Option<Vec<Vec<u8>>>>, Error> {
        let mut samples = Vec::with_capacity(names.len());
        for name in names {
            let hash = self.hash(name, None);
            let keys = self.with_connection(|connection| {
                connection.keys(&["HRANDFIELD", &hash, SAMPLED_KEYS])
            })?;
            samples.push(match keys {
                Ok(keys) => Some(keys),
                Err(ExchangeError::ErrorReply(..)) => None,
                Err(failure) => {
                    return Err(hash_error(failure, "list", &hash, &self.config));
                }
            });
        }
        Ok(samples)
    }

    /// Lists the keys under a name, or those of a place beside it.
    pub(crate) fn keys(&mut self, name: &str, place: Option<Place>) -> Result<Vec<Vec<u8>>, Error> {
        let hash = self.hash(name, place);
        self.with_hash("list", &hash, |connection| {
            connection.keys(&["HKEYS", &hash])
        })
    }

    /// Returns the length of each value, 0 for a missing one.
    pub(crate) fn value_lengths(
        &mut self,
        name: &str,
        place: Option<Place>,
        keys: &[&str],
    ) -> Result<Vec<usize>, Error> {
        let hash = self.hash(name, place);
        let mut lengths = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(CHUNK) {
            let measured = self.with_hash("read from", &hash, |connection| {
                connection.exchange(
                    |commands| {
                        for key in chunk {
                            commands.push_words(&["HSTRLEN", &hash, key]);
                        }
                    },
                    |replies| {
                        let lengths = chunk.iter().map(|_| integer_reply(&replies.read_reply()?));
                        lengths.collect::<Result<Vec<usize>, ExchangeError>>()
                    },
                )
            })?;
            lengths.extend(measured);
        }
        Ok(lengths)
    }

    /// Returns the values of these keys, in the same order; `None` for a missing one.
    pub(crate) fn values(
        &mut self,
        name: &str,
        place: Option<Place>,
        keys: &[&str],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut values = Vec::with_capacity(keys.len());
        self.values_each(name, place, keys, &mut |value| values.push(value))?;
        Ok(values)
    }

    /// Passes the values of these keys, each as soon as it has been read.
    pub(crate) fn values_each(
        &mut self,
        name: &str,
        place: Option<Place>,
        keys: &[&str],
        on_value: &mut dyn FnMut(Option<Vec<u8>>),
    ) -> Result<(), Error> {
        let hash = self.hash(name, place);
        let limit = Some(self.config.operation_timeout);
        self.with_hash("read from", &hash, |connection| {
            connection.values(&hash, keys, limit, on_value)
        })
    }

    /// Makes the checks of a new connection of the store, without owning the records under `name`.
    pub(crate) fn diagnose(&mut self, name: &str) -> Result<Diagnosis, Error> {
        let hash = self.hash(name, None);
        let facts = self.with_server("ask for the properties", read_info)?;
        let mut problems = Vec::new();
        match self.with_hash("use", &hash, |connection| check_rights(connection, &hash)) {
            Ok((rights, preflight)) => {
                let has_replies_off = preflight.may_turn_replies_off;
                problems.extend(missing_rights(
                    rights,
                    has_replies_off,
                    preflight.info.as_ref(),
                ));
                problems.extend(preflight.info.as_ref().and_then(ServerInfo::eviction_error));
                let full = preflight.full;
                problems.extend(full.map(|full| hash_error(full, "write to", &hash, &self.config)));
            }
            // A fault of its set-up, which the other checks need not have.
            Err(error) if error.kind().is_refusal() => problems.push(error),
            Err(error) => return Err(error),
        }
        Ok(Diagnosis { facts, problems })
    }

    /// Lists the programs that are connected with records; `None` without the right to.
    pub(crate) fn owners(&mut self) -> Result<Option<Owners>, Error> {
        let key_prefix = self.config.key_prefix.clone();
        let by_prefix = self.with_server("list the connections", list_owners)?;
        Ok(by_prefix.map(|by_prefix| Owners {
            by_prefix,
            database: self.config.address.database,
            key_prefix,
        }))
    }

    pub(super) fn hash(&self, name: &str, place: Option<Place>) -> String {
        let hash = format!("{}{name}", self.config.key_prefix);
        match place {
            Some(place) => place_hash(&hash, place),
            None => hash,
        }
    }

    /// Runs `work` on a hash; `verb` completes the sentence "cannot … the Redis hash".
    pub(super) fn with_hash<T>(
        &mut self,
        verb: &str,
        hash: &str,
        work: impl FnOnce(&mut RedisConnection) -> Result<T, ExchangeError>,
    ) -> Result<T, Error> {
        let result = self.with_connection(work)?;
        result.map_err(|failure| hash_error(failure, verb, hash, &self.config))
    }

    /// Runs `work`; `attempt` completes the sentence "cannot … of Redis at".
    fn with_server<T>(
        &mut self,
        attempt: &str,
        work: impl FnOnce(&mut RedisConnection) -> Result<T, ExchangeError>,
    ) -> Result<T, Error> {
        let result = self.with_connection(work)?;
        result.map_err(|failure| {
            failure.into_error(|| format!("{attempt} of Redis at {}", self.config.address))
        })
    }

    /// Runs `work` within the time limit of one exchange, on a new connection if there is none.
    fn with_connection<T>(
        &mut self,
        work: impl FnOnce(&mut RedisConnection) -> Result<T, ExchangeError>,
    ) -> Result<Result<T, ExchangeError>, Error> {
        let config = &self.config;
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let deadline = deadline_after(config.connect_timeout);
            sentinel::open(&config.address, deadline)?
        };
        connection.set_deadline(deadline_after(config.operation_timeout));
        let result = work(&mut connection);
        if matches!(&result, Ok(_) | Err(ExchangeError::ErrorReply(..)))
            && !connection.has_replies_due()
        {
            self.connection = Some(connection);
        }
        Ok(result)
    }
}
