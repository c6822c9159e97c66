//! Program that publishes, receives, loses its connection, and continues where the run before it ended.

use std::{
    process,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use paho_mqtt as mqtt;

use crate::harness::{
    connect_options,
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
    let (lost, losses) = mpsc::channel();
    program
        .publisher
        .mqtt
        .set_connection_lost_callback(move |_| {
            // A run that is about to end does not wait for this.
            let _ = lost.send(());
        });
    // A run after one that ended without a connection begins without one.
    let published = program.orders.published;
    if !(OFFLINE..ONLINE).contains(&published) {
        connect(&program);
    }
    if published < OFFLINE {
        publish_until(&mut program, OFFLINE);
        lose_connection(&program, &losses);
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

fn lose_connection(program: &Killed, losses: &Receiver<()>) {
    // The broker drops the connection at this message.
    let sign = mqtt::Message::new(format!("hang up/{}", program.orders.run), "", 0);
    program.publisher.mqtt.publish(sign);
    losses
        .recv_timeout(LIMIT)
        .unwrap_or_else(|_| process::exit(exit::STUCK));
}

/// Connects, retrying until it succeeds, and subscribes.
fn connect(program: &Killed) {
    let mqtt = &program.publisher.mqtt;
    let options = connect_options(program.orders.levels.1, LIMIT);
    let started = Instant::now();
    while mqtt.connect(options.clone()).wait_for(LIMIT).is_err() {
        if started.elapsed() > LIMIT {
            process::exit(exit::STUCK);
        }
    }
    if mqtt.subscribe(INBOUND, 2).wait_for(LIMIT).is_err() {
        process::exit(exit::GIVEN_UP);
    }
}
