//! The page for people, as a browser shows it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    Error, ErrorKind, HealthSnapshot, MemoryPersistence, MetricsServer, PersistenceMetrics,
    Session, StoreEvent, StoreObserver, prometheus::Registry,
};
use tempfile::TempDir;
use testkit::{Chromium, LIMIT, Mosquitto, eventually, publish_command, sent, status};

use crate::page::{ANY, GET, Page, serve_outage};

fn put(persistence: &mut impl ClientPersistence, number: i32) {
    let command = publish_command(number, 1, "readings", &[b'x'; 200]);
    persistence
        .put(&format!("c-{number}"), vec![&command])
        .unwrap();
}

/// Client that processes messages, with a backlog that grows and shrinks, until this is dropped.
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
                    let oldest = format!("c-{oldest}");
                    persistence.get(&oldest).unwrap();
                    persistence.remove(&oldest).unwrap();
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

const STATE: &str = "[data-client='device-1'] .state";

/// Text of a tile that is shown, by its title.
fn tile(browser: &mut Chromium, title: &str) -> Option<String> {
    let text = browser.evaluate(&format!(
        "[...document.querySelectorAll('dl > div:not([hidden])')]\
         .find(tile => tile.firstElementChild.textContent === '{title}').lastElementChild.textContent"
    ));
    text.as_str().map(str::to_owned)
}

/// Waits until the script has swapped the page for one with a rate of calls.
#[track_caller]
fn wait_for_rates(browser: &mut Chromium) {
    eventually(LIMIT, "the rates are there", || {
        browser.text(".calls").filter(|calls| calls != "–")
    });
}

/// Asserts that nothing is wider than its place.
#[track_caller]
fn assert_nothing_is_cut_off(browser: &mut Chromium) {
    let wide = "[document.documentElement, ...document.querySelectorAll('.scroll, dd, section')]\
                .filter(element => element.scrollWidth > element.clientWidth)\
                .map(element => element.outerHTML.slice(0, 200)).join()";
    assert_eq!(browser.evaluate(wide), "");
}

#[test]
fn numbers_update_in_place_on_phone_and_wall_display() {
    let page = Page::new();
    let mut persistence = page.client("device-1");
    page.report("device-1", &StoreEvent::opened(0));
    put(&mut persistence, 1);
    let folder = TempDir::new().unwrap();
    let mut browser = Chromium::start(360, 740);
    for (width, height) in [(360, 740), (1280, 800)] {
        browser.resize(width, height);
        browser.open(&page.url());
        let waiting = eventually(LIMIT, "the page is there", || {
            tile(&mut browser, "Messages waiting")
        });
        let number: i32 = waiting.parse().unwrap();
        // The same document shows it: the page was not reloaded.
        browser.evaluate("document.body.dataset.mark = 'mine'");
        put(&mut persistence, number + 1);
        eventually(LIMIT, "one more waits", || {
            let waiting = tile(&mut browser, "Messages waiting")?;
            (waiting == (number + 1).to_string()).then_some(())
        });
        // The rate of calls is counted from one refresh to the next.
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
                .evaluate("document.querySelectorAll('figure polygon').length")
                .as_i64()
                > Some(0)
        );
        let error = Arc::new(Error::new(ErrorKind::OutOfMemory, "write"));
        page.report("device-1", &StoreEvent::down(error));
        // The persistence reports its own state too.
        eventually(LIMIT, "the change is listed", || {
            let changes = browser.text("[data-client='device-1'] ol")?;
            changes.contains(" Store down: out_of_memory").then_some(())
        });
        assert_eq!(browser.evaluate("document.body.dataset.mark"), "mine");
        assert_nothing_is_cut_off(&mut browser);
        let picture = folder.path().join("page.png");
        browser.screenshot(&picture);
        assert!(fs::metadata(&picture).unwrap().len() > 10_000, "{width}");
        assert_eq!(browser.errors(), [""; 0]);
        page.report("device-1", &StoreEvent::up(Duration::from_secs(1), 0));
    }
}

