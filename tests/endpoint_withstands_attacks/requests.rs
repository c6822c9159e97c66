//! The endpoint admits valid credentials only, reports whether the stores can be used, and survives faulty collectors.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use paho_mqtt_redis::{
    Error, ErrorKind, MetricsServer,
    prometheus::{
        IntCounter, IntGaugeVec, Opts, Registry,
        core::{Collector, Desc},
        proto::{Metric, MetricFamily},
    },
    render,
};
use tempfile::TempDir;
use testkit::{
    LIMIT, REQUEST, answer, answer_bytes, body, connected, eventually, header, registry, sent,
    status,
};

const ANY: &str = "127.0.0.1:0";

fn request(line: &str, headers: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: device\r\n{headers}\r\n").into_bytes()
}

fn with(server: &MetricsServer, headers: &str) -> String {
    sent(
        server.local_addr().unwrap(),
        &request("GET /metrics", headers),
    )
}

#[track_caller]
fn refused(bound: Result<MetricsServer, Error>, kind: ErrorKind, named: &str) {
    let error = bound.expect_err("refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(named), "{error}");
}

#[test]
fn request_without_token_is_refused() {
    let (registry, _persistence) = registry();
    let builder = MetricsServer::builder(registry).bearer_token("t0ken");
    let server = builder.bind(ANY).unwrap();
    let address = server.local_addr().unwrap();
    for line in [
        "GET /metrics",
        "GET /",
        "GET /-/healthy",
        "GET /-/ready",
        "GET /other",
        "POST /metrics",
    ] {
        for headers in [
            "",
            "Authorization: Bearer\r\n",
            "Authorization: Bearer other\r\n",
            "Authorization: Bearer t0ken2\r\n",
            "Authorization: Bearer t0ke\r\n",
            "Authorization: Bearer t0kent0ken\r\n",
            "Authorization: t0ken\r\n",
            "Authorization: Basic t0ken\r\n",
            "Proxy-Authorization: Bearer t0ken\r\n",
        ] {
            let answer = sent(address, &request(line, headers));
            assert_eq!(status(&answer), "401", "{line} {headers}");
            assert_eq!(
                header(&answer, "WWW-Authenticate"),
                Some("Bearer realm=\"metrics\"")
            );
            assert!(body(&answer).starts_with("401 Unauthorized\nSend a token"));
        }
    }
    for headers in [
        "Authorization: Bearer t0ken\r\n",
        "authorization: bearer t0ken\r\n",
        "Authorization: bearer  t0ken\r\n",
    ] {
        let answer = with(&server, headers);
        assert_eq!(status(&answer), "200", "{headers}");
        assert!(body(&answer).contains("device-1"));
        let answer = sent(address, &request("GET /other", headers));
        assert_eq!(status(&answer), "404", "{headers}");
    }
}

#[test]
fn missing_password_is_challenged_with_basic_auth() {
    let builder = MetricsServer::builder(registry().0).basic_auth("me", "pass:wörd");
    let server = builder.bind(ANY).unwrap();
    let asked = with(&server, "");
    assert_eq!(status(&asked), "401");
    assert_eq!(
        header(&asked, "WWW-Authenticate"),
        Some("Basic realm=\"metrics\"")
    );
    // me:pass:wörd
    let answer = with(&server, "Authorization: Basic bWU6cGFzczp3w7ZyZA==\r\n");
    assert_eq!(status(&answer), "200");
    let other = with(&server, "Authorization: Basic bWU6cGFzczp3w7ZyZB==\r\n");
    assert_eq!(status(&other), "401");
}

#[test]
fn each_secret_from_files_grants_access() {
    let folder = TempDir::new().unwrap();
    let token = folder.path().join("token");
    let pair = folder.path().join("pair");
    fs::write(&token, "t0ken\n").unwrap();
    fs::write(&pair, "me:secret\r\n").unwrap();
    let server = MetricsServer::builder(registry().0)
        .bearer_token_file(&token)
        .basic_auth_file(&pair)
        .bind(ANY)
        .unwrap();
    for (headers, expected) in [
        ("Authorization: Bearer t0ken\r\n", "200"),
        ("Authorization: Basic bWU6c2VjcmV0\r\n", "200"),
        ("Authorization: Bearer bWU6c2VjcmV0\r\n", "401"),
        ("", "401"),
    ] {
        assert_eq!(status(&with(&server, headers)), expected, "{headers}");
    }
}

#[test]
fn changed_token_file_applies_without_restart() {
    let folder = TempDir::new().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "first\n").unwrap();
    let builder = MetricsServer::builder(registry().0).bearer_token_file(&token);
    let server = builder.bind(ANY).unwrap();
    let asked = |token: &str| {
        let answer = with(&server, &format!("Authorization: Bearer {token}\r\n"));
        status(&answer).to_owned()
    };
    assert_eq!(asked("second"), "401");
    fs::write(&token, "second\n").unwrap();
    eventually(LIMIT, "the new one is let in", || {
        (asked("second") == "200").then_some(())
    });
    assert_eq!(asked("first"), "401");
}

