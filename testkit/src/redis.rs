//! Private server of the Redis family.
//!
//! It is the `redis-server` of the search path, or the program that the variable `REDIS_SERVER` names: another version, or Valkey.

use std::{
    env, fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{
    LIMIT,
    certificates::{make_authority, make_certificate},
    eventually,
    process::{Server, on_free_port, on_same_port, server_path},
};

/// Name of its snapshot file.
pub const SNAPSHOT: &str = "dump.rdb";
/// The AOF: a folder, and before version 7 a file.
const AOFS: [&str; 2] = ["appendonlydir", "appendonly.aof"];
const KEPT: &str = "kept";
/// Variable with the server to start.
pub const SERVER_VARIABLE: &str = "REDIS_SERVER";

/// Redis server on a Unix socket and optionally on a TCP port of 127.0.0.1, which keeps nothing on the disk by default.
pub struct RedisServer {
    server: Server,
    arguments: Vec<String>,
    port: u16,
    socket: PathBuf,
    // Dropped after the server, so that nothing writes to the folder when it is removed.
    dir: TempDir,
}

impl RedisServer {
    /// Starts one on a Unix socket.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one on a Unix socket, with further arguments, which override the default ones.
    pub fn with(arguments: &[&str]) -> Self {
        Self::launch(arguments, false)
    }

    /// Starts one on a Unix socket and on a TCP port.
    pub fn tcp() -> Self {
        Self::tcp_with(&[])
    }

    /// Starts one on a Unix socket and on a TCP port, with further arguments, which override the default ones.
    pub fn tcp_with(arguments: &[&str]) -> Self {
        Self::launch(arguments, true)
    }

    /// Starts one with a configuration file; only the folder and the Unix socket are overridden.
    pub fn configured(file: &Path) -> Self {
        Self::run_with(vec![file.to_str().expect("UTF-8").to_owned()], false)
    }

    /// Starts one with a configuration file; only the folder, the Unix socket and the TCP port are overridden.
    pub fn tcp_configured(file: &Path) -> Self {
        Self::run_with(vec![file.to_str().expect("UTF-8").to_owned()], true)
    }

    fn launch(arguments: &[&str], tcp: bool) -> Self {
        let own = [
            "--bind",
            "127.0.0.1",
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
        ];
        let all = own.iter().chain(arguments).map(ToString::to_string);
        Self::run_with(all.collect(), tcp)
    }

    fn run_with(arguments: Vec<String>, tcp: bool) -> Self {
        let dir = TempDir::new().expect("a folder for Redis");
        let socket = dir.path().join("redis.sock");
        let (port, server) = if tcp {
            on_free_port(|port| run(dir.path(), &socket, port, &arguments))
        } else {
            let server = run(dir.path(), &socket, 0, &arguments)
                .unwrap_or_else(|log| panic!("Redis ended while it started:\n{log}"));
            (0, server)
        };
        Self {
            server,
            arguments,
            port,
            socket,
            dir,
        }
    }

    /// Name and version of the server that is started, as it states them itself: `Redis 7.0.15`.
    pub fn version() -> String {
        let output = command().arg("--version").output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let words: Vec<&str> = text.split(' ').collect();
        let version = words.iter().find_map(|word| word.strip_prefix("v="));
        format!("{} {}", words[0], version.expect("a version"))
    }

    /// URL of its Unix socket.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// URL of its TCP port.
    pub fn tcp_url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }

    /// Path of its Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        assert_ne!(self.port, 0, "this Redis has no TCP port");
        self.port
    }

    /// Folder of the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Log since the last start.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Opens a connection for the test, over the Unix socket and without a password.
    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url())
            .and_then(|client| client.get_connection())
            .expect("a connection to the test's own Redis")
    }

    /// Sets its `maxmemory`, which `"1"` makes full and `"0"` unlimited.
    pub fn set_maxmemory(&self, limit: &str) {
        self.set("maxmemory", limit);
    }

    /// Changes a setting until it restarts.
    pub fn set(&self, setting: &str, value: &str) {
        redis::cmd("CONFIG")
            .arg(&["SET", setting, value])
            .exec(&mut self.connection())
            .expect("CONFIG SET");
    }

    /// Makes it listen with TLS until it restarts, and returns the port.
    ///
    /// Its folder gets `trusted.crt`, the authority of its certificate and of those that clients must have if it
    /// `asks_clients` for one.
    pub fn listen_with_tls(&self, asks_clients: bool) -> u16 {
        make_authority(self.dir(), "trusted");
        make_certificate(self.dir(), "trusted", "server");
        let file = |name: &str| self.dir().join(name).display().to_string();
        let mut connection = self.connection();
        redis::cmd("CONFIG")
            .arg("SET")
            .arg(&["tls-cert-file", &file("server.crt")])
            .arg(&["tls-key-file", &file("server.key")])
            .arg(&["tls-ca-cert-file", &file("trusted.crt")])
            .arg(&["tls-auth-clients", if asks_clients { "yes" } else { "no" }])
            .exec(&mut connection)
            .expect("a Redis that has TLS built in");
        eventually(LIMIT, "Redis listens on a free port", || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            let port = listener.local_addr().expect("bound").port();
            drop(listener);
            let listens = redis::cmd("CONFIG")
                .arg(&["SET", "tls-port", &port.to_string()])
                .exec(&mut connection);
            listens.ok().map(|()| port)
        })
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Removes its AOF and snapshot while it does not run.
    pub fn delete_files(&self) {
        // Each may be missing.
        for aof in AOFS.map(|aof| self.dir().join(aof)) {
            drop(fs::remove_dir_all(&aof));
            drop(fs::remove_file(aof));
        }
        drop(fs::remove_file(self.dir().join(SNAPSHOT)));
    }

    /// Rewrites its AOF, which then has what is stored, without the history of it, and waits for the end.
    pub fn rewrite_aof(&self) {
        let mut connection = self.connection();
        let started = redis::cmd("BGREWRITEAOF").exec(&mut connection);
        started.expect("no rewrite is in progress");
        eventually(LIMIT, "the AOF is rewritten", || {
            let mut about = |field| persistence_info(&mut connection, field);
            let is_over = about("aof_rewrite_in_progress") == "0"
                && about("aof_rewrite_scheduled") == "0"
                && about("aof_last_bgrewrite_status") == "ok";
            is_over.then_some(())
        });
    }

    /// Size of its AOF in bytes.
    pub fn aof_size(&self) -> u64 {
        let size = persistence_info(&mut self.connection(), "aof_current_size");
        size.parse().expect("a number of bytes")
    }

    /// Copies its AOF for [`restore_aof`](Self::restore_aof).
    pub fn save_aof(&self) {
        let kept = self.dir().join(KEPT);
        fs::create_dir_all(&kept).expect("a folder");
        let aofs = AOFS.map(|aof| self.dir().join(aof));
        let aof = aofs.iter().find(|aof| aof.exists()).expect("it has an AOF");
        let copied = Command::new("cp").arg("-r").args([aof, &kept]).status();
        assert!(copied.expect("cp runs").success(), "it can be copied");
    }

    /// Replaces its AOF by the copy while it does not run.
    pub fn restore_aof(&self) {
        self.delete_files();
        for file in fs::read_dir(self.dir().join(KEPT)).expect("the copy is there") {
            let file = file.expect("a file");
            fs::rename(file.path(), self.dir().join(file.file_name())).expect("it goes back");
        }
    }

    /// Restarts it, killing it first if it runs, with the same socket, port, arguments and files.
    pub fn restart(&mut self) {
        self.kill();
        self.server =
            on_same_port(|| run(self.dir.path(), &self.socket, self.port, &self.arguments));
    }

    /// Pauses it: it answers nothing, and its connections stay open.
    pub fn pause(&self) {
        self.server.signal(libc::SIGSTOP);
    }

    /// Resumes it after `pause`.
    pub fn resume(&self) {
        self.server.signal(libc::SIGCONT);
    }
}

/// Field of the section `persistence` of `INFO`.
fn persistence_info(connection: &mut redis::Connection, field: &str) -> String {
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("persistence")
        .query(connection)
        .expect("INFO");
    info.get(field).expect("a field of INFO")
}

/// Command that starts the server.
pub(super) fn command() -> Command {
    let program = env::var(SERVER_VARIABLE).unwrap_or_else(|_| "redis-server".to_owned());
    let mut command = Command::new(program);
    command.env("PATH", server_path());
    command
}

fn run(dir: &Path, socket: &Path, port: u16, arguments: &[String]) -> Result<Server, String> {
    let mut command = command();
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .arg("--unixsocket")
        .arg(socket);
    if port != 0 {
        command.args(["--port", &port.to_string()]);
    }
    // "Ready" or "ready": that depends on the kind of listener and the version.
    Server::start(command, &program, "eady to accept connections")
}
