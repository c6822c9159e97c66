//! Duration and allocations of calls.

use std::{collections::BTreeMap, time::Instant};

use paho_mqtt::ClientPersistence;

use crate::{
    allocations,
    message::{Call, Message},
    statistics::Series,
};

/// Number of records when keys are listed.
const LISTED: u16 = 100;

/// Result of a round by kind of call: median time in nanoseconds, and mean number of allocations.
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
    /// Makes and measures one call.
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

/// Cost of reading the clock twice, in nanoseconds.
pub fn clock() -> f64 {
    let readings = (0..1_001).map(|_| {
        let started = Instant::now();
        started.elapsed().as_secs_f64() * 1e9
    });
    median(readings.collect())
}

/// Measures each call for these messages separately, and the other calls.
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

/// Measures the calls of a message as a whole, without the allocations that Paho makes to pass a value.
pub fn cycle(persistence: &mut dyn ClientPersistence, messages: &[Message]) -> Cost {
    let mut all = Calls::default();
    for message in messages {
        let calls = message.calls();
        let mut buffers: Vec<_> = calls.iter().map(|call| call.buffers(message)).collect();
        all.time(0.0, || {
            for (call, buffers) in calls.iter().zip(&mut buffers) {
                call.make(persistence, message, std::mem::take(buffers))
                    .expect("succeeds");
            }
        });
    }
    all.cost()
}

/// Measures the calls that need existing records.
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

/// Puts these messages as waiting ones.
pub fn wait(persistence: &mut dyn ClientPersistence, messages: &[Message]) {
    for message in messages {
        let buffers = Call::PutCommand.buffers(message);
        Call::PutCommand
            .make(persistence, message, buffers)
            .expect("succeeds");
    }
}

/// Makes the calls for sending and acknowledging these messages.
fn finish(persistence: &mut dyn ClientPersistence, messages: &[Message]) {
    for message in messages {
        for call in &Call::CYCLE[1..] {
            let buffers = call.buffers(message);
            call.make(persistence, message, buffers).expect("succeeds");
        }
    }
}
