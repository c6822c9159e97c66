//! The simulated machine: the program with its persistence, and Paho's calls to it, each of which is checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    Durability, Error, ErrorKind, Health, HealthSnapshot, Persistence, PersistenceMetrics,
    StoreEvent, StoreObserver, prometheus::Registry, simulation,
};

use super::{
    clock::{Acted, ProcessClock, TOO_MANY_WAITS, VirtualClock},
    sabotage::Sabotage,
    values::{Key, Kind, Value, has_value, is_same},
    world::{SimulatedStore, World},
};

pub const CLIENT: &str = "device-1";
pub const SERVER: &str = "broker:1883";

/// Reason why a step ends early.
#[derive(Debug)]
pub enum Stop {
    /// The program died in a call, which therefore never returned.
    Died,
    /// An invariant does not hold; the world has the violation.
    Violated,
}

/// Settings of the program.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub durability: Durability,
    pub cache_limit: usize,
    pub call_timeout: Duration,
    pub open_timeout: Duration,
    /// Measures the calls, and compares the gauges with the records.
    pub is_instrumented: bool,
    /// A defect that is put between Paho and the persistence, to see it found.
    pub sabotage: Sabotage,
}

/// Running program.
pub struct Process {
    pub incarnation: u64,
    pub persistence: Box<dyn ClientPersistence + Send>,
    pub clock: Arc<ProcessClock>,
    pub health: Health,
    pub events: Arc<Events>,
    pub registry: Option<Registry>,
}

/// Receives the events of the persistence.
#[derive(Default)]
pub struct Events {
    pub lost: AtomicU64,
    pub opened: AtomicU64,
    /// Keys of lost records that the model has not taken notice of.
    lost_keys: Mutex<Vec<String>>,
    damaged: Mutex<Option<String>>,
}

impl StoreObserver for Events {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        match event {
            StoreEvent::Lost { records } => {
                self.lost.fetch_add(*records as u64, Ordering::Relaxed);
            }
            StoreEvent::RecordLost { key } => {
                let mut keys = self
                    .lost_keys
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                keys.push(key.clone());
            }
            StoreEvent::Opened { .. } => {
                self.opened.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    fn on_damaged(&self, _: &str, key: &str) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        *damaged = Some(key.to_owned());
    }
}

impl Events {
    /// Takes the keys of the records that were lost since the last call.
    pub fn take_lost_keys(&self) -> Vec<Key> {
        let mut keys = self
            .lost_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let keys = std::mem::take(&mut *keys);
        keys.iter()
            .filter_map(|key| Key::parse(key.as_bytes()))
            .collect()
    }
}

/// Kind of a call, which decides how long it may take.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Call,
    Open,
    Close,
    Flush,
}

/// The program, what it must have stored, and the world around it.
pub struct Machine {
    pub world: World,
    pub clock: Arc<VirtualClock>,
    pub settings: Settings,
    pub process: Option<Process>,
    /// The records that Paho has put and not removed.
    pub live: BTreeMap<Key, Value>,
    /// The health before the present call or action of the worker.
    pub before: HealthSnapshot,
    /// Lost records that a missing one has accounted for.
    pub lost_seen: u64,
    /// The outage in which a call has waited.
    waited_in: Option<std::time::SystemTime>,
    /// The command that Paho has read last.
    last_read: Option<Key>,
    /// Lengths of the values that were put and read last.
    pub last_lengths: (usize, usize),
    /// Session records are not removed before Paho has tried to connect.
    pub has_session: bool,
    pub is_open: bool,
    /// Records that Paho does not know, since it could not read them.
    pub unread: BTreeSet<Key>,
    /// Fingerprints of the records that Paho has ever forgotten.
    pub forgotten: BTreeSet<u64>,
    /// Unread records whose key Paho has used again: they have another number now.
    pub relocated: Vec<(Kind, Value)>,
    pub calls: u64,
    /// Some starts use another MQTT version than others.
    pub mixes_versions: bool,
    /// Packet ids that two messages had at the last opening.
    pub clashing: BTreeSet<u16>,
    /// Records that the present call changes: if the program dies in it, either state is right.
    pub changing: Vec<Key>,
}

