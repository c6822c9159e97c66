//! Bad input is refused at the earliest moment, with the data unchanged, by an error that names the attempt, its object, the
//! reason and the remedy, and contains no password.

use std::{
    error::Error as StdError,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{
    Error, ErrorKind, MemoryPersistence, MetricsServer, PersistenceMetrics, RedisPersistence,
    prometheus::{IntGaugeVec, Opts, Registry, core::Collector, proto::LabelPair},
};
use redis::TypedCommands;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use testkit::{LIMIT, RedisServer, eventually, log::Log, record};

const CLIENT: &str = "device";
const BROKER: &str = "mqtt://127.0.0.1:1883";
/// Hash of the client's records.
const HASH: &str = "device:127.0.0.1:1883";
/// Password that no text contains by chance.
const PASSWORD: &str = "Zq7xKv2w";
/// Limit that only a call that never returns reaches.
const AMPLE: Duration = Duration::from_secs(10);

/// Text of an error and its sources.
fn text_of(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

/// Asserts the kind of an error, that its text contains each of `named`, and that it contains no password.
#[track_caller]
fn check(error: &Error, kind: ErrorKind, named: &[&str]) {
    let text = text_of(error);
    assert_eq!(error.kind(), kind, "{text}");
    assert!(text.starts_with("cannot "), "{text}");
    for name in named {
        assert!(text.contains(name), "{name:?} is not in: {text}");
    }
    let all = format!("{text} {error:?}");
    assert!(!all.contains(PASSWORD), "{all}");
}

/// Builds a persistence for this URL with timeouts for a busy machine.
fn at(url: &str) -> RedisPersistence {
    RedisPersistence::builder()
        .url(url)
        .connect_timeout(AMPLE)
        .operation_timeout(AMPLE)
        .build()
        .unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[track_caller]
fn refused(url: &str) -> Error {
    let mut persistence = RedisPersistence::builder()
        .url(url)
        .connect_timeout(AMPLE)
        // Does not wait for an unavailable server.
        .open_timeout(Duration::from_nanos(1))
        .build()
        .unwrap_or_else(|error| panic!("{url}: {error}"));
    persistence.connect(CLIENT, BROKER).expect_err(url)
}

/// Reserves a port of 127.0.0.1 without listening on it.
fn dead_port() -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

/// Accepts one connection and passes it to `serve`.
fn fake_server(serve: impl FnOnce(TcpStream) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("redis://{}/", listener.local_addr().unwrap());
    let thread = thread::spawn(move || serve(listener.accept().unwrap().0));
    (url, thread)
}

/// Connects to a server that sends this answer and hangs up; returns its URL and the error.
fn refused_after(answer: &'static [u8]) -> (String, Error) {
    let (url, served) = fake_server(move |mut stream| {
        // With an unread request, closing would reset the connection before the answer is read.
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(answer).unwrap();
    });
    let error = refused(&url);
    served.join().unwrap();
    (url, error)
}

/// Creates a client with this persistence; returns the result and the log.
fn create_client(client_id: &str, persistence: RedisPersistence) -> (mqtt::Result<()>, String) {
    let log = Log::default();
    let created = log.during(|| {
        mqtt::CreateOptionsBuilder::new()
            .server_uri(BROKER)
            .client_id(client_id)
            .user_persistence(persistence)
            .create_client()
            .map(drop)
    });
    (created, log.text())
}

#[test]
fn wrong_url_is_refused_by_build() {
    for url in [
        String::new(),
        "localhost".to_owned(),
        "127.0.0.1:6379".to_owned(),
        format!("http://:{PASSWORD}@localhost/"),
        "redis://".to_owned(),
        format!("redis://:{PASSWORD}@/"),
        format!("redis://user:{PASSWORD}@localhost/zero"),
        format!("redis://user:{PASSWORD}@localhost/-1"),
        format!("redis://user:{PASSWORD}@localhost:99999/"),
        format!("redis://user:{PASSWORD}@0.0.0.0/"),
        format!("redis://user:%ff{PASSWORD}@localhost/"),
        format!("redis://:{PASSWORD}@localhost/?protocol=9"),
        // A password without percent-encoding is parsed as another part of the URL.
        format!("redis://user:1/{PASSWORD}@localhost/"),
        format!("redis://:#{PASSWORD}@localhost/"),
        format!("redis://user:{PASSWORD}/@localhost/"),
        format!("redis://user:{PASSWORD}?@localhost/"),
        format!("unix://relative?pass={PASSWORD}"),
        format!("unix:///run/redis.sock?db=x&pass={PASSWORD}"),
        format!("unix:///run/redis.sock?db=-1&pass={PASSWORD}"),
    ] {
        let options = RedisPersistence::builder().url(&url);
        let shown = format!("{options:?}");
        assert!(!shown.contains(PASSWORD), "{shown}");
        let error = options.build().expect_err(&url);
        check(&error, ErrorKind::InvalidOption, &["the option url"]);
    }
}

#[test]
fn key_prefix_with_control_char_is_refused_by_build() {
    for prefix in ["\0", "mqtt\n", "a\rb", "\t", "\u{7f}", "\u{85}"] {
        let options = RedisPersistence::builder().key_prefix(prefix);
        let error = options.build().expect_err(prefix);
        check(
            &error,
            ErrorKind::InvalidOption,
            &["the option key_prefix", "control characters"],
        );
    }
    let printable = RedisPersistence::builder().key_prefix("mqtt:größe {1} ");
    assert!(printable.build().is_ok());
}

#[test]
fn zero_timeout_is_refused_by_build() {
    let options = RedisPersistence::builder().connect_timeout(Duration::ZERO);
    let error = options.build().unwrap_err();
    check(
        &error,
        ErrorKind::InvalidOption,
        &["connect_timeout", "zero"],
    );
    let options = RedisPersistence::builder().operation_timeout(Duration::ZERO);
    let error = options.build().unwrap_err();
    check(
        &error,
        ErrorKind::InvalidOption,
        &["operation_timeout", "zero"],
    );
}

#[test]
fn maximum_timeouts_work() {
    let redis = RedisServer::start();
    let mut persistence = RedisPersistence::builder()
        .url(redis.url())
        .connect_timeout(Duration::MAX)
        .operation_timeout(Duration::MAX)
        .build()
        .unwrap();
    persistence.connect(CLIENT, BROKER).unwrap();
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    persistence.put("c-1", vec![b"value"]).unwrap();
    assert_eq!(persistence.get("c-1").unwrap(), b"value");
}

#[test]
fn port_without_listener_is_reported_by_connect() {
    let (_socket, port) = dead_port();
    let error = refused(&format!("redis://user:{PASSWORD}@127.0.0.1:{port}/3"));
    let address = format!("redis://127.0.0.1:{port}/3");
    check(
        &error,
        ErrorKind::Connection,
        &[
            "connect to Redis",
            &address,
            "refused",
            "connection refused",
            "check that Redis runs",
        ],
    );
}

#[test]
fn missing_or_dead_socket_is_reported_by_connect() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("redis.sock");
    let shown = path.display().to_string();
    let url = format!("unix://{shown}?user=user&pass={PASSWORD}");
    let named = [&shown, "connect to Redis", "check that Redis runs"];
    check(&refused(&url), ErrorKind::Connection, &named);
    let text = text_of(&refused(&url));
    assert!(text.contains("No such file"), "{text}");
    assert!(text.contains("no such socket"), "{text}");

    drop(UnixListener::bind(&path).unwrap());
    check(&refused(&url), ErrorKind::Connection, &named);
    let text = text_of(&refused(&url));
    assert!(text.contains("refused"), "{text}");
    assert!(text.contains("nothing listens on this socket"), "{text}");
}

#[test]
fn unknown_host_name_is_reported_by_connect() {
    // Too long for a label, so that no name server is asked.
    let host = "x".repeat(64);
    let error = refused(&format!("redis://{host}/"));
    let named = [host.as_str(), "host name not found"];
    check(&error, ErrorKind::Connection, &named);
}

#[test]
fn client_without_redis_fails_and_log_has_cause() {
    let (_socket, port) = dead_port();
    let url = format!("redis://user:{PASSWORD}@127.0.0.1:{port}/");
    let (created, log) = create_client(CLIENT, at(&url));
    let error = created.unwrap_err();
    // Paho drops the cause, so only the log has it.
    assert!(matches!(error, mqtt::Error::PersistenceError), "{error:?}");
    assert!(Error::in_mqtt(&error).is_none());
    let error = log
        .lines()
        .find(|line| line.contains("ERROR"))
        .unwrap_or_else(|| panic!("no error in the log:\n{log}"));
    for part in [
        "paho_mqtt_redis",
        &format!("redis://127.0.0.1:{port}/0"),
        "refused",
        r#"error.type="connection""#,
        r#"messaging.client.id="device""#,
        r#"server_uri="127.0.0.1:1883""#,
    ] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert!(!log.contains(PASSWORD), "{log}");

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("redis.sock").display().to_string();
    let (created, log) = create_client(CLIENT, at(&format!("unix://{path}")));
    assert!(created.is_err());
    assert!(log.contains(&path) && log.contains("No such file"), "{log}");
}

#[test]
fn missing_or_wrong_password_is_reported_by_connect() {
    let redis = RedisServer::tcp_with(&["--requirepass", PASSWORD]);
    let port = redis.port();
    let socket = redis.socket().display();
    let address = format!("redis://127.0.0.1:{port}/0");
    let wrong = format!("{PASSWORD}-not");
    for (url, answer, shown) in [
        (redis.tcp_url(), "NOAUTH", address.clone()),
        (redis.url(), "NOAUTH", redis.url()),
        (
            format!("redis://:{wrong}@127.0.0.1:{port}/"),
            "WRONGPASS",
            address.clone(),
        ),
        (
            format!("redis://nobody:{PASSWORD}@127.0.0.1:{port}/"),
            "WRONGPASS",
            address,
        ),
        (
            format!("unix://{socket}?pass={wrong}"),
            "WRONGPASS",
            redis.url(),
        ),
    ] {
        check(
            &refused(&url),
            ErrorKind::Authentication,
            &[answer, &shown, "user or password in the URL"],
        );
    }
    for url in [
        format!("redis://:{PASSWORD}@127.0.0.1:{port}/"),
        format!("redis://default:{PASSWORD}@127.0.0.1:{port}/"),
        format!("unix://{socket}?pass={PASSWORD}"),
        format!("unix://{socket}?user=default&pass={PASSWORD}"),
    ] {
        at(&url).connect(CLIENT, BROKER).unwrap();
    }
}

#[test]
fn needless_password_is_reported_by_connect() {
    let redis = RedisServer::start();
    let error = refused(&format!("{}?pass={PASSWORD}", redis.url()));
    check(&error, ErrorKind::Authentication, &["AUTH", &redis.url()]);
}

#[test]
fn missing_database_is_reported_by_connect() {
    let redis = RedisServer::start();
    let url = format!("{}?db=99", redis.url());
    let error = refused(&url);
    check(&error, ErrorKind::Server, &[&url, "no database 99"]);
    assert!(error.source().is_none(), "{error:?}");
}

/// Starts a Redis with a user that has a password and these rights; returns the URL of the user.
fn redis_with_user(rights: &[&str]) -> (RedisServer, String) {
    let redis = RedisServer::start();
    let password = format!(">{PASSWORD}");
    let _: String = redis::cmd("ACL")
        .arg(&["SETUSER", "meter", "on", password.as_str()])
        .arg(rights)
        .query(&mut redis.connection())
        .unwrap();
    let url = format!("{}?user=meter&pass={PASSWORD}", redis.url());
    (redis, url)
}

#[test]
fn missing_right_to_command_is_named_by_connect() {
    let (_redis, url) = redis_with_user(&["~device:*", "+@all"]);
    at(&url).connect(CLIENT, BROKER).unwrap();

    for missing in ["type", "multi", "hset", "hdel", "hmget", "hkeys", "discard"] {
        let (redis, url) = redis_with_user(&["~*", "+@all", &format!("-{missing}")]);
        let named = [
            HASH,
            &redis.url(),
            "NOPERM",
            &format!("'{missing}'"),
            &format!("grant +{missing},"),
            "ACL line",
        ];
        check(&refused(&url), ErrorKind::Permission, &named);
    }
}

#[test]
fn missing_right_to_key_is_named_by_connect() {
    let (redis, url) = redis_with_user(&["~other:*", "+@all"]);
    let pattern = format!("otherwise grant ~{HASH}*");
    let named = [HASH, &redis.url(), "NOPERM", "ACL line", &pattern];
    check(&refused(&url), ErrorKind::Permission, &named);

    let mut persistence = RedisPersistence::builder()
        .url(url)
        .key_prefix("mqtt:")
        .build()
        .unwrap();
    let error = persistence.connect(CLIENT, BROKER).unwrap_err();
    let named = ["mqtt:device", "NOPERM", "grant ~mqtt:*,"];
    check(&error, ErrorKind::Permission, &named);

    // The named right is sufficient.
    redis::cmd("ACL")
        .arg(&["SETUSER", "meter", "~mqtt:*"])
        .exec(&mut redis.connection())
        .unwrap();
    persistence.connect(CLIENT, BROKER).unwrap();
}

#[test]
fn missing_right_to_select_is_named_by_connect() {
    let (_redis, url) = redis_with_user(&["~*", "+@all", "-select"]);
    let named = ["NOPERM", "grant +select,"];
    check(
        &refused(&format!("{url}&db=1")),
        ErrorKind::Permission,
        &named,
    );
}

/// A command is replaced by its PUBLISH in a transaction, which needs the right to end it.
#[test]
fn missing_right_to_exec_is_named_by_connect() {
    let (redis, url) = redis_with_user(&["~*", "+@all", "-exec"]);
    let named = [&redis.url(), "NOPERM", "'exec'", "ACL line"];
    check(&refused(&url), ErrorKind::Permission, &named);
}

#[test]
fn key_of_other_type_is_reported_and_unchanged() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    connection.set(HASH, "somebody else's").unwrap();
    let error = refused(&redis.url());
    check(
        &error,
        ErrorKind::WrongType,
        &[HASH, &redis.url(), "string", "key_prefix"],
    );
    let (created, log) = create_client(CLIENT, at(&redis.url()));
    assert!(created.is_err());
    assert!(log.contains("wrong_type"), "{log}");
    assert_eq!(
        connection.get(HASH).unwrap().as_deref(),
        Some("somebody else's")
    );
}

#[test]
fn empty_client_id_is_refused_by_connect_and_open() {
    let redis = RedisServer::start();
    let mut persistence = at(&redis.url());
    let error = persistence.connect("", BROKER).unwrap_err();
    check(&error, ErrorKind::InvalidClientId, &["client id is empty"]);
    let error = persistence.open("", "127.0.0.1:1883").unwrap_err();
    let error = Error::in_mqtt(&error).unwrap();
    check(error, ErrorKind::InvalidClientId, &["client id is empty"]);
    let error = MemoryPersistence::new().connect("", BROKER).unwrap_err();
    check(&error, ErrorKind::InvalidClientId, &["client id is empty"]);

    let (created, log) = create_client("", at(&redis.url()));
    assert!(created.is_err());
    assert!(log.contains("invalid_client_id"), "{log}");
    assert_eq!(redis.connection().keys("*").unwrap(), Vec::<String>::new());
}

#[test]
fn replica_is_reported_and_keeps_its_records() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let value = record("s-1", b"value");
    connection.hset(HASH, "s-1", &value).unwrap();
    let (_socket, port) = dead_port();
    let _: String = redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(port)
        .query(&mut connection)
        .unwrap();
    check(
        &refused(&redis.url()),
        ErrorKind::ReadOnly,
        &[HASH, &redis.url(), "READONLY", "replica"],
    );
    let kept: Vec<u8> = redis::Commands::hget(&mut connection, HASH, "s-1").unwrap();
    assert_eq!(kept, value);

    let _: String = redis::cmd("REPLICAOF")
        .arg(&["NO", "ONE"])
        .query(&mut connection)
        .unwrap();
    let mut persistence = at(&redis.url());
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    assert_eq!(persistence.get("s-1").unwrap(), value);
}

