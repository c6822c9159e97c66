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

use paho_mqtt::{ClientPersistence, MQTT_VERSION_3_1_1, MQTT_VERSION_5};
use paho_mqtt_redis::{
    Durability, Error, ErrorKind, Health, HealthSnapshot, Persistence, PersistenceMetrics, Place,
    RecordKind, StoreEvent, StoreObserver, prometheus::Registry, simulation,
};

use crate::random::Random;

use super::{
    clock::{Acted, ProcessClock, TOO_MANY_WAITS, VirtualClock},
    sabotage::Sabotage,
    store::SimulatedStore,
    values::{Key, Kind, Value},
    world::World,
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
    /// A confirmation waits for the replica: `replicas(1)`.
    pub has_replicas: bool,
    pub cache_limit: usize,
    pub call_timeout: Duration,
    pub open_timeout: Duration,
    /// Measures the calls, and compares the gauges with the records.
    pub is_instrumented: bool,
    /// A defect that is put between Paho and the persistence, to see it found.
    pub sabotage: Sabotage,
}

impl Settings {
    /// Returns true if each write that is sent at once waits for the replica.
    pub fn each_send_waits_for_replica(&self) -> bool {
        self.has_replicas && self.durability != Durability::Pipelined
    }
}

/// Running program.
pub struct Process {
    pub incarnation: u64,
    pub persistence: Box<dyn ClientPersistence + Send>,
    pub clock: Arc<ProcessClock>,
    pub health: Health,
    pub events: Arc<Events>,
    pub measured: Option<Measured>,
}

/// The metrics of a program.
pub struct Measured {
    pub registry: Registry,
    pub metrics: PersistenceMetrics,
}

/// Receives the events of the persistence.
#[derive(Default)]
pub struct Events {
    /// Records that were reported as lost.
    pub lost: AtomicU64,
    /// Records that Paho has dropped, and that are to be set aside.
    pub dropped: AtomicU64,
    /// Those of them that were reported as not set aside, or not any longer.
    pub set_aside_lost: AtomicU64,
    /// Keys of lost records that the model has not taken notice of.
    lost_keys: Mutex<Vec<String>>,
    damaged: Mutex<Option<String>>,
}

impl Events {
    /// Takes the key of a message that was reported as damaged.
    pub fn take_damaged(&self) -> Option<String> {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.take()
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

impl StoreObserver for Events {
    fn on_event(&self, _: &str, event: &StoreEvent) {
        match event {
            StoreEvent::Lost { records, .. } => {
                self.lost.fetch_add(*records as u64, Ordering::Relaxed);
            }
            StoreEvent::Dropped { kind, records, .. } if *kind != RecordKind::SentPubrel => {
                self.dropped.fetch_add(*records as u64, Ordering::Relaxed);
            }
            StoreEvent::SetAsideLost {
                place: Place::Discarded,
                records,
                ..
            } => {
                let records = *records as u64;
                self.set_aside_lost.fetch_add(records, Ordering::Relaxed);
            }
            StoreEvent::RecordLost { key, .. } => {
                let mut keys = self
                    .lost_keys
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                keys.push(key.clone());
            }
            _ => {}
        }
    }

    fn on_damaged(&self, _: &str, key: &str) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        *damaged = Some(key.to_owned());
    }
}

/// Kind of a call, which decides how long it may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
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
    /// The records that Paho has put and not removed, under the keys that they have in the store.
    pub live: BTreeMap<Key, Value>,
    /// These keys by Paho's, where they differ.
    pub names: BTreeMap<Key, Key>,
    /// The health before the present call or action of the worker.
    pub before: HealthSnapshot,
    /// Lost records that a missing one has accounted for.
    pub lost_seen: u64,
    /// The store is to be compared with the live records once everything is written.
    pub must_compare: bool,
    /// The outage in which a call has waited.
    pub(super) waited_in: Option<std::time::SystemTime>,
    /// The command that Paho has read last.
    pub last_read: Option<Key>,
    /// Lengths of the values that were put and read last.
    pub last_lengths: (usize, usize),
    /// Session records are not removed before Paho has tried to connect.
    pub has_session: bool,
    pub is_open: bool,
    /// Records that Paho does not know, since it could not read them.
    pub unread: BTreeSet<Key>,
    /// Subscriptions that were restored, and not read by Paho yet: until then they count as messages.
    pub unread_subscriptions: BTreeSet<Key>,
    /// Restored subscriptions that Paho has read.
    pub read_subscriptions: i64,
    /// Fingerprints of the records that Paho has ever forgotten.
    pub forgotten: BTreeSet<u64>,
    /// Unread records whose key Paho has used again: they have another number now.
    pub relocated: Vec<(Kind, Value)>,
    pub calls: u64,
    /// Some starts use another MQTT version than others.
    pub mixes_versions: bool,
    /// The program names its version to the persistence: MQTT 5 if true.
    pub named_v5: Option<bool>,
    /// Packet ids that two messages had at the last opening.
    pub clashing: BTreeSet<u16>,
    /// Records that the present call changes: if the program dies in it, either state is right.
    pub changing: Vec<Key>,
    /// What happens between the calls of the present step.
    pub(super) pauses: Option<Pauses>,
}

