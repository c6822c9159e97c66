//! Storage in a real Redis: values are kept byte for byte under the configured key, no call outlasts its deadline, and the
//! persistence reconnects when the server is back.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use paho_mqtt_redis::{Durability, Error, ErrorKind, RedisPersistence, RedisPersistenceBuilder};
use redis::{Parser, TypedCommands, Value};
use testkit::{
    RedisServer, eventually, publish_command_of, publish_packet, record, subscribe_command,
};

const CLIENT: &str = "device";
/// Server URI as Paho passes it to `open`.
const SERVER: &str = "127.0.0.1:1883";
/// Hash of the client's records.
const HASH: &str = "device:127.0.0.1:1883";
/// Limit that only a call that never returns reaches.
const AMPLE: Duration = Duration::from_secs(10);
/// Allowance beyond a deadline for a busy machine, less than [`AMPLE`].
const SLACK: Duration = Duration::from_secs(5);

fn options(url: &str) -> RedisPersistenceBuilder {
    RedisPersistence::builder()
        .url(url)
        .connect_timeout(AMPLE)
        .operation_timeout(AMPLE)
}

fn opened(url: &str) -> RedisPersistence {
    let mut persistence = options(url).build().unwrap();
    persistence.open(CLIENT, SERVER).unwrap();
    persistence
}

#[track_caller]
fn kind_of<T: std::fmt::Debug>(result: mqtt::Result<T>) -> ErrorKind {
    let error = result.unwrap_err();
    Error::in_mqtt(&error)
        .expect("an error of this crate")
        .kind()
}

/// Waits until no write is pending.
#[track_caller]
fn settle(persistence: &RedisPersistence) {
    persistence.health().flush(AMPLE).unwrap();
}

/// Kind of the error that caused the present outage.
#[track_caller]
fn down(persistence: &RedisPersistence) -> ErrorKind {
    let health = persistence.health();
    assert!(!health.snapshot().up);
    health.last_error().expect("has an error").kind()
}

/// Value of a record, if it exists.
fn stored(connection: &mut redis::Connection, key: &str) -> Option<Vec<u8>> {
    redis::cmd("HGET")
        .arg(HASH)
        .arg(key)
        .query(connection)
        .unwrap()
}

fn fields(connection: &mut redis::Connection) -> Vec<String> {
    let mut fields = connection.hkeys(HASH).unwrap();
    fields.sort();
    fields
}

/// Answer of a fake server.
pub(super) enum Reply {
    Bytes(&'static [u8]),
    /// The first bytes, then the second ones again and again, up to this many.
    Endless(&'static [u8], &'static [u8], u64),
    /// These bytes, after a delay.
    Late(Duration, &'static [u8]),
    /// A value of 1,000 bytes, one byte per interval.
    Drip(Duration),
    Nothing,
}

/// Server that speaks just enough of the protocol, and answers each command with the result of `reply`.
pub(super) struct FakeRedis {
    pub(super) url: String,
    sent: Arc<AtomicU64>,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl FakeRedis {
    /// Serves one connection.
    pub(super) fn start(reply: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("redis://{}/", listener.local_addr().unwrap());
        let (stop, stopped) = mpsc::channel();
        let sent = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&sent);
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            // Fails once the peer is gone or the test has ended.
            let _ = serve(&stream, &stopped, &counted, reply);
        });
        Self {
            url,
            sent,
            stop,
            thread: Some(thread),
        }
    }