#[test]
fn full_redis_opens_drains_and_buffers_new_records() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    connection.hset(HASH, "s-1", record("s-1", b"x")).unwrap();
    connection.set("filler", vec![b'x'; 1 << 20]).unwrap();
    redis.set_maxmemory("1mb");
    let mut persistence = at(&redis.url());
    persistence.connect(CLIENT, BROKER).unwrap();
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    persistence.put("c-1", vec![b"new"]).unwrap();
    let health = persistence.health();
    check(
        &health.last_error().expect("an outage"),
        ErrorKind::OutOfMemory,
        &[HASH, &redis.url(), "OOM", "raise maxmemory"],
    );
    assert_eq!(health.snapshot().held_records, 1);
    assert_eq!(persistence.get("s-1").unwrap(), record("s-1", b"x"));
    persistence.remove("c-0").unwrap();
    persistence.remove("s-1").unwrap();
    eventually(LIMIT, "the remove", || {
        (!connection.exists(HASH).unwrap()).then_some(())
    });

    redis.set_maxmemory("0");
    health.flush(LIMIT).unwrap();
    assert_eq!(connection.hkeys(HASH).unwrap(), ["c-1"]);
}

#[test]
fn redis_that_cannot_save_is_reported_by_connect() {
    let redis = RedisServer::with(&["--save", "3600 1000000"]);
    let mut connection = redis.connection();
    // Redis writes a temporary file, which cannot be renamed over a folder.
    fs::create_dir(redis.dir().join("dump.rdb")).unwrap();
    redis::cmd("BGSAVE").exec(&mut connection).unwrap();
    eventually(AMPLE, "the snapshot fails", || {
        let state: String = redis::cmd("INFO")
            .arg("persistence")
            .query(&mut connection)
            .unwrap();
        state.contains("rdb_last_bgsave_status:err").then_some(())
    });
    check(
        &refused(&redis.url()),
        ErrorKind::Misconf,
        &[HASH, &redis.url(), "MISCONF", "check the log of Redis"],
    );
}

