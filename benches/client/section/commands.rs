//! Cost of a message for the client's processor and for Redis.

use std::iter;

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
    let contenders = bench.contenders(|contender| !contender.is_instrumented());
    let (mut commands, mut processor) = (Vec::new(), Vec::new());
    for contender in contenders {
        let mut cpu = vec![contender.name.clone()];
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
                let counted = count(bench, &contender, load).map_err(|error| {
                    bench.fail(&format!("commands: {}: {error}", contender.name));
                });
                let messages = load_size(messages);
                if in_flight == 100 {
                    cpu.extend(match &counted {
                        Ok(counted) => counted.cpu_columns(&contender, messages),
                        Err(()) => ["failed", "failed"].map(str::to_owned),
                    });
                }
                if contender.uses_redis() {
                    let columns = match &counted {
                        Ok(counted) => counted.columns(messages),
                        Err(()) => vec!["failed".to_owned(); 6],
                    };
                    commands.push([first.to_vec(), columns].concat());
                }
            }
        }
        processor.push(cpu);
    }
    let of_each_qos =
        ["client", "Redis"].map(|process| [0, 1, 2].map(|qos| format!("QoS {qos}: {process}")));
    let [client, redis] = of_each_qos;
    let columns = client.into_iter().zip(redis);
    let columns = columns.flat_map(|(client, redis)| [client, redis]);
    table::print(
        "Processor time for a message of 100 B",
        "In microseconds, a message, with 100 in flight: of the client with all its threads, and of Redis.",
        &iter::once(String::new()).chain(columns).collect::<Vec<_>>(),
        &processor,
    );
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
        &commands,
    );
}

/// Cost of all messages of a run.
struct Count {
    redis: RedisCount,
    /// Processor time of Redis in seconds.
    redis_cpu: f64,
    /// Processor time of the client in seconds.
    client_cpu: f64,
}

fn count(bench: &mut Bench, contender: &Contender, load: Load) -> Result<Count, String> {
    bench.stage.clear(contender);
    let client_id = bench.new_client();
    bench.stage.reset_redis_count();
    let before = bench.stage.redis_cpu();
    let measured = bench.run_as(contender, &client_id, Work::Publish, load, None)?;
    let redis_cpu = bench.stage.redis_cpu() - before;
    let redis = bench.stage.redis_count();
    bench.expect_records(contender, 0)?;
    Ok(Count {
        redis,
        redis_cpu,
        client_cpu: measured.busy,
    })
}

/// Microseconds per message.
fn microseconds(seconds: f64, messages: f64) -> String {
    two_places(seconds * 1e6 / messages)
}

impl Count {
    fn cpu_columns(&self, contender: &Contender, messages: f64) -> [String; 2] {
        let redis = if contender.uses_redis() {
            microseconds(self.redis_cpu, messages)
        } else {
            "–".to_owned()
        };
        [microseconds(self.client_cpu, messages), redis]
    }

    fn columns(&self, messages: f64) -> Vec<String> {
        let counted = &self.redis;
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
            microseconds(self.redis_cpu, messages),
            which.join(", "),
        ]
    }
}
