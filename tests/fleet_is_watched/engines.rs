//! `VictoriaMetrics`, its agent and its ruler, and a Prometheus above those of two regions, with the configuration of
//! `dashboards/provisioning/`. `scripts/fleet` does the same with up to thousands of devices, and for hours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{
    Alertmanager, Prometheus,
    dashboard::{Dashboard, Query, array, fill, path, read, text},
    eventually_queried,
    fleet::{
        Fleet,
        agent::{Kind, written},
        comparison::{Engines, write_sample},
        device::Device,
        observer::{Observer, SCRAPE_INTERVAL, prepare},
        outages::{Outage, store},
    },
    now,
    rules::{self, REGION_ALERTS, yaml},
    runbook::Shell,
};

/// Divisor of the times of the rules. What is written to a `VictoriaMetrics` can be read after a second, whatever the factor.
const FACTOR: u32 = 60;
const GROWING: &str = "MqttPersistenceBacklogGrowing";
const LIMIT: Duration = Duration::from_secs(90);
/// Interval between two messages of a device.
const INTERVAL: Duration = Duration::from_millis(100);
/// Scrape interval of the engines under comparison, twice that of the factor: both scrape every series of the full profile.
const COMPARED_INTERVAL: Duration = Duration::from_millis(500);
/// Value of `$__rate_interval`: twenty scrapes, so that the share of one at either end, which engines count differently, is small.
const RATE_INTERVAL: Duration = Duration::from_secs(10);
/// Panels and annotations without data: the devices have no limits and no connections of Paho, answer, did not restart, and lost
/// nothing, and Paho got no errors.
const EMPTY: &[&str] = &[
    "How full",
    "Broker up",
    "Connections and failed attempts",
    "Restarts",
    "Refused messages",
    "Dropped records",
    "Set aside and gone",
    "Errors",
    "Failing stores",
    "Lost records",
    "Devices that do not report",
    "Backlogs without a program",
    "Nearest to a limit",
];

/// Repeats until there is no difference: a late scrape on a busy machine makes one.
#[track_caller]
fn until_same(engines: &Engines, board: &'static str, may_differ: impl Fn(&Query) -> Option<f64>) {
    let started = Instant::now();
    loop {
        let mut found = engines.compare(board, RATE_INTERVAL);
        for series in found.iter_mut().flat_map(|compared| &mut compared.only) {
            series.retain(|labels| {
                let is = |label, value: &str| labels.get(label).is_some_and(|is| is == value);
                // A late scrape makes the first start again, half a minute late here. An alert is pending for a few evaluations, which the
                // engines make at different times.
                !is("alertname", GROWING) && !is("alertstate", "pending")
            });
        }
        // Nothing else may be missing from both: two empty results would always be the same.
        found.retain(|compared| !(compared.is_empty() && EMPTY.contains(&&*compared.query.of)));
        found.retain(|compared| match may_differ(&compared.query) {
            Some(share) => !compared.is_within(share),
            None => !compared.is_within(f64::INFINITY),
        });
        if found.is_empty() {
            return;
        }
        assert!(started.elapsed() < LIMIT, "{found:#?}");
        thread::park_timeout(Duration::from_millis(500));
    }
}

/// Repeats until a value is the expected one.
#[track_caller]
fn until_equal<T: PartialEq + Debug>(expected: &T, mut find: impl FnMut() -> T) {
    let started = Instant::now();
    loop {
        let found = find();
        if found == *expected {
            return;
        }
        assert!(
            started.elapsed() < LIMIT,
            "{found:#?} instead of {expected:#?}"
        );
        thread::park_timeout(Duration::from_millis(200));
    }
}

/// Names of the alerts that an Alertmanager has, each with its device and true if another one inhibits it.
fn notified(alertmanager: &Alertmanager) -> BTreeSet<(String, String, bool)> {
    let alerts = alertmanager.get("alerts");
    let alerts = array(&alerts).iter().map(|alert| {
        let [name, instance] = ["alertname", "instance"].map(|label| text(&alert["labels"][label]));
        let is_inhibited = !array(&alert["status"]["inhibitedBy"]).is_empty();
        (name.to_owned(), instance.to_owned(), is_inhibited)
    });
    alerts.collect()
}

