//! Private Alertmanager.

use std::{path::Path, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    http::http_get,
    process::{Server, on_free_port},
};

/// Alertmanager on a TCP port of 127.0.0.1, without peers.
pub struct Alertmanager {
    port: u16,
    _server: Server,
    // Dropped after the server, so that nothing writes to the folder when it is removed.
    _dir: TempDir,
}

impl Alertmanager {
    /// Starts one with this configuration.
    pub fn start(config: &Path) -> Self {
        let dir = TempDir::new().expect("a folder for Alertmanager");
        let (port, server) = on_free_port(|port| {
            let mut command = Command::new("prometheus-alertmanager");
            command
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.path={}", dir.path().display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .arg("--cluster.listen-address=");
            Server::start(command, "prometheus-alertmanager", "Listening on")
        });
        Self {
            port,
            _server: server,
            _dir: dir,
        }
    }

    /// Address, as `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Answer of the HTTP API, for example to `alerts`.
    pub fn get(&self, path: &str) -> Value {
        let (status, _, body) = http_get(self.address(), &format!("/api/v2/{path}"));
        assert_eq!(status, 200, "{path} was refused: {body}");
        serde_json::from_str(&body).expect("Alertmanager answers in JSON")
    }
}
