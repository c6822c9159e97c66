//! Cost of a message for Redis.

use super::offline::load_size;
use crate::{
    contender::Contender,
    job::{Load, Work},
    rounds::Bench,
    stage::RedisCount,
    table::{self, two_places, whole},
};

const PAYLOAD: usize = 100;

/// Commands that are rarer than this per message belong to the connection and are not listed.
const RARE: f64 = 0.02;

pub fn run(bench: &mut Bench) {
    let messages = if bench.options.quick { 200 } else { 10_000 };
    let contenders =
        bench.contenders(|contender| contender.uses_redis() && !contender.is_instrumented());
    let mut rows = Vec::new();
    for contender in contenders {
        for qos in [0, 1, 2] {
            for in_flight in [100, 1] {
                let load = Load {
                    in_flight,
                    ..Load::of(messages, qos, PAYLOAD)
                };
                let first = [
                    contender.name.clone(),
                    qos.to_string(),
                    in_flight.to_string(),
                ];
                let counted = match count(bench, &contender, load) {
                    Ok((counted, cpu)) => columns_of(&counted, cpu, load_size(messages)),
                    Err(error) => {
                        bench.fail(&format!("commands: {}: {error}", contender.name));
                        vec!["failed".to_owned(); 6]
                    }
                };
                rows.push([first.to_vec(), counted].concat());
            }
        }
    }
    table::print(
        "What a message of 100 B costs Redis",
        "As Redis counts it, a message. Commands that came together are one read: the fewer of them, the more went together. CPU is the processor time that Redis took for it, in microseconds.",
        &[
            "",
            "QoS",
            "in flight",
            "commands",
            "bytes in",
            "bytes out",
            "reads",
            "CPU",
            "which",
        ]
        .map(str::to_owned),
        &rows,
    );
}

/// Counters of Redis, and its processor time in seconds.
fn count(
    bench: &mut Bench,
    contender: &Contender,
    load: Load,
) -> Result<(RedisCount, f64), String> {
    bench.stage.clear(contender);
    let client_id = bench.new_client();
    bench.stage.reset_redis_count();
    let before = bench.stage.redis_cpu();
    bench.run_as(contender, &client_id, Work::Publish, load, None)?;
    let cpu = bench.stage.redis_cpu() - before;
    let counted = bench.stage.redis_count();
    bench.expect_records(contender, 0)?;
    Ok((counted, cpu))
}

fn columns_of(counted: &RedisCount, cpu: f64, messages: f64) -> Vec<String> {
    let each = |number: f64| number / messages;
    let all: f64 = counted.commands.iter().map(|(_, calls)| calls).sum();
    let frequent = counted
        .commands
        .iter()
        .filter(|(_, calls)| each(*calls) > RARE);
    let which: Vec<String> = frequent
        .map(|(name, calls)| format!("{name} {}", two_places(each(*calls))))
        .collect();
    vec![
        two_places(each(all)),
        whole(each(counted.input)),
        whole(each(counted.output)),
        two_places(each(counted.reads)),
        two_places(each(cpu * 1e6)),
        which.join(", "),
    ]
}