#[test]
fn victoria_metrics_agrees_with_prometheus() {
    let fleet = Fleet::start(5, false, INTERVAL);
    let outages = fleet.begin_outages(7);
    let engines = Engines::start(&fleet.targets, FACTOR, COMPARED_INTERVAL);
    for engine in engines.both() {
        eventually_queried(LIMIT, "all devices are scraped", || {
            let devices = r#"job:mqtt_persistence_devices:count{job="mqtt-devices"} == 5"#;
            engine.prometheus.value(devices)
        });
    }
    // Each has the buckets in its own form.
    let bucket = |engine: &Observer, le: &str| {
        engine.prometheus.value(&format!(
            r#"mqtt_persistence_value_size_bytes_bucket{{job="mqtt-devices",le="{le}"}}"#
        ))
    };
    for (engine, expected) in engines.both().into_iter().zip(["1024.0", "1024"]) {
        let found = ["1024", "1024.0"].map(|le| bucket(engine, le).map(|_| le));
        assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), [expected]);
    }

    let firing = BTreeMap::from([
        (
            "MqttPersistenceStoreDown".to_owned(),
            outages.stores.clone(),
        ),
        (
            "MqttPersistenceBacklogOld".to_owned(),
            outages.links.clone(),
        ),
    ]);
    for engine in engines.both() {
        until_equal(&firing, || {
            let mut devices = engine.of_devices();
            // Fires for the same devices once the outage has lasted long enough.
            devices.remove(GROWING);
            devices
        });
    }
    let (_, alertmanager) = engines.victoria.vmalert.as_ref().expect("it runs");
    let mut expected = BTreeSet::new();
    for (name, devices, of_fleet) in [
        ("StoreDown", &outages.stores, "FleetStoresFailing"),
        ("BacklogOld", &outages.links, "FleetBacklogOld"),
    ] {
        let prefixed = |name: &str| format!("MqttPersistence{name}");
        expected.insert((prefixed(of_fleet), String::new(), false));
        expected.extend(
            devices
                .iter()
                .map(|one| (prefixed(name), one.clone(), true)),
        );
    }
    // On a busy machine not all alerts are there at once.
    let mut seen = BTreeSet::new();
    until_equal(&expected, || {
        seen.extend(notified(alertmanager));
        seen.intersection(&expected).cloned().collect()
    });
    // From the same samples both return the same numbers, except for changes over time, to which VictoriaMetrics counts those before
    // the first sample and Prometheus what it extrapolates. VictoriaMetrics rounds times since 1970 to some microseconds.
    until_same(&engines, "device", |query| {
        let changes = ["rate(", "increase(", "changes("];
        let mut changes = changes.iter();
        let is_change = changes.any(|name| query.expression.contains(name));
        let is_time = query.expression.contains("timestamp_seconds");
        (!is_change).then_some(if is_time { 1e-3 } else { 1e-9 })
    });
    // Each has scraped the devices itself. Errors and slow calls are few: each weighs much in the sample that has it.
    until_same(&engines, "fleet", |query| {
        let rare = ["errors", "put_duration"];
        let is_rare = rare.iter().any(|name| query.expression.contains(name));
        (!is_rare).then_some(0.25)
    });
}

