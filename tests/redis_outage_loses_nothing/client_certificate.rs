//! A Redis that asks for a certificate of the client is used with one, and the error names the file of one that it refuses.

use std::{error::Error as StdError, fs};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{Error, ErrorKind, RedisPersistence, RedisPersistenceBuilder};
use redis::TypedCommands;
use testkit::{
    LIMIT, RedisServer,
    certificates::{make_authority, make_certificate},
    record,
};

const CLIENT: &str = "device";
const SERVER: &str = "127.0.0.1:1883";
const HASH: &str = "device:127.0.0.1:1883";

/// Options for a Redis that asks for a certificate, without one.
fn options(redis: &RedisServer, port: u16) -> RedisPersistenceBuilder {
    RedisPersistence::builder()
        .url(format!("rediss://127.0.0.1:{port}/"))
        .ca_file(redis.dir().join("trusted.crt"))
        .connect_timeout(LIMIT)
        .operation_timeout(LIMIT)
}

#[test]
fn renewed_client_certificate_ends_outage() {
    let redis = RedisServer::start();
    let port = redis.listen_with_tls(true);
    let file = |name: &str| redis.dir().join(name);
    make_certificate(redis.dir(), "trusted", "device");
    let options = options(&redis, port)
        .client_certificate_file(file("device.crt"))
        .client_key_file(file("device.key"));
    let mut persistence = options.build().expect("good options");
    persistence.connect(CLIENT, SERVER).expect("connects");
    persistence.open(CLIENT, SERVER).expect("opens");
    persistence
        .put("q-1", vec![&record("q-1", b"x")])
        .expect("stored");

    make_authority(redis.dir(), "another");
    make_certificate(redis.dir(), "another", "device");
    let mut connection = redis.connection();
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal"])
        .exec(&mut connection)
        .expect("CLIENT KILL");
    persistence
        .put("q-2", vec![&record("q-2", b"x")])
        .expect("kept");
    let health = persistence.health();
    testkit::eventually(LIMIT, "the certificate is refused", || {
        let error = health.last_error()?;
        (error.kind() == ErrorKind::Tls).then_some(())
    });

    make_certificate(redis.dir(), "trusted", "device");
    health.flush(LIMIT).expect("written to Redis");
    assert_eq!(connection.hlen(HASH).expect("HLEN"), 2);
}

#[test]
fn unusable_client_certificate_is_named() {
    let redis = RedisServer::start();
    let port = redis.listen_with_tls(true);
    let file = |name: &str| redis.dir().join(name);
    make_certificate(redis.dir(), "trusted", "device");
    make_certificate(redis.dir(), "trusted", "other");
    make_authority(redis.dir(), "another");
    make_certificate(redis.dir(), "another", "stranger");
    fs::write(file("empty.key"), "").expect("written");
    let connect = |options: RedisPersistenceBuilder| -> Error {
        let mut persistence = options.build().expect("good options");
        persistence
            .connect(CLIENT, SERVER)
            .expect_err("must be refused")
    };
    let shown = |error: &Error| {
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        let cause = error.source().expect("a cause");
        format!("{error}: {cause}")
    };

    let without = shown(&connect(options(&redis, port)));
    assert!(without.contains("client_certificate_file"), "{without}");
    for (certificate, key, named) in [
        ("stranger.crt", "stranger.key", "alert"),
        ("missing.crt", "device.key", "the client_certificate_file /"),
        (
            "device.key",
            "device.key",
            "device.key: it has no certificate",
        ),
        ("device.crt", "missing.key", "the client_key_file /"),
        (
            "device.crt",
            "empty.key",
            "empty.key: it has no private key",
        ),
        ("device.crt", "other.key", "other.key: "),
    ] {
        let options = options(&redis, port)
            .client_certificate_file(file(certificate))
            .client_key_file(file(key));
        let text = shown(&connect(options));
        assert!(text.contains(named), "{text}");
    }

    for (options, named) in [
        (
            options(&redis, port).client_certificate_file("device.crt"),
            "option client_certificate_file: its private key is missing",
        ),
        (
            options(&redis, port).client_key_file("device.key"),
            "option client_key_file: its certificate is missing",
        ),
        (
            RedisPersistence::builder().client_certificate_file("device.crt"),
            "option client_certificate_file: the URL is one without TLS",
        ),
    ] {
        let error = options.build().expect_err("must be refused");
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains(named), "{error}");
    }
}
