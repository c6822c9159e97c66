//! The page for people, as a browser shows it.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    Error, ErrorKind, Instrumented, MemoryPersistence, MemoryStore, MetricsServer, Persistence,
    PersistenceMetrics, StoreEvent, StoreObserver, prometheus::Registry,
};
use tempfile::TempDir;
use testkit::{
    Chromium, LIMIT, answer_of, body, connected, eventually, header, publish_command, sent, status,
};

const ANY: &str = "127.0.0.1:0";

struct Page {
    server: MetricsServer,
    metrics: PersistenceMetrics,
}

impl Page {
    fn new() -> Self {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).unwrap();
        let server = MetricsServer::bind(ANY, registry).unwrap();
        Self { server, metrics }
    }

    fn client(&self, id: &str) -> Instrumented<Persistence<MemoryStore>> {
        let mut persistence = MemoryPersistence::new().instrument(&self.metrics);
        persistence.open(id, "uri").unwrap();
        persistence
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address())
    }

    /// As the server writes it.
    fn get(&self) -> String {
        sent(self.address(), b"GET / HTTP/1.1\r\nHost: device\r\n\r\n")
    }

    /// A store of which somebody else tells.
    fn told(&self, id: &str, event: &StoreEvent) {
        self.metrics.on_event(id, event);
    }
}

fn put(persistence: &mut impl ClientPersistence, number: i32) {
    let command = publish_command(number, 1, "readings", &[b'x'; 200]);
    persistence
        .put(&format!("c-{number}"), vec![&command])
        .unwrap();
}

