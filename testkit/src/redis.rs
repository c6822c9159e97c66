//! A private Redis server.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::process::{Server, on_free_port, on_same_port};

/// Where it saves.
pub const SNAPSHOT: &str = "dump.rdb";
const AOF: &str = "appendonlydir";
const KEPT: &str = "kept";

/// A Redis server on a Unix socket, and on a TCP port of 127.0.0.1 when asked for, that keeps nothing on the disk.
pub struct RedisServer {
    server: Server,
    arguments: Vec<String>,
    port: u16,
    socket: PathBuf,
    // After the server, so that the folder is removed when nothing writes to it any more.
    dir: TempDir,
}

impl RedisServer {
    /// Starts one on a Unix socket.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one on a Unix socket, with further arguments, which override those that it has anyway.
    pub fn with(arguments: &[&str]) -> Self {
        Self::launch(arguments, false)
    }

    /// Starts one on a Unix socket and on a TCP port.
    pub fn tcp() -> Self {
        Self::tcp_with(&[])
    }

    /// Starts one on a Unix socket and on a TCP port, with further arguments, which override those that it has anyway.
    pub fn tcp_with(arguments: &[&str]) -> Self {
        Self::launch(arguments, true)
    }

    /// Starts one with a configuration file, of which only the folder and the Unix socket are overridden.
    pub fn configured(file: &Path) -> Self {
        Self::run_with(vec![file.to_str().expect("UTF-8").to_owned()], false)
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
                .unwrap_or_else(|log| panic!("redis-server ended while it started:\n{log}"));
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

    /// The URL of its Unix socket.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The URL of its TCP port.
    pub fn tcp_url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port())
    }

    /// Its Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        assert_ne!(self.port, 0, "this Redis has no TCP port");
        self.port
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Its log since it was last started.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// A connection of the test's own, over the Unix socket and without a password.
    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url())
            .and_then(|client| client.get_connection())
            .expect("a connection to the test's own Redis")
    }

    /// Sets its `maxmemory`, which `"1"` makes full and `"0"` unlimited.
    pub fn set_maxmemory(&self, limit: &str) {
        redis::cmd("CONFIG")
            .arg(&["SET", "maxmemory", limit])
            .exec(&mut self.connection())
            .expect("CONFIG SET");
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Removes everything that it has on the disk, while it does not run.
    pub fn forget(&self) {
        // There may be neither.
        drop(fs::remove_dir_all(self.dir().join(AOF)));
        drop(fs::remove_file(self.dir().join(SNAPSHOT)));
    }

    /// Copies its AOF, for it to [`go_back`](Self::go_back) to.
    pub fn remember(&self) {
        let kept = self.dir().join(KEPT);
        fs::create_dir_all(&kept).expect("a folder");
        for file in fs::read_dir(self.dir().join(AOF)).expect("it has an AOF") {
            let file = file.expect("a file");
            fs::copy(file.path(), kept.join(file.file_name())).expect("can be copied");
        }
    }

    /// Puts the copy in the place of its AOF, while it does not run.
    pub fn go_back(&self) {
        self.forget();
        fs::rename(self.dir().join(KEPT), self.dir().join(AOF)).expect("the copy is there");
    }

    /// Starts it again, killing it first if it runs: same socket, port and arguments, and what it has on the disk.
    pub fn restart(&mut self) {
        self.kill();
        self.server =
            on_same_port(|| run(self.dir.path(), &self.socket, self.port, &self.arguments));
    }

    /// Stops it from answering while its connections stay open.
    pub fn pause(&self) {
        self.server.signal(libc::SIGSTOP);
    }

    /// Lets it answer again.
    pub fn resume(&self) {
        self.server.signal(libc::SIGCONT);
    }
}

fn run(dir: &Path, socket: &Path, port: u16, arguments: &[String]) -> Result<Server, String> {
    let mut command = Command::new("redis-server");
    command
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .arg("--unixsocket")
        .arg(socket);
    if port != 0 {
        command.args(["--port", &port.to_string()]);
    }
    // The capital of 'Ready' differs between the two kinds of listener and between versions.
    Server::start(command, "redis-server", "eady to accept connections")
}