    /// Number of bytes of endless replies that it could send.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

impl Drop for FakeRedis {
    fn drop(&mut self) {
        // These fail only if the thread has already ended, and a second panic would hide the first.
        let _ = self.stop.send(());
        // It may still wait for the only connection that it serves.
        let address = self
            .url
            .trim_start_matches("redis://")
            .trim_end_matches('/');
        let _ = TcpStream::connect(address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Waits for this time; returns an error if the test ends before.
fn pause(stopped: &Receiver<()>, time: Duration) -> io::Result<()> {
    match stopped.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        _ => Err(io::ErrorKind::Interrupted.into()),
    }
}

fn serve(
    mut stream: &TcpStream,
    stopped: &Receiver<()>,
    sent: &AtomicU64,
    mut reply: impl FnMut(&str) -> Reply,
) -> io::Result<()> {
    let mut parser = Parser::new();
    while let Ok(Value::Array(parts)) = parser.parse_value(stream) {
        let Some(Value::BulkString(name)) = parts.first() else {
            panic!("not a command: {parts:?}");
        };
        match reply(&String::from_utf8_lossy(name)) {
            Reply::Bytes(bytes) => stream.write_all(bytes)?,
            Reply::Endless(first, again, most) => {
                stream.write_all(first)?;
                while sent.load(Ordering::SeqCst) < most {
                    pause(stopped, Duration::ZERO)?;
                    stream.write_all(again)?;
                    sent.fetch_add(again.len() as u64, Ordering::SeqCst);
                }
            }
            Reply::Late(time, bytes) => {
                pause(stopped, time)?;
                stream.write_all(bytes)?;
            }
            Reply::Drip(interval) => {
                stream.write_all(b"$1000\r\n")?;
                loop {
                    pause(stopped, interval)?;
                    stream.write_all(b"x")?;
                }
            }
            Reply::Nothing => {}
        }
    }
    Ok(())
}

const NO_RECORDS: &[u8] = b"*0\r\n";
/// Answer to a command within a transaction.
pub(super) const QUEUED: &[u8] = b"+QUEUED\r\n";

/// Returns the answers with which a persistence opens and finds no records, and nothing for later commands.
pub(super) fn empty() -> impl FnMut(&str) -> Option<&'static [u8]> {
    let mut listed = 0;
    let mut has_counted = false;
    let mut queueing = false;
    move |command| {
        let answer: &[u8] = match command {
            "TYPE" => b"+none\r\n",
            // Without these commands every write is confirmed.
            "CLIENT" | "INFO" => b"-NOPERM no\r\n",
            "MULTI" => {
                queueing = true;
                b"+OK\r\n"
            }
            "DISCARD" => {
                queueing = false;
                b"+OK\r\n"
            }
            "EXEC" if queueing => {
                queueing = false;
                b"*0\r\n"
            }
            _ if queueing => QUEUED,
            // No counts of sends.
            "HMGET" if listed == 3 && !has_counted => {
                has_counted = true;
                b"*1\r\n$-1\r\n"
            }
            // The two places of what is set aside, and the records.
            "HKEYS" if listed < 3 => {
                listed += 1;
                NO_RECORDS
            }
            _ => return None,
        };
        Some(answer)
    }
}

/// Asserts that a put ends at its deadline over a server that opens the records and then replies with `answer`.
fn assert_put_ends_at_deadline(answer: fn() -> Reply) {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let mut usual = empty();
    let server = FakeRedis::start(move |command| usual(command).map_or_else(answer, Reply::Bytes));
    let mut persistence = options(&server.url)
        .operation_timeout(TIMEOUT)
        .build()
        .unwrap();
    persistence.open(CLIENT, SERVER).unwrap();
    let started = Instant::now();
    persistence.put("s-1", vec![b"value"]).unwrap();
    let took = started.elapsed();
    assert!(took >= TIMEOUT && took < TIMEOUT + SLACK, "{took:?}");
    assert!(!persistence.health().snapshot().up);
    // Only the first call of an outage waits.
    let started = Instant::now();
    persistence.put("s-2", vec![b"value"]).unwrap();
    assert!(started.elapsed() < TIMEOUT);
}

#[test]
fn dripping_answer_ends_at_deadline() {
    assert_put_ends_at_deadline(|| Reply::Drip(Duration::from_millis(50)));
}

#[test]
fn missing_answer_ends_at_deadline() {
    assert_put_ends_at_deadline(|| Reply::Nothing);
}

#[test]
fn connect_to_dripping_server_ends_at_deadline() {
    const TIMEOUT: Duration = Duration::from_millis(400);
    let server = FakeRedis::start(|_| Reply::Drip(Duration::from_millis(50)));
    let mut persistence = options(&server.url)
        .connect_timeout(TIMEOUT)
        .open_timeout(TIMEOUT)
        .build()
        .unwrap();
    let started = Instant::now();
    let error = persistence.connect(CLIENT, SERVER).unwrap_err();
    let took = started.elapsed();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(took >= TIMEOUT && took < TIMEOUT + SLACK, "{took:?}");
}

/// Connecting and listing have separate limits.
#[test]
fn open_ends_within_its_limits() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let mut usual = empty();
    // Every answer is in time, except for the list, which is missing.
    let server = FakeRedis::start(move |command| match (command, usual(command)) {
        ("HKEYS", Some(NO_RECORDS)) | (_, None) => Reply::Nothing,
        (_, Some(answer)) => Reply::Late(Duration::from_millis(20), answer),
    });
    let mut persistence = options(&server.url)
        .connect_timeout(TIMEOUT)
        .open_timeout(TIMEOUT)
        .build()
        .unwrap();
    let started = Instant::now();
    let kind = kind_of(persistence.open(CLIENT, SERVER));
    let took = started.elapsed();
    assert_eq!(kind, ErrorKind::Timeout);
    assert!(took < TIMEOUT * 2 + SLACK, "{took:?}");
}

#[test]
fn paused_redis_costs_one_deadline_and_is_reused() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    for tcp in [true, false] {
        let redis = RedisServer::tcp();
        let url = if tcp { redis.tcp_url() } else { redis.url() };
        let mut persistence = options(&url)
            .connect_timeout(TIMEOUT)
            .operation_timeout(TIMEOUT)
            .build()
            .unwrap();
        persistence.open(CLIENT, SERVER).unwrap();
        let one = record("s-1", b"one");
        persistence.put("s-1", vec![&one]).unwrap();

        redis.pause();
        // More than the socket buffers, so that the write blocks; later puts send nothing.
        let large = vec![b'x'; 32 << 20];
        let started = Instant::now();
        persistence.put("s-2", vec![&large]).unwrap();
        let took = started.elapsed();
        assert!(took < TIMEOUT + SLACK, "{took:?}");
        assert_eq!(down(&persistence), ErrorKind::Timeout);
        let started = Instant::now();
        persistence.put("s-3", vec![b"two"]).unwrap();
        assert!(started.elapsed() < TIMEOUT);

        redis.resume();
        settle(&persistence);
        assert_eq!(persistence.get("s-1").unwrap(), one);
        let mut connection = redis.connection();
        assert_eq!(stored(&mut connection, "s-2").unwrap(), large);
        assert_eq!(stored(&mut connection, "s-3").unwrap(), b"two");
    }
}

