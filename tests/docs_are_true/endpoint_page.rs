//! docs/endpoint.md matches the options and limits of the metrics server.

use paho_mqtt_redis::{MetricsServer, prometheus::Registry};

use super::page::{ENDPOINT, code, setters};

const MARKER: &str = "`MetricsServer::builder(registry)`:";

#[test]
fn server_option_table_matches_builder() {
    assert_eq!(
        ENDPOINT.first_column(MARKER, "option"),
        setters(include_str!("../../src/server/builder.rs"))
    );
}

#[test]
fn server_limits_match_table() {
    let defaults = format!("{:?}", MetricsServer::builder(Registry::new()));
    let limits = ENDPOINT.table(MARKER, "option");
    for row in limits.iter().filter(|row| row[1] != "none") {
        let value = row[1].replace("8 KiB", "8192").replace("5 s", "5s");
        let expected = format!("{}: {value}", code(&row[0]).remove(0));
        assert!(defaults.contains(&expected), "{expected} in {defaults}");
    }
}