impl Machine {
    pub fn new(world: &World, settings: Settings) -> Self {
        Self {
            clock: Arc::clone(&world.clock),
            world: world.clone(),
            settings,
            process: None,
            mixes_versions: false,
            live: BTreeMap::new(),
            before: HealthSnapshot::default(),
            lost_seen: 0,
            waited_in: None,
            last_read: None,
            last_lengths: (0, 0),
            has_session: false,
            is_open: false,
            unread: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            relocated: Vec::new(),
            calls: 0,
            clashing: BTreeSet::new(),
            changing: Vec::new(),
        }
    }

    /// Creates the persistence of a new program.
    pub fn start(&mut self) {
        let clock = ProcessClock::new(&self.clock);
        let store = self.world.store(&clock);
        let incarnation = store.incarnation();
        let events = Arc::new(Events::default());
        let settings = simulation::Settings {
            durability: self.settings.durability,
            cache_limit: self.settings.cache_limit,
            call_timeout: self.settings.call_timeout,
            open_timeout: self.settings.open_timeout,
            ..simulation::Settings::default()
        };
        let observer: Arc<dyn StoreObserver> = Arc::<Events>::clone(&events);
        let process_clock: Arc<dyn simulation::SimulatedClock> = Arc::<ProcessClock>::clone(&clock);
        let (persistence, worker) =
            simulation::simulated_persistence(store, &settings, process_clock, Some(observer));
        let health = persistence.health();
        clock.attach(worker, health.clone());
        let (persistence, registry) = self.wrap(persistence);
        self.process = Some(Process {
            incarnation,
            persistence,
            clock,
            health,
            events,
            registry,
        });
        self.before = HealthSnapshot::default();
        self.lost_seen = 0;
        self.waited_in = None;
        self.last_read = None;
        self.has_session = true;
    }

    fn wrap(
        &self,
        persistence: Persistence<SimulatedStore>,
    ) -> (Box<dyn ClientPersistence + Send>, Option<Registry>) {
        let sabotage = self.settings.sabotage;
        if self.settings.is_instrumented {
            let registry = Registry::new();
            let metrics = PersistenceMetrics::register(&registry).expect("a new registry");
            let persistence = persistence.instrument(&metrics);
            (sabotage.wrap(Box::new(persistence)), Some(registry))
        } else {
            (sabotage.wrap(Box::new(persistence)), None)
        }
    }

    /// Makes one call of Paho, and checks what it cost.
    fn call<T>(
        &mut self,
        limit: Limit,
        name: impl Fn() -> String,
        show: impl FnOnce(&T) -> String,
        work: impl FnOnce(&mut dyn ClientPersistence) -> T,
    ) -> Result<T, Stop> {
        let process = self.process.as_mut().expect("a running program");
        self.calls += 1;
        process.clock.begin_call();
        let started = self.clock.now();
        let (operations, slow, timeouts) = {
            let mut state = self.world.lock();
            state.note(|| format!("{} {}", at(started), name()));
            (
                state.operations_of_calls,
                state.slow,
                state.timeouts_of_worker,
            )
        };
        let result = catch_unwind(AssertUnwindSafe(|| work(&mut *process.persistence)));
        let mut state = self.world.lock();
        if !state.is_alive(process.incarnation) {
            return Err(Stop::Died);
        }
        let Ok(result) = result else {
            state.violate("paho_is_never_hurt", || format!("{} panics", name()));
            return Err(Stop::Violated);
        };
        state.note(|| format!("  -> {}", show(&result)));
        if process.clock.waits.load(Ordering::Relaxed) > TOO_MANY_WAITS {
            state.violate("call_time", || format!("{} waits without end", name()));
        }
        let timed_out_worker = u32::try_from(state.timeouts_of_worker - timeouts).unwrap_or(1000);
        let spent = (self.clock.now() - started).saturating_sub(state.slow - slow);
        let call_timeout = self.settings.call_timeout;
        let longest = match limit {
            Limit::Call => call_timeout,
            Limit::Open => self.settings.open_timeout + call_timeout * 4,
            Limit::Close | Limit::Flush => call_timeout * 3,
        };
        if spent > longest + call_timeout * timed_out_worker.min(2) {
            state.violate("call_time", || format!("{} takes {spent:?}", name()));
        }
        let operations = state.operations_of_calls - operations;
        if limit == Limit::Call && operations > MAX_OPERATIONS_PER_CALL {
            state.violate("call_time", || {
                format!("{} makes {operations} exchanges", name())
            });
        }
        drop(state);
        if limit == Limit::Call && !spent.is_zero() {
            self.check_single_wait(&name);
        }
        if limit != Limit::Open {
            self.observe()?;
        }
        Ok(result)
    }

