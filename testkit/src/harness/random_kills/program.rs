//! Program that publishes continuously, online and offline, and receives at QoS 2, until it is killed.

use std::{
    process, thread,
    time::{Duration, Instant},
};

use crate::{
    LIMIT,
    harness::{
        messages::INBOUND,
        program::{Killed, exit},
    },
    random::Random,
};

/// At most this many messages wait for an acknowledgment.
const WINDOW: usize = 50;
/// Limit on a call: Paho may never complete one whose connection is lost meanwhile, and the driver waits for further messages.
const CALL_LIMIT: Duration = Duration::from_secs(2);

struct Program {
    killed: Killed,
    random: Random,
    inbound: bool,
}

pub fn run(killed: Killed, seed: u64, inbound: bool, is_last: bool) -> ! {
    let mut program = Program {
        killed,
        random: Random::of(seed),
        inbound,
    };
    if is_last {
        program.connect();
        program.killed.finish(inbound);
    }
    if program.random.below(4) == 0 {
        program.publish(20);
    }
    loop {
        program.connect();
        program.publish(200);
        if program.random.below(3) == 0 && program.killed.is_connected() {
            program.killed.client().interrupt(CALL_LIMIT);
        }
        if !program.killed.is_connected() {
            program.publish(30);
        }
    }
}

impl Program {
    /// Publishes some messages, fewer than `end`, and stops if the connection is lost.
    fn publish(&mut self, end: usize) {
        let was_connected = self.killed.is_connected();
        for _ in 0..self.random.below(end) {
            let publisher = &mut self.killed.publisher;
            if !publisher.publish() {
                process::exit(exit::STUCK);
            }
            while was_connected && publisher.waiting() >= WINDOW && publisher.client.is_connected()
            {
                publisher.settle_or_exit();
                thread::park_timeout(Duration::from_micros(200));
            }
            if was_connected && !publisher.client.is_connected() {
                return;
            }
        }
    }

    /// Connects, retrying until it succeeds, and subscribes now and then.
    fn connect(&mut self) {
        let publisher = &mut self.killed.publisher;
        let started = Instant::now();
        while !publisher.client.is_connected() {
            // Paho fails the tokens of a broken write under the lock that `is_connected` takes, so no further one fails after it.
            publisher.settle_or_exit();
            let _ = publisher.client.connect(LIMIT);
            if started.elapsed() > LIMIT {
                process::exit(exit::STUCK);
            }
        }
        if self.inbound && self.random.below(3) == 0 {
            // A connection that is lost meanwhile is detected elsewhere.
            let _ = publisher.client.subscribe(INBOUND, CALL_LIMIT);
        }
    }
}
