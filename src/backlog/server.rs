//! The Redis with the records of all clients, for reading without owning any.

#[cfg(feature = "redis-tls")]
use std::path::PathBuf;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::ControlFlow,
    time::{Duration, SystemTime},
};

use super::{
    check::{RecordsCheck, RedisCheck, check_records},
    client_name::{Unresolved, resolve},
    order::{Message, messages_in_order},
    owned::{OwnedBacklog, PER_EXCHANGE},
    record::Record,
};
#[cfg(feature = "redis-tls")]
use crate::redis::RedisPersistenceBuilder;
use crate::{
    error::{Error, ErrorKind},
    paho::{Key, KeyMap, KeyName, RecordKind},
    persistence::PersistenceConfig,
    redis::{Owner, Owners, RedisPersistence, RedisReader, RedisStore},
    store::{Place, SetAsideName, Store},
};

/// The most entries that a hash of records can have, and some more.
const MAX_ENTRIES: usize = 5_000_000;

/// A hash with more entries is listed only if some of them show that it has records.
const SAMPLED_ABOVE: usize = 1000;

/// A connection that is idle for longer belongs to a program that is stopped or gone.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// The address of Redis, and how to use it.
#[derive(Clone)]
pub struct ServerOptions {
    /// The URL, as in [`RedisPersistenceBuilder::url`](crate::RedisPersistenceBuilder::url).
    pub url: String,
    /// Replaces the password of the URL.
    pub password: Option<String>,
    /// The text before `client_id:server_uri` in the key of each hash.
    pub key_prefix: String,
    /// The files for a Redis with TLS.
    #[cfg(feature = "redis-tls")]
    pub tls: ServerTls,
    /// Time for connecting, and for each exchange.
    pub timeout: Duration,
}

/// The files for a Redis with TLS, as in
/// [`RedisPersistenceBuilder`](crate::RedisPersistenceBuilder).
#[cfg(feature = "redis-tls")]
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The authorities that are trusted.
    pub ca_file: Option<PathBuf>,
    /// The certificate for a Redis that asks for one.
    pub client_certificate_file: Option<PathBuf>,
    /// Its private key.
    pub client_key_file: Option<PathBuf>,
}

#[cfg(feature = "redis-tls")]
impl ServerTls {
    fn set(&self, mut builder: RedisPersistenceBuilder) -> RedisPersistenceBuilder {
        if let Some(file) = &self.ca_file {
            builder = builder.ca_file(file);
        }
        if let Some(file) = &self.client_certificate_file {
            builder = builder.client_certificate_file(file);
        }
        if let Some(file) = &self.client_key_file {
            builder = builder.client_key_file(file);
        }
        builder
    }
}

/// A Redis with records of Paho clients.
pub struct Server {
    store: RedisStore,
    config: PersistenceConfig,
    reader: RedisReader,
}

/// The keys of one client.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The messages in the order in which they will go out.
    pub messages: Vec<Message>,
    /// Entries that Paho does not write.
    pub foreign: Vec<Vec<u8>>,
}

/// The amount of what is stored for one client.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    /// Client id and server URI, without its scheme, with a colon between them.
    pub name: String,
    /// Number of records and bytes of their values.
    pub kinds: BTreeMap<RecordKind, (usize, u64)>,
    /// Number of messages for the broker that wait to be sent, subscriptions included.
    pub waiting: usize,
    /// Number of messages for the broker that it has not acknowledged.
    pub in_flight: usize,
    /// Number of messages for the application.
    pub inbound: usize,
    /// Number of entries that Paho does not write.
    pub foreign: usize,
    /// Number of records in the quarantine.
    pub quarantined: usize,
    /// Number of records that Paho dropped.
    pub discarded: usize,
    /// The time at which the oldest of these was set aside.
    pub oldest_set_aside: Option<SystemTime>,
    /// The program that uses the records.
    pub ownership: Ownership,
}

/// Lengths of values that were measured before, for the next summaries of the same clients.
#[derive(Default)]
pub struct Lengths(BTreeMap<String, KeyMap<usize>>);

/// The program that uses the records of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is connected.
    Connected(Owner),
    /// It is connected, but makes no exchanges: it is stopped, or its machine is gone.
    Silent(Owner),
    /// There is none.
    Free,
    /// The user may not list connections.
    Unknown,
}

impl Summary {
    /// Bytes of all values, those that are set aside not included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = self.kinds.values().map(|(_, bytes)| *bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// Number of records, foreign entries not included.
    #[must_use]
    pub fn records(&self) -> usize {
        let records = self.kinds.values().map(|(records, _)| *records);
        records.fold(0, usize::saturating_add)
    }
}

