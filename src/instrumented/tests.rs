use std::{
    collections::HashSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use paho_mqtt::{self as mqtt, ClientPersistence};
use prometheus::{Encoder, Registry, TextEncoder};
use tracing::{
    Dispatch,
    span::{Attributes, Id},
    subscriber::NoSubscriber,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
};

use super::{observer::InstrumentedObserver, wrapper::Instrumented};
use crate::{
    error::{Error, ErrorKind},
    metrics::{Clock, PersistenceMetrics, StoreMetricsObserver},
    paho::{DropReason, RecordKind, sample_record},
    persistence::{Health, MemoryPersistence, Persistence, RecordObserver, StoreObserver},
    store::{Change, HealthSnapshot, MemoryStore, Store, StoreEvent},
};

/// A clock that stands still until it is advanced; each reading takes a microsecond.
#[derive(Clone, Default)]
struct TestClock(Arc<AtomicU64>);

impl TestClock {
    fn clock(&self) -> Clock {
        let micros = Arc::clone(&self.0);
        Clock::fixed(move || Duration::from_micros(micros.fetch_add(1, Ordering::Relaxed)))
    }

    fn advance(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).expect("short");
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

fn exposition(registry: &Registry) -> String {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .expect("encodes");
    String::from_utf8(text).expect("text")
}

fn value(registry: &Registry, series: &str) -> Option<f64> {
    let text = exposition(registry);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}

/// Waits for a condition that the threads of a persistence bring about.
#[track_caller]
fn eventually(condition: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{condition}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the value of a store series whose only label is `client_id`.
fn store_value(registry: &Registry, name: &str, label: &str) -> Option<f64> {
    value(
        registry,
        &format!("mqtt_persistence_store_{name}{{client_id=\"{label}\"}}"),
    )
}

fn measured(label: &str) -> (Registry, Instrumented<MemoryPersistence>, TestClock) {
    let registry = Registry::new();
    let clock = TestClock::default();
    let metrics = PersistenceMetrics::builder()
        .clock(clock.clock())
        .register(&registry)
        .expect("registers");
    (
        registry,
        MemoryPersistence::new()
            .instrument(&metrics)
            .client_label(label),
        clock,
    )
}

fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).expect("later").as_secs_f64()
}

/// Compares with the stored exposition, which the tests of a real Prometheus also pass to promtool.
#[test]
fn scripted_calls_give_exact_exposition() {
    let registry = Registry::new();
    let clock = TestClock::default();
    let metrics = PersistenceMetrics::builder()
        .latency_buckets(vec![0.000_001, 0.001])
        .size_buckets(vec![10.0, 100.0])
        .const_label("site", "north")
        .clock(clock.clock())
        .register(&registry)
        .expect("registers");
    let memory = MemoryPersistence::new();
    let mut before = memory.clone();
    before.open("device-1", "broker:1883").expect("opens");
    before
        .put("c5-7", vec![&sample_record("c5-7")])
        .expect("puts");
    before
        .put("r5-3", vec![&sample_record("r5-3")])
        .expect("puts");
    drop(before);

    let health = memory.health();
    let mut persistence = memory.instrument(&metrics);
    persistence.open("device-1", "broker:1883").expect("opens");
    clock.advance(Duration::from_millis(2));
    assert_eq!(persistence.keys().expect("lists").len(), 2);
    assert_eq!(
        persistence.get("r5-3").expect("reads"),
        sample_record("r5-3")
    );
    assert_eq!(
        persistence.get("c5-7").expect("reads"),
        sample_record("c5-7")
    );
    persistence.remove("c-0").expect("does not exist");
    clock.advance(Duration::from_secs(10));
    persistence
        .put("c5-8", vec![b"read", b"ing"])
        .expect("puts");
    clock.advance(Duration::from_secs(5));
    persistence.put("s5-1", vec![b"a PUBLISH"]).expect("puts");
    persistence.put("s5-1", vec![b"a PUBLISH"]).expect("puts");
    persistence.put("sc5-1", vec![b"a PUBREL"]).expect("puts");
    persistence.remove("sc5-1").expect("removes");
    persistence.get("c5-9").expect_err("does not exist");
    persistence
        .put("nonsense", vec![b""])
        .expect_err("is not a key");
    clock.advance(Duration::from_secs(30));
    persistence.put("s5-2", vec![b"discarded"]).expect("puts");
    persistence.keys().expect("lists");
    persistence.remove("s5-2").expect("removes");

    health.flush(Duration::from_secs(20)).expect("flushes");
    let confirmed = "mqtt_persistence_store_last_confirmed_timestamp_seconds";
    let labels = "{client_id=\"device-1\",site=\"north\"}";
    // Each scrape reads the clock for the ages, so the scrapes of the wait are undone.
    let now = clock.0.load(Ordering::Relaxed);
    eventually("every event is delivered", || {
        let at = health.snapshot().last_confirmed.map(unix_seconds);
        at == value(&registry, &format!("{confirmed}{labels}"))
    });
    clock.0.store(now, Ordering::Relaxed);
    // An outage of another store under the same label.
    metrics.on_event("device-1", &StoreEvent::down(failed(ErrorKind::Loading)));
    // Real times differ in each run.
    let times = [
        confirmed,
        "mqtt_persistence_store_changed_timestamp_seconds",
    ];
    let text: String = exposition(&registry)
        .lines()
        .map(
            |line| match times.iter().find(|time| line.starts_with(**time)) {
                Some(time) => format!("{time}{labels} 1700000000\n"),
                None => format!("{line}\n"),
            },
        )
        .collect();
    let stored = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/exposition.txt");
    if std::env::var_os("UPDATE_EXPOSITION").is_some() {
        fs::write(stored, &text).expect("written");
    }
    let expected = fs::read_to_string(stored).expect("tests/exposition.txt");
    assert_eq!(
        text, expected,
        "UPDATE_EXPOSITION=1 writes the file again; review the difference"
    );
}

#[test]
fn opened_client_has_every_series_at_zero() {
    let (registry, mut persistence, _) = measured("device");
    assert_eq!(exposition(&registry), "");
    persistence.open("id", "uri").expect("opens");
    let text = exposition(&registry);
    let moved: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"))
        .filter(|line| {
            // The notifier thread sets the last three at any moment.
            let set_by_open = [
                "operation=\"open\"",
                "build_info",
                "opened_timestamp",
                "store_up",
                "store_changed",
                "store_last_confirmed",
            ];
            !set_by_open.iter().any(|part| line.contains(part))
        })
        .collect();
    assert!(moved.is_empty(), "{moved:?}");
    for name in [
        "records",
        "record_bytes",
        "oldest_record_age_seconds",
        "restored_records",
    ] {
        let series = format!("mqtt_persistence_{name}{{");
        assert_eq!(
            text.lines()
                .filter(|line| line.starts_with(&series))
                .count(),
            6,
            "{name}"
        );
    }
    assert_eq!(text.matches("# TYPE ").count(), 41);
}

#[test]
fn age_follows_oldest_record() {
    let (registry, mut persistence, clock) = measured("device");
    persistence.open("id", "uri").expect("opens");
    let age = || {
        let series =
            "mqtt_persistence_oldest_record_age_seconds{client_id=\"device\",kind=\"command\"}";
        value(&registry, series).expect("the series").round()
    };
    assert!(age() < f64::EPSILON);
    for number in 1..=3 {
        persistence
            .put(&format!("c5-{number}"), vec![b"x"])
            .expect("puts");
        clock.advance(Duration::from_secs(10));
    }
    for (removed, oldest) in [("c5-2", 30.0), ("c5-1", 10.0), ("c5-3", 0.0)] {
        persistence.remove(removed).expect("removes");
        assert!((age() - oldest).abs() < f64::EPSILON, "{removed} {}", age());
    }
    // Writing a record again keeps its age.
    persistence.put("c5-4", vec![b"x"]).expect("puts");
    clock.advance(Duration::from_secs(10));
    persistence.put("c5-4", vec![b"y"]).expect("puts");
    assert!((age() - 10.0).abs() < f64::EPSILON);
}

#[test]
fn backlog_stays_exact_and_bounded_over_many_changes() {
    let (registry, mut persistence, _) = measured("device");
    persistence.open("id", "uri").expect("opens");
    persistence.put("s5-1", vec![b"stays"]).expect("puts");
    for round in 0..10_000 {
        let key = format!("s5-{}", 2 + round % 60_000);
        persistence
            .put(&key, vec![b"comes and goes"])
            .expect("puts");
        persistence.remove(&key).expect("removes");
    }
    let records = "mqtt_persistence_records{client_id=\"device\",kind=\"sent_publish\"}";
    let bytes = "mqtt_persistence_record_bytes{client_id=\"device\",kind=\"sent_publish\"}";
    assert_eq!(value(&registry, records), Some(1.0));
    assert_eq!(value(&registry, bytes), Some(5.0));
    let session = persistence.series.session.lock();
    let backlog = &session.as_ref().expect("open").backlog;
    assert!(
        backlog.queued_arrivals() < 100,
        "{}",
        backlog.queued_arrivals()
    );
}

#[test]
fn series_go_with_last_persistence_of_label() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let open = |label: &str| {
        let mut persistence = MemoryPersistence::new()
            .instrument(&metrics)
            .client_label(label);
        persistence.open("id", "uri").expect("opens");
        persistence
            .put("c5-1", vec![&sample_record("c5-1")])
            .expect("puts");
        persistence
    };
    let records = "mqtt_persistence_records{client_id=\"a\",kind=\"command\"}";
    let one = open("a");
    let two = open("a");
    let other = open("b");
    assert_eq!(value(&registry, records), Some(2.0));
    drop(one);
    assert_eq!(value(&registry, records), Some(1.0));
    drop(two);
    let text = exposition(&registry);
    assert!(!text.contains("client_id=\"a\""), "{text}");
    assert!(text.contains("client_id=\"b\""), "{text}");
    drop(other);
    assert_eq!(exposition(&registry), "");
}