#[test]
fn unusable_files_keep_previous_credentials() {
    /// Longer than the interval in which files are checked.
    const INTERVAL: Duration = Duration::from_millis(1100);
    let folder = TempDir::new().unwrap();
    let [token, pair] = ["token", "pair"].map(|name| folder.path().join(name));
    fs::write(&token, "first").unwrap();
    fs::write(&pair, "me:first").unwrap();
    let server = MetricsServer::builder(registry().0)
        .bearer_token_file(&token)
        .basic_auth_file(&pair)
        .bind(ANY)
        .unwrap();
    let accepted = || {
        thread::sleep(INTERVAL);
        let mut tokens = vec!["first", "second", "third"];
        tokens.retain(|token| {
            status(&with(
                &server,
                &format!("Authorization: Bearer {token}\r\n"),
            )) == "200"
        });
        tokens
    };
    fs::write(&token, "second").unwrap();
    assert_eq!(accepted(), ["second"]);
    // A file is empty while another program writes it.
    fs::write(&token, "").unwrap();
    assert_eq!(accepted(), ["second"]);
    fs::remove_file(&token).unwrap();
    assert_eq!(accepted(), ["second"]);
    make_pipe(&token);
    assert_eq!(
        accepted(),
        ["second"],
        "no program ever writes to this pipe"
    );
    fs::remove_file(&token).unwrap();
    fs::write(&token, "third").unwrap();
    fs::write(&pair, "nonsense").unwrap();
    assert_eq!(accepted(), ["second"], "all or nothing");
    fs::write(&pair, "me:third").unwrap();
    assert_eq!(accepted(), ["third"]);
}

fn make_pipe(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}

#[test]
fn token_in_pipe_is_read_once() {
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("token");
    make_pipe(&pipe);
    let writer = {
        let pipe = pipe.clone();
        thread::spawn(move || fs::write(pipe, "t0ken\n").unwrap())
    };
    let builder = MetricsServer::builder(registry().0).bearer_token_file(&pipe);
    let server = builder.bind(ANY).unwrap();
    writer.join().unwrap();
    for _ in 0..2 {
        let answer = with(&server, "Authorization: Bearer t0ken\r\n");
        assert_eq!(status(&answer), "200");
        // Longer than the interval in which files are checked.
        thread::sleep(Duration::from_millis(1100));
    }
}

#[test]
fn unusable_secret_is_refused_and_not_shown() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing");
    let empty = folder.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let builder = || MetricsServer::builder(Registry::new());
    let invalid = ErrorKind::InvalidOption;
    refused(
        builder().bearer_token("").bind(ANY),
        invalid,
        "bearer_token",
    );
    refused(
        builder().bearer_token("a b").bind(ANY),
        invalid,
        "bearer_token",
    );
    refused(
        builder().basic_auth("", "p").bind(ANY),
        invalid,
        "basic_auth",
    );
    refused(
        builder().basic_auth("u:v", "p").bind(ANY),
        invalid,
        "basic_auth",
    );
    refused(
        builder().bearer_token_file(&missing).bind(ANY),
        invalid,
        "missing",
    );
    refused(
        builder().bearer_token_file(&empty).bind(ANY),
        invalid,
        "bearer_token_file: ",
    );
    refused(
        builder().bearer_token_file(&empty).bind(ANY),
        invalid,
        "empty is empty; a token is ",
    );
    refused(
        builder().basic_auth_file(&empty).bind(ANY),
        invalid,
        "basic_auth_file",
    );
    let builder = builder()
        .bearer_token("Zq7xKv2w s")
        .basic_auth("u", "Zq7xKv2w");
    assert!(!format!("{builder:?}").contains("Zq7xKv2w"));
    let error = builder.bind(ANY).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("Zq7xKv2w"));
}