impl Listing {
    fn new(entries: Vec<Vec<u8>>) -> Self {
        let mut keys = Vec::new();
        let mut foreign = Vec::new();
        for entry in entries {
            match str::from_utf8(&entry).ok().and_then(Key::parse) {
                Some(key) => keys.push(key),
                None => foreign.push(entry),
            }
        }
        foreign.sort_unstable();
        Self {
            messages: messages_in_order(keys),
            foreign,
        }
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.messages.iter().flatten().copied()
    }
}

impl Server {
    /// Prepares to use a Redis. The network is not used before the first call.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`](crate::ErrorKind::InvalidOption).
    pub fn new(options: &ServerOptions) -> Result<Self, Error> {
        let builder = RedisPersistence::builder()
            .url(&options.url)
            .key_prefix(&options.key_prefix)
            .connect_timeout(options.timeout)
            .operation_timeout(options.timeout);
        #[cfg(feature = "redis-tls")]
        let builder = options.tls.set(builder);
        let (store, config) = builder.build_parts(options.password.clone())?;
        if store.is_in_cluster() {
            return Err(
                Error::new(ErrorKind::InvalidOption, "use a cluster").with_reason(
                    "its backlogs are on all of its nodes, and this program reads one Redis; redis-cli -c shows them",
                ),
            );
        }
        let reader = RedisReader::of(&store);
        Ok(Self {
            store,
            config,
            reader,
        })
    }

    /// The address of Redis, without user and password.
    #[must_use]
    pub fn address(&self) -> String {
        self.reader.address()
    }

    /// Returns the names of all clients with records whose client id begins with `prefix`.
    ///
    /// # Errors
    ///
    /// Any reason why the keys cannot be listed.
    pub fn clients(&mut self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut clients = Vec::new();
        self.each_client(prefix, |_, name, _, _| {
            clients.push(name.to_owned());
            Ok(())
        })?;
        Ok(clients)
    }

    /// Passes a summary of each client with records whose client id begins with `prefix`.
    ///
    /// # Errors
    ///
    /// Any reason why the keys cannot be listed or measured.
    pub fn summarize(
        &mut self,
        prefix: &str,
        lengths: &mut Lengths,
        mut on_summary: impl FnMut(Summary),
    ) -> Result<(), Error> {
        let owners = self.reader.owners()?;
        let mut known = std::mem::take(&mut lengths.0);
        self.each_client(prefix, |server, name, listing, set_aside| {
            let known = known.remove(name).unwrap_or_default();
            let measured = server.measure(name, listing, &known)?;
            on_summary(summary_of(
                name,
                listing,
                set_aside,
                &measured,
                owners.as_ref(),
            ));
            lengths.0.insert(name.to_owned(), measured);
            Ok(())
        })
    }

    /// Returns the summary of one client.
    ///
    /// # Errors
    ///
    /// Any reason why its keys cannot be listed or measured.
    pub fn summary(&mut self, name: &str, lengths: &mut Lengths) -> Result<Summary, Error> {
        let owners = self.reader.owners()?;
        let listing = self.listing(name)?;
        let mut set_aside = Vec::new();
        for place in Place::BOTH {
            set_aside.push(self.reader.keys(name, Some(place))?);
        }
        let known = lengths.0.remove(name).unwrap_or_default();
        let measured = self.measure(name, &listing, &known)?;
        let summary = summary_of(name, &listing, &set_aside, &measured, owners.as_ref());
        lengths.0.insert(name.to_owned(), measured);
        Ok(summary)
    }

    /// Finds the records that a person means by `client`: a client id, or `CLIENT_ID:SERVER_URI`.
    ///
    /// # Errors
    ///
    /// Any reason why the keys cannot be listed.
    pub fn resolve(&mut self, client: &str) -> Result<Result<String, Unresolved>, Error> {
        let id = client.split_once(':').map_or(client, |(id, _)| id);
        let mut names: BTreeSet<String> = self.candidates(id)?.into_keys().collect();
        match resolve(client, &names) {
            Err(Unresolved::Unknown(_)) => {
                names = self.clients("")?.into_iter().collect();
                Ok(resolve(client, &names))
            }
            resolved => Ok(resolved),
        }
    }

    /// Lists the keys of a client.
    ///
    /// # Errors
    ///
    /// Any reason why they cannot be listed.
    pub fn listing(&mut self, name: &str) -> Result<Listing, Error> {
        Ok(Listing::new(self.reader.keys(name, None)?))
    }