#[test]
fn reopening_starts_from_stored_records() {
    let (registry, mut persistence, _) = measured("device");
    let restored = "mqtt_persistence_restored_records{client_id=\"device\",kind=\"command\"}";
    for expected in [0.0, 1.0] {
        persistence.open("id", "uri").expect("opens");
        persistence.keys().expect("lists");
        assert_eq!(value(&registry, restored), Some(expected));
        persistence
            .put("c5-1", vec![&sample_record("c5-1")])
            .expect("puts");
        persistence.close().expect("closes");
    }
}

#[test]
fn only_records_of_this_run_are_counted() {
    let (registry, mut persistence, _) = measured("device");
    let counted = |registry: &Registry| {
        ["added", "removed"].map(|change| {
            ["command", "sent_publish"].map(|kind| {
                let series = format!(
                    "mqtt_persistence_{change}_records_total{{client_id=\"device\",kind=\"{kind}\"}}"
                );
                value(registry, &series)
            })
        })
    };
    persistence.open("id", "uri").expect("opens");
    for key in ["c5-1", "c5-2", "s5-1", "s5-1"] {
        persistence
            .put(key, vec![&sample_record(key)])
            .expect("puts");
    }
    for key in ["c5-1", "c5-1", "sc5-1"] {
        persistence.remove(key).expect("removes");
    }
    let expected = [[Some(2.0), Some(1.0)], [Some(1.0), Some(0.0)]];
    assert_eq!(counted(&registry), expected);

    persistence.close().expect("closes");
    persistence.open("id", "uri").expect("opens");
    for key in persistence.keys().expect("lists") {
        persistence.get(&key).expect("gets");
    }
    assert_eq!(counted(&registry), expected);
    persistence.clear().expect("clears");
    let cleared = [[Some(2.0), Some(1.0)], [Some(2.0), Some(1.0)]];
    assert_eq!(counted(&registry), cleared);
}

/// A persistence of another crate, with errors of its own.
struct CustomPersistence {
    get_error: ErrorKind,
    fails_put: bool,
    during_get: Box<dyn FnMut() + Send>,
}

