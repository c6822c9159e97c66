//! How long calls take, and how often they allocate.

use std::{collections::BTreeMap, time::Instant};

use paho_mqtt::ClientPersistence;

use crate::{
    allocations,
    message::{Call, Message},
    statistics::Series,
};

/// How many records there are when they are listed.
const LISTED: u16 = 100;

/// What one round gave for one kind of call: the median time in nanoseconds, and the mean number of allocations.
pub type Round = BTreeMap<&'static str, Cost>;

#[derive(Clone, Copy)]
pub struct Cost {
    pub nanoseconds: f64,
    pub allocations: f64,
}

pub const CYCLE: &str = "all eight of a message at QoS 1";
pub const CONTAINS: &str = "contains_key";
pub const KEYS: &str = "keys, of 100 records";

/// Collects the calls of one kind.
#[derive(Default)]
struct Calls {
    nanoseconds: Vec<f64>,
    allocations: u64,
}

impl Calls {
    /// Makes one.
    fn time(&mut self, clock: f64, call: impl FnOnce()) {
        let allocations_before = allocations::count();
        let started = Instant::now();
        call();
        let took = started.elapsed();
        self.allocations += allocations::count() - allocations_before;
        self.nanoseconds.push(took.as_secs_f64() * 1e9 - clock);
    }

    fn cost(self) -> Cost {
        let calls = f64::from(u32::try_from(self.nanoseconds.len()).expect("not that many"));
        let allocations = f64::from(u32::try_from(self.allocations).expect("not that many"));
        Cost {
            nanoseconds: median(self.nanoseconds),
            allocations: allocations / calls,
        }
    }
}

fn median(numbers: Vec<f64>) -> f64 {
    let series = Series(numbers.into_iter().map(Some).collect());
    series.median().expect("at least one")
}

/// What looking at the clock twice takes, in nanoseconds.
pub fn clock() -> f64 {
    let looks = (0..1_001).map(|_| {
        let started = Instant::now();
        started.elapsed().as_secs_f64() * 1e9
    });
    median(looks.collect())
}

/// The calls for these messages, each by itself, and the other calls.
pub fn round(persistence: &mut dyn ClientPersistence, messages: &[Message], clock: f64) -> Round {
    let mut calls: BTreeMap<&str, Calls> = BTreeMap::new();
    for message in messages {
        for call in Call::CYCLE {
            let buffers = call.buffers(message);
            calls.entry(call.name()).or_default().time(clock, || {
                call.make(persistence, message, buffers).expect("succeeds");
            });
        }
    }
    let mut costs: Round = calls
        .into_iter()
        .map(|(name, calls)| (name, calls.cost()))
        .collect();
    costs.insert(CYCLE, cycle(persistence, messages));
    costs.extend(with_records(persistence, clock));
    costs
}

/// The same calls without a look at the clock between them. What Paho allocates to hand a value over is not counted.
pub fn cycle(persistence: &mut dyn ClientPersistence, messages: &[Message]) -> Cost {
    let mut all = Calls::default();
    for message in messages {
        let mut buffers = Call::CYCLE.map(|call| call.buffers(message));
        all.time(0.0, || {
            for (call, buffers) in Call::CYCLE.into_iter().zip(&mut buffers) {
                call.make(persistence, message, std::mem::take(buffers))
                    .expect("succeeds");
            }
        });
    }
    all.cost()
}

/// Those for which there have to be records.
fn with_records(persistence: &mut dyn ClientPersistence, clock: f64) -> [(&'static str, Cost); 2] {
    let first = u16::MAX - LISTED;
    let waiting: Vec<Message> = (first..u16::MAX).map(Message::new).collect();
    wait(persistence, &waiting);
    let (mut contains, mut keys) = (Calls::default(), Calls::default());
    for number in first..u16::MAX {
        let key = format!("c5-{number}");
        contains.time(clock, || {
            std::hint::black_box(persistence.contains_key(&key));
        });
        keys.time(clock, || {
            std::hint::black_box(persistence.keys().expect("succeeds"));
        });
    }
    finish(persistence, &waiting);
    [(CONTAINS, contains.cost()), (KEYS, keys.cost())]
}

/// Has these messages wait.
pub fn wait(persistence: &mut dyn ClientPersistence, messages: &[Message]) {
    for message in messages {
        let buffers = Call::PutCommand.buffers(message);
        Call::PutCommand
            .make(persistence, message, buffers)
            .expect("succeeds");
    }
}

/// Has them sent and acknowledged.
fn finish(persistence: &mut dyn ClientPersistence, messages: &[Message]) {
    for message in messages {
        for call in &Call::CYCLE[1..] {
            let buffers = call.buffers(message);
            call.make(persistence, message, buffers).expect("succeeds");
        }
    }
}
