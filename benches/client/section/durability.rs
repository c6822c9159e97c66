//! Price of each durability: messages per second, and bytes that Redis writes to its disk.

use std::mem;

use super::throughput::rate;
use crate::{
    contender::{self, Contender},
    io_count::IoCount,
    job::{Load, Measured, Work},
    rounds::Bench,
    statistics::Series,
    table::{self, median, spread, whole},
};
use testkit::{RedisServer, sentinel::Replicated};

const QUALITIES: [i32; 2] = [1, 2];

/// A durability on a Redis of its own.
struct Setting {
    contender: Contender,
    policy: &'static str,
    /// `None` while it is on the stage.
    redis: Option<RedisServer>,
    /// Replica of that Redis.
    _replica: Option<RedisServer>,
    /// Measurements at each of [`QUALITIES`].
    rates: [Series; 2],
    written: [Series; 2],
}

impl Setting {
    fn new(name: &str, policy: &'static str) -> Self {
        let mut contenders = contender::durabilities().into_iter();
        let contender = contenders.find(|one| one.name == name);
        let arguments = ["--appendonly", "yes", "--appendfsync", policy];
        let (redis, replica) = if name.contains("replicas") {
            let [redis, replica] = Replicated::with(&arguments).servers;
            (redis, Some(replica))
        } else {
            (RedisServer::tcp_with(&arguments), None)
        };
        Self {
            contender: contender.expect("one of them"),
            policy,
            redis: Some(redis),
            _replica: replica,
            rates: Default::default(),
            written: Default::default(),
        }
    }
}

pub fn run(bench: &mut Bench) {
    let mut settings = [
        ("Pipelined", "everysec"),
        ("Confirmed", "everysec"),
        ("Confirmed, replicas(1)", "everysec"),
        ("Confirmed", "always"),
        ("Synced", "always"),
    ]
    .map(|(name, policy)| Setting::new(name, policy));
    let rounds = bench.options.rounds;
    for round in 0..rounds {
        eprintln!("durability: round {} of {rounds}", round + 1);
        for offset in 0..settings.len() {
            let setting = &mut settings[(round + offset) % settings.len()];
            for (index, qos) in QUALITIES.into_iter().enumerate() {
                let measured = measure(bench, setting, qos);
                let values = measured.map_err(|error| {
                    bench.fail(&format!("durability: {}: {error}", setting.contender.name));
                });
                let (measured, written) = values.map_or((None, None), |(measured, written)| {
                    (Some(rate(&measured)), Some(written / measured.messages))
                });
                setting.rates[index].0.push(measured);
                setting.written[index].0.push(written);
            }
        }
    }
    let rows: Vec<Vec<String>> = settings
        .iter()
        .map(|setting| {
            let mut row = vec![setting.contender.name.clone(), setting.policy.to_owned()];
            for (rates, written) in setting.rates.iter().zip(&setting.written) {
                row.extend([spread(rates, whole), median(written, whole)]);
            }
            row
        })
        .collect();
    table::print(
        "The price of each durability",
        "100 B, 100 in flight, over a Unix socket, each with a Redis of its own. Bytes: what Redis writes to its disk per message, as in \
         the section `flash`.",
        &[
            "",
            "AOF",
            "QoS 1: messages/s",
            "bytes",
            "QoS 2: messages/s",
            "bytes",
        ]
        .map(str::to_owned),
        &rows,
    );
}

/// Returns the measurement, and the bytes that Redis wrote meanwhile.
fn measure(bench: &mut Bench, setting: &mut Setting, qos: i32) -> Result<(Measured, f64), String> {
    let redis = setting.redis.take().expect("not on the stage");
    let before = IoCount::of(redis.pid());
    let ordinary = mem::replace(&mut bench.stage.redis, redis);
    let load = Load {
        qos,
        ..Load::lasting(if bench.options.quick { 100 } else { 1_000 })
    };
    let measured = bench.run(&setting.contender, Work::Publish, load);
    let redis = mem::replace(&mut bench.stage.redis, ordinary);
    let written = IoCount::of(redis.pid()).since(&before).written;
    setting.redis = Some(redis);
    measured.map(|measured| (measured, written))
}