/// Lets the script update the page some times, which it takes to be 2 s apart.
fn update_every_two_seconds(times: usize, browser: &mut Chromium) {
    for _ in 0..times {
        browser.evaluate("done = false; ahead += 2000; update().then(() => { done = true })");
        eventually(LIMIT, "the page is updated", || {
            (browser.evaluate("done") == true).then_some(())
        });
    }
}

#[test]
fn rates_are_of_last_ten_seconds_of_program() {
    let page = Page::new();
    let mut persistence = page.client("device-1");
    let mut browser = Chromium::start(360, 740);
    browser.open(&page.url());
    wait_for_rates(&mut browser);
    browser.evaluate(
        "ahead = 0; done = false; const now = Date.now.bind(Date); Date.now = () => now() + ahead; 0",
    );
    let calls = |browser: &mut Chromium| browser.text(".calls").unwrap();
    // A page that was hidden for an hour has no rate of the last ten seconds.
    browser.evaluate("ahead += 3600000");
    update_every_two_seconds(1, &mut browser);
    assert_eq!(calls(&mut browser), "–");
    for number in 1..500 {
        put(&mut persistence, number);
    }
    update_every_two_seconds(1, &mut browser);
    assert!(calls(&mut browser).parse::<f64>().unwrap() > 100.0);
    update_every_two_seconds(6, &mut browser);
    assert_eq!(calls(&mut browser), "0.0");
    // As after a start of the program, the counts begin again.
    drop(persistence);
    let mut persistence = page.client("device-1");
    update_every_two_seconds(1, &mut browser);
    for number in 1..100 {
        put(&mut persistence, number);
    }
    update_every_two_seconds(1, &mut browser);
    let restarted = calls(&mut browser).parse::<f64>().unwrap();
    assert!((20.0..60.0).contains(&restarted), "{restarted}");
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn hanging_request_is_reported_as_stale_data() {
    let page = Page::new();
    page.report("device-1", &StoreEvent::opened(0));
    let mut browser = Chromium::start(360, 740);
    browser.open(&page.url());
    let live = "document.getElementById('live').hidden";
    eventually(LIMIT, "the page is there", || {
        (browser.evaluate(live) == false).then_some(())
    });
    // A fetch that never ends unless its signal ends it, with a timeout that is over at once.
    browser.evaluate(
        "AbortSignal.timeout = ms => { asked = ms; return AbortSignal.abort(new Error('too slow')); };\
         fetch = (_, { signal }) => new Promise((_, fail) => { if (signal) fail(signal.reason); })",
    );
    eventually(LIMIT, "the notice is shown", || {
        let notice = browser.text("#notice")?;
        notice.contains("(too slow)").then_some(())
    });
    assert_eq!(browser.evaluate("asked"), 10_000);
}

#[test]
fn fill_of_buffer_shows_once_its_limit_is_set() {
    let page = Page::new();
    let _persistence = page.client("device-1");
    page.report("device-1", &StoreEvent::opened(0));
    let mut browser = Chromium::start(360, 740);
    browser.open(&page.url());
    wait_for_rates(&mut browser);
    assert_eq!(tile(&mut browser, "Not sent yet"), None);
    let mut status = HealthSnapshot::default();
    (status.queued_messages, status.limit_messages) = (8, Some(10));
    page.report("device-1", &StoreEvent::Status(status));
    eventually(LIMIT, "the fill is shown", || {
        (tile(&mut browser, "Not sent yet")? == "8 of 10").then_some(())
    });
    assert_eq!(tile(&mut browser, "Byte budget"), None);
    assert_eq!(browser.errors(), [""; 0]);
}

/// Lets the script update the page twice.
fn let_it_update(page: &Page, persistence: &mut impl ClientPersistence, browser: &mut Chromium) {
    for _ in 0..2 {
        let waiting = tile(browser, "Messages waiting").unwrap();
        let number: i32 = waiting.parse().unwrap();
        put(persistence, number + 1);
        eventually(LIMIT, "one more waits", || {
            (tile(browser, "Messages waiting")? != waiting).then_some(())
        });
    }
    assert!(page.server.local_addr().is_some());
}

#[test]
fn update_keeps_focus_selection_and_scroll() {
    let page = Page::new();
    let mut persistence = page.client("device-1");
    let mut browser = Chromium::start(360, 300);
    browser.open(&page.url());
    wait_for_rates(&mut browser);
    browser.evaluate(
        "document.querySelectorAll('.scroll')[1].focus(); scrollTo(0, 555);\
         getSelection().selectAllChildren(document.querySelector('caption'));\
         mutations = 0;\
         const observer = new MutationObserver(records => { mutations += records.length });\
         for (const region of document.querySelectorAll('[aria-live]')) {\
           observer.observe(region, { attributes: true, subtree: true, childList: true, characterData: true });\
         }",
    );
    let_it_update(&page, &mut persistence, &mut browser);
    for (expression, expected) in [
        ("document.activeElement.ariaLabel", "Dropped records"),
        ("String(scrollY)", "555"),
        ("getSelection().toString()", "Waiting records"),
        // Screen readers announce each change to the state.
        ("String(mutations)", "0"),
    ] {
        assert_eq!(browser.evaluate(expression), expected, "{expression}");
    }
    persistence.close().unwrap();
    page.report("device-1", &StoreEvent::opened(0));
    let error = Arc::new(Error::new(ErrorKind::Timeout, "write"));
    page.report("device-1", &StoreEvent::down(error));
    eventually(LIMIT, "the outage is announced", || {
        (browser.evaluate("mutations").as_u64() > Some(0)).then_some(())
    });
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn reload_keeps_history_of_curves() {
    let page = Page::new();
    let mut persistence = page.client("device-1");
    put(&mut persistence, 1);
    let mut browser = Chromium::start(360, 740);
    browser.open(&page.url());
    wait_for_rates(&mut browser);
    let_it_update(&page, &mut persistence, &mut browser);
    let points = "(document.querySelector('figure polyline') ?? document.body)\
                  .getAttribute('points')?.split(' ').length ?? 0";
    let before = browser.evaluate(points).as_u64();
    assert!(before >= Some(3), "{before:?}");
    browser.evaluate("document.body.dataset.mark = 'old'; location.reload()");
    eventually(LIMIT, "the curves go on", || {
        let is_new = browser.evaluate("document.body.dataset.mark ?? 'new'") == "new";
        (is_new && browser.evaluate(points).as_u64() > before).then_some(())
    });
}

#[test]
fn outage_shows_on_every_screen_and_without_scripts() {
    let server = serve_outage(Some("timeout"));
    let reason = format!(
        "{}; {}",
        ErrorKind::Timeout.meaning(),
        ErrorKind::Timeout.advice()
    );
    for scripted in [true, false] {
        let mut browser = Chromium::start(360, 740);
        if !scripted {
            browser.disable_scripts();
        }
        for width in [360, 1280] {
            browser.resize(width, 800);
            browser.open(&format!("http://{}/", server.local_addr().unwrap()));
            let live = "document.getElementById('live').hidden";
            eventually(LIMIT, "the page is there", || {
                (browser.evaluate(live) == !scripted).then_some(())
            });
            let shown = "document.querySelector('.reason').innerText";
            assert_eq!(browser.evaluate(shown), reason);
            let bad = "getComputedStyle(document.querySelector('.bad')).backgroundColor";
            assert_ne!(browser.evaluate(bad), "rgba(0, 0, 0, 0)");
            let last = tile(&mut browser, "Last confirmed");
            assert_eq!(last.as_deref(), Some("5 min ago"));
            assert_nothing_is_cut_off(&mut browser);
            assert_eq!(browser.errors(), [""; 0]);
        }
    }
}

#[test]
fn connection_of_client_shows_and_updates() {
    let page = Page::new();
    let mut broker = Mosquitto::start();
    broker.kill();
    let client = Session::new("device-1", broker.url())
        .persistence(MemoryPersistence::new())
        .metrics(&page.metrics)
        .backoff(Duration::from_secs(5), Duration::from_secs(5))
        .start()
        .expect("starts");
    let mut browser = Chromium::start(360, 740);
    browser.open(&page.url());
    let mut wait_for = |start: &str| {
        eventually(LIMIT, start, || {
            tile(&mut browser, "Broker").filter(|state| state.starts_with(start))
        })
    };
    let away = wait_for("away for ");
    assert!(away.contains(", next attempt in "), "{away}");
    broker.restart();
    wait_for("connected for ");
    assert_eq!(browser.errors(), [""; 0]);
    client.stop(LIMIT).expect("stops");
}

#[test]
fn state_change_is_announced_to_screen_readers() {
    let page = Page::new();
    page.report("device-1", &StoreEvent::opened(0));
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
    page.report("device-1", &StoreEvent::down(error));
    is("Store down", &mut browser);
    // One client appears, and one disappears.
    page.report("device-2", &StoreEvent::opened(0));
    eventually(LIMIT, "two clients", || {
        browser.text("[data-client='device-2'] h2")
    });
    page.report("device-1", &StoreEvent::Closed);
    eventually(LIMIT, "one client", || {
        (browser.evaluate("document.querySelectorAll('section').length") == 1).then_some(())
    });

    // The server stops.
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
            .starts_with("No answer since ")
    );
}

#[test]
fn page_without_scripts_shows_state() {
    let page = Page::new();
    let mut persistence = page.client("device-1");
    put(&mut persistence, 1);
    put(&mut persistence, 2);
    page.report("other", &StoreEvent::opened(0));
    let mut browser = Chromium::start(360, 740);
    browser.disable_scripts();
    browser.open(&page.url());
    let waiting = eventually(LIMIT, "the page is there", || {
        tile(&mut browser, "Messages waiting")
    });
    assert_eq!(waiting, "2");
    let state = browser.text("[data-client='other'] .state").unwrap();
    assert_eq!(state, "Store up");
    assert!(
        browser
            .text("noscript")
            .unwrap()
            .contains("snapshot at page load")
    );
    let hidden = "document.querySelector('.charts').hidden";
    assert_eq!(browser.evaluate(hidden), true);
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn client_name_with_markup_is_shown_as_text() {
    const NAME: &str = "<script>document.title='x'</script><img src=x onerror=alert(1)>\"'&\\\n{}";
    let page = Page::new();
    let _persistence = page.client(NAME);
    let mut browser = Chromium::start(360, 740);
    browser.open(&page.url());
    wait_for_rates(&mut browser);
    assert_eq!(browser.text("h2").unwrap(), NAME);
    for (tag, number) in [("script", 1), ("img", 0)] {
        let expression = format!("document.getElementsByTagName('{tag}').length");
        assert_eq!(browser.evaluate(&expression), number, "{tag}");
    }
    assert_nothing_is_cut_off(&mut browser);
    assert_eq!(browser.errors(), [""; 0]);
}

#[test]
fn page_structure_is_accessible() {
    let page = Page::new();
    let _persistence = page.client("device-1");
    let mut browser = Chromium::start(800, 600);
    browser.open(&page.url());
    wait_for_rates(&mut browser);
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
fn page_behind_password_updates_itself() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).unwrap();
    metrics.on_event("device-1", &StoreEvent::opened(0));
    let server = MetricsServer::builder(registry)
        .basic_auth("me", "secret")
        .bind(ANY)
        .unwrap();
    assert_eq!(status(&sent(server.local_addr().unwrap(), GET)), "401");
    let mut browser = Chromium::start(800, 600);
    browser.open(&format!(
        "http://me:secret@{}/",
        server.local_addr().unwrap()
    ));
    eventually(LIMIT, "the script has been let in too", || {
        (browser.evaluate("document.getElementById('live').hidden") == false).then_some(())
    });
    assert_eq!(
        browser.evaluate("document.getElementById('notice').hidden"),
        true
    );
}

/// Takes the pictures in `images/`: `cargo test -p testkit --test endpoint_withstands_attacks -- --ignored pictures`.
#[test]
#[ignore = "takes a minute, and people check its pictures"]
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
    // Long enough for the charts to fill.
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while std::time::Instant::now() < until {
        thread::park_timeout(Duration::from_secs(1));
    }
    for (browser, name) in &mut browsers {
        browser.screenshot(&images.join(name));
    }
}
