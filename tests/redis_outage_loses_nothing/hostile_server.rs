//! A server that answers without end, or with sizes that no record has, costs neither time nor memory beyond the limits.

use std::time::{Duration, Instant};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{Error, ErrorKind, RedisPersistence, RedisPersistenceBuilder};

use super::connection::{FakeRedis, QUEUED, Reply, empty};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
const AMPLE: Duration = Duration::from_secs(10);
/// Bytes after which the fake server stops, so that a fault cannot take the memory of the machine.
const MOST: u64 = 128 * MIB;
const MIB: u64 = 1024 * 1024;
/// Bytes that may be on their way in the buffers of the system.
const ON_THE_WAY: u64 = 16 * MIB;

fn options(server: &FakeRedis) -> RedisPersistenceBuilder {
    RedisPersistence::builder()
        .url(&server.url)
        .connect_timeout(AMPLE)
        .operation_timeout(AMPLE)
        .open_timeout(AMPLE)
}

/// Opens a persistence over a server that answers `command` with `reply`, and all others as if there were one record.
///
/// Returns the kind of the error, the time that it took, and the number of bytes that the server could send of an endless reply.
#[track_caller]
fn refused(command: &'static str, reply: fn() -> Reply) -> (ErrorKind, Duration, u64) {
    let mut usual = empty();
    let server = FakeRedis::start(move |name| match (name, usual(name)) {
        // The preflight queues the commands that follow it.
        (_, Some(QUEUED)) => Reply::Bytes(QUEUED),
        _ if name == command => reply(),
        ("HKEYS", _) => Reply::Bytes(b"*1\r\n$3\r\nq-1\r\n"),
        (_, answer) => answer.map_or(Reply::Nothing, Reply::Bytes),
    });
    let mut persistence = options(&server).build().expect("good options");
    let started = Instant::now();
    let error = persistence.open(CLIENT, SERVER).expect_err("is refused");
    let kind = Error::in_mqtt(&error).expect("an error of ours").kind();
    let took = started.elapsed();
    drop(persistence);
    let sent = server.sent();
    (kind, took, sent)
}

#[test]
fn endless_reply_to_control_command_is_bounded() {
    for reply in [
        || Reply::Endless(b"+", &[b'x'; 4096], MOST),
        || Reply::Endless(b"-ERR ", &[b'x'; 4096], MOST),
        || Reply::Endless(b"$500000000\r\n", &[b'x'; 4096], MOST),
        || Reply::Endless(b"*500000000\r\n", b":1\r\n:1\r\n:1\r\n:1\r\n", MOST),
    ] {
        let (kind, took, sent) = refused("TYPE", reply);
        assert_eq!(kind, ErrorKind::Protocol);
        assert!(took < AMPLE / 2, "{took:?}");
        assert!(sent < 8 * MIB + ON_THE_WAY, "{sent} bytes");
    }
}

#[test]
fn announced_value_beyond_bound_is_refused_at_once() {
    let (kind, took, _) = refused("HMGET", || Reply::Bytes(b"*1\r\n$536870912\r\n"));
    assert_eq!(kind, ErrorKind::Protocol);
    assert!(took < AMPLE / 2, "{took:?}");
}

#[test]
fn sent_value_beyond_bound_is_not_read() {
    let (kind, took, sent) = refused("HMGET", || {
        Reply::Endless(b"*1\r\n$500000000\r\n", &[b'x'; 4096], MOST)
    });
    assert_eq!(kind, ErrorKind::Protocol);
    assert!(sent < ON_THE_WAY, "{sent} bytes in {took:?}");
}

#[test]
fn endless_list_of_keys_is_bounded() {
    let (kind, took, sent) = refused("HKEYS", || {
        Reply::Endless(b"*1000000000\r\n", b"$3\r\nq-1\r\n", MOST)
    });
    assert_eq!(kind, ErrorKind::Protocol);
    assert!(sent < ON_THE_WAY, "{sent} bytes in {took:?}");
    // Keys that are too long, in a number that is possible.
    let (kind, took, sent) = refused("HKEYS", || {
        Reply::Endless(
            b"*1000000\r\n",
            concat!(
                "$64\r\n",
                "0123456789012345678901234567890123456789012345678901234567890123\r\n",
            )
            .as_bytes(),
            MOST,
        )
    });
    assert_eq!(kind, ErrorKind::Protocol);
    assert!(sent < 64 * MIB + ON_THE_WAY, "{sent} bytes in {took:?}");
}