    /// Checks that no other call has waited in this outage.
    fn check_single_wait(&mut self, name: &impl Fn() -> String) {
        let process = self.process.as_ref().expect("a running program");
        let outage = process.health.snapshot().down_since;
        if outage.is_some() && outage == self.waited_in {
            self.world.lock().violate("call_time", || {
                format!("{} is the second call that waits in one outage", name())
            });
        }
        self.waited_in = outage;
    }

    /// Lets the worker act once.
    pub fn act(&mut self) -> Result<Acted, Stop> {
        let process = self.process.as_ref().expect("a running program");
        let acted = catch_unwind(AssertUnwindSafe(|| process.clock.act()));
        let mut state = self.world.lock();
        if !state.is_alive(process.incarnation) {
            return Err(Stop::Died);
        }
        let Ok(acted) = acted else {
            state.violate("paho_is_never_hurt", || "the worker panics".to_owned());
            return Err(Stop::Violated);
        };
        if acted == Acted::Ended {
            state.violate("paho_is_never_hurt", || "the worker has ended".to_owned());
        }
        drop(state);
        self.observe()?;
        Ok(acted)
    }

    /// Opens the records, and returns whether that worked.
    pub fn open(&mut self) -> Result<bool, Stop> {
        let errors = self.world.lock().errors;
        let opened = self.call(
            Limit::Open,
            || "open".to_owned(),
            |opened| show(opened, |()| String::new()),
            |persistence| persistence.open(CLIENT, SERVER),
        )?;
        let mut state = self.world.lock();
        if let Err(error) = &opened {
            if state.errors == errors {
                let kind = kind_of(error);
                state.violate("open_succeeds", || format!("open fails: {kind}"));
            }
            drop(state);
            return self.result().map(|()| false);
        }
        state.read_unread();
        state.opened(|key, value| !is_readable(key, value));
        let readable = state.data.records.iter();
        let readable = readable.filter(|(key, value)| is_readable(**key, value));
        self.live = readable
            .map(|(key, value)| (*key, Arc::clone(value)))
            .collect();
        self.is_open = true;
        self.unread.clear();
        self.relocated.clear();
        drop(state);
        let process = self.process.as_ref().expect("a running program");
        self.before = process.health.snapshot();
        self.observe()?;
        Ok(true)
    }

    /// Closes the records, and returns whether everything has been written.
    pub fn close(&mut self) -> Result<bool, Stop> {
        let closed = self.call(
            Limit::Close,
            || "close".to_owned(),
            |closed| show(closed, |()| String::new()),
            |persistence| persistence.close(),
        )?;
        Ok(closed.is_ok())
    }

    /// Lists the keys.
    pub fn keys(&mut self) -> Result<Vec<Key>, Stop> {
        self.last_read = None;
        let keys = self.call(
            Limit::Call,
            || "keys".to_owned(),
            |keys| show(keys, |keys: &Vec<String>| keys.join(" ")),
            |persistence| persistence.keys(),
        )?;
        let keys = match keys {
            Ok(keys) => keys,
            Err(error) => return self.refused("keys", &error),
        };
        let parsed: Option<Vec<Key>> = keys.iter().map(|key| Key::parse(key.as_bytes())).collect();
        let Some(parsed) = parsed else {
            let mut state = self.world.lock();
            state.violate("keys_are_true", || format!("keys lists {keys:?}"));
            return Err(Stop::Violated);
        };
        Ok(parsed)
    }