/// Turns of the worker, and ticks of the clock, between the calls of one step.
pub(super) struct Pauses {
    random: Random,
    /// Of a hundred pauses, this many let the worker act.
    share: u32,
    /// The program may die in a pause.
    is_deadly: bool,
    /// A call of this step was made, so that the next one comes after a pause.
    has_called: bool,
}

impl Pauses {
    pub fn of(step: u32, share: u32, is_deadly: bool) -> Self {
        let mut random = Random::of(u64::from(step) << 8 | 0x55);
        random.draw();
        random.draw();
        Self {
            random,
            share,
            is_deadly,
            has_called: false,
        }
    }

    /// The actions of the worker before the next call, and the time that passes first.
    fn next(&mut self) -> (usize, Duration) {
        if !std::mem::replace(&mut self.has_called, true) {
            return (0, Duration::ZERO);
        }
        if self.random.below(100) >= self.share as usize {
            return (0, Duration::ZERO);
        }
        let by = match self.random.below(8) {
            0 => Duration::from_millis(self.random.pick(&[10, 100, 110, 1100])),
            _ => Duration::ZERO,
        };
        (1 + self.random.below(5), by)
    }

    fn dies(&mut self) -> bool {
        self.is_deadly && self.random.below(200) == 0
    }
}

impl Machine {
    pub fn new(world: &World, settings: Settings) -> Self {
        Self {
            clock: Arc::clone(&world.clock),
            world: world.clone(),
            settings,
            process: None,
            mixes_versions: false,
            named_v5: None,
            live: BTreeMap::new(),
            before: HealthSnapshot::default(),
            lost_seen: 0,
            must_compare: false,
            waited_in: None,
            last_read: None,
            last_lengths: (0, 0),
            has_session: false,
            is_open: false,
            names: BTreeMap::new(),
            unread: BTreeSet::new(),
            unread_subscriptions: BTreeSet::new(),
            read_subscriptions: 0,
            forgotten: BTreeSet::new(),
            relocated: Vec::new(),
            calls: 0,
            clashing: BTreeSet::new(),
            changing: Vec::new(),
            pauses: None,
        }
    }

    /// Lets the worker act before a call that is not the first of its step.
    pub(super) fn pause(&mut self) -> Result<(), Stop> {
        let Some((actions, by)) = self.pauses.as_mut().map(Pauses::next) else {
            return Ok(());
        };
        self.clock.advance(by);
        for _ in 0..actions {
            if let Acted::Idle(_) = self.act()? {
                break;
            }
        }
        if actions > 0 && self.pauses.as_mut().is_some_and(Pauses::dies) {
            let mut state = self.world.lock();
            state.note(|| "the program dies between two calls".to_owned());
            state.kill();
            return Err(Stop::Died);
        }
        Ok(())
    }

