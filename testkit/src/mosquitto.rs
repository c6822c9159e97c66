//! A private MQTT broker.

use std::{fmt::Write, fs, path::Path, process::Command};

use tempfile::TempDir;

use super::process::{Server, on_free_port, on_same_port};

/// A Mosquitto broker on a TCP port of 127.0.0.1 that admits everybody and queues without bound.
pub struct Mosquitto {
    server: Server,
    port: u16,
    // After the server, so that the folder is removed when nothing writes to it any more.
    dir: TempDir,
}

impl Mosquitto {
    /// Starts one.
    pub fn start() -> Self {
        let dir = TempDir::new().expect("a folder for Mosquitto");
        let (port, server) = on_free_port(|port| run(dir.path(), port));
        Self { server, port, dir }
    }

    /// The URL for a client.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Its log since it was last started.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Ends it cleanly: it writes its sessions, queued and retained messages to its folder.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Ends it without warning: it forgets everything since it was started.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Stops it from running, so that it takes what fits into its sockets and answers nothing.
    pub fn pause(&self) {
        self.server.signal(libc::SIGSTOP);
    }

    /// Lets it go on after `pause`.
    pub fn resume(&self) {
        self.server.signal(libc::SIGCONT);
    }

    /// Starts it again on the same port with what `stop` has written, killing it first if it runs.
    pub fn restart(&mut self) {
        self.kill();
        self.server = on_same_port(|| run(self.dir.path(), self.port));
    }
}

fn run(dir: &Path, port: u16) -> Result<Server, String> {
    let mut config = String::new();
    writeln!(config, "listener {port} 127.0.0.1").unwrap();
    writeln!(config, "allow_anonymous true").unwrap();
    // Mosquitto gives up root, and then could not write to a folder that root owns.
    writeln!(config, "user root").unwrap();
    writeln!(config, "persistence true").unwrap();
    writeln!(config, "persistence_location {}/", dir.display()).unwrap();
    writeln!(config, "max_queued_messages 0").unwrap();
    writeln!(config, "max_inflight_messages 0").unwrap();
    // What a subscriber at QoS 0 misses while it is away is kept for it too.
    writeln!(config, "queue_qos0_messages true").unwrap();
    writeln!(config, "log_dest stderr").unwrap();
    let path = dir.join("mosquitto.conf");
    fs::write(&path, config).expect("Mosquitto's configuration can be written");

    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(path);
    Server::start(command, "mosquitto", "running")
}
