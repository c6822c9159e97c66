//! Private master with a replica and a sentinel.

use std::fs;

use tempfile::TempDir;

use super::{
    LIMIT, eventually,
    process::{Server, on_free_port},
    redis::{RedisServer, command},
};

const SERVICE: &str = "boards";
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

    /// Waits until this server follows the other one.
    #[track_caller]
    pub fn wait_for_link(&self, replica: usize) {
        eventually(LIMIT, "the replica follows", || {
            let link = replication(&self.servers[replica], "master_link_status");
            (link.as_deref() == Some("up")).then_some(())
        });
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

/// Field of the section `replication` of `INFO`; `None` if a sentinel cuts the server's clients off meanwhile, since it gets another role.
fn replication(server: &RedisServer, field: &str) -> Option<String> {
    let client = redis::Client::open(server.url()).expect("a URL");
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("replication")
        .query(&mut client.get_connection().ok()?)
        .ok()?;
    info.get(field)
}

/// Sentinel that promotes the replica about a second after its master has died.
pub struct Sentinel {
    server: Server,
    port: u16,
    // Dropped after the server, so that nothing writes to the folder when it is removed.
    _dir: TempDir,
}

impl Sentinel {
    /// Starts one that watches these servers, and waits until it knows both.
    pub fn watching(both: &Replicated) -> Self {
        let dir = TempDir::new().expect("a folder for the sentinel");
        let master = both.servers[0].port();
        let (port, server) = on_free_port(|port| {
            let file = dir.path().join("sentinel.conf");
            let text = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor {SERVICE} 127.0.0.1 {master} 1\n\
                 sentinel down-after-milliseconds {SERVICE} 500\n\
                 sentinel failover-timeout {SERVICE} 1000\n",
                dir.path().display(),
            );
            fs::write(&file, text).expect("its configuration");
            let mut command = command();
            let program = command.get_program().to_string_lossy().into_owned();
            command.arg(file).arg("--sentinel");
            Server::start(command, &program, "+monitor")
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
        paced.expect("it takes another pace");
        sentinel.wait_for_replica();
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
