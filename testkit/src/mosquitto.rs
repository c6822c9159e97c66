//! Private MQTT broker.

use std::{fmt::Write, fs, path::Path, process::Command};

use tempfile::TempDir;

use super::process::{Server, on_free_port, on_same_port};

/// Mosquitto broker on a TCP port of 127.0.0.1 that admits everybody and queues without bound.
pub struct Mosquitto {
    server: Server,
    port: u16,
    // Dropped after the server, so that nothing writes to the folder when it is removed.
    dir: TempDir,
}

impl Mosquitto {
    /// Starts one.
    pub fn start() -> Self {
        let dir = TempDir::new().expect("a folder for Mosquitto");
        let (port, server) = on_free_port(|port| run(dir.path(), port));
        Self { server, port, dir }
    }

    /// URL for a client.
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Log since the last start.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Stops it cleanly: it saves its sessions, queued and retained messages.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Kills it: it loses everything since its start.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Pauses it: its sockets still accept bytes until their buffers are full, and it answers nothing.
    pub fn pause(&self) {
        self.server.signal(libc::SIGSTOP);
    }

    /// Resumes it after `pause`.
    pub fn resume(&self) {
        self.server.signal(libc::SIGCONT);
    }

    /// Restarts it on the same port with the state that `stop` has saved, killing it first if it runs.
    pub fn restart(&mut self) {
        self.kill();
        self.server = on_same_port(|| run(self.dir.path(), self.port));
    }
}

fn run(dir: &Path, port: u16) -> Result<Server, String> {
    let mut config = String::new();
    writeln!(config, "listener {port} 127.0.0.1").unwrap();
    writeln!(config, "allow_anonymous true").unwrap();
    // Otherwise Mosquitto drops root privileges and cannot write to a folder of root.
    writeln!(config, "user root").unwrap();
    writeln!(config, "persistence true").unwrap();
    writeln!(config, "persistence_location {}/", dir.display()).unwrap();
    writeln!(config, "max_queued_messages 0").unwrap();
    writeln!(config, "max_inflight_messages 0").unwrap();
    // Messages are also queued for subscribers at QoS 0 that are not connected.
    writeln!(config, "queue_qos0_messages true").unwrap();
    writeln!(config, "log_dest stderr").unwrap();
    let path = dir.join("mosquitto.conf");
    fs::write(&path, config).expect("Mosquitto's configuration can be written");

    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(path);
    Server::start(command, "mosquitto", "running")
}
