//! Servers of the testkit start, answer, restart and end.

use std::{panic, path::Path, time::Duration};

use crate::{
    LIMIT, Mosquitto, Prometheus, RedisServer, Subscriber, eventually, eventually_queried,
    http_get, promtool_check_metrics,
};
use paho_mqtt as mqtt;
use redis::TypedCommands;

/// Returns true if a process exists. A dropped server was waited for, so it is not even a zombie.
fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn publish(broker: &Mosquitto, topic: &str, payload: &str) {
    let create = mqtt::CreateOptionsBuilder::new()
        .server_uri(broker.url())
        .persistence(mqtt::PersistenceType::None)
        .finalize();
    let client = mqtt::Client::new(create).unwrap();
    client.connect(None).unwrap();
    client
        .publish(mqtt::Message::new(topic, payload, 1))
        .unwrap();
    client.disconnect(None).unwrap();
}

fn received(topic: &str, payload: &str) -> (String, Vec<u8>) {
    (topic.to_owned(), payload.as_bytes().to_vec())
}

#[test]
fn redis_keeps_value_until_restart() {
    let mut redis = RedisServer::tcp();
    redis.connection().set("key", "value").unwrap();
    let mut tcp = redis::Client::open(redis.tcp_url())
        .and_then(|client| client.get_connection())
        .unwrap();
    assert_eq!(tcp.get("key").unwrap().as_deref(), Some("value"));

    redis.restart();
    assert_eq!(redis.connection().get("key").unwrap(), None);

    let pid = redis.pid();
    drop(redis);
    assert!(!exists(pid));
}

#[test]
fn redis_takes_further_arguments() {
    let redis = RedisServer::with(&["--requirepass", "x"]);
    let error = redis.connection().get("key").unwrap_err();
    assert_eq!(error.code(), Some("NOAUTH"));
}

#[test]
fn paused_redis_answers_once_resumed() {
    let redis = RedisServer::start();
    let mut connection = redis.connection();
    redis.pause();
    connection
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(connection.ping().unwrap_err().is_timeout());
    redis.resume();
    redis.connection().ping().unwrap();
}

#[test]
fn subscriber_receives_messages_of_its_absence() {
    let mut broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker.url(), "a/#", 1);
    publish(&broker, "a/b", "one");
    let one = [received("a/b", "one")];
    assert_eq!(subscriber.wait_for(1, LIMIT), one);

    broker.stop();
    broker.restart();
    publish(&broker, "a/c", "two");
    let [one] = one;
    let both = [one, received("a/c", "two")];
    assert_eq!(subscriber.wait_for(2, LIMIT), both);

    let pid = broker.pid();
    drop(broker);
    assert!(!exists(pid));
}

#[test]
fn subscriber_subscribes_again_after_broker_crash() {
    let mut broker = Mosquitto::start();
    let subscriber = Subscriber::start(&broker.url(), "a/#", 1);
    broker.kill();
    broker.restart();
    eventually(LIMIT, "a message after the broker was killed", || {
        publish(&broker, "a/b", "one");
        subscriber.messages().pop()
    });
    assert_eq!(subscriber.messages()[0], received("a/b", "one"));
}

#[test]
fn prometheus_scrapes_prometheus() {
    let scraped = Prometheus::scraping(&[]);
    let target = scraped.address();
    let prometheus = Prometheus::scraping(&[&target]);
    // On a busy machine some scrapes time out.
    let up = format!(r#"up{{job="device",instance="{target}"}} == 1"#);
    eventually_queried(LIMIT, &up, || prometheus.value(&up));
    assert_eq!(prometheus.value("nothing_of_the_kind"), None);

    let (status, headers, body) = http_get(&target, "/metrics");
    assert_eq!(status, 200);
    assert!(headers.iter().any(|(name, _)| name == "content-type"));
    assert!(body.contains("\nprometheus_build_info{"));

    let pids = [scraped.pid(), prometheus.pid()];
    drop((scraped, prometheus));
    assert!(!pids.into_iter().any(exists));
}

#[test]
fn prometheus_metrics_check_reports_faults() {
    let good = "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n";
    assert_eq!(promtool_check_metrics(good), Ok(()));
    let without_help = "# TYPE a_total counter\na_total 1\n";
    let fault = promtool_check_metrics(without_help).unwrap_err();
    assert!(fault.contains("no help text"), "{fault}");
    promtool_check_metrics("}{\n").unwrap_err();
}

#[test]
fn server_ends_with_panicking_test() {
    let redis = RedisServer::start();
    let pid = redis.pid();
    assert!(exists(pid));
    let test = panic::AssertUnwindSafe(|| {
        let _redis = redis;
        // Prints nothing, unlike a panic.
        panic::resume_unwind(Box::new("a failing test"));
    });
    panic::catch_unwind(test).unwrap_err();
    assert!(!exists(pid));
}

#[test]
fn rewritten_aof_has_contents_without_history() {
    // While a file system syncs, `everysec` delays writes, and the size with them.
    let mut redis = RedisServer::with(&["--appendonly", "yes", "--appendfsync", "no"]);
    for _ in 0..100 {
        redis.connection().set("key", "value").unwrap();
    }
    let before = redis.aof_size();
    redis.rewrite_aof();
    assert!(redis.aof_size() < before, "{before}");
    redis.restart();
    let value: Option<String> = redis.connection().get("key").unwrap();
    assert_eq!(value.as_deref(), Some("value"));
}
