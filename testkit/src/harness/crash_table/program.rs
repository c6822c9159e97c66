//! Program that publishes, receives, loses its connection, and continues where the run before it ended.

use std::{
    process, thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;

use crate::harness::{
    messages::INBOUND,
    program::{Killed, exit},
};

/// Number of messages that it publishes, a third of them at each QoS.
const MESSAGES: usize = 24;
/// Messages up to this number are published while it is connected, then those up to `ONLINE` while it is not.
const OFFLINE: usize = 10;
const ONLINE: usize = 16;

/// Limit on every step before the run exits.
pub const LIMIT: Duration = Duration::from_secs(10);

pub fn run(mut program: Killed) -> ! {
    thread::spawn(|| {
        let started = Instant::now();
        while started.elapsed() < LIMIT * 2 {
            thread::park_timeout(LIMIT);
        }
        process::exit(exit::STUCK);
    });
    // A run after one that ended without a connection begins without one.
    let published = program.orders.published;
    if !(OFFLINE..ONLINE).contains(&published) {
        connect(&program);
    }
    if published < OFFLINE {
        publish_until(&mut program, OFFLINE);
        lose_connection(&program);
    }
    publish_until(&mut program, ONLINE);
    if !program.is_connected() {
        connect(&program);
    }
    publish_until(&mut program, MESSAGES);
    program.finish(false)
}

fn publish_until(program: &mut Killed, number: usize) {
    while program.publisher.next.number < number {
        if !program.publisher.publish() {
            process::exit(exit::GIVEN_UP);
        }
    }
}

fn lose_connection(program: &Killed) {
    // The broker drops the connection at this message, and refuses the next two attempts.
    let sign = mqtt::Message::new(format!("hang up/{}", program.orders.run), "", 0);
    let client = program.client();
    if client.publish(sign).is_err() {
        process::exit(exit::GIVEN_UP);
    }
    let started = Instant::now();
    while !client.has_lost_connection() {
        if started.elapsed() > LIMIT {
            process::exit(exit::STUCK);
        }
        thread::park_timeout(Duration::from_micros(200));
    }
}

/// Connects, retrying until it succeeds, and subscribes.
fn connect(program: &Killed) {
    let client = program.client();
    let started = Instant::now();
    while !client.connect(LIMIT) {
        if started.elapsed() > LIMIT {
            process::exit(exit::STUCK);
        }
    }
    if !client.subscribe(INBOUND, LIMIT) {
        process::exit(exit::GIVEN_UP);
    }
}