#[test]
fn redis_blocked_by_script_is_reported_by_connect() {
    let redis = RedisServer::with(&["--busy-reply-threshold", "1"]);
    let mut blocked = redis.connection();
    let script = thread::spawn(move || {
        redis::cmd("EVAL")
            .arg("while true do end")
            .arg(0)
            .exec(&mut blocked)
    });
    let error = eventually(AMPLE, "the script runs", || {
        at(&redis.url()).connect(CLIENT, BROKER).err()
    });
    redis::cmd("SCRIPT")
        .arg("KILL")
        .exec(&mut redis.connection())
        .unwrap();
    script.join().unwrap().unwrap_err();
    let named = [HASH, &redis.url(), "BUSY", "SCRIPT KILL"];
    check(&error, ErrorKind::Busy, &named);
}

#[test]
fn server_other_than_redis_is_reported_by_connect() {
    let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    let (url, error) = refused_after(answer);
    check(&error, ErrorKind::Protocol, &[&url, "not valid RESP"]);
}

#[test]
fn unexpected_answer_is_reported_by_connect() {
    let (url, error) = refused_after(b":1\r\n");
    check(&error, ErrorKind::Protocol, &[&url, "CLIENT SETNAME"]);
}

#[test]
fn server_that_hangs_up_is_reported_by_connect() {
    let (url, served) = fake_server(drop);
    let error = refused(&url);
    served.join().unwrap();
    let named = [&url, "the server closed the connection"];
    check(&error, ErrorKind::Connection, &named);

    let (url, error) = refused_after(b"+no");
    let named = [&url, "the server closed the connection"];
    check(&error, ErrorKind::Connection, &named);
}

