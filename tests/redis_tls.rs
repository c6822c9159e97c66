//! Redis over TLS works if its certificate is trusted, and the error names the certificate otherwise.

use std::{env, error::Error as StdError, path::Path, time::Duration};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{Error, ErrorKind, RedisPersistence};
use redis::TypedCommands;
use testkit::{LIMIT, RedisServer, certificates::make_authority};

const CLIENT: &str = "device";
const BROKER: &str = "mqtt://127.0.0.1:1883";
const PASSWORD: &str = "Zq7xKv2w";

fn set(connection: &mut redis::Connection, name: &str, value: &str) -> redis::RedisResult<()> {
    redis::cmd("CONFIG")
        .arg(&["SET", name, value])
        .exec(connection)
}

fn at(url: &str) -> RedisPersistence {
    RedisPersistence::builder()
        .url(url)
        .connect_timeout(Duration::from_secs(10))
        .operation_timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

/// Asserts that connecting fails and that the error names the address and `named`.
#[track_caller]
fn is_refused(url: &str, address: &str, named: &str) {
    let error: Error = at(url).connect(CLIENT, BROKER).unwrap_err();
    let text = format!("{error}: {}", error.source().unwrap());
    assert_eq!(error.kind(), ErrorKind::Tls, "{text}");
    for part in [address, named] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(!format!("{text} {error:?}").contains(PASSWORD), "{text}");
}

#[test]
fn redis_certificate_must_be_trusted() {
    let redis = RedisServer::start();
    make_authority(redis.dir(), "another");
    let mut connection = redis.connection();
    set(&mut connection, "bind", "127.0.0.1 127.0.0.2").unwrap();
    let port = redis.listen_with_tls(false);
    set(&mut connection, "requirepass", PASSWORD).unwrap();
    let url = format!("rediss://:{PASSWORD}@127.0.0.1:{port}/1");
    let address = format!("rediss://127.0.0.1:{port}/1");

    trust(&redis.dir().join("another.crt"));
    is_refused(&url, &address, "certificate: UnknownIssuer");
    trust(&redis.dir().join("missing.crt"));
    is_refused(&url, &address, "SSL_CERT_FILE");

    let with_ca = |name: &str| {
        let options = RedisPersistence::builder().url(&url).connect_timeout(LIMIT);
        let mut persistence = options.ca_file(redis.dir().join(name)).build().unwrap();
        persistence.connect(CLIENT, BROKER)
    };
    with_ca("trusted.crt").unwrap();
    trust(&redis.dir().join("trusted.crt"));
    for (name, named) in [
        ("another.crt", "certificate: UnknownIssuer"),
        ("missing.crt", "missing.crt"),
        ("server.key", "server.key"),
    ] {
        let error = with_ca(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains(named), "{cause}");
    }

    let elsewhere = format!("rediss://:{PASSWORD}@127.0.0.2:{port}/1");
    is_refused(&elsewhere, "127.0.0.2", "certificate not valid for name");

    for url in [url, format!("valkeys://:{PASSWORD}@localhost:{port}/1")] {
        let mut persistence = at(&url);
        persistence.connect(CLIENT, BROKER).unwrap();
        persistence.open(CLIENT, "127.0.0.1:1883").unwrap();
        let value: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
        persistence.put("s-1", vec![&value]).unwrap();
        assert_eq!(persistence.get("s-1").unwrap(), value);
        persistence.close().unwrap();
    }
    redis::cmd("SELECT").arg(1).exec(&mut connection).unwrap();
    assert_eq!(connection.hlen("device:127.0.0.1:1883").unwrap(), 1);
}

/// Makes everything in this process trust this file only.
#[allow(unsafe_code)]
fn trust(file: &Path) {
    // SAFETY: this is the only test of its binary, and no other thread that it starts reads or writes the environment.
    unsafe {
        env::set_var("SSL_CERT_FILE", file);
        env::remove_var("SSL_CERT_DIR");
    }
}
