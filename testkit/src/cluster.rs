//! Private Redis Cluster.

use redis::{Connection, FromRedisValue};

use super::{LIMIT, eventually, redis::RedisServer};

const SLOTS: u16 = 16_384;

/// Three masters, and a replica of each if wanted.
pub struct Cluster {
    pub nodes: Vec<RedisServer>,
}

fn ask<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    let answer = redis::cmd(words[0]).arg(&words[1..]).query(connection);
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

impl Cluster {
    /// Starts three masters with a third of the slots each, and waits until all agree on it.
    pub fn start() -> Self {
        Self::with_replicas(0)
    }

    /// Does the same with this many replicas, of the first masters.
    pub fn with_replicas(replicas: usize) -> Self {
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "1000",
            // A master without a replica takes nothing along.
            "--cluster-require-full-coverage",
            "no",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let nodes = (0..3 + replicas).map(|_| RedisServer::tcp_with(&arguments));
        let cluster = Self {
            nodes: nodes.collect(),
        };
        for (index, node) in cluster.nodes.iter().enumerate() {
            let mut connection = node.connection();
            let epoch = (index + 1).to_string();
            ask::<()>(&mut connection, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            if index < 3 {
                let third = |index: usize| usize::from(SLOTS) * index / 3;
                let slots = third(index)..third(index + 1);
                let mut add = redis::cmd("CLUSTER");
                // Redis 6.2 takes no range.
                add.arg("ADDSLOTS").arg(slots.collect::<Vec<_>>());
                add.exec(&mut connection).expect("CLUSTER ADDSLOTS");
            }
            let port = cluster.nodes[0].port().to_string();
            ask::<()>(&mut connection, &["CLUSTER", "MEET", "127.0.0.1", &port]);
        }
        cluster.wait_until_agreed();
        for replica in 0..replicas {
            let master = cluster.id(replica);
            let mut connection = cluster.nodes[3 + replica].connection();
            ask::<()>(&mut connection, &["CLUSTER", "REPLICATE", &master]);
            eventually(LIMIT, "the replica follows", || {
                let info: redis::InfoDict = ask(&mut connection, &["INFO", "replication"]);
                let link: Option<String> = info.get("master_link_status");
                (link.as_deref() == Some("up")).then_some(())
            });
        }
        cluster
    }

    /// Waits until every node knows all others and a master of each slot.
    fn wait_until_agreed(&self) {
        let known = format!("cluster_known_nodes:{}\r", self.nodes.len());
        for node in &self.nodes {
            let mut connection = node.connection();
            eventually(LIMIT, "the nodes agree", || {
                let info: String = ask(&mut connection, &["CLUSTER", "INFO"]);
                let agree = info.contains("cluster_state:ok")
                    && info.contains(&known)
                    && info.contains("cluster_slots_ok:16384");
                agree.then_some(())
            });
        }
    }

    fn id(&self, node: usize) -> String {
        ask(&mut self.nodes[node].connection(), &["CLUSTER", "MYID"])
    }

    /// URL with one node.
    pub fn url(&self, node: usize) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.nodes[node].port())
    }

    /// URL with all nodes.
    pub fn url_of_all(&self) -> String {
        let places = self
            .nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port()));
        format!("redis-cluster://{}", places.collect::<Vec<_>>().join(","))
    }

    /// Slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        ask(
            &mut self.nodes[0].connection(),
            &["CLUSTER", "KEYSLOT", key],
        )
    }

    /// Index of the node that has the slot by its own account.
    pub fn owner(&self, slot: u16) -> usize {
        let owner = self.nodes.iter().position(|node| {
            let nodes: String = ask(&mut node.connection(), &["CLUSTER", "NODES"]);
            let own = nodes.lines().find(|line| line.contains("myself"));
            let ranges = own.into_iter().flat_map(|line| line.split(' ').skip(8));
            ranges.filter(|range| !range.starts_with('[')).any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let bounds = [first, last].map(|end| end.parse::<u16>().expect("a slot"));
                (bounds[0]..=bounds[1]).contains(&slot)
            })
        });
        owner.expect("a node has it")
    }

    /// Begins to move a slot: keys that are missing here are looked for there.
    pub fn begin_move(&self, slot: u16, from: usize, to: usize) {
        let number = slot.to_string();
        for (node, state, other) in [(to, "IMPORTING", from), (from, "MIGRATING", to)] {
            let mut connection = self.nodes[node].connection();
            let id = self.id(other);
            ask::<()>(
                &mut connection,
                &["CLUSTER", "SETSLOT", &number, state, &id],
            );
        }
    }

    /// Moves the keys of the slot.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) {
        let mut connection = self.nodes[from].connection();
        let port = self.nodes[to].port().to_string();
        loop {
            let number = slot.to_string();
            let keys: Vec<String> = ask(
                &mut connection,
                &["CLUSTER", "GETKEYSINSLOT", &number, "100"],
            );
            if keys.is_empty() {
                return;
            }
            let words = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            let keys = keys.iter().map(String::as_str);
            let words: Vec<&str> = words.into_iter().chain(keys).collect();
            ask::<()>(&mut connection, &words);
        }
    }

    /// Gives the slot to a node for good.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let (number, id) = (slot.to_string(), self.id(to));
        for node in [to, from] {
            let mut connection = self.nodes[node].connection();
            ask::<()>(
                &mut connection,
                &["CLUSTER", "SETSLOT", &number, "NODE", &id],
            );
        }
    }
}