impl Default for CustomPersistence {
    fn default() -> Self {
        Self {
            get_error: ErrorKind::Timeout,
            fails_put: false,
            during_get: Box::new(|| {}),
        }
    }
}

impl ClientPersistence for CustomPersistence {
    fn open(&mut self, _: &str, _: &str) -> mqtt::Result<()> {
        Ok(())
    }

    fn close(&mut self) -> mqtt::Result<()> {
        Ok(())
    }

    fn put(&mut self, _: &str, _: Vec<&[u8]>) -> mqtt::Result<()> {
        if self.fails_put {
            return Err(mqtt::Error::PersistenceError);
        }
        Ok(())
    }

    fn get(&mut self, _: &str) -> mqtt::Result<Vec<u8>> {
        (self.during_get)();
        Err(Error::new(self.get_error, "read").into())
    }

    fn remove(&mut self, _: &str) -> mqtt::Result<()> {
        Err(Error::new(ErrorKind::NotFound, "remove").into())
    }

    fn keys(&mut self) -> mqtt::Result<Vec<String>> {
        Ok(vec!["c-1".to_owned(), "no key of Paho".to_owned()])
    }

    fn clear(&mut self) -> mqtt::Result<()> {
        Ok(())
    }

    fn contains_key(&mut self, key: &str) -> bool {
        key == "c-1"
    }
}

#[test]
fn custom_persistence_results_unchanged() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let custom = CustomPersistence {
        fails_put: true,
        ..CustomPersistence::default()
    };
    let mut persistence = Instrumented::new(custom, &metrics);
    persistence
        .put("c-1", vec![])
        .expect_err("fails before open too");
    persistence.open("id", "uri").expect("opens");
    let error = persistence.put("c-1", vec![]).expect_err("fails");
    assert!(matches!(error, mqtt::Error::PersistenceError));
    persistence.get("c-1").expect_err("fails");
    persistence.remove("c-1").expect_err("fails");
    assert_eq!(persistence.keys().expect("lists").len(), 2);
    assert!(persistence.contains_key("c-1"));
    assert!(!persistence.contains_key("c-2"));

    let count = |name: &str, labels: &str| {
        value(
            &registry,
            &format!("mqtt_persistence_{name}{{client_id=\"id\",{labels}}}"),
        )
    };
    assert_eq!(
        count(
            "operation_errors_total",
            "error=\"other\",operation=\"put\""
        ),
        Some(1.0)
    );
    assert_eq!(
        count(
            "operation_errors_total",
            "error=\"timeout\",operation=\"get\""
        ),
        Some(1.0)
    );
    // This crate never returns that kind from `remove`, so there is no series for it.
    assert_eq!(
        count(
            "operation_errors_total",
            "error=\"other\",operation=\"remove\""
        ),
        Some(1.0)
    );
    assert_eq!(count("records", "kind=\"other\""), Some(1.0));
    assert_eq!(
        count(
            "build_info",
            &format!(
                "server=\"\",store=\"custom\",version=\"{}\"",
                env!("CARGO_PKG_VERSION")
            )
        ),
        Some(1.0)
    );
    assert!(!exposition(&registry).contains("mqtt_persistence_store_"));
}

/// An alert on the backlog would otherwise go on until the next restart.
#[test]
fn record_found_lost_by_get_leaves_backlog() {
    for (get_error, left) in [
        (ErrorKind::Lost, 0.0),
        (ErrorKind::NotFound, 0.0),
        (ErrorKind::Timeout, 1.0),
    ] {
        let registry = Registry::new();
        let metrics = PersistenceMetrics::register(&registry).expect("registers");
        let custom = CustomPersistence {
            get_error,
            ..CustomPersistence::default()
        };
        let mut persistence = Instrumented::new(custom, &metrics);
        persistence.open("id", "uri").expect("opens");
        persistence.keys().expect("lists");
        persistence.get("c-1").expect_err("fails");
        let read = |name: &str, labels: &str| {
            let name = format!("mqtt_persistence_{name}{{client_id=\"id\",{labels}}}");
            value(&registry, &name)
        };
        assert_eq!(read("records", "kind=\"command\""), Some(left));
        // Only the store counts a loss.
        assert_eq!(read("removed_records_total", "kind=\"command\""), Some(0.0));
        assert_eq!(
            read("operation_misses_total", "operation=\"get\""),
            Some(0.0)
        );
        let error = format!("error=\"{get_error}\",operation=\"get\"");
        assert_eq!(read("operation_errors_total", &error), Some(1.0));
    }
}

/// Returns what the persistence delivers the events of its records to.
fn observer(persistence: &Instrumented<MemoryPersistence>) -> Arc<dyn RecordObserver> {
    let observer = persistence
        .series
        .observer
        .as_ref()
        .expect("is instrumented");
    Arc::<InstrumentedObserver>::clone(observer)
}

fn lost(key: &str) -> StoreEvent {
    StoreEvent::RecordLost {
        key: key.to_owned(),
    }
}

fn relocated(old_key: &str, key: &str) -> StoreEvent {
    StoreEvent::RecordRelocated {
        old_key: old_key.to_owned(),
        key: key.to_owned(),
        bytes: 8,
    }
}

