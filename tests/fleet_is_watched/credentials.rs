//! A real Prometheus scrapes the endpoint with each kind of credentials.

use std::{fs, net::SocketAddr};

use paho_mqtt::ClientPersistence;
use paho_mqtt_redis::{
    MemoryPersistence, MetricsServer, MetricsServerBuilder, PersistenceMetrics,
    prometheus::Registry,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    LIMIT, Prometheus,
    certificates::{make_authority, make_certificate},
    eventually_queried,
};

/// Job with the server that it scrapes, the expected admission, and its credentials.
type Job = (&'static str, SocketAddr, bool, Value);

fn jobs(servers: [SocketAddr; 4], token: &str, tls_configs: &[Value; 2]) -> [Job; 10] {
    let [bearer, basic, both, certified] = servers;
    let [known, trust] = tls_configs;
    [
        (
            "bearer",
            bearer,
            true,
            json!({ "authorization": { "credentials_file": token } }),
        ),
        (
            "bearer wrong",
            bearer,
            false,
            json!({ "authorization": { "credentials": "other" } }),
        ),
        ("bearer none", bearer, false, json!({})),
        (
            "basic",
            basic,
            true,
            json!({ "basic_auth": { "username": "me", "password": "secret" } }),
        ),
        (
            "basic wrong",
            basic,
            false,
            json!({ "basic_auth": { "username": "me", "password": "x" } }),
        ),
        (
            "tls",
            both,
            true,
            json!({ "scheme": "https", "tls_config": trust, "authorization": { "credentials": "t0ken" } }),
        ),
        (
            "tls none",
            both,
            false,
            json!({ "scheme": "https", "tls_config": trust }),
        ),
        (
            "tls untrusted",
            both,
            false,
            json!({ "scheme": "https", "authorization": { "credentials": "t0ken" } }),
        ),
        (
            "certificate",
            certified,
            true,
            json!({ "scheme": "https", "tls_config": known }),
        ),
        (
            "certificate none",
            certified,
            false,
            json!({ "scheme": "https", "tls_config": trust }),
        ),
    ]
}

#[test]
fn prometheus_is_admitted_with_right_credentials_only() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    make_authority(folder.path(), "authority");
    make_certificate(folder.path(), "authority", "server");
    make_certificate(folder.path(), "authority", "client");
    fs::write(file("token"), "t0ken\n").unwrap();

    let registry = Registry::new();
    let metrics = PersistenceMetrics::register(&registry).unwrap();
    let mut persistence = MemoryPersistence::new().instrument(&metrics);
    persistence.open("device-1", "uri").unwrap();
    let start = |set: &dyn Fn(MetricsServerBuilder) -> MetricsServerBuilder| {
        set(MetricsServer::builder(registry.clone()))
            .bind("127.0.0.1:0")
            .unwrap()
    };
    let tls = |builder: MetricsServerBuilder| builder.tls(file("server.crt"), file("server.key"));
    let trust = json!({ "ca_file": file("authority.crt") });
    let known = json!({
        "ca_file": file("authority.crt"),
        "cert_file": file("client.crt"),
        "key_file": file("client.key"),
    });
    let bearer = start(&|builder| builder.bearer_token_file(file("token")));
    let basic = start(&|builder| builder.basic_auth("me", "secret"));
    let both = start(&|builder| tls(builder).bearer_token("t0ken"));
    let certified = start(&|builder| tls(builder).tls_client_authority(file("authority.crt")));
    let trusted = [known, trust];
    let servers = [&bearer, &basic, &both, &certified].map(|server| server.local_addr().unwrap());
    let jobs = jobs(servers, &file("token"), &trusted);
    let configs = jobs.iter().map(|(name, server, _, settings)| {
        let mut config = json!({
            "job_name": name,
            "static_configs": [{ "targets": [server.to_string()] }],
        });
        for (setting, value) in settings.as_object().unwrap() {
            config[setting] = value.clone();
        }
        config
    });
    let config = json!({
        "global": { "scrape_interval": "500ms", "scrape_timeout": "500ms" },
        "scrape_configs": configs.collect::<Vec<_>>(),
    });
    fs::write(file("prometheus.yml"), config.to_string()).unwrap();
    let prometheus = Prometheus::configured(&folder.path().join("prometheus.yml"));
    for (name, _, is_admitted, _) in &jobs {
        // The maximum over time, since some scrapes time out on a busy machine.
        let up = format!("max_over_time(up{{job=\"{name}\"}}[5m])");
        let expected = f64::from(u8::from(*is_admitted));
        let up = eventually_queried(LIMIT, name, || {
            prometheus.value(&up).filter(|up| *up >= expected)
        });
        assert_eq!(
            Some(up),
            Some(expected),
            "{name}: {}",
            prometheus.get("targets")
        );
        let series = format!(
            "last_over_time(mqtt_persistence_store_up{{job=\"{name}\",client_id=\"device-1\"}}[5m])"
        );
        assert_eq!(prometheus.value(&series).is_some(), *is_admitted, "{name}");
    }
    assert_eq!(prometheus.value("count(up)"), Some(10.0));
}
