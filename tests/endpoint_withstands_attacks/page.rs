//! The page for people, as the server sends it.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    ErrorKind, Instrumented, MemoryPersistence, MemoryStore, MetricsServer, Persistence,
    PersistenceMetrics, StoreEvent, StoreObserver,
    prometheus::{Gauge, Opts, Registry},
};
use testkit::{body, header, sent, status};

pub const ANY: &str = "127.0.0.1:0";
/// Request for the page.
pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: device\r\n\r\n";
const READY: &[u8] = b"GET /-/ready HTTP/1.1\r\nHost: device\r\n\r\n";

/// Endpoint with the metrics of some clients.
pub struct Page {
    pub server: MetricsServer,
    pub metrics: PersistenceMetrics,
}

impl Page {
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).unwrap();
        let server = MetricsServer::bind(ANY, registry).unwrap();
        Self { server, metrics }
    }

    pub fn client(&self, id: &str) -> Instrumented<Persistence<MemoryStore>> {
        let mut persistence = MemoryPersistence::new().instrument(&self.metrics);
        persistence.open(id, "uri").unwrap();
        persistence
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address())
    }

    /// Gets the page.
    fn get(&self) -> String {
        sent(self.address(), GET)
    }

    /// Reports an event of a store.
    pub fn report(&self, id: &str, event: &StoreEvent) {
        self.metrics.on_event(id, event);
    }
}

/// Time of a metric that was this long ago.
fn seconds_ago(seconds: f64) -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs_f64() - seconds
}

/// Name of a gauge, a further label if it has one, and its value.
type NamedGauge<'a> = (&'a str, Option<(&'a str, &'a str)>, f64);

