//! Where a fault happens: a Redis and what is done to it.

use std::{
    mem,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Fault, Way, breaking::Breaking};
use crate::support::RedisServer;

/// As whom the program goes to Redis.
const USER: &[&str] = &["--user", "device", "on", ">secret", "~*", "+@all"];

pub struct Site {
    redis: Running,
    socket: PathBuf,
    url: String,
    pub breaking: Option<Breaking>,
    pub script: Option<JoinHandle<()>>,
    pub others: Vec<redis::Connection>,
    /// How many file descriptors a process could have before.
    pub descriptors: Option<libc::rlimit>,
}

/// A server that may still be starting, which takes long where it has much to load.
enum Running {
    Yes(RedisServer),
    Starting(Receiver<RedisServer>),
    /// Only while one of the others takes its place.
    Changing,
}

impl Site {
    /// Redis runs, unless it is to come late.
    pub fn start(fault: &Fault) -> Self {
        let arguments = [USER, fault.arguments].concat();
        let mut server = match fault.way {
            Way::Socket => RedisServer::with(&arguments),
            Way::Breaking => RedisServer::tcp_with(&arguments),
        };
        let breaking = (fault.way == Way::Breaking).then(|| Breaking::start(server.port()));
        let url = match &breaking {
            Some(breaking) => breaking.url(),
            None => format!("{}?user=device&pass=secret", server.url()),
        };
        let socket = server.socket().to_owned();
        let redis = match fault.late {
            None => Running::Yes(server),
            Some(late) => {
                server.kill();
                Running::starting(server, late)
            }
        };
        Self {
            redis,
            socket,
            url,
            breaking,
            script: None,
            others: Vec::new(),
            descriptors: None,
        }
    }

    /// The URL for the program.
    pub fn url(&self) -> &str {
        &self.url
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
        self.redis();
        if let Running::Yes(server) = mem::replace(&mut self.redis, Running::Changing) {
            self.redis = Running::starting(server, Duration::ZERO);
        }
    }

    pub fn ask(&mut self, words: &[&str]) {
        self.try_ask(words).expect("Redis does as it is told");
    }

    pub fn try_ask(&mut self, words: &[&str]) -> redis::RedisResult<()> {
        ask(&mut self.redis().connection(), words)
    }

    /// Cuts the connections of everybody else.
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
            // Nobody waits for it any more where the run has ended.
            drop(started.send(server));
            // It ends with the thread that started it.
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