    /// Lists the keys, and checks that they are those of the live records.
    pub fn live_keys(&mut self) -> Result<Vec<Key>, Stop> {
        let keys = self.keys()?;
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        self.find_relocated(&sorted);
        let missing: Vec<Key> = self
            .live
            .keys()
            .filter(|key| sorted.binary_search(key).is_err())
            .copied()
            .collect();
        for key in missing {
            self.account_for_loss(key);
        }
        if !sorted.iter().eq(self.live.keys()) {
            let extra = sorted.iter().find(|key| !self.live.contains_key(key));
            let missing = self.live.keys().find(|key| !sorted.contains(key));
            let shown = |key: Option<&Key>| key.map_or_else(|| "none".to_owned(), Key::to_string);
            let (extra, missing) = (shown(extra), shown(missing));
            let mut state = self.world.lock();
            state.violate("keys_are_true", || {
                format!("keys lists {extra} that is not there, and lacks {missing}")
            });
            return Err(Stop::Violated);
        }
        Ok(keys)
    }

    /// Finds the new numbers of relocated records among the keys.
    pub fn find_relocated(&mut self, keys: &[Key]) {
        if self.relocated.is_empty() {
            return;
        }
        let state = self.world.lock();
        for key in keys {
            if self.live.contains_key(key) {
                continue;
            }
            let stored = state.data.records.get(key);
            let is_it = |(kind, value): &(Kind, Value)| {
                *kind == key.kind && stored.is_none_or(|stored| stored == value)
            };
            if let Some(position) = self.relocated.iter().position(is_it) {
                let (_, value) = self.relocated.remove(position);
                self.live.insert(*key, value);
            }
        }
    }

    fn refused<T>(&mut self, call: &str, error: &paho_mqtt::Error) -> Result<T, Stop> {
        let kind = kind_of(error);
        let mut state = self.world.lock();
        state.violate("paho_is_never_hurt", || {
            format!("{call} returns an error: {kind}")
        });
        Err(Stop::Violated)
    }

    pub fn put(&mut self, key: Key, value: &Value) -> Result<(), Stop> {
        self.put_buffers(key, &[value], value)
    }

    /// Puts a value that Paho passes in several buffers.
    pub fn put_buffers(&mut self, key: Key, buffers: &[&[u8]], value: &Value) -> Result<(), Stop> {
        // A packet that is put again replaces nothing in memory.
        if !self
            .live
            .get(&key)
            .is_some_and(|live| is_same(key, live, value))
        {
            self.last_lengths.0 = value.len();
        }
        let name = key.to_string();
        self.changing = superseded_by(key);
        self.changing.push(key);
        self.world.lock().note_put(key, value);
        let put = self.call(
            Limit::Call,
            || format!("put {key} ({} B)", value.len()),
            |put| show(put, |()| String::new()),
            |persistence| persistence.put(&name, buffers.to_vec()),
        )?;
        if let Err(error) = put {
            let is_clash = u16::try_from(key.number).is_ok_and(|id| self.clashing.contains(&id));
            if kind_of(&error) == ErrorKind::Damaged && is_clash {
                return Ok(());
            }
            return self.refused(&format!("put {key}"), &error);
        }
        for replaced in superseded_by(key) {
            self.live.remove(&replaced);
        }
        self.changing.clear();
        let replaced = self.live.insert(key, Arc::clone(value));
        if self.unread.remove(&key) {
            self.relocated.extend(replaced.map(|old| (key.kind, old)));
        }
        Ok(())
    }