#[test]
fn silent_server_is_reported_after_connect_timeout() {
    const LIMIT: Duration = Duration::from_millis(200);
    // The kernel completes connections without accept.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("redis://{}/", listener.local_addr().unwrap());
    let mut persistence = RedisPersistence::builder()
        .url(&url)
        .connect_timeout(LIMIT)
        .operation_timeout(AMPLE)
        .build()
        .unwrap();
    let started = Instant::now();
    let error = persistence.connect(CLIENT, BROKER).unwrap_err();
    let took = started.elapsed();
    check(&error, ErrorKind::Timeout, &[&url, "connect_timeout"]);
    assert!(took >= LIMIT, "{took:?}");
    assert!(took < LIMIT + AMPLE / 2, "{took:?}");
}

#[test]
fn invalid_buckets_are_refused_before_registration() {
    let registry = Registry::new();
    for bounds in [
        vec![],
        vec![1.0, 0.5],
        vec![1.0, 1.0],
        vec![-1.0, 1.0],
        vec![0.0, 1.0],
        vec![f64::NAN],
        vec![1.0, f64::NAN],
        vec![1.0, f64::INFINITY],
    ] {
        let options = PersistenceMetrics::builder().latency_buckets(bounds.clone());
        let error = options.register(&registry).unwrap_err();
        let shown = format!("{bounds:?}");
        let named = ["the option latency_buckets", "ascending", &shown];
        check(&error, ErrorKind::InvalidOption, &named);
        let options = PersistenceMetrics::builder().size_buckets(bounds);
        let error = options.register(&registry).unwrap_err();
        let named = ["the option size_buckets", "ascending", &shown];
        check(&error, ErrorKind::InvalidOption, &named);
    }
    PersistenceMetrics::register(&registry).unwrap();
}