/// Returns the records, their bytes and the age of the oldest of a kind, for the client `device`.
fn backlog(registry: &Registry, kind: &str) -> [u64; 3] {
    ["records", "record_bytes", "oldest_record_age_seconds"].map(|name| {
        let series = format!("mqtt_persistence_{name}{{client_id=\"device\",kind=\"{kind}\"}}");
        whole(value(registry, &series))
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the values are small"
)]
fn whole(value: Option<f64>) -> u64 {
    value.expect("the series").round() as u64
}

/// Returns how many records of a kind were added and removed, for the client `device`.
fn changes(registry: &Registry, kind: &str) -> [u64; 2] {
    ["added", "removed"].map(|change| {
        let labels = format!("{{client_id=\"device\",kind=\"{kind}\"}}");
        let series = format!("mqtt_persistence_{change}_records_total{labels}");
        whole(value(registry, &series))
    })
}

#[test]
fn record_lost_by_store_leaves_backlog() {
    let (registry, mut persistence, clock) = measured("device");
    persistence.open("id", "uri").expect("opens");
    persistence.put("s5-1", vec![b"first"]).expect("puts");
    clock.advance(Duration::from_secs(10));
    persistence.put("s5-2", vec![b"second"]).expect("puts");
    assert_eq!(backlog(&registry, "sent_publish"), [2, 11, 10]);
    let observer = observer(&persistence);
    for key in ["s5-1", "s5-1", "s5-3", "no key of Paho"] {
        observer.on_record_event(&lost(key));
    }
    assert_eq!(backlog(&registry, "sent_publish"), [1, 6, 0]);
    assert_eq!(backlog(&registry, "other"), [0, 0, 0]);
    assert_eq!(changes(&registry, "sent_publish"), [2, 0]);
}

/// Fails if `work` takes too long for anything but a deadlock.
#[track_caller]
fn does_not_block(work: impl FnOnce() + Send + 'static) {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        work();
        // The test may have given up.
        done.send(()).ok();
    });
    let result = finished.recv_timeout(Duration::from_secs(20));
    result.expect("neither a panic nor a deadlock");
}

/// Events are delivered while a call waits for the store.
#[test]
fn event_is_handled_during_call() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let (sent, received) = mpsc::channel::<Arc<dyn RecordObserver>>();
    let custom = CustomPersistence {
        during_get: Box::new(move || {
            let observer = received.recv().expect("an observer");
            does_not_block(move || observer.on_record_event(&lost("c-1")));
        }),
        ..CustomPersistence::default()
    };
    let mut persistence = Instrumented::new(custom, &metrics).client_label("device");
    sent.send(persistence.observe()).expect("is received");
    persistence.open("id", "uri").expect("opens");
    persistence.keys().expect("lists");
    assert_eq!(backlog(&registry, "command")[0], 1);
    persistence.get("c-1").expect_err("fails");
    assert_eq!(backlog(&registry, "command")[0], 0);
}

/// Renders the metrics and asks for the state of the store wherever the library lets it.
struct CuriousObserver {
    registry: Registry,
    health: Health,
    calls: mpsc::Sender<&'static str>,
}

impl CuriousObserver {
    fn look(&self, call: &'static str) {
        assert!(exposition(&self.registry).contains("mqtt_persistence_records"));
        assert!(self.health.snapshot().held_records == 0);
        self.calls.send(call).ok();
    }
}

impl StoreObserver for CuriousObserver {
    fn on_event(&self, _: &str, _: &StoreEvent) {
        self.look("event");
    }

    fn on_damaged(&self, _: &str, _: &str) {
        self.health.flush(Duration::ZERO).expect("flushes");
        self.look("damaged");
    }
}

impl<S: tracing::Subscriber> Layer<S> for CuriousObserver {
    fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.look("span");
    }

    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        self.look("log");
    }
}

#[test]
fn user_code_may_read_metrics_and_health() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let mut memory = MemoryPersistence::new();
    let (calls, called) = mpsc::channel();
    let curious = || CuriousObserver {
        registry: registry.clone(),
        health: memory.health(),
        calls: calls.clone(),
    };
    let (observer, subscriber) = (curious(), tracing_subscriber::registry().with(curious()));
    memory.add_observer(Arc::new(observer));
    let mut persistence = memory.instrument(&metrics);
    does_not_block(move || {
        persistence.open("id", "uri").expect("opens");
        // If there is one subscriber only, an event or span whose first use is on a thread without it
        // is disabled on all threads.
        let _second = Dispatch::new(NoSubscriber::default());
        let _guard = tracing::subscriber::set_default(subscriber);
        persistence
            .put("s5-1", vec![&sample_record("s5-1")])
            .expect("puts");
        persistence
            .put("s5-1", vec![b"damaged"])
            .expect_err("is damaged");
        // The notifier may be late, and must find the series of an open client.
        let mut missing = HashSet::from(["event", "damaged", "span", "log"]);
        while !missing.is_empty() {
            missing.remove(called.recv().expect("a call"));
        }
    });
}

#[test]
fn relocated_record_is_counted_beside_new_one() {
    let (registry, mut persistence, clock) = measured("device");
    persistence.open("id", "uri").expect("opens");
    persistence.put("c5-1", vec![b"restored"]).expect("puts");
    clock.advance(Duration::from_secs(10));
    let observer = observer(&persistence);
    observer.on_record_event(&relocated("c5-1", "c5-2"));
    assert_eq!(backlog(&registry, "command"), [1, 8, 10]);
    persistence.put("c5-1", vec![b"new"]).expect("puts");
    assert_eq!(backlog(&registry, "command"), [2, 11, 10]);
    assert_eq!(changes(&registry, "command"), [2, 0]);
    observer.on_record_event(&relocated("c5-9", "c5-3"));
    observer.on_record_event(&lost("c5-2"));
    assert_eq!(backlog(&registry, "command"), [1, 3, 0]);
    observer.on_record_event(&relocated("c5-1", "c5-2"));
    assert_eq!(backlog(&registry, "command"), [1, 3, 0]);
    persistence.clear().expect("clears");
    assert_eq!(backlog(&registry, "command"), [0, 0, 0]);
}

#[test]
fn record_that_put_replaces_leaves_backlog() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let memory = MemoryPersistence::new();
    let mut before = memory.clone();
    before.open("id", "uri").expect("opens");
    for key in ["s-7", "sc-7", "r-3"] {
        before.put(key, vec![&sample_record(key)]).expect("puts");
    }
    drop(before);
    let mut persistence = memory.instrument(&metrics).client_label("device");
    persistence.open("id", "uri").expect("opens");
    for key in persistence.keys().expect("lists") {
        persistence.get(&key).expect("reads");
    }
    // The client connects with the other version of MQTT.
    for key in ["s5-7", "r5-3"] {
        let value = sample_record(key);
        persistence.put(key, vec![&value]).expect("puts");
        let kind = if key == "s5-7" {
            "sent_publish"
        } else {
            "received_publish"
        };
        let bytes = u64::try_from(value.len()).expect("short");
        assert_eq!(backlog(&registry, kind), [1, bytes, 0]);
        assert_eq!(changes(&registry, kind), [1, 1]);
    }
    assert_eq!(backlog(&registry, "sent_pubrel"), [0, 0, 0]);
    // Without events, nothing is known of the persistence.
    let mut custom = Instrumented::new(CustomPersistence::default(), &metrics);
    custom.open("id", "uri").expect("opens");
    for key in ["s-7", "s5-7"] {
        custom.put(key, vec![b"x"]).expect("puts");
    }
    let records = "mqtt_persistence_records{client_id=\"id\",kind=\"sent_publish\"}";
    assert_eq!(value(&registry, records), Some(2.0));
}

