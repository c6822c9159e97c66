//! Servers and folders of the bench.

use std::{env, fs, io, path::Path, process};

use tempfile::TempDir;

use crate::{
    contender::{Contender, Medium, Store},
    job::Addresses,
};
use testkit::{Mosquitto, RedisServer};

/// Private broker, private Redis, and folders for Paho's files.
pub struct Stage {
    pub broker: Mosquitto,
    pub redis: RedisServer,
    disk: TempDir,
    tmpfs: TempDir,
}

/// Counters of Redis since the last reset.
pub struct RedisCount {
    /// Commands with their numbers, the most frequent first.
    pub commands: Vec<(String, f64)>,
    pub input: f64,
    pub output: f64,
    /// Number of reads from connections: commands that arrive together count once.
    pub reads: f64,
}

impl Stage {
    pub fn start() -> Self {
        let stage = Self {
            broker: Mosquitto::start(),
            redis: RedisServer::tcp(),
            disk: TempDir::new().expect("a folder for files"),
            tmpfs: tempfile::tempdir_in("/dev/shm").expect("a folder on a tmpfs"),
        };
        stage.remove_folders_when_interrupted();
        stage
    }

    /// Removes the folders: files on a tmpfs would take memory until the next boot.
    fn remove_folders_when_interrupted(&self) {
        let folders = [&self.disk, &self.tmpfs].map(|folder| folder.path().to_owned());
        let interrupted = move || {
            for folder in &folders {
                // The process that writes to it may still be running.
                for _ in 0..100 {
                    if fs::remove_dir_all(folder).is_ok() || !folder.exists() {
                        break;
                    }
                }
            }
            process::exit(130);
        };
        ctrlc::set_handler(interrupted).expect("the only handler");
    }

    pub fn disk(&self) -> &Path {
        self.disk.path()
    }

    /// Addresses for a contender.
    pub fn addresses(&self, contender: &Contender) -> Addresses {
        let folder = self.folder(contender).unwrap_or(Path::new(""));
        Addresses {
            broker: self.broker.url(),
            redis_tcp: self.redis.tcp_url(),
            redis_unix: self.redis.url(),
            folder: folder.to_str().expect("UTF-8").to_owned(),
            neighbor: String::new(),
        }
    }

    fn folder(&self, contender: &Contender) -> Option<&Path> {
        match contender.store {
            Store::Files(Medium::Disk) => Some(self.disk.path()),
            Store::Files(Medium::Tmpfs) => Some(self.tmpfs.path()),
            _ => None,
        }
    }

    /// Number of records of a contender, of all clients.
    pub fn records(&self, contender: &Contender) -> usize {
        if let Some(folder) = self.folder(contender) {
            return files_in(folder).expect("can be listed");
        }
        if !contender.uses_redis() {
            return 0;
        }
        let mut connection = self.redis.connection();
        let hashes: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query(&mut connection)
            .expect("Redis answers");
        let length = |hash| -> usize {
            redis::cmd("HLEN")
                .arg(hash)
                .query(&mut connection)
                .expect("Redis answers")
        };
        hashes.iter().map(length).sum()
    }

    /// Removes all records of a contender.
    pub fn clear(&self, contender: &Contender) {
        if let Some(folder) = self.folder(contender) {
            for entry in fs::read_dir(folder).expect("can be listed").flatten() {
                fs::remove_dir_all(entry.path()).expect("can be removed");
            }
        } else if contender.uses_redis() {
            self.ask_redis("FLUSHALL", "SYNC");
        }
    }

    pub fn reset_redis_count(&self) {
        self.ask_redis("CONFIG", "RESETSTAT");
    }

    pub fn redis_count(&self) -> RedisCount {
        let stats = self.info("stats");
        let number = |text: &str| text.parse().unwrap_or(0.0);
        let stat = |name: &str| field(&stats, name).map_or(0.0, number);
        let all = self.info("commandstats");
        let mut commands: Vec<(String, f64)> = all
            .lines()
            .filter_map(|line| {
                let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                let calls = rest.split(',').next()?.parse().ok()?;
                Some((name.to_uppercase().replace('|', " "), calls))
            })
            // Commands of the bench itself.
            .filter(|(name, _)| name != "INFO" && name != "CONFIG RESETSTAT")
            .collect();
        commands.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        RedisCount {
            commands,
            input: stat("total_net_input_bytes"),
            output: stat("total_net_output_bytes"),
            reads: stat("total_reads_processed"),
        }
    }

    /// Processor time of Redis in seconds.
    pub fn redis_cpu(&self) -> f64 {
        let cpu = self.info("cpu");
        let seconds = |name: &str| field(&cpu, name).and_then(|text| text.parse::<f64>().ok());
        let [user, system] = ["used_cpu_user", "used_cpu_sys"].map(seconds);
        user.zip(system)
            .map(|(user, system)| user + system)
            .expect("processor time in INFO")
    }

    /// Memory that Redis uses, in bytes.
    pub fn redis_memory(&self) -> f64 {
        let memory = self.info("memory");
        let used = field(&memory, "used_memory").and_then(|text| text.parse().ok());
        used.expect("memory in INFO")
    }

    pub fn redis_version(&self) -> String {
        field(&self.info("server"), "redis_version")
            .unwrap_or("unknown")
            .to_owned()
    }

    fn info(&self, section: &str) -> String {
        redis::cmd("INFO")
            .arg(section)
            .query(&mut self.redis.connection())
            .expect("Redis answers")
    }

    fn ask_redis(&self, command: &str, argument: &str) {
        redis::cmd(command)
            .arg(argument)
            .exec(&mut self.redis.connection())
            .expect("Redis answers");
    }
}

/// Field of the answer to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(value).map(str::trim)
}

fn files_in(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() {
            files_in(&entry.path())?
        } else {
            usize::from(
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "msg"),
            )
        };
    }
    Ok(count)
}

/// Type of the file system of the folder for temporary files.
pub fn file_system() -> String {
    let folder = env::temp_dir();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let under = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        folder.starts_with(point).then_some((point.len(), kind))
    });
    // A later mount on the same point hides the earlier one.
    let last = under.max_by_key(|(length, _)| *length);
    last.map_or("unknown".to_owned(), |(_, kind)| kind.to_owned())
}