#[test]
fn value_only_in_redis_is_awaited_once_per_outage() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let redis = RedisServer::start();
    let mut persistence = options(&redis.url())
        .operation_timeout(TIMEOUT)
        .cache_limit(0)
        .build()
        .unwrap();
    persistence.open(CLIENT, SERVER).unwrap();
    // The latest value stays in the cache.
    for key in ["q-1", "q-2", "q-3"] {
        let value = record(key, key.as_bytes());
        persistence.put(key, vec![&value]).unwrap();
    }
    redis.pause();
    // Detecting the outage takes the whole timeout of the call.
    let started = Instant::now();
    assert_eq!(kind_of(persistence.get("q-1")), ErrorKind::Timeout);
    assert!(started.elapsed() < TIMEOUT * 2);
    let started = Instant::now();
    assert_eq!(kind_of(persistence.get("q-2")), ErrorKind::Timeout);
    assert!(started.elapsed() < TIMEOUT);
    redis.resume();
    settle(&persistence);
    for key in ["q-2", "q-1"] {
        assert_eq!(persistence.get(key).unwrap(), record(key, key.as_bytes()));
    }
}

/// Opens a persistence over more commands than one prefetch reads, with none in the cache; returns their keys too.
fn with_backlog(redis: &RedisServer) -> (RedisPersistence, Vec<String>) {
    let keys: Vec<String> = (1..1_200).map(|number| format!("c-{number}")).collect();
    let mut pipeline = redis::pipe();
    for key in &keys {
        pipeline.hset(HASH, key, record(key, key.as_bytes()));
    }
    pipeline.exec(&mut redis.connection()).unwrap();
    let options = options(&redis.url()).cache_limit(0);
    let mut persistence = options.build().unwrap();
    persistence.open(CLIENT, SERVER).unwrap();
    (persistence, keys)
}

/// The persistence prefetches the values that Paho reads next.
#[test]
fn prefetch_returns_latest_value() {
    let redis = RedisServer::start();
    let (mut persistence, keys) = with_backlog(&redis);
    // Prefetching starts with the second consecutive key.
    for key in ["c-900", "c-1"] {
        assert_eq!(persistence.get(key).unwrap(), record(key, key.as_bytes()));
    }
    // Already requested by the prefetch.
    persistence
        .put("c-900", vec![&record("c-900", b"later")])
        .unwrap();
    // Evicts the value just put: only the latest stays in the cache.
    persistence
        .put("c-5000", vec![&record("c-5000", b"")])
        .unwrap();
    persistence.remove("c-514").unwrap();
    for key in &keys[1..] {
        let value = persistence.get(key);
        match &**key {
            "c-514" => assert_eq!(kind_of(value), ErrorKind::NotFound),
            "c-900" => assert_eq!(value.unwrap(), record(key, b"later")),
            _ => assert_eq!(value.unwrap(), record(key, key.as_bytes()), "{key}"),
        }
    }
    assert!(persistence.health().last_error().is_none());
    let stored = stored(&mut redis.connection(), "c-900");
    assert_eq!(stored.unwrap(), record("c-900", b"later"));
}

#[test]
fn connection_lost_during_prefetch_loses_no_record() {
    let redis = RedisServer::start();
    let (mut persistence, keys) = with_backlog(&redis);
    let mut all_killed = 0;
    for (number, key) in keys.iter().enumerate() {
        let value = eventually(AMPLE, "the record is read", || persistence.get(key).ok());
        assert_eq!(value, record(key, key.as_bytes()), "{key}");
        if number % 256 == 0 {
            let killed: usize = redis::cmd("CLIENT")
                .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
                .query(&mut redis.connection())
                .unwrap();
            all_killed += killed;
        }
    }
    assert!(all_killed > 1, "it reconnects after each kill");
    assert_eq!(persistence.keys().unwrap().len(), keys.len());
    assert_eq!(persistence.health().snapshot().lost_records, 0);
}

