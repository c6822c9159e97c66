//! The page for people, as the server sends it.

use std::{
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    Instrumented, MemoryPersistence, MemoryStore, MetricsServer, Persistence, PersistenceMetrics,
    StoreEvent, StoreObserver, prometheus::Registry,
};
use testkit::{body, header, sent, status};

pub const ANY: &str = "127.0.0.1:0";
/// Request for the page.
pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: device\r\n\r\n";

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