/// A client that works through messages, with more and fewer of them waiting, until this is dropped.
struct Busy {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    fn start(mut persistence: impl ClientPersistence + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let has_ended = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut waiting = std::collections::VecDeque::new();
            for number in 1.. {
                if has_ended.load(Ordering::Relaxed) {
                    break;
                }
                put(&mut persistence, number);
                waiting.push_back(number);
                let most = if number % 400 < 200 { 150 } else { 20 };
                while waiting.len() > most {
                    let oldest = waiting.pop_front().unwrap();
                    persistence.remove(&format!("c-{oldest}")).unwrap();
                }
                thread::park_timeout(Duration::from_millis(20));
            }
        });
        Self {
            is_over,
            thread: Some(thread),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const WAITING: &str = "[data-client='device-1'] dd[data-m='records']";
const STATE: &str = "[data-client='device-1'] .state";

#[test]
fn numbers_update_in_place_on_phone_and_wall_display() {
    let page = Page::new();
    let mut persistence = page.client("device-1");
    page.told("device-1", &StoreEvent::Opened { quarantined: 0 });
    put(&mut persistence, 1);
    let folder = TempDir::new().unwrap();
    for (width, height) in [(360, 740), (1600, 900)] {
        let mut browser = Chromium::start(width, height);
        browser.open(&page.url());
        let waiting = eventually(LIMIT, "the page is there", || browser.text(WAITING));
        let number: i32 = waiting.parse().unwrap();
        // It is the same document that shows it: nothing is loaded anew.
        browser.evaluate("document.body.dataset.mark = 'mine'");
        put(&mut persistence, number + 1);
        eventually(LIMIT, "one more waits", || {
            (browser.text(WAITING)? == (number + 1).to_string()).then_some(())
        });
        // Calls a second are counted from one look to the next.
        for turn in 0.. {
            put(&mut persistence, 1);
            let calls = browser.text("[data-client='device-1'] .calls").unwrap();
            if calls.parse::<f64>().is_ok_and(|calls| calls > 0.0) {
                break;
            }
            assert!(turn < 2_000, "{calls}");
            thread::park_timeout(Duration::from_millis(10));
        }
        assert!(
            browser
                .evaluate("document.querySelectorAll('.records polygon').length")
                .as_i64()
                > Some(0)
        );
        let error = Arc::new(Error::new(ErrorKind::OutOfMemory, "write"));
        page.told("device-1", &StoreEvent::Down { error });
        // The persistence tells how it is too.
        eventually(LIMIT, "the change is listed", || {
            let changes = browser.text("[data-client='device-1'] ol")?;
            changes.contains("store down: out_of_memory").then_some(())
        });
        assert_eq!(browser.evaluate("document.body.dataset.mark"), "mine");
        let wide = browser
            .evaluate("document.documentElement.scrollWidth")
            .as_u64();
        assert!(wide <= Some(width.into()), "{wide:?} at {width}");
        let picture = folder.path().join("page.png");
        browser.screenshot(&picture);
        assert!(fs::metadata(&picture).unwrap().len() > 10_000, "{width}");
        assert_eq!(browser.complaints(), [""; 0]);
        let (outage, rewritten) = (Duration::from_secs(1), 0);
        page.told("device-1", &StoreEvent::Up { outage, rewritten });
    }
}

#[test]
fn state_change_is_announced_to_screen_readers() {
    let page = Page::new();
    page.told("device-1", &StoreEvent::Opened { quarantined: 0 });
    let mut browser = Chromium::start(800, 600);
    browser.darken();
    browser.open(&page.url());
    let is = |text: &str, browser: &mut Chromium| {
        eventually(LIMIT, text, || (browser.text(STATE)? == text).then_some(()));
    };
    is("Store up", &mut browser);
    let live = format!("document.querySelector(\"{STATE}\").getAttribute('aria-live')");
    assert_eq!(browser.evaluate(&live), "polite");
    let error = Arc::new(Error::new(ErrorKind::Connection, "write"));
    page.told("device-1", &StoreEvent::Down { error });
    is("Store down", &mut browser);
    let since = browser.text("[data-client='device-1'] [data-m='store_changed_timestamp_seconds']");
    assert!(
        since.as_deref().is_some_and(|since| since.ends_with('s')),
        "{since:?}"
    );

    // Another client appears, and one goes.
    page.told("device-2", &StoreEvent::Opened { quarantined: 0 });
    eventually(LIMIT, "two clients", || {
        browser.text("[data-client='device-2'] h2")
    });
    page.told("device-1", &StoreEvent::Closed);
    eventually(LIMIT, "one client", || {
        (browser.evaluate("document.querySelectorAll('section').length") == 1).then_some(())
    });

    // The server goes away.
    let Page { server, metrics: _ } = page;
    drop(server);
    eventually(LIMIT, "it says that nobody answers", || {
        let hidden = browser.evaluate("document.getElementById('notice').hidden");
        (hidden == false).then_some(())
    });
    assert!(
        browser
            .text("#notice")
            .unwrap()
            .starts_with("No answer for ")
    );
}

#[test]
fn page_without_scripts_shows_state() {
    let page = Page::new();
    let mut persistence = page.client("device-1");
    put(&mut persistence, 1);
    put(&mut persistence, 2);
    page.told("other", &StoreEvent::Opened { quarantined: 0 });
    let mut browser = Chromium::start(360, 740);
    browser.disable_scripts();
    browser.open(&page.url());
    let waiting = eventually(LIMIT, "the page is there", || browser.text(WAITING));
    assert_eq!(waiting, "2");
    let state = browser.text("[data-client='other'] .state").unwrap();
    assert_eq!(state, "Store up");
    assert!(browser.text("noscript").unwrap().contains("as it was"));
    let hidden = "document.querySelector('.charts').hidden";
    assert_eq!(browser.evaluate(hidden), true);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn client_name_with_markup_is_shown_as_text() {
    const NAME: &str = "<script>document.title='x'</script><img src=x onerror=alert(1)>\"'&\\\n{}";
    let page = Page::new();
    let _persistence = page.client(NAME);
    let mut browser = Chromium::start(360, 740);
    browser.open(&page.url());
    eventually(LIMIT, "the numbers are there", || {
        browser.text(".calls").filter(|calls| calls != "–")
    });
    assert_eq!(browser.text("h2").unwrap(), NAME);
    for (tag, number) in [("script", 1), ("img", 0)] {
        let expression = format!("document.getElementsByTagName('{tag}').length");
        assert_eq!(browser.evaluate(&expression), number, "{tag}");
    }
    let wide = browser
        .evaluate("document.documentElement.scrollWidth")
        .as_u64();
    assert!(wide <= Some(360), "{wide:?}");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn page_structure_is_accessible() {
    let page = Page::new();
    let _persistence = page.client("device-1");
    let mut browser = Chromium::start(800, 600);
    browser.open(&page.url());
    eventually(LIMIT, "the numbers are there", || {
        browser.text(".calls").filter(|calls| calls != "–")
    });
    for condition in [
        "document.documentElement.lang === 'en'",
        "document.querySelectorAll('h1').length === 1",
        "[...document.querySelectorAll('table')].every(table => table.caption && table.tHead)",
        "[...document.querySelectorAll('th')].every(head => head.scope)",
        "[...document.querySelectorAll('svg')].every(svg => svg.ariaHidden || svg.ariaLabel)",
        "[...document.querySelectorAll('.scroll')].every(box => box.tabIndex === 0 && box.ariaLabel)",
        "document.getElementById('notice').getAttribute('role') === 'alert'",
        "document.querySelectorAll('main, header, footer, nav').length === 4",
    ] {
        assert_eq!(browser.evaluate(condition), true, "{condition}");
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

/// As a policy has it.
fn sha256(text: &str) -> String {
    use std::io::Write;
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is in the Debian package openssl");
    let mut input = openssl.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let digest = openssl.wait_with_output().unwrap().stdout;
    assert_eq!(digest.len(), 32);
    let mut openssl = Command::new("openssl")
        .args(["base64", "-A"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = openssl.stdin.take().unwrap();
    input.write_all(&digest).unwrap();
    drop(input);
    String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn page_behind_password_updates_itself() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).unwrap();
    metrics.on_event("device-1", &StoreEvent::Opened { quarantined: 0 });
    let server = MetricsServer::builder(registry)
        .basic_auth("me", "secret")
        .bind(ANY)
        .unwrap();
    let mut stream = connected(server.local_addr());
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: device\r\n\r\n").unwrap();
    assert_eq!(status(&answer_of(stream)), "401");
    let mut browser = Chromium::start(800, 600);
    browser.open(&format!("http://me:secret@{}/", server.local_addr()));
    eventually(LIMIT, "the script has been let in too", || {
        (browser.evaluate("document.getElementById('live').hidden") == false).then_some(())
    });
    assert_eq!(
        browser.evaluate("document.getElementById('notice').hidden"),
        true
    );
}

/// The pictures of the README: `cargo test --features server --test page -- --ignored`.
#[test]
#[ignore = "it takes a minute, and what it gives is looked at by people"]
fn pictures_of_device_at_work() {
    let page = Page::new();
    let _busy = [
        Busy::start(page.client("pump-17")),
        Busy::start(page.client("meter-3")),
    ];
    let images = testkit::repository().join("images");
    fs::create_dir_all(&images).unwrap();
    let mut browsers: Vec<(Chromium, &str)> = [
        (360, 1500, "phone.png"),
        (1280, 800, "page.png"),
        (1280, 800, "dark.png"),
    ]
    .into_iter()
    .map(|(width, height, name)| (Chromium::start(width, height), name))
    .collect();
    for (browser, name) in &mut browsers {
        if *name == "dark.png" {
            browser.darken();
        }
        browser.open(&page.url());
    }
    // As long as it takes until something can be seen.
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while std::time::Instant::now() < until {
        thread::park_timeout(Duration::from_secs(1));
    }
    for (browser, name) in &mut browsers {
        browser.screenshot(&images.join(name));
    }
}
