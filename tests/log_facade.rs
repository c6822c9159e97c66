//! With the feature `log` the events reach the `log` crate, as users of paho-mqtt-redis 0.3.2 have it.

use std::sync::Mutex;

use log::{LevelFilter, Log, Metadata, Record};
use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::RedisPersistence;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let line = format!("{} {} {}", record.level(), record.target(), record.args());
        LINES.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

#[test]
fn failed_open_logs_its_cause_to_log_crate() {
    log::set_logger(&Logger).expect("the first logger");
    log::set_max_level(LevelFilter::Info);
    let missing = "unix:///nonexistent/redis.sock";
    let mut persistence = RedisPersistence::builder()
        .url(missing)
        .build()
        .expect("valid");
    persistence
        .open("device-1", "127.0.0.1:1883")
        .expect_err("there is no Redis");
    let lines = LINES.lock().unwrap();
    let line = lines
        .iter()
        .find(|line| line.starts_with("ERROR paho_mqtt_redis"))
        .expect("an event");
    assert!(
        line.contains(missing) && line.contains("No such file"),
        "{line}"
    );
}
