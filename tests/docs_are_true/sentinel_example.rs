//! The files in examples/sentinel/ make a service that a program can use.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::RedisPersistence;
use testkit::{
    LIMIT, RedisServer, Server, eventually, on_free_port, publish_command, repository, sentinel,
};

const SERVICE: &str = "gateway";
const PASSWORD: &str = "PASSWORD";
const CLIENT: &str = "device-1";
const BROKER: &str = "127.0.0.1:1883";
/// Loopback alone, with both addresses that `localhost` may have.
const LOOPBACK: (&str, &str) = ("bind * -::*", "bind 127.0.0.1 -::1");

/// Copies a file of the example to a folder, with each of these texts, which it must have, replaced.
fn copy(name: &str, folder: &Path, replaced: &[(&str, &str)]) -> PathBuf {
    let example = repository().join("examples/sentinel").join(name);
    let mut text = fs::read_to_string(example).expect("the example has it");
    for (from, to) in replaced {
        assert!(text.contains(from), "{from} is not in {name}");
        text = text.replace(from, to);
    }
    let file = folder.join(name);
    fs::write(&file, text).expect("a copy");
    file
}

/// Starts a Redis with the file; with the port of a master it is a replica.
fn start_redis(master: Option<u16>) -> RedisServer {
    let folder = tempfile::tempdir().expect("a folder");
    let replicaof = master.map(|port| format!("\nreplicaof localhost {port}\n"));
    let mut replaced = vec![LOOPBACK, ("announce-ip board-a", "announce-ip localhost")];
    if let Some(replicaof) = &replicaof {
        replaced.push(("\n# replicaof board-a 6379\n", replicaof));
    }
    RedisServer::tcp_configured(&copy("redis.conf", folder.path(), &replaced))
}

/// Starts a sentinel with the file, and returns its port.
fn start_sentinel(folder: &Path, master: u16) -> (u16, Server) {
    let monitor = format!("monitor {SERVICE} localhost {master} 2");
    let dir = format!("dir {}", folder.display());
    on_free_port(|port| {
        let port = format!("port {port}");
        let replaced = [
            LOOPBACK,
            ("port 26379", &*port),
            ("dir /var/lib/redis", &dir),
            ("monitor gateway board-a 6379 2", &monitor),
        ];
        sentinel::run(&copy("sentinel.conf", folder, &replaced))
    })
}

fn connection(url: String) -> redis::Connection {
    let client = redis::Client::open(url).expect("a URL");
    client.get_connection().expect("it takes the password")
}

/// Waits until this sentinel watches the replica of the master and two other sentinels.
fn wait_until_complete(port: u16) {
    let mut connection = connection(format!("redis://:{PASSWORD}@127.0.0.1:{port}/"));
    let mut flags = |what: &str| -> Vec<String> {
        let mut servers: Vec<HashMap<String, String>> = redis::cmd("SENTINEL")
            .arg(&[what, SERVICE])
            .query(&mut connection)
            .expect("the sentinel answers");
        let flags = servers.iter_mut().map(|server| server.remove("flags"));
        flags.map(Option::unwrap_or_default).collect()
    };
    eventually(LIMIT, "the sentinel knows all servers", || {
        let is_complete =
            flags("SENTINELS") == ["sentinel", "sentinel"] && flags("REPLICAS") == ["slave"];
        is_complete.then_some(())
    });
}

#[test]
fn sentinel_example_replicates_records() {
    let master = start_redis(None);
    let replica = start_redis(Some(master.port()));
    let mut of_replica = connection(format!("{}?pass={PASSWORD}", replica.url()));
    eventually(LIMIT, "the replica follows", || {
        let info: redis::InfoDict = redis::cmd("INFO")
            .arg("replication")
            .query(&mut of_replica)
            .expect("INFO");
        (info.get::<String>("master_link_status")? == "up").then_some(())
    });
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let sentinels = folders
        .each_ref()
        .map(|folder| start_sentinel(folder.path(), master.port()));
    for (port, _) in &sentinels {
        wait_until_complete(*port);
    }

    let hosts: Vec<String> = sentinels
        .iter()
        .map(|(port, _)| format!("127.0.0.1:{port}"))
        .collect();
    let url = format!("redis-sentinel://:{PASSWORD}@{}/{SERVICE}", hosts.join(","));
    let options = RedisPersistence::builder().url(url).replicas(1);
    let mut persistence = options.operation_timeout(LIMIT).build().expect("valid");
    persistence.open(CLIENT, BROKER).expect("opens");
    let record = publish_command(7, 1, "topic", b"payload");
    persistence.put("c-1", vec![&record]).expect("taken");
    let stored: Option<Vec<u8>> = redis::cmd("HGET")
        .arg(&[&format!("{CLIENT}:{BROKER}"), "c-1"])
        .query(&mut of_replica)
        .expect("a replica can be read");
    assert_eq!(stored, Some(record));
    assert!(persistence.health().snapshot().up);
}