#[test]
fn invalid_or_taken_label_is_refused_by_register() {
    let registry = Registry::new();
    for name in [
        "",
        "1st",
        "a-b",
        "größe",
        "a b",
        "__name__",
        "client_id",
        "operation",
        "error",
        "kind",
        "version",
        "store",
        "le",
    ] {
        let options = PersistenceMetrics::builder().const_label(name, "value");
        let error = options.register(&registry).expect_err(name);
        let named = ["the const_label", &format!("{name:?}")];
        check(&error, ErrorKind::InvalidOption, &named);
    }
    PersistenceMetrics::register(&registry).unwrap();
}

/// Creates a foreign metric with the name, the help and the labels of each metric of the library.
fn doubles() -> Vec<IntGaugeVec> {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).unwrap();
    let mut persistence = MemoryPersistence::new().instrument(&metrics);
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    registry
        .gather()
        .iter()
        .map(|family| {
            let labels: Vec<_> = family.get_metric()[0]
                .get_label()
                .iter()
                .map(LabelPair::name)
                .collect();
            IntGaugeVec::new(Opts::new(family.name(), family.help()), &labels).unwrap()
        })
        .collect()
}

#[test]
fn foreign_metric_is_named_and_nothing_is_registered() {
    let doubles = doubles();
    assert!(doubles.len() > 10);
    for foreign in doubles {
        let name = foreign.desc()[0].fq_name.clone();
        let registry = Registry::new();
        registry.register(Box::new(foreign.clone())).unwrap();
        // A leftover of the first attempt would be named by the second.
        for _ in 0..2 {
            let error = PersistenceMetrics::register(&registry).unwrap_err();
            let named = ["register the metric", &name, "already registered"];
            check(&error, ErrorKind::Registration, &named);
        }
        assert!(registry.gather().is_empty());
        registry.unregister(Box::new(foreign)).unwrap();
        PersistenceMetrics::register(&registry).unwrap();
    }
}

