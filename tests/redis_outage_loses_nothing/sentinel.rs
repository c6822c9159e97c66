//! A master that sentinels replace: what this process has in memory reaches the new one, and what nobody has is counted.

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{Error, ErrorKind, RedisPersistence, RedisPersistenceBuilder};
use redis::TypedCommands;
use testkit::{
    LIMIT, RedisServer, eventually, record,
    sentinel::{Replicated, Sentinel},
};

use super::{
    connection::{FakeRedis, Reply},
    records::{CLIENT, HASH, SERVER, opened, put},
};

/// A client whose values are only in Redis.
const CACHELESS: &str = "cacheless";

fn options(url: &str) -> RedisPersistenceBuilder {
    RedisPersistence::builder().url(url)
}

#[track_caller]
fn settle(persistence: &RedisPersistence) {
    persistence.health().flush(LIMIT).expect("is recovered");
}

/// Asserts that the server has these records and no others.
#[track_caller]
fn assert_has(server: &RedisServer, count: usize) {
    let mut connection = server.connection();
    let mut found = connection.hkeys(HASH).expect("HKEYS");
    let mut expected: Vec<String> = (1..=count).map(|number| format!("q-{number}")).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// Puts records until the sentinel names this server and the persistence has settled there; returns the number of all.
#[track_caller]
fn publish_until_master(
    persistence: &mut RedisPersistence,
    (sentinel, server): (&Sentinel, &RedisServer),
    mut count: usize,
) -> usize {
    eventually(LIMIT, "the failover", || {
        count += 1;
        put(persistence, count);
        (sentinel.master() == server.port()).then_some(())
    });
    settle(persistence);
    count
}

/// One after the other on the same servers: a master is killed, comes back with writes that nobody else has, and is promoted by hand;
/// then it is stopped while a client starts.
#[test]
fn failover_loses_nothing_that_is_in_memory() {
    let both = Replicated::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let sentinel = Sentinel::watching(&both);
    let mut both = both;
    let url = sentinel.url();
    let mut persistence = opened(options(&url), CLIENT);
    let mut cacheless = opened(options(&url).cache_limit(0), CACHELESS);
    put(&mut persistence, 1);
    put(&mut cacheless, 1);
    let mut replica = both.servers[1].connection();
    eventually(LIMIT, "the replica has both", || {
        let keys = [HASH, "cacheless:127.0.0.1:1883"];
        keys.iter()
            .all(|key| replica.hlen(*key).expect("HLEN") == 1)
            .then_some(())
    });

    // The replica is behind.
    both.cut_link(0);
    put(&mut persistence, 2);
    for number in 2..=4 {
        put(&mut cacheless, number);
    }
    let foreign = record("q-900", b"foreign");
    let mut connection = both.servers[0].connection();
    connection.hset(HASH, "q-900", &foreign).expect("HSET");
    assert_eq!(connection.hlen(HASH).expect("HLEN"), 3);
    both.servers[0].kill();
    let count = publish_until_master(&mut persistence, (&sentinel, &both.servers[1]), 2);
    assert_has(&both.servers[1], count);
    assert_eq!(persistence.health().snapshot().lost_records, 0);
    settle(&cacheless);
    // The latest value is in memory even so.
    assert_eq!(cacheless.health().snapshot().lost_records, 2);
    let mut left = cacheless.keys().expect("the keys");
    left.sort();
    assert_eq!(left, ["q-1", "q-4"]);

    // Its own writes are gone once it follows the new master.
    both.servers[0].restart();
    eventually(LIMIT, "the old master follows", || {
        both.is_replica(0).then_some(())
    });
    both.wait_for_link(0);
    sentinel.wait_for_replica();
    assert_has(&both.servers[0], count);
    assert!(persistence.health().snapshot().up);

    // By hand, while nothing is published.
    sentinel.fail_over();
    eventually(LIMIT, "the outage", || {
        let is_new = sentinel.master() == both.servers[0].port() && both.is_replica(1);
        is_new.then_some(())
    });
    eventually(LIMIT, "the new master has the client", || {
        has_client(&both.servers[0]).then_some(())
    });
    settle(&persistence);
    assert_has(&both.servers[0], count);
    put(&mut persistence, count + 1);
    assert_has(&both.servers[0], count + 1);
    let mut replica = both.servers[1].connection();
    eventually(LIMIT, "the replica has all", || {
        (replica.hlen(HASH).expect("HLEN") == count + 1).then_some(())
    });
    sentinel.wait_for_replica();
    drop(persistence);

    // While a client starts.
    both.servers[0].pause();
    let mut started = options(&url).open_timeout(LIMIT).build().expect("good");
    started.open(CLIENT, SERVER).expect("opens on the new one");
    assert_eq!(sentinel.master(), both.servers[1].port());
    put(&mut started, count + 2);
    assert_has(&both.servers[1], count + 2);
    both.servers[0].resume();
}

/// Three sentinels; the network cuts the master off from them, from its replica and from the program. It lives on with a write that
/// nobody else has, and comes back after the failover.
#[test]
fn master_that_is_cut_off_loses_its_own_writes_only() {
    let both = Replicated::with(&["--appendonly", "yes"]);
    let gate = both.behind_gate();
    let sentinels = Sentinel::three(gate.port());
    let url = Sentinel::url_of_all(&sentinels);
    let mut persistence = opened(options(&url), CLIENT);
    put(&mut persistence, 1);
    let mut replica = both.servers[1].connection();
    eventually(LIMIT, "the replica has it", || {
        (replica.hlen(HASH).expect("HLEN") == 1).then_some(())
    });

    gate.close();
    let foreign = record("q-900", b"foreign");
    let mut master = both.servers[0].connection();
    master.hset(HASH, "q-900", &foreign).expect("HSET");
    let (mut count, mut longest) = (1, Duration::ZERO);
    eventually(LIMIT, "the failover", || {
        count += 1;
        let started = Instant::now();
        put(&mut persistence, count);
        longest = longest.max(started.elapsed());
        let is_new = |sentinel: &Sentinel| sentinel.master() == both.servers[1].port();
        sentinels.iter().all(is_new).then_some(())
    });
    settle(&persistence);
    assert_has(&both.servers[1], count);
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!(!both.is_replica(0));
    assert!(master.hexists(HASH, "q-900").expect("HEXISTS"));

    gate.open();
    eventually(LIMIT, "the old master follows", || {
        both.is_replica(0).then_some(())
    });
    both.wait_for_link(0);
    put(&mut persistence, count + 1);
    eventually(LIMIT, "the old master has what the new one has", || {
        // It cuts its clients off when it becomes a replica.
        let client = redis::Client::open(both.servers[0].url()).expect("a URL");
        let found: usize = client.get_connection().ok()?.hlen(HASH).ok()?;
        (found == count + 1).then_some(())
    });
    assert_has(&both.servers[0], count + 1);
    let snapshot = persistence.health().snapshot();
    assert!(snapshot.up && snapshot.lost_records == 0, "{snapshot:?}");
}

fn has_client(server: &RedisServer) -> bool {
    let list: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query(&mut server.connection())
        .expect("CLIENT LIST");
    list.contains(HASH)
}

/// Encodes an array of strings.
fn array(strings: &[&str]) -> &'static [u8] {
    let encode = |string: &&str| format!("${}\r\n{string}\r\n", string.len());
    let encoded: String = strings.iter().map(encode).collect();
    let array = format!("*{}\r\n{encoded}", strings.len());
    array.leak().as_bytes()
}

