//! Opens the records: waits for a store that is not ready, and loads them.

use std::time::Duration;

use super::config::PersistenceConfig;
use crate::{
    cache::{
        LoadChanges, LoadOptions, LoadedRecords, SetAsides, WriteBehindCache, convert_records,
        list_keys, load_records,
    },
    error::{Error, ErrorKind},
    paho::Key,
    store::{Connected, Place, Store},
};

/// Interval of attempts to connect to a store that is not ready.
const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The findings of an opening.
pub(super) struct OpenReport {
    pub(super) records: usize,
    /// Number of entries that Paho did not write.
    pub(super) foreign_entries: usize,
    /// Records that Paho cannot read: quarantined, or unmovable.
    pub(super) unreadable: Vec<Key>,
    /// The store refused to move some of the unreadable records.
    pub(super) has_unmovable: bool,
    /// The message that was quarantined since it may be poison.
    pub(super) poison: Option<Key>,
    /// The store can be read, but takes no writes.
    pub(super) write_error: Option<Error>,
    /// Name and version of the server, until they are reported.
    pub(super) server: Option<String>,
    /// A short note for the log on the failures that a record survives.
    pub(super) durability_note: Option<&'static str>,
    pub(super) warnings: Vec<Error>,
}

impl OpenReport {
    /// Number of records that were quarantined, unmovable ones included.
    pub(super) fn quarantined(&self) -> usize {
        let poison = usize::from(self.poison.is_some());
        self.unreadable.len().saturating_add(poison)
    }
}

/// Connects, and retries for up to the open timeout if the store is not ready.
pub(crate) fn connect(
    store: &mut impl Store,
    name: &str,
    config: &PersistenceConfig,
) -> Result<Connected, Error> {
    let until = config.clock.deadline_after(config.open_timeout);
    connect_until(store, name, config, until)
}

fn connect_until(
    store: &mut impl Store,
    name: &str,
    config: &PersistenceConfig,
    until: Duration,
) -> Result<Connected, Error> {
    loop {
        match store.connect(name) {
            Err(error) if error.kind().is_transient() => {
                let left = until.saturating_sub(config.clock.since_boot());
                if left.is_zero() {
                    return Err(error);
                }
                config.clock.sleep(OPEN_RETRY_INTERVAL.min(left));
            }
            done => return done,
        }
    }
}

/// Converts the records of the other MQTT version in a connected store; returns how many there were.
pub(super) fn convert(
    store: &mut impl Store,
    config: &PersistenceConfig,
    to_v5: bool,
) -> Result<usize, Error> {
    let (keys, _) = list_keys(store)?;
    let conversion = convert_records(store, keys, to_v5, config.clock.time())?;
    Ok(conversion.converted)
}

/// Connects and loads the records; returns them with the identity of the data.
///
/// Converts those of the other MQTT version if the version of the client is known.
pub(super) fn open_records(
    store: &mut impl Store,
    name: &str,
    (config, to_v5): (&PersistenceConfig, Option<bool>),
    changes: &mut LoadChanges,
) -> Result<(WriteBehindCache, Option<String>, OpenReport), Error> {
    let until = config.clock.deadline_after(config.open_timeout);
    let mut connected = connect_until(store, name, config, until)?;
    let (loaded, set_asides) = match load(store, (config, to_v5), (&mut connected, changes)) {
        // The connection broke since `connect`, for example because Redis restarted.
        Err(error) if error.kind() == ErrorKind::Connection => {
            connected = connect_until(store, name, config, until)?;
            load(store, (config, to_v5), (&mut connected, changes))?
        }
        done => done?,
    };
    let report = OpenReport {
        records: loaded.index.len(),
        foreign_entries: loaded.foreign_entries,
        unreadable: changes.unreadable.iter().copied().collect(),
        has_unmovable: !loaded.unmovable.is_empty(),
        poison: changes.poison,
        write_error: connected.write_error,
        server: connected.server,
        durability_note: connected.durability_note,
        warnings: connected.warnings,
    };
    let mut cache = WriteBehindCache::new(
        loaded.index,
        (loaded.foreign_entries, loaded.unmovable),
        config.confirmation(),
        set_asides,
        Some(config.clock.time()),
    );
    cache.sends = loaded.sends;
    cache.replace_shared_packet_ids(store)?;
    cache.events = std::mem::take(changes).into_events();
    cache.enforce_set_aside_limits();
    Ok((cache, connected.instance_id, report))
}

/// Returns `true` for errors of a store without which a client may be opened, if the user wants that.
///
/// Not of one that another program uses, or that refuses this one: that would last.
pub(super) fn may_open_without(kind: ErrorKind) -> bool {
    kind.is_transient() && kind != ErrorKind::InUse
}

/// Lists what is set aside, and loads the records.
fn load(
    store: &mut impl Store,
    (config, to_v5): (&PersistenceConfig, Option<bool>),
    (connected, changes): (&mut Connected, &mut LoadChanges),
) -> Result<(LoadedRecords, SetAsides), Error> {
    let mut set_asides = SetAsides::new(&config.set_asides);
    set_asides.note_time(config.clock.time(), config.clock.since_boot());
    for place in Place::BOTH {
        if !set_asides.is_on(place) {
            continue;
        }
        match store.set_aside_names(place) {
            Ok(names) => set_asides.load(place, &names),
            // The records can be used all the same.
            Err(error) if error.kind().is_refusal() => {
                set_asides.turn_off(place);
                connected.warnings.push(error);
            }
            Err(error) => return Err(error),
        }
    }
    let options = LoadOptions {
        to_v5,
        cache_limit: config.cache_limit,
        drops_above: config.waiting_limits.get().drops_above(),
        max_sends: config.max_sends,
        quarantines_poison: config.quarantines_poison,
        now: config.clock.time(),
        since_boot: config.clock.since_boot(),
    };
    let loaded = load_records(store, (&mut set_asides, changes), options)?;
    Ok((loaded, set_asides))
}