/// Prometheus needs two samples for an increase. `VictoriaMetrics` 1.79.5 takes up to 9 in the first sample for an increase from 0.
#[test]
fn victoria_metrics_counts_old_losses_as_new() {
    let dir = TempDir::new().expect("a folder");
    let store = store(dir.path(), FACTOR);
    let lost = |instance: &str| {
        format!(r#"mqtt_persistence_store_lost_records_total{{instance="{instance}"}}"#)
    };
    for _ in 0..2 {
        write_sample(&store, &lost("few"), 9);
        write_sample(&store, &lost("many"), 10);
        eventually_queried(LIMIT, "the sample is found", || {
            let found = store.query_at(&lost("many"), now());
            found.pointer("/data/result/0").map(|_| ())
        });
    }
    let rule = "instance_client_id:mqtt_persistence_lost_records:increase15m";
    let rule = rules::load().iter().find(|one| one["record"] == rule);
    let rule = text(&rule.expect("a rule")["expr"]);
    let expected = vec![("few".to_owned(), "9".to_owned())];
    until_equal(&expected, || {
        let found = store.query_at(rule, now());
        let found = array(&found["data"]["result"]).iter();
        let found = found.map(|one| [&one["metric"]["instance"], &one["value"][1]]);
        found
            .map(|one| one.map(|it| text(it).to_owned()).into())
            .collect()
    });
}

#[test]
fn agents_lose_nothing_in_short_link_outage() {
    let dir = TempDir::new().expect("a folder");
    let store = store(dir.path(), FACTOR);
    let device = Device::start("a", true);
    let port = device.address().port();
    let outage = |kind, restarts| Outage {
        kind,
        length: Duration::from_secs(5),
        restarts,
        factor: FACTOR,
    };
    let outages = [
        ("prometheus", outage(Kind::Prometheus, false)),
        ("vmagent", outage(Kind::Vmagent, false)),
        ("restarted", outage(Kind::Vmagent, true)),
    ];
    thread::scope(|scope| {
        let store = &store;
        let running = outages
            .map(|(name, outage)| scope.spawn(move || (name, outage.run(name, port, store))));
        for outcome in running {
            let (name, outcome) = outcome.join().expect("no panic");
            // One at either end may be in transit, and one is cut off by the restart.
            let cut_off = u64::from(outcome.outage.restarts);
            let (scrapes, arrived) = (outcome.scrapes, outcome.arrived);
            assert!(scrapes >= 8, "{name}: {scrapes} scrapes");
            assert!(arrived + 1 + cut_off >= scrapes, "{name}: {outcome}");
        }
    });
}

/// Starts the Prometheus of a region, with the rules and the label `region`.
fn regional(dir: &Path, region: &str, fleet: &Fleet, alertmanager: &Alertmanager) -> Prometheus {
    let mut config = prepare(dir, &fleet.targets, FACTOR);
    config["global"]["external_labels"] = json!({ "region": region });
    config["alerting"] = json!({
        "alertmanagers": [{ "static_configs": [{ "targets": [alertmanager.address()] }] }],
    });
    Prometheus::configured(&written(dir, "prometheus.yml", &config))
}

/// Starts the global Prometheus with its provisioned configuration, its times divided.
fn global(dir: &Path, regions: [&Prometheus; 2], alertmanager: &Alertmanager) -> Prometheus {
    let mut config = yaml("provisioning/federation/prometheus.yml");
    let interval = (SCRAPE_INTERVAL * 2 / FACTOR).as_millis();
    for name in ["scrape_interval", "scrape_timeout", "evaluation_interval"] {
        config["global"][name] = json!(format!("{interval}ms"));
    }
    let targets = regions.map(Prometheus::address);
    config["scrape_configs"][0]["static_configs"][0]["targets"] = json!(targets);
    let notified = json!([alertmanager.address()]);
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = notified;
    fs::create_dir(dir.join("rules")).expect("a folder");
    let rules = read(REGION_ALERTS).replace("for: 5m", "for: 1s");
    fs::write(dir.join("rules/mqtt-regions.yml"), rules).expect("can be written");
    Prometheus::configured(&written(dir, "prometheus.yml", &config))
}

/// Values of a query by region.
fn by_region(global: &Prometheus, expression: &str) -> BTreeMap<String, f64> {
    let answer: Value = global.query(expression);
    let series = array(&answer["data"]["result"]).iter();
    series
        .map(|series| {
            let value = text(&series["value"][1]).parse().expect("a number");
            (text(&series["metric"]["region"]).to_owned(), value)
        })
        .collect()
}

#[test]
fn global_prometheus_adds_up_regions() {
    let folders = [(); 3].map(|()| TempDir::new().expect("a folder"));
    let fleets = [4, 3].map(|devices| Fleet::start(devices, true, INTERVAL));
    // In one region the stores of a fleet fail, in the other that of one device.
    fleets[0].begin_outages(7);
    fleets[1].begin_outage();
    let alertmanager = Alertmanager::start(&path("provisioning/alertmanager/alertmanager.yml"));
    let asia = regional(folders[0].path(), "asia", &fleets[0], &alertmanager);
    let mut europe = regional(folders[1].path(), "europe", &fleets[1], &alertmanager);
    let global = global(folders[2].path(), [&asia, &europe], &alertmanager);
    let regions =
        |asia, europe| BTreeMap::from([("asia".to_owned(), asia), ("europe".to_owned(), europe)]);
    until_equal(&regions(4.0, 3.0), || {
        by_region(&global, "job:mqtt_persistence_devices:count")
    });

    until_equal(&regions(2.0, 1.0), || {
        by_region(&global, "job:mqtt_persistence_failing_store_devices:count")
    });
    let total = Dashboard::load("fleet").queries();
    let total = total.iter().find(|query| query.of == "Stores failing");
    let total = fill(&total.expect("a panel").expression, &[], "1m", "1h");
    assert_eq!(global.value(&total), Some(3.0));
    // It has no series of single devices but those of the largest backlogs.
    let devices =
        r#"{instance=~"device-.+",__name__!~"ALERTS.*|.+:mqtt_persistence_backlog.*:topk"}"#;
    assert_eq!(global.value(devices), None);
    eventually_queried(LIMIT, "it has the table of backlogs and the alerts", || {
        global.value("instance_client_id:mqtt_persistence_backlog_messages:topk")?;
        global.value(r#"ALERTS{alertname="MqttPersistenceFleetStoresFailing",region="asia"}"#)
    });
    // The alert about the fleet of one region inhibits none of the other.
    until_equal(&(vec![true, true], vec![false]), || {
        let alerts = alertmanager.get("alerts");
        let inhibited = |region: &str| {
            let alerts = array(&alerts).iter();
            let stores = alerts.filter(|alert| {
                let labels = &alert["labels"];
                labels["alertname"] == "MqttPersistenceStoreDown" && labels["region"] == region
            });
            let inhibited = stores.map(|alert| !array(&alert["status"]["inhibitedBy"]).is_empty());
            inhibited.collect::<Vec<_>>()
        };
        (inhibited("asia"), inhibited("europe"))
    });

    europe.stop();
    eventually_queried(LIMIT, "the global one reports the region", || {
        let alerts = notified(&alertmanager);
        let mut alerts = alerts.iter();
        alerts
            .find(|(name, instance, _)| {
                name == "MqttPersistenceRegionDown" && *instance == europe.address()
            })
            .map(|_| ())
    });
    let variables = [
        ("PROMETHEUS", format!("http://{}", global.address())),
        ("REGION", europe.address()),
    ];
    let mut shell = Shell::new(&variables, &[]);
    let section = "MqttPersistenceRegionDown";
    shell.follow(section, |_| (), |asked| panic!("systemctl {asked}"));
}