/// Returns the message counts: accepted, waiting, delivered, dropped and lost.
fn messages(registry: &Registry) -> [u64; 5] {
    let text = exposition(registry);
    let sum = |name: &str, only: &str| {
        let prefix = format!("mqtt_persistence_{name}{{");
        let lines = text.lines().filter(|line| line.starts_with(&prefix));
        let values = lines.filter(|line| line.contains(only));
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    };
    let dropped = ["command", "sent_publish"]
        .map(|kind| sum("dropped_records_total", &format!("kind=\"{kind}\"")));
    [
        sum("accepted_messages_total", ""),
        sum("waiting_messages", ""),
        sum("delivered_messages_total", ""),
        dropped.iter().sum(),
        sum("lost_messages_total", ""),
    ]
}

/// Another program has left a message in flight under a packet id that ours has in the other version.
#[test]
fn messages_that_share_packet_id_stay_counted() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let mut store = MemoryStore::default();
    store.connect("id:uri").expect("connects");
    let ours = b"\x34\x07\x00\x01t\x00\x07\x00x";
    let other = b"\x34\x0a\x00\x01t\x00\x07other";
    let puts: [(&str, &[u8]); 2] = [("s5-7", ours), ("s-7", other)];
    let puts = puts.map(|(key, value)| Change::Put { key, value });
    store.send(&[&puts]).expect("stores");
    let mut persistence = Persistence::with_store(store).instrument(&metrics);
    persistence.open("id", "uri").expect("opens");
    for key in persistence.keys().expect("lists") {
        persistence.get(&key).expect("reads");
    }
    assert_eq!(messages(&registry), [0, 2, 0, 0, 0]);
    persistence.remove("c5-0").expect("connects");
    // Paho sends both again, in the version that it connects with.
    let other = b"\x34\x0b\x00\x01t\x00\x07\x00other";
    persistence.put("s5-7", vec![other]).expect_err("damaged");
    persistence.put("s5-7", vec![ours]).expect("is stored");
    let sent_publish = "mqtt_persistence_records{client_id=\"id\",kind=\"sent_publish\"}";
    assert_eq!(value(&registry, sent_publish), Some(2.0));
    assert_eq!(messages(&registry), [0, 2, 0, 0, 0]);
    assert_eq!(persistence.keys().expect("lists"), ["s-7", "s5-7"]);
}

#[test]
fn accepted_message_is_counted_until_delivered() {
    let (registry, mut persistence, _) = measured("device");
    persistence.open("id", "uri").expect("opens");
    persistence.keys().expect("lists");
    persistence.remove("c5-0").expect("connects");
    for key in ["c5-1", "c5-2"] {
        let value = sample_record(key);
        persistence.put(key, vec![&value]).expect("puts");
    }
    assert_eq!(messages(&registry), [2, 2, 0, 0, 0]);
    // It waits all the while, although for a moment it has no record.
    persistence.get("c5-1").expect("reads");
    persistence.remove("c5-1").expect("removes");
    assert_eq!(messages(&registry), [2, 2, 0, 0, 0]);
    let packet = b"\x32\x0c\x00\x03a/b\x00\x01\x0021.5";
    persistence.put("s5-1", vec![packet]).expect("puts");
    assert_eq!(messages(&registry), [2, 2, 0, 0, 0]);
    for key in ["s5-1", "sc5-1", "s-1", "sc-1"] {
        persistence.remove(key).expect("removes");
    }
    assert_eq!(messages(&registry), [2, 1, 1, 0, 0]);
    // Removed without being read: the buffer was full.
    persistence.remove("c5-2").expect("removes");
    assert_eq!(messages(&registry), [2, 0, 1, 1, 0]);
    let buffer_full = "mqtt_persistence_dropped_records_total{client_id=\"device\",\
                       kind=\"command\",reason=\"buffer_full\"}";
    assert_eq!(value(&registry, buffer_full), Some(1.0));
}

/// Takes a message up and puts its PUBLISH, as Paho does.
fn send(persistence: &mut impl ClientPersistence, command: &str, publish: &str) {
    persistence.get(command).expect("reads");
    persistence.remove(command).expect("removes");
    let packet = sample_record(publish);
    persistence.put(publish, vec![&packet]).expect("puts");
}

/// Paho has a message in flight in its memory, so the loss of its record is not the end of it.
#[test]
fn lost_publish_that_is_put_again_is_accepted_again() {
    let (registry, mut persistence, _) = measured("device");
    persistence.open("id", "uri").expect("opens");
    let command = sample_record("c5-1");
    persistence.put("c5-1", vec![&command]).expect("puts");
    send(&mut persistence, "c5-1", "s5-1");
    assert_eq!(messages(&registry), [1, 1, 0, 0, 0]);
    observer(&persistence).on_record_event(&lost("s5-1"));
    assert_eq!(messages(&registry), [1, 0, 0, 0, 1]);
    for _ in 0..2 {
        let again = sample_record("s5-1");
        persistence.put("s5-1", vec![&again]).expect("puts");
        assert_eq!(messages(&registry), [2, 1, 0, 0, 1]);
    }
    persistence.remove("sc5-1").expect("removes");
    let other_version = sample_record("s-1");
    persistence.put("s-1", vec![&other_version]).expect("puts");
    assert_eq!(messages(&registry), [2, 1, 0, 0, 1]);
}