    /// Reads a record, and checks that the value is the one that was put.
    pub fn get(&mut self, key: Key) -> Result<Result<Value, ErrorKind>, Stop> {
        let name = key.to_string();
        let got = self.call(
            Limit::Call,
            || format!("get {key}"),
            |got| show(got, |value: &Vec<u8>| format!("{} B", value.len())),
            |persistence| persistence.get(&name),
        )?;
        if got
            .as_ref()
            .is_err_and(|error| kind_of(error) == ErrorKind::NotFound)
        {
            self.account_for_loss(key);
        }
        let expected = self.live.get(&key).map(Arc::clone);
        match got {
            Ok(value) => {
                self.last_lengths.1 = value.len();
                if !has_value(&self.live, key, &value) {
                    let mut state = self.world.lock();
                    state.violate("values_are_true", || match &expected {
                        Some(_) => format!("get {key} returns another value than was put"),
                        None => format!("get {key} returns a value of a record that was removed"),
                    });
                    return Err(Stop::Violated);
                }
                if key.kind == Kind::Command {
                    self.last_read = Some(key);
                }
                self.unread.remove(&key);
                let value = Value::from(value);
                // The persistence may have given a command another packet id.
                self.live.insert(key, Arc::clone(&value));
                Ok(Ok(value))
            }
            Err(error) => {
                let kind = kind_of(&error);
                self.check_get_error(key, expected.is_some(), kind)?;
                if kind == ErrorKind::Lost {
                    self.account_for_loss(key);
                }
                Ok(Err(kind))
            }
        }
    }

    /// Notes that a record is gone which the store has lost and the persistence has counted as lost.
    pub fn account_for_loss(&mut self, key: Key) {
        let process = self.process.as_ref().expect("a running program");
        let counted = process.health.snapshot().lost_records;
        let Some(value) = self.live.get(&key) else {
            return;
        };
        let world = self.world.clone();
        let mut state = world.lock();
        let is_stored = has_value(&state.data.records, key, value);
        let is_cached = self.settings.cache_limit >= UNLIMITED;
        if self.lost_seen >= counted || is_stored || is_cached {
            return;
        }
        self.lost_seen += 1;
        self.excuse_lost(&mut state, key);
    }

    /// Checks that `get` may fail with this error.
    fn check_get_error(&mut self, key: Key, is_live: bool, kind: ErrorKind) -> Result<(), Stop> {
        let mut state = self.world.lock();
        let has_all_in_memory = self.settings.cache_limit >= UNLIMITED;
        let is_allowed = match kind {
            ErrorKind::NotFound => !is_live,
            // The call may have waited while the record was found lost.
            _ => !has_all_in_memory,
        };
        if !is_allowed {
            state.violate("values_are_true", || {
                let live = if is_live { "live" } else { "removed" };
                format!("get {key} fails with {kind}, and the record is {live}")
            });
            return Err(Stop::Violated);
        }
        Ok(())
    }

    /// Removes a record. Whether it was there does not matter.
    pub fn remove(&mut self, key: Key) -> Result<(), Stop> {
        // Before the call: the persistence may write at once.
        let removed = self.resolve_removed(key);
        self.changing.clone_from(&removed);
        let name = key.to_string();
        let result = self.call(
            Limit::Call,
            || format!("remove {key}"),
            |removed| show(removed, |()| String::new()),
            |persistence| persistence.remove(&name),
        )?;
        if let Err(error) = result {
            return self.refused(&format!("remove {key}"), &error);
        }
        for key in removed {
            self.live.remove(&key);
        }
        self.changing.clear();
        Ok(())
    }

    /// The live records that a remove of this key removes.
    fn resolve_removed(&mut self, key: Key) -> Vec<Key> {
        let mut removed = key;
        let is_last_read = |read: &Key| key.kind == Kind::Command && read.number == key.number;
        let read = self.last_read.take_if(|read| is_last_read(read));
        let is_zero = key.kind == Kind::Command && key.number == 0;
        if is_zero && read.is_none() {
            self.has_session = false;
        }
        if let Some(read) = read {
            removed = read;
        }
        let other = removed.other_version();
        if key.is_queue_record()
            && !is_zero
            && !self.live.contains_key(&removed)
            && self.live.contains_key(&other)
        {
            removed = other;
        }
        if !self.live.contains_key(&removed) {
            return Vec::new();
        }
        // Paho removes this key at each connect, and means no record.
        if is_zero && read.is_none() && self.is_publish(removed) {
            return Vec::new();
        }
        let mut all = vec![removed];
        if removed.kind == Kind::SentPubrel {
            let publish = removed.with_kind(Kind::SentPublish);
            let both = [publish, publish.other_version()];
            all.extend(both.iter().filter(|key| self.live.contains_key(key)));
        }
        all
    }