/// Paho counts packet ids from 1 after each start, and takes restored records of one id for one message.
#[test]
fn message_never_coexists_with_predecessor_of_its_id() {
    let command = record("c5-1", b"one");
    let publish = publish_packet("s5-1", 1, b"one");
    for durability in [Durability::Confirmed, Durability::Pipelined] {
        let redis = RedisServer::start();
        let mut connection = redis.connection();
        let mut persistence = options(&redis.url())
            .durability(durability)
            .build()
            .unwrap();
        persistence.open(CLIENT, SERVER).unwrap();
        persistence.put("c5-1", vec![&command]).unwrap();
        settle(&persistence);
        // The PUBLISH of the second is written before it is acknowledged.
        for (number, is_written) in [(1, false), (2, true), (3, false)] {
            let key = format!("c5-{number}");
            assert_eq!(persistence.get(&key).unwrap(), command);
            persistence.remove(&key).unwrap();
            persistence.put("s5-1", vec![&publish]).unwrap();
            if is_written {
                settle(&persistence);
            }
            persistence.remove("s5-1").unwrap();

            let next = format!("c5-{}", number + 1);
            persistence.put(&next, vec![&command]).unwrap();
            let found = eventually(AMPLE, "the next message", || {
                Some(fields(&mut connection)).filter(|keys| keys.contains(&next))
            });
            assert_eq!(found, [next], "{durability:?}");
        }
    }
}

#[test]
fn emptied_redis_is_refilled() {
    for tcp in [true, false] {
        let mut redis = RedisServer::tcp();
        let url = if tcp { redis.tcp_url() } else { redis.url() };
        let mut persistence = opened(&url);
        persistence.put("s-1", vec![b"one"]).unwrap();
        persistence.put("s-4", vec![b"four"]).unwrap();
        settle(&persistence);
        redis.kill();
        for value in ["two", "three"] {
            persistence.put("q-2", vec![value.as_bytes()]).unwrap();
        }
        persistence.remove("s-4").unwrap();
        redis.restart();
        settle(&persistence);
        let mut connection = redis.connection();
        assert_eq!(fields(&mut connection), ["q-2", "s-1"]);
        assert_eq!(stored(&mut connection, "q-2").unwrap(), b"three");
        assert_eq!(persistence.get("s-1").unwrap(), b"one");
        assert_eq!(persistence.health().snapshot().lost_records, 0);
    }
}

/// A promotion changes the identity of the data: a replica may have been behind, and a server that becomes one takes the data of
/// its master.
#[test]
fn promoted_redis_with_older_data_is_overwritten() {
    let (redis, other) = (RedisServer::tcp(), RedisServer::tcp());
    let older = record("q-1", b"older");
    other.connection().hset(HASH, "q-1", &older).unwrap();
    let mut persistence = opened(&redis.tcp_url());
    let newer = record("q-1", b"newer");
    persistence.put("q-1", vec![&newer]).unwrap();
    settle(&persistence);

    let mut connection = redis.connection();
    redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(other.port())
        .exec(&mut connection)
        .unwrap();
    eventually(AMPLE, "the older data", || {
        (stored(&mut connection, "q-1") == Some(older.clone())).then_some(())
    });
    let health = persistence.health();
    eventually(AMPLE, "the outage", || {
        let kind = health.last_error().map(|error| error.kind());
        (kind == Some(ErrorKind::ReadOnly)).then_some(())
    });
    redis::cmd("REPLICAOF")
        .arg("NO")
        .arg("ONE")
        .exec(&mut connection)
        .unwrap();
    settle(&persistence);
    assert_eq!(stored(&mut connection, "q-1"), Some(newer));
}

#[test]
fn record_lost_by_redis_alone_is_counted() {
    let mut redis = RedisServer::tcp();
    let mut persistence = options(&redis.url()).cache_limit(0).build().unwrap();
    persistence.open(CLIENT, SERVER).unwrap();
    persistence.put("q-1", vec![b"one"]).unwrap();
    // The latest value stays in the cache.
    persistence.put("q-2", vec![b"two"]).unwrap();
    redis.restart();
    let health = persistence.health();
    eventually(AMPLE, "the loss", || {
        (health.snapshot().lost_records == 1).then_some(())
    });
    assert_eq!(kind_of(persistence.get("q-1")), ErrorKind::NotFound);
}