/// Opens a persistence that has a record of an earlier run.
fn with_earlier_record(key: &str) -> (Registry, Instrumented<MemoryPersistence>) {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let memory = MemoryPersistence::new();
    let mut before = memory.clone();
    before.open("id", "uri").expect("opens");
    before.put(key, vec![&sample_record(key)]).expect("puts");
    drop(before);
    let mut persistence = memory.instrument(&metrics);
    persistence.open("id", "uri").expect("opens");
    assert_eq!(persistence.keys().expect("lists"), [key]);
    assert_eq!(messages(&registry), [0, 1, 0, 0, 0]);
    (registry, persistence)
}

#[test]
fn relocated_record_waits_at_once() {
    let (registry, mut persistence) = with_earlier_record("c5-1");
    let command = sample_record("c5-1");
    persistence.put("c5-1", vec![&command]).expect("puts");
    assert_eq!(messages(&registry), [1, 2, 0, 0, 0]);
}

#[test]
fn message_with_packet_id_of_unread_one_adds_up() {
    for earlier in ["s5-1", "s-1"] {
        let (registry, mut persistence) = with_earlier_record(earlier);
        let command = sample_record("c5-1");
        persistence.put("c5-1", vec![&command]).expect("puts");
        send(&mut persistence, "c5-1", "s5-1");
        assert_eq!(messages(&registry), [1, 2, 0, 0, 0]);
        persistence.remove("s5-1").expect("removes");
        // QoS 2 without a PUBREL.
        assert_eq!(messages(&registry), [1, 1, 0, 1, 0]);
        persistence.keys().expect("lists");
        assert_eq!(messages(&registry), [1, 1, 0, 1, 0]);
    }
}

#[test]
fn subscription_is_no_message() {
    let (registry, mut persistence, _) = measured("device");
    persistence.open("id", "uri").expect("opens");
    let subscribe = [&8_i32.to_ne_bytes()[..], &[0; 4]].concat();
    persistence.put("c5-1", vec![&subscribe]).expect("puts");
    persistence.remove("c5-1").expect("removes");
    assert_eq!(messages(&registry), [0; 5]);
}

#[test]
fn lost_session_is_counted_with_any_persistence() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let mut custom = Instrumented::new(MemoryPersistence::new(), &metrics);
    custom.open("id", "uri").expect("opens");
    for key in ["s5-1", "s5-2"] {
        custom.put(key, vec![&sample_record(key)]).expect("puts");
    }
    custom.remove("c5-0").expect("connects");
    for key in custom.keys().expect("lists") {
        custom.remove(&key).expect("removes");
    }
    assert_eq!(messages(&registry), [2, 0, 0, 2, 0]);
    let lost = "mqtt_persistence_dropped_records_total{client_id=\"id\",\
                kind=\"sent_publish\",reason=\"session_lost\"}";
    assert_eq!(value(&registry, lost), Some(2.0));
}

#[test]
fn session_that_is_kept_goes_on_waiting() {
    let (registry, mut persistence) = with_earlier_record("s5-7");
    // A client that is dropped before its first connect.
    for key in persistence.keys().expect("lists") {
        persistence.remove(&key).expect("removes");
    }
    assert_eq!(messages(&registry), [0, 1, 0, 0, 0]);
    assert_eq!(persistence.keys().expect("lists"), ["s5-7"]);
}

#[test]
fn events_after_drop_change_no_series() {
    let (registry, mut persistence, _) = measured("device");
    persistence.open("id", "uri").expect("opens");
    let observer = observer(&persistence);
    drop(persistence);
    observer.on_record_event(&relocated("c5-1", "c5-2"));
    observer.on_record_event(&lost("c5-2"));
    assert_eq!(exposition(&registry), "");
}

/// Returns a status event; `unconfirmed` and `held` are records and bytes.
fn status(up: bool, unconfirmed: (usize, usize), held: (usize, usize)) -> StoreEvent {
    StoreEvent::Status(HealthSnapshot {
        up,
        unconfirmed_records: unconfirmed.0,
        unconfirmed_bytes: unconfirmed.1,
        held_records: held.0,
        held_bytes: held.1,
        last_confirmed: Some(UNIX_EPOCH + Duration::from_millis(1_500)),
        ..HealthSnapshot::default()
    })
}

fn failed(kind: ErrorKind) -> Arc<Error> {
    Arc::new(Error::new(kind, "write"))
}

/// Returns a registry and a function that delivers store events of the client `id` to its series.
fn observed_store() -> (Registry, impl Fn(StoreEvent)) {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let send = move |event| metrics.on_event("id", &event);
    (registry, send)
}

#[test]
fn earlier_records_have_gauge_while_they_wait() {
    let (registry, send) = observed_store();
    let series = "mqtt_persistence_store_earlier_records{client_id=\"id\"}";
    let read = || value(&registry, series);
    let earlier = |earlier_records| {
        StoreEvent::Status(HealthSnapshot {
            up: true,
            earlier_records,
            ..HealthSnapshot::default()
        })
    };
    send(earlier(20));
    assert_eq!(read(), Some(20.0));
    send(earlier(3));
    assert_eq!(read(), Some(3.0));
    send(earlier(0));
    assert_eq!(read(), Some(0.0));
}

#[test]
fn suspects_have_gauge() {
    let (registry, send) = observed_store();
    for poison_suspects in [2, 0] {
        send(StoreEvent::Status(HealthSnapshot {
            poison_suspects,
            ..HealthSnapshot::default()
        }));
        let series = "mqtt_persistence_store_poison_suspects{client_id=\"id\"}";
        let expected = if poison_suspects == 2 { 2.0 } else { 0.0 };
        assert_eq!(value(&registry, series), Some(expected));
    }
}

