//! Messages keep their order over a crash.

use super::bench::{Bench, command, publish};
use crate::persistence::simulated::Settings;

#[test]
fn qos_2_is_not_stored_before_earlier_qos_1() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    bench.put("c-1", &command(1, 1, b"first"));
    bench.send("c-1", "s-1", &publish(1, 1, b"first"));
    bench.put("c-2", &command(2, 2, b"second"));
    bench.send("c-2", "s-2", &publish(2, 2, b"second"));
    // Paho sends what is in flight before what waits.
    let bench = bench.crash();
    assert_eq!(bench.stored_keys(), ["s-1", "s-2"]);
}

#[test]
fn qos_1_alone_is_not_stored_before_its_tick() {
    let mut bench = Bench::new(&Settings::default(), &[]);
    for number in 1..=3 {
        let payload = [number];
        let (command_key, publish_key) = (format!("c-{number}"), format!("s-{number}"));
        bench.put(&command_key, &command(number.into(), 1, &payload));
        let packet = publish(number.into(), 1, &payload);
        bench.send(&command_key, &publish_key, &packet);
    }
    // The PUBLISH is written with the next tick, and not at all if its PUBACK comes before.
    assert_eq!(bench.stored_keys(), ["c-1", "c-2", "c-3"]);
    bench.remove("s-1");
    bench.run(crate::persistence::schedule::TICK * 2);
    assert_eq!(bench.stored_keys(), ["s-2", "s-3"]);
}