    /// Reads these messages in order and passes each to `on_message`, until that breaks.
    ///
    /// Records that were removed since they were listed are left out. At most 64 values are in memory.
    ///
    /// # Errors
    ///
    /// Any reason why a value cannot be read.
    pub fn read_messages<'a>(
        &mut self,
        name: &str,
        messages: impl IntoIterator<Item = &'a Message>,
        mut on_message: impl FnMut(Vec<Record>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let mut room = PER_EXCHANGE;
            let mut chunk: Vec<&Message> = Vec::new();
            // A message has four records at most.
            while let Some(message) = messages.next_if(|message| message.len() <= room) {
                room = room.saturating_sub(message.len());
                chunk.push(message);
            }
            let keys = chunk.iter().copied().flatten();
            let keys: Vec<KeyName> = keys.map(|key| key.to_name()).collect();
            let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
            let mut values = self.reader.values(name, None, &keys)?.into_iter();
            for message in chunk {
                let records = Record::of_message(message, values.by_ref());
                if !records.is_empty() && on_message(records).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes over the records of a client, so that they can be changed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InUse`](crate::ErrorKind::InUse) while a program is connected with them, and any reason
    /// why they cannot be written.
    pub fn own(&self, name: &str) -> Result<OwnedBacklog, Error> {
        OwnedBacklog::open(self.another_store()?, name, &self.config)
    }

    /// Takes over the records of a client, so that some can be removed, also from a Redis that is full.
    ///
    /// # Errors
    ///
    /// The same as [`own`](Self::own), but for the full Redis.
    pub fn own_to_remove(&self, name: &str) -> Result<OwnedBacklog, Error> {
        OwnedBacklog::open_to_remove(self.another_store()?, name, &self.config)
    }

    /// Forgets the notes of an import into the records of a client.
    ///
    /// # Errors
    ///
    /// Any reason why they cannot be removed.
    pub fn forget_import(&mut self, name: &str, notes: &[String]) -> Result<(), Error> {
        let notes: Vec<&str> = notes.iter().map(String::as_str).collect();
        self.reader.forget_arrivals(name, &notes)
    }

    fn another_store(&self) -> Result<RedisStore, Error> {
        let store = self.store.another();
        store.ok_or_else(|| Error::new(ErrorKind::Other, "use the records"))
    }

    pub(super) fn reader(&mut self) -> &mut RedisReader {
        &mut self.reader
    }

    /// Checks the set-up of Redis, with the rights to the records under `name`.
    ///
    /// # Errors
    ///
    /// Any reason why Redis cannot be used at all. What it refuses is a finding.
    pub fn check_redis(&mut self, name: &str) -> Result<RedisCheck, Error> {
        Ok(RedisCheck::new(self.address(), self.reader.diagnose(name)?))
    }

    /// Checks the records of a client, as opening them would, but changes nothing.
    ///
    /// # Errors
    ///
    /// Any reason why they cannot be read.
    pub fn check_records(&mut self, name: &str) -> Result<RecordsCheck, Error> {
        check_records(RedisReader::of(&self.store), name, &self.config)
    }

    /// Calls `work` with each client, its keys, and the names of what is set aside per place.
    fn each_client(
        &mut self,
        prefix: &str,
        mut work: impl FnMut(&mut Self, &str, &Listing, &[Vec<Vec<u8>>]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (name, places) in self.candidates(prefix)? {
            let listing = self.listing(&name)?;
            let mut set_aside = Vec::new();
            for place in Place::BOTH {
                set_aside.push(if places.contains(&place) {
                    self.reader.keys(&name, Some(place))?
                } else {
                    Vec::new()
                });
            }
            // A hash of another program in the same database.
            if !listing.messages.is_empty() || !places.is_empty() {
                work(self, &name, &listing, &set_aside)?;
            }
        }
        Ok(())
    }

    /// Returns the names of hashes that may be records, with the places beside them.
    fn candidates(&mut self, prefix: &str) -> Result<BTreeMap<String, Vec<Place>>, Error> {
        let found = self.reader.find_names(prefix)?;
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        let counts = self.reader.count(&found)?;
        let possible = found.into_iter().zip(counts).filter_map(|(name, count)| {
            let count = count.filter(|count| *count > 0 && *count <= MAX_ENTRIES)?;
            name.contains(':').then_some((name, count))
        });
        // To list such a hash of another program would keep Redis from its other clients.
        let (large, mut possible): (Vec<_>, Vec<_>) =
            possible.partition(|(_, count)| *count > SAMPLED_ABOVE);
        let names: Vec<&str> = large.iter().map(|(name, _)| *name).collect();
        let samples = self.reader.sample(&names)?;
        let looked_into = large.into_iter().zip(samples);
        possible.extend(looked_into.filter_map(|(found, keys)| {
            let is_ours = keys.is_none_or(|keys| keys.iter().any(|key| is_of_records(key)));
            is_ours.then_some(found)
        }));
        let mut candidates: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        for (name, _) in possible {
            let place = Place::BOTH.into_iter().find_map(|place| {
                let name = name.strip_suffix(place.as_str())?.strip_suffix(':')?;
                Some((name, place))
            });
            match place {
                Some((name, place)) => {
                    candidates.entry(name.to_owned()).or_default().push(place);
                }
                None => drop(candidates.entry(name.to_owned()).or_default()),
            }
        }
        Ok(candidates)
    }

    /// Returns the length of each value. Of those that are known only packets are measured again, whose
    /// ids are used again.
    fn measure(
        &mut self,
        name: &str,
        listing: &Listing,
        known: &KeyMap<usize>,
    ) -> Result<KeyMap<usize>, Error> {
        let is_known = |key: &Key| key.is_queue_record() && known.contains_key(key);
        let (old, new): (Vec<Key>, Vec<Key>) = listing.keys().partition(is_known);
        let names: Vec<KeyName> = new.iter().map(|key| key.to_name()).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let lengths = self.reader.value_lengths(name, None, &names)?;
        let old = old
            .into_iter()
            .filter_map(|key| Some((key, *known.get(&key)?)));
        Ok(old.chain(new.into_iter().zip(lengths)).collect())
    }
}

/// Returns true for the key of a record, and for the name of one that is set aside.
fn is_of_records(key: &[u8]) -> bool {
    let key = str::from_utf8(key).ok();
    key.is_some_and(|key| Key::parse(key).is_some() || SetAsideName::parse(key).is_some())
}

fn summary_of(
    name: &str,
    listing: &Listing,
    set_aside: &[Vec<Vec<u8>>],
    lengths: &KeyMap<usize>,
    owners: Option<&Owners>,
) -> Summary {
    use RecordKind::{Command, ReceivedPublish, SentPublish, SentPubrel, Undelivered};
    let mut kinds: BTreeMap<RecordKind, (usize, u64)> = BTreeMap::new();
    for (key, length) in lengths {
        let (records, bytes) = kinds.entry(key.kind).or_default();
        *records = records.saturating_add(1);
        *bytes = bytes.saturating_add(*length as u64);
    }
    let count = |is_counted: fn(RecordKind) -> bool| {
        let messages = listing.messages.iter();
        let kinds = messages.filter_map(|message| Some(message.first()?.kind));
        kinds.filter(|kind| is_counted(*kind)).count()
    };
    let number = |place: Place| {
        let mut places = Place::BOTH.into_iter().zip(set_aside);
        places.find_map(|(other, names)| (other == place).then_some(names.len()))
    };
    let times = set_aside.iter().flatten().filter_map(|name| {
        let name = SetAsideName::parse(str::from_utf8(name).ok()?)?;
        Some(name.time())
    });
    Summary {
        name: name.to_owned(),
        kinds,
        waiting: count(|kind| kind == Command),
        in_flight: count(|kind| matches!(kind, SentPublish | SentPubrel)),
        inbound: count(|kind| matches!(kind, ReceivedPublish | Undelivered)),
        foreign: listing.foreign.len(),
        quarantined: number(Place::Quarantine).unwrap_or_default(),
        discarded: number(Place::Discarded).unwrap_or_default(),
        oldest_set_aside: times.min(),
        ownership: match owners.map(|owners| owners.owner(name)) {
            None => Ownership::Unknown,
            Some(None) => Ownership::Free,
            Some(Some(owner)) if owner.idle >= SILENT_AFTER => Ownership::Silent(owner.clone()),
            Some(Some(owner)) => Ownership::Connected(owner.clone()),
        },
    }
}

/// Shows the address without user and password.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// Shows the number of clients.
impl fmt::Debug for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lengths").field(&self.0.len()).finish()
    }
}

/// Shows neither URL nor password.
impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("key_prefix", &self.key_prefix)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_32_bits_are_summed() {
        let keys = ["c-1", "c-2", "s-1"].map(|key| Key::parse(key).expect("a key"));
        let lengths = keys
            .map(|key| (key, u32::MAX as usize))
            .into_iter()
            .collect();
        let summary = summary_of("client", &Listing::default(), &[], &lengths, None);
        assert_eq!(summary.bytes(), 3 * u64::from(u32::MAX));
    }
}