#[test]
fn each_store_event_changes_its_series_only() {
    let (registry, send) = observed_store();
    // Returns the lines that differ from the last call, without the common prefix.
    let mut before: Vec<String> = Vec::new();
    let mut changed = || {
        let text = exposition(&registry);
        let now: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("mqtt_persistence_store_"))
            // A real time, which differs in each run.
            .filter(|line| !line.starts_with("changed_timestamp_seconds"))
            .map(|line| line.replace("client_id=\"id\"", "").replace("{,", "{"))
            .collect();
        let new = now.iter().filter(|line| !before.contains(line));
        let new: Vec<String> = new.cloned().collect();
        before = now;
        new
    };

    send(StoreEvent::Opened { quarantined: 2 });
    let moved = changed().into_iter().filter(|line| !line.ends_with(" 0"));
    assert_eq!(
        moved.collect::<Vec<_>>(),
        ["quarantined_records_total{} 2", "up{} 1"]
    );

    let error = failed(ErrorKind::OutOfMemory);
    send(StoreEvent::Down { error });
    assert_eq!(
        changed(),
        [
            "down_info{error=\"out_of_memory\"} 1",
            "errors_total{error=\"out_of_memory\"} 1",
            "up{} 0"
        ]
    );
    send(status(false, (0, 0), (3, 300)));
    assert_eq!(
        changed(),
        [
            "held_bytes{} 300",
            "held_records{} 3",
            "last_confirmed_timestamp_seconds{} 1.5"
        ]
    );
    let error = failed(ErrorKind::Connection);
    send(StoreEvent::StillDown {
        error,
        is_new_reason: true,
    });
    assert_eq!(
        changed(),
        [
            "down_info{error=\"connection\"} 1",
            "errors_total{error=\"connection\"} 1",
            "reconnect_failures_total{} 1"
        ]
    );
    send(StoreEvent::Lost { records: 4 });
    assert_eq!(changed(), ["lost_records_total{} 4"]);
    let outage = Duration::from_secs(1);
    send(StoreEvent::Up {
        outage,
        rewritten: 3,
    });
    assert_eq!(changed(), ["reconnects_total{} 1", "up{} 1"]);
    send(status(true, (2, 200), (0, 0)));
    assert_eq!(
        changed(),
        [
            "held_bytes{} 0",
            "held_records{} 0",
            "unconfirmed_bytes{} 200",
            "unconfirmed_records{} 2"
        ]
    );
    // The calls count these, so that they work with any persistence.
    send(StoreEvent::Dropped {
        kind: RecordKind::SentPubrel,
        reason: DropReason::SessionLost,
        records: 5,
    });
    send(StoreEvent::ForeignRecords {
        records: 3,
        removed: true,
    });
    assert_eq!(changed(), ["quarantined_records_total{} 5"]);
    send(StoreEvent::BufferWarning { bytes: 1 });
    send(StoreEvent::ForeignRecords {
        records: 1,
        removed: false,
    });
    assert_eq!(changed(), [""; 0]);

    send(StoreEvent::Closed);
    assert_eq!(exposition(&registry), "");
}

#[test]
fn store_change_time_moves_with_state_only() {
    let (registry, send) = observed_store();
    let changed = || store_value(&registry, "changed_timestamp_seconds", "id");
    let before = unix_seconds(SystemTime::now());
    send(StoreEvent::Opened { quarantined: 0 });
    let opened = changed().expect("a series");
    assert!(opened >= before, "{opened}");
    send(status(true, (1, 10), (0, 0)));
    send(status(true, (0, 0), (0, 0)));
    assert_eq!(changed(), Some(opened));
    eventually("the clock advances", || {
        unix_seconds(SystemTime::now()) > opened
    });
    send(status(false, (0, 0), (1, 10)));
    assert!(changed() > Some(opened));
}

#[test]
fn status_event_corrects_missed_store_events() {
    let (registry, send) = observed_store();
    let up = || store_value(&registry, "up", "id");
    send(StoreEvent::Opened { quarantined: 0 });
    send(status(false, (0, 0), (0, 0)));
    assert_eq!(up(), Some(0.0));
    send(status(true, (0, 0), (0, 0)));
    assert_eq!(up(), Some(1.0));
}

#[test]
fn two_stores_under_one_label_add_up() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let observers = [
        StoreMetricsObserver::default(),
        StoreMetricsObserver::default(),
    ];
    let read = |name: &str| store_value(&registry, name, "both");
    let opened = StoreEvent::Opened { quarantined: 1 };
    for (observer, is_up) in observers.iter().zip([true, false]) {
        observer.attach(metrics.store_share("both"));
        // Down until its first event.
        assert_eq!(read("up"), Some(0.0));
        observer.on_event("id", &opened);
        assert_eq!(read("up"), Some(1.0));
        let held = if is_up { (0, 0) } else { (2, 20) };
        observer.on_event("id", &status(is_up, (0, 0), held));
    }
    assert_eq!(read("quarantined_records_total"), Some(2.0));
    assert_eq!(read("up"), Some(0.0));
    observers[0].on_event("id", &status(false, (0, 0), (3, 30)));
    assert_eq!(read("held_records"), Some(5.0));
    assert_eq!(read("held_bytes"), Some(50.0));
    observers[0].on_event("id", &status(true, (1, 10), (0, 0)));
    assert_eq!(read("held_records"), Some(2.0));
    assert_eq!(read("up"), Some(0.0));

    // The gauges lose the share of the detached store; the counters keep it.
    observers[1].detach();
    assert_eq!(read("up"), Some(1.0));
    assert_eq!(read("held_bytes"), Some(0.0));
    assert_eq!(read("unconfirmed_records"), Some(1.0));
    assert_eq!(read("quarantined_records_total"), Some(2.0));
    observers[0].detach();
    assert_eq!(exposition(&registry), "");
    // A late event creates no series.
    observers[0].on_event("id", &opened);
    assert_eq!(exposition(&registry), "");
}