#[test]
fn second_registration_is_refused_and_first_works() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).unwrap();
    let error = PersistenceMetrics::register(&registry).unwrap_err();
    let named = ["register the metric mqtt_persistence_", "register once"];
    check(&error, ErrorKind::Registration, &named);
    assert!(registry.gather().is_empty());

    let mut persistence = MemoryPersistence::new().instrument(&metrics);
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    assert_eq!(registry.gather().len(), doubles().len());
}

#[test]
fn port_in_use_is_reported_and_bound_once_free() {
    // No other test uses this loopback address, and so none takes the port while it is free.
    let other = TcpListener::bind(("127.0.0.2", 0)).unwrap();
    let address = other.local_addr().unwrap();
    let error = MetricsServer::bind(address, Registry::new()).unwrap_err();
    let named = [
        "serve metrics at",
        &address.to_string(),
        "in use",
        "another program",
    ];
    check(&error, ErrorKind::Bind, &named);
    drop(other);
    // A program started at this moment has a copy of the socket until it executes.
    let server = eventually(AMPLE, "the port is free", || {
        MetricsServer::bind(address, Registry::new()).ok()
    });
    let error = MetricsServer::bind(address, Registry::new()).unwrap_err();
    check(&error, ErrorKind::Bind, &named);
    drop(server);
}

#[test]
fn invalid_address_is_reported() {
    for address in ["no port", "127.0.0.1:99999"] {
        let error = MetricsServer::bind(address, Registry::new()).unwrap_err();
        check(&error, ErrorKind::Bind, &["serve metrics"]);
    }
    let none: &[SocketAddr] = &[];
    let error = MetricsServer::bind(none, Registry::new()).unwrap_err();
    check(&error, ErrorKind::Bind, &["no address given"]);
}

#[test]
fn zero_limits_are_refused_before_bind() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let builder = || MetricsServer::builder(Registry::new());
    for (option, builder) in [
        ("max_connections", builder().max_connections(0)),
        ("max_head_bytes", builder().max_head_bytes(0)),
        ("request_timeout", builder().request_timeout(Duration::ZERO)),
        (
            "response_timeout",
            builder().response_timeout(Duration::ZERO),
        ),
    ] {
        let error = builder.bind(address).expect_err(option);
        check(
            &error,
            ErrorKind::InvalidOption,
            &["the option", option, "zero"],
        );
    }
}