/// Endpoint with gauges of the client `device-1`.
fn serve(gauges: &[NamedGauge<'_>]) -> MetricsServer {
    let registry = Registry::new();
    for (name, label, value) in gauges {
        let opts = Opts::new(format!("mqtt_persistence_{name}"), "help");
        let opts = opts.const_label("client_id", "device-1");
        let opts = label
            .iter()
            .fold(opts, |opts, (name, value)| opts.const_label(*name, *value));
        let gauge = Gauge::with_opts(opts).unwrap();
        gauge.set(*value);
        registry.register(Box::new(gauge)).unwrap();
    }
    MetricsServer::bind(ANY, registry).unwrap()
}

/// Endpoint of a client whose store has been down for 28 s, with this error if it is known.
pub fn serve_outage(error: Option<&str>) -> MetricsServer {
    let mut gauges = vec![
        ("store_up", None, 0.0),
        ("store_changed_timestamp_seconds", None, seconds_ago(28.0)),
        ("store_held_records", None, 3.0),
        ("store_held_bytes", None, 2048.0),
        (
            "store_last_confirmed_timestamp_seconds",
            None,
            seconds_ago(300.0),
        ),
        ("store_errors_total", None, 4.0),
        ("build_info", Some(("store", "redis")), 1.0),
    ];
    gauges.extend(error.map(|error| ("store_down_info", Some(("error", error)), 1.0)));
    serve(&gauges)
}

/// Asserts that the page has a part, or lacks it.
#[track_caller]
fn check(server: &MetricsServer, part: &str, expected: bool) {
    let page = sent(server.local_addr().unwrap(), GET);
    assert_eq!(body(&page).contains(part), expected, "{part} in {page}");
}

#[test]
fn limit_is_hidden_unless_set() {
    let server = serve(&[
        ("store_queued_messages", None, 8.0),
        ("store_limit_messages", None, 10.0),
        ("store_waiting_bytes", None, 2048.0),
        ("store_limit_bytes", None, 0.0),
    ]);
    check(&server, "<dt>Not sent yet</dt><dd>8 of 10</dd>", true);
    check(&server, "Byte budget", false);
}

#[test]
fn broker_is_shown_by_its_state() {
    for (up, next_attempt, mark, shown) in [
        (1.0, 0.0, "words", "connected for 40 s</dd>"),
        (0.0, 0.0, "words bad", "away for 40 s</dd>"),
        (
            0.0,
            seconds_ago(-12.5),
            "words bad",
            "away for 40 s, next attempt in 12 s</dd>",
        ),
    ] {
        let server = serve(&[
            ("broker_up", None, up),
            ("broker_changed_timestamp_seconds", None, seconds_ago(40.0)),
            ("broker_next_attempt_timestamp_seconds", None, next_attempt),
        ]);
        let tile = format!("<div class=\"{mark}\"><dt>Broker</dt><dd>{shown}");
        check(&server, &tile, true);
    }
    // The lean profile leaves it out.
    let server = serve(&[("store_up", None, 1.0)]);
    check(&server, "<dt>Broker</dt><dd>not known</dd>", true);
}

#[test]
fn records_only_in_memory_are_marked_in_lean_profile() {
    for (bytes, mark) in [(5.0, "bad"), (0.0, "")] {
        let server = serve(&[("store_up", None, 1.0), ("store_held_bytes", None, bytes)]);
        let tile = format!("<div class=\"{mark}\"><dt>Only in memory</dt>");
        check(&server, &tile, true);
    }
}

#[test]
fn version_is_shown_only_if_known() {
    let page = Page::new();
    let client = page.client("device-1");
    check(&page.server, ", store memory</span>", true);
    drop(client);
    page.report("device-1", &StoreEvent::opened(0));
    check(&page.server, "data-client=\"device-1\"", true);
    check(&page.server, ", store", false);
}

#[test]
fn shared_label_shows_each_reason() {
    let kinds = [ErrorKind::Connection, ErrorKind::OutOfMemory];
    let errors = kinds.map(|kind| ("store_down_info", Some(("error", kind.as_str())), 1.0));
    let server = serve(&[("store_up", None, 0.0), errors[0], errors[1]]);
    let ready = sent(server.local_addr().unwrap(), READY);
    for kind in kinds {
        let reason = format!("{}; {}", kind.meaning(), kind.advice());
        check(&server, &reason, true);
        assert!(body(&ready).contains(&reason), "{ready}");
    }
    assert_eq!(body(&ready).lines().count(), 1, "{ready}");
    let state = "data-state=\"Store down: connection, out_of_memory\"";
    check(&server, state, true);
}

#[test]
fn outage_is_marked_with_its_reason() {
    let reason = format!(
        "{}; {}",
        ErrorKind::Connection.meaning(),
        ErrorKind::Connection.advice()
    );
    for (error, shown) in [
        (Some("connection"), &reason[..]),
        (Some("of_a_later_version"), "of_a_later_version"),
        (
            None,
            "not open yet, or closed; if opening failed, the log has the reason",
        ),
    ] {
        let server = serve_outage(error);
        for part in [
            "<title>Store down – MQTT persistence</title>",
            "<section class=\"down\"",
            ">Store down</p><span class=\"dim\">for 28 s</span>",
            "<div class=\"bad\"><dt>Only in memory</dt><dd>3 (2.0 KiB)</dd>",
            "<div class=\"bad\"><dt>Last confirmed</dt><dd>5 min ago</dd>",
            "<div class=\"bad\"><dt>Store errors</dt><dd>4</dd>",
            &format!("aria-live=\"polite\">{shown}</p>"),
        ] {
            check(&server, part, true);
        }
        let ready = sent(server.local_addr().unwrap(), READY);
        assert_eq!(status(&ready), "503");
        assert_eq!(
            body(&ready),
            format!("store of client \"device-1\" is down for 28 s: {shown}\n")
        );
    }
    let server = serve(&[("store_up", None, 1.0), ("store_held_records", None, 0.0)]);
    check(&server, "<section class=\"up\"", true);
    check(&server, "<div class=\"bad\">", false);
}

#[test]
fn unauthorized_person_learns_what_to_send() {
    const BROWSER: &str = "A browser cannot: it needs a user and password";
    let builder = || MetricsServer::builder(Registry::new());
    for (builder, expected, missing) in [
        (
            builder().bearer_token("token"),
            BROWSER,
            "as a browser does",
        ),
        (
            builder().basic_auth("me", "secret"),
            "Send a user and password",
            "token",
        ),
        (
            builder().basic_auth("me", "secret").bearer_token("token"),
            "or a token",
            BROWSER,
        ),
    ] {
        let server = builder.bind(ANY).unwrap();
        let answer = sent(server.local_addr().unwrap(), GET);
        assert_eq!(status(&answer), "401");
        assert!(body(&answer).contains(expected), "{answer}");
        assert!(!body(&answer).contains(missing), "{answer}");
    }
}

#[test]
fn page_is_small_and_loads_nothing_by_policy() {
    let page = Page::new();
    let clients: Vec<_> = ["one", "two"].map(|id| page.client(id)).into();
    let answer = page.get();
    assert_eq!(status(&answer), "200");
    assert_eq!(
        header(&answer, "Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert!(body(&answer).len() < 40 * 1024, "{}", body(&answer).len());
    for text in ["src=", "@import", "url(", "http:", "https:", "style="] {
        assert!(!body(&answer).contains(text), "{text}");
    }
    let policy = header(&answer, "Content-Security-Policy").unwrap();
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for tag in ["style", "script"] {
        let (_, rest) = body(&answer).split_once(&format!("<{tag}>")).unwrap();
        let (text, _) = rest.split_once(&format!("</{tag}>")).unwrap();
        let hash = sha256(text);
        assert!(
            policy.contains(&format!("{tag}-src 'sha256-{hash}'")),
            "the hash of the {tag} in src/server/page.rs has to be {hash}"
        );
    }
    drop(clients);
    assert!(
        page.get()
            .contains("No client has opened its persistence yet.")
    );
    let head = sent(page.address(), b"HEAD / HTTP/1.1\r\nHost: device\r\n\r\n");
    assert_eq!((status(&head), body(&head)), ("200", ""));
}

/// Hash of a text in base64, as in the security policy.
fn sha256(text: &str) -> String {
    let digest = openssl(&["dgst", "-sha256", "-binary"], text.as_bytes());
    assert_eq!(digest.len(), 32);
    String::from_utf8(openssl(&["base64", "-A"], &digest)).unwrap()
}

/// Runs openssl with this input, and returns its output.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is in the Debian package openssl");
    openssl.stdin.take().unwrap().write_all(input).unwrap();
    openssl.wait_with_output().unwrap().stdout
}
