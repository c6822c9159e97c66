//! The program `mqtt-backlog`, and clients whose messages it moves between Paho's files and Redis.

pub mod client;
pub mod migration;

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use redis::Commands;

use crate::{RedisServer, child};

/// Records by their keys.
pub type Records = BTreeMap<String, Vec<u8>>;

/// Command that runs `mqtt-backlog` on this Redis.
pub fn tool(redis: &RedisServer, arguments: &[&str]) -> Command {
    let mut command = child::command(child::tool());
    command
        .env_remove("MQTT_BACKLOG_URL")
        .env_remove("MQTT_BACKLOG_KEY_PREFIX")
        .args(["--url", &redis.url()])
        .args(arguments);
    command
}

/// Runs `mqtt-backlog` on this Redis.
pub fn run(redis: &RedisServer, arguments: &[&str]) -> Output {
    tool(redis, arguments).output().expect("the program runs")
}

/// Runs `mqtt-backlog`, checks its exit code, and returns the lines of its standard output and error.
#[track_caller]
pub fn expect(redis: &RedisServer, code: i32, arguments: &[&str]) -> (Vec<String>, Vec<String>) {
    checked(&run(redis, arguments), code)
}

/// Checks the exit code, and returns the lines of the standard output and error.
#[track_caller]
pub fn checked(output: &Output, code: i32) -> (Vec<String>, Vec<String>) {
    let lines = |bytes: &[u8]| -> Vec<String> {
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        text.lines().map(str::to_owned).collect()
    };
    let (out, err) = (lines(&output.stdout), lines(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out:#?} {err:#?}");
    (out, err)
}

/// Records of a hash in Redis, foreign entries included.
pub fn in_redis(redis: &RedisServer, hash: &str) -> Records {
    let entries: BTreeMap<Vec<u8>, Vec<u8>> = redis.connection().hgetall(hash).expect("HGETALL");
    let entries = entries.into_iter();
    let entries = entries.map(|(key, value)| (String::from_utf8_lossy(&key).into_owned(), value));
    entries.collect()
}

/// Writes these records into a hash.
pub fn into_redis(redis: &RedisServer, hash: &str, records: &Records) {
    let mut connection = redis.connection();
    for (key, value) in records {
        let _: () = connection.hset(hash, key, value).expect("HSET");
    }
}

/// Records in the directory of a client, which need not exist, and from which Paho may remove files meanwhile.
pub fn in_files(directory: &Path) -> Records {
    let mut records = Records::new();
    for file in fs::read_dir(directory).into_iter().flatten() {
        let file = file.expect("an entry");
        if file.file_type().is_ok_and(|kind| kind.is_file()) {
            let name = file.file_name().into_string().expect("UTF-8");
            let key = name.strip_suffix(".msg").unwrap_or(&name).to_owned();
            match fs::read(file.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                value => drop(records.insert(key, value.expect("a file"))),
            }
        }
    }
    records
}

/// Writes these records into the directory of a client.
pub fn into_files(directory: &Path, records: &Records) {
    fs::create_dir_all(directory).expect("a folder");
    for (key, value) in records {
        fs::write(directory.join(format!("{key}.msg")), value).expect("a file");
    }
}

/// Directory that Paho makes for a client of a server on 127.0.0.1.
pub fn directory(base: &Path, client: &str, port: u16) -> PathBuf {
    base.join(format!("{client}-127.0.0.1-{port}"))
}
