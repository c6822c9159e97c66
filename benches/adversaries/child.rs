//! Server in a process of its own.

// The standard library has no safe interface for limits of a process.
#![allow(unsafe_code)]

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{self, Command, Stdio},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    MemoryPersistence, MetricsServer, PersistenceMetrics,
    prometheus::{Encoder, Registry, TextEncoder},
};

/// Argument that makes a process of the bench a server.
pub const FLAG: &str = "--serve";

/// Commands to use up all file descriptors, and to free them again.
pub const EXHAUST: &str = "exhaust";
pub const RELEASE: &str = "release";

/// Default limit of file descriptors of a service.
const FILES: libc::rlim_t = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ours,
    TinyHttp,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::TinyHttp => "tiny_http",
        }
    }
}

pub struct Child {
    process: process::Child,
    address: SocketAddr,
}

impl Child {
    pub fn start(kind: Kind) -> Self {
        let mut process = Command::new(env::current_exe().expect("this program"))
            .args([FLAG, kind.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("its address");
        let address = line.trim().parse().expect("its address");
        Self { process, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn send(&mut self, command: &str) {
        if !command.is_empty() {
            let input = self.process.stdin.as_mut().expect("its input");
            writeln!(input, "{command}").expect("it listens");
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves until the bench ends, and executes its commands.
pub fn run(kind: &str) -> ! {
    limit_files(FILES);
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("a new registry");
    let mut persistence = MemoryPersistence::new().instrument(&metrics);
    persistence.open("device-1", "broker").expect("it opens");
    let mut ours = None;
    let address = if kind == Kind::Ours.name() {
        let server = MetricsServer::bind("127.0.0.1:0", registry).expect("a port");
        ours.insert(server).local_addr().expect("TCP")
    } else {
        serve_with_tiny_http(registry)
    };
    println!("{address}");
    let mut files = Vec::new();
    for line in io::stdin().lines() {
        match line.as_deref() {
            Ok(EXHAUST) => {
                while let Ok(file) = File::open("/dev/null") {
                    files.push(file);
                }
            }
            Ok(RELEASE) => files.clear(),
            _ => break,
        }
    }
    process::exit(0);
}

/// Serves metrics with the accept loop that the documentation of `tiny_http` shows.
fn serve_with_tiny_http(registry: Registry) -> SocketAddr {
    let server = tiny_http::Server::http("127.0.0.1:0").expect("a port");
    let address = server.server_addr().to_ip().expect("an address");
    std::thread::spawn(move || {
        for request in server.incoming_requests() {
            let response = if request.url() == "/metrics" {
                let mut body = Vec::new();
                TextEncoder::new()
                    .encode(&registry.gather(), &mut body)
                    .expect("metrics");
                tiny_http::Response::from_data(body)
            } else {
                tiny_http::Response::from_data(Vec::new()).with_status_code(404)
            };
            // Fails if the peer is gone.
            let _ = request.respond(response);
        }
    });
    address
}

/// Raises the limit of file descriptors as far as possible, for adversaries with thousands of connections.
pub fn allow_many_files() {
    limit_files(libc::RLIM_INFINITY);
}

fn limit_files(limit: libc::rlim_t) {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes only to its argument.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut now) };
    now.rlim_cur = limit.min(now.rlim_max);
    // SAFETY: setrlimit only reads its argument.
    let status = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const now) };
    assert_eq!(status, 0, "{}", io::Error::last_os_error());
}
