//! Redis over TLS works where its certificate is trusted, and says that it is the certificate where it is not.

#![cfg(feature = "tls")]

mod support;

use std::{
    env,
    error::Error as StdError,
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Command,
    time::Duration,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{Error, ErrorKind, RedisPersistence};
use redis::TypedCommands;
use support::{LIMIT, RedisServer, eventually};

const CLIENT: &str = "device";
const BROKER: &str = "mqtt://127.0.0.1:1883";
const PASSWORD: &str = "Zq7xKv2w";

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                panic!("openssl is not installed: it is in the Debian package openssl")
            }
            _ => panic!("cannot run openssl: {error}"),
        });
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}:\n{log}");
}

/// An authority with that name, as `NAME.crt` and `NAME.key`.
fn make_authority(dir: &Path, name: &str) {
    fs::write(
        dir.join("authority.cnf"),
        "[req]\ndistinguished_name = name\nx509_extensions = authority\n[name]\n\
         [authority]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = keyCertSign\n\
         subjectKeyIdentifier = hash\n",
    )
    .unwrap();
    openssl(
        dir,
        &format!(
            "req -x509 -config authority.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
             -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"
        ),
    );
}

/// A certificate of that authority for this machine, as `server.crt` and `server.key`.
fn make_certificate(dir: &Path, authority: &str) {
    let extensions = "subjectAltName = DNS:localhost, IP:127.0.0.1\n";
    fs::write(dir.join("server.cnf"), extensions).unwrap();
    openssl(
        dir,
        "req -new -config authority.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
         -subj /CN=localhost -keyout server.key -out server.csr",
    );
    openssl(
        dir,
        &format!(
            "x509 -req -in server.csr -CA {authority}.crt -CAkey {authority}.key -set_serial 1 \
             -days 2 -extfile server.cnf -out server.crt"
        ),
    );
}

fn set(connection: &mut redis::Connection, name: &str, value: &str) -> redis::RedisResult<()> {
    redis::cmd("CONFIG")
        .arg(&["SET", name, value])
        .exec(connection)
}

/// Has a Redis that runs listen with TLS, and gives the port.
fn listen_with_tls(redis: &RedisServer, connection: &mut redis::Connection) -> u16 {
    let file = |name: &str| redis.dir().join(name).display().to_string();
    set(connection, "bind", "127.0.0.1 127.0.0.2").unwrap();
    redis::cmd("CONFIG")
        .arg("SET")
        .arg(&["tls-cert-file", &file("server.crt")])
        .arg(&["tls-key-file", &file("server.key")])
        .arg(&["tls-ca-cert-file", &file("trusted.crt")])
        .arg(&["tls-auth-clients", "no"])
        .exec(connection)
        .expect("a Redis that has TLS built in");
    eventually(LIMIT, "Redis listens on a free port", || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        set(connection, "tls-port", &port.to_string()).ok()?;
        Some(port)
    })
}

fn at(url: &str) -> RedisPersistence {
    RedisPersistence::builder()
        .url(url)
        .connect_timeout(Duration::from_secs(10))
        .operation_timeout(Duration::from_secs(10))
        .build()
        .unwrap()
}

/// Checks that it cannot be connected to and that the text names the address and this.
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
fn a_certificate_is_checked_against_those_that_are_trusted() {
    let redis = RedisServer::start();
    make_authority(redis.dir(), "trusted");
    make_authority(redis.dir(), "another");
    make_certificate(redis.dir(), "trusted");
    let mut connection = redis.connection();
    let port = listen_with_tls(&redis, &mut connection);
    set(&mut connection, "requirepass", PASSWORD).unwrap();
    let url = format!("rediss://:{PASSWORD}@127.0.0.1:{port}/1");
    let address = format!("rediss://127.0.0.1:{port}/1");

    trust(&redis.dir().join("another.crt"));
    is_refused(&url, &address, "certificate: UnknownIssuer");
    trust(&redis.dir().join("missing.crt"));
    is_refused(&url, &address, "SSL_CERT_FILE");

    trust(&redis.dir().join("trusted.crt"));
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

/// Has everything in this process trust that file only.
#[allow(unsafe_code)]
fn trust(file: &Path) {
    // SAFETY: this is the only test of its binary, and no other thread that it starts reads or writes the environment.
    unsafe {
        env::set_var("SSL_CERT_FILE", file);
        env::remove_var("SSL_CERT_DIR");
    }
}
