//! The log and the observers report an outage of Redis with its client, its beginning once and its end once; the log, the page
//! and `/-/ready` show the same reason. The log and `build_info` name the server.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    ErrorKind, MetricsServer, PersistenceMetrics, RedisPersistence, StoreEvent, StoreObserver,
    prometheus::Registry, render,
};
use testkit::{
    LIMIT, RedisServer, body, child::assert_passes_with_valkey, eventually, log::Log, sent,
};

/// Records the events by name.
#[derive(Default)]
struct EventRecorder(Mutex<Vec<String>>);

impl StoreObserver for EventRecorder {
    fn on_event(&self, client_id: &str, event: &StoreEvent) {
        assert_eq!(client_id, "device");
        let name = match event {
            StoreEvent::Status(_) | StoreEvent::StillDown { .. } => return,
            StoreEvent::Opened { .. } => "opened",
            StoreEvent::Connected { .. } => "connected",
            StoreEvent::Down { .. } => "down",
            StoreEvent::BufferWarning { .. } => "alarm",
            StoreEvent::Up { .. } => "up",
            StoreEvent::Closed => "closed",
            other => panic!("{other:?}"),
        };
        self.0.lock().expect("no panic").push(name.to_owned());
    }
}

/// Waits until `build_info` names this server.
fn wait_for_build_info(registry: &Registry, version: &str) {
    let label = format!("server=\"{version}\"");
    eventually(LIMIT, &label, || {
        let text = render(registry).expect("renders");
        let mut lines = text.lines();
        lines.find(|line| line.contains("_build_info{") && line.contains(&label))?;
        Some(())
    });
}

#[test]
fn outage_logs_client_and_pending_bytes_once() {
    let mut redis = RedisServer::start();
    let recorder = Arc::new(EventRecorder::default());
    let log = Log::default();
    log.of_the_process();
    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).expect("new");
    let server = MetricsServer::bind("127.0.0.1:0", registry.clone()).expect("binds");
    let mut persistence = RedisPersistence::builder()
        .url(redis.url())
        .buffer_warn_bytes(5)
        .observer(Arc::clone(&recorder) as Arc<dyn StoreObserver>)
        .build()
        .expect("valid")
        .instrument(&metrics);
    persistence.open("device", "127.0.0.1:1883").expect("opens");
    persistence.put("c-1", vec![b"value"]).expect("puts");
    let version = RedisServer::version();
    wait_for_build_info(&registry, &version);
    redis.kill();
    for _ in 0..3 {
        persistence.put("c-1", vec![b"value"]).expect("is held");
    }
    let health = persistence.health();
    let wait_for = |name: &str| {
        eventually(LIMIT, name, || {
            let events = recorder.0.lock().expect("no panic");
            events.iter().any(|event| event == name).then_some(())
        });
    };
    wait_for("alarm");
    let kind = ErrorKind::Connection;
    let reason = format!(": {}; {}", kind.meaning(), kind.advice());
    for path in ["/", "/-/ready"] {
        let address = server.local_addr().expect("TCP");
        let request = format!("GET {path} HTTP/1.1\r\nHost: device\r\n\r\n");
        eventually(LIMIT, path, || {
            let answer = sent(address, request.as_bytes());
            body(&answer).contains(&reason[2..]).then_some(())
        });
    }
    redis.restart();
    health.flush(Duration::from_secs(10)).expect("is written");
    wait_for("up");
    drop(persistence);
    wait_for("closed");
    let events = recorder.0.lock().expect("no panic").clone();
    let expected = [
        "opened",
        "connected",
        "down",
        "alarm",
        "connected",
        "up",
        "closed",
    ];
    assert_eq!(events, expected);

    let text = log.text();
    // Once at open, and once after its restart.
    assert_eq!(
        text.matches(&format!("connected to {version} ")).count(),
        2,
        "{text}"
    );
    for (level, part, others) in [
        (
            "WARN",
            "Redis is unavailable; writes are kept in memory until it recovers",
            [&format!("{reason} "), "error.type=\"connection\""],
        ),
        (
            "ERROR",
            "5 B of records exist only in memory",
            ["bytes=5", ""],
        ),
        ("INFO", "Redis is available again", ["rewritten=1", ""]),
    ] {
        let lines = text.lines().filter(|line| line.contains(part));
        let [line] = lines.collect::<Vec<_>>()[..] else {
            panic!("{part} is not there once: {text}");
        };
        for part in [
            level,
            others[0],
            others[1],
            r#"messaging.client.id="device""#,
        ] {
            assert!(line.contains(part), "{part} is not in: {line}");
        }
    }
}

/// Valkey says that it is Redis 7.2.4.
#[test]
fn valkey_is_named_with_its_own_version() {
    assert_passes_with_valkey("outage_logs_client_and_pending_bytes_once");
}