#[test]
fn idle_persistence_detects_restart_and_flush() {
    let mut redis = RedisServer::tcp();
    let mut persistence = opened(&redis.url());
    persistence.put("q-1", vec![b"one"]).unwrap();
    let filled = |redis: &RedisServer| {
        eventually(AMPLE, "the record", || {
            stored(&mut redis.connection(), "q-1")
        })
    };
    redis.restart();
    assert_eq!(filled(&redis), b"one");
    redis::cmd("FLUSHALL")
        .exec(&mut redis.connection())
        .unwrap();
    assert_eq!(filled(&redis), b"one");
}

#[test]
fn values_are_stored_byte_for_byte() {
    let redis = RedisServer::tcp();
    let mut connection = redis.connection();
    let every: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = every.iter().copied().cycle().take(1 << 20).collect();
    let many: Vec<&[u8]> = every.chunks(1).cycle().take(5_000).collect();
    for url in [redis.tcp_url(), redis.url()] {
        let mut persistence = opened(&url);
        for parts in [
            vec![],
            vec![&b""[..]],
            vec![b"", b"a", b"", b"b", b""],
            vec![b"\0"],
            vec![b"a\0b\0", b"\0"],
            vec![b"\xff\xfe\xc3\x28", b"\x80"],
            vec![b"\r\n$-1\r\n*0\r\n"],
            vec![&every],
            vec![&large],
            vec![&large, &every, &large],
            many.clone(),
        ] {
            let value = parts.concat();
            persistence.put("q-1", parts).unwrap();
            assert!(stored(&mut connection, "q-1").as_ref() == Some(&value));
            assert!(persistence.get("q-1").unwrap() == value);
        }
        persistence.remove("q-1").unwrap();
        settle(&persistence);
        assert_eq!(stored(&mut connection, "q-1"), None);
    }
}

#[test]
fn existing_record_is_returned_byte_for_byte() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let value = record("s-1", b"\0\xff\r\n");
    connection.hset(HASH, "s-1", &value).unwrap();
    connection.hset(HASH, b"\xff\xfe", "foreign").unwrap();
    connection.hset(HASH, "foreign", "foreign").unwrap();
    let mut persistence = opened(&redis.url());
    assert_eq!(persistence.keys().unwrap(), ["s-1"]);
    assert_eq!(persistence.get("s-1").unwrap(), value);
    persistence.clear().unwrap();
    assert_eq!(connection.hlen(HASH).unwrap(), 2);
}

#[test]
fn records_are_in_chosen_database_under_prefix() {
    let redis = RedisServer::tcp();
    redis::cmd("ACL")
        .arg(&["SETUSER", "me@ter", "on", ">p/w:1?&", "+@all", "~mqtt:*"])
        .exec(&mut redis.connection())
        .unwrap();
    let port = redis.port();
    let socket = redis.socket().display();
    for url in [
        format!("redis://me%40ter:p%2Fw%3A1%3F%26@127.0.0.1:{port}/3"),
        format!("unix://{socket}?db=3&user=me%40ter&pass=p%2Fw%3A1%3F%26"),
    ] {
        let mut persistence = options(&url).key_prefix("mqtt:").build().unwrap();
        persistence.open(CLIENT, SERVER).unwrap();
        persistence.put("s-1", vec![b"value"]).unwrap();
        let mut connection = redis.connection();
        assert_eq!(connection.keys("*").unwrap(), Vec::<String>::new());
        redis::cmd("SELECT").arg(3).exec(&mut connection).unwrap();
        let key = format!("mqtt:{HASH}");
        assert_eq!(connection.keys("*").unwrap(), [key.as_str()]);
        assert_eq!(connection.hkeys(&key).unwrap(), ["s-1"]);
        persistence.clear().unwrap();
    }
}

/// Redis replies to what is sent then, and the connection is of no more use.
#[test]
fn revoked_right_to_send_loses_nothing() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut set_user = |rules: &[&str]| {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg("mqtt").arg(rules);
        command.exec(&mut connection).expect("ACL SETUSER");
    };
    set_user(&["on", ">secret", "~*", "+@all"]);
    let url = format!("{}?user=mqtt&pass=secret", redis.url());
    let mut persistence = options(&url).cache_limit(0).build().unwrap();
    persistence.open(CLIENT, SERVER).unwrap();
    let value = |number: u32| record(&format!("q-{number}"), b"x");
    let put = |persistence: &mut RedisPersistence, number: u32| {
        let key = format!("q-{number}");
        persistence.put(&key, vec![&value(number)]).unwrap();
    };
    put(&mut persistence, 1);
    // Before version 7 no subcommand can be taken away, only given.
    set_user(&["-client", "+client|setname", "+client|list", "+client|kill"]);
    persistence.put("s-8", vec![b"sent"]).unwrap();
    // Read over the same connection.
    let read = persistence.get("q-1");
    assert!(read.is_err() || read.unwrap() == value(1));
    put(&mut persistence, 2);
    put(&mut persistence, 3);
    settle(&persistence);
    let reason = persistence.health().last_error().expect("an outage");
    assert_eq!(reason.kind(), ErrorKind::Permission, "{reason}");
    let mut connection = redis.connection();
    assert_eq!(fields(&mut connection), ["q-1", "q-2", "q-3", "s-8"]);
    persistence.put("s-9", vec![b"sent"]).unwrap();
    assert_eq!(stored(&mut connection, "s-9").unwrap(), b"sent");
    for number in 1..=3 {
        let key = format!("q-{number}");
        assert_eq!(persistence.get(&key).unwrap(), value(number));
    }
    let snapshot = persistence.health().snapshot();
    assert!(snapshot.up && snapshot.lost_records == 0, "{snapshot:?}");
}