#[test]
fn error_of_store_is_shown_while_it_is_down() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let shown = || {
        let text = exposition(&registry);
        let series = text.lines().filter(|line| line.contains("down_info{"));
        let errors = series.map(|line| line.split('"').nth(3).expect("an error").to_owned());
        let mut errors: Vec<String> = errors.collect();
        errors.sort();
        errors
    };
    let observers: [StoreMetricsObserver; 2] = Default::default();
    let [one, other] = &observers;
    for observer in &observers {
        observer.attach(metrics.store_share("both"));
    }
    let down = |kind| StoreEvent::down(failed(kind));
    let still_down = |kind| StoreEvent::still_down(failed(kind), true);
    let up = StoreEvent::up(Duration::from_secs(1), 0);
    assert_eq!(shown(), [""; 0]);
    one.on_event("id", &down(ErrorKind::Connection));
    assert_eq!(shown(), ["connection"]);
    one.on_event("id", &still_down(ErrorKind::Loading));
    assert_eq!(shown(), ["loading"]);
    other.on_event("id", &down(ErrorKind::Timeout));
    assert_eq!(shown(), ["loading", "timeout"]);
    one.on_event("id", &still_down(ErrorKind::Timeout));
    assert_eq!(shown(), ["timeout"]);
    one.on_event("id", &up);
    assert_eq!(shown(), ["timeout"]);
    // The `Up` of the other one was dropped.
    other.on_event("id", &status(true, (0, 0), (0, 0)));
    assert_eq!(shown(), [""; 0]);
    one.on_event("id", &down(ErrorKind::Busy));
    other.on_event("id", &down(ErrorKind::Misconf));
    one.on_event("id", &StoreEvent::Closed);
    assert_eq!(shown(), ["misconf"]);
    other.detach();
    assert_eq!(shown(), [""; 0]);
    // An earlier opening reports late.
    one.on_event("id", &StoreEvent::Opened { quarantined: 0 });
    one.on_event("id", &still_down(ErrorKind::Busy));
    assert_eq!(shown(), [""; 0]);
}

#[test]
fn error_no_store_returns_leaves_no_series() {
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("registers");
    let observer = StoreMetricsObserver::default();
    observer.attach(metrics.store_share("id"));
    observer.on_event("id", &StoreEvent::down(failed(ErrorKind::NotFound)));
    let errors = "mqtt_persistence_store_errors_total{client_id=\"id\",error=\"other\"}";
    assert_eq!(value(&registry, errors), Some(1.0));
    observer.detach();
    assert_eq!(exposition(&registry), "");
}

#[test]
fn store_series_live_until_persistence_is_dropped() {
    let (registry, mut persistence, _) = measured("device");
    let up = || store_value(&registry, "up", "device");
    for _ in 0..2 {
        persistence.open("id", "uri").expect("opens");
        eventually("it is up", || up() == Some(1.0));
        let confirmed = store_value(&registry, "last_confirmed_timestamp_seconds", "device");
        assert!(confirmed.is_some());
        persistence.close().expect("closes");
        eventually("it is closed", || up() == Some(0.0));
    }
    drop(persistence);
    assert_eq!(exposition(&registry), "");
}

#[test]
fn connect_removes_no_command_zero_from_backlog() {
    let (registry, mut persistence, _) = measured("device");
    let records = "mqtt_persistence_records{client_id=\"device\",kind=\"command\"}";
    persistence.open("id", "uri").expect("opens");
    // The sequence wraps to 0, and Paho removes `c-0` whenever it connects.
    persistence
        .put("c-0", vec![&sample_record("c-0")])
        .expect("puts");
    persistence.remove("c-0").expect("keeps it");
    assert_eq!(value(&registry, records), Some(1.0));
    persistence.get("c-0").expect("is sent");
    persistence.remove("c-0").expect("removes it");
    assert_eq!(value(&registry, records), Some(0.0));
}

#[test]
fn subscription_zero_leaves_backlog_unread() {
    let (registry, mut persistence, _) = measured("device");
    let records = "mqtt_persistence_records{client_id=\"device\",kind=\"command\"}";
    persistence.open("id", "uri").expect("opens");
    // Paho sends a SUBSCRIBE of its own life without reading it.
    let numbers = [8, 7, 1].map(i32::to_ne_bytes).concat();
    let subscription = [&numbers[..], b"t\0", &1_i32.to_ne_bytes()].concat();
    persistence.put("c-0", vec![&subscription]).expect("puts");
    persistence.remove("c-0").expect("removes it");
    assert_eq!(value(&registry, records), Some(0.0));
    assert!(persistence.keys().expect("lists").is_empty());
}

#[test]
fn measured_persistence_is_reached_and_returned() {
    let (registry, mut measured, _) = measured("device-1");
    measured
        .connect("device-1", "mqtt://broker:1883")
        .expect("connects");
    let health = measured.health();
    measured.open("device-1", "broker:1883").expect("opens");
    assert!(measured.get_ref().health().snapshot().up);
    let record = sample_record("s-1");
    measured.put("s-1", vec![&record]).expect("puts");
    assert!(measured.get_ref().contains("s-1"));
    assert!(measured.get_mut().contains("s-1"));

    let mut persistence = measured.into_inner();
    assert!(health.snapshot().up);
    assert_eq!(persistence.get("s-1").expect("reads"), record);
    assert!(!exposition(&registry).contains("device-1"));
    persistence.close().expect("closes");

    let again = PersistenceMetrics::register(&Registry::new()).expect("registers");
    let mut measured = persistence.instrument(&again);
    measured.open("device-1", "broker:1883").expect("opens");
    assert!(measured.get_ref().contains("s-1"));
}

#[cfg(feature = "redis")]
#[test]
fn debug_shows_client_address_and_state() {
    let url = "redis://me:Zq7xKv2w@localhost:7000/3";
    let persistence = crate::RedisPersistence::from_url(url).expect("a valid URL");
    let metrics = PersistenceMetrics::register(&Registry::new()).expect("registers");
    let text = format!("{:?}", persistence.instrument(&metrics));
    for shown in ["redis://localhost:7000/3", "state: \"closed\""] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
    assert!(
        !text.contains("Zq7xKv2w") && !text.contains("me:"),
        "{text}"
    );

    let (_, mut measured, _) = measured("label");
    measured.open("device-1", "broker:1883").expect("opens");
    // The worker may have the mutex for a moment.
    let mut texts = std::iter::repeat_with(|| format!("{measured:?}"));
    let text = texts.find(|text| !text.contains("state: \"busy\""));
    let text = text.expect("endless");
    for shown in [
        "client_id: \"device-1\"",
        "store: \"memory\"",
        "state: \"up\"",
    ] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
}