/// Server that names the master as a sentinel does, and refuses every password.
fn fake_sentinel(port: u16) -> FakeRedis {
    fake_sentinel_at(port, "0")
}

/// Server that names the master of this epoch.
fn fake_sentinel_at(port: u16, epoch: &str) -> FakeRedis {
    let mut answers = [
        array(&["name", "boards", "config-epoch", epoch, "quorum", "2"]),
        array(&["127.0.0.1", &port.to_string()]),
    ]
    .into_iter();
    FakeRedis::start(move |command| match command {
        "SENTINEL" => Reply::Bytes(answers.next().expect("two questions")),
        _ => Reply::Bytes(b"-ERR AUTH <password> called without any password configured\r\n"),
    })
}

/// Address of a fake server without the scheme.
fn host(url: &str) -> &str {
    let host = url.split_once("://").map(|(_, host)| host);
    host.expect("a URL").trim_end_matches('/')
}

#[track_caller]
fn connect_error(options: RedisPersistenceBuilder) -> Error {
    let options = options.open_timeout(Duration::from_nanos(1));
    let mut persistence = options.build().expect("good options");
    persistence.connect(CLIENT, SERVER).expect_err("no master")
}

#[test]
fn silent_sentinel_leaves_time_for_others() {
    let redis = RedisServer::tcp_with(&["--requirepass", "secret"]);
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let silent = silent.local_addr().expect("bound");
    let fake = fake_sentinel(redis.port());
    let url = format!(
        "redis-sentinel://:secret@{silent},{}/boards/2",
        host(&fake.url)
    );
    let mut persistence = opened(options(&url), CLIENT);
    put(&mut persistence, 1);
    assert!(persistence.health().snapshot().up);
}