/// Without it, each command that is queued in a transaction is executed on its own.
#[test]
fn refused_multi_alone_changes_no_field() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    redis::cmd("ACL")
        .arg(&["SETUSER", "mqtt", "on", ">secret", "+@all", "~*"])
        .exec(&mut connection)
        .unwrap();
    connection.hset(HASH, "q-1", record("q-1", b"x")).unwrap();
    let before = connection.hgetall(HASH).unwrap();
    let url = format!("{}?user=mqtt&pass=secret", redis.url());
    let options = options(&url).operation_timeout(Duration::from_secs(1));
    let mut persistence = options.build().unwrap();
    persistence.open(CLIENT, SERVER).unwrap();
    redis::cmd("ACL")
        .arg(&["SETUSER", "mqtt", "-multi"])
        .exec(&mut connection)
        .unwrap();
    let health = persistence.health();
    eventually(AMPLE, "the check fails", || {
        let kind = health.last_error().map(|error| error.kind());
        (kind == Some(ErrorKind::Permission)).then_some(())
    });
    assert_eq!(connection.hgetall(HASH).unwrap(), before);
    persistence.close().unwrap_err();
    // Nor if it is refused when connecting.
    for key in ["c-0", "c-1"] {
        connection.hset(HASH, key, record(key, b"x")).unwrap();
    }
    let before = connection.hgetall(HASH).unwrap();
    let error = persistence
        .connect(CLIENT, "mqtt://127.0.0.1:1883")
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    assert_eq!(connection.hgetall(HASH).unwrap(), before);
}

/// The commands behind a refused one are sent with it, and here the default user may execute them.
#[test]
fn refused_login_changes_nothing() {
    let redis = RedisServer::tcp();
    let mut connection = redis.connection();
    connection.hset(HASH, "q-1", record("q-1", b"x")).unwrap();
    let before = connection.hgetall(HASH).unwrap();
    for (login, database, kind) in [
        ("nobody:Zq7xKv2w@", 0, ErrorKind::Authentication),
        ("", 99, ErrorKind::Server),
    ] {
        let url = format!("redis://{login}127.0.0.1:{}/{database}", redis.port());
        let mut persistence = options(&url).build().unwrap();
        let error = persistence.connect(CLIENT, SERVER).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().starts_with("cannot connect to Redis at"));
        assert_eq!(connection.hgetall(HASH).unwrap(), before);
        let keys: usize = redis::cmd("DBSIZE").query(&mut connection).unwrap();
        assert_eq!(keys, 1);
    }
    // The refused connections keep nobody waiting.
    let persistence = opened(&redis.tcp_url());
    assert!(persistence.contains("q-1"));
}

#[test]
fn connect_and_client_use_same_records() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    for (uri, server) in [
        ("tcp://127.0.0.1:1883", "127.0.0.1:1883"),
        ("mqtt://127.0.0.1:1883", "127.0.0.1:1883"),
        ("mqtt://broker.example:1883", "broker.example:1883"),
        ("127.0.0.1:1883", "127.0.0.1:1883"),
    ] {
        let key = format!("mqtt:{CLIENT}:{server}");
        let mut persistence = options(&redis.url()).key_prefix("mqtt:").build().unwrap();
        // Not a hash: connect must find it.
        connection.set(&key, "somebody else's").unwrap();
        let error = persistence.connect(CLIENT, uri).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongType, "{uri}");
        connection.del(&key).unwrap();
        persistence.connect(CLIENT, uri).unwrap();

        let client = mqtt::CreateOptionsBuilder::new()
            .server_uri(uri)
            .client_id(CLIENT)
            .mqtt_version(mqtt::MQTT_VERSION_5)
            .send_while_disconnected(true)
            .allow_disconnected_send_at_anytime(true)
            .user_persistence(persistence)
            .create_client()
            .unwrap_or_else(|error| panic!("{uri}: {error}"));
        // Never sent, since the client never connects.
        let message = mqtt::Message::new("a/topic", "payload", mqtt::QoS::AtLeastOnce);
        drop(client.publish(message));
        drop(client);
        let kept = connection.hgetall(&key).unwrap();
        assert_eq!(kept.len(), 1, "{uri}");
        assert!(kept.keys().all(|key| key.starts_with("c5-")), "{kept:?}");
        connection.del(&key).unwrap();
    }
}