/// Error of this crate inside an error of Paho.
#[track_caller]
fn inside<T: std::fmt::Debug>(result: mqtt::Result<T>) -> Error {
    match result.unwrap_err() {
        mqtt::Error::Io(error) => error.downcast().expect("an error of this crate"),
        other => panic!("no error of this crate in {other:?}"),
    }
}

/// Asserts the error of every call except open on a persistence that is not open.
fn assert_not_open(persistence: &mut impl ClientPersistence) {
    let not_open = ErrorKind::NotOpen;
    let error = persistence.put("c-1", vec![b"value"]).unwrap_err();
    let error = Error::in_mqtt(&error).expect("an error of this crate");
    check(error, not_open, &["write record", "c-1", "is not open"]);
    let error = inside(persistence.get("c-1"));
    check(&error, not_open, &["read record", "c-1", "is not open"]);
    let error = inside(persistence.remove("c-1"));
    check(&error, not_open, &["remove record", "c-1", "is not open"]);
    let error = inside(persistence.keys());
    check(&error, not_open, &["list the records", "is not open"]);
    let error = inside(persistence.clear());
    check(&error, not_open, &["clear the records", "is not open"]);
    persistence.close().unwrap();
}

#[test]
fn call_before_open_or_after_close_is_not_open_error() {
    let redis = RedisServer::start();
    let metrics = PersistenceMetrics::register(&Registry::new()).unwrap();
    assert_not_open(&mut MemoryPersistence::new());
    assert_not_open(&mut MemoryPersistence::new().instrument(&metrics));

    let mut persistence = at(&redis.url());
    assert_not_open(&mut persistence);
    persistence.connect(CLIENT, BROKER).unwrap();
    assert_not_open(&mut persistence);
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    persistence.put("c-1", vec![b"value"]).unwrap();
    persistence.close().unwrap();
    assert_not_open(&mut persistence);
    assert_eq!(redis.connection().hlen(HASH).unwrap(), 1);
}

#[test]
fn connect_of_open_persistence_is_refused() {
    let redis = RedisServer::start();
    let mut persistence = at(&redis.url());
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    let error = persistence.connect(CLIENT, BROKER).unwrap_err();
    check(&error, ErrorKind::InvalidOption, &[HASH, "already open"]);
    persistence.put("c-1", vec![b"value"]).unwrap();
}

#[test]
fn missing_record_is_not_found_and_removable() {
    let redis = RedisServer::start();
    let mut persistence = at(&redis.url());
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    let error = inside(persistence.get("s-1"));
    check(&error, ErrorKind::NotFound, &["s-1", "no such record"]);
    persistence.remove("s-1").unwrap();

    let mut persistence = {
        drop(persistence);
        let options = RedisPersistence::builder().url(redis.url());
        options.cache_limit(0).build().unwrap()
    };
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    persistence.put("q-1", vec![b"value"]).unwrap();
    // The latest value stays in the cache, since Paho often reads it next.
    persistence.put("q-2", vec![b"value"]).unwrap();
    redis.connection().del(HASH).unwrap();
    let error = inside(persistence.get("q-1"));
    check(&error, ErrorKind::Lost, &["q-1", "maxmemory-policy"]);
}

#[test]
fn key_unknown_to_paho_is_refused_and_unchanged() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut persistence = at(&redis.url());
    persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
    for key in ["", "foreign", "c-01", "c-1000000", "s-0", "s-65536", "x-1"] {
        connection.hset(HASH, key, "somebody else's").unwrap();
        for error in [
            inside(persistence.put(key, vec![b"value"])),
            inside(persistence.get(key)),
            inside(persistence.remove(key)),
        ] {
            let named = ["record", &format!("{key:?}")];
            check(&error, ErrorKind::InvalidKey, &named);
        }
        assert!(!persistence.contains(key));
        let stored = connection.hget(HASH, key).unwrap();
        assert_eq!(stored.as_deref(), Some("somebody else's"), "{key}");
    }
    persistence.clear().unwrap();
    assert_eq!(connection.hlen(HASH).unwrap(), 7);
}
