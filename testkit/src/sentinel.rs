//! Private master with a replica and sentinels.

use std::{fs, path::Path, thread};

use tempfile::TempDir;

use super::{
    LIMIT, eventually,
    gate::Gate,
    process::{Server, on_free_port},
    redis::{RedisServer, command},
};

const SERVICE: &str = "boards";
/// Milliseconds after which a master counts as dead. On a busy machine a living one may be silent for 500.
const DOWN_AFTER: u32 = 1500;
/// User over which the replica reads from its master.
const LINK: &str = "link";

/// Two Redis servers with everything that a master and a replica need, the second a replica of the first.
pub struct Replicated {
    pub servers: [RedisServer; 2],
}

impl Replicated {
    /// Starts both, with further arguments, and waits until the replica follows.
    pub fn with(arguments: &[&str]) -> Self {
        let own = [
            "--user",
            LINK,
            "on",
            "nopass",
            "+psync",
            "+replconf",
            "+ping",
            "--masteruser",
            LINK,
            "--masterauth",
            "any",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let arguments = [&own, arguments].concat();
        let master = RedisServer::tcp_with(&arguments);
        let port = master.port().to_string();
        let of_replica = [&arguments[..], &["--replicaof", "127.0.0.1", &port]].concat();
        let both = Self {
            servers: [master, RedisServer::tcp_with(&of_replica)],
        };
        both.wait_for_link(1);
        both
    }

    /// Puts a gate before the first server, over which its replica and everybody else reach it from now on.
    pub fn behind_gate(&self) -> Gate {
        let gate = Gate::start(self.servers[0].port());
        let port = gate.port().to_string();
        for (server, words) in [
            (
                0,
                ["CONFIG", "SET", "replica-announce-port", &port].as_slice(),
            ),
            (1, &["REPLICAOF", "127.0.0.1", &port]),
        ] {
            let mut connection = self.servers[server].connection();
            let done = redis::cmd(words[0]).arg(&words[1..]).exec(&mut connection);
            done.expect("it takes the address");
        }
        eventually(LIMIT, "the replica follows over the gate", || {
            let port_of_master = replication(&self.servers[1], "master_port")?;
            let is_up = replication(&self.servers[1], "master_link_status")? == "up";
            (is_up && port_of_master == port).then_some(())
        });
        gate
    }

    /// Waits until this server follows the other one.
    #[track_caller]
    pub fn wait_for_link(&self, replica: usize) {
        eventually(LIMIT, "the replica follows", || {
            self.is_linked(replica).then_some(())
        });
    }

    /// Returns true if this server is a replica and follows its master.
    pub fn is_linked(&self, server: usize) -> bool {
        is_linked(&self.servers[server])
    }

    /// Keeps everything that comes after this call from the replica of this master.
    pub fn cut_link(&self, master: usize) {
        let mut connection = self.servers[master].connection();
        for words in [
            &["ACL", "SETUSER", LINK, "off"][..],
            &["CLIENT", "KILL", "TYPE", "replica"],
        ] {
            let done = redis::cmd(words[0]).arg(&words[1..]).exec(&mut connection);
            done.expect("the link is cut");
        }
    }

    /// Returns true if this server is a replica by its own account.
    pub fn is_replica(&self, server: usize) -> bool {
        replication(&self.servers[server], "role").as_deref() == Some("slave")
    }
}

/// Returns true if this server is a replica that has the data of its master, and follows it.
pub fn is_linked(server: &RedisServer) -> bool {
    replication(server, "master_link_status").as_deref() == Some("up")
}

/// Field of the section `replication` of `INFO`; `None` if a sentinel cuts the server's clients off meanwhile, since it gets another role.
fn replication(server: &RedisServer, field: &str) -> Option<String> {
    let client = redis::Client::open(server.url()).expect("a URL");
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("replication")
        .query(&mut client.get_connection().ok()?)
        .ok()?;
    info.get(field)
}

/// Runs a sentinel with this configuration until it watches a master.
///
/// Returns its log if it ends before that.
pub fn run(file: &Path) -> Result<Server, String> {
    let mut command = command();
    let program = command.get_program().to_string_lossy().into_owned();
    command.arg(file).arg("--sentinel");
    Server::start(command, &program, "+monitor")
}

/// Sentinel that promotes the replica about two seconds after its master has died.
pub struct Sentinel {
    server: Server,
    port: u16,
    // Dropped after the server, so that nothing writes to the folder when it is removed.
    _dir: TempDir,
}

/// Prints the log with that of a test that fails.
impl Drop for Sentinel {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("log of the sentinel at {}:\n{}", self.port, self.log());
        }
    }
}

