//! Runs of the program.

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use testkit::{RedisServer, child};

/// Result of a run.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    fn new(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let run = Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        assert!(!run.err.contains("panicked"), "{run:?}");
        run
    }

    /// The objects of its output.
    #[track_caller]
    pub fn objects(&self) -> Vec<Value> {
        let objects = self.out.lines().map(serde_json::from_str);
        let objects: Result<Vec<Value>, _> = objects.collect();
        objects.unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts the code, and that nothing in the output could change a terminal.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        let is_plain = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n');
        assert!(is_plain(&self.out) && is_plain(&self.err), "{self:?}");
        self
    }
}

/// A run without a Redis.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = child::command(child::tool());
    command.args(arguments).stdin(Stdio::null());
    for name in [
        "URL",
        "KEY_PREFIX",
        "REDIS_CA_FILE",
        "CLIENT_CERTIFICATE_FILE",
        "CLIENT_KEY_FILE",
    ] {
        command.env_remove(format!("MQTT_BACKLOG_{name}"));
    }
    command
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Run {
    Run::new(command.output().expect("runs"))
}

/// Runs the program on a Redis.
pub fn run(redis: &RedisServer, arguments: &[&str]) -> Run {
    output(command(arguments).env("MQTT_BACKLOG_URL", redis.url()))
}

/// Runs the program on a Redis for objects, and expects success.
#[track_caller]
pub fn objects(redis: &RedisServer, arguments: &[&str]) -> Vec<Value> {
    let arguments = [arguments, &["--json"]].concat();
    run(redis, &arguments).expect(0).objects()
}