    fn is_publish(&self, key: Key) -> bool {
        let value = self.live.get(&key);
        value.is_some_and(|value| super::values::parse_command(value).is_some())
    }

    /// Removes a record of the session before Paho has tried to connect, which must have no effect.
    pub fn remove_protected(&mut self, key: Key) -> Result<(), Stop> {
        let name = key.to_string();
        let removed = self.call(
            Limit::Call,
            || format!("remove {key} (of a client that was never connected)"),
            |removed| show(removed, |()| String::new()),
            |persistence| persistence.remove(&name),
        )?;
        match removed {
            Ok(()) => Ok(()),
            Err(error) => self.refused(&format!("remove {key}"), &error),
        }
    }

    /// Asks whether a record is there, as Paho C hears the answer.
    pub fn contains(&mut self, key: Key) -> Result<bool, Stop> {
        let name = key.to_string();
        let answer = self.call(
            Limit::Call,
            || format!("contains_key {key}"),
            |answer| format!("{answer}"),
            |persistence| persistence.contains_key(&name),
        )?;
        // C takes 0 for 'there', and gets 1 for `true`.
        let is_heard = !answer;
        let in_other = key.is_outbound() && self.live.contains_key(&key.other_version());
        let is_there = in_other || self.live.contains_key(&key);
        if is_heard != is_there {
            let mut state = self.world.lock();
            state.violate("keys_are_true", || {
                format!("Paho hears that {key} is there: {is_heard}, and it is there: {is_there}")
            });
            return Err(Stop::Violated);
        }
        Ok(is_heard)
    }

    /// Waits until everything is written, as a program does before it reboots the machine.
    pub fn flush(&mut self) -> Result<(), Stop> {
        let process = self.process.as_ref().expect("a running program");
        let (health, clock) = (process.health.clone(), Arc::clone(&process.clock));
        let timeout = self.settings.call_timeout;
        let flushed = self.call(
            Limit::Flush,
            || "flush".to_owned(),
            |flushed: &Result<(), Error>| match flushed {
                Ok(()) => "Ok".to_owned(),
                Err(error) => error.kind().to_string(),
            },
            |_| health.flush(timeout),
        )?;
        if flushed.is_ok() && clock.memory().1 > 0 {
            let mut state = self.world.lock();
            state.violate("flush_is_true", || {
                "flush returns Ok, and puts are pending".to_owned()
            });
            return Err(Stop::Violated);
        }
        Ok(())
    }
}

/// Records that a put of this one replaces: of the other version, and leftovers of its packet id.
fn superseded_by(key: Key) -> Vec<Key> {
    let other = key.other_version();
    match key.kind {
        Kind::SentPublish => vec![
            other,
            key.with_kind(Kind::SentPubrel),
            other.with_kind(Kind::SentPubrel),
        ],
        Kind::SentPubrel | Kind::ReceivedPublish => vec![other],
        Kind::Command | Kind::Undelivered => Vec::new(),
    }
}

/// A cache limit above which no value of a simulation is evicted.
pub const UNLIMITED: usize = 1 << 30;

/// One call makes at most this many exchanges with the store.
const MAX_OPERATIONS_PER_CALL: u64 = 4;

/// Returns true if Paho can read the value back.
pub fn is_readable(key: Key, value: &[u8]) -> bool {
    match key.kind {
        // Paho never reads an UNSUBSCRIBE of MQTT 3.1.1 back.
        Kind::Command => value.len() > 12 && (key.v5 || value[..4] != 10_i32.to_ne_bytes()),
        _ => value.len() > 3,
    }
}

pub fn kind_of(error: &paho_mqtt::Error) -> ErrorKind {
    Error::in_mqtt(error).map_or(ErrorKind::Other, Error::kind)
}

fn show<T>(result: &paho_mqtt::Result<T>, shown: impl FnOnce(&T) -> String) -> String {
    match result {
        Ok(value) => format!("Ok {}", shown(value)).trim_end().to_owned(),
        Err(error) => kind_of(error).to_string(),
    }
}

/// Formats a time for the story.
pub fn at(time: Duration) -> String {
    format!("[{}.{:06} s]", time.as_secs(), time.subsec_micros())
}