#[test]
fn gzip_client_gets_same_text_compressed() {
    let registry = Registry::new();
    let sizes = IntGaugeVec::new(Opts::new("sizes", "Sizes."), &["room"]).unwrap();
    registry.register(Box::new(sizes.clone())).unwrap();
    for room in 0..300 {
        sizes.with_label_values(&[format!("room {room}")]).set(room);
    }
    let server = MetricsServer::bind(ANY, registry.clone()).unwrap();
    let get = |headers: &str| {
        let mut stream = connected(server.local_addr().unwrap());
        stream.write_all(&request("GET /metrics", headers)).unwrap();
        let answer = answer_bytes(&mut stream);
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap()
            + 4;
        (
            String::from_utf8(answer[..end].to_vec()).unwrap(),
            answer[end..].to_vec(),
        )
    };
    let (head, compressed) = get("Accept-Encoding: deflate, gzip\r\n");
    assert_eq!(header(&head, "Content-Encoding"), Some("gzip"));
    assert_eq!(
        header(&head, "Content-Length"),
        Some(&*compressed.len().to_string())
    );
    assert_eq!(header(&head, "Vary"), Some("Accept-Encoding"));
    let mut text = String::new();
    GzDecoder::new(&*compressed)
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, render(&registry).unwrap());
    assert!(compressed.len() * 4 < text.len(), "{}", compressed.len());

    for coded in ["GZIP", "deflate, gzip;q=0.5, br", "gzip;q=0.001"] {
        let (head, again) = get(&format!("Accept-Encoding: {coded}\r\n"));
        assert_eq!(header(&head, "Content-Encoding"), Some("gzip"), "{coded}");
        assert_eq!(again, compressed, "{coded}");
    }
    for plainly in [
        "",
        "Accept-Encoding: gzip;q=0\r\n",
        "Accept-Encoding: gzip; q=0.000\r\n",
        "Accept-Encoding: xgzip\r\n",
        "Accept-Encoding: br\r\n",
    ] {
        let (head, plain) = get(plainly);
        assert_eq!(header(&head, "Content-Encoding"), None, "{plainly}");
        assert_eq!(plain, text.as_bytes(), "{plainly}");
    }
}

#[test]
fn every_response_has_security_headers() {
    let server = MetricsServer::bind(ANY, registry().0).unwrap();
    for line in [
        "GET /metrics",
        "GET /-/ready",
        "HEAD /-/healthy",
        "GET /x",
        "PUT /metrics",
        "\0",
    ] {
        let answer = sent(server.local_addr().unwrap(), &request(line, ""));
        for (name, value) in [
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ] {
            assert_eq!(header(&answer, name), Some(value), "{line}");
        }
        let policy = header(&answer, "Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
    }
}

#[test]
fn readiness_follows_state_of_every_store() {
    let registry = Registry::new();
    let server = MetricsServer::bind(ANY, registry.clone()).unwrap();
    let ready = || sent(server.local_addr().unwrap(), &request("GET /-/ready", ""));
    let healthy = || sent(server.local_addr().unwrap(), &request("GET /-/healthy", ""));
    assert_eq!(status(&ready()), "200", "there is no store");

    let up = IntGaugeVec::new(
        Opts::new("mqtt_persistence_store_up", "Store is available"),
        &["client_id", "site"],
    )
    .unwrap();
    registry.register(Box::new(up.clone())).unwrap();
    for (client, is_up, expected) in [
        ("one", 1, "200"),
        ("two\n\"", 0, "503"),
        ("three", 0, "503"),
    ] {
        up.with_label_values(&[client, "north"]).set(is_up);
        assert_eq!(status(&ready()), expected, "{client}");
        assert_eq!(status(&healthy()), "200", "{client}");
    }
    let answer = ready();
    assert!(
        body(&answer).contains(r#"store of client "two\n\"" is down: not open yet, or closed; if"#),
        "{answer}"
    );
    assert!(
        body(&answer).contains(r#"client "three" is down: not open yet, or closed; if"#),
        "{answer}"
    );
    assert!(!body(&answer).contains("one"), "{answer}");
    let head = sent(server.local_addr().unwrap(), &request("HEAD /-/ready", ""));
    assert_eq!((status(&head), body(&head)), ("503", ""));
    up.reset();
    assert_eq!(status(&ready()), "200");
}

/// Collector that fails as a test selects.
#[derive(Clone)]
struct Faulty {
    counter: IntCounter,
    fault: Arc<dyn Fn() -> Vec<MetricFamily> + Send + Sync>,
}

impl Collector for Faulty {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        (self.fault)()
    }
}

fn faulty(fault: impl Fn() -> Vec<MetricFamily> + Send + Sync + 'static) -> Registry {
    let (registry, _) = registry();
    let counter = IntCounter::new("faulty_total", "Fails.").unwrap();
    let fault = Arc::new(fault);
    registry
        .register(Box::new(Faulty { counter, fault }))
        .unwrap();
    registry
}

#[test]
fn panicking_collector_gives_500_and_server_survives() {
    let panics = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&panics);
    let registry = faulty(move || {
        assert!(!switch.load(Ordering::Relaxed), "as the test wants it");
        Vec::new()
    });
    let server = MetricsServer::bind(ANY, registry.clone()).unwrap();
    for _ in 0..3 {
        let answer = with(&server, "");
        assert_eq!(status(&answer), "500");
        assert_eq!(body(&answer), "500 Internal Server Error\n");
        let healthy = sent(server.local_addr().unwrap(), &request("GET /-/healthy", ""));
        assert_eq!(status(&healthy), "200");
    }
    assert_eq!(render(&registry).unwrap_err().kind(), ErrorKind::Render);
    panics.store(false, Ordering::Relaxed);
    assert_eq!(status(&with(&server, "")), "200");
}

#[test]
fn invalid_collector_output_gives_500() {
    // A family without a name cannot be written.
    let registry = faulty(|| {
        let mut family = MetricFamily::default();
        family.mut_metric().push(Metric::default());
        vec![family]
    });
    let server = MetricsServer::bind(ANY, registry.clone()).unwrap();
    assert_eq!(status(&with(&server, "")), "500");
    assert_eq!(render(&registry).unwrap_err().kind(), ErrorKind::Render);
}

#[test]
fn endless_collector_blocks_neither_others_nor_drop() {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let (_never, waits) = mpsc::channel::<()>();
    let waits = std::sync::Mutex::new(waits);
    let registry = faulty(move || {
        // The thread ends with the test.
        let _ = waits.lock().unwrap().recv();
        Vec::new()
    });
    let server = MetricsServer::builder(registry)
        .response_timeout(TIMEOUT)
        .bind(ANY)
        .unwrap();
    for _ in 0..3 {
        assert_eq!(status(&with(&server, "")), "503");
        let healthy = sent(server.local_addr().unwrap(), &request("GET /-/healthy", ""));
        assert_eq!(status(&healthy), "200");
    }
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
}

fn over(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(REQUEST).unwrap();
    answer(&mut stream)
}

#[test]
fn unix_socket_is_served_with_its_permissions() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.sock");
    for mode in [0o600, 0o660, 0o666] {
        let builder = MetricsServer::builder(registry().0);
        let server = builder.bind_unix(&path, mode).unwrap();
        assert_eq!(server.unix_path(), Some(&*path));
        assert_eq!(server.local_addr(), None);
        let found = fs::metadata(&path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o777, mode);
        assert_eq!(status(&over(&path)), "200");
        drop(server);
        assert!(!path.exists());
    }
}