impl Sentinel {
    /// Starts one that watches these servers, and waits until it knows both.
    pub fn watching(both: &Replicated) -> Self {
        let sentinel = Self::start(both.servers[0].port(), 1);
        sentinel.wait_for_replica();
        sentinel
    }

    /// Starts three, of which two have to agree, and waits until each knows the others and the replica of this master.
    pub fn three(master: u16) -> [Self; 3] {
        let all = [(); 3].map(|()| Self::start(master, 2));
        for sentinel in &all {
            let mut connection = sentinel.connection();
            eventually(LIMIT, "the sentinel knows the others", || {
                let others: Vec<redis::Value> = redis::cmd("SENTINEL")
                    .arg(&["SENTINELS", SERVICE])
                    .query(&mut connection)
                    .expect("SENTINEL SENTINELS");
                (others.len() == 2).then_some(())
            });
            sentinel.wait_for_replica();
        }
        all
    }

    /// URL of the service with all of these sentinels.
    pub fn url_of_all(all: &[Self]) -> String {
        let hosts: Vec<String> = all
            .iter()
            .map(|one| format!("127.0.0.1:{}", one.port))
            .collect();
        format!("redis-sentinel://{}/{SERVICE}", hosts.join(","))
    }

    fn start(master: u16, quorum: u16) -> Self {
        let dir = TempDir::new().expect("a folder for the sentinel");
        let (port, server) = on_free_port(|port| {
            let file = dir.path().join("sentinel.conf");
            let text = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor {SERVICE} 127.0.0.1 {master} {quorum}\n\
                 sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}\n\
                 sentinel failover-timeout {SERVICE} 1000\n",
                dir.path().display(),
            );
            fs::write(&file, text).expect("its configuration");
            run(&file)
        });
        let sentinel = Self {
            server,
            port,
            _dir: dir,
        };
        // Looks often, and a machine that is busy for two seconds does not make it pause for thirty. The period of its pings stays: a
        // replica that has not answered for five of them is not promoted.
        let pace =
            "INFO-PERIOD 100 ASK-PERIOD 100 PUBLISH-PERIOD 100 TILT-TRIGGER 20000 TILT-PERIOD 100";
        let pace: Vec<&str> = pace.split(' ').collect();
        let paced = redis::cmd("SENTINEL")
            .arg("DEBUG")
            .arg(pace)
            .exec(&mut sentinel.connection());
        // Redis 6.2 keeps its own, with which a failover takes a few seconds longer.
        if let Err(error) = paced {
            assert!(error.to_string().contains("Unknown subcommand"), "{error}");
        }
        sentinel
    }

    fn connection(&self) -> redis::Connection {
        redis::Client::open(format!("redis://127.0.0.1:{}/", self.port))
            .and_then(|client| client.get_connection())
            .expect("a connection to the test's own sentinel")
    }

    /// Waits until the replica of the present master could be promoted.
    #[track_caller]
    pub fn wait_for_replica(&self) {
        let mut connection = self.connection();
        eventually(LIMIT, "the sentinel knows the replica", || {
            let replicas: Vec<std::collections::HashMap<String, String>> = redis::cmd("SENTINEL")
                .arg(&["REPLICAS", SERVICE])
                .query(&mut connection)
                .expect("SENTINEL REPLICAS");
            let is_ready = |replica: &std::collections::HashMap<String, String>| {
                let is = |field, value: &str| replica.get(field).is_some_and(|is| is == value);
                is("flags", "slave") && is("master-link-status", "ok")
            };
            replicas.iter().any(is_ready).then_some(())
        });
    }

    /// Port of the server that it names as the master.
    pub fn master(&self) -> u16 {
        let (_, port): (String, u16) = redis::cmd("SENTINEL")
            .arg(&["GET-MASTER-ADDR-BY-NAME", SERVICE])
            .query(&mut self.connection())
            .expect("it names a master");
        port
    }

    /// Promotes the replica although the master lives.
    pub fn fail_over(&self) {
        redis::cmd("SENTINEL")
            .arg(&["FAILOVER", SERVICE])
            .exec(&mut self.connection())
            .expect("a replica can be promoted");
    }

    /// URL of the service.
    pub fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}/{SERVICE}", self.port)
    }

    /// Log since the start.
    pub fn log(&self) -> String {
        self.server.log()
    }
}
