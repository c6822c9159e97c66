//! The endpoint over TLS, with and without client certificates.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use paho_mqtt_redis::{
    Error, ErrorKind, MetricsServer, MetricsServerBuilder,
    prometheus::{IntCounter, Registry},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tempfile::TempDir;
use testkit::{
    LIMIT, REQUEST, answer, body,
    certificates::{make_authority, make_certificate},
    connected, eventually, status,
};

const ANY: &str = "127.0.0.1:0";

/// Folder with an authority `trusted`, its certificates `server` and `client`, and `stranger` of another authority.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    for (authority, names) in [
        ("trusted", &["server", "client"][..]),
        ("another", &["stranger"]),
    ] {
        make_authority(folder.path(), authority);
        for name in names {
            make_certificate(folder.path(), authority, name);
        }
    }
    folder
}

fn builder(help: &str) -> MetricsServerBuilder {
    let registry = Registry::new();
    let counter = IntCounter::new("readings_total", help).unwrap();
    registry.register(Box::new(counter)).unwrap();
    MetricsServer::builder(registry)
}

fn served(folder: &Path) -> MetricsServerBuilder {
    builder("Readings.").tls(folder.join("server.crt"), folder.join("server.key"))
}

/// Client that trusts `trusted`, and presents the certificate with this name.
fn client(folder: &Path, name: Option<&str>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let file = |name: &str| folder.join(name);
    for root in CertificateDer::pem_file_iter(file("trusted.crt")).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = CertificateDer::pem_file_iter(file(&format!("{name}.crt"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
            builder
                .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                .unwrap()
        }
    })
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> Stream {
    let session = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap());
    StreamOwned::new(session.unwrap(), connected(address))
}

fn scrape(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<String> {
    let mut stream = open(address, config);
    stream.write_all(REQUEST)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn metrics_are_served_over_tls_and_not_in_plain_text() {
    let folder = folder();
    let server = served(folder.path())
        .bearer_token("t0ken")
        .bind(ANY)
        .unwrap();
    let address = server.local_addr().unwrap();
    let client = client(folder.path(), None);
    // Without the close_notify of TLS, which prevents truncation, this would be an error.
    assert_eq!(status(&scrape(address, &client).unwrap()), "401");
    let mut stream = open(address, &client);
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: device\r\nAuthorization: Bearer t0ken\r\n\r\n")
        .unwrap();
    let answer = answer(&mut stream);
    assert_eq!(status(&answer), "200");
    assert!(body(&answer).contains("readings_total 0"));

    let mut plain = connected(address);
    plain.write_all(REQUEST).unwrap();
    let mut answer = Vec::new();
    // The connection may be reset after the alert.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(answer.first(), Some(&21), "an alert");
}

#[test]
fn long_response_over_tls_arrives_whole() {
    let folder = folder();
    let help = "x".repeat(3 << 20);
    let server = builder(&help)
        .tls(
            folder.path().join("server.crt"),
            folder.path().join("server.key"),
        )
        .bind(ANY)
        .unwrap();
    let answer = scrape(server.local_addr().unwrap(), &client(folder.path(), None)).unwrap();
    assert!(body(&answer).contains(&help));
}

#[test]
fn renewed_certificate_is_used_without_restart() {
    let folder = folder();
    let server = served(folder.path()).bind(ANY).unwrap();
    let client = client(folder.path(), None);
    let shown = || {
        let mut stream = open(server.local_addr().unwrap(), &client);
        stream.write_all(REQUEST).unwrap();
        assert_eq!(status(&answer(&mut stream)), "200");
        let shown = stream.conn.peer_certificates().unwrap();
        shown[0].clone()
    };
    let on_disk = || CertificateDer::from_pem_file(folder.path().join("server.crt")).unwrap();
    let before = shown();
    assert_eq!(before, on_disk());
    make_certificate(folder.path(), "trusted", "server");
    assert_ne!(before, on_disk());
    eventually(LIMIT, "the new one is shown", || {
        (shown() == on_disk()).then_some(())
    });
}

#[test]
fn client_without_trusted_certificate_is_refused() {
    let folder = folder();
    let server = served(folder.path())
        .tls_client_authority(folder.path().join("trusted.crt"))
        .bind(ANY)
        .unwrap();
    let address = server.local_addr().unwrap();
    let known = client(folder.path(), Some("client"));
    assert_eq!(status(&scrape(address, &known).unwrap()), "200");
    for name in [None, Some("stranger")] {
        let unknown = client(folder.path(), name);
        let got = scrape(address, &unknown);
        assert!(got.is_err(), "{name:?}: {got:?}");
    }
    assert_eq!(status(&scrape(address, &known).unwrap()), "200");
}

#[track_caller]
fn refused(builder: MetricsServerBuilder, named: &[&str]) {
    let error: Error = builder.bind(ANY).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    for named in named {
        assert!(error.to_string().contains(named), "{named}: {error}");
    }
}

#[test]
fn unusable_tls_files_are_named_in_error() {
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    let tls = |certificate, key| builder("Readings.").tls(file(certificate), file(key));
    refused(
        tls("missing.crt", "server.key"),
        &["option tls", "missing.crt"],
    );
    refused(
        tls("server.crt", "missing.key"),
        &["option tls", "missing.key"],
    );
    refused(
        tls("server.key", "server.key"),
        &["no certificate", "server.key"],
    );
    refused(
        tls("server.crt", "server.crt"),
        &["option tls", "server.crt"],
    );
    refused(
        tls("server.crt", "client.key"),
        &["client.key does not match certificate", "server.crt"],
    );
    let authority = |name| served(folder.path()).tls_client_authority(file(name));
    refused(
        authority("missing.crt"),
        &["tls_client_authority", "missing.crt"],
    );
    refused(
        authority("server.key"),
        &["tls_client_authority", "no certificate"],
    );
    let mut half = fs::read(file("trusted.crt")).unwrap();
    half.extend_from_slice(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    fs::write(file("half.crt"), half).unwrap();
    refused(
        authority("half.crt"),
        &["tls_client_authority", "half.crt", "invalid authority"],
    );
    let alone = builder("Readings.").tls_client_authority(file("trusted.crt"));
    refused(alone, &["tls_client_authority", "option tls"]);
}

#[test]
fn half_handshake_is_evicted_or_times_out() {
    const TIMEOUT: Duration = Duration::from_millis(300);
    let folder = folder();
    let server = served(folder.path())
        .max_connections(2)
        .request_timeout(TIMEOUT)
        .bind(ANY)
        .unwrap();
    let address = server.local_addr().unwrap();
    let client = client(folder.path(), None);
    // Beginning of a handshake.
    let mut hello = Vec::new();
    let mut session =
        ClientConnection::new(Arc::clone(&client), "localhost".try_into().unwrap()).unwrap();
    session.write_tls(&mut hello).unwrap();
    let started = Instant::now();
    let mut half: Vec<TcpStream> = [0, 1, 40, hello.len()]
        .map(|length| {
            let mut stream = connected(address);
            stream.write_all(&hello[..length]).unwrap();
            stream
        })
        .into();
    assert_eq!(status(&scrape(address, &client).unwrap()), "200");
    for stream in &mut half {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    let took = started.elapsed();
    // The default would be 5 s.
    assert!(took < TIMEOUT + Duration::from_secs(4), "{took:?}");
    eventually(LIMIT, "it serves", || {
        (status(&scrape(address, &client).ok()?) == "200").then_some(())
    });
}