#[test]
fn unix_socket_is_replaced_only_if_nobody_listens() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("metrics.sock");
    let builder = || MetricsServer::builder(registry().0);
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket, as of a killed program");
    let server = builder().bind_unix(&path, 0o600).unwrap();
    assert_eq!(status(&over(&path)), "200");
    refused(
        builder().bind_unix(&path, 0o600),
        ErrorKind::Bind,
        "metrics.sock",
    );
    assert_eq!(status(&over(&path)), "200");

    // A file that replaced its socket meanwhile is not removed.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(server);
    assert!(path.exists());
    drop(other);

    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    refused(
        builder().bind_unix(&file, 0o600),
        ErrorKind::Bind,
        "not a socket",
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let nowhere = folder.path().join("missing/metrics.sock");
    refused(
        builder().bind_unix(&nowhere, 0o600),
        ErrorKind::Bind,
        "missing",
    );
}

#[test]
fn pipelined_requests_get_one_response() {
    let server = MetricsServer::bind(ANY, registry().0).unwrap();
    let answer = sent(server.local_addr().unwrap(), &REQUEST.repeat(50));
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1);
    assert_eq!(header(&answer, "Connection"), Some("close"));
}

#[test]
fn reset_connections_do_not_end_program() {
    let server = MetricsServer::bind(ANY, registry().0).unwrap();
    for _ in 0..200 {
        let mut stream = connected(server.local_addr().unwrap());
        stream.write_all(REQUEST).unwrap();
        let socket = socket2::Socket::from(stream);
        // The connection is reset instead of closed.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    eventually(LIMIT, "it still serves", || {
        (status(&with(&server, "")) == "200").then_some(())
    });
}

#[test]
fn unread_long_responses_are_dropped_for_new_ones() {
    const LENGTH: usize = 8 << 20;
    let registry = Registry::new();
    let counter = IntCounter::new("long_total", "x".repeat(LENGTH)).unwrap();
    registry.register(Box::new(counter)).unwrap();
    let server = MetricsServer::builder(registry)
        .response_timeout(LIMIT)
        .bind(ANY)
        .unwrap();
    // Each request gets a text of its own, since rendering the previous one has begun.
    let mut readers: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = connected(server.local_addr().unwrap());
            stream.write_all(REQUEST).unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    let mut last = readers.pop().unwrap();
    let lengths: Vec<usize> = readers
        .iter_mut()
        .map(|stream| answer_bytes(stream).len())
        .collect();
    let last = answer_bytes(&mut last).len();
    assert!(
        lengths.iter().all(|length| *length < LENGTH) && last > LENGTH,
        "{lengths:?} and {last} of {LENGTH}"
    );
}
