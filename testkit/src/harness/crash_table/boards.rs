//! Two boards with a Redis each: the replica of the one takes over when the other is lost.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::{fake_sentinel::FakeSentinel, lagging_link::LaggingLink};
use crate::{LIMIT, RedisServer, eventually, harness::program::Master, sentinel::is_linked};

/// A master and its replica, of which one may be lost at a time. They keep nothing on a disk.
///
/// The replica is as late as a replica may be: it has nothing but what a `WAIT` has asked for.
pub struct Boards {
    servers: [RedisServer; 2],
    /// For the replica of each server.
    links: [LaggingLink; 2],
    sentinel: FakeSentinel,
    /// Index of the server that is the master.
    master: usize,
}

impl Boards {
    /// Starts both, and waits until the replica has what the master has.
    pub fn start() -> Self {
        let diskless = [
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let servers = [(); 2].map(|()| RedisServer::tcp_with(&diskless));
        let boards = Self {
            links: [0, 1].map(|server: usize| LaggingLink::start(servers[server].port())),
            sentinel: FakeSentinel::start(servers[0].port()),
            servers,
            master: 0,
        };
        boards.follow();
        boards
    }

    /// URL of the sentinel's service.
    pub fn url(&self) -> String {
        self.sentinel.url()
    }

    /// The server to which the program writes.
    pub fn master(&self) -> Master {
        let server = &self.servers[self.master];
        Master {
            pid: server.pid(),
            url: server.tcp_url(),
        }
    }

    /// Makes `path` lead to the Unix socket of the master.
    pub fn link_socket(&self, path: &Path) {
        let new = path.with_extension("new");
        symlink(self.servers[self.master].socket(), &new).expect("a link");
        fs::rename(new, path).expect("it replaces the old one");
    }

    /// Removes everything from both.
    pub fn clear(&self) {
        let mut connection = self.servers[self.master].connection();
        let cleared = redis::cmd("FLUSHALL").exec(&mut connection);
        cleared.expect("Redis answers");
        wait_for_replica(&mut connection);
    }

    /// Kills the master, unless it is dead, promotes its replica, and has an empty Redis follow that one.
    ///
    /// `path` is the link to the socket of the master.
    pub fn fail_over(&mut self, path: &Path) {
        let lost = self.master;
        self.servers[lost].kill();
        self.master = 1 - lost;
        self.command(self.master, &["REPLICAOF", "NO", "ONE"]);
        self.sentinel.name(self.servers[self.master].port());
        self.link_socket(path);
        self.servers[lost].restart();
        self.follow();
    }

    /// Makes the other server a replica of the master, and waits until it has everything.
    fn follow(&self) {
        let link = &self.links[self.master];
        link.set_lagging(false);
        let port = link.port().to_string();
        self.command(1 - self.master, &["REPLICAOF", "127.0.0.1", &port]);
        // With Valkey 9.1, the `WAIT` that follows can return before that.
        eventually(LIMIT, "the replica has loaded the data", || {
            is_linked(&self.servers[1 - self.master]).then_some(())
        });
        wait_for_replica(&mut self.servers[self.master].connection());
        link.set_lagging(true);
    }

    fn command(&self, server: usize, words: &[&str]) {
        let mut connection = self.servers[server].connection();
        let done = redis::cmd(words[0]).arg(&words[1..]).exec(&mut connection);
        done.expect("Redis answers");
    }
}

/// Waits until a replica has all that this master has executed.
fn wait_for_replica(master: &mut redis::Connection) {
    // `WAIT` means what was written until the last command of its connection.
    redis::cmd("PING").exec(master).expect("Redis answers");
    let count: usize = redis::cmd("WAIT")
        .arg(1)
        .arg(LIMIT.as_millis().to_string())
        .query(master)
        .expect("Redis answers");
    assert_eq!(count, 1, "the replica follows");
}