#[test]
fn changed_password_file_is_used_at_next_connect() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut set_password = |password: &str| {
        let words = ["SET", "requirepass", password];
        redis::cmd("CONFIG")
            .arg(&words)
            .exec(&mut connection)
            .unwrap();
        let words = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
        redis::cmd("CLIENT")
            .arg(&words)
            .exec(&mut connection)
            .unwrap();
    };
    let file = redis.dir().join("password");
    std::fs::write(&file, "first\n").unwrap();
    set_password("first");
    let options = options(&redis.url()).password_file(&file);
    let mut persistence = options.build().unwrap();
    persistence.open(CLIENT, SERVER).unwrap();

    set_password("second");
    let health = persistence.health();
    eventually(AMPLE, "the old password is refused", || {
        let error = health.last_error().filter(|_| !health.snapshot().up)?;
        (error.kind() == ErrorKind::Authentication).then_some(())
    });
    std::fs::remove_file(&file).unwrap();
    let path = file.display().to_string();
    eventually(AMPLE, "the missing file is reported", || {
        health
            .last_error()
            .filter(|error| error.to_string().contains(&path))
    });
    std::fs::write(&file, "second\n").unwrap();
    persistence
        .put("s-1", vec![&record("s-1", b"21.5")])
        .unwrap();
    health.flush(AMPLE).unwrap();
}

#[test]
fn clients_do_not_see_records_of_each_other() {
    let redis = RedisServer::start();
    let mut all: Vec<_> = ["device", "device-2", "devic"]
        .into_iter()
        .map(|client| {
            let mut persistence = options(&redis.url()).build().unwrap();
            persistence.open(client, SERVER).unwrap();
            (client, persistence)
        })
        .collect();
    for (client, persistence) in &mut all {
        persistence.put("s-1", vec![client.as_bytes()]).unwrap();
    }
    for (client, persistence) in &mut all {
        assert_eq!(persistence.keys().unwrap(), ["s-1"]);
        assert_eq!(persistence.get("s-1").unwrap(), client.as_bytes());
    }
    let (_, first) = &mut all[0];
    first.clear().unwrap();
    assert!(!first.contains("s-1"));
    assert_eq!(all[1].1.get("s-1").unwrap(), b"device-2");
    assert_eq!(all[2].1.get("s-1").unwrap(), b"devic");
}

/// Puts a publish command, reads and removes it, as Paho does before it sends the PUBLISH.
fn take_command(persistence: &mut RedisPersistence, key: &str, packet_id: i32, qos: i32) {
    let command = publish_command_of(key, packet_id, qos);
    persistence.put(key, vec![&command]).unwrap();
    assert_eq!(persistence.get(key).unwrap(), command);
    persistence.remove(key).unwrap();
    assert!(!persistence.contains(key));
    assert!(!persistence.keys().unwrap().contains(&key.to_owned()));
}

/// Number of calls of this command so far.
fn calls(connection: &mut redis::Connection, command: &str) -> u32 {
    let statistics: String = redis::cmd("INFO")
        .arg("commandstats")
        .query(connection)
        .unwrap();
    statistics
        .split_once(&format!("cmdstat_{command}:calls="))
        .and_then(|(_, rest)| rest.split(',').next())
        .map_or(0, |calls| calls.parse().unwrap())
}

/// Redis replies to each of them, so nobody has to turn replies on or off.
#[test]
fn confirmed_put_is_one_command() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut persistence = opened(&redis.url());
    // Redis 6.2 counts all commands of CLIENT together.
    let replies = ["client|reply", "client"];
    let before = replies.map(|command| calls(&mut connection, command));
    assert_ne!(before, [0, 0], "connecting asks for the right");
    for number in 1..=20 {
        let key = format!("c-{number}");
        let command = publish_command_of(&key, number, 1);
        persistence.put(&key, vec![&command]).unwrap();
    }
    assert_eq!(calls(&mut connection, "hset"), 20);
    let after = replies.map(|command| calls(&mut connection, command));
    assert_eq!(after, before);
}