/// The first of the URL, which is asked first, is cut off from the others.
#[test]
fn sentinel_with_newest_epoch_is_believed() {
    let (old, new) = (RedisServer::tcp(), RedisServer::tcp());
    let stale = fake_sentinel_at(old.port(), "9");
    let fresh = fake_sentinel_at(new.port(), "10");
    let url = format!(
        "redis-sentinel://{},{}/boards",
        host(&stale.url),
        host(&fresh.url)
    );
    // The second one has a tenth of this to answer after the first.
    let mut persistence = opened(options(&url).connect_timeout(LIMIT), CLIENT);
    put(&mut persistence, 1);
    assert_has(&new, 1);
    assert_has(&old, 0);
}

#[test]
fn error_names_what_each_sentinel_answered() {
    let unknown = FakeRedis::start(|_| Reply::Bytes(b"*-1\r\n"));
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let refused = closed.local_addr().expect("bound");
    drop(closed);
    let no_sentinel = FakeRedis::start(|_| Reply::Bytes(b"-ERR unknown command\r\n"));
    let (first, third) = (host(&unknown.url), host(&no_sentinel.url));
    let url = format!("redis-sentinel://{first},{refused},{third}/boards");
    let error = connect_error(options(&url));
    // The one that cannot be reached may know the master.
    assert_eq!(error.kind(), ErrorKind::Connection);
    let text = error.to_string();
    for named in [
        "cannot find the master of boards: ".to_owned(),
        format!("{first}: the sentinel knows no such service"),
        format!("{refused}: connection refused"),
        format!("{third}: it does not answer as a sentinel"),
    ] {
        assert!(text.contains(&named), "{text}");
    }
}

#[test]
fn replica_that_sentinel_names_is_refused() {
    let both = Replicated::with(&["--replica-read-only", "no"]);
    let fake = fake_sentinel(both.servers[1].port());
    let url = format!("redis-sentinel://{}/boards", host(&fake.url));
    let error = connect_error(options(&url));
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("is a replica"), "{error}");
}

#[test]
fn sentinel_that_knows_no_master_is_named() {
    for (answer, kind, named) in [
        (&b"*-1\r\n"[..], ErrorKind::InvalidOption, "no such service"),
        (
            b"-ERR unknown command 'SENTINEL'\r\n",
            ErrorKind::InvalidOption,
            "not answer as a sentinel",
        ),
        (
            b"-NOPERM User default has no permissions\r\n",
            ErrorKind::Permission,
            "+sentinel|get-master-addr-by-name",
        ),
    ] {
        let fake = FakeRedis::start(move |_| Reply::Bytes(answer));
        let url = format!("redis-sentinel://{}/boards", host(&fake.url));
        let error = connect_error(options(&url));
        assert_eq!(error.kind(), kind);
        let text = error.to_string();
        assert!(text.contains(named), "{text}");
        let place = format!(
            "the sentinel at {} for the master of boards",
            host(&fake.url)
        );
        assert!(text.contains(&place), "{text}");
    }
}

#[test]
fn error_of_sentinel_repeats_no_password() {
    for (answer, kind) in [
        (
            &b"-NOAUTH Authentication required: secret\r\n"[..],
            ErrorKind::Authentication,
        ),
        (b"-ERR unknown command secret\r\n", ErrorKind::InvalidOption),
        (b"-NOPERM secret\r\n", ErrorKind::Permission),
        (b"-MOVED 1 secret\r\n", ErrorKind::Protocol),
        (b"-CLUSTERDOWN secret\r\n", ErrorKind::Connection),
        (b"$secret\r\n", ErrorKind::Protocol),
    ] {
        let fake = FakeRedis::start(move |_| Reply::Bytes(answer));
        let url = format!("redis-sentinel://:secret@{}/boards", host(&fake.url));
        let error = connect_error(options(&url));
        let text = format!("{error} {error:?}");
        assert_eq!(error.kind(), kind, "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}
