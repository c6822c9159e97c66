//! Virtual clock, and the clock of one simulated process.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use paho_mqtt_redis::simulation::{SimulatedClock, SimulatedExchange, SimulatedWorker, Turn};
use paho_mqtt_redis::{Health, HealthSnapshot};

use super::store::SimulatedStore;

/// Time of the simulated machine.
#[derive(Default)]
pub struct VirtualClock {
    nanoseconds: AtomicU64,
    /// Steps of the wall clock so far, in nanoseconds.
    wall_offset: AtomicI64,
}

/// Wall clock at boot, in seconds since the epoch.
const BOOTED: u64 = 1_700_000_000;

impl VirtualClock {
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }

    pub fn advance(&self, by: Duration) {
        self.nanoseconds
            .fetch_add(nanoseconds(by), Ordering::Relaxed);
    }

    /// Advances to a time, unless it has passed.
    pub fn advance_to(&self, time: Duration) {
        self.nanoseconds
            .fetch_max(nanoseconds(time), Ordering::Relaxed);
    }

    pub fn step_wall_clock(&self, by: i64) {
        self.wall_offset.fetch_add(by, Ordering::Relaxed);
    }

    fn wall(&self) -> SystemTime {
        let now = i64::try_from(nanoseconds(self.now())).unwrap_or(i64::MAX);
        let since_boot = now.saturating_add(self.wall_offset.load(Ordering::Relaxed));
        let booted = SystemTime::UNIX_EPOCH + Duration::from_secs(BOOTED);
        let distance = Duration::from_nanos(since_boot.unsigned_abs());
        if since_boot < 0 {
            booted - distance
        } else {
            booted + distance
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Worker of one process, with the exchange that it has begun.
pub struct WorkerHandle {
    pub worker: SimulatedWorker<SimulatedStore>,
    exchange: Option<Begun>,
}

struct Begun {
    exchange: SimulatedExchange<SimulatedStore>,
    is_performed: bool,
}

/// The kind of one action of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acted {
    Began,
    Performed,
    Finished,
    Done,
    /// Nothing to do before that time.
    Idle(Duration),
    Ended,
}

impl WorkerHandle {
    /// Does the next thing that the worker thread would do.
    fn act(&mut self) -> Acted {
        match self.exchange.take() {
            Some(begun) if begun.is_performed => {
                begun.exchange.finish();
                Acted::Finished
            }
            Some(mut begun) => {
                begun.exchange.perform();
                begun.is_performed = true;
                self.exchange = Some(begun);
                Acted::Performed
            }
            None => match self.worker.turn() {
                Turn::Exchange(exchange) => {
                    self.exchange = Some(Begun {
                        exchange,
                        is_performed: false,
                    });
                    Acted::Began
                }
                Turn::Done => Acted::Done,
                Turn::Wait(until) => Acted::Idle(until),
                Turn::Ended => Acted::Ended,
            },
        }
    }
}

/// Clock of one process. Its waits let the worker act.
pub struct ProcessClock {
    clock: Arc<VirtualClock>,
    /// Taken while it acts, so that nothing is locked then.
    worker: Mutex<Option<WorkerHandle>>,
    is_dead: AtomicBool,
    /// Time that only a dead process sees: its last waits must not block.
    ahead: AtomicU64,
    /// The worker acts: what it asks of the store is not part of a call.
    pub is_worker: AtomicBool,
    /// Waits since the call began, to detect one that never ends.
    pub waits: AtomicU64,
    health: OnceLock<Health>,
    /// Health before the worker acted last, while a call waited for it.
    seen: Mutex<Option<HealthSnapshot>>,
}

/// Waits of one call from which the clock jumps to the end of the wait.
pub const TOO_MANY_WAITS: u64 = 100_000;

impl ProcessClock {
    pub fn new(clock: &Arc<VirtualClock>) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::clone(clock),
            worker: Mutex::new(None),
            is_dead: AtomicBool::new(false),
            ahead: AtomicU64::new(0),
            is_worker: AtomicBool::new(false),
            waits: AtomicU64::new(0),
            health: OnceLock::new(),
            seen: Mutex::new(None),
        })
    }

    pub fn attach(&self, worker: SimulatedWorker<SimulatedStore>, health: Health) {
        let _ = self.health.set(health);
        self.put_worker(Some(WorkerHandle {
            worker,
            exchange: None,
        }));
    }

    fn put_worker(&self, worker: Option<WorkerHandle>) -> Option<WorkerHandle> {
        let mut held = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut held, worker)
    }

    /// Notes that a call begins.
    pub fn begin_call(&self) {
        self.waits.store(0, Ordering::Relaxed);
        let _ = self.take_seen();
    }

    /// Takes the health before the worker acted last, if it did so while a call waited.
    pub fn take_seen(&self) -> Option<HealthSnapshot> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take()
    }

    /// Lets the worker act once.
    pub fn act(&self) -> Acted {
        let Some(mut worker) = self.put_worker(None) else {
            return Acted::Ended;
        };
        let was_worker = self.is_worker.swap(true, Ordering::Relaxed);
        let acted = worker.act();
        self.is_worker.store(was_worker, Ordering::Relaxed);
        self.put_worker(Some(worker));
        acted
    }

    /// Bytes in memory, and bytes of pending puts.
    pub fn memory(&self) -> (usize, usize) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.as_ref().map_or((0, 0), |worker| {
            (worker.worker.cached_bytes(), worker.worker.pending_bytes())
        })
    }

    /// The key under which the store has a record that Paho knows as `key`.
    pub fn stored_key(&self, key: &str) -> Option<String> {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        worker.as_ref()?.worker.stored_key(key)
    }

    /// Lets no wait of the process block any more, and drops the exchange of its worker.
    pub fn die(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
        drop(self.put_worker(None));
    }
}

impl SimulatedClock for ProcessClock {
    fn since_boot(&self) -> Duration {
        self.clock.now() + Duration::from_nanos(self.ahead.load(Ordering::Relaxed))
    }

    fn time(&self) -> SystemTime {
        self.clock.wall()
    }

    fn wait(&self, until: Duration) {
        let left = until.saturating_sub(self.since_boot());
        if self.is_dead.load(Ordering::Relaxed) {
            let left = nanoseconds(left).max(1_000_000);
            self.ahead.fetch_add(left, Ordering::Relaxed);
            return;
        }
        if self.waits.fetch_add(1, Ordering::Relaxed) > TOO_MANY_WAITS {
            self.clock.advance(left.max(Duration::from_millis(1)));
            return;
        }
        if let Some(health) = self.health.get() {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            *seen = Some(health.snapshot());
        }
        match self.act() {
            Acted::Idle(time) => self.clock.advance_to(time.min(until)),
            Acted::Ended => self.clock.advance_to(until),
            Acted::Began | Acted::Performed | Acted::Finished | Acted::Done => {}
        }
    }
}