#[test]
fn command_is_replaced_by_its_publish_in_transaction() {
    for (qos, command, sent) in [(1, "c-1", "s-7"), (2, "c-1", "s-7"), (1, "c5-1", "s5-7")] {
        let redis = RedisServer::start();
        let mut connection = redis.connection();
        let mut persistence = opened(&redis.url());
        take_command(&mut persistence, command, 7, qos);
        assert_eq!(fields(&mut connection), [command]);
        // Neither another packet nor another command ends the deferral.
        persistence.put("s-8", vec![b"another"]).unwrap();
        persistence.put("r-7", vec![b"inbound"]).unwrap();
        persistence
            .put("c-2", vec![&publish_command_of("c-2", 9, 1)])
            .unwrap();
        let mut waiting = [command, "c-2", "r-7", "s-8"];
        waiting.sort_unstable();
        assert_eq!(fields(&mut connection), waiting);

        let before = calls(&mut connection, "exec");
        persistence.put(sent, vec![b"PUBLISH"]).unwrap();
        settle(&persistence);
        assert_eq!(calls(&mut connection, "exec"), before + 1);
        for other in ["s-8", "r-7", "c-2"] {
            persistence.remove(other).unwrap();
        }
        settle(&persistence);
        assert_eq!(fields(&mut connection), [sent]);
        assert_eq!(stored(&mut connection, sent).unwrap(), b"PUBLISH");
    }
}

#[test]
fn command_without_publish_is_removed_at_once() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut persistence = opened(&redis.url());
    // At QoS 0.
    take_command(&mut persistence, "c-1", 7, 0);
    settle(&persistence);
    assert_eq!(fields(&mut connection), Vec::<String>::new());
    // Not read before.
    persistence
        .put("c-2", vec![&publish_command_of("c-2", 7, 1)])
        .unwrap();
    persistence.remove("c-2").unwrap();
    settle(&persistence);
    assert_eq!(fields(&mut connection), Vec::<String>::new());
    // Not a publish.
    persistence
        .put("c-3", vec![&subscribe_command(7, "commands")])
        .unwrap();
    persistence.get("c-3").unwrap();
    persistence.remove("c-3").unwrap();
    settle(&persistence);
    assert_eq!(fields(&mut connection), Vec::<String>::new());
    // Listed since it was read, as by a client that does not restore messages.
    persistence
        .put("c-4", vec![&publish_command_of("c-4", 7, 1)])
        .unwrap();
    persistence.get("c-4").unwrap();
    persistence.keys().unwrap();
    persistence.remove("c-4").unwrap();
    settle(&persistence);
    assert_eq!(fields(&mut connection), Vec::<String>::new());
}

#[test]
fn deferred_remove_is_flushed_by_close_drop_and_clear() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut persistence = opened(&redis.url());
    take_command(&mut persistence, "c-1", 7, 1);
    take_command(&mut persistence, "c-2", 8, 1);
    settle(&persistence);
    assert_eq!(fields(&mut connection), ["c-2"]);
    persistence.close().unwrap();
    assert_eq!(fields(&mut connection), Vec::<String>::new());

    let mut persistence = opened(&redis.url());
    take_command(&mut persistence, "c-1", 7, 1);
    assert_eq!(fields(&mut connection), ["c-1"]);
    drop(persistence);
    assert_eq!(fields(&mut connection), Vec::<String>::new());

    let mut persistence = opened(&redis.url());
    take_command(&mut persistence, "c-1", 7, 1);
    persistence.put("s-1", vec![b"value"]).unwrap();
    persistence.clear().unwrap();
    assert_eq!(fields(&mut connection), Vec::<String>::new());
}

#[test]
fn put_of_same_key_cancels_deferred_remove() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut persistence = opened(&redis.url());
    take_command(&mut persistence, "c-1", 7, 1);
    let next = publish_command_of("c-1", 8, 1);
    persistence.put("c-1", vec![&next]).unwrap();
    assert!(persistence.contains("c-1"));
    persistence.put("s-7", vec![b"PUBLISH"]).unwrap();
    settle(&persistence);
    assert_eq!(fields(&mut connection), ["c-1", "s-7"]);
    assert_eq!(stored(&mut connection, "c-1").unwrap(), next);
    persistence.close().unwrap();
    assert_eq!(fields(&mut connection), ["c-1", "s-7"]);
}

#[test]
fn refused_transaction_keeps_command_and_is_retried() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    let mut persistence = opened(&redis.url());
    take_command(&mut persistence, "c-1", 7, 2);
    redis.set_maxmemory("1");
    persistence.put("s-7", vec![b"PUBLISH"]).unwrap();
    let health = persistence.health();
    eventually(AMPLE, "the refusal", || {
        let kind = health.last_error().map(|error| error.kind());
        (kind == Some(ErrorKind::OutOfMemory)).then_some(())
    });
    assert_eq!(fields(&mut connection), ["c-1"]);
    redis.set_maxmemory("0");
    settle(&persistence);
    assert_eq!(fields(&mut connection), ["s-7"]);
}
