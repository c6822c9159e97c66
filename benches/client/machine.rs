//! Measured versions and machine.

use std::{fs, thread};

use crate::{rounds::Bench, stage};

const LOCK: &str = include_str!("../../Cargo.lock");

/// Description in one line, for comparing tables.
pub fn description(bench: &Bench) -> String {
    let stage = &bench.stage;
    let processors = if bench.options.pin {
        "The client has the first processor, broker and Redis the second."
    } else {
        "Broker, Redis and client share the processors."
    };
    let broker = stage.broker.log();
    let broker = broker
        .split_once("mosquitto version ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .unwrap_or("unknown");
    format!(
        "Measured on {}, {} cores, Linux {}, temporary files on {}; redis-server {}, mosquitto {broker}; \
         paho-mqtt {}, paho-mqtt-sys {}, redis {}. MQTT {}. {processors} Medians, with the range of all \
         rounds in parentheses; ratios are the medians of the ratios within each round.",
        processor(),
        thread::available_parallelism().map_or(0, usize::from),
        fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim(),
        stage::file_system(),
        stage.redis_version(),
        locked("paho-mqtt"),
        locked("paho-mqtt-sys"),
        locked("redis"),
        bench.options.version.name(),
    )
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // On Arm /proc/cpuinfo has no name, but the model of the board is known.
    let name = ["model name", "Model", "Hardware"].iter().find_map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
    });
    name.unwrap_or("an unknown processor".to_owned())
}

/// Version of a dependency, from the lock file.
fn locked(name: &str) -> &'static str {
    let (_, rest) = LOCK
        .split_once(&format!("name = \"{name}\"\nversion = \""))
        .unwrap_or_default();
    rest.split('"').next().unwrap_or_default()
}
