//! A persistence whose worker a simulator runs, turn by turn.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    client_persistence::Persistence,
    config::PersistenceConfig,
    exchange::Exchange,
    fill::{OverBudget, WaitingLimits},
    guarded_store::GuardedStore,
    lifecycle::Lifecycle,
    notifier::Notifier,
    observer::StoreObserver,
    schedule::Wait,
    shared::PersistenceShared,
};
use crate::{
    cache::SetAsideOptions,
    clock::{Clock, SimulatedClock},
    paho::Key,
    store::{Durability, SetAsideLimits, Store},
};

/// The options of a simulated persistence.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The confirmation that `put` waits for.
    pub durability: Durability,
    /// Number of replicas that confirm a record; one of them may take over.
    pub replicas: u32,
    /// Maximum size of cached values, in bytes.
    pub cache_limit: usize,
    /// Size of records that exist only in memory, in bytes, from which a warning is raised.
    pub buffer_warn_bytes: usize,
    /// Number of messages that Paho buffers at most.
    pub max_buffered_messages: Option<usize>,
    /// Limit of the bytes of all waiting messages.
    pub byte_budget: Option<usize>,
    /// The decision about what exceeds it at open.
    pub over_budget: OverBudget,
    /// A message that was sent on more connections is suspected of being poison.
    pub max_sends: u32,
    /// Opening quarantines the first of these.
    pub quarantines_poison: bool,
    /// Time that one call may wait for an unavailable store.
    pub call_timeout: Duration,
    /// Time that opening waits for a store that is not ready.
    pub open_timeout: Duration,
    /// Opening succeeds if the store is unreachable.
    pub open_without_store: bool,
    /// Nothing that Paho drops is set aside.
    pub without_dead_letters: bool,
    /// The bounds of what is set aside, in each place.
    pub set_aside_limits: SetAsideLimits,
}

impl Default for Settings {
    fn default() -> Self {
        let config = PersistenceConfig::default();
        Self {
            durability: config.durability,
            replicas: config.replicas,
            cache_limit: config.cache_limit,
            buffer_warn_bytes: config.buffer_warn_bytes,
            max_buffered_messages: None,
            byte_budget: None,
            over_budget: OverBudget::Keep,
            max_sends: config.max_sends,
            quarantines_poison: config.quarantines_poison,
            call_timeout: config.call_timeout,
            open_timeout: config.open_timeout,
            open_without_store: config.open_without_store,
            without_dead_letters: config.set_asides.without_dead_letters,
            set_aside_limits: config.set_asides.discarded,
        }
    }
}

/// Creates a persistence that spawns no thread, and the handle that runs its worker.
pub fn simulated_persistence<S: Store>(
    store: S,
    settings: &Settings,
    clock: Arc<dyn SimulatedClock>,
    observer: Option<Arc<dyn StoreObserver>>,
) -> (Persistence<S>, SimulatedWorker<S>) {
    let config = PersistenceConfig {
        store_address: None,
        durability: settings.durability,
        replicas: settings.replicas,
        cache_limit: settings.cache_limit,
        buffer_warn_bytes: settings.buffer_warn_bytes,
        waiting_limits: WaitingLimits {
            messages: settings.max_buffered_messages,
            bytes: settings.byte_budget,
            over_budget: settings.over_budget,
        }
        .into(),
        max_sends: settings.max_sends,
        quarantines_poison: settings.quarantines_poison,
        call_timeout: settings.call_timeout,
        open_timeout: settings.open_timeout,
        open_without_store: settings.open_without_store,
        moved_backlog_check: false,
        set_asides: SetAsideOptions {
            without_dead_letters: settings.without_dead_letters,
            quarantine: settings.set_aside_limits,
            discarded: settings.set_aside_limits,
        },
        clock: Clock::Simulated(clock),
    };
    let mut persistence = Persistence::with_config(store, config);
    if let Some(observer) = observer {
        persistence.add_observer(observer);
    }
    let worker = SimulatedWorker {
        shared: Arc::clone(persistence.shared()),
        notifier: Arc::default(),
    };
    (persistence, worker)
}

