//! Redis of a fault, and the means to harm it.

use std::{
    mem,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{FAULTS, Fault, Way};
use crate::{RedisServer, breaking::Breaking};

/// User as which the program connects to Redis.
const USER: &[&str] = &["--user", "device", "on", ">secret", "~*", "+@all"];

pub struct Site {
    redis: Running,
    socket: PathBuf,
    pub breaking: Option<Breaking>,
    pub script: Option<JoinHandle<()>>,
    pub others: Vec<redis::Connection>,
    /// Limit of file descriptors before the fault.
    pub descriptors: Option<libc::rlimit>,
}

/// Server that may still be starting, which takes long if it has much to load.
enum Running {
    Yes(RedisServer),
    Starting(Receiver<RedisServer>),
    /// `None` only during a restart.
    Changing,
}

impl Site {
    /// Creates a site on which Redis runs, unless it is late.
    pub fn start(fault: &Fault) -> Self {
        let mut site = Self::with(fault.arguments, fault.way == Way::Breaking);
        if let Some(late) = fault.late {
            site.redis().kill();
            site.restart_after(late);
        }
        site
    }

    /// Creates a site in which every fault of Redis can happen, one after the other.
    pub fn of_all_faults() -> Self {
        let arguments: Vec<&str> = FAULTS
            .iter()
            .flat_map(|fault| fault.arguments)
            .copied()
            .collect();
        Self::with(&arguments, true)
    }

    fn with(arguments: &[&str], can_break: bool) -> Self {
        let server = RedisServer::tcp_with(&[USER, arguments].concat());
        let breaking = can_break.then(|| Breaking::start(server.port()));
        Self {
            socket: server.socket().to_owned(),
            redis: Running::Yes(server),
            breaking,
            script: None,
            others: Vec::new(),
            descriptors: None,
        }
    }

    /// URL for the program, through the forwarder that can break if there is one.
    pub fn url(&self) -> String {
        match &self.breaking {
            Some(breaking) => format!("redis://device:secret@127.0.0.1:{}/", breaking.port()),
            None => self.socket_url(),
        }
    }

    pub fn socket_url(&self) -> String {
        format!("unix://{}?user=device&pass=secret", self.socket.display())
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn redis(&mut self) -> &mut RedisServer {
        self.redis = match mem::replace(&mut self.redis, Running::Changing) {
            Running::Starting(server) => Running::Yes(server.recv().expect("it starts")),
            running => running,
        };
        match &mut self.redis {
            Running::Yes(server) => server,
            _ => unreachable!("it has started"),
        }
    }

    /// Starts a server that is not running, without waiting for it.
    pub fn restart_unwaited(&mut self) {
        self.restart_after(Duration::ZERO);
    }

    fn restart_after(&mut self, pause: Duration) {
        self.redis();
        if let Running::Yes(server) = mem::replace(&mut self.redis, Running::Changing) {
            self.redis = Running::starting(server, pause);
        }
    }

    pub fn ask(&mut self, words: &[&str]) {
        self.try_ask(words).expect("Redis obeys");
    }

    pub fn try_ask(&mut self, words: &[&str]) -> redis::RedisResult<()> {
        ask(&mut self.redis().connection(), words)
    }

    /// Cuts all other connections.
    pub fn cut(&mut self) {
        self.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    }
}

impl Running {
    fn starting(mut server: RedisServer, late: Duration) -> Self {
        let (started, starting) = mpsc::channel();
        thread::spawn(move || {
            thread::sleep(late);
            server.restart();
            // Fails if the run has ended.
            drop(started.send(server));
            // The server dies with the thread that started it.
            loop {
                thread::park();
            }
        });
        Self::Starting(starting)
    }
}

pub fn ask(connection: &mut redis::Connection, words: &[&str]) -> redis::RedisResult<()> {
    redis::cmd(words[0]).arg(&words[1..]).exec(connection)
}
