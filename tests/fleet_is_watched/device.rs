//! promtool accepts the stored exposition, and a real Prometheus scrapes a device.

use std::time::Duration;

use testkit::{
    LIMIT, Mosquitto, Prometheus, RedisServer,
    device::{Device, address},
    eventually, eventually_queried, http_get, promtool_check_metrics,
};

/// Prometheus looks for its first targets after some seconds.
const SCRAPE_LIMIT: Duration = Duration::from_secs(30);

#[test]
fn stored_exposition_passes_promtool() {
    promtool_check_metrics(include_str!("../exposition.txt")).expect("clean");
}

#[test]
fn invalid_exposition_fails_promtool() {
    promtool_check_metrics("# TYPE wrong counter\nwrong 1\n").expect_err("no _total, no help");
}

#[test]
fn scraped_device_shows_growing_and_drained_backlog() {
    let (redis, mut broker) = (RedisServer::start(), Mosquitto::start());
    let options = ["--rate", "200", "--client-id", "scraped"];
    let device = Device::new(&broker.url(), &redis.url(), &options);
    let mut run = device.start(&["--listen", "127.0.0.1:0"]);
    let address = address(&run);
    device.wait_accepted(&mut run, 100);

    let (status, headers, body) = http_get(&address, "/metrics");
    assert_eq!(status, 200);
    let content_type = headers.iter().find(|(name, _)| name == "content-type");
    assert_eq!(
        content_type.map(|(_, value)| value.as_str()),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    promtool_check_metrics(&body).expect("clean");

    let prometheus = Prometheus::scraping(&[&address]);
    let until = |query: &str, holds: fn(f64) -> bool| {
        eventually_queried(SCRAPE_LIMIT, query, || {
            prometheus.value(query).filter(|value| holds(*value))
        })
    };
    until("up", |up| up > 0.0);
    until(
        r#"mqtt_persistence_build_info{client_id="scraped",store="redis"}"#,
        |info| info > 0.0,
    );
    until(
        r#"mqtt_persistence_operation_duration_seconds_count{client_id="scraped",operation="put"}"#,
        |puts| puts > 100.0,
    );
    until(
        r#"mqtt_persistence_store_limit_messages{client_id="scraped"}"#,
        |limit| (9999.0..10001.0).contains(&limit),
    );
    broker.stop();
    device.wait_cut_off(&mut run, &["--listen", &address]);
    until(
        r#"sum(mqtt_persistence_records{kind="command"})"#,
        |waiting| waiting > 50.0,
    );
    until("mqtt_persistence_store_queued_messages", |waiting| {
        waiting > 50.0
    });
    until(
        r#"mqtt_persistence_oldest_record_age_seconds{kind="command"}"#,
        |age| age > 0.5,
    );
    broker.restart();
    until(
        r#"sum(mqtt_persistence_records{kind="command"})"#,
        |waiting| waiting < 10.0,
    );
    until("sum(mqtt_persistence_operation_errors_total)", |errors| {
        errors.abs() < 0.5
    });
    eventually(LIMIT, "the device is up", || {
        run.log().contains("broker up").then_some(())
    });
}