/// Runs the worker of one persistence.
pub struct SimulatedWorker<S: Store> {
    shared: Arc<PersistenceShared<GuardedStore<S>>>,
    /// The notifier of the present opening, or of the last one.
    notifier: Arc<Mutex<Option<Arc<Notifier>>>>,
}

/// One turn of the worker: done, or to be done by the simulator.
#[derive(Debug)]
pub enum Turn<S: Store> {
    /// An exchange with the store. Calls may come before it, and between it and its end.
    Exchange(SimulatedExchange<S>),
    /// It did something at once, such as delivering events or a flush.
    Done,
    /// It waits until this time since boot, or until a call changes something.
    Wait(Duration),
    /// The persistence is closed.
    Ended,
}

/// One exchange of the worker with the store.
pub struct SimulatedExchange<S: Store> {
    shared: Arc<PersistenceShared<GuardedStore<S>>>,
    exchange: Exchange<GuardedStore<S>>,
}

impl<S: Store> SimulatedWorker<S> {
    /// Does what the worker and the notifier would do next.
    #[must_use]
    pub fn turn(&self) -> Turn<S> {
        if self.deliver_events() {
            return Turn::Done;
        }
        let shared = &self.shared;
        let mut state = shared.lock();
        let was_down = state.lifecycle.outage().is_some();
        if let Some(exchange) = shared.take_step(&mut state.lifecycle) {
            return Turn::Exchange(SimulatedExchange {
                shared: Arc::clone(shared),
                exchange,
            });
        }
        if was_down && state.lifecycle.outage().is_none() {
            return Turn::Done;
        }
        if let Lifecycle::Closed(_) = state.lifecycle {
            return Turn::Ended;
        }
        match shared.run_due(&mut state.lifecycle) {
            Wait::Ticking(until) | Wait::Idle(until) | Wait::Backoff(until) => {
                if until <= shared.clock().since_boot() {
                    Turn::Done
                } else {
                    Turn::Wait(until)
                }
            }
            Wait::NotOpen => Turn::Wait(Duration::MAX),
        }
    }

    /// Returns the key under which the store has a record that Paho knows as `key`.
    #[must_use]
    pub fn stored_key(&self, key: &str) -> Option<String> {
        let state = self.shared.lock();
        let records = &state.lifecycle.opened()?.records;
        let stored = records.stored_key(Key::parse(key)?)?;
        Some(stored.to_string())
    }

    fn deliver_events(&self) -> bool {
        let mut notifier = self.notifier.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = self.shared.lock().lifecycle.opened() {
            *notifier = Some(Arc::clone(&opened.notifier));
        }
        let current = notifier.clone();
        drop(notifier);
        current.is_some_and(|notifier| notifier.deliver_queued())
    }

    /// Bytes of values in memory, pending or cached.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        let state = self.shared.lock();
        let opened = state.lifecycle.opened();
        opened.map_or(0, |opened| opened.records.cache.index.cached_bytes())
    }

    /// Bytes of values that the store has not confirmed.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        let state = self.shared.lock();
        let opened = state.lifecycle.opened();
        opened.map_or(0, |opened| opened.records.cache.pending_totals().bytes)
    }
}

impl<S: Store> Clone for SimulatedWorker<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            notifier: Arc::clone(&self.notifier),
        }
    }
}

impl<S: Store> SimulatedExchange<S> {
    /// Makes the exchange with the store.
    pub fn perform(&mut self) {
        self.exchange.perform();
    }

    /// Brings the store and its answer back.
    pub fn finish(self) {
        self.shared.end_exchange(self.exchange);
    }
}

impl<S: Store> fmt::Debug for SimulatedWorker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedWorker").finish_non_exhaustive()
    }
}

impl<S: Store> fmt::Debug for SimulatedExchange<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedExchange").finish_non_exhaustive()
    }
}
