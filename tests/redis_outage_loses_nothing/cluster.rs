//! Redis Cluster: the records of a client are in one slot, whose node is found from any other, and which may move or fail.

use std::time::Duration;

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{ErrorKind, RedisPersistence, RedisPersistenceBuilder};
use redis::TypedCommands;
use testkit::{LIMIT, cluster::Cluster, eventually};

use super::records::{self, CLIENT, SERVER, put};

const HASH: &str = "mqtt:{device:127.0.0.1:1883}";

fn options(url: &str) -> RedisPersistenceBuilder {
    RedisPersistence::builder().url(url).key_prefix("mqtt:")
}

/// Opens it once the cluster is ready.
fn opened(options: RedisPersistenceBuilder) -> RedisPersistence {
    records::opened(options.open_timeout(LIMIT), CLIENT)
}

#[track_caller]
fn settle(persistence: &RedisPersistence) {
    persistence.health().flush(LIMIT).expect("is recovered");
    assert_eq!(persistence.health().snapshot().lost_records, 0);
}

fn count(cluster: &Cluster, node: usize) -> usize {
    let mut connection = cluster.nodes[node].connection();
    connection.hlen(HASH).expect("it has the slot")
}

/// Index of the node that has the records, and another one.
fn owner_and_other(cluster: &Cluster) -> (usize, usize) {
    let owner = cluster.owner(cluster.slot(HASH));
    (owner, (owner + 1) % 3)
}

#[test]
fn records_and_companions_are_found_from_any_node() {
    let cluster = Cluster::start();
    let (owner, _) = owner_and_other(&cluster);
    // Unreadable, so it goes to the quarantine.
    let mut connection = cluster.nodes[owner].connection();
    connection.hset(HASH, "c-1", "?").expect("HSET");
    for node in 0..3 {
        let mut persistence = opened(options(&cluster.url(node)));
        put(&mut persistence, node);
        assert!(persistence.health().snapshot().up);
        assert_eq!(persistence.keys().expect("listed").len(), node + 1);
    }
    assert_eq!(count(&cluster, owner), 3);
    let quarantined = connection.hlen(format!("{HASH}:quarantine"));
    assert_eq!(quarantined.expect("in the same slot"), 1);
    for companion in ["quarantine", "discarded", "sends", "arrivals"] {
        let key = format!("{HASH}:{companion}");
        assert_eq!(cluster.slot(&key), cluster.slot(HASH), "{key}");
    }
}

#[test]
fn node_under_plain_url_names_remedy() {
    let cluster = Cluster::start();
    let key = "mqtt:device:127.0.0.1:1883";
    let owner = cluster.owner(cluster.slot(key));
    let port = cluster.nodes[(owner + 1) % 3].port();
    let options = options(&format!("redis://127.0.0.1:{port}"));
    let options = options.open_timeout(Duration::from_nanos(1));
    let mut persistence = options.build().expect("good options");
    let error = persistence.connect(CLIENT, SERVER).expect_err("elsewhere");
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("redis-cluster://"), "{error}");
}

#[test]
fn slot_that_moves_loses_nothing() {
    let cluster = Cluster::start();
    let (owner, other) = owner_and_other(&cluster);
    let slot = cluster.slot(HASH);
    let mut persistence = opened(options(&cluster.url_of_all()));
    put(&mut persistence, 1);
    cluster.begin_move(slot, owner, other);
    put(&mut persistence, 2);
    assert!(persistence.health().snapshot().up);
    cluster.move_keys(slot, owner, other);
    // Neither node takes it without being asked twice.
    put(&mut persistence, 3);
    let error = persistence.health().last_error().expect("an outage");
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("slot"), "{error}");
    put(&mut persistence, 4);
    cluster.end_move(slot, owner, other);
    settle(&persistence);
    assert_eq!(count(&cluster, other), 4);

    // And back, at once, while the client is idle.
    cluster.begin_move(slot, other, owner);
    cluster.move_keys(slot, other, owner);
    cluster.end_move(slot, other, owner);
    put(&mut persistence, 5);
    settle(&persistence);
    assert_eq!(count(&cluster, owner), 5);
}

#[test]
fn empty_backlog_of_moving_slot_is_kept_in_memory() {
    let cluster = Cluster::start();
    let (owner, other) = owner_and_other(&cluster);
    let slot = cluster.slot(HASH);
    let mut persistence = opened(options(&cluster.url_of_all()));
    cluster.begin_move(slot, owner, other);
    // A hash without fields does not exist, so Redis looks for it at the other node.
    put(&mut persistence, 1);
    assert!(!persistence.health().snapshot().up);
    cluster.end_move(slot, owner, other);
    settle(&persistence);
    assert_eq!(count(&cluster, other), 1);
}

#[test]
fn node_that_dies_is_replaced_by_its_replica() {
    let mut cluster = Cluster::with_replicas(3);
    let (owner, _) = owner_and_other(&cluster);
    let mut persistence = opened(options(&cluster.url_of_all()));
    put(&mut persistence, 1);
    cluster.nodes[owner].kill();
    put(&mut persistence, 2);
    assert!(!persistence.health().snapshot().up);
    eventually(LIMIT, "the replica is promoted", || {
        persistence.health().snapshot().up.then_some(())
    });
    settle(&persistence);
    assert_eq!(count(&cluster, owner + 3), 2);
    put(&mut persistence, 3);
    assert_eq!(count(&cluster, owner + 3), 3);
}