    /// Creates the persistence of a new program, which may connect it before Paho opens it.
    ///
    /// Returns false if that fails.
    pub fn start(&mut self, connects: bool) -> Result<bool, Stop> {
        let clock = ProcessClock::new(&self.clock);
        let store = SimulatedStore::new(&self.world, &clock);
        let incarnation = store.incarnation();
        let events = Arc::new(Events::default());
        let settings = simulation::Settings {
            durability: self.settings.durability,
            replicas: u32::from(self.settings.has_replicas),
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
        let forgets = self.settings.sabotage == Sabotage::ForgetsVersion;
        let mut persistence = match self.named_v5.filter(|_| !forgets) {
            Some(true) => persistence.mqtt_version(MQTT_VERSION_5),
            Some(false) => persistence.mqtt_version(MQTT_VERSION_3_1_1),
            None => persistence,
        };
        let connected = catch_unwind(AssertUnwindSafe(|| {
            if connects {
                persistence.connect(CLIENT, &format!("mqtt://{SERVER}"))
            } else {
                Ok(())
            }
        }));
        let (persistence, measured) = self.wrap(persistence);
        self.process = Some(Process {
            incarnation,
            persistence,
            clock,
            health,
            events,
            measured,
        });
        self.before = HealthSnapshot::default();
        self.lost_seen = 0;
        self.waited_in = None;
        self.last_read = None;
        self.has_session = true;
        let mut state = self.world.lock();
        if !state.is_alive(incarnation) {
            return Err(Stop::Died);
        }
        let Ok(connected) = connected else {
            state.violate("paho_is_never_hurt", || "connect panics".to_owned());
            return Err(Stop::Violated);
        };
        if connects {
            let shown = connected.as_ref().err().map(Error::kind);
            state.note(|| format!("connect -> {shown:?}"));
        }
        Ok(connected.is_ok())
    }

    fn wrap(
        &self,
        persistence: Persistence<SimulatedStore>,
    ) -> (Box<dyn ClientPersistence + Send>, Option<Measured>) {
        let sabotage = self.settings.sabotage;
        if self.settings.is_instrumented {
            let registry = Registry::new();
            let metrics = PersistenceMetrics::register(&registry).expect("a new registry");
            let persistence = persistence.instrument(&metrics);
            let measured = Measured { registry, metrics };
            (sabotage.wrap(Box::new(persistence)), Some(measured))
        } else {
            (sabotage.wrap(Box::new(persistence)), None)
        }
    }

    /// Makes one call of Paho, and checks what it cost.
    pub(super) fn call<T>(
        &mut self,
        limit: Limit,
        name: impl Fn() -> String,
        show: impl FnOnce(&T) -> String,
        work: impl FnOnce(&mut dyn ClientPersistence) -> T,
    ) -> Result<T, Stop> {
        self.check_account();
        let process = self.process.as_mut().expect("a running program");
        self.calls += 1;
        process.clock.begin_call();
        let started = self.clock.now();
        let (operations, slowness, timeouts) = {
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
        let was_slow = state.slow.saturating_sub(slowness);
        let spent = self.clock.now().saturating_sub(started + was_slow);
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
        self.check_account();
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

pub fn show<T>(result: &paho_mqtt::Result<T>, shown: impl FnOnce(&T) -> String) -> String {
    match result {
        Ok(value) => format!("Ok {}", shown(value)).trim_end().to_owned(),
        Err(error) => kind_of(error).to_string(),
    }
}

/// Formats a time for the story.
pub fn at(time: Duration) -> String {
    format!("[{}.{:06} s]", time.as_secs(), time.subsec_micros())
}
