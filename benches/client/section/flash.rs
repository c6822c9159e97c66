//! Bytes per message that reach a disk.

use std::{fs, mem, os::unix::fs::MetadataExt, path::Path, process::Command};

use super::offline::load_size;
use crate::{
    contender::{Contender, Medium, Store},
    io_count::IoCount,
    job::{Load, Work},
    rounds::Bench,
    stage::file_system,
    statistics::Series,
    table::{self, median, whole},
};
use testkit::{
    RedisServer,
    charts::{self, Bars, STATES},
};

/// Policy for Redis's append-only file.
const POLICIES: [(&str, &[&str]); 3] = [
    ("off", &[]),
    (
        "everysec",
        &["--appendonly", "yes", "--appendfsync", "everysec"],
    ),
    (
        "always",
        &["--appendonly", "yes", "--appendfsync", "always"],
    ),
];

const SECTOR: f64 = 512.0;

/// Bytes that one measurement wrote.
struct Written {
    client: f64,
    withdrawn: f64,
    redis: f64,
    /// All bytes that this machine wrote to the disk of the files meanwhile, including the journal of the file system.
    device: Option<f64>,
}

pub fn run(bench: &mut Bench) {
    let kind = file_system();
    if kind == "tmpfs" || kind == "ramfs" {
        bench.fail(
            "flash: the folder for temporary files is in memory: set TMPDIR to one on a disk",
        );
        return;
    }
    let messages = if bench.options.quick { 200 } else { 2_000 };
    let mut rows = Vec::new();
    let mut bars: Vec<Bars> = Vec::new();
    for (policy, arguments) in POLICIES {
        let redis = RedisServer::tcp_with(arguments);
        let ordinary = mem::replace(&mut bench.stage.redis, redis);
        let contenders = bench.contenders(|contender| match contender.store {
            // Paho's files do not depend on Redis.
            Store::Files(Medium::Disk) => policy == "off",
            _ => contender.uses_redis() && contender.stands_for_others(),
        });
        for contender in contenders {
            let policy = if contender.uses_redis() {
                policy
            } else {
                "–"
            };
            let mut values = Vec::new();
            for (state, work) in STATES.into_iter().zip([Work::Publish, Work::Fill]) {
                let measured = measure(bench, &contender, work, messages);
                values.push(measured.as_ref().and_then(Medians::reached));
                let first = [contender.name.clone(), policy.to_owned(), state.to_owned()];
                let cells =
                    measured.map_or(vec!["failed".to_owned(); 4], |measured| measured.cells());
                rows.push([first.to_vec(), cells].concat());
            }
            bars.push(Bars {
                label: charts::flash_label(&contender.name, policy),
                values,
            });
        }
        bench.stage.redis = ordinary;
    }
    table::print(
        "What reaches the disk for a message of 100 B at QoS 1",
        "Bytes per message. Client and Redis: `write_bytes` of `/proc/PID/io`, the pages that became dirty. Withdrawn: the part \
         that was deleted before it was written out, which is zero for a message that waits longer than a few seconds. Device: \
         all bytes that the machine wrote to that disk until the end of the write-out, including inodes, folders, journal and \
         other programs; the minimum of the rounds.",
        &[
            "",
            "AOF",
            "messages",
            "client",
            "withdrawn",
            "Redis",
            "device",
        ]
        .map(str::to_owned),
        &rows,
    );
    bench.draw(charts::FLASH, &charts::flash(bars));
}

/// Rounds of one row, in bytes per message.
struct Medians {
    client: Series,
    withdrawn: Series,
    redis: Series,
    device: Option<f64>,
}

impl Medians {
    fn cells(&self) -> Vec<String> {
        vec![
            median(&self.client, whole),
            median(&self.withdrawn, whole),
            median(&self.redis, whole),
            self.device.map_or("–".to_owned(), whole),
        ]
    }

    /// Written bytes minus those that were deleted before they reached the disk, from the numbers in the table.
    fn reached(&self) -> Option<f64> {
        let [client, withdrawn, redis] = [&self.client, &self.withdrawn, &self.redis]
            .map(|series| series.median().map(f64::round_ties_even));
        Some(client? - withdrawn? + redis?)
    }
}

/// `None` if a round failed.
fn measure(
    bench: &mut Bench,
    contender: &Contender,
    work: Work,
    messages: usize,
) -> Option<Medians> {
    let rounds = bench.options.rounds.div_ceil(2);
    let name = &contender.name;
    let mut all = Vec::new();
    for round in 0..rounds {
        eprintln!("flash: {name}: round {} of {rounds}", round + 1);
        match once(bench, contender, work, messages) {
            Ok(written) => all.push(written),
            Err(error) => {
                bench.fail(&format!("flash: {name}: {error}"));
                return None;
            }
        }
    }
    let each = |field: fn(&Written) -> f64| {
        Series(
            all.iter()
                .map(|written| Some(field(written) / load_size(messages)))
                .collect(),
        )
    };
    let device = all
        .iter()
        .filter_map(|written| written.device)
        .min_by(f64::total_cmp);
    Some(Medians {
        client: each(|written| written.client),
        withdrawn: each(|written| written.withdrawn),
        redis: each(|written| written.redis),
        device: device.map(|bytes| bytes / load_size(messages)),
    })
}

fn once(
    bench: &mut Bench,
    contender: &Contender,
    work: Work,
    messages: usize,
) -> Result<Written, String> {
    bench.stage.clear(contender);
    let device_before = settled_device(bench.stage.disk());
    let redis = bench.stage.redis.pid();
    let before = IoCount::of(redis);
    let measured = bench.run(contender, work, Load::of(messages, 1, 100))?;
    let device_after = settled_device(bench.stage.disk());
    Ok(Written {
        client: measured.written,
        withdrawn: measured.withdrawn,
        redis: IoCount::of(redis).since(&before).written,
        device: device_after
            .zip(device_before)
            .map(|(after, before)| after - before),
    })
}

/// Bytes written to the disk of a folder since boot, after a sync.
fn settled_device(folder: &Path) -> Option<f64> {
    let folder_name = folder.to_str()?;
    let synchronized = Command::new("sync")
        .args(["--file-system", folder_name])
        .status();
    if !synchronized.is_ok_and(|status| status.success()) {
        return None;
    }
    let device = fs::metadata(folder).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let counts = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: f64 = counts.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR)
}
